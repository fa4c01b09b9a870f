"""Speed of jobs/ingest.py, and of jobs/convert.py with a face detector, against scripts by hand with the same detector.

python benchmarks/faces.py --detector YUNET.onnx                           ingestion; six minutes on two idle cores
python benchmarks/faces.py --detector YUNET.onnx --checkpoint runs/emoji   conversion too, by a DTN of faces
python benchmarks/faces.py --detector YUNET.onnx --stages                  how long each stage takes by itself

Photos of 1500×1000 and 4000×3000 pixels with one to three faces: a portrait that matplotlib ships (Grace Hopper, US
Navy, public domain), turned, scaled and lit at random, on scikit-learn's two photos. All lie on one S3 server on this
machine. The scripts are face_peers.py. Rates are those of three quarters of the photos: the seconds for all, less those
for a quarter, so that neither start-up nor the report and its contact sheet count.
"""

import io
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.cbook
import numpy as np
import pyarrow.parquet as pq
import tyro
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from dtn_ray import cli, storage
from dtn_ray.faces import FaceFinder, align
from dtn_ray.images import encode, photo

sys.path.insert(0, str(Path(__file__).parent))
import peers
from harness import ROOT, best, jpeg, keep, seaweedfs, upload, watch

DISTINCT = 24
SHAPES = {"1500×1000": (1000, 1500), "4000×3000": (3000, 4000)}


@dataclass(frozen=True)
class Options:
    detector: str
    """YuNet's file."""
    checkpoint: str | None = None
    """A DTN of faces; with it, conversion is timed too."""
    photos: tuple[int, int] = (2000, 400)
    """Photos of 1500×1000, and of 4000×3000."""
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
    """By what is done: by whom, and how."""
    python, detector = sys.executable, options.detector
    scripts = [python, str(ROOT / "benchmarks/face_peers.py")]
    job = {
        "ingest": {
            "dtn-ray": [python, str(ROOT / "jobs/ingest.py"), source, f"{out}-dtn-ray", "--detector", detector],
            "plain": [*scripts, "plain", detector, source, f"{out}-plain"],
            "ours": [*scripts, "ours", detector, source, f"{out}-ours"],
        }
    }
    if options.checkpoint:
        ours = [python, str(ROOT / "jobs/convert.py"), options.checkpoint, source, f"{out}-c-dtn-ray"]
        job["convert"] = {
            "dtn-ray": [*ours, "--detector", detector],
            "script": [*scripts, "convert", detector, source, f"{out}-c-script", options.checkpoint],
        }
    return job


def faces_written(out: str) -> int:
    """Rows of Parquet shards, or PNGs, below a prefix."""
    keys = storage.list_keys(out)
    shards = [key for key in keys if key.endswith(".parquet") and "ledger" not in key and "work" not in key]
    if shards:
        return sum(pq.read_metadata(io.BytesIO(storage.read_bytes(storage.join(out, key)))).num_rows for key in shards)
    return sum(key.endswith(".jpg.png") or ".jpg%" in key for key in keys)


def stages(options: Options) -> dict[str, dict[str, float]]:
    """Milliseconds a photo of each stage, in one thread."""
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
        source = f"s3://bench/photos-{shape[1]}"
        upload(f"few-{shape[1]}", contents, few)
        upload(f"photos-{shape[1]}", contents, count)
        of_few = commands(options, f"s3://bench/few-{shape[1]}", f"s3://bench/out-few-{shape[1]}")
        for what, by in commands(options, source, f"s3://bench/out-{shape[1]}").items():
            rates, fixed, written, peaks = {}, {}, {}, {}
            for who, command in by.items():
                before, turn = watch(of_few[what][who]), watch(command)
                rates[who] = (count - few) / (turn.seconds - before.seconds)
                fixed[who] = turn.seconds - count / rates[who]
                peaks[who] = turn.peak >> 20
                written[who] = faces_written(f"s3://bench/out-{shape[1]}{'-c' * (what == 'convert')}-{who}")
                print(
                    f"{what} {name} {who:>8} {rates[who]:7.1f} photos/s {turn.seconds:6.1f} s, of which "
                    f"{fixed[who]:5.1f} s for any number, {peaks[who]:6} MiB, {written[who]} faces",
                    flush=True,
                )
            result[f"{what} {name}"] = {
                "photos": count,
                "bytes_each": round(statistics.mean(map(len, contents))),
                "per_second": rates,
                "fixed_seconds": fixed,
                "ratio": {who: rates["dtn-ray"] / rate for who, rate in rates.items() if who != "dtn-ray"},
                "faces": written,
                "peak_MiB": peaks,
            }
    return result


def main(options: Options) -> dict[str, Any]:
    if options.stages:
        return stages(options)
    with seaweedfs():
        return keep(measure(options), options.out)


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Options, description=__doc__)))
