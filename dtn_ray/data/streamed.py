"""Ray Data: streams sets of any size from Parquet files to the workers of a training."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dtn_ray.data.bad_rows import BadRows
from dtn_ray.data.feed import T_STREAM, Batches, Stages
from dtn_ray.data.rows import Rows, count_rows
from dtn_ray.data.windows import Part, parts_of, read_window, windows_of
from dtn_ray.ray_cluster.connect import causes, quiet_ray_data

# Rows that one execution of Ray Data reads, while the training uses the rows of the previous one: decoded at 152
# pixels, 570 MB. An execution that waits for its consumer takes a third of a core, but one that has ended takes
# nothing.
ROWS_AT_ONCE = 8192
ROWS_AT_FIRST = 256  # of the first execution; doubled each time, so that a training begins soon
WINDOWS_AT_ONCE = 64  # most windows of one execution; a window with few rows takes as long to open as one with many
ROWS_PER_TASK = 512
BLOCK = 16 << 20  # bytes of a block; with Ray Data's default of 128 MB, a reader would hold too much
CPUS_TO_READ = (
    0.5  # CPUs that trainings leave free; they then wait for the readers of two sets at most a tenth of the time
)
TASK_CPUS = 0.25
READ_AHEAD = 8  # prefetched batches

Columns = dict[str, np.ndarray]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """One worker's share of the global batches of one set."""

    groups: Sequence[Rows]
    seed: int
    done: Stages
    """The steps after which it begins."""
    rank: int
    workers: int
    batch_size: int
    """Size of the global batch."""
    size: int
    """Width and height to which images are scaled, in pixels."""
    columns: Sequence[str] = ()
    """Columns to read besides `image`."""

    def parts(self) -> Iterator[Part]:
        """What this worker reads of each window; endless."""
        taken = self.batch_size * sum(steps for _, steps in self.done)
        windows = windows_of(self.groups, self.seed, taken=taken)
        return parts_of(windows, self.rank, self.workers, self.batch_size)


@dataclass(frozen=True)
class Streamed:
    """Sets of any size in Parquet files, such as faces; a few windows are in memory at a time."""

    s: Sequence[Rows]
    t: Sequence[Rows]
    size: int
    """Pixels of the square that images are scaled to."""
    bad_rows: BadRows = field(default_factory=BadRows)
    """The bad rows that this process found in either set."""

    def batches(self, done: Stages, rank: int, workers: int, batch_size: int, seed: int) -> Batches:
        """As InMemory's. The global batches are the same for any number of workers, and wherever the training stopped.

        Each epoch has every row exactly once.
        """
        s, t = (
            batches(Share(groups, own_seed, done, rank, workers, batch_size, self.size), self.bad_rows)
            for groups, own_seed in ((self.s, seed), (self.t, seed + T_STREAM))
        )
        return ((of_s["image"], of_t["image"]) for of_s, of_t in zip(s, t, strict=True))


@dataclass(frozen=True)
class StreamedPeople:
    """The training data of DeepFace: any number of faces of people, in Parquet files or folders."""

    groups: Sequence[Rows]
    people: Sequence[str]
    """The people with the class numbers 0, 1, …"""
    size: int
    """Pixels of the square that images are scaled to."""
    bad_rows: BadRows = field(default_factory=BadRows)
    """The bad rows that this process found."""

    def __len__(self) -> int:
        return count_rows(self.groups)

    def batches(self, done: Stages, rank: int, workers: int, batch_size: int, seed: int) -> Batches:
        """This worker's shares of the global batches, N×3×`size`×`size` uint8 and N int64, after what is done."""
        numbers = {name: i for i, name in enumerate(self.people)}
        share = Share(self.groups, seed, done, rank, workers, batch_size, self.size, ["identity"])
        own = batches(share, self.bad_rows)
        return ((some["image"], np.array([numbers[str(name)] for name in some["identity"]])) for some in own)


def batches(share: Share, bad_rows: BadRows) -> Iterator[Columns]:
    """The batches of a share, prefetched; endless.

    `image` is N×3×`size`×`size` uint8; other columns are as stored. Rows without an image are counted in `bad_rows`.
    Raises UserError for too many of them, and for files that are gone.
    """
    node = ray.get_runtime_context().get_node_id()
    reader = Reader.options(  # type: ignore[attr-defined]
        num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)
    ).remote(share)
    # Requests the first batches now, so that several readers start at the same time.
    return _ahead(reader, deque(reader.next.remote() for _ in range(READ_AHEAD)), bad_rows)


def _ahead(reader: Any, waiting: deque[ray.ObjectRef], bad_rows: BadRows) -> Iterator[Columns]:
    try:
        while True:
            with causes():
                batch = ray.get(waiting.popleft())
            waiting.append(reader.next.remote())
            bad_rows.add(batch.pop("bad"))
            yield batch
    finally:
        # Otherwise its process would wait forever for a thread of Ray Data, and keep its memory.
        if ray.is_initialized():
            ray.kill(reader)


@ray.remote
class Reader:
    """One worker's stream of one set.

    Runs in its own process: in the same process as Ray Data's threads, a training step took several times as long.
    """

    def __init__(self, share: Share) -> None:
        batch_size = share.batch_size // share.workers
        self.batches = _batches(share.parts(), batch_size, share.size, share.columns)

    def next(self) -> Columns:
        return next(self.batches)


def _batches(parts: Iterator[Part], batch_size: int, size: int, columns: Sequence[str]) -> Iterator[Columns]:
    """The rows of one worker's parts in endless batches."""
    held: Columns = {}
    for decoded in _one_ahead(_decoded(some, size, columns) for some in _together(parts)):
        found: Columns
        for found in decoded.iter_batches(batch_size=None, prefetch_batches=0):  # type: ignore[assignment]
            held = {name: np.concatenate([held[name], rows]) if held else rows for name, rows in found.items()}
            while len(held["image"]) >= batch_size:
                yield {name: rows[:batch_size] for name, rows in held.items()}
                held = {name: rows[batch_size:] for name, rows in held.items()}


def _decoded(parts: list[Part], size: int, columns: Sequence[str]) -> ray.data.Dataset:
    """The rows of some parts, by Ray Data, in the object store."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK
    quiet_ray_data()
    # This logger warns if no CPU is free, which is normal while the reader of the other set is working.
    logging.getLogger("ray.data.dataset").setLevel(logging.ERROR)

    def read(batch: dict[str, Any]) -> Iterator[Columns]:
        for i in batch["item"]:
            yield from read_window(parts[i].window, size, columns, parts[i].places)

    tasks = min(len(parts), -(-sum(part.rows for part in parts) // ROWS_PER_TASK))
    numbers = ray.data.from_items([*range(len(parts))], override_num_blocks=tasks)  # range's tasks take whole CPUs
    with causes():  # here, since Ray does not carry an exception's own causes to another process
        return numbers.map_batches(read, batch_size=1, num_cpus=TASK_CPUS).materialize()  # type: ignore[arg-type]


def _one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items; the next one is computed while the current one is used."""
    source = iter(items)
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, source)
        while True:
            item = following.result()
            following = thread.submit(next, source)
            yield item
            del item  # otherwise three items would be held in memory


def _together(parts: Iterator[Part]) -> Iterator[list[Part]]:
    """The endless sequence in lists of ROWS_AT_FIRST rows, twice as many, …, ROWS_AT_ONCE, or little more.

    A part has at most WINDOWS_AT_ONCE windows.
    """
    wanted = ROWS_AT_FIRST
    while True:
        some, rows = list[Part](), 0
        while rows < wanted and len(some) < WINDOWS_AT_ONCE:
            some.append(next(parts))
            rows += some[-1].rows
        yield some
        wanted = min(2 * wanted, ROWS_AT_ONCE)
