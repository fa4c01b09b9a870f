"""Which rows a global batch holds: the same for any number of workers, wherever a training stopped and went on.

The rule that every feed keeps. Its examples are drawn at random: sizes of row groups, numbers of workers, restarts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dtn_ray.data.feed import InMemory, InMemoryLabelled
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.rows import Group, count_rows
from dtn_ray.data.streamed import Share
from dtn_ray.data.windows import Part, parts_of, windows_of

BATCH = 12  # divides among 1, 2, 3, 4, 6 and 12 workers
Row = tuple[int, int, int]
"""Epoch, number of the row group, row of it."""

workers = st.sampled_from([1, 2, 3, 4, 6, 12])
stages = st.lists(st.tuples(workers, st.integers(0, 9)), max_size=5)
"""Restarts: how many workers took how many steps."""
row_groups = st.lists(st.integers(1, 40), min_size=1, max_size=8).map(
    lambda sizes: [Group("set", i, rows) for i, rows in enumerate(sizes)]
)
seeds = st.integers(0, 3)


def rows_of(part: Part) -> list[Row]:
    """The rows of a part, as `read_window` takes them: places of the window's order, which its seed draws."""
    window = part.window
    stored = [(window.seed[1], group.index, group.start + i) for group in window.groups for i in range(group.rows)]
    order = np.random.default_rng(window.seed).permutation(len(stored))
    return [stored[order[place]] for place in part.places]


def stream(groups: Sequence[Group], seed: int, done: list[tuple[int, int]], rank: int, workers: int) -> Iterator[Row]:
    for part in Share(groups, seed, done, rank, workers, BATCH, size=8).parts():
        yield from rows_of(part)


def global_batches(groups: Sequence[Group], seed: int, done: list[tuple[int, int]], workers: int, steps: int) -> list:
    """The next batches that the workers take together, each in the order of their ranks."""
    share = BATCH // workers
    of_rank = [np.array([*islice(stream(groups, seed, done, rank, workers), steps * share)]) for rank in range(workers)]
    return np.stack([rows.reshape(steps, share, 3) for rows in of_rank], 1).reshape(steps, BATCH, 3).tolist()


@settings(max_examples=150)
@given(row_groups, seeds, stages, workers)
@example([Group("set", 0, 1)], 0, [(12, 1)], 12)  # a batch of twelve epochs
@example([Group("set", i, rows) for i, rows in enumerate((40, 1, 1, 40, 3))], 1, [(2, 1), (2, 1), (2, 1)], 2)
def test_a_streamed_batch_is_the_same_for_any_workers_and_restarts(groups, seed, stages, workers):
    """`stages`: those before, each begun where the last one ended; then `workers` go on."""
    total = sum(steps for _, steps in stages) + 3
    whole = global_batches(groups, seed, [], 1, total)
    found, done = [], list[tuple[int, int]]()
    for number, steps in [*stages, (workers, 3)]:
        found += global_batches(groups, seed, done, number, steps) if steps else []
        done.append((number, steps))
    assert found == whole


@settings(max_examples=100)
@given(row_groups, seeds, st.integers(1, 4))
def test_a_streamed_epoch_has_every_row_once(groups, seed, size):
    rows = count_rows(groups)
    taken = [row for part in parts_of(islice(windows_of(groups, seed, size), 99), 0, 1, BATCH) for row in rows_of(part)]
    for epoch in range(len(taken) // rows):
        expected = [(epoch, group.index, i) for group in groups for i in range(group.rows)]
        assert Counter(taken[epoch * rows : (epoch + 1) * rows]) == Counter(expected)


@settings(max_examples=100)
@given(row_groups, seeds, st.integers(0, 500))
def test_a_stream_that_begins_later_is_the_rest_of_it(groups, seed, taken):
    def rows(taken: int, count: int) -> list[Row]:
        parts = parts_of(windows_of(groups, seed, taken=taken), 0, 1, BATCH)
        return [*islice((row for part in parts for row in rows_of(part)), count)]

    assert rows(taken, 30) == rows(0, taken + 30)[taken:]


def test_a_window_is_read_by_those_workers_alone_that_take_rows_of_it():
    groups = [Group("set", i, 3) for i in range(20)]
    windows = [*islice(windows_of(groups, 0), 20)]  # of 6 rows; a batch of 12 is two of them, of which each takes 3
    for rank in range(4):
        parts = [*islice(Share(groups, 0, [], rank, 4, BATCH, size=8).parts(), 10)]
        assert [part.rows for part in parts] == [3] * 10
        assert [part.window for part in parts] == windows[rank // 2 :: 2]


@settings(max_examples=60)
@given(st.integers(1, 50), st.integers(1, 50), seeds, stages, workers)
def test_a_batch_from_memory_is_the_same_for_any_workers_and_restarts(count_s, count_t, seed, stages, workers):
    def numbered(count: int) -> LabelledImages:
        return LabelledImages(np.arange(count), np.arange(count))

    for feed in (InMemory(numbered(count_s), numbered(count_t)), InMemoryLabelled(numbered(count_s))):
        done = sum(steps for _, steps in stages)
        whole = [*islice(feed.batches([], 0, 1, BATCH, seed), done + 2)][done:]
        shares = [[*islice(feed.batches(stages, rank, workers, BATCH, seed), 2)] for rank in range(workers)]
        for step in range(2):
            for side in (0, 1):
                together = np.concatenate([shares[rank][step][side] for rank in range(workers)])
                assert together.tolist() == whole[step][side].tolist()


@pytest.mark.parametrize("workers", [2, 3])
def test_no_worker_gets_ahead_of_another_where_row_groups_are_uneven(workers):
    """Else one would be in a later epoch than the others."""
    groups = [Group("set", i, 1 + 37 * (i % 2)) for i in range(10)]
    batches = global_batches(groups, 0, [], workers, 200)
    epochs = np.array(batches)[:, :, 0]
    assert (np.diff(epochs.ravel()) >= 0).all() and epochs.max() > 10
