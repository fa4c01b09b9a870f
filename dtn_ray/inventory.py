"""Lists of objects made elsewhere, in place of a listing: S3 Inventory, tables, lists of keys. Knows no Ray."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs, orc

from dtn_ray import storage
from dtn_ray.errors import UserError

# What inventories call the columns of storage.LISTING, in small letters without _; those of a CSV file are in its
# header or, for S3 Inventory, in the manifest.
COLUMNS = {
    "bucket": "bucket",
    "key": "key",
    "size": "size",
    "etag": "version",
    "version": "version",
    "lastmodifieddate": "modified",
    "lastmodified": "modified",
    "modified": "modified",
    "storageclass": "storage_class",
    "islatest": "islatest",
    "isdeletemarker": "isdeletemarker",
}
FORMATS = (".parquet", ".csv", ".csv.gz", ".txt", ".txt.gz", "manifest.json")
ROWS = 20_000  # held at once
TIME = storage.LISTING.field("modified").type


@dataclass(frozen=True)
class InventoryFile:
    """One file of an inventory."""

    uri: str
    format: str
    """parquet, orc, csv or txt."""
    header: tuple[str, ...] = ()
    """The columns of a CSV file that has none itself."""
    quoted: bool = False
    """Keys are URL-encoded, as S3 Inventory does it in CSV."""


def open_inventory(uri: str) -> list[InventoryFile]:
    """The files of an inventory, which is

    - a manifest.json of S3 Inventory (Parquet, ORC or CSV): keys as in the bucket, other buckets are left out;
    - a Parquet or CSV file (.csv, .csv.gz) with a header, of which the column key is needed and size, etag and
      last_modified are used; with a column bucket, keys are as in the bucket;
    - a list of keys, one a line (.txt, .txt.gz).

    Keys without a bucket are relative to IN, or whole URIs. Raises UserError for what is none of these or is absent.
    """
    if storage.kind(uri) != fs.FileType.File:
        raise UserError(f"--inventory {uri}: no such file")
    name = uri.lower()
    if name.endswith("manifest.json"):
        return _manifest(uri)
    for ending, kind in ((".parquet", "parquet"), (".csv", "csv"), (".txt", "txt")):
        if name.removesuffix(".gz").endswith(ending):
            return [InventoryFile(uri, kind)]
    raise UserError(f"--inventory {uri}: none of the kinds that are known: a name that ends in {', '.join(FORMATS)}")


def _manifest(uri: str) -> list[InventoryFile]:
    try:
        manifest = json.loads(storage.read_bytes(uri))
        bucket = manifest["destinationBucket"].removeprefix("arn:aws:s3:::")
        kind = manifest["fileFormat"].lower()
        header = tuple(name.strip() for name in manifest["fileSchema"].split(",")) if kind == "csv" else ()
        uris = [f"s3://{bucket}/{file['key']}" for file in manifest["files"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--inventory {uri}: not a manifest of S3 Inventory: {error!r}") from error
    except OSError as error:
        raise UserError(f"--inventory {uri}: cannot be read: {error}") from error
    if kind not in ("csv", "parquet", "orc"):
        raise UserError(f"--inventory {uri}: files of the format {kind}; CSV, Parquet and ORC can be read")
    return [InventoryFile(each, kind, header, quoted=kind == "csv") for each in uris]


def read_inventory(file: InventoryFile, source: str) -> Iterator[pa.Table]:
    """The objects below `source` that a file lists, as tables of storage.LISTING, in the file's order.

    Where the file tells no version or size of an object, the store is asked; an object that is absent there has
    neither. Raises UserError for a file that cannot be read or has no keys.
    """
    bucket, prefix = ("", "")
    if source.startswith("s3://"):
        bucket, _, prefix = source.removeprefix("s3://").rstrip("/").partition("/")
    with ThreadPoolExecutor(32) as pool:
        try:
            for table in _tables(file):
                listed = _listing(table, file, source.rstrip("/"), bucket, prefix and prefix + "/")
                yield _asked(listed, source, pool.map)
        except UserError:
            raise
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"--inventory {file.uri}: cannot be read: {error}") from error


def _tables(file: InventoryFile) -> Iterator[pa.Table]:
    filesystem, path = storage.resolve(file.uri)
    if file.format in ("parquet", "orc"):
        with filesystem.open_input_file(path) as stream:
            if file.format == "orc":
                stripes = orc.ORCFile(stream)
                yield from (pa.Table.from_batches([stripes.read_stripe(i)]) for i in range(stripes.nstripes))
                return
            yield from (pa.Table.from_batches([batch]) for batch in pq.ParquetFile(stream).iter_batches(ROWS))
        return
    with filesystem.open_input_stream(path) as stream:  # which unpacks .gz by itself
        lines = io.TextIOWrapper(stream, encoding="utf-8", newline="\n" if file.format == "txt" else "")
        if file.format == "txt":
            rows: Iterator[list[str]] = ([line.rstrip("\r\n")] for line in lines if line.strip())
            header = ["key"]
        else:
            rows = csv.reader(lines)
            header = list(file.header) or next(rows, [])
        while page := list(islice(rows, ROWS)):
            if any(len(row) != len(header) for row in page):
                raise UserError(f"--inventory {file.uri}: rows of another length than the header {','.join(header)}")
            yield pa.table(
                [pa.array([value or None for value in column], pa.string()) for column in zip(*page, strict=True)],
                names=header,
            )


def _listing(table: pa.Table, file: InventoryFile, source: str, bucket: str, prefix: str) -> pa.Table:
    """The rows of one table that lie below the source, in the columns of storage.LISTING."""
    names = {COLUMNS.get(name.lower().replace("_", "")): name for name in reversed(table.column_names)}
    names.pop(None, None)
    if "key" not in names:
        raise UserError(f"--inventory {file.uri}: no column key, only {', '.join(table.column_names)}")
    table = table.select(list(names.values())).rename_columns(list(names))
    for flag, wanted in (("islatest", True), ("isdeletemarker", False)):
        if flag in table.column_names:
            table = table.filter(pc.field(flag).is_null() | (pc.field(flag).cast(pa.bool_()) == wanted))
    in_bucket = "bucket" in table.column_names
    if in_bucket:
        table = table.filter(pc.field("bucket") == bucket)

    def column(name: str, type: pa.DataType) -> pa.ChunkedArray:
        return table[name].cast(type) if name in table.column_names else pa.nulls(len(table), type)

    modified = table["modified"] if "modified" in table.column_names else pa.nulls(len(table), TIME)
    if pa.types.is_string(modified.type):
        modified = pa.array([text and datetime.fromisoformat(text) for text in modified.to_pylist()], TIME)
    columns = [
        pa.array([_relative(key, file, source, prefix, in_bucket) for key in table["key"].to_pylist()], pa.string()),
        pc.call_function("utf8_trim", [column("version", pa.string())], pc.TrimOptions('"')),
        column("size", pa.int64()),
        modified.cast(TIME),
        column("storage_class", pa.string()),
    ]
    return pa.table(columns, schema=storage.LISTING).filter(pc.field("key").is_valid())


def _relative(key: str | None, file: InventoryFile, source: str, prefix: str, in_bucket: bool) -> str | None:
    """A key as the listing of the source tells it; None for one outside, and for the marker of a folder."""
    if not key or key.endswith("/"):
        return None
    if in_bucket:
        key = unquote_plus(key) if file.quoted else key
        return key.removeprefix(prefix) if key.startswith(prefix) else None
    if "://" in key:
        return key.removeprefix(source + "/") if key.startswith(source + "/") else None
    if not source.startswith("s3://") and (key.startswith("/") or ".." in key.split("/")):
        raise UserError(f"--inventory {file.uri}: {key} leads out of {source}")
    return key


def _asked(listed: pa.Table, source: str, apply: Callable[..., Iterator[Any]]) -> pa.Table:
    """With version, size and time of change of those objects that have none, as the store tells them."""
    asked = zip(listed["version"].to_pylist(), listed["size"].to_pylist(), strict=True)
    unknown = [version is None or size is None for version, size in asked]
    if not any(unknown):
        return listed

    def ask(row: dict[str, Any]) -> dict[str, Any]:
        try:
            version, size, modified = storage.stat(f"{source.rstrip('/')}/{row['key']}")
        except FileNotFoundError:
            return row
        return row | {"version": version, "size": size, "modified": modified}

    rows = listed.to_pylist()
    rows = list(apply(lambda row, is_unknown: ask(row) if is_unknown else row, rows, unknown))
    return pa.Table.from_pylist(rows, storage.LISTING)
