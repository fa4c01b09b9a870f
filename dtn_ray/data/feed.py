"""Batches of s and t for a training, starting at any position given by a few numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dtn_ray.data.bad_rows import BadRows
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.order import batch_indices, worker_slice

# The order of t differs from that of s; with one seed for both, equal sizes would pair the sets up.
T_STREAM = 1_000_003

Batches = Iterator[tuple[np.ndarray, np.ndarray]]
"""Images of s and of t; for the training of a classifier, images and labels."""
Stages = Sequence[tuple[int, int]]
"""The steps that a training has already done: pairs of a number of workers and a number of steps, in order."""


class Feed(Protocol):
    """The source of a training's batches."""

    @property
    def bad_rows(self) -> BadRows | None:
        """Rows without an image that this process has found; None if the data cannot hold any."""

    def batches(self, done: Stages, rank: int, workers: int, batch_size: int, seed: int) -> Iterator[Any]:
        """This worker's shares of the global batches of `batch_size`, after the steps in `done`; endless.

        A batch has the type that the training's `step` expects.
        """


@dataclass(frozen=True)
class InMemory:
    """Sets that every worker holds whole: the digits."""

    s: LabelledImages
    t: LabelledImages
    bad_rows = None

    def batches(self, done: Stages, rank: int, workers: int, batch_size: int, seed: int) -> Batches:
        """This worker's shares of the global batches, N×C×H×W uint8 of s and of t, after `done`; endless."""
        step = sum(steps for _, steps in done)
        while True:
            s = worker_slice(batch_indices(len(self.s), batch_size, step, seed), rank, workers)
            t = worker_slice(batch_indices(len(self.t), batch_size, step, seed + T_STREAM), rank, workers)
            yield self.s.images[s], self.t.images[t]
            step += 1


@dataclass(frozen=True)
class InMemoryLabelled:
    """A set that every worker holds whole, for the training of a classifier: the digits."""

    train: LabelledImages
    bad_rows = None

    def __len__(self) -> int:
        return len(self.train)

    def batches(self, done: Stages, rank: int, workers: int, batch_size: int, seed: int) -> Batches:
        """This worker's shares of the global batches, N×C×H×W uint8 and N int64, after `done`; endless."""
        step = sum(steps for _, steps in done)
        while True:
            indices = worker_slice(batch_indices(len(self.train), batch_size, step, seed), rank, workers)
            yield self.train.images[indices], self.train.labels[indices]
            step += 1


@dataclass(frozen=True)
class InMemoryAdaptation:
    """A labelled and an unlabelled set that every worker holds whole, for a classifier that is adapted from one to the
    other: the digits."""

    source: LabelledImages
    target: np.ndarray
    bad_rows = None

    def batches(
        self, done: Stages, rank: int, workers: int, batch_size: int, seed: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """This worker's shares of the global batches after what is done; endless.

        Images and labels of the source, N×C×H×W uint8 and N int64, and as many images of the target.
        """
        step = sum(steps for _, steps in done)
        while True:
            s = worker_slice(batch_indices(len(self.source), batch_size, step, seed), rank, workers)
            t = worker_slice(batch_indices(len(self.target), batch_size, step, seed + T_STREAM), rank, workers)
            yield self.source.images[s], self.source.labels[s], self.target[t]
            step += 1
