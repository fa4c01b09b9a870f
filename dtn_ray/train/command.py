"""Experiments on the command line: each preset shows, and accepts, only the options that apply to its domain.

`Experiment` stays one dataclass for both domains: checkpoints and the names of runs depend on its fields.
"""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from dtn_ray.method.options import LossConfig
from dtn_ray.train.options import DataConfig, Experiment, ModelConfig

T = TypeVar("T")
Hidden = Mapping[type, Collection[str]]

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


FIRST: Mapping[str, str] = {
    "digits": "--data-dir --f --judge --alpha --beta --steps --seed --name --storage --workers --gpu",
    "faces": "--source --target --f --alpha --beta --gamma --steps --name --storage --workers --gpu",
}
"""By domain, the options that most people need; help names them first, since tyro sorts by the dataclasses."""


def view(cls: type[T], hidden: Hidden) -> type[T]:
    """A dataclass like `cls` whose command line lacks the hidden fields, also those of dataclasses inside it.

    It is a subclass, so that tyro finds the docstrings of the fields.
    """
    changed: dict[str, Any] = {}
    for name, kind in get_type_hints(cls, include_extras=True).items():
        inner, *notes = get_args(kind) if get_origin(kind) is Annotated else (kind,)
        if name in hidden.get(cls, ()):
            changed[name] = tyro.conf.Suppress[kind]  # type: ignore[misc, valid-type]
        elif is_dataclass(inner) and (shown := view(inner, hidden)) is not inner:  # type: ignore[arg-type, type-var]
            changed[name] = Annotated[(shown, *notes)] if notes else shown
    if not changed:
        return cls
    defaults = {
        each.name: field(default=each.default, default_factory=each.default_factory)  # type: ignore[call-overload]
        for each in fields(cls)  # type: ignore[arg-type]
        if each.name in changed and not (each.default is MISSING and each.default_factory is MISSING)
    }
    members = {"__annotations__": changed, "__module__": cls.__module__, "__doc__": cls.__doc__, **defaults}
    return dataclass(frozen=True)(type(cls.__name__, (cls,), members))


def into(cls: type[T], value: Any) -> T:
    """A dataclass's values as an instance of another with the same fields, such as a view of it, or what it is of."""
    hints = get_type_hints(cls)
    found = {each.name: getattr(value, each.name) for each in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: into(hints[name], each) if is_dataclass(hints[name]) else each for name, each in found.items()})


def described(description: str, experiment: Experiment) -> str:
    """The description of a preset, with the options to begin with."""
    return f"{description}\n\nMost runs need no more than: {FIRST[experiment.model.kind].replace(' ', ', ')}"


def job_of(cls: type[T], experiment: Experiment) -> type[T]:
    """The view of a job with a field of type `Experiment` that fits this experiment's domain."""
    return view(cls, HIDDEN[experiment.model.kind])
