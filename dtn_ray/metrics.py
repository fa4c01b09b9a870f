"""The Prometheus metrics of our jobs, exported beside Ray's own; cluster/grafana/ shows both.

Prometheus sees each name here with the prefix `ray_`, and counters with the suffix `_total`. A counter stays until its
node ends; a gauge stays as long as the process that set it, plus some seconds.
"""

import time
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from ray.util.metrics import Counter, Gauge

from dtn_ray.text.display import label

TRAINING = ("run",)  # its name
JOB = ("kind", "out")  # conversion, ingestion, …, and its OUT


class TrainingMetrics:
    """The progress of a training, reported by its worker of rank 0."""

    def __init__(self, run: str) -> None:
        self.run = label(run)
        self.steps = Gauge("dtn_train_step", "Steps done", TRAINING)
        self.rate = Gauge("dtn_train_images_per_second", "Images of s that all workers train on in a second", TRAINING)
        self.losses = Gauge("dtn_train_loss", "A loss over one batch", (*TRAINING, "loss"))
        self.validation = Gauge("dtn_train_validation", "A measurement on held-out images", (*TRAINING, "metric"))

    def log(self, step: int, images_per_second: float, losses: Mapping[str, float]) -> None:
        self.steps.set(step, {"run": self.run})
        self.rate.set(images_per_second, {"run": self.run})
        for name, value in losses.items():
            self.losses.set(value, {"run": self.run, "loss": name})

    def validated(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.validation.set(value, {"run": self.run, "metric": name})


class OutcomeMetrics:
    """The objects that one actor of a bulk job has finished."""

    def __init__(self) -> None:
        self.images = Counter("dtn_images", "Images that a bulk job finished", ("status", "cause"))
        self.bytes = Counter("dtn_bytes_read", "Bytes of images that a bulk job read")

    def add(self, outcomes: pa.Table) -> None:
        """Counts rows of the ledger."""
        counts = outcomes.group_by(["status", "cause"]).aggregate([([], "count_all")])
        for row in counts.to_pylist():
            self.images.inc(row["count_all"], {"status": row["status"], "cause": row["cause"] or ""})
        if size := pc.call_function("sum", [outcomes["size"]]).as_py():  # a counter takes no zero
            self.bytes.inc(size)


class JobMetrics:
    """The progress of a bulk job and how it ended, reported by its driver."""

    def __init__(self, kind: str, out: str) -> None:
        self.tags = {"kind": kind, "out": label(out)}
        self.ledger = Gauge("dtn_ledger_images", "Images of the source, by what the ledger says", (*JOB, "status"))
        self.failed = Gauge("dtn_ledger_failed", "Images of the source that failed, by cause", (*JOB, "cause"))
        self.end = Gauge("dtn_job_end_timestamp_seconds", "When the last run ended, by outcome", (*JOB, "outcome"))
        self.time = Gauge("dtn_job_seconds", "How long the last run took, by outcome", (*JOB, "outcome"))

    def count(self, counts: Mapping[str, int], causes: Mapping[str, int]) -> None:
        """`counts`: of the ledger, such as done_before, failed and remaining; `causes`: of the failed."""
        for status, images in counts.items():
            self.ledger.set(images, self.tags | {"status": status})
        for cause, images in causes.items():
            self.failed.set(images, self.tags | {"cause": cause})

    def ended(self, outcome: str, seconds: float) -> None:
        self.end.set(time.time(), self.tags | {"outcome": outcome})
        self.time.set(seconds, self.tags | {"outcome": outcome})
