"""An actor that runs a Pipeline on Ray. The module is small because every actor imports it before it can start."""

from collections.abc import Callable
from functools import lru_cache

import pyarrow as pa

from dtn_ray import storage
from dtn_ray.bulk.pipeline import Pipeline
from dtn_ray.errors import UserError
from dtn_ray.metrics import OutcomeMetrics
from dtn_ray.parquet import sealed


class Actor:
    """Turns blocks of the work list into rows of the ledger, and updates the metrics."""

    def __init__(self, make: Callable[..., Pipeline], work: str, cpus: int | None) -> None:
        """`make`: makes a Pipeline from `scratch` and `cpus`; `work`: the folder of the work list."""
        self.pipeline = make(scratch=_scratch(work), cpus=cpus)
        self.metrics = OutcomeMetrics()

    def __call__(self, batch: pa.Table) -> pa.Table:
        (block,) = batch.to_pylist()
        outcomes = self.pipeline(_work(block["uri"]).slice(block["start"], block["stop"] - block["start"]))
        self.metrics.add(outcomes)
        return outcomes


@lru_cache(maxsize=2)
def _work(uri: str) -> pa.Table:
    try:
        with sealed.open_file(pa.BufferReader(storage.read_bytes(uri)), uri) as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{uri}: the work list cannot be read ({reason}); the same command makes a new one") from error


def _scratch(work: str) -> str | None:
    return None if storage.is_s3(work) else storage.resolve(work)[1]
