"""Speed of jobs/ingest.py, and of jobs/convert.py with a face detector, against scripts by hand with the same detector.

python benchmarks/faces.py --detector YUNET.onnx                                           a quarter of an hour
python benchmarks/faces.py --detector YUNET.onnx --what convert --checkpoint runs/emoji    conversion, by a DTN
python benchmarks/faces.py --detector YUNET.onnx --stages                                  how long each stage takes

Photos of 1500×1000 and 4000×3000 pixels with one to three faces: a portrait that matplotlib ships (Grace Hopper, US
Navy, public domain), turned, scaled and lit at random, on scikit-learn's two photos. All lie on one S3 server on this
machine. The scripts are face_peers.py. Rates are those of three quarters of the photos: the seconds for all, less those
for a quarter, so that neither start-up nor the report and its contact sheet count. Job and scripts run by turns,
since a machine's speed drifts.
"""

import io
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.cbook
import numpy as np
import pyarrow.parquet as pq
import tyro
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from dtn_ray import cli, storage
from dtn_ray.errors import UserError
from dtn_ray.faces.align import align
from dtn_ray.faces.find import FaceFinder
from dtn_ray.images.decode import photo
from dtn_ray.images.encode import encode

sys.path.insert(0, str(Path(__file__).parent))
import peers
from harness import ROOT, best, in_turn, jpeg, keep, seaweedfs, upload

DISTINCT = 24
SHAPES = {"1500×1000": (1000, 1500), "4000×3000": (3000, 4000)}


@dataclass(frozen=True)
class Options:
    detector: str
    """YuNet's file."""
    checkpoint: str | None = None
    """A DTN of faces, for conversion."""
    what: tuple[Literal["ingest", "convert"], ...] = ("ingest",)
    """The jobs to be timed."""
    photos: tuple[int, int] = (2048, 1024)
    """Numbers of photos of 1500×1000, and of 4000×3000."""
    turn: float = 20.0
    """Seconds of a turn, in which one contender works while the others are stopped. Shorter turns slow Ray down, whose
    processes then catch up with their timers; with 3600 each runs undisturbed, one after another."""
    stages: bool = False
    """Time the stages instead."""
    out: str | None = None
    """A file for all numbers, as JSON."""


def people(shape: tuple[int, int], count: int = DISTINCT) -> list[bytes]:
    """Photos H×W of one to three faces, each a seventh to a third as high as the photo, as JPEGs."""
    rng = np.random.default_rng(0)
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = Image.open(io.BytesIO(file.read())).convert("RGB")
    backgrounds = [Image.fromarray(each) for each in load_sample_images().images]
    made = []
    for i in range(count):
        picture = backgrounds[i % 2].resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        faces = int(rng.integers(1, 4))
        for j in range(faces):
            height = int(shape[0] * rng.uniform(0.4, 0.9))  # the face is about a third of the portrait
            turned = portrait.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))
            lit = ImageEnhance.Brightness(turned).enhance(rng.uniform(0.7, 1.2))
            scaled = lit.resize((height * portrait.width // portrait.height, height), Image.Resampling.BICUBIC)
            room = shape[1] // faces
            left = j * room + int(rng.integers(0, max(1, room - scaled.width // 2)))
            picture.paste(scaled, (left, int(rng.integers(0, shape[0] - height + 1))))
        grain = rng.integers(-4, 5, (*shape, 1), np.int16)
        pixels = (np.asarray(picture, np.int16) + grain).clip(0, 255).astype(np.uint8)
        made.append(jpeg(Image.fromarray(pixels), 85))
    return made


def commands(options: Options, source: str, out: str) -> dict[str, dict[str, list[str]]]:
    """For each task, the contenders and their commands."""
    python, detector, model = sys.executable, options.detector, str(options.checkpoint)
    job, scripts = str(ROOT / "jobs"), [python, str(ROOT / "benchmarks/face_peers.py")]
    return {
        "ingest": {
            "dtn-ray": [python, f"{job}/ingest.py", source, f"{out}-dtn-ray", "--detector", detector],
            "ours": [*scripts, "ours", detector, source, f"{out}-ours"],
            "plain": [*scripts, "plain", detector, source, f"{out}-plain"],
        },
        "convert": {
            "dtn-ray": [python, f"{job}/convert.py", model, source, f"{out}-dtn-ray", "--detector", detector],
            "script": [*scripts, "convert", detector, source, f"{out}-script", model],
        },
    }


def faces_written(out: str) -> int:
    """Rows of Parquet shards, or PNGs, below a prefix."""
    keys = storage.list_keys(out)
    shards = [key for key in keys if key.endswith(".parquet") and "ledger" not in key and "work" not in key]
    if shards:
        return sum(pq.read_metadata(io.BytesIO(storage.read_bytes(storage.join(out, key)))).num_rows for key in shards)
    return sum(key.endswith(".jpg.png") or ".jpg%" in key for key in keys)


def stages(options: Options) -> dict[str, dict[str, float]]:
    """Milliseconds per photo of each stage, in one thread."""
    finder = FaceFinder(Path(options.detector).read_bytes(), 1 << 30)
    return {name: stages_of(finder, people(shape, 8)) for name, shape in SHAPES.items()}


def stages_of(finder: FaceFinder, contents: list[bytes]) -> dict[str, float]:
    decoded = [photo(content, 1 << 30, 1280)[0] for content in contents]
    located = [finder._own(pixels) for pixels in decoded]
    pairs = [(pixels, face) for pixels, faces in zip(decoded, located, strict=True) for face in faces]
    aligned = [align(pixels, face.landmarks) for pixels, face in pairs]

    def milliseconds(function: Any) -> float:
        return round(1000 * best(function) / len(contents), 2)

    return {
        "faces a photo": len(aligned) / len(contents),
        "decode": milliseconds(lambda: [photo(content, 1 << 30, 1280) for content in contents]),
        "decode whole": milliseconds(lambda: [photo(content, 1 << 30) for content in contents]),
        "detect": milliseconds(lambda: [finder._own(pixels) for pixels in decoded]),
        "align": milliseconds(lambda: [align(pixels, face.landmarks) for pixels, face in pairs]),
        "encode": milliseconds(lambda: [encode(face.transpose(2, 0, 1), "jpeg") for face in aligned]),
        "all": milliseconds(lambda: [finder(content) for content in contents]),
    }


def measure(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"cores": peers.CORES}
    for (name, shape), count in zip(SHAPES.items(), options.photos, strict=True):
        contents, few = people(shape), count // 4
        upload(f"few-{shape[1]}", contents, few)
        upload(f"photos-{shape[1]}", contents, count)
        for what in options.what:
            out = f"s3://bench/{what}-{shape[1]}"
            before = in_turn(commands(options, f"s3://bench/few-{shape[1]}", f"{out}-few")[what], options.turn)
            after = in_turn(commands(options, f"s3://bench/photos-{shape[1]}", out)[what], options.turn)
            rates = {who: (count - few) / (after[who].seconds - before[who].seconds) for who in after}
            written = {who: faces_written(f"{out}-{who}") for who in after}
            result[f"{what} {name}"] = {
                "photos": count,
                "bytes_each": round(statistics.mean(map(len, contents))),
                "per_second": rates,
                "seconds": {who: (before[who].seconds, after[who].seconds) for who in after},
                "ratio": {who: rates["dtn-ray"] / rate for who, rate in rates.items() if who != "dtn-ray"},
                "faces": written,
                "peak_MiB": {who: turn.peak >> 20 for who, turn in after.items()},
            }
            for who, rate in rates.items():
                print(f"{what} {name} {who:>8} {rate:7.1f} photos/s {after[who].seconds:6.1f} s", flush=True)
    return result


def main(options: Options) -> dict[str, Any]:
    if options.stages:
        return stages(options)
    if "convert" in options.what and options.checkpoint is None:
        raise UserError("--what convert needs --checkpoint: a DTN of faces")
    with seaweedfs():
        return keep(measure(options), options.out)


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Options, description=__doc__)))
