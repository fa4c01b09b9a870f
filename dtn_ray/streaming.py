"""Ray Data: streams sets of any size from Parquet files to a training's workers."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dtn_ray.cluster import causes, quiet_ray_data
from dtn_ray.data import stream
from dtn_ray.data.feed import T_STREAM, Batches, Stages

# Rows given to Ray Data together. It reads ahead of the training as far as a third of the machine's memory goes; of
# these, decoded at 152 pixels, it can hold 1.1 GB. (Its own limit on the object store made streams stand still.)
ROWS_AT_ONCE = 16_384
BLOCK = 16 << 20  # bytes that are handed over together; of Ray Data's 128 MB, a reader would hold many
READ_AHEAD = 8  # batches that wait for the worker


@dataclass(frozen=True)
class Streamed:
    """Sets of any size in Parquet files, of which some windows are held at a time: the faces."""

    s: list[stream.Group]
    t: list[stream.Group]
    size: int
    """Pixels of the square that images are scaled to."""

    def batches(self, done: Stages, rank: int, workers: int, batch_size: int, seed: int) -> Batches:
        """As InMemory's. No row of an epoch comes twice or never, also if the number of workers changes on the way."""
        readers = [
            Reader.options(  # type: ignore[attr-defined]
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(_node(), soft=True)
            ).remote(groups, own_seed, done, rank, workers, batch_size, self.size)
            for groups, own_seed in ((self.s, seed), (self.t, seed + T_STREAM))
        ]
        return zip(*map(_ahead, readers), strict=True)


def _node() -> str:
    return ray.get_runtime_context().get_node_id()


def _ahead(reader: Any) -> Iterator[np.ndarray]:
    """A reader's batches, of which some are always under way."""
    waiting = deque(reader.next.remote() for _ in range(READ_AHEAD))
    while True:
        with causes():
            batch = ray.get(waiting.popleft())
        waiting.append(reader.next.remote())
        yield batch


@ray.remote
class Reader:
    """Holds one worker's stream of one set.

    In a process of its own: Ray Data's threads never rest, and beside them a step took several times as long.
    """

    def __init__(
        self,
        groups: list[stream.Group],
        seed: int,
        done: Stages,
        rank: int,
        workers: int,
        batch_size: int,
        size: int,
    ) -> None:
        left = stream.windows(groups, seed)
        for before, steps in done:
            left = stream.left_after(left, before, steps * batch_size // before)
        self.batches = _batches(islice(left, rank, None, workers), batch_size // workers, size)

    def next(self) -> np.ndarray:
        return next(self.batches)


def _batches(windows: Iterator[stream.Window], batch_size: int, size: int) -> Iterator[np.ndarray]:
    """The images of windows in endless batches N×3×`size`×`size` uint8, read ahead by Ray Data."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK
    quiet_ray_data()

    def blocks(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for window in batch["item"]:
            yield from ({"image": some} for some in stream.read(window, size))

    held = np.empty((0, 3, size, size), np.uint8)
    while some := list(_together(windows)):
        images = ray.data.from_items([{"item": window} for window in some], override_num_blocks=len(some)).map_batches(
            blocks,  # type: ignore[arg-type]
            batch_size=1,
            num_cpus=0.25,
        )
        for found in images.iter_batches(batch_size=None, prefetch_batches=4):
            held = np.concatenate([held, found["image"]])
            while len(held) >= batch_size:
                yield held[:batch_size]
                held = held[batch_size:]


def _together(windows: Iterator[stream.Window]) -> Iterator[stream.Window]:
    """The next windows, of ROWS_AT_ONCE rows or little more."""
    rows = 0
    for window in windows:
        yield window
        rows += window.rows
        if rows >= ROWS_AT_ONCE:
            return
