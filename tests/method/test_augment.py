"""Random changes to training images."""

from itertools import combinations

import pytest
import torch

from dtn_ray.errors import UserError
from dtn_ray.method.augment import augment
from dtn_ray.method.options import Augment

EVERYTHING = Augment(
    rotation=20,
    scale=(0.6, 1.4),
    aspect=0.3,
    shear=0.3,
    shift=0.2,
    contrast=0.8,
    brightness=0.7,
    saturation=0.9,
    invert=0.5,
    mirror=0.5,
    noise=0.1,
)


def random_images(count: int, channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def largest_draws(monkeypatch):
    """Every draw is the largest one, so that the change made is known."""
    monkeypatch.setattr(torch, "rand", lambda count: torch.ones(count))


def test_augmentation_that_is_off_changes_nothing():
    images = random_images(4)
    assert torch.equal(augment(images, Augment()), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_keep_shape_and_range(channels):
    images = random_images(32, channels)
    changed = augment(images, EVERYTHING)
    assert changed.shape == images.shape and changed.dtype == images.dtype
    assert changed.min() >= -1 and changed.max() <= 1


def test_augmentation_is_decided_by_torchs_seed():
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return augment(random_images(8), EVERYTHING)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize(
    "options",
    [
        {"rotation": 30},
        {"scale": (0.6, 1.4)},
        {"aspect": 0.4},
        {"shear": 0.4},
        {"shift": 0.3},
        {"contrast": 0.5},
        {"brightness": 0.5},
        {"saturation": 0.5},
        {"noise": 0.2},
    ],
    ids=str,
)
def test_each_image_gets_its_own_draw(options):
    torch.manual_seed(0)
    changed = augment(random_images(1).expand(8, -1, -1, -1), Augment(**options))
    assert all(not torch.allclose(a, b) for a, b in combinations(changed, 2))


def test_mirrored_images_are_flipped_from_left_to_right_alone():
    images = random_images(200)
    assert torch.equal(augment(images, Augment(mirror=1)), images.flip(3))
    torch.manual_seed(0)
    changed = augment(images, Augment(mirror=0.25))
    mirrored = [torch.equal(*pair) for pair in zip(changed, images.flip(3), strict=True)]
    kept = [torch.equal(*pair) for pair in zip(changed, images, strict=True)]
    assert sum(mirrored) + sum(kept) == 200 and 30 < sum(mirrored) < 70


def test_without_saturation_an_image_is_grey_and_as_bright(request):
    images = random_images(2)
    request.getfixturevalue("largest_draws")
    changed = augment(images, Augment(saturation=1))
    torch.testing.assert_close(changed, images.mean(1, keepdim=True).expand_as(images))
    torch.testing.assert_close(augment(images, Augment(saturation=0.5)), (images + changed) / 2)


def test_inversion_flips_each_image_with_its_probability():
    torch.manual_seed(0)
    image = random_images(1)
    changed = augment(image.expand(200, -1, -1, -1), Augment(invert=0.25))
    flipped = [torch.allclose(other, -image[0]) for other in changed]
    assert all(
        torch.allclose(other, -image[0] if flip else image[0]) for other, flip in zip(changed, flipped, strict=True)
    )
    assert 20 < sum(flipped) < 80  # 50 expected, standard deviation 6.1


def test_certain_inversion_flips_the_sign():
    images = random_images(8)
    torch.testing.assert_close(augment(images, Augment(invert=1)), -images)


def test_rotation_by_90_degrees(largest_draws):
    image = -torch.ones(1, 1, 32, 32)
    image[0, 0, 3, 10] = 1
    expected = -torch.ones(1, 1, 32, 32)
    expected[0, 0, 32 - 1 - 10, 3] = 1
    torch.testing.assert_close(augment(image, Augment(rotation=90)), expected, atol=1e-4, rtol=0)


def test_shift_moves_by_a_fraction_of_the_side_and_repeats_the_edge(largest_draws):
    image = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32) + torch.zeros(1, 1, 32, 32)
    columns = augment(image, Augment(shift=0.25))[0, 0, 0]
    torch.testing.assert_close(columns[:24], image[0, 0, 0, 8:], atol=1e-5, rtol=0)
    torch.testing.assert_close(columns[24:], torch.ones(8))


# A ramp of 4 pixels at twice and at half its size, by linear interpolation; beyond the edge its last value goes on.
RAMP = torch.tensor([0.0, 0.1, 0.2, 0.3])
TWICE = torch.tensor([0.075, 0.125, 0.175, 0.225])
HALF = torch.tensor([0.0, 0.05, 0.25, 0.3])


@pytest.mark.parametrize(("scale", "expected"), [((0.5, 2), TWICE), ((2, 2), TWICE), ((0.1, 0.5), HALF)])
def test_the_largest_scale_is_the_greatest_size(largest_draws, scale, expected):
    scaled = augment(RAMP.expand(1, 1, 4, 4), Augment(scale=scale))
    torch.testing.assert_close(scaled[0, 0], expected.expand(4, 4), atol=1e-6, rtol=0)


def test_the_smallest_scale_is_the_least_size(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda count: torch.zeros(count))
    scaled = augment(RAMP.expand(1, 1, 4, 4), Augment(scale=(0.5, 2)))
    torch.testing.assert_close(scaled[0, 0], HALF.expand(4, 4), atol=1e-6, rtol=0)


def test_aspect_divides_between_width_and_height(largest_draws):
    image = (RAMP[:, None] + RAMP[None, :]).view(1, 1, 4, 4)
    expected = TWICE[:, None] + HALF[None, :]
    torch.testing.assert_close(augment(image, Augment(aspect=3))[0, 0], expected, atol=1e-6, rtol=0)


def test_shear_slants_columns_by_a_fraction_of_the_height(largest_draws):
    # Rows are moved by -0.75, -0.25, 0.25 and 0.75 pixels: 2 over the whole height of 4.
    expected = [
        [0, 0.025, 0.125, 0.225],
        [0, 0.075, 0.175, 0.275],
        [0.025, 0.125, 0.225, 0.3],
        [0.075, 0.175, 0.275, 0.3],
    ]
    slanted = augment(RAMP.expand(1, 1, 4, 4), Augment(shear=0.5))[0, 0]
    torch.testing.assert_close(slanted, torch.tensor(expected), atol=1e-6, rtol=0)


def test_contrast_is_about_the_images_own_mean(largest_draws):
    image = torch.tensor([0.1, 0.3]).view(1, 1, 1, 2)
    assert augment(image, Augment(contrast=0.5)).flatten().tolist() == pytest.approx([0.05, 0.35])


def test_brightness_adds_and_is_cut_off_at_white(largest_draws):
    image = torch.tensor([-1.0, 0.1, 0.8]).view(1, 1, 1, 3)
    assert augment(image, Augment(brightness=0.5)).flatten().tolist() == pytest.approx([-0.5, 0.6, 1.0])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scale": (0.0, 1.0)}, "scale 0.0 1.0"),
        ({"scale": (1.2, 0.8)}, "least ≤ greatest"),
        ({"aspect": -0.1}, "aspect -0.1"),
        ({"invert": 1.5}, "invert 1.5"),
        ({"mirror": -0.5}, "mirror -0.5"),
        ({"saturation": 2}, "saturation 2"),
        ({"noise": -1.0}, "noise -1.0"),
    ],
)
def test_impossible_settings_are_refused_by_name(options, named):
    with pytest.raises(UserError, match=named):
        Augment(**options)
