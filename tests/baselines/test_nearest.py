"""The nearest-neighbour classifier: equal to brute force in exact integers, in little memory."""

import subprocess
import sys

import numpy as np
import pytest

from dtn_ray.baselines.nearest import nearest_neighbour


def brute_force(gallery: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    exact = gallery.dtype == np.uint8
    rows = [images.reshape(len(images), -1).astype(np.int64 if exact else np.float64) for images in (gallery, queries)]
    return labels[[int(np.argmin(((rows[0] - query) ** 2).sum(1))) for query in rows[1]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("block", [1, 7, 40, 1000])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 8, 8), (5,)])
def test_it_equals_brute_force_whatever_the_blocks(dtype, block, shape):
    rng = np.random.default_rng(0)
    gallery, queries = (rng.integers(0, 256, (count, *shape)).astype(dtype) for count in (40, 23))
    labels = np.arange(40)  # the place itself: a wrong neighbour cannot hide behind a right label
    found = nearest_neighbour(gallery, labels, queries, block=block)
    np.testing.assert_array_equal(found, brute_force(gallery, labels, queries))


def test_bright_images_that_differ_by_one_grey_level_are_told_apart():
    """‖a‖² - 2ab + ‖b‖² in float32 is wrong by up to 8 here, and would find any of them."""
    rng = np.random.default_rng(1)
    queries = rng.integers(250, 256, (20, 3, 32, 32)).astype(np.uint8)
    gallery = np.repeat(queries, 2, axis=0)
    gallery[::2, 0, 0, 0] -= 1
    np.testing.assert_array_equal(nearest_neighbour(gallery, np.arange(40), queries), np.arange(1, 40, 2))
    naive = (gallery.reshape(40, -1).astype(np.float32), queries.reshape(20, -1).astype(np.float32))
    distances = (naive[0] ** 2).sum(1) - 2 * naive[1] @ naive[0].T
    assert (distances.argmin(1) != np.arange(1, 40, 2)).any(), "the case is one that float32 gets wrong"


@pytest.mark.parametrize("block", [2, 3, 100])
def test_of_equally_near_images_the_first_counts(block):
    gallery = np.array([[9], [4], [6], [4], [6], [5], [5]], np.uint8)
    queries = np.array([[5], [4], [0], [9]], np.uint8)
    found = nearest_neighbour(gallery, np.array(list("abcdefg")), queries, block=block)
    assert found.tolist() == ["f", "b", "b", "a"]


@pytest.mark.parametrize(
    ("gallery", "labels", "queries", "message"),
    [
        (np.zeros((0, 4), np.uint8), np.zeros(0), np.zeros((1, 4), np.uint8), "gallery of 0 images"),
        (np.zeros((2, 4), np.uint8), np.zeros(3), np.zeros((1, 4), np.uint8), "2 images with 3 labels"),
        (np.zeros((2, 4), np.uint8), np.zeros(2), np.zeros((1, 5), np.uint8), "one shape and type"),
        (np.zeros((2, 4), np.uint8), np.zeros(2), np.zeros((1, 4), np.float32), "one shape and type"),
        (np.zeros((2, 4)), np.zeros(2), np.zeros((1, 4)), "uint8 or float32, not float64"),
        (np.full((2, 4), np.nan, np.float32), np.zeros(2), np.zeros((1, 4), np.float32), "not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(gallery, labels, queries, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbour(gallery, labels, queries)


def test_no_query_gets_no_label():
    assert nearest_neighbour(np.zeros((2, 4), np.uint8), np.arange(2), np.zeros((0, 4), np.uint8)).tolist() == []


WHOLE = """
import resource, sys, time
import numpy as np
from dtn_ray.baselines.nearest import nearest_neighbour
rng = np.random.default_rng(0)
gallery = rng.integers(0, 256, (531_131, 1, 32, 32), np.uint8)
places = rng.choice(len(gallery), int(sys.argv[1]), replace=False)
queries = gallery[places]
queries[:, 0, 0, 0] ^= 1
began = time.perf_counter()
found = nearest_neighbour(gallery, np.arange(len(gallery)), queries)
assert (found == places).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.perf_counter() - began)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_of_extra_against_mnists_test_images_takes_less_than_two_gigabytes():
    """The peak of the process, its gallery of 544 MB and imports included."""
    done = subprocess.run([sys.executable, "-c", WHOLE, "10000"], capture_output=True, text=True, check=True)
    peak, seconds = map(float, done.stdout.split())
    print(f"peak {peak / 1e9:.2f} GB, {seconds:.0f} s")
    assert peak < 2e9
