"""Many results in one file, for training on them: Parquet, or a tar as WebDataset reads it."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = {"parquet": "parquet", "webdataset": "tar"}
SCHEMA = pa.schema({"key": pa.string(), "version": pa.string(), "score": pa.float32(), "image": pa.binary()})


@dataclass(frozen=True)
class Result:
    """G(x), encoded, and what it came from."""

    key: str
    version: str | None
    score: float
    image: bytes


def shard_name(files: Sequence[tuple[str, str | None]], kind: str) -> str:
    """The name of the shard for some keys and versions: the same for the same, so that a repeated write replaces it."""
    return f"{hashlib.sha256(json.dumps(files).encode()).hexdigest()[:24]}.{SUFFIXES[kind]}"


def pack(results: Sequence[Result], kind: str, format: str) -> bytes:
    """One shard: rows of SCHEMA, or for each result <number>.<format> and <number>.json. The same bytes every time."""
    buffer = io.BytesIO()
    if kind == "parquet":
        table = pa.Table.from_pylist([vars(result) for result in results], SCHEMA)
        pq.write_table(table, buffer, compression={name: "snappy" for name in ("key", "version")})
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i, result in enumerate(results):
            about = {"key": result.key, "version": result.version, "score": result.score}
            # Keys themselves would not do as names: WebDataset cuts names at their first dot.
            for suffix, content in ((format, result.image), ("json", json.dumps(about).encode())):
                member = tarfile.TarInfo(f"{i:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def unpack(shard: bytes, kind: str, number: int, format: str) -> bytes:
    """One image of a shard. Raises ValueError where it is not there."""
    if kind == "parquet":
        images = pq.read_table(io.BytesIO(shard), columns=["image"])["image"]
        if number < len(images):
            return images[number].as_py()
    else:
        with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
            name = f"{number:06}.{format}"
            if name in tar.getnames() and (member := tar.extractfile(name)):
                return member.read()
    raise ValueError(f"no image {number} in the shard")
