"""Speed of bulk conversion: jobs/convert.py against three scripts without it, and against the limits of its stages.

python benchmarks/convert.py                      1,000 and 10,000 small objects; about ten minutes on two idle cores
python benchmarks/convert.py --objects 50000      add --photos to convert photos of 20 KB, 300 KB and 12 megapixels
python benchmarks/convert.py --stages             how fast each stage is by itself, and what share of the time it takes

Everyone converts the same objects on the same S3 server (SeaweedFS, on this machine, so it takes a part of the cores)
with the same model, on as many processes as there are cores: (a) boto3, (b) asynchronous obstore and (c) Daft, all in
peers.py. They take turns, and what counts is the ratio. Starting up is timed apart, by three runs over 64 objects a
core, enough for every process to start, and taken off. Memory is the peak of the sum over all processes of the
contender, pages that they share counted once; of dtn-ray, Ray itself is about half. Daft takes part where it is
installed (pip install daft).
"""

import asyncio
import importlib.util
import io
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import torch
import tyro
from PIL import Image
from sklearn.datasets import load_sample_images

from dtn_ray import cli, storage
from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.digits.street_digits import street_digits
from dtn_ray.images.decode import decode
from dtn_ray.images.encode import encode
from dtn_ray.method.features import FrozenF
from dtn_ray.perceptual.load import build_classifier
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.settings import to_dict
from dtn_ray.train.domains import build_dtn
from dtn_ray.train.presets import embedded

sys.path.insert(0, str(Path(__file__).parent))
import peers
from harness import ROOT, Turn, best, jpeg, keep, seaweedfs, upload, watch

PHOTOS = {"20KB": ((240, 320), 10_000), "300KB": ((1000, 1500), 3000), "12MP": ((3000, 4000), 400)}
DISTINCT = 200  # contents, each under many keys


@dataclass(frozen=True)
class Options:
    objects: tuple[int, ...] = (1000, 10_000)
    """Numbers of small objects: crops of street numbers as JPEGs of 1 to 2 KB."""
    photos: bool = False
    """Measure photos of 20 KB, 300 KB and 12 megapixels too."""
    peers: tuple[str, ...] = ("boto3", "obstore", "daft")
    """The scripts to compare with; none to measure dtn-ray only."""
    rounds: int = 1
    """Turns of each contender."""
    stages: bool = False
    """Time the stages instead."""
    checkpoint: str | None = None
    """A DTN; by default an untrained one of the embedded size, which is as fast."""
    out: str | None = None
    """A file for all numbers, as JSON."""


def untrained(folder: Path) -> str:
    """A DTN as the embedded experiment trains it, with random weights."""
    torch.manual_seed(0)
    experiment, f = embedded(), Pretraining(width=embedded().model.width_f)
    dtn = build_dtn(experiment, FrozenF(build_classifier(f), scale=1.0))
    networks = {"f": dtn.f, "g": dtn.g, "D": dtn.D, "g_convert": dtn.g}
    checkpoint.save(folder, "dtn", experiment, networks, f=to_dict(f), step=1)
    return str(folder)


def small_objects() -> list[bytes]:
    images, _ = street_digits(DISTINCT, seed=0)
    return [jpeg(Image.fromarray(image.transpose(1, 2, 0)), 90) for image in images]


def photos(shape: tuple[int, int], count: int = 16) -> list[bytes]:
    """Crops of scikit-learn's two photos, enlarged where they are smaller, with the grain of a camera."""
    rng = np.random.default_rng(0)
    originals, made = load_sample_images().images, list[bytes]()
    for i in range(count):
        picture = Image.fromarray(originals[i % 2])
        left, top = rng.integers(0, picture.width // 3), rng.integers(0, picture.height // 3)
        crop = picture.crop((left, top, left + picture.width // 2, top + picture.height // 2))
        pixels = np.asarray(crop.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.int16)
        noise = rng.integers(-4, 5, (*shape, 1), np.int16)
        made.append(jpeg(Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)), 85))
    return made


def command(contender: str, model: str, source: str, out: str) -> list[str]:
    script = ["jobs/convert.py"] if contender == "dtn-ray" else ["benchmarks/peers.py", contender]
    return [sys.executable, str(ROOT / script[0]), *script[1:], model, source, out]


def compare(options: Options, model: str, name: str, count: int, startup: dict[str, float]) -> dict[str, Any]:
    """All contenders on one set of objects."""
    contenders = ["dtn-ray", *options.peers]
    turns: dict[str, list[Turn]] = {contender: [] for contender in contenders}
    source = f"s3://bench/{name}"
    for i in range(options.rounds):
        for contender in contenders if i % 2 == 0 else reversed(contenders):
            out = f"s3://bench/out-{name}-{contender}-{i}"
            turns[contender].append(turn := watch(command(contender, model, source, out)))
            check(contender, source, out, count)
            rate = count / (turn.seconds - startup[contender])
            print(f"{name:>12} {contender:>8} {rate:8.1f}/s {turn.seconds:7.1f} s {turn.peak >> 20:6} MiB", flush=True)
    rates = {
        contender: statistics.median(count / (turn.seconds - startup[contender]) for turn in turns[contender])
        for contender in contenders
    }
    return {
        "objects": count,
        "per_second": rates,
        "ratio": {peer: rates["dtn-ray"] / rates[peer] for peer in options.peers},
        "seconds": {contender: [turn.seconds for turn in turns[contender]] for contender in contenders},
        "peak_MiB": {contender: max(turn.peak for turn in turns[contender]) >> 20 for contender in contenders},
        "largest_process_MiB": {
            contender: max(turn.largest for turn in turns[contender]) >> 20 for contender in contenders
        },
    }


def check(contender: str, source: str, out: str, count: int) -> None:
    """Checks that all outputs exist, and that a few of them are G of their sources."""
    keys = [key for key in storage.list_keys(out) if key.endswith(".jpg.png")]
    if len(keys) != count:
        raise RuntimeError(f"{contender} wrote {len(keys)} of {count} images")
    for key in keys[:: max(1, count // 8)]:
        with Image.open(io.BytesIO(storage.read_bytes(storage.join(out, key)))) as image:
            image.load()


def stages(model: str) -> dict[str, float]:
    """Objects per second of each stage alone, in one process with one computing thread; GET and PUT with 16 threads."""
    contents = small_objects()
    trained = peers.Model(model)
    batch = [decode(content, trained.size, 1 << 30) for content in contents] * 2
    batch = batch[: peers.BATCH]
    keys = storage.list_keys("s3://bench/stages")
    png = encode(trained(batch)[0][0])
    rates = {
        "list": len(keys) / best(lambda: storage.list_keys("s3://bench/stages")),
        "decode": len(contents) / best(lambda: [decode(content, trained.size, 1 << 30) for content in contents]),
        "f∘g and the score": len(batch) / best(lambda: trained(batch)),
        "encode": 500 / best(lambda: [encode(np.asarray(batch[0])[:1]) for _ in range(500)]),
    }
    with ThreadPoolExecutor(16) as pool:
        some = keys[:1000]
        get = best(lambda: list(pool.map(lambda key: storage.read_bytes(f"s3://bench/stages/{key}"), some)))
        put = best(lambda: list(pool.map(lambda key: storage.write_bytes(f"s3://bench/put/{key}", png), some)))

    async def gather() -> None:
        store = peers.obstore_of("bench")
        await asyncio.gather(*(obstore.get_async(store, f"stages/{key}") for key in some))

    return rates | {
        "GET": 1000 / get,
        "PUT": 1000 / put,
        "GET, asynchronous": 1000 / best(lambda: asyncio.run(gather())),
    }


def main(options: Options) -> dict[str, Any]:
    if "daft" in options.peers and importlib.util.find_spec("daft") is None:
        print("Daft is not installed (pip install daft): left out", file=sys.stderr)
        options = replace(options, peers=tuple(peer for peer in options.peers if peer != "daft"))
    with seaweedfs() as folder:
        model = options.checkpoint or untrained(folder / "dtn")
        return keep(measure(options, model), options.out)


def measure(options: Options, model: str) -> dict[str, Any]:
    small = small_objects()
    if options.stages:
        upload("stages", small, 5000)
        return {name: round(rate, 1) for name, rate in stages(model).items()}
    upload("few", small, 64 * peers.CORES)
    startup = {
        contender: statistics.median(
            watch(command(contender, model, "s3://bench/few", f"s3://bench/out-few-{contender}-{i}")).seconds
            for i in range(3)
        )
        for contender in ("dtn-ray", *options.peers)
    }
    print("start-up:", {name: round(seconds, 1) for name, seconds in startup.items()}, flush=True)
    result: dict[str, Any] = {"cores": peers.CORES, "startup_seconds": startup}
    for count in options.objects:
        upload(f"small-{count}", small, count)
        result[f"small-{count}"] = compare(options, model, f"small-{count}", count, startup)
    for name, (shape, count) in PHOTOS.items() if options.photos else ():
        contents = photos(shape)
        upload(name, contents, count)
        size = {"bytes_each": round(statistics.mean(map(len, contents)))}
        result[name] = size | compare(options, model, name, count, startup)
    return result


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Options, description=__doc__)))
