"""Ray Train: trains the DTN (Sec. 4), data-parallel, resumable at any step."""

import copy
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray.train import UserCallback
from torch import nn
from tqdm import tqdm

from dtn_ray import checkpoint, data, losses, storage
from dtn_ray.cluster import connect
from dtn_ray.config import Experiment, ModelConfig, Run, check, classifier_of, fingerprint
from dtn_ray.data import stream
from dtn_ray.data.augment import augment
from dtn_ray.data.bad_rows import BadRows
from dtn_ray.data.feed import InMemory
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.order import step_seed
from dtn_ray.data.pixels import to_float
from dtn_ray.dtn import DTN, DTNTrainer, FrozenF, Moments, collapse_warning, moments, recalibrate, transport
from dtn_ray.errors import UserError
from dtn_ray.evaluate.domain import kid
from dtn_ray.metrics import TrainingMetrics
from dtn_ray.models.layers import synchronise_batch_norm
from dtn_ray.pretrain import pretrain
from dtn_ray.progress import Progress
from dtn_ray.resumable import Finished, check_folder, of_all_workers, report, run_training, use_assigned_cpus
from dtn_ray.streaming import CPUS_TO_READ, Streamed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CALIBRATION = 2048  # images of s that give g's batch norm its statistics for conversion
SCALING = 4096  # … and that f's features are scaled by
AT_ONCE = 16  # … in batches that fit a CPU's cache: a MobileNet takes three times as long over 128
VALIDATION = 64  # at once
VALIDATION_T = 1024  # images of t that G(s) is compared with


@dataclass(frozen=True)
class Inputs:
    """What every worker of a DTN training shares, as references into Ray's object store."""

    feed: ray.ObjectRef
    """InMemory or Streamed."""
    calibration: ray.ObjectRef
    """A few images of s, N×C×H×W uint8."""
    validation: ray.ObjectRef
    """Images of s that are held out."""
    labels: ray.ObjectRef
    """Theirs, or None."""
    f: ray.ObjectRef
    judge: ray.ObjectRef
    """None where there are no labels to judge by."""
    of_t: ray.ObjectRef
    """What `domain_features` are of t, N×features."""


@dataclass(frozen=True)
class Ready:
    """What trainings on the same data with the same f may share; they may differ in losses, rates and seeds."""

    name: str
    """Of a run that has no --name."""
    inputs: Inputs
    facts: dict[str, Any]
    """For the manifest."""
    spare: float
    """CPUs that are left to reading."""


def train(experiment: Experiment, run: Run) -> Finished:
    """Trains a DTN, and before it the digits' f and judge where no checkpoints of them are given.

    The same call goes on where an earlier one stopped, and gives an uninterrupted run's weights. Raises UserError for
    bad settings, files or resources.
    """
    return fit(experiment, run, prepare(experiment, run))


def prepare(experiment: Experiment, run: Run) -> Ready:
    """Checks the settings, reads the data, makes f and measures it. Raises UserError for bad settings or files."""
    optim, model = experiment.optim, experiment.model
    run.check(optim.batch_size)
    if model.exaggeration != 1 and model.feature_scale not in ("per-domain", "transport"):
        raise UserError(
            f"--exaggeration {model.exaggeration} of what? Features need a mean to be far from: choose --feature-scale "
            "per-domain or transport"
        )
    if model.exaggeration <= 0:
        raise UserError(f"--exaggeration {model.exaggeration} must be above 0; 1 exaggerates nothing")
    if model.binary and (experiment.loss.beta or experiment.loss.d2 == "gan"):
        raise UserError("--binary is the baseline of Sec. 3, which has no L_TID: it needs --beta 0 and --d2 mse")
    check(experiment)
    prepared = (_prepare_faces if model.kind == "faces" else _prepare_digits)(experiment, run)
    f = _in_its_unit(prepared, model)
    of_t, of_s = (
        domain_features(f, prepared.judge, images) for images in (prepared.t[:VALIDATION_T], prepared.validation)
    )
    facts = prepared.facts | {"feature_scale": f.scale.item(), "KID_of_s": kid(of_s, of_t)}
    print(", ".join(f"{name} {value:.7g}" for name, value in facts.items() if isinstance(value, int | float)))

    connect(trains=True)
    s, held = prepared.s[:CALIBRATION], prepared.validation
    shared = (prepared.feed, s, held, prepared.labels, f, prepared.judge, of_t)
    spare = CPUS_TO_READ if isinstance(prepared.feed, Streamed) else 0
    return Ready(prepared.name, Inputs(*map(ray.put, shared)), facts, spare)


def fit(experiment: Experiment, run: Run, ready: Ready, callbacks: Sequence[UserCallback] = ()) -> Finished:
    """Trains a DTN on what `prepare` made, or goes on with it. Raises UserError for other settings or resources."""
    name = run.name or ready.name
    config = {
        "experiment": experiment,
        "run": run,
        "inputs": ready.inputs,
        "facts": ready.facts,
        "folder": storage.join(run.storage, name),
        "quiet": bool(callbacks),  # who is told of each report prints what is worth it
    }
    identity = {"kind": "dtn", "config": experiment, "f": ready.facts["f_digest"]}
    return run_training(_loop, config, run, name, identity, ready.spare, callbacks)


@dataclass(frozen=True)
class Prepared:
    """What a training needs of its domain."""

    name: str
    """Of the run."""
    feed: InMemory | Streamed
    s: np.ndarray
    """Some thousand of its images, N×C×H×W uint8."""
    t: np.ndarray
    """Of its own too."""
    validation: np.ndarray
    """Images of s that training does not see, N×C×H×W uint8."""
    labels: np.ndarray | None
    """Theirs."""
    f: nn.Module
    judge: nn.Module | None
    facts: dict[str, Any]
    """For the manifest."""


def _prepare_digits(experiment: Experiment, run: Run) -> Prepared:
    s, t = load_domains(experiment)
    s, held = s.split_off(experiment.data.validation, experiment.seed)
    if not len(held):
        raise UserError(
            f"nothing to validate on: --validation {experiment.data.validation} must be at least 1, and s hold at "
            f"least 10 images (it has {len(s)})"
        )
    name = run.name or f"dtn-{experiment.data.source}-{experiment.data.target}-{fingerprint(experiment)}"
    inner = replace(run, storage=storage.join(run.storage, name))
    check_folder(inner.storage)

    # f and the judge: given, or trained first inside this run's folder.
    given = {
        role: checkpoint.load_classifier(uri)
        for role, uri in (("f", experiment.model.f), ("judge", experiment.model.judge))
        if uri
    }
    f, f_manifest = given.get("f") or checkpoint.load_classifier(_pretrained(experiment, inner, "f"))
    judge, judge_manifest = given.get("judge") or checkpoint.load_classifier(_pretrained(experiment, inner, "judge"))
    facts = {
        "s_images": len(s),
        "t_images": len(t),
        "f": f_manifest["config"],
        "f_test_error": f_manifest.get("metrics", {}).get("test_error"),
        "f_digest": checkpoint.digest(f),
        "judge": judge_manifest["config"],
    }
    some_s, some_t = s.images[:SCALING], t.images[:SCALING]
    return Prepared(name, InMemory(s, t), some_s, some_t, held.images, held.labels, f, judge, facts)


def _prepare_faces(experiment: Experiment, run: Run) -> Prepared:
    chosen, model = experiment.data, experiment.model
    if model.f is None:
        raise UserError("faces need a face network as f: --f NETWORK.onnx, or a checkpoint of jobs/pretrain.py faces")
    if not (chosen.source and chosen.target):
        raise UserError(
            "faces need --source and --target: folders or s3:// prefixes of Parquet files with a column image, as "
            "jobs/ingest.py and jobs/make_emoji.py write them"
        )
    if model.binary or not model.with_f or experiment.loss.d2 == "gan":
        raise UserError("--binary, --no-with-f and --d2 gan are for the digits' tables")
    t = stream.find_groups(chosen.target)
    s, held = stream.hold_out(stream.find_groups(chosen.source), chosen.validation)
    if not held:
        raise UserError(f"nothing to validate on: --validation must be at least 1, and {chosen.source} hold 10 images")
    f, facts = checkpoint.load_face_network(model.f)
    name = run.name or f"dtn-faces-{fingerprint(experiment)}"
    validation = stream.sample(held, chosen.validation, chosen.size)["image"]
    some_s, some_t = (stream.sample(groups, SCALING, chosen.size)["image"] for groups in (s, t))
    facts = {"f": facts, "f_digest": checkpoint.digest(f)}
    facts |= {"s_images": stream.count_rows(s), "t_images": stream.count_rows(t)}
    feed = Streamed(s, t, chosen.size, BadRows(run.max_bad_rows))
    return Prepared(name, feed, some_s, some_t, validation, None, f, None, facts)


def _in_its_unit(prepared: Prepared, model: ModelConfig) -> FrozenF:
    feature_scale = model.feature_scale
    if feature_scale == "none":
        return FrozenF(prepared.f)

    prepared.f.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def of(images: np.ndarray) -> Moments:
        parts = [images[i : i + AT_ONCE] for i in range(0, len(images), AT_ONCE)]
        found = moments(prepared.f, map(to_float, tqdm(parts, "measuring f", delay=5, mininterval=5)))
        if not 0 < found.scale < math.inf:
            raise UserError(f"f gives the same for all images, or numbers that are not finite: {found.scale} apart")
        return found

    if feature_scale == "unit":
        return FrozenF(prepared.f, of(prepared.s).scale)
    s, t = of(prepared.s), of(prepared.t)
    s_as_t = transport(s, t) if feature_scale == "transport" else None
    return FrozenF(prepared.f, domains=(s, t), transport=s_as_t, exaggeration=model.exaggeration)


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
    feed, calibration, validation, labels, of_t = (
        ray.get(ref) for ref in (inputs.feed, inputs.calibration, inputs.validation, inputs.labels, inputs.of_t)
    )
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    use_assigned_cpus()

    # Networks, the same on every worker.
    torch.manual_seed(seed)
    dtn = checkpoint.build_dtn(experiment, copy.deepcopy(ray.get(inputs.f)))
    judge: nn.Module | None = copy.deepcopy(ray.get(inputs.judge))
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


@torch.no_grad()
def for_conversion(experiment: Experiment, trainer: DTNTrainer, s: np.ndarray) -> nn.Module:
    """g as it is used after training, in eval mode: its average where there is one, batch norm recalibrated on s.

    `s`: some of its images, N×C×H×W uint8.
    """
    source = trainer.ema.module if trainer.ema is not None else trainer.dtn.g
    g = checkpoint.build_dtn(experiment, trainer.dtn.f).g.to(trainer.device)
    g.load_state_dict(source.state_dict())
    batches = [to_float(s[i : i + VALIDATION]).to(trainer.device) for i in range(0, len(s), VALIDATION)]
    inputs = torch.cat([trainer.dtn.f(batch) if trainer.dtn.with_f else batch for batch in batches])
    recalibrate(g, inputs)
    return g.eval()


@torch.no_grad()
def domain_features(f: FrozenF, judge: nn.Module | None, images: np.ndarray) -> torch.Tensor:
    """N×features by which G(x) and t are compared: the judge's, or where there is none f's.

    `images`: of t, or taken as such, N×C×H×W uint8.
    """
    batches = (to_float(images[i : i + AT_ONCE]) for i in range(0, len(images), AT_ONCE))
    represent = judge.represent if judge is not None else partial(f, of_t=True)
    return torch.cat([represent(batch) for batch in batches])  # type: ignore[operator]


@torch.no_grad()
def measure(
    dtn: DTN,
    g: nn.Module,
    judge: nn.Module | None,
    s: np.ndarray,
    labels: np.ndarray | None,
    of_t: torch.Tensor,
) -> tuple[dict[str, float], torch.Tensor]:
    """What images of s that training did not see tell of G with this g, and some of them beside G(x).

    L_CONST, the paper's signal for choosing α, β, γ; KID between G(s) and t, without which a g that ignores t would
    win by it; the judge's accuracy where there are `labels`. `s`: N×C×H×W uint8; `of_t`: `domain_features` of t.
    The pairs: up to 32, N×2×3×H×W in [-1, 1].
    """
    device = next(g.parameters()).device
    L_const, right = 0.0, 0.0
    drawn, pairs = list[torch.Tensor](), list[torch.Tensor]()
    for i in range(0, len(s), VALIDATION):
        x = to_float(s[i : i + VALIDATION]).to(device)
        f_x = dtn.f(x)
        G_x = g(f_x if dtn.with_f else x)
        f_G_x = dtn.f(G_x, True)
        L_const += len(x) / len(s) * losses.L_const(f_x, f_G_x).item()
        drawn.append(f_G_x if judge is None else judge.represent(G_x))  # type: ignore[operator]
        if judge is not None and labels is not None:
            right += float((judge(G_x).argmax(1).cpu().numpy() == labels[i : i + VALIDATION]).sum())
        if not pairs:
            pairs = [images[:32].expand(-1, 3, -1, -1).cpu() for images in (dtn.as_drawn(x, G_x), G_x)]
    metrics = {"validation_L_const": L_const, "validation_KID": kid(torch.cat(drawn).cpu(), of_t)}
    if judge is not None and labels is not None:
        metrics["validation_accuracy"] = right / len(s)
    return metrics, torch.stack(pairs, dim=1)


def show(metrics: dict[str, float], pairs: torch.Tensor, board: "SummaryWriter", step: int) -> None:
    """Enters what `measure` found into TensorBoard."""
    from torchvision.utils import make_grid  # seconds to import, which every process of a training would pay

    for name, value in metrics.items():
        board.add_scalar(name, value, step)
    grid = make_grid(pairs.flatten(0, 1), nrow=16, normalize=True, value_range=(-1, 1))
    board.add_image("s and G(s)", grid, step)


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
