"""What each worker of a DTN training does."""

import copy
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import nn

from dtn_ray import storage
from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.order import step_seed
from dtn_ray.data.streamed import Streamed
from dtn_ray.method.augment import augment
from dtn_ray.method.dtn import DTNTrainer, collapse_warning
from dtn_ray.method.pixels import to_float
from dtn_ray.metrics import TrainingMetrics
from dtn_ray.models.layers import synchronise_batch_norm
from dtn_ray.models.perceptual import Perceptual
from dtn_ray.progress import Progress
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.report import of_all_workers, report, use_assigned_cpus
from dtn_ray.train.domains import build_dtn
from dtn_ray.train.measure import for_conversion, measure, show
from dtn_ray.train.options import Experiment
from dtn_ray.train.prepare import Inputs


def loop(settings: dict[str, Any]) -> None:
    experiment: Experiment = settings["experiment"]
    run: Run = settings["run"]
    optim, seed = experiment.optim, experiment.seed
    inputs: Inputs = settings["inputs"]
    feed, calibration, validation, labels, of_t = (
        ray.get(ref) for ref in (inputs.feed, inputs.calibration, inputs.validation, inputs.labels, inputs.of_t)
    )
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    use_assigned_cpus()

    # Networks, the same on every worker.
    torch.manual_seed(seed)
    dtn = build_dtn(experiment, copy.deepcopy(ray.get(inputs.f)))
    judge: Perceptual | None = copy.deepcopy(ray.get(inputs.judge))
    judge = judge and judge.to(device)
    if workers > 1:
        dtn.g, dtn.D = synchronise_batch_norm(dtn.g, device), synchronise_batch_norm(dtn.D, device)
        dtn.D2 = dtn.D2 and synchronise_batch_norm(dtn.D2, device)

    def data_parallel(network: nn.Module) -> nn.Module:
        return ray.train.torch.prepare_model(network, parallel_strategy_kwargs={"broadcast_buffers": False})

    trainer = DTNTrainer(dtn, experiment.loss, optim, device, data_parallel if workers > 1 else None)

    # Resume.
    before: list[tuple[int, int]] = []
    if (last := ray.train.get_checkpoint()) is not None:
        with last.as_directory() as path:
            before = _restore(Path(path), trainer)
    start = sum(steps for _, steps in before)

    from torch.utils.tensorboard import SummaryWriter  # half a second to import, which drivers would pay too

    logs = tempfile.mkdtemp(prefix="dtn-logs-") if rank == 0 else ""
    board = SummaryWriter(logs) if rank == 0 else None
    exported = TrainingMetrics(context.get_experiment_name())
    progress = Progress("dtn", start, optim.steps, optim.batch_size, quiet=rank > 0 or settings["quiet"])

    batches = feed.batches(before, rank, workers, optim.batch_size, seed)
    for step in range(start, optim.steps):
        # This worker's shares of a global batch of s and of one of t.
        s, t = next(batches)
        torch.manual_seed(step_seed(seed, step, rank))
        terms = trainer.step(augment(to_float(s), experiment.data.augment_s), to_float(t), step)

        # Log.
        done = step + 1
        if board is not None and done % run.log_every == 0:
            values = {name: value.item() for name, value in terms.items()}
            rate = progress.update(done, values)
            for name, value in (values | {"images_per_second": rate}).items():
                board.add_scalar(name, value, done)
            exported.log(done, rate, values)
            rested = experiment.loss.D_has_rested(step)
            warning = collapse_warning(values.get("L_d", 0.0), values.get("L_gan_g", 0.0), rested)
            if warning and not experiment.model.binary and not settings["quiet"]:
                print(f"warning: {warning}", flush=True)

        # Validate and save.
        if done % run.checkpoint_every == 0 or done == optim.steps:
            metrics: dict[str, Any] = {"step": done, "resumed_at": start}
            metrics |= {name: value.item() for name, value in terms.items()}
            if isinstance(feed, Streamed):
                metrics["bad_rows"] = len(of_all_workers(feed.bad_rows.found))
            if board is None:
                report(metrics)
                continue
            g_convert = for_conversion(experiment, trainer, calibration)
            found, pairs = measure(trainer.dtn, g_convert, judge, validation, labels, of_t)
            show(found, pairs, board, done)
            exported.validated(found)
            progress.update(done, found)
            metrics |= found
            board.flush()
            storage.copy_folder(logs, storage.join(settings["folder"], "tensorboard"), root=settings["folder"])
            facts = settings["facts"] | metrics | {"stages": [*before, (workers, done - start)]}
            report(metrics, partial(_save, experiment, trainer, g_convert, judge, facts))
    if board is not None:
        board.close()
        shutil.rmtree(logs)


def _save(
    experiment: Experiment,
    trainer: DTNTrainer,
    g_convert: nn.Module,
    judge: nn.Module | None,
    facts: dict[str, Any],
    folder: Path,
) -> None:
    dtn = trainer.dtn
    networks: dict[str, nn.Module] = {"f": dtn.f, "g": dtn.g, "D": dtn.D, "g_convert": g_convert}
    if judge is not None:
        networks["judge"] = judge
    if dtn.D2 is not None:
        networks["D2"] = dtn.D2
    if trainer.ema is not None:
        networks["g_ema"] = trainer.ema
    checkpoint.save_optimizers(folder, trainer.optimizers)
    checkpoint.save(folder, "dtn", experiment, networks, **facts)


def _restore(folder: Path, trainer: DTNTrainer) -> list[tuple[int, int]]:
    """Fills networks and optimisers from a checkpoint, and returns what was done, by numbers of workers and steps."""
    networks: dict[str, nn.Module | None] = {"g": trainer.dtn.g, "D": trainer.dtn.D, "D2": trainer.dtn.D2}
    for name, network in (networks | {"g_ema": trainer.ema}).items():
        if network is not None:
            checkpoint.load_weights(network, folder, name)
    checkpoint.load_optimizers(folder, trainer.optimizers)
    return [(workers, steps) for workers, steps in checkpoint.read_manifest(folder, "dtn", ("stages",))["stages"]]
