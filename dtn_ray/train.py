"""Ray Train: trains the DTN (Sec. 4), data-parallel, resumable at any step."""

import copy
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from dtn_ray import checkpoint, data, losses, storage
from dtn_ray.cluster import Finished, connect, report, run_training, use_assigned_cpus
from dtn_ray.config import Experiment, Run, classifier_of, fingerprint, to_dict
from dtn_ray.data.augment import augment
from dtn_ray.data.labelled import LabelledImages, to_float
from dtn_ray.data.order import batch_indices, step_seed, worker_slice
from dtn_ray.dtn import DTNTrainer, FrozenF, collapse_warning, feature_scale, recalibrate
from dtn_ray.errors import UserError
from dtn_ray.models.digits import DigitF
from dtn_ray.models.layers import synchronise_batch_norm
from dtn_ray.pretrain import pretrain
from dtn_ray.progress import Progress

# The order of t differs from that of s; with one seed for both, equal sizes would pair the sets up.
T_STREAM = 1_000_003


@dataclass(frozen=True)
class Inputs:
    """What every worker of a DTN training shares, as references into Ray's object store."""

    s: ray.ObjectRef
    t: ray.ObjectRef
    s_validation: ray.ObjectRef
    f: ray.ObjectRef
    judge: ray.ObjectRef


def train(experiment: Experiment, run: Run) -> Finished:
    """Trains a DTN, and before it f and the judge where no checkpoints of them are given.

    The same call goes on where an earlier one stopped, and gives an uninterrupted run's weights. Raises UserError for
    bad settings, files or resources.
    """
    optim = experiment.optim
    if run.workers < 1 or optim.batch_size < 1:
        raise UserError("--workers and --batch-size must be at least 1")
    if optim.batch_size % run.workers:
        raise UserError(f"--batch-size {optim.batch_size} does not divide among --workers {run.workers}")
    if experiment.model.binary and (experiment.loss.beta or experiment.loss.d2 == "gan"):
        raise UserError("--binary is the baseline of Sec. 3, which has no L_TID: it needs --beta 0 and --d2 mse")
    s, t = load_domains(experiment)
    s, s_validation = s.split_off(experiment.data.validation, experiment.seed)
    if not len(s_validation):
        raise UserError(
            f"nothing to validate on: --validation {experiment.data.validation} must be at least 1, and s hold at "
            f"least 10 images (it has {len(s)})"
        )
    name = run.name or f"dtn-{experiment.data.source}-{experiment.data.target}-{fingerprint(experiment)}"
    inner = replace(run, storage=storage.join(run.storage, name))

    # f and the judge: given, or trained first inside this run's folder.
    given = {
        role: checkpoint.load_classifier(uri)
        for role, uri in (("f", experiment.model.f), ("judge", experiment.model.judge))
        if uri
    }
    f_network, f_manifest = given.get("f") or checkpoint.load_classifier(_pretrained(experiment, inner, "f"))
    judge, judge_manifest = given.get("judge") or checkpoint.load_classifier(_pretrained(experiment, inner, "judge"))
    scale = 1.0
    if experiment.model.feature_scale == "unit":
        scale = feature_scale(f_network, to_float(s.images[:4096]))
    facts = {
        "f": f_manifest["config"],
        "f_test_error": f_manifest["metrics"].get("test_error"),
        "f_digest": checkpoint.digest(f_network),
        "judge": judge_manifest["config"],
        "feature_scale": scale,
        "s_images": len(s),
        "t_images": len(t),
    }
    print(f"s: {len(s)} images, t: {len(t)} images, f: test error {facts['f_test_error']}, scale {scale:.3f}")

    connect()
    inputs = Inputs(*(ray.put(value) for value in (s, t, s_validation, FrozenF(f_network, scale), judge)))
    config = {"experiment": experiment, "run": run, "inputs": inputs, "facts": facts, "folder": inner.storage}
    identity = {"kind": "dtn", "config": to_dict(experiment), "f": facts["f_digest"]}
    return run_training(_loop, config, run, name, identity)


def load_domains(experiment: Experiment) -> tuple[LabelledImages, LabelledImages]:
    """s and t of an experiment, less the classes left out. Raises UserError for missing or damaged data."""
    chosen = experiment.data
    s = data.load(chosen.source, chosen.source_split, chosen.data_dir, download=chosen.download)
    t = data.load(chosen.target, chosen.target_split, chosen.data_dir, download=chosen.download)
    return s.without(chosen.s_without), t.without(chosen.t_without)


def _pretrained(experiment: Experiment, run: Run, role: str) -> str:
    """The checkpoint of f or of the judge, trained under this run's folder."""
    chosen = experiment.data
    dataset = chosen.source if role == "f" else chosen.target
    config = classifier_of(dataset, chosen, experiment.model, experiment.seed, judge=role == "judge")
    return pretrain(config, replace(run, name=role)).checkpoint


def _loop(settings: dict[str, Any]) -> None:
    experiment: Experiment = settings["experiment"]
    run: Run = settings["run"]
    optim, seed = experiment.optim, experiment.seed
    inputs: Inputs = settings["inputs"]
    s, t, s_validation = (ray.get(ref) for ref in (inputs.s, inputs.t, inputs.s_validation))
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    use_assigned_cpus()

    # Networks, the same on every worker.
    torch.manual_seed(seed)
    dtn = checkpoint.build_dtn(experiment, copy.deepcopy(ray.get(inputs.f)))
    judge: DigitF = copy.deepcopy(ray.get(inputs.judge)).to(device)
    if workers > 1:
        dtn.g, dtn.D = synchronise_batch_norm(dtn.g, device), synchronise_batch_norm(dtn.D, device)
        dtn.D2 = dtn.D2 and synchronise_batch_norm(dtn.D2, device)

    def data_parallel(network: nn.Module) -> nn.Module:
        return ray.train.torch.prepare_model(network, parallel_strategy_kwargs={"broadcast_buffers": False})

    trainer = DTNTrainer(dtn, experiment.loss, optim, device, data_parallel if workers > 1 else None)

    # Resume.
    start = 0
    if (last := ray.train.get_checkpoint()) is not None:
        with last.as_directory() as path:
            start = _restore(Path(path), trainer)

    logs = tempfile.mkdtemp(prefix="dtn-logs-") if rank == 0 else ""
    board = SummaryWriter(logs) if rank == 0 else None
    progress = Progress("dtn", start, optim.steps, optim.batch_size, quiet=rank > 0)

    for step in range(start, optim.steps):
        # One global batch of s and one of t, cut into the workers' shares.
        torch.manual_seed(step_seed(seed, step, rank))
        s_indices = worker_slice(batch_indices(len(s), optim.batch_size, step, seed), rank, workers)
        t_indices = worker_slice(batch_indices(len(t), optim.batch_size, step, seed + T_STREAM), rank, workers)
        s_batch = augment(to_float(s.images[s_indices]), experiment.data.augment_s)
        terms = trainer.step(s_batch, to_float(t.images[t_indices]), step)

        # Log.
        done = step + 1
        if board is not None and done % run.log_every == 0:
            values = {name: value.item() for name, value in terms.items()}
            rate = progress.update(done, values)
            for name, value in (values | {"images_per_second": rate}).items():
                board.add_scalar(name, value, done)
            warning = collapse_warning(values.get("L_d", 0.0), values["L_gan_g"])
            if warning and not experiment.model.binary:
                print(f"warning: {warning}", flush=True)

        # Validate and save.
        if done % run.checkpoint_every == 0 or done == optim.steps:
            metrics: dict[str, Any] = {"step": done, "resumed_at": start}
            metrics |= {name: value.item() for name, value in terms.items()}
            if board is None:
                report(metrics)
                continue
            g_convert = for_conversion(experiment, trainer, s)
            validation = validate(trainer, g_convert, judge, s_validation, board, done)
            progress.update(done, validation)
            metrics |= validation
            board.flush()
            storage.copy_folder(logs, storage.join(settings["folder"], "tensorboard"))
            report(metrics, partial(_save, experiment, trainer, g_convert, judge, settings["facts"] | metrics))
    if board is not None:
        board.close()
        shutil.rmtree(logs)


def for_conversion(experiment: Experiment, trainer: DTNTrainer, s: LabelledImages, images: int = 2048) -> nn.Module:
    """g as it is used after training, in eval mode: its average where there is one, batch norm recalibrated on s."""
    source = trainer.ema.module if trainer.ema is not None else trainer.dtn.g
    g = checkpoint.build_dtn(experiment, trainer.dtn.f).g.to(trainer.device)
    g.load_state_dict(source.state_dict())
    batches = to_float(s.images[:images]).to(trainer.device)
    inputs = torch.cat([trainer.dtn.f(batch) for batch in batches.split(500)]) if trainer.dtn.with_f else batches
    recalibrate(g, inputs)
    return g.eval()


@torch.no_grad()
def validate(
    trainer: DTNTrainer, g: nn.Module, judge: DigitF, s: LabelledImages, board: SummaryWriter, step: int
) -> dict[str, float]:
    """L_CONST on held-out images of s, the paper's signal for choosing α, β, γ, and the judge's accuracy on G(s)."""
    x = to_float(s.images).to(trainer.device)
    f_x = trainer.dtn.f(x)
    G_x = g(f_x if trainer.dtn.with_f else x)
    metrics = {
        "validation_L_const": losses.L_const(f_x, trainer.dtn.f(G_x)).item(),
        "validation_accuracy": (judge(G_x).argmax(1).cpu().numpy() == s.labels).mean().item(),
    }
    for name, value in metrics.items():
        board.add_scalar(name, value, step)
    pairs = torch.stack([images[:32].expand(-1, 3, -1, -1) for images in (x, G_x)], dim=1).flatten(0, 1)
    board.add_image("s and G(s)", make_grid(pairs, nrow=16, normalize=True, value_range=(-1, 1)), step)
    return metrics


def _save(
    experiment: Experiment,
    trainer: DTNTrainer,
    g_convert: nn.Module,
    judge: DigitF,
    facts: dict[str, Any],
    folder: Path,
) -> None:
    dtn = trainer.dtn
    networks: dict[str, nn.Module] = {"f": dtn.f, "g": dtn.g, "D": dtn.D, "g_convert": g_convert, "judge": judge}
    if dtn.D2 is not None:
        networks["D2"] = dtn.D2
    if trainer.ema is not None:
        networks["g_ema"] = trainer.ema
    checkpoint.save_optimizers(folder, trainer.optimizers)
    checkpoint.save(folder, "dtn", experiment, networks, **facts)


def _restore(folder: Path, trainer: DTNTrainer) -> int:
    """Fills networks and optimisers from a checkpoint, and returns the number of steps done."""
    networks: dict[str, nn.Module | None] = {"g": trainer.dtn.g, "D": trainer.dtn.D, "D2": trainer.dtn.D2}
    for name, network in (networks | {"g_ema": trainer.ema}).items():
        if network is not None:
            checkpoint.load_weights(network, folder, name)
    checkpoint.load_optimizers(folder, trainer.optimizers)
    return checkpoint.read_manifest(folder, "dtn")["step"]
