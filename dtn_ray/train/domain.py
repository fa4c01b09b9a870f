"""The differences between the domains, digits and faces: their networks, data and f. Everything else is shared.

Each domain is a value, in train/digits.py and train/faces.py; train/domains.py finds the one of an experiment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dtn_ray.method.dtn import DTN
from dtn_ray.method.features import FrozenF
from dtn_ray.models.perceptual import Perceptual
from dtn_ray.resumable.options import Run
from dtn_ray.train.options import Experiment

if TYPE_CHECKING:  # these import Ray, which a conversion does not need
    from dtn_ray.data.feed import InMemory
    from dtn_ray.data.streamed import Streamed


SCALING = 4096  # images of s and of t from which the normalization of f's features is computed


@dataclass(frozen=True)
class Prepared:
    """What a training needs from its domain."""

    name: str
    """Name of the run."""
    feed: "InMemory | Streamed"
    s: np.ndarray
    """A few thousand images of s, N×C×H×W uint8."""
    t: np.ndarray
    """A few thousand images of t, N×C×H×W uint8."""
    validation: np.ndarray
    """Held-out images of s, N×C×H×W uint8."""
    labels: np.ndarray | None
    """Labels of the held-out images, if there are any."""
    f: Perceptual
    judge: Perceptual | None
    facts: dict[str, Any]
    """Facts for the manifest."""


@dataclass(frozen=True)
class Domain:
    """One of the domains of Sec. 5."""

    name: str
    """`kind` of ModelConfig."""
    of_faces: bool
    """Whether x are faces, which must be found in photos."""
    batch_on_a_cpu: int
    """Batch size of a conversion on CPUs."""
    build: Callable[[Experiment, FrozenF], DTN]
    """The networks around f, with g and D freshly initialised. Raises UserError for settings that do not fit."""
    read_f: Callable[[Path, Experiment, dict[str, Any]], Perceptual]
    """Builds f from a checkpoint's folder, settings and manifest. Its weights are not loaded, except those of an ONNX
    file.

    Raises UserError naming the file and what is wrong with it.
    """
    prepare: Callable[[Experiment, Run], Prepared]
    """Reads the data and makes f. Raises UserError for bad settings or files."""
