"""Settings: conversion between dataclasses and plain values, checked field by field."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from dtn_ray.errors import UserError
from dtn_ray.text.display import line

T = TypeVar("T")

TOLD = 4  # problems, in a message …
SHOWN = 80  # … and characters of a name in it


def fit(cls: type[T], values: Any, *, finite: bool = True) -> T:
    """Plain values as an instance of a type, such as a dataclass; numbers must be `finite`.

    Raises UserError naming each field that does not fit.
    """
    if is_dataclass(cls):
        _refuse_unknown(cls, values)
    for name, value in _numbers(values) if finite else ():
        if not math.isfinite(value):
            raise UserError(f"{line(name, SHOWN)}: {value} is not a finite number")
    try:
        # As JSON, because its arrays also match fields that are tuples, even in strict mode.
        return TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(_problems(error)) from error


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All floats, each after its path in the settings."""
    if isinstance(values, float):
        yield name, values
    elif isinstance(values, dict | list | tuple):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _numbers(value, f"{name}.{key}" if name else str(key))


def _refuse_unknown(cls: type, values: Any, prefix: str = "") -> None:
    """pydantic drops what a plain dataclass has no field for; a setting that is dropped would be another setting."""
    if not isinstance(values, dict):
        return
    kinds = get_type_hints(cls)
    for name, value in values.items():
        if name not in kinds:
            raise UserError(f"{line(f'{prefix}{name}', SHOWN)}: no such setting; the settings are {', '.join(kinds)}")
        if is_dataclass(kinds[name]):
            _refuse_unknown(kinds[name], value, f"{prefix}{name}.")  # type: ignore[arg-type]


def _problems(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    told = [_problem(".".join(map(str, each["loc"])), each["msg"][:300]) for each in errors[:TOLD]]
    more = [f"and {len(errors) - TOLD} more"] if len(errors) > TOLD else []
    return "; ".join(told + more)


def _problem(name: str, message: str) -> str:
    return f"{line(name, SHOWN)}: {message}" if name else message


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values, for JSON."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The configuration that `to_dict` wrote. Raises UserError naming each setting that does not fit."""
    try:
        return fit(cls, values)
    except UserError as error:
        raise UserError(f"not a valid {cls.__name__}: {error}") from error


def check(config: Any) -> None:
    """Raises UserError naming each setting out of its bounds (dtn_ray/bounds.py), as a command line may give it."""
    from_dict(type(config), to_dict(config))


def fingerprint(config: Any) -> str:
    """Eight hex digits that change when anything in the configuration does."""
    return hashlib.sha256(TypeAdapter(type(config)).dump_json(config)).hexdigest()[:8]
