"""The embedded street digits: repeatable, well-formed, and neither trivial nor unreadable."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.svm import SVC

from dtn_ray.data.digits.street_digits import FONTS, glyph, street_digits


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    return street_digits(4000, seed=0)


def test_shapes_and_dtypes(digits):
    images, labels = digits
    assert images.shape == (4000, 3, 32, 32) and images.dtype == np.uint8 and images.flags.c_contiguous
    assert labels.shape == (4000,) and labels.dtype == np.int64


def test_labels_are_uniform_over_the_ten_digits(digits):
    counts = np.bincount(digits[1], minlength=10)
    assert len(counts) == 10
    assert abs(counts - 400).max() < 100  # five standard deviations


def test_a_shorter_set_starts_a_longer_one(digits):
    for short, long in zip(street_digits(50, seed=0), digits, strict=True):
        np.testing.assert_array_equal(short, long[:50])


def test_another_process_draws_the_same(digits):
    code = (
        "import sys; from dtn_ray.data.digits.street_digits import street_digits;"
        "images, labels = street_digits(20, 0); sys.stdout.buffer.write(images.tobytes() + labels.tobytes())"
    )
    drawn = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout
    assert drawn == digits[0][:20].tobytes() + digits[1][:20].tobytes()


def test_images_differ_within_and_between_seeds(digits):
    images = np.concatenate([digits[0][:500], street_digits(500, seed=1)[0]])
    assert len(np.unique(images.reshape(1000, -1), axis=0)) == 1000


def test_every_image_shows_something(digits):
    # A flat crop with only sensor noise would have a standard deviation of at most about 5.
    assert digits[0].mean(1).std((1, 2)).min() > 5


def test_light_on_dark_is_as_common_as_dark_on_light(digits):
    ones = digits[0][digits[1] == 1].mean(1)  # a 1 always covers the centre
    lighter = ones[:, 12:20, 14:18].mean((1, 2)) > ones.mean((1, 2))
    assert 0.4 < lighter.mean() < 0.6


@pytest.mark.parametrize("font", sorted(set(FONTS)))
@pytest.mark.parametrize("stroke", [0, 2])
def test_each_font_draws_ten_distinct_digits(font, stroke):
    masks = [glyph(font, digit, stroke) for digit in range(10)]
    ink = [np.asarray(mask.resize((16, 24)), np.float32) / 255 for mask in masks]
    assert all(20 < mask.height < 60 and np.asarray(mask).max() == 255 for mask in masks)
    assert min(abs(a - b).mean() for i, a in enumerate(ink) for b in ink[:i]) > 0.05


def test_a_simple_classifier_learns_them_but_not_perfectly(digits):
    grey = digits[0].mean(1).reshape(-1, 16, 2, 16, 2).mean((2, 4)).reshape(-1, 256)
    grey = (grey - grey.mean(1, keepdims=True)) / grey.std(1, keepdims=True)
    accuracy = SVC(C=5).fit(grey[:3000], digits[1][:3000]).score(grey[3000:], digits[1][3000:])
    assert 0.5 < accuracy < 0.95  # chance is 0.1; this classifier reads about 0.7 of real SVHN


def test_zero_images():
    images, labels = street_digits(0, seed=0)
    assert images.shape == (0, 3, 32, 32) and labels.shape == (0,)


@pytest.mark.parametrize(("count", "seed"), [(-1, 0), (1, -1)])
def test_negative_arguments_are_refused(count, seed):
    with pytest.raises(ValueError, match="must not be negative"):
        street_digits(count, seed)
