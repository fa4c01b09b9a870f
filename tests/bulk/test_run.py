"""How the work list is shared out among actors."""

import pytest

from dtn_ray.bulk.plan import Plan
from dtn_ray.bulk.run import share_out


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize(
    ("files", "limit", "actors"), [([7], None, 4), ([3000, 1, 2000], None, 2), ([900] * 9, 5000, 3)]
)
def test_blocks_have_each_row_once_up_to_the_limit(files, limit, actors, shards):
    work = [(str(number), rows) for number, rows in enumerate(files)]
    blocks = share_out(Plan(work=work), limit, actors, shards)
    rows = [(uri, row) for uri, start, stop in blocks for row in range(start, stop)]
    assert rows == [(uri, row) for uri, count in work for row in range(count)][:limit]


def sizes(images: int, actors: int, shards: bool = False) -> list[int]:
    return [stop - start for _, start, stop in share_out(Plan(work=[("a", images)]), None, actors, shards)]


def test_blocks_become_smaller_so_that_actors_end_together():
    made = sizes(20_000, actors=4)
    assert made == sorted(made, reverse=True)
    assert made[0] == 1024 and 64 <= made[-1] < 80, "the most, and about the least, that an actor takes at once"
    # A quarter of 1536 / 2, of (1536 - 384) / 2, of (1152 - 288) / 2, of (864 - 216) / 2 and the rest alike.
    assert sizes(1536, actors=2) == [192] * 2 + [144] * 2 + [108] * 2 + [81] * 8


def test_few_images_are_not_spread_thinner_than_a_batch_and_shards_are_no_splinters():
    assert sizes(100, actors=8) == [50, 50]
    assert sizes(600, actors=2, shards=True) == [300, 300]
    assert sizes(1234, actors=4, shards=True) == [309, 309, 309, 307]
    assert sizes(1000, actors=8, shards=True) == [250] * 4
    assert sizes(5000, actors=2, shards=True) == [1024] * 4 + [452] * 2
    assert sizes(0, actors=2) == []


def test_files_shorter_than_a_block_stay_whole():
    work = [(str(number), 900) for number in range(9)]
    assert share_out(Plan(work=work), None, actors=3, shards=True) == [(uri, 0, 900) for uri, _ in work]


def test_the_number_of_blocks_does_not_grow_with_the_collection():
    assert len(sizes(100_000_000, actors=1000)) <= 10_000
