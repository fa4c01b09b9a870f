"""Measures the cost of colour profiles: decodes the same photos with and without one, alternately, in one thread.

python benchmarks/colours.py          a minute

Photos are smooth noise as JPEG. `square` is what conversion decodes for G (dtn_ray.images.decode), `faces` what the
face detector sees (images.decode.photo at twice 640 pixels). The other profile has sRGB's primaries and another curve:
for littlecms the same work as Display P3 or Adobe RGB. A profile that is sRGB is found out once, and costs nothing from
then on.
"""

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from harness import keep
from PIL import Image, ImageCms

from dtn_ray import cli
from dtn_ray.images.decode import decode, photo

SIZES = {"250×250": (250, 250), "1500×1000": (1500, 1000), "4000×3000": (4000, 3000)}
LIMIT = 1 << 30


@dataclass(frozen=True)
class Options:
    seconds: float = 4.0
    """Repetitions for each number."""
    out: str | None = None
    """A file for all numbers, as JSON."""


def with_gamma(profile: bytes, gamma: float) -> bytes:
    """An RGB profile whose curves are powers."""
    made = bytearray(profile)
    for i in range(int.from_bytes(made[128:132])):
        name, place, size = (made[132 + 12 * i + j : 136 + 12 * i + j] for j in (0, 4, 8))
        if bytes(name) in (b"rTRC", b"gTRC", b"bTRC"):
            start, length = int.from_bytes(place), int.from_bytes(size)
            curve = b"para" + bytes(8) + round(gamma * 65536).to_bytes(4)
            made[start : start + length] = curve.ljust(length, b"\0")
    return bytes(made)


def alternately(functions: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds * len(functions)
    while time.perf_counter() < end:
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: round(statistics.median(some), 3) for name, some in times.items()}


def main(options: Options) -> dict[str, Any]:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profiles = {"none": b"", "sRGB": srgb, "another": with_gamma(srgb, 1.8)}
    result: dict[str, Any] = {}
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name, size in SIZES.items():
        picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        contents = {}
        for profile, icc in profiles.items():
            buffer = io.BytesIO()
            picture.save(buffer, "jpeg", quality=90, icc_profile=icc)
            contents[profile] = buffer.getvalue()
        if (photo(contents["another"], LIMIT)[0] == photo(contents["none"], LIMIT)[0]).all():
            raise RuntimeError("the profile changes nothing")
        for what, function in {
            "square": lambda content: decode(content, 152, LIMIT),
            "faces": lambda content: photo(content, LIMIT, 1280),
        }.items():
            runs = {profile: (lambda c=content, f=function: f(c)) for profile, content in contents.items()}
            found = alternately(runs, options.seconds)
            ratio = {profile: round(found[profile] / found["none"], 3) for profile in ("sRGB", "another")}
            result[f"{what} {name}"] = {"milliseconds": found, "ratio": ratio}
            print(f"{what} {name}: {found} ms, ratio {ratio}", flush=True)
    return keep(result, options.out)


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Options, description=__doc__)))
