"""Streams of images from Parquet files: which row comes when, also after restarts with other numbers of workers."""

import io
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from ray.util.placement_group import placement_group, remove_placement_group

from dtn_ray.data.rows import Group, find_groups, hold_out
from dtn_ray.data.streamed import CPUS_TO_READ, Streamed
from dtn_ray.data.windows import Window, read_window, windows_of
from dtn_ray.errors import UserError

GROUPS = [Group("a", 0, 5), Group("a", 1, 3), Group("b", 0, 7), Group("b", 1, 1), Group("c", 0, 4)]


def epoch(window: Window) -> int:
    return window.seed[1]


def test_an_epoch_has_every_group_once_and_an_order_of_its_own() -> None:
    three_each = list(islice(windows_of(GROUPS, seed=1, size=2), 9))
    orders = []
    for number in range(3):
        groups = [group for window in three_each if epoch(window) == number for group in window.groups]
        assert sorted(groups, key=str) == sorted(GROUPS, key=str)
        orders.append(groups)
    assert orders[0] != orders[1] != orders[2]
    assert three_each == list(islice(windows_of(GROUPS, seed=1, size=2), 9))
    assert three_each != list(islice(windows_of(GROUPS, seed=2, size=2), 9))


def test_held_out_rows_are_the_last_and_at_most_a_tenth() -> None:
    groups = [Group("a", 0, 95), Group("a", 1, 5)]
    rest, held = hold_out(groups, 8)
    assert held == [Group("a", 0, 3, start=92), Group("a", 1, 5)]
    assert rest == [Group("a", 0, 92)]
    assert hold_out(groups, 50)[1] == [Group("a", 0, 5, start=90), Group("a", 1, 5)]
    assert hold_out(groups, 0) == (groups, [])


@pytest.fixture
def shards(tmp_path) -> str:
    """Two files of 30 and 20 images 8×8 in row groups of 10; image i has the grey value i."""
    for name, numbers in (("one", range(30)), ("two", range(30, 50))):
        images = []
        for i in numbers:
            buffer = io.BytesIO()
            Image.new("L", (8, 8), i).save(buffer, format="png")
            images.append(buffer.getvalue())
        pq.write_table(pa.table({"image": images, "key": [str(i) for i in numbers]}), tmp_path / f"{name}.parquet", 10)
    return str(tmp_path)


def test_groups_are_found_and_what_is_no_set_is_refused(shards, tmp_path) -> None:
    groups = find_groups(shards)
    assert [(group.index, group.rows) for group in groups] == [(0, 10), (1, 10), (2, 10), (0, 10), (1, 10)]
    assert find_groups(f"{shards}/two.parquet") == groups[3:]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no Parquet files"):
        find_groups(f"{shards}/empty")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="no column `image`; it has x"):
        find_groups(shards)
    (tmp_path / "other.parquet").write_bytes(b"text")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        find_groups(shards)


def grey(blocks: Iterator[dict[str, np.ndarray]]) -> np.ndarray:
    return np.concatenate([block["image"] for block in blocks])[:, 0, 0, 0]


def test_a_window_is_read_in_its_order_and_a_row_that_is_no_image_is_named(shards, tmp_path) -> None:
    window = Window(tuple(find_groups(shards)[1:3]), (0, 0, 0))
    values = grey(read_window(window, 8))
    assert sorted(values) == list(range(10, 30)) and list(values) != sorted(values)
    later = Window(window.groups, window.seed, start=7)
    assert (grey(read_window(later, 8)) == values[7:]).all()
    pq.write_table(pa.table({"image": [b"text"]}), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match=r"bad.parquet, row 0 of row group 0: not an image"):
        list(read_window(Window((Group(f"{shards}/bad.parquet", 0, 1),), (0,)), 8))


def test_batches_stream_through_ray_and_go_on_where_they_stopped(shards, ray_cluster) -> None:
    groups = find_groups(shards)
    feed = Streamed(groups, groups, size=8)

    def values(done: list[tuple[int, int]], rank: int, workers: int, steps: int) -> list[int]:
        batches = islice(feed.batches(done, rank, workers, 4, seed=5), steps)
        found = [s for s, t in batches if s.shape == t.shape == (4 // workers, 3, 8, 8)]
        return list(np.concatenate(found)[:, 0, 0, 0])

    whole = values([], 0, 1, 12)
    assert len(set(whole)) == 48  # nothing twice in the first epoch
    assert values([(1, 5)], 0, 1, 7) == whole[20:]
    # Two workers go on with what one left: each batch has the same rows, the first half of them on the first worker.
    first, second = (np.reshape(values([(1, 5)], rank, 2, 4), (4, 2)) for rank in (0, 1))
    assert np.hstack([first, second]).ravel().tolist() == whole[20:36]
    assert values([(2, 3), (1, 2), (4, 1)], 1, 2, 1) == whole[26:28]


def test_readers_do_without_torch() -> None:
    """It takes seconds to import, and half a gigabyte in each of them."""
    code = "import sys, dtn_ray.data.streamed; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=250).returncode == 0


@pytest.mark.timeout(120)
def test_streams_need_no_more_cpus_than_trainings_leave_them(shards, ray_cluster) -> None:
    groups = find_groups(shards)
    training = placement_group([{"CPU": ray.cluster_resources()["CPU"] - CPUS_TO_READ}])
    try:
        assert training.wait(30)
        s, t = next(Streamed(groups, groups, size=8).batches([], 0, 1, 4, seed=5))
        assert s.shape == t.shape == (4, 3, 8, 8)
    finally:
        remove_placement_group(training)


IDLE = """
import os, time
import psutil, ray
from dtn_ray.ray_cluster.connect import connect

connect()

@ray.remote(num_cpus=0.01)
def pid() -> int:
    time.sleep(8)
    return os.getpid()

found = set(ray.get([pid.remote() for _ in range(os.cpu_count() + 2)]))
time.sleep(5)
print(len(found), sum(map(psutil.pid_exists, found)))
"""


@pytest.mark.slow
def test_readers_that_pause_stay() -> None:
    ran = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, timeout=120, check=True)
    found, left = map(int, ran.stdout.split()[-2:])
    assert found == left > 2
