"""The stream of faces to a training: a million rows without training, and what one training worker takes.

python benchmarks/stream.py --faces FACES                         1,000,000 rows; 15 to 30 minutes on two cores
python benchmarks/stream.py --faces FACES --f NETWORK.onnx        … and the rate of training steps beside it

FACES: Parquet files of aligned faces, as jobs/ingest.py writes them; they are linked many times under other names until
there are so many rows. The stream is the training's own (dtn_ray/data/streamed.py): Ray Data reads, decodes and scales,
one worker takes batches, and does nothing with them. Memory is the sum over all processes of this Ray, pages that they
share counted once, at each tenth of the way; rates are images a second, in all and for each core.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import ray
import torch
import tyro

from dtn_ray import cli, storage
from dtn_ray.data.rows import count_rows, find_groups
from dtn_ray.data.streamed import Share, batches
from dtn_ray.method.dtn import DTNTrainer
from dtn_ray.method.features import FrozenF
from dtn_ray.method.pixels import to_float
from dtn_ray.perceptual.load import load_face_network
from dtn_ray.ray_cluster.connect import connect
from dtn_ray.train.domains import build_dtn
from dtn_ray.train.presets import PRESETS

sys.path.insert(0, str(Path(__file__).parent))
from harness import family, keep, memory

STEPS = 12
ROWS_AT_LEAST = 2000  # before the clock starts: Ray's workers must be there


@dataclass(frozen=True)
class Options:
    faces: str
    """Folder of Parquet files with a column image (local)."""
    rows: int = 1_000_000
    """Rows to stream."""
    batch_size: int = 64
    """Images in a batch."""
    size: int = 152
    """Pixels of the square that images are scaled to."""
    f: str | None = None
    """A face network; with it, training steps are timed, too."""
    out: str | None = None
    """A file for all numbers, as JSON."""


def many(source: str, rows: int, folder: str) -> int:
    """Links the Parquet files of `source` into `folder` until they have so many rows, and returns how many."""
    files = [storage.join(source, key) for key in storage.list_keys(source) if key.endswith(".parquet")]
    each = count_rows(find_groups(source))
    for turn in range(-(-rows // each)):
        for number, file in enumerate(files):
            os.symlink(Path(file).absolute(), f"{folder}/{turn:05}-{number}.parquet")
    return each * -(-rows // each)


class CPUClock(Thread):
    """CPU seconds of this process and all below it, also of those that have ended: looks every second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.spent = dict[int, float]()
        self.start()

    def run(self) -> None:
        while True:
            for process in family(os.getpid()):
                with contextlib.suppress(psutil.Error):
                    self.spent[process.pid] = sum(process.cpu_times()[:2])
            time.sleep(1)

    def seconds(self) -> float:
        return sum(self.spent.values())


def held_by() -> dict[str, int]:
    """MiB of memory by what the processes call themselves; those of less than 16 MiB together."""
    held = Counter[str]()
    for process in family(os.getpid()):
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            title = command[0] if command[0].startswith("ray::") else Path(command[0]).name
            held[title.partition("(")[0].strip()] += memory(process) >> 20
    small = sum(value for value in held.values() if value < 16)
    return {name: value for name, value in held.most_common() if value >= 16} | {"others": small}


def measure(options: Options, folder: str) -> dict[str, Any]:
    began = time.perf_counter()
    total = many(options.faces, options.rows, folder)
    groups = find_groups(folder)
    found = time.perf_counter() - began
    print(f"{total} rows in {len(groups)} row groups, found in {found:.1f} s", flush=True)
    clock = CPUClock()
    source = batches(Share(groups, 0, [], 0, 1, options.batch_size, options.size))
    for _ in range(-(-ROWS_AT_LEAST // options.batch_size)):
        next(source)
    points, seen = list[dict[str, Any]](), 0
    began, cpu = time.perf_counter(), clock.seconds()
    last = began
    while seen < options.rows:
        next(source)
        seen += options.batch_size
        if seen // (options.rows // 10) > len(points):
            now = time.perf_counter()
            held = held_by()
            rate = options.rows / 10 / (now - last)
            points.append({"rows": seen, "per_second": rate, "MiB": sum(held.values()), "held_by": held})
            print(json.dumps(points[-1]), flush=True)
            last = now
    seconds, spent = time.perf_counter() - began, clock.seconds() - cpu
    return {
        "rows": seen,
        "row_groups": len(groups),
        "found_seconds": found,
        "per_second": seen / seconds,
        "cores_busy": spent / seconds,
        "per_second_and_core": seen / spent,
        "points": points,
    }


def step_rates(options: Options) -> dict[str, float]:
    """Images of s a second that one worker on this machine takes, by preset and phase, without the stream."""
    assert options.f
    network, _ = load_face_network(options.f)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = {}
    for name in ("faces-small", "faces", "paper-faces"):
        preset = PRESETS[name][0]()
        optim = replace(preset.optim, bf16=True)
        for phase, warm_up in (("warm-up", 1 << 30), ("all losses", 0)):
            if phase == "warm-up" and not preset.loss.warm_up:
                continue
            torch.manual_seed(0)
            dtn = build_dtn(preset, FrozenF(network))
            trainer = DTNTrainer(dtn, replace(preset.loss, warm_up=warm_up), optim, device)
            images = torch.randint(0, 256, (optim.batch_size, 3, options.size, options.size), dtype=torch.uint8)
            x = to_float(images)
            trainer.step(x, x, 0)["L_g"].item()
            began = time.perf_counter()
            for step in range(1, STEPS + 1):
                terms = trainer.step(x, x, step)
            terms["L_g"].item()
            rates[f"{name}, {phase}"] = STEPS * optim.batch_size / (time.perf_counter() - began)
    return rates


def main(options: Options) -> dict[str, Any]:
    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    if options.f:
        result["threads"] = torch.get_num_threads()
        result["training_images_per_second"] = step_rates(options)
        print(json.dumps(result["training_images_per_second"]), flush=True)
    connect()
    with tempfile.TemporaryDirectory() as folder:
        result |= measure(options, folder)
    ray.shutdown()
    return keep(result, options.out)


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Options, description=__doc__)))
