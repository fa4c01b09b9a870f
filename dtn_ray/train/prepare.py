"""The preparation of a training: checks settings, reads data, makes f and the judge, measures f."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from tqdm import tqdm

from dtn_ray import storage
from dtn_ray.data.streamed import CPUS_TO_READ, Streamed
from dtn_ray.errors import UserError
from dtn_ray.method.features import FrozenF, Moments, moments, transport
from dtn_ray.method.kid import kid
from dtn_ray.method.pixels import to_float
from dtn_ray.ray_cluster.connect import connect
from dtn_ray.resumable.options import Run
from dtn_ray.settings import check, from_dict
from dtn_ray.storage import json_files
from dtn_ray.train.domain import Prepared
from dtn_ray.train.domains import domain_of
from dtn_ray.train.measure import AT_ONCE, domain_features
from dtn_ray.train.options import Experiment, ModelConfig
from dtn_ray.train.presets import PRESETS

CALIBRATION = 2048  # images of s for the statistics of g's batch norm in conversion
VALIDATION_T = 1024  # images of t with which G(s) is compared


@dataclass(frozen=True)
class Inputs:
    """The data that all workers of a DTN training share, as references into Ray's object store."""

    feed: ray.ObjectRef
    """InMemory or Streamed."""
    calibration: ray.ObjectRef
    """A few images of s, N×C×H×W uint8."""
    validation: ray.ObjectRef
    """Held-out images of s."""
    labels: ray.ObjectRef
    """Labels of these images, or None."""
    f: ray.ObjectRef
    judge: ray.ObjectRef
    """None if there are no labels."""
    of_t: ray.ObjectRef
    """`domain_features` of t, N×features."""


@dataclass(frozen=True)
class Ready:
    """Shared by trainings on the same data with the same f; they may differ in losses, learning rates and seeds."""

    name: str
    """Name of a run without --name."""
    inputs: Inputs
    facts: dict[str, Any]
    """Facts for the manifest."""
    spare: float
    """CPUs to leave for readers of the data."""


def check_settings(experiment: Experiment, run: Run) -> None:
    """Raises UserError for settings that are out of their bounds or do not fit each other."""
    optim, model = experiment.optim, experiment.model
    run.check(optim.batch_size)
    if model.exaggeration != 1 and model.feature_scale not in ("per-domain", "transport"):
        raise UserError(
            f"--exaggeration {model.exaggeration} needs the mean of the features: choose --feature-scale per-domain or "
            "transport"
        )
    if model.exaggeration <= 0:
        raise UserError(f"--exaggeration {model.exaggeration} must be greater than 0; 1 means no exaggeration")
    if model.binary and (experiment.loss.beta or experiment.loss.d2 == "gan"):
        raise UserError("--binary is the baseline of Sec. 3, which has no L_TID: it needs --beta 0 and --d2 mse")
    check(experiment)


def prepare(experiment: Experiment, run: Run) -> Ready:
    """Checks the settings, reads the data, makes f and measures it. Raises UserError for bad settings or files."""
    check_settings(experiment, run)
    prepared = domain_of(experiment).prepare(experiment, run)
    f = _in_its_unit(prepared, experiment.model)
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


def _in_its_unit(prepared: Prepared, model: ModelConfig) -> FrozenF:
    feature_scale = model.feature_scale
    if feature_scale == "none":
        return FrozenF(prepared.f)

    prepared.f.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def of(images: np.ndarray) -> Moments:
        parts = [images[i : i + AT_ONCE] for i in range(0, len(images), AT_ONCE)]
        found = moments(prepared.f, map(to_float, tqdm(parts, "measuring f", delay=5, mininterval=5)))
        if not 0 < found.scale < math.inf:
            raise UserError(
                f"f's features are the same for all images, or not finite: their standard deviation is {found.scale}"
            )
        return found

    if feature_scale == "unit":
        return FrozenF(prepared.f, of(prepared.s).scale)
    s, t = of(prepared.s), of(prepared.t)
    s_as_t = transport(s, t) if feature_scale == "transport" else None
    return FrozenF(prepared.f, domains=(s, t), transport=s_as_t, exaggeration=model.exaggeration)


def experiment_of(uri: str) -> Experiment:
    """The experiment in a JSON file, such as a search's best.json. Raises UserError naming what is wrong with it."""
    if not storage.exists(uri):
        raise UserError(f"{uri}: neither a file nor a preset; the presets are {', '.join(PRESETS)}")
    values = json_files.read(uri)
    try:
        return from_dict(Experiment, values)
    except UserError as error:
        raise UserError(f"{uri}: {error}") from error
