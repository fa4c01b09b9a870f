"""The training data of an SRCNN: patches of luminance, blurred and sharp."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dtn_ray import storage
from dtn_ray.data.feed import Stages
from dtn_ray.data.order import step_seed, worker_slice
from dtn_ray.errors import UserError
from dtn_ray.images.decode import photo
from dtn_ray.images.names import SUFFIXES, is_photo_name
from dtn_ray.models.srcnn import degrade, rgb_to_ycbcr
from dtn_ray.text.display import line

MAX_PIXELS = 100_000_000  # of one image
FILES_AT_ONCE = 64
LEAST_TEST = 32  # least side of a test image in pixels, so that something is left without the border

Luminances = dict[str, np.ndarray]
"""Y of images by their keys, H×W uint8."""


def read_luminances(uri: str, least: int) -> Luminances:
    """Y of all images below a folder or prefix, in the order of their keys.

    Images that cannot be read, or with a side of less than `least` pixels, are named in a warning and left out. Raises
    UserError if none is left.
    """
    keys = list(filter(is_photo_name, storage.list_keys(uri)))
    found: Luminances = {}
    for i in range(0, len(keys), FILES_AT_ONCE):
        part = keys[i : i + FILES_AT_ONCE]
        for key, content in zip(part, storage.read_many([storage.join(uri, key) for key in part]), strict=True):
            try:
                if isinstance(content, OSError):
                    raise content
                pixels = photo(content, MAX_PIXELS)[0].transpose(2, 0, 1)
                if min(pixels.shape[1:]) < least:
                    height, width = pixels.shape[1:]
                    raise ValueError(f"{width}×{height} pixels; at least {least}×{least} are needed")
                found[key] = _luminance(pixels)
            except (OSError, ValueError) as error:
                print(f"warning: {line(storage.join(uri, key))}: left out: {line(error)}", flush=True)
    if not found:
        others = f"no file ends in {', '.join(SUFFIXES)}"
        there = f"none of {len(keys)} can be used (the warnings above say why)" if keys else others
        raise UserError(f"{uri}: no images there: {there}; give a folder or s3:// prefix of images")
    return found


def _luminance(pixels: np.ndarray) -> np.ndarray:
    rgb = torch.from_numpy(pixels)[None].float() / 255
    return (rgb_to_ycbcr(rgb)[0, 0] * 255).round().byte().numpy()


def luminance_to_float(y: np.ndarray) -> Tensor:
    """H×W uint8 to 1×1×H×W in [0, 1]."""
    return torch.from_numpy(y.astype(np.float32) / 255)[None, None]


def crop_to_multiple(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = image.shape
    return image[: height - height % factor, : width - width % factor]


@dataclass(frozen=True)
class Pair:
    """An image as the network's input, and the target."""

    blurred: np.ndarray
    """H×W float16, shrunk and enlarged again."""
    sharp: np.ndarray
    """H×W uint8."""


def make_pairs(images: Luminances, factor: int) -> list[Pair]:
    """The images, cropped to multiples of the factor, each with its version from `degrade`."""
    cropped = [np.ascontiguousarray(crop_to_multiple(image, factor)) for image in images.values()]
    # The error of half precision is at most a sixteenth of a grey level.
    return [Pair(degrade(luminance_to_float(image), factor)[0, 0].half().numpy(), image) for image in cropped]


def draw_patches(shapes: np.ndarray, side: int, count: int, seed: int) -> np.ndarray:
    """`count` random patches: int64, columns image, top, left and turn (0 to 7); every place is equally likely.

    `shapes`: heights and widths of the images, N×2, none less than `side`.
    """
    generator = np.random.default_rng(seed)
    places = shapes - side + 1
    chances = places.prod(1) / places.prod(1).sum()
    chosen = generator.choice(len(shapes), count, p=chances)
    return np.column_stack([chosen, generator.integers(places[chosen]), generator.integers(8, size=count)])


def cut(pairs: list[Pair], patches: np.ndarray, side: int, margin: int) -> tuple[Tensor, Tensor]:
    """Patches of the network's input, N×1×`side`×`side`, and their targets, `margin` smaller on each side."""
    x, y = np.empty((2, len(patches), 1, side, side), np.float32)
    for i, (chosen, top, left, turn) in enumerate(patches):
        window = slice(top, top + side), slice(left, left + side)
        for array, image in ((x, pairs[chosen].blurred[window]), (y, pairs[chosen].sharp[window])):
            turned = np.rot90(image, turn % 4)
            array[i, 0] = turned.T if turn >= 4 else turned
    inside = slice(margin, side - margin)
    return torch.from_numpy(x), torch.from_numpy(y[..., inside, inside] / 255)


@dataclass(frozen=True)
class Patches:
    """Random patches of images that every worker holds whole."""

    pairs: list[Pair]
    side: int
    margin: int
    bad_rows = None

    def batches(
        self, done: Stages, rank: int, workers: int, batch_size: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's shares of the global batches, as from `cut`, after `done`; endless."""
        shapes = np.array([pair.sharp.shape for pair in self.pairs])
        step = sum(steps for _, steps in done)
        while True:
            patches = draw_patches(shapes, self.side, batch_size, step_seed(seed, step))  # all workers draw alike
            yield cut(self.pairs, worker_slice(patches, rank, workers), self.side, self.margin)
            step += 1
