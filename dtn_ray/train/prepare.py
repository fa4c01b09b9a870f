"""What comes before training: settings checked, data read, f and the judge made and measured."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from torch import nn
from tqdm import tqdm

from dtn_ray import storage
from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.bad_rows import BadRows
from dtn_ray.data.digits import load
from dtn_ray.data.feed import InMemory
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.rows import count_rows, find_groups, hold_out
from dtn_ray.data.streamed import CPUS_TO_READ, Streamed
from dtn_ray.data.windows import sample_rows
from dtn_ray.errors import UserError
from dtn_ray.method.features import FrozenF, Moments, moments, transport
from dtn_ray.method.kid import kid
from dtn_ray.method.pixels import to_float
from dtn_ray.perceptual.job import pretrain
from dtn_ray.perceptual.load import load_classifier, load_face_network
from dtn_ray.ray_cluster.connect import connect
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.run import check_folder
from dtn_ray.settings import check, fingerprint
from dtn_ray.train.measure import AT_ONCE, domain_features
from dtn_ray.train.options import Experiment, ModelConfig
from dtn_ray.train.presets import classifier_of

CALIBRATION = 2048  # images of s that give g's batch norm its statistics for conversion
SCALING = 4096  # … and that f's features are scaled by
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
        role: load_classifier(uri)
        for role, uri in (("f", experiment.model.f), ("judge", experiment.model.judge))
        if uri
    }
    f, f_manifest = given.get("f") or load_classifier(_pretrained(experiment, inner, "f"))
    judge, judge_manifest = given.get("judge") or load_classifier(_pretrained(experiment, inner, "judge"))
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
    t = find_groups(chosen.target)
    s, held = hold_out(find_groups(chosen.source), chosen.validation)
    if not held:
        raise UserError(f"nothing to validate on: --validation must be at least 1, and {chosen.source} hold 10 images")
    f, facts = load_face_network(model.f)
    name = run.name or f"dtn-faces-{fingerprint(experiment)}"
    validation = sample_rows(held, chosen.validation, chosen.size)["image"]
    some_s, some_t = (sample_rows(groups, SCALING, chosen.size)["image"] for groups in (s, t))
    facts = {"f": facts, "f_digest": checkpoint.digest(f)}
    facts |= {"s_images": count_rows(s), "t_images": count_rows(t)}
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
    s = load.load(chosen.source, chosen.source_split, chosen.data_dir, download=chosen.download)
    t = load.load(chosen.target, chosen.target_split, chosen.data_dir, download=chosen.download)
    return s.without(chosen.s_without), t.without(chosen.t_without)


def _pretrained(experiment: Experiment, run: Run, role: str) -> str:
    """The checkpoint of f or of the judge, trained under this run's folder."""
    chosen = experiment.data
    dataset = chosen.source if role == "f" else chosen.target
    config = classifier_of(dataset, chosen, experiment.model, experiment.seed, judge=role == "judge")
    return pretrain(config, replace(run, name=role)).checkpoint
