"""JSON files, ours and other people's: read within bounds, and checked field by field against a type.

Keys that occur twice, deep nesting and files of more than LIMIT bytes are refused; with a type, also unknown fields,
values of another type (nothing is converted: "3", true and 3.0 are no integers) and numbers that are not finite.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from dtn_ray.display import line
from dtn_ray.errors import UserError

T = TypeVar("T")

LIMIT = 8 << 20
"""Bytes of a file. A checkpoint's manifest has 3,000, and 60 more for each image that an SRCNN was tested on."""
DEPTH = 32
"""Of nesting; ours have 5."""
TOLD = 4  # problems, in a message …
SHOWN = 80  # … and characters of a name in it


def read(uri: str, cls: type[T] | None = None, *, finite: bool = True) -> Any:
    """The content of a JSON file (local or S3); with `cls` as an instance of that type, as `fit` makes it.

    Raises UserError naming the file, and the field, where it is missing, cannot be read, is not JSON or does not fit.
    """
    from dtn_ray import storage  # pyarrow, which a command line seldom needs

    try:
        size = storage.stat(uri)[1]
        if size > LIMIT:
            raise UserError(f"{uri}: not read: {size:,} bytes, and such a file has at most {LIMIT:,}")
        content = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise UserError(f"{uri}: no such file") from error
    except OSError as error:
        raise UserError(f"{uri}: cannot be read: {str(error).removeprefix(f'{uri}: ')}") from error
    values = parse(content, uri)
    if cls is None:
        return values
    try:
        return fit(cls, values, finite=finite)
    except UserError as error:
        raise UserError(f"{uri}: {error}") from error


def read_object(uri: str) -> dict[str, Any]:
    """A JSON file that holds an object, of any fields. Raises UserError as `read` does."""
    values = read(uri)
    if not isinstance(values, dict):
        raise UserError(f"{uri}: must be an object, {{name: value}}, and not {_kind(values)}")
    return values


def parse(content: bytes, uri: str) -> Any:
    """The values of a JSON text in UTF-8, UTF-16 or UTF-32. Raises UserError naming `uri`."""
    try:
        text = content.decode(json.detect_encoding(content))
        values = json.loads(text, object_pairs_hook=_object)
        if "\\u" in text:
            json.dumps(values, ensure_ascii=False).encode()
    except UserError as error:
        raise UserError(f"{uri}: {error}") from error
    except RecursionError as error:
        raise UserError(f"{uri}: nested more than {DEPTH} deep") from error
    except UnicodeError as error:
        raise UserError(f"{uri}: not JSON: not text in UTF-8") from error
    except ValueError as error:
        raise UserError(f"{uri}: not JSON: {_instead(content) or error}") from error
    if _depth(values) > DEPTH:
        raise UserError(f"{uri}: nested more than {DEPTH} deep")
    return values


def _instead(content: bytes) -> str | None:
    """What a file holds in place of JSON, where its beginning tells."""
    start = content.lstrip()[:1]
    return "HTML or XML" if start == b"<" else None if start else "empty"


def fit(cls: type[T], values: Any, *, finite: bool = True) -> T:
    """Plain values as an instance of a type, such as a dataclass; numbers must be `finite`.

    Raises UserError naming each field that does not fit.
    """
    if is_dataclass(cls):
        _refuse_unknown(cls, values)
    for name, value in _numbers(values) if finite else ():
        if not math.isfinite(value):
            raise UserError(f"{line(name, SHOWN)}: {value} is no finite number")
    try:
        # As JSON, since arrays stand for tuples there, also where nothing is converted.
        return TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(_problems(error)) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UserError(f"{line(twice, SHOWN)}: stands there twice")
    return values


def _depth(values: Any) -> int:
    depth, level = 0, [values]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > DEPTH:
            break
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers with a fraction, and where they stand."""
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
            raise UserError(f"{line(f'{prefix}{name}', SHOWN)}: no such setting; there are {', '.join(kinds)}")
        if is_dataclass(kinds[name]):
            _refuse_unknown(kinds[name], value, f"{prefix}{name}.")  # type: ignore[arg-type]


def _problems(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    told = [_problem(".".join(map(str, each["loc"])), each["msg"][:300]) for each in errors[:TOLD]]
    more = [f"and {len(errors) - TOLD} more"] if len(errors) > TOLD else []
    return "; ".join(told + more)


def _problem(name: str, message: str) -> str:
    return f"{line(name, SHOWN)}: {message}" if name else message


def _kind(values: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(values), "a number")
