"""Reads JSON files, our own and those of others, within bounds, and checks each field against a type.

Duplicate keys, deep nesting and files of more than LIMIT bytes are refused. With a type, unknown fields, values of
another type (nothing is converted: "3", true and 3.0 are not integers) and numbers that are not finite are refused too.
"""

import json
from typing import Any, TypeVar

from dtn_ray.errors import UserError
from dtn_ray.settings import SHOWN, fit
from dtn_ray.text.display import line

T = TypeVar("T")

LIMIT = 8 << 20
"""Largest file, in bytes. A checkpoint's manifest has 3,000, plus 60 for each image that an SRCNN was tested on."""
DEPTH = 32
"""Deepest nesting; our own files have 5."""


def read(uri: str, cls: type[T] | None = None, *, finite: bool = True) -> Any:
    """The content of a JSON file (local or S3); with `cls` as an instance of that type, as `fit` makes it.

    Raises UserError, naming the file (and the field), if it is missing, unreadable, not JSON, or does not fit.
    """
    from dtn_ray import storage  # imports pyarrow, which a command line seldom needs

    try:
        size = storage.stat(uri)[1]
        if size > LIMIT:
            raise UserError(f"{uri}: not read: {size:,} bytes; a JSON file may have at most {LIMIT:,}")
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
        raise UserError(f"{uri}: must be an object, {{name: value}}, not {_kind(values)}")
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
    """What a file holds instead of JSON, if its first character shows it."""
    start = content.lstrip()[:1]
    return "HTML or XML" if start == b"<" else None if start else "empty"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UserError(f"{line(twice, SHOWN)}: appears twice")
    return values


def _depth(values: Any) -> int:
    depth, level = 0, [values]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > DEPTH:
            break
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _kind(values: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(values), "a number")
