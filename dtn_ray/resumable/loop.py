"""The loop that every training runs on each of its workers: resume, step, log, validate, save, report.

A `Training` defines what is trained: its networks, one step, the validation, the checkpoint. A worker runs

    worker = start_worker(seed)
    train_steps(MyTraining(…, worker), worker, run)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray.train
import ray.train.torch
import torch
from torch import Tensor

from dtn_ray.data.feed import Feed, Stages
from dtn_ray.data.order import step_seed
from dtn_ray.metrics import TrainingMetrics
from dtn_ray.progress import Progress
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.report import of_all_workers, report, use_assigned_cpus


@dataclass(frozen=True)
class Worker:
    """This process among the data-parallel workers of a training."""

    rank: int
    """The worker of rank 0 logs, validates and saves for all."""
    workers: int
    device: torch.device
    run_name: str


def start_worker(seed: int) -> Worker:
    """Call this on each worker before it builds its networks; they are then the same on all workers."""
    use_assigned_cpus()
    torch.manual_seed(seed)
    context = ray.train.get_context()
    return Worker(
        context.get_world_rank(),
        context.get_world_size(),
        ray.train.torch.get_device(),
        context.get_experiment_name(),
    )


class Measured(NamedTuple):
    """Outcome of a validation."""

    metrics: Mapping[str, Any]
    """Reported and saved; plain values."""
    shown: Mapping[str, float]
    """Shown in the progress line and in Prometheus."""


class Training(ABC):
    """One kind of training. The constructor builds networks and optimisers, and makes the networks data-parallel."""

    title: str
    """First word of each progress line."""
    seed: int
    steps: int
    batch_size: int
    """Size of the global batch, over all workers."""
    feed: Feed

    @abstractmethod
    def restore(self, folder: Path) -> Stages:
        """Loads networks and optimisers from a checkpoint that `save` wrote; returns its `stages`."""

    @abstractmethod
    def step(self, batch: Any, step: int) -> dict[str, Tensor]:
        """One update with this worker's share of a global batch. `step` counts from 0.

        Returns the losses, detached scalars on the device. Torch's random generator is seeded for the step, on all
        workers alike: what is random of a sample is drawn by `drawn_by_sample` (dtn_ray/models/workers.py), so that it
        does not depend on the number of workers.
        """

    def shown(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """Losses, or `Measured.shown`, as the progress line shows them."""
        return values

    def log(self, done: int, losses: Mapping[str, float], images_per_second: float) -> None:  # noqa: B027 (few need it)
        """Logs more than the progress line and Prometheus show, after `done` steps. Called on rank 0 only."""

    @abstractmethod
    def measure(self, done: int) -> Measured:
        """Validates after `done` steps. Called on rank 0 only."""

    @abstractmethod
    def save(self, folder: Path, metrics: dict[str, Any], stages: Stages) -> None:
        """Writes a checkpoint into a folder. Called on rank 0 only.

        `metrics`: `step`, `resumed_at`, the losses and the measurements. `stages`: how many workers have done how many
        steps, which gives the position in the data at which to resume.
        """

    def close(self) -> None:  # noqa: B027 (few need it)
        """Called after the last step."""


def train_steps(training: Training, worker: Worker, run: Run, *, quiet: bool = False) -> None:
    """Trains from the last checkpoint, or from the beginning, to the last step. `quiet`: prints no progress."""
    # Resume.
    before: Stages = []
    if (last := ray.train.get_checkpoint()) is not None:
        with last.as_directory() as folder:
            before = training.restore(Path(folder))
    start = sum(steps for _, steps in before)

    first = worker.rank == 0
    progress = Progress(training.title, start, training.steps, training.batch_size, quiet=quiet or not first)
    exported = TrainingMetrics(worker.run_name)
    batches = training.feed.batches(before, worker.rank, worker.workers, training.batch_size, training.seed)
    for step in range(start, training.steps):
        # Step.
        batch = next(batches)
        torch.manual_seed(step_seed(training.seed, step))
        losses = training.step(batch, step)
        done = step + 1

        # Log.
        if first and done % run.log_every == 0:
            values = {name: value.item() for name, value in losses.items()}
            images_per_second = progress.update(done, training.shown(values))
            exported.log(done, images_per_second, values)
            training.log(done, values, images_per_second)

        # Validate and save. A report waits for all workers, so all workers must report.
        if done % run.checkpoint_every == 0 or done == training.steps:
            metrics: dict[str, Any] = {"step": done, "resumed_at": start}
            metrics |= {name: value.item() for name, value in losses.items()}
            if training.feed.bad_rows is not None:
                metrics["bad_rows"] = len(of_all_workers(training.feed.bad_rows.found))
            if not first:
                report(metrics)
                continue
            measured = training.measure(done)
            if measured.shown:
                exported.validated(measured.shown)
                progress.update(done, training.shown(measured.shown))
            metrics |= measured.metrics
            stages = [*before, (worker.workers, done - start)]
            report(metrics, partial(training.save, metrics=metrics, stages=stages))
    training.close()
