"""Batches of s and t for a training, from a position that a few numbers tell."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dtn_ray.data import stream
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.order import batch_indices, worker_slice

# The order of t differs from that of s; with one seed for both, equal sizes would pair the sets up.
T_STREAM = 1_000_003

Batches = Iterator[tuple[np.ndarray, np.ndarray]]
Stages = Sequence[tuple[int, int]]
"""What a training has done already: numbers of workers, and of steps taken by them, in order."""


@dataclass(frozen=True)
class InMemory:
    """Sets that every worker holds whole: the digits."""

    s: LabelledImages
    t: LabelledImages

    def batches(self, done: Stages, rank: int, workers: int, batch_size: int, seed: int) -> Batches:
        """This worker's shares of the global batches, N×C×H×W uint8 of s and of t, after what is done; endless."""
        step = sum(steps for _, steps in done)
        while True:
            s = worker_slice(batch_indices(len(self.s), batch_size, step, seed), rank, workers)
            t = worker_slice(batch_indices(len(self.t), batch_size, step, seed + T_STREAM), rank, workers)
            yield self.s.images[s], self.t.images[t]
            step += 1


@dataclass(frozen=True)
class Streamed:
    """Sets of any size in Parquet files, of which a worker holds a few windows at a time: the faces."""

    s: list[stream.Group]
    t: list[stream.Group]
    size: int
    """Pixels of the square that images are scaled to."""

    def batches(self, done: Stages, rank: int, workers: int, batch_size: int, seed: int) -> Batches:
        """As InMemory's. No row of an epoch comes twice or never, also if the number of workers changes on the way."""

        def share(groups: list[stream.Group], seed: int) -> Iterator[np.ndarray]:
            left = stream.windows(groups, seed)
            for before, steps in done:
                left = stream.left_after(left, before, steps * batch_size // before)
            return stream.batches(left, rank, workers, batch_size // workers, self.size)

        return zip(share(self.s, seed), share(self.t, seed + T_STREAM), strict=True)
