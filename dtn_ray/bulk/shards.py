"""Many results in one file, for training: Parquet, or a tar in WebDataset's format."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dtn_ray import storage
from dtn_ray.parquet import tables
from dtn_ray.storage import json_files, local_writes

SUFFIXES = {"parquet": "parquet", "webdataset": "tar"}
SCHEMA = pa.schema({"key": pa.string(), "version": pa.string(), "score": pa.float32(), "image": pa.binary()})
LARGEST_ROW = 1 << 20  # bytes of JSON; keys have at most 65,536 characters
ROWS_PER_GROUP = 256  # small row groups, so that a training's stream shuffles well


def shard_name(files: Sequence[tuple[str, str | None]], kind: str) -> str:
    """The name of the shard for some keys and versions: a pure function, so that a repeated write replaces the
    shard."""
    return f"{hashlib.sha256(json.dumps(files).encode()).hexdigest()[:24]}.{SUFFIXES[kind]}"


def is_shard(uri: str) -> bool:
    """Whether `pack` made a file: its name matches the keys and versions in it, and it is not a link."""
    if not storage.is_s3(uri) and local_writes.is_link(storage.local_path(uri)):
        return False
    name = uri.rpartition("/")[2]
    kind = next((kind for kind, suffix in SUFFIXES.items() if name.endswith(f".{suffix}")), None)
    if kind is None:
        return False
    try:
        files = [file for file, _ in groupby(_files_in(uri, kind))]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, tarfile.TarError):
        return False
    return name == shard_name(files, kind)


def _files_in(uri: str, kind: str) -> list[tuple[str, str | None]]:
    """Key and version of each image of a shard."""
    if kind == "parquet":
        with tables.opened(uri) as file:
            groups = [file.read(i, ["key", "version"]).to_pylist() for i in range(len(file.rows))]
        return [(row["key"], row["version"]) for group in groups for row in group]
    with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(uri))) as tar:
        told = [member for member in tar if member.name.endswith(".json") and member.size < LARGEST_ROW]
        files = [tar.extractfile(member) for member in told]
        found = [json_files.parse(file.read(), uri) for file in files if file]
    return [(row["key"], row["version"]) for row in found]


def pack(rows: Sequence[dict[str, Any]], schema: pa.Schema, kind: str, format: str) -> bytes:
    """One shard of `schema`: Parquet, or a tar with <number>.<format> and <number>.json for each row. Deterministic."""
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(list(rows), schema)
    if kind == "parquet":
        compression = {name: "none" if name == "image" else "snappy" for name in schema.names}
        pq.write_table(table, buffer, row_group_size=ROWS_PER_GROUP, compression=compression, write_page_checksum=True)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i, row in enumerate(table.to_pylist()):
            image = row.pop("image")
            # Keys cannot be the names, because WebDataset splits names at the first dot.
            for suffix, content in ((format, image), ("json", json.dumps(row).encode())):
                member = tarfile.TarInfo(f"{i:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def read_image(uri: str, kind: str, number: int, format: str) -> bytes:
    """One image of a shard. Of a Parquet file, which may be large, only the image's row group is read.

    Raises OSError if the shard cannot be read, ValueError if the image is not in it.
    """
    if kind == "parquet":
        with tables.opened(uri) as file:
            for group, rows in enumerate(file.rows):
                if 0 <= number < rows:
                    return file.read(group, ["image"])["image"][number].as_py()
                number -= rows
    else:
        with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(uri))) as tar:
            name = f"{number:06}.{format}"
            if name in tar.getnames() and (member := tar.extractfile(name)):
                return member.read()
    raise ValueError(f"{uri}: no image {number} in the shard")
