"""Mutated pictures of every format: each is decoded or refused with a reason, in bounded memory and time.

CASES of each format, always the same. They run in one process of their own, which tells what became of them.
"""

import contextlib
import io
import json
import random
import resource
import sys
import time
from collections import Counter

import numpy as np
import pytest
from mutations import cut, exaggerate, flip, outcomes_of
from PIL import Image, ImageCms

from dtn_ray.images import repair
from dtn_ray.images.decode import _memory, decode, photo

CASES = 2000
LIMIT = 120_000_000
MORE = 1_200_000  # kB that all cases of a format may take together: BYTES_AT_ONCE, and what is beside it
SLOW = 60  # seconds for one case


def originals(format: str) -> list[bytes]:
    """Small pictures of a format in the kinds that cameras and programs write, with metadata."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    colour = Image.fromarray(noise).resize((160, 120))
    alpha = colour.copy()
    alpha.putalpha(colour.convert("L"))
    grey, palette, deep = (
        colour.convert("L"),
        colour.convert("P"),
        Image.fromarray(noise[:, :, 0].astype(np.uint16) * 9),
    )
    exif = Image.Exif()
    exif[0x112], exif[0x10E] = 6, "x" * 40
    extra = {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    kinds = {
        "png": [(colour, extra), (alpha, {}), (palette, {"transparency": 3}), (deep, {}), (grey.convert("1"), {})],
        "jpeg": [
            *((colour, extra), (colour, {"progressive": True}), (colour.convert("CMYK"), {"quality": 95})),
            *((grey, {"progressive": True} | extra), (colour, {"subsampling": 0, "restart_marker_blocks": 3})),
        ],
        "webp": [
            *((colour, extra), (colour, {"lossless": True}), (alpha, {}), (alpha, {"lossless": True, "exact": True})),
            (colour, {"save_all": True, "append_images": [alpha], "duration": 50}),
        ],
        "gif": [(palette, {}), (palette, {"transparency": 3}), (colour, {"save_all": True, "append_images": [alpha]})],
        "bmp": [(colour, {}), (palette, {}), (grey.convert("1"), {}), (alpha, {})],
        "tiff": [
            *((colour, {"compression": each} | extra) for each in ("raw", "tiff_lzw", "tiff_deflate", "jpeg")),
            *((alpha, {"compression": "packbits"}), (deep, {"compression": "tiff_lzw"}), (colour.convert("CMYK"), {})),
            *((grey.convert("1"), {"compression": "group4"}), (colour, {"big_tiff": True, "compression": "zstd"})),
            (colour, {"compression": "tiff_lzw", "strip_size": 2000}),
        ],
        "avif": [(colour, extra), (alpha, {"speed": 10}), (colour, {"subsampling": "4:4:4", "speed": 10})],
        "heif": [(colour, extra), (alpha, {}), (grey, {"quality": -1}), (deep, {})],
    }
    found = []
    for image, options in kinds[format]:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        found.append(buffer.getvalue())
    return found


FORMATS = ("png", "jpeg", "webp", "gif", "bmp", "tiff", "avif", "heif")
MUTATIONS = (flip, flip, cut, exaggerate, exaggerate)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def attempt(content: bytes) -> str:
    """Decodes a picture in every way that jobs do. Raises whatever is no ValueError."""
    outcome = "refused"
    for work in (lambda: decode(content, 32, LIMIT), lambda: photo(content, LIMIT)[0]):
        try:
            pixels = work()
        except ValueError as error:
            assert str(error), "no reason"
            if isinstance(error, repair.Truncated):
                with contextlib.suppress(ValueError):
                    decode(repair.completed(content), 32, LIMIT)
        else:
            assert pixels.dtype == np.uint8
            outcome = "decoded"
    return outcome


def run(format: str) -> None:
    """Tries all cases of a format, and prints what became of them; a traceback, where one ends in anything else."""
    given = originals(format)
    assert {attempt(content) for content in given} == {"decoded"}
    before, outcomes = peak(), Counter[str]()
    for number in range(CASES):
        chance, began = random.Random(f"{format} {number}"), time.monotonic()
        content = chance.choice(MUTATIONS)(chance.choice(given), chance)
        try:
            outcomes[attempt(content)] += 1
        except BaseException:
            print(f"{format} {number}", file=sys.stderr)
            raise
        assert time.monotonic() - began < SLOW, f"{format} {number}: {time.monotonic() - began:.0f} s"
        assert peak() - before < MORE, f"{format} {number}: {peak() - before:,} kB more"
    assert _memory.left == _memory.total, "not all was given back"
    print(json.dumps(outcomes | {"kB": peak() - before}))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("format", FORMATS)
def test_mutated_pictures_are_decoded_or_refused(format: str) -> None:
    outcomes = outcomes_of(__file__, format)
    assert outcomes["decoded"] + outcomes["refused"] == CASES
    assert outcomes["refused"] > CASES / 10, "the mutations hardly change anything"


if __name__ == "__main__":
    run(sys.argv[1])
