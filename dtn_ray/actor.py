"""A Pipeline on Ray. Its module is small because each actor spends its first seconds on importing it."""

import io
from collections.abc import Callable
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.util import metrics

from dtn_ray import storage
from dtn_ray.pipeline import Pipeline


class Actor:
    """Turns blocks of the work list into rows of the ledger, and counts for the dashboard what it does."""

    def __init__(self, make: Callable[..., Pipeline], work: str, threads: int | None) -> None:
        """`make`: a Pipeline of `scratch` and `threads`; `work`: the folder of the work list."""
        self.pipeline = make(scratch=_scratch(work), threads=threads)
        self.images = metrics.Counter("dtn_images", "Images that a bulk job finished", ("status", "cause"))
        self.bytes = metrics.Counter("dtn_bytes_read", "Bytes of images that a bulk job read")

    def __call__(self, batch: pa.Table) -> pa.Table:
        (block,) = batch.to_pylist()
        outcomes = self.pipeline(_work(block["uri"]).slice(block["start"], block["stop"] - block["start"]))
        for status, cause in set(zip(outcomes["status"].to_pylist(), outcomes["cause"].to_pylist(), strict=True)):
            rows = outcomes.filter(pc.field("status") == status)
            rows = rows.filter(pc.field("cause") == cause) if cause else rows
            self.images.inc(len(rows), {"status": status, "cause": cause or ""})
        if size := pc.call_function("sum", [outcomes["size"]]).as_py():  # a counter takes no zero
            self.bytes.inc(size)
        return outcomes


@lru_cache(maxsize=2)
def _work(uri: str) -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read_bytes(uri)))


def _scratch(work: str) -> str | None:
    return None if work.startswith("s3://") else storage.resolve(work)[1]
