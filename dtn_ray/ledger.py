"""The ledger of conversions: which object was converted by which model, with what outcome. Knows no Ray.

A folder of Parquet parts. A part is written whole, under a name of its own, after the outputs that it tells of: a run
that is killed loses at most the rows of outputs that the next run writes again. Of several rows for one key and model
the newest holds, so parts may overlap, and reading needs no lock.
"""

import io
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dtn_ray import storage
from dtn_ray.errors import UserError

FORMAT = 1
SCHEMA = pa.schema(
    {
        "key": pa.string(),  # of the source object, relative to the source
        "version": pa.string(),  # its ETag, or a local file's size and time of change
        "size": pa.int64(),  # bytes
        "status": pa.string(),  # converted or failed
        "cause": pa.string(),  # of a failure: image (for good), store or model (worth another try)
        "reason": pa.string(),  # of a failure, in words
        "output": pa.string(),  # relative to OUT
        "score": pa.float32(),  # ‖f(x) - f(G(x))‖
        "model": pa.string(),  # digest of G
        "attempts": pa.int32(),  # tries of this key by this model, this one included
        "time": pa.timestamp("us", "UTC"),
    },
    metadata={"ledger_format": str(FORMAT)},
)
ROWS_PER_PART = 1_000_000


class Ledger:
    """The ledger in one folder or prefix."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def read(self) -> pa.Table:
        """The newest row for each key and model, sorted by them; no rows where there is no ledger yet.

        Raises UserError for a part that is damaged or of a newer format.
        """
        while True:
            try:
                return newest(self._read(self._parts()))
            except FileNotFoundError:  # a compaction beside this has just replaced the part: list again
                continue

    def append(self, rows: pa.Table) -> None:
        """Writes rows (all columns but `time`, in any order) as one part. Their outputs must be written by now."""
        now = pa.array([round(time.time() * 1e6)] * len(rows), pa.timestamp("us", "UTC"))
        self._write(f"part-{uuid.uuid4().hex}", rows.append_column("time", now))

    def compact(self) -> pa.Table:
        """Rewrites the parts as one set without superseded rows, and returns its rows.

        Only parts whose rows are in the new set are deleted, and only once it is written: whatever a crash, or another
        writer, leaves beside it reads the same.
        """
        parts = self._parts()
        rows = newest(self._read(parts))
        if len(parts) > 1:
            # Sorts after all that it replaces, so that a long listing meets the one or the other.
            name = f"{time.time_ns():020}-{uuid.uuid4().hex}"
            for i, start in enumerate(range(0, len(rows), ROWS_PER_PART)):
                self._write(f"set-{name}-{i:05}", rows.slice(start, ROWS_PER_PART))
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(storage.delete, parts))
        return rows

    def _parts(self) -> list[str]:
        files = storage.list_files(self.uri)
        return [storage.join(self.uri, file.key) for file in files if file.key.endswith(".parquet")]

    def _read(self, parts: list[str]) -> pa.Table:
        with ThreadPoolExecutor(16) as pool:
            return pa.concat_tables([SCHEMA.empty_table(), *pool.map(_read_part, parts)])

    def _write(self, name: str, rows: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(rows.select(SCHEMA.names).cast(SCHEMA), buffer)
        storage.write_bytes(storage.join(self.uri, f"{name}.parquet"), buffer.getvalue())


def newest(rows: pa.Table) -> pa.Table:
    """Of each key and model the row of most attempts; among those, as clocks differ between machines, the latest."""
    order = [("model", "ascending"), ("key", "ascending"), ("attempts", "descending"), ("time", "descending")]
    rows = rows.sort_by(order).combine_chunks()
    if len(rows) < 2:
        return rows
    key, model = rows["key"], rows["model"]
    other = pc.call_function(
        "or", [pc.call_function("not_equal", [column[1:], column[:-1]]) for column in (key, model)]
    )
    return rows.filter(pa.chunked_array([pa.array([True]), *other.chunks]))


def _read_part(uri: str) -> pa.Table:
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(uri)))
        written = int((table.schema.metadata or {})[b"ledger_format"])
        if written > FORMAT:
            raise UserError(
                f"{uri}: a ledger of format {written}, this version of dtn-ray reads up to format {FORMAT}: "
                "update dtn-ray, or choose another OUT"
            )
        return table.select(SCHEMA.names).cast(SCHEMA)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{uri}: this part of the ledger cannot be read ({error}). If it is damaged, delete it: "
            "what it told of is converted again."
        ) from error
