"""Mutated Parquet files: each is read or refused with one line, in bounded memory and time.

CASES of each kind, always the same. They run in one process of their own, which tells what became of them.
"""

import io
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import encode
from mutations import cut, exaggerate, flip, outcomes_of
from PIL import Image

from dtn_ray.bulk import shards
from dtn_ray.convert import people
from dtn_ray.data.rows import find_groups, identities
from dtn_ray.data.windows import Window, read_window
from dtn_ray.errors import UserError
from dtn_ray.parquet import tables

CASES = 2000
MORE = 800_000  # kB that all cases of a kind may take together: three times GROUP_BYTES
SLOW = 60  # seconds for one case


def originals(kind: str) -> list[bytes]:
    """Small files of faces as writers of all sorts leave them."""
    images = [encode(Image.new("RGB", (8, 8), (i, 0, 0))) for i in range(40)]
    names = [f"person-{i % 7}" for i in range(40)]
    keys = [f"folder/{i:04}.png" for i in range(40)]
    plain = {"image": pa.array(images), "identity": pa.array(names), "key": pa.array(keys), "person": pa.array(names)}
    structs = pa.array([{"bytes": image, "path": key} for image, key in zip(images, keys, strict=True)])
    given: dict[str, list[tuple[dict[str, pa.Array], dict[str, Any]]]] = {
        "plain": [
            (plain, {"compression": "none", "use_dictionary": False}),
            (plain, {"compression": "snappy", "row_group_size": 9}),
        ],
        "packed": [(plain, {"compression": each}) for each in ("zstd", "gzip", "lz4", "brotli")],
        "encodings": [
            (plain, {"use_dictionary": False, "column_encoding": {each: encoding for each in plain}})
            for encoding in ("DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY")
        ],
        "second version": [(plain, {"data_page_version": "2.0", "version": "2.6", "write_page_index": True})],
        "structs": [
            (plain | {"image": structs}, {"compression": "zstd"}),
            (plain | {"image": pa.array(images).dictionary_encode()}, {}),
        ],
    }
    found = []
    for columns, options in given[kind]:
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer, **options)
        found.append(buffer.getvalue())
    return found


KINDS = ("plain", "packed", "encodings", "second version", "structs")


def flip_footer(content: bytes, chance: random.Random) -> bytes:
    return flip(content[::-1], chance)[::-1]


def exaggerate_footer(content: bytes, chance: random.Random) -> bytes:
    return exaggerate(content[::-1], chance)[::-1]


MUTATIONS = (flip, flip_footer, flip_footer, flip_footer, exaggerate, exaggerate_footer, cut)


def train(uri: str) -> None:
    groups = find_groups(uri, ("image", "identity"))
    identities(groups)
    for block in read_window(Window(tuple(groups), (0,)), 8, ["identity"]):
        assert block["image"].shape[1:] == (3, 8, 8)


def look_up(uri: str) -> None:
    keys = pa.chunked_array([[f"folder/{i:04}.png" for i in range(0, 50, 3)]])
    people._by_table(uri, keys)


def read_shard(uri: str) -> None:
    shards.read_image(uri, "parquet", 30, "png")


def read_all(uri: str) -> None:
    with tables.opened(uri) as file:
        for group in range(len(file.rows)):
            for _ in file.batches(group):
                pass


def attempt(uri: str) -> str:
    """Reads a file in every way that jobs do. Raises whatever is no UserError."""
    outcome = "refused"
    for work in (train, look_up, read_shard, read_all):
        try:
            work(uri)
        except UserError as error:
            text = str(error)
            assert "\n" not in text and len(text) < 2000 and text.isprintable(), text[:3000]
        except ValueError:
            if work is not read_shard:  # which promises no more
                raise
        else:
            outcome = "read"
    return outcome


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(kind: str, folder: Path) -> None:
    """Tries all cases of a kind, and prints what became of them; a traceback, where one ends in anything else."""
    given, path = originals(kind), folder / "case.parquet"
    for content in given:
        path.write_bytes(content)
        for work in (train, look_up, read_shard, read_all):
            work(str(path))
    before, outcomes = peak(), Counter[str]()
    for number in range(CASES):
        chance, began = random.Random(f"{kind} {number}"), time.monotonic()
        path.write_bytes(chance.choice(MUTATIONS)(chance.choice(given), chance))
        try:
            outcomes[attempt(str(path))] += 1
        except BaseException:
            print(f"{kind} {number}", file=sys.stderr)
            raise
        assert time.monotonic() - began < SLOW, f"{kind} {number}: {time.monotonic() - began:.0f} s"
        assert peak() - before < MORE, f"{kind} {number}: {peak() - before:,} kB more"
    print(json.dumps(outcomes | {"kB": peak() - before}))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_tables_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    outcomes = outcomes_of(__file__, kind, str(tmp_path))
    assert outcomes["read"] + outcomes["refused"] == CASES
    assert outcomes["refused"] > CASES / 10, "the mutations hardly change anything"


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp()))
