"""Mutated lists of every form end in rows and counts, or in a UserError: never in another exception."""

import gzip
import io
import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from dtn_ray.errors import UserError
from dtn_ray.listing.inventory import InventoryFile, open_inventory, read_inventory
from dtn_ray.listing.left_out import REASONS

TIME = datetime(2026, 1, 2, tzinfo=UTC)
KEYS = ["a.png", "sub/ü.png", '"q".png', "b c+%2F.png", "x" * 300, ""]
TABLE = pa.table(
    {
        "bucket": ["", None, "b", "", "", ""],
        "key": KEYS,
        "size": [1, None, -3, 4, 5, 6],
        "e_tag": ["x"] * 6,
        "last_modified_date": [TIME] * 6,
        "is_latest": [True, True, None, True, False, True],
    }
)
CSV = "key,size,etag,last_modified,is_latest\n" + "".join(
    f'"{key}",{i},x,2026-01-02,true\n' for i, key in enumerate(KEYS)
)
MANIFEST = {
    "sourceBucket": "b",
    "destinationBucket": "arn:aws:s3:::",  # which leads nowhere
    "fileFormat": "CSV",
    "fileSchema": "Bucket, Key, Size",
    "files": [{"key": "data/0.csv.gz", "size": 3}],
}
MARKS = [
    b"\0",
    b"\n",
    b"\r",
    b'"',
    b",",
    b"\xff\xfe",
    b"..",
    b"/",
    b"://",
    b"\xed\xa0\x80",
    b"9" * 40,
    b"\x1f\x8b",
    b"%2e",
]


def written(table: pa.Table, write, **options) -> bytes:
    buffer = io.BytesIO()
    write(table, buffer, **options)
    return buffer.getvalue()


SEEDS = {
    "k.txt": "\n".join(KEYS).encode(),
    "k.csv": CSV.encode(),
    "k16.csv": CSV.encode("utf-16"),
    "k.txt.gz": gzip.compress("\n".join(KEYS).encode(), mtime=0),
    "k.csv.gz": gzip.compress(CSV.encode(), mtime=0),
    "manifest.json": json.dumps(MANIFEST).encode(),
    "k.parquet": written(TABLE, pq.write_table),
    "plain.parquet": written(TABLE, pq.write_table, use_dictionary=False, compression="none"),
    "k.orc": written(TABLE, orc.write_table),
}


def mutated(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0 and data:
            data[at % len(data)] = chance.randrange(256)
        elif kind == 1:
            data[at:at] = chance.choice(MARKS)
        elif kind == 2:
            del data[at : at + chance.randint(1, 20)]
        elif kind == 3:
            data[at:at] = data[at : at + 50] * chance.randint(1, 30)
        elif data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
    return bytes(data)


def ends_well(path: Path, source: str) -> None:
    def odd(reason: str, name: str) -> None:
        assert reason in REASONS and isinstance(name, str)

    try:
        files = [InventoryFile(str(path), "orc")] if path.suffix == ".orc" else open_inventory(str(path))
        for file in files:
            for table in read_inventory(file, source, odd):
                assert not any(".." in key.split("/") for key in table["key"].to_pylist())
    except UserError as refused:
        assert "\n" not in str(refused) and len(str(refused)) < 5000


def memory(name: str) -> int:
    """Of this process, in KiB: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def fuzz(tmp_path: Path, name: str, count: int) -> None:
    (tmp_path / "in").mkdir(exist_ok=True)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    for seed in range(count):
        (tmp_path / name).write_bytes(mutated(SEEDS[name], random.Random(f"{name}{seed}")))
        try:
            ends_well(tmp_path / name, f"{tmp_path}/in")
        except BaseException as error:
            error.add_note(f"{name}, seed {seed}")
            raise
    assert memory("VmHWM") - before < 700_000, "KiB"


@pytest.mark.parametrize("name", [name for name in SEEDS if not name.endswith((".parquet", ".orc"))])
def test_300_mutations_of_text_end_in_rows_or_one_line(tmp_path, name):
    fuzz(tmp_path, name, 300)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", [name for name in SEEDS if name.endswith((".parquet", ".orc"))])
def test_100_mutations_of_tables_end_in_rows_or_one_line(tmp_path, name):
    fuzz(tmp_path, name, 100)  # each starts a process
