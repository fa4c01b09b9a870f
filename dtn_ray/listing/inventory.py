"""Lists of objects that replace a listing: S3 Inventory, tables, lists of keys. Does not import Ray.

A line that cannot be read is counted with its number; the others are used.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from botocore.exceptions import ClientError

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.listing import list_tables, list_text
from dtn_ray.listing.left_out import BAD_LINE, FOLDER, OUTSIDE, UNSAFE
from dtn_ray.listing.list_keys import Keys
from dtn_ray.listing.list_text import Page
from dtn_ray.listing.values import Microseconds, microseconds, truth, whole
from dtn_ray.storage import json_files
from dtn_ray.storage.local_files import Odd, escape
from dtn_ray.text.display import LONGEST_NAME
from dtn_ray.text.display import name as shown

FORMATS = (".parquet", ".csv", ".csv.gz", ".txt", ".txt.gz", "manifest.json")
LONGEST_MANIFEST = 16 << 20  # bytes
SHORT = 1 << 20  # bytes; such a list is read in less time than Ray takes to start
BAD_AT_ONCE = 1_000_000  # after so many unreadable lines without a readable one, the file counts as no list
FAILED_AT_ONCE = 64  # after so many failed requests without an answered one, the store counts as failed
TIME = storage.LISTING.field("modified").type


@dataclass(frozen=True)
class InventoryFile:
    """One file of an inventory."""

    uri: str
    format: str
    """parquet, orc, csv or txt."""
    header: tuple[str, ...] = ()
    """The columns of a CSV file without a header."""
    quoted: bool = False
    """Whether keys are URL-encoded, as in S3 Inventory's CSV."""


def open_inventory(uri: str) -> list[InventoryFile]:
    """The files of an inventory, which may be

    - a manifest.json of S3 Inventory (Parquet, ORC or CSV): keys as in the bucket; other buckets are left out;
    - a Parquet or CSV file (.csv, .csv.gz) with a header; it needs a column key, and may have size, etag and
      last_modified; if it has a column bucket, keys are as in the bucket;
    - a list of keys, one per line (.txt, .txt.gz), as `find` writes it; a CSV file with one column is read the same
    way.

    Text is UTF-8, or UTF-16 or UTF-32 with a byte-order mark; the separator of CSV is one of , ; | or a tab. Keys
    without a bucket are relative to IN, or full URIs, or paths below a local IN. Raises UserError if the file is absent
    or none of these.
    """
    if not storage.is_file(uri):
        raise UserError(f"--inventory {uri}: no such file")
    name = uri.lower()
    if name.endswith("manifest.json"):
        return _manifest(uri)
    for ending, kind in ((".parquet", "parquet"), (".csv", "csv"), (".txt", "txt")):
        if name.removesuffix(".gz").endswith(ending):
            return [InventoryFile(uri, kind)]
    raise UserError(f"--inventory {uri}: the file's name must end in one of {', '.join(FORMATS)}")


def _manifest(uri: str) -> list[InventoryFile]:
    try:
        size = storage.stat(uri)[1]
        if size > LONGEST_MANIFEST:
            raise UserError(f"--inventory {uri}: {size} bytes; a manifest may have at most {LONGEST_MANIFEST}")
        manifest = json_files.parse(storage.read_bytes(uri), f"--inventory {uri}: not a manifest of S3 Inventory")
        bucket = manifest["destinationBucket"].removeprefix("arn:aws:s3:::")
        kind = manifest["fileFormat"].lower()
        header = tuple(name.strip() for name in manifest["fileSchema"].split(",")) if kind == "csv" else ()
        names = [str(file["key"]) for file in manifest["files"]]
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--inventory {uri}: not a manifest of S3 Inventory: {shown(repr(error))}") from error
    except OSError as error:
        raise UserError(f"--inventory {uri}: cannot be read: {shown(str(error))}") from error
    if kind not in ("csv", "parquet", "orc"):
        raise UserError(f"--inventory {uri}: files of the format {shown(kind)}; CSV, Parquet and ORC can be read")
    if storage.is_s3(uri) and bucket != storage.bucket_and_key(uri)[0]:
        raise UserError(
            f"--inventory {uri}: names files in another bucket, {shown(bucket)}; S3 Inventory writes its files beside "
            "their manifest"
        )
    return [InventoryFile(storage.join(f"s3://{bucket}", name), kind, header, quoted=kind == "csv") for name in names]


def is_short(files: list[InventoryFile]) -> bool:
    """Whether an inventory is one text file of at most SHORT bytes. Raises UserError if it cannot be read."""
    if len(files) != 1 or files[0].format not in ("csv", "txt") or files[0].uri.lower().endswith(".gz"):
        return False
    try:
        return storage.stat(files[0].uri)[1] <= SHORT
    except OSError as error:
        raise UserError(f"--inventory {files[0].uri}: cannot be read: {error}") from error


def read_inventory(file: InventoryFile, source: str, odd: Odd) -> Iterator[pa.Table]:
    """The objects below `source` that a file lists, as tables of storage.LISTING, in the file's order.

    If the file lacks the version or size of an object, the store is asked; both stay unknown if the store refuses.
    `odd` is called for each line that is left out, with the reason (left_out.REASONS). Raises UserError for a file that
    cannot be read or has no keys, and for a store that does not answer.
    """
    keys, counts = Keys(source, file.quoted), Counter[str]()

    def note(reason: str, name: str) -> None:
        odd(reason, name)
        counts[reason] += 1
        if counts[BAD_LINE] == BAD_AT_ONCE and not counts["good"]:
            raise UserError(f"--inventory {file.uri}: none of {BAD_AT_ONCE} lines can be read; the last: {shown(name)}")

    with ThreadPoolExecutor(32) as pool:
        try:
            for page in _pages(file, keys.local, note):
                for listed in _listing(page, file, keys, note):
                    counts["good"] += len(listed)
                    yield _asked(listed, source, odd, pool.map)
        except UserError:
            raise
        except (OSError, ValueError, EOFError, pa.ArrowException, csv.Error) as error:
            reason = shown(" ".join(str(error).split()))
            raise UserError(f"--inventory {file.uri}: cannot be read: {reason}") from error


def _pages(file: InventoryFile, local: bool, odd: Odd) -> Iterator[Page]:
    if file.format == "txt":
        yield from list_text.keys_alone(file.uri, local, odd)
    elif file.format == "csv":
        yield from list_text.table(file.uri, file.header, local, odd)
    else:
        start = 1
        for batch in list_tables.read(file.uri, file.format):
            yield Page(pa.Table.from_batches([batch]), np.arange(start, start + len(batch)))
            start += len(batch)


def _listing(page: Page, file: InventoryFile, keys: Keys, odd: Odd) -> Iterator[pa.Table]:
    """The rows of one page that lie below the source, in the columns of storage.LISTING."""
    table = page.table.append_column("line", pa.array(page.lines))
    where, bad = "line" if file.format in ("csv", "txt") else "row", dict[int, str]()
    for flag, wanted in (("islatest", True), ("isdeletemarker", False)):
        if flag in table.column_names:
            values = _numbers(table, flag, pa.bool_(), truth, bad)
            table = table.filter(_call("fill_null", _call("equal", values, pa.scalar(wanted)), True))
    if bad:
        table = table.filter(~pc.field("line").isin([*bad]))
    for line, reason in bad.items():
        odd(BAD_LINE, f"{where} {line}: {reason}")
    if "bucket" not in table.column_names:
        yield _below(table, where, keys, False, odd)
        return
    bucket = _call("fill_null", _text(table["bucket"]), "")
    ours, nobodys = _call("equal", bucket, keys.bucket), _call("equal", bucket, "")
    for name in bucket.filter(_call("invert", _call("or", ours, nobodys))).to_pylist():
        odd(OUTSIDE, f"s3://{name}")
    if keys.bucket:
        yield _below(table.filter(ours), where, keys, True, odd)
    yield _below(table.filter(nobodys), where, keys, False, odd)  # rows without a bucket


def _below(table: pa.Table, where: str, keys: Keys, in_bucket: bool, odd: Odd) -> pa.Table:
    """Rows of one bucket, or without a bucket, as a table like storage.LISTING; `odd` is called for bad rows."""
    bad = dict[int, str]()
    size = _numbers(table, "size", pa.int64(), whole, bad)
    modified = _numbers(table, "modified", TIME, microseconds, bad)
    given = _text(table["key"])
    for line in table["line"].filter(_call("is_null", given)).to_pylist():
        bad.setdefault(line, "no key")
    if list_tables.OVERLONG in table.column_names:
        overlong = table.select(["line", list_tables.OVERLONG]).filter(pc.field(list_tables.OVERLONG).is_valid())
        for row in overlong.to_pylist():
            bad[row["line"]] = f"a value of {row[list_tables.OVERLONG]} bytes, more than {list_tables.LONGEST}"
    for line, reason in sorted(bad.items()):
        odd(BAD_LINE, f"{where} {line}: {reason}")
    found, left = keys.relative(given, in_bucket)
    lines = table["line"]
    for place, reason in sorted(left.items()):
        line = lines[place].as_py()
        if reason and line not in bad:
            told = (given[place].as_py() or "")[:LONGEST_NAME]
            odd(reason, f"{where} {line}: {told}{' leads out of IN' if reason == UNSAFE else ''}")
    kept = _call("and", _call("is_valid", found), _call("not_equal", found, ""))
    if bad:
        kept = _call("and_not", kept, _call("is_in", lines, options=pc.SetLookupOptions(pa.array([*bad], pa.int64()))))
    version = _column(table, "version")
    columns = {
        "key": found,
        "version": _call("utf8_trim", version, options=pc.TrimOptions('"')),
        "size": size,
        "modified": modified,
        "storage_class": _column(table, "storage_class"),
    }
    listed = pa.table([columns[name] for name in storage.LISTING.names], schema=storage.LISTING)
    named_so = _call("ends_with", listed["key"], options=pc.MatchSubstringOptions("/"))
    is_marker = _call("and", named_so, _call("less_equal", _call("fill_null", listed["size"], 0), 0))  # of a folder
    return listed.filter(_call("and_not", kept, _call("fill_null", is_marker, False)))


def _call(function: str, *arguments: Any, options: Any = None) -> Any:
    if function == "fill_null":
        return pc.call_function("coalesce", list(arguments))
    return pc.call_function(function, list(arguments), options)


def _numbers(
    table: pa.Table, name: str, type: pa.DataType, parse: Callable[[Any], int | None], bad: dict[int, str]
) -> pa.Array | pa.ChunkedArray:
    """A column of numbers; rows with anything else are added to `bad`, by line."""
    if name not in table.column_names:
        return pa.nulls(len(table), type)
    column = table[name]
    if pa.types.is_large_binary(column.type):
        column = _text(column)
    if name != "modified" or pa.types.is_temporal(column.type) or _is_text(column.type):
        in_ns = pa.types.is_timestamp(column.type) and column.type.unit == "ns"
        # The cast fails for numbers with a fraction, and for times in another format or beyond its range.
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            cast = column.cast(type, safe=not in_ns)
            if name != "size" or (_call("min", cast).as_py() or 0) >= 0:
                return cast
    found = list[int | None]()
    for line, value in zip(table["line"].to_pylist(), _plain(column), strict=True):
        try:
            found.append(parse(value))
        except (ValueError, ArithmeticError):
            bad[line] = f"{name} {shown(repr(value))} cannot be read"
            found.append(None)
    return pa.array(found, type if pa.types.is_boolean(type) else pa.int64()).cast(type)


def _is_text(type: pa.DataType) -> bool:
    return pa.types.is_string(type) or pa.types.is_large_string(type)


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Values for `values.py`; times as integers, because Python's datetime is limited to microseconds and to 9999."""
    if pa.types.is_timestamp(column.type):
        unit = {"s": 1_000_000, "ms": 1000, "us": 1}.get(column.type.unit)
        numbers = column.cast(pa.int64()).to_pylist()
        return [None if each is None else Microseconds(each * unit if unit else each // 1000) for each in numbers]
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.string())
    return column.to_pylist()


def _column(table: pa.Table, name: str) -> pa.Array:
    return _text(table[name]) if name in table.column_names else pa.nulls(len(table), pa.string())


def _text(column: pa.ChunkedArray) -> pa.Array:
    """Text as string, with null for empty text; bytes that are not UTF-8 are escaped as in local_files.py."""
    if not (_is_text(column.type) or pa.types.is_large_binary(column.type)):
        column = column.cast(pa.string())
    try:
        values = column.cast(pa.string())
    except pa.ArrowInvalid:
        contents = column.cast(pa.large_binary()).to_pylist()
        values = pa.array([each and escape(each.decode(errors="surrogateescape")) for each in contents], pa.string())
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return _call("if_else", _call("equal", values, ""), pa.scalar(None, pa.string()), values)


def _asked(listed: pa.Table, source: str, odd: Odd, apply: Callable[..., Iterator[Any]]) -> pa.Table:
    """Adds missing versions, sizes and times of change, by asking the store.

    If the store refuses to answer for an object, its row stays unchanged; reading the object will fail with the reason.
    Raises OSError if the store does not answer at all.
    """
    if not listed["version"].null_count and not listed["size"].null_count:
        return listed
    unknown = _call("or", _call("is_null", listed["version"]), _call("is_null", listed["size"])).to_pylist()
    counts = Counter[str]()

    def ask(row: dict[str, Any]) -> dict[str, Any] | None:
        try:
            version, size, modified = storage.stat(storage.child(source, row["key"]))
        except IsADirectoryError:
            return None
        except (OSError, ValueError) as error:
            counts["failed" if _is_store(error) else "answered"] += 1
            if counts["failed"] >= FAILED_AT_ONCE and not counts["answered"]:
                raise
            return row
        counts["answered"] += 1
        return row | {"version": version, "size": size, "modified": modified}

    place = listed.column_names.index("modified")
    rows = listed.set_column(place, "modified", listed["modified"].cast(pa.int64())).to_pylist()
    found = list(apply(lambda row, is_unknown: ask(row) if is_unknown else row, rows, unknown))
    for row, asked_row in zip(rows, found, strict=True):
        if asked_row is None:
            odd(FOLDER, row["key"])
    return pa.Table.from_pylist([row for row in found if row is not None], storage.LISTING)


def _is_store(error: Exception) -> bool:
    """Whether the store failed, instead of refusing this one object."""
    cause = error.__cause__
    if isinstance(cause, ClientError):
        return cause.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
    return cause is not None
