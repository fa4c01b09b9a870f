"""Experiments on the command line: each preset shows, and accepts, only the options that apply to its domain.

`Experiment` stays one dataclass for both domains: checkpoints and the names of runs depend on its fields.
"""

from collections.abc import Mapping
from typing import TypeVar

from dtn_ray.method.options import LossConfig
from dtn_ray.option_groups import Form, Hidden
from dtn_ray.train.options import DataConfig, Experiment, ModelConfig

T = TypeVar("T")

KIND = {"kind"}  # follows from the preset
HIDDEN: Mapping[str, Hidden] = {
    "digits": {
        DataConfig: {"size"},
        ModelConfig: KIND | {"size_D", "norm_D", "upscaling"},
    },
    "faces": {
        DataConfig: {
            *("data_dir", "source_split", "target_split", "s_without", "t_without", "f_without", "download"),
        },
        ModelConfig: KIND | {"judge", "width_f", "with_f", "binary"},
        LossConfig: {"d2"},
    },
}
"""By domain, the options that do not apply to it."""

FIRST: Mapping[str, tuple[str, ...]] = {
    "digits": ("data_dir", "f", "judge", "alpha", "beta", "steps", "seed", "name", "storage", "workers", "gpu"),
    "faces": ("source", "target", "f", "alpha", "beta", "gamma", "steps", "seed", "name", "storage", "workers", "gpu"),
}
"""By domain, the options that most people need: help lists them first."""


def form(default: T, experiment: Experiment, first: tuple[str, ...] = ()) -> Form[T]:
    """The command line of a job that holds an experiment, with the options of the experiment's domain.

    `first`: options of the job's own that most people need.
    """
    domain = experiment.model.kind
    return Form(type(default), (*first, *FIRST[domain]), HIDDEN[domain], default)
