"""Damage to Parquet that the program reads back: an error that names the file, or the same rows; never fewer."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dtn_ray.bulk.actor import _work
from dtn_ray.bulk.ledger import ROWS_PER_GROUP, Ledger, schema
from dtn_ray.errors import UserError
from dtn_ray.ingest.faces import COLUMNS
from dtn_ray.parquet import sealed


def rows(count: int) -> pa.Table:
    made = [
        {
            "key": f"2026/{i % 7}/IMG_{i:05}.jpg",
            "version": random.Random(i).randbytes(16).hex(),
            "size": 1000 + i,
            "status": "converted" if i % 5 else "failed",
            "cause": None if i % 5 else "archived",
            "reason": None if i % 5 else "archived in GLACIER: restore it first",
            "output": f"m/images/{i}.png",
            "score": 0.5,
            "model": "m",
            "attempts": 1,
            "faces": [{"output": "x", "box": [1.0, 2.0, 3.0, 4.0]}] if i % 3 == 0 else None,
            "storage_class": "STANDARD",
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(made, schema(COLUMNS))


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A bit or byte changed, some bytes zero, missing or moved, or the end lost; half of the time in the footer."""
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    place = chance.randrange(footer, len(content)) if chance.random() < 0.5 else chance.randrange(len(content))
    length = chance.randrange(1, 64)
    before, piece, after = content[:place], content[place : place + length], content[place + length :]
    change = {
        "bit": lambda: before + bytes([piece[0] ^ 1 << chance.randrange(8)]) + piece[1:] + after,
        "byte": lambda: before + chance.randbytes(1) + piece[1:] + after,
        "random": lambda: before + chance.randbytes(len(piece)) + after,
        "zeros": lambda: before + bytes(len(piece)) + after,
        "missing": lambda: before + after,
        "twice": lambda: before + piece + piece + after,
        "end": lambda: before,
    }
    return change[chance.choice([*change])]()


@pytest.mark.parametrize(
    ("count", "times"),
    [(3, 300), (600, 300), *(pytest.param(count, 2000, marks=pytest.mark.slow) for count in (1, 30, 3000))],
)
def test_a_damaged_part_is_an_error_that_names_it_or_reads_the_same(tmp_path, count, times):
    chance = random.Random(count)
    ledger = Ledger(str(tmp_path))
    ledger.append(rows(count).drop_columns("time"))
    (path,) = tmp_path.iterdir()
    content, before = path.read_bytes(), ledger.read()
    refused = 0
    for _ in range(times):
        path.write_bytes(damaged(content, chance))
        try:
            assert ledger.read().equals(before)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
    assert refused > 0.8 * times


def test_a_part_of_several_groups_and_what_a_compaction_writes_are_checked_too(tmp_path, monkeypatch):
    monkeypatch.setattr("dtn_ray.bulk.ledger.ROWS_PER_GROUP", 10)
    ledger = Ledger(str(tmp_path))
    for i in range(2):
        ledger.append(rows(40).slice(20 * i, 20).drop_columns("time"))
    ledger.compact()
    (path,) = tmp_path.iterdir()
    content, before, chance = path.read_bytes(), ledger.read(), random.Random(0)
    assert path.name.startswith("set-") and len(before) == 40
    for _ in range(100):
        path.write_bytes(damaged(content, chance))
        try:
            assert ledger.read().equals(before)
        except UserError as error:
            assert str(error).startswith(f"{path}: ")


def test_a_part_of_an_older_version_without_checksums_is_read_and_compacted(tmp_path):
    old = rows(5).drop_columns("storage_class")
    pq.write_table(old, tmp_path / "part-0123456789abcdef0123456789abcdef.parquet", row_group_size=ROWS_PER_GROUP)
    ledger = Ledger(str(tmp_path))
    before = ledger.read()
    assert len(before) == 5 and before["storage_class"].null_count == 5
    ledger.append(rows(7).slice(5).drop_columns("time"))
    ledger.compact()
    assert ledger.read().slice(0, 5)["version"].equals(before["version"]) and len(ledger.read()) == 7
    assert len(list(Path(tmp_path).iterdir())) == 1


def test_a_damaged_work_list_is_an_error_that_names_it_or_reads_the_same(tmp_path):
    work, chance = rows(50).select(["key", "version", "size"]), random.Random(0)
    content = sealed.encode(work)
    path = Path(sealed.name(f"{tmp_path}/0-00000", content))
    path.write_bytes(content)
    assert _work(str(path)).equals(work)
    for _ in range(300):
        _work.cache_clear()
        path.write_bytes(damaged(content, chance))
        try:
            assert _work(str(path)).equals(work)
        except UserError as error:
            assert str(error).startswith(f"{path}: the work list cannot be read") and "\n" not in str(error)


def test_the_key_bounds_of_very_long_keys_are_read(tmp_path):
    deep = "folder/" * 1000
    made = rows(3).drop_columns(["time", "key"]).append_column("key", pa.array([deep + name for name in "cab"]))
    Ledger(str(tmp_path)).append(made)
    (part,) = Ledger(str(tmp_path)).parts()
    assert (part.low, part.high, part.rows) == (f"{deep}a", f"{deep}c", 3)
