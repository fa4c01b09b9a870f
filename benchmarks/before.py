"""Compares the CPU time of one actor's work in this checkout with that in an earlier commit, in alternating turns.

python benchmarks/before.py COMMIT                                         conversion of digits: small objects, photos
python benchmarks/before.py COMMIT --detector YUNET.onnx                   and finding faces
python benchmarks/before.py COMMIT --networks dlib_resnet_128d.onnx        and passes through f, forward and back
python benchmarks/before.py COMMIT --listing                               and sifting a listing, reading an inventory

Two processes, one with each commit's `dtn_ray`, work in turn for about a second each, on objects of one S3 server
(SeaweedFS, whose own time does not count). A machine's speed drifts over minutes, so the ratio of neighbouring turns
counts: the median of all of them, and the half of them that lies around it.
"""

import contextlib
import importlib
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro

sys.path.insert(0, str(Path(__file__).parent))
THREADS = 1  # of torch: an actor on a CPU has one


@dataclass(frozen=True)
class Options:
    commit: tyro.conf.Positional[str]
    """The earlier commit."""
    turns: int = 20
    """Turns of each commit, for each kind of work."""
    detector: str | None = None
    """YuNet's file; with it, finding faces is measured too."""
    networks: tuple[str, ...] = ()
    """Face networks as ONNX; their passes are measured too."""
    listing: bool = False
    """Measure listings and inventories too."""
    kinds: tuple[str, ...] = ()
    """Kinds of work; by default all that the other options allow."""
    out: str | None = None
    """A file for all numbers, as JSON."""


def works(options: Options, checkpoint: str, folder: Path) -> dict[str, list[str]]:
    """The kinds of work, each with the parameters of its worker."""
    found = {"small objects": [checkpoint, "s3://bench/small"], "photos": [checkpoint, "s3://bench/photos"]}
    if options.detector:
        found |= {f"faces, {name}": [options.detector, str(folder / name)] for name in ("portraits", "no face")}
    found |= {f"network {Path(each).stem}": [each] for each in options.networks}
    if options.listing:
        found |= {"sift": [], "inventory": [str(folder / "keys.csv")]}
    return {kind: rest for kind, rest in found.items() if not options.kinds or kind in options.kinds}


def main(options: Options) -> dict[str, Any]:
    from convert import photos, small_objects, untrained
    from faces import people
    from harness import keep, seaweedfs, upload

    result: dict[str, Any] = {"before": options.commit}
    with seaweedfs() as folder, checked_out(options.commit) as before:
        upload("small", small_objects(), 200)
        upload("photos", photos((1000, 1500), 4), 16)
        (folder / "portraits").mkdir()
        (folder / "no face").mkdir()
        for i, content in enumerate(people((1000, 1500), 8)):
            (folder / "portraits" / f"{i}.jpg").write_bytes(content)
        for i, content in enumerate(photos((1000, 1500), 4)):
            (folder / "no face" / f"{i}.jpg").write_bytes(content)
        rows = [f"bench,small/{i % 997}/{i:08}.jpg,{i},2026-01-02T03:04:05.000Z,{i:032x}" for i in range(50_000)]
        (folder / "keys.csv").write_text("\n".join(["bucket,key,size,last_modified_date,e_tag", *rows]))
        for kind, rest in works(options, untrained(folder / "dtn"), folder).items():
            result[kind] = in_turns(kind, rest, {"before": before, "now": Path(__file__).parent.parent}, options.turns)
            print(kind, {name: value for name, value in result[kind].items() if name != "seconds"}, flush=True)
    return keep(result, options.out)  # cli.run prints it too


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A temporary folder with a commit's files."""
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", root, "archive", commit, "dtn_ray"], check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def in_turns(kind: str, rest: list[str], checkouts: dict[str, Path], turns: int) -> dict[str, Any]:
    """CPU seconds of each turn, and the ratio of the present checkout's to the earlier one's."""
    command = [sys.executable, __file__, "work", kind, *rest]
    seconds = dict[str, list[float]]()
    with contextlib.ExitStack() as stack:
        workers = dict[str, subprocess.Popen[str]]()
        for name, root in checkouts.items():
            scratch = stack.enter_context(tempfile.TemporaryDirectory())
            environment = {"PYTHONPATH": str(root), "SCRATCH": scratch, "OMP_NUM_THREADS": str(THREADS)}
            workers[name] = subprocess.Popen(
                command, env=os.environ | environment, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True
            )
            stack.callback(workers[name].kill)
        for turn in range(-1, turns):  # the first one warms up
            for name in list(workers)[:: 1 if turn % 2 else -1]:
                taken = _turn(workers[name])
                if turn >= 0:
                    seconds.setdefault(name, []).append(taken)
    ratios = [now / before for before, now in zip(seconds["before"], seconds["now"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    means = {f"{name}_ms": round(1000 * statistics.median(each), 1) for name, each in seconds.items()}
    return {"ratio": round(middle, 3), "half": [round(low, 3), round(high, 3)], **means, "seconds": seconds}


def _turn(worker: "subprocess.Popen[str]") -> float:
    assert worker.stdin and worker.stdout
    worker.stdin.write("again\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        raise RuntimeError(f"{worker.args} failed; run it by hand, with a line on its standard input")
    return json.loads(answer)


def work(kind: str, rest: list[str]) -> None:
    """A worker: does one turn for each line of its input, and prints the CPU seconds."""
    once, name = WORKS[kind.partition(" ")[0].strip(",")](rest), sys.stdout
    for _ in sys.stdin:
        began = time.process_time()
        once()
        print(time.process_time() - began, file=name, flush=True)


def first(*names: str) -> Any:
    """The first of these members of dtn_ray that a checkout has; older checkouts have other modules."""
    for name in names:
        module, _, member = name.rpartition(".")
        with contextlib.suppress(ModuleNotFoundError, AttributeError):
            return getattr(importlib.import_module(f"dtn_ray.{module}"), member)
    raise ImportError(f"none of {', '.join(names)}")


def convert(rest: list[str]) -> Callable[[], Any]:
    import pyarrow as pa

    from dtn_ray import storage

    Conversion = first("convert.options.Conversion", "conversion.Conversion")
    Converter = first("convert.pipeline.Converter", "converter.Converter")

    job = Conversion(rest[0], rest[1], f"s3://bench/out/{os.path.basename(os.environ['SCRATCH'])}")
    converter, pages = Converter(job, cpus=THREADS), pa.concat_tables(storage.list_pages(job.source))
    missing = [name for name in ("storage_class",) if name not in pages.column_names]
    for column in missing:  # a listing of before had none
        pages = pages.append_column(column, pa.nulls(len(pages), pa.string()))
    times = 3 if "small" in rest[1] else 1

    def once() -> None:
        for _ in range(times):
            rows = converter(pages)
            assert set(rows["status"].to_pylist()) == {"converted"}, rows

    return once


def find(rest: list[str]) -> Callable[[], Any]:
    FaceFinder = first("faces.find.FaceFinder", "faces.FaceFinder")
    finder = FaceFinder(Path(rest[0]).read_bytes(), 1 << 30)
    contents = [path.read_bytes() for path in sorted(Path(rest[1]).iterdir())]
    return lambda: [finder(content) for content in contents * 3]


def network(rest: list[str]) -> Callable[[], Any]:
    import torch

    load_imported = first("perceptual.load.load_imported", "perceptual.load")
    torch.set_num_threads(THREADS)
    f, _ = load_imported(rest[0])
    f.requires_grad_(False)
    images = 2 * torch.rand(8, 3, 152, 152, generator=torch.Generator().manual_seed(0)) - 1

    def once() -> None:
        x = images.clone().requires_grad_()
        f.network(f.eye(x)).flatten(1).float().square().sum().backward()

    return once


def sifting(rest: list[str]) -> Callable[[], Any]:
    import pyarrow as pa

    from dtn_ray import storage

    Filters, sift = first("bulk.plan.Filters", "plan.Filters"), first("bulk.plan.sift", "plan.sift")
    Conversion = first("convert.options.Conversion", "conversion.Conversion")

    count, job = 100_000, Conversion("model", "in", "out")
    filters = Filters.of(job)
    columns = {
        "key": [f"{i % 997:03}/{i:08}.jpg" for i in range(count)],
        "version": [f"{i:032x}" for i in range(count)],
        "size": list(range(count)),
        "modified": [datetime(2026, 1, 2, tzinfo=UTC)] * count,
        "storage_class": ["STANDARD"] * count,
    }
    listing = pa.table({name: columns[name] for name in storage.LISTING.names}, storage.LISTING)
    return lambda: sift(job, filters, [], listing, None)


def inventory(rest: list[str]) -> Callable[[], Any]:
    open_inventory = first("listing.inventory.open_inventory", "inventory.open_inventory")
    read_inventory = first("listing.inventory.read_inventory", "inventory.read_inventory")

    def once() -> int:
        files = open_inventory(rest[0])
        told = [lambda *_: None] if "odd" in inspect.signature(read_inventory).parameters else []
        return sum(len(table) for table in read_inventory(files[0], "s3://bench/small", *told))

    return once


WORKS = {
    "small": convert,
    "photos": convert,
    "faces": find,
    "network": network,
    "sift": sifting,
    "inventory": inventory,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], sys.argv[3:])
    else:
        from dtn_ray import cli

        cli.run(lambda: main(tyro.cli(Options, description=__doc__)))
