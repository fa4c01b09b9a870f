"""Cost of finding new objects in a large bucket: listing and anti-join with the ledger, relative to a plain script.

python benchmarks/listing.py                  100,000 and 1,000,000 keys; about 20 minutes on two idle cores

The bucket holds so many objects of a few bytes on the S3 server of benchmarks/convert.py, in a hundred prefixes, and
the ledger a row for each: for every second, that it is converted. Each job is the nightly one: jobs/convert.py lists
the bucket, leaves out what the ledger says is done, and writes the work list; --limit ends it after 64 conversions,
whose time, and Ray's start-up, a run over 64 keys tells. The script that it is compared with pages through the listing
with boto3, in one process, holds all keys and the ledger in memory, and does nothing else.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import boto3
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from dtn_ray import cli, storage
from dtn_ray.bulk.ledger import ROWS_PER_SET, Ledger
from dtn_ray.convert.pipeline import model_folder
from dtn_ray.train.trained import load_trained

sys.path.insert(0, str(Path(__file__).parent))
import convert
import harness
import peers

FEW = 64


@dataclass(frozen=True)
class Options:
    keys: tuple[int, ...] = (100_000, 1_000_000)
    """Numbers of objects in the bucket."""
    out: str | None = None
    """A file for all numbers, as JSON."""


def upload(prefix: str, count: int) -> None:
    """`count` small images under a hundred prefixes."""
    store = peers.obstore_of("bench")
    content = convert.small_objects()[0]

    def put(first: int) -> None:
        for i in range(first, min(first + 1000, count)):
            obstore.put(store, f"{prefix}/{i % 100:02}/{i:09}.jpg", content)

    with convert.ThreadPoolExecutor(32) as pool:
        list(pool.map(put, range(0, count, 1000)))


def enter(ledger: Ledger, source: str, model: str) -> None:
    """Writes the ledger: every second object of the source is converted; in sets, as after a compaction."""
    held, rows = list[pa.Table](), 0
    for page in [*storage.list_pages(source), None]:
        if page is not None:
            held.append(page)
            rows += len(page)
        if rows >= ROWS_PER_SET or (page is None and rows):
            listed = pa.concat_tables(held)
            count = len(listed)
            keys, done = listed["key"].to_pylist(), [i % 2 == 0 for i in range(count)]
            columns = {
                "key": keys,
                "version": listed["version"],
                "size": listed["size"],
                "status": ["converted" if each else "failed" for each in done],
                "cause": [None if each else "store" for each in done],
                "reason": [None if each else "503 Slow Down" for each in done],
                "output": [f"{key}.png" if each else None for key, each in zip(keys, done, strict=True)],
                "score": pa.array([1.0] * count, pa.float32()),
                "model": [model] * count,
                "attempts": pa.array([1] * count, pa.int32()),
            }
            ledger.append(pa.table(columns))
            held, rows = [], 0


def by_hand(source: str, ledger: str) -> None:
    """The script: counts the new keys."""
    bucket, prefix = peers.split(source)
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    listed = {each["Key"].removeprefix(prefix): each["ETag"] for page in pages for each in page["Contents"]}
    filesystem, path = storage.resolve(ledger)
    rows = pq.read_table(path, filesystem=filesystem, columns=["key", "version", "status"]).to_pylist()
    done = {row["key"]: row["version"] for row in rows if row["status"] == "converted"}
    print(sum(done.get(key) != etag for key, etag in listed.items()))


def measure(options: Options, model: str) -> dict[str, Any]:
    folder = model_folder(digest := load_trained(model).digest)

    def job(count: int) -> harness.Turn:
        source, out = f"s3://bench/{count}", f"s3://bench/out-{count}"
        return harness.watch([*convert.command("dtn-ray", model, source, out), "--limit", str(FEW)])

    def script(count: int) -> harness.Turn:
        return harness.watch(
            [sys.executable, __file__, f"s3://bench/{count}", f"s3://bench/out-{count}/ledger/{folder}"]
        )

    result: dict[str, Any] = {"cores": peers.CORES}
    for count in (FEW, *options.keys):
        began = time.perf_counter()
        upload(str(count), count)
        print(f"{count} objects written in {time.perf_counter() - began:.0f} s", flush=True)
        enter(Ledger(f"s3://bench/out-{count}/ledger/{folder}"), f"s3://bench/{count}", digest)
        turns = {"script": script(count), "dtn-ray": job(count)}
        few = result.get(str(FEW), {})
        result[str(count)] = {
            name: asdict(turn) | {"without_start": turn.seconds - few.get(name, {}).get("seconds", turn.seconds)}
            for name, turn in turns.items()
        }
        print(count, json.dumps(result[str(count)]), flush=True)
    return result


def main(options: Options) -> dict[str, Any]:
    with harness.seaweedfs() as folder:
        return harness.keep(measure(options, convert.untrained(folder / "dtn")), options.out)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("s3://"):
        by_hand(*sys.argv[1:])
    else:
        cli.run(lambda: main(tyro.cli(Options, description=__doc__)))
