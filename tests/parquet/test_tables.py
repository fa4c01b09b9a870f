"""Parquet files of others: what they take in memory is bounded, and what is wrong with them is one line."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import encode
from measured import in_a_process, read_table
from PIL import Image

from dtn_ray.data.rows import find_groups
from dtn_ray.data.windows import Window, read_window
from dtn_ray.errors import UserError
from dtn_ray.parquet import tables

FACE = encode(Image.new("RGB", (8, 8), "teal"))
MIB = 1 << 20


def written(columns: dict[str, pa.Array], **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def columns(count: int, **others: pa.Array) -> dict[str, pa.Array]:
    """Of a table of faces that also is one of people."""
    names = pa.array(["a"] * count)
    return {"image": pa.array([FACE] * count), "identity": names, "key": names, "person": names} | others


def times(value: bytes, count: int) -> pa.Array:
    """One value that is meant `count` times."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def inflating(codec: str) -> bytes:
    """Pages of 512 MiB that are stored as a few kilobytes, or MiB."""
    images = pa.array([bytes(64 * MIB)] * 8)
    return written(columns(8, image=images), compression=codec, use_dictionary=False)


def many_rows() -> bytes:
    """Three million rows of nothing."""
    nothing = columns(3 << 20, image=pa.nulls(3 << 20, pa.binary()))
    return written(nothing, compression="zstd", row_group_size=3 << 20)


def footer_of(length: int) -> bytes:
    return b"PAR1" + bytes(100) + struct.pack("<I", length) + b"PAR1"


def prefixes() -> bytes:
    """Values that each repeat almost all of the one before."""
    images = pa.array([bytes(MIB) + str(i).encode() for i in range(600)])
    encodings = {name: "DELTA_BYTE_ARRAY" for name in ("image", "identity", "key", "person")}
    options = {
        "use_dictionary": False,
        "column_encoding": encodings,
        "write_batch_size": 600,
        "write_statistics": False,
    }
    return written(columns(600, image=images), compression="none", **options)


def of_many_columns() -> bytes:
    return written(columns(1) | {f"c{i}": pa.array([1]) for i in range(12_000)}, compression="none")


TOO_MUCH = "more than 256 MiB"
REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    # What is said by a training, and by --people, which does not read the images.
    "one image of a MiB that is meant 20,000 times": (
        lambda: written(columns(20_000, image=times(bytes(MIB), 20_000)), compression="zstd"),
        TOO_MUCH,
        "2",
    ),
    "the same without a schema of Arrow's": (
        lambda: written(columns(20_000, image=times(bytes(MIB), 20_000)), compression="zstd", store_schema=False),
        TOO_MUCH,
        "2",
    ),
    "people's names of a MiB": (
        lambda: written(columns(20_000, person=times(b"x" * MIB, 20_000)), compression="zstd"),
        "[",  # rows of each block
        "a person of 1048576 bytes; at most 65536",
    ),
    "pages that grow by zstd": (lambda: inflating("zstd"), TOO_MUCH, "2"),
    "pages that grow by gzip": (lambda: inflating("gzip"), TOO_MUCH, "2"),
    "pages that grow by snappy": (lambda: inflating("snappy"), TOO_MUCH, "2"),
    "pages that grow by brotli": (lambda: inflating("brotli"), TOO_MUCH, "2"),
    "values that repeat the one before": (prefixes, TOO_MUCH, "2"),
    "three million rows in a row group": (many_rows, "3145728 rows", "3145728 rows"),
    "more columns than any set of images": (of_many_columns, "12004 columns", "12004 columns"),
    "a footer of 4 GB": (lambda: footer_of(0xFFFFFFFF), "not a readable Parquet file", "Parquet"),
    "a footer of nothing": (lambda: footer_of(0), "not a readable Parquet file", "Parquet"),
    "no Parquet": (lambda: b"<html>" * 100, "not a readable Parquet file", "Parquet"),
    "an empty file": (lambda: b"", "not a readable Parquet file", "Parquet"),
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], dict]:
    def measured(content: bytes) -> dict:
        path, warm = tmp_path / "given.parquet", tmp_path / "warm.parquet"
        path.write_bytes(content)
        warm.write_bytes(written(columns(3)))
        return in_a_process(read_table, str(path), str(warm))

    return measured


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_file_may_take_is_bounded(case: str, read: Callable[[bytes], dict]) -> None:
    make, of_training, of_people = REFUSED[case]
    found = read(make())
    assert of_training in found["said"][0] and of_people in found["said"][1], found
    assert "\n" not in "".join(found["said"])
    assert found["grown"] < 800 and found["seconds"] < 20, found


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none"},
        {"compression": "zstd", "row_group_size": 100},
        {"use_dictionary": False, "data_page_version": "2.0"},
        {"column_encoding": {"image": "DELTA_BYTE_ARRAY"}, "use_dictionary": False},
        {"write_page_index": True, "data_page_size": 1000, "store_schema": False},
    ],
)
def test_ordinary_files_are_read_as_pyarrow_reads_them(options: dict, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    images = [None if i % 17 == 0 else chance.bytes(int(chance.integers(0, 5000))) for i in range(1000)]
    structs = pa.array([image and {"bytes": image, "path": str(i)} for i, image in enumerate(images)])
    names = pa.array([f"p{i % 30}" for i in range(1000)])
    lists = pa.array([[i] * (i % 4) for i in range(1000)])
    given = {"image": pa.array(images), "structs": structs, "names": names.dictionary_encode(), "lists": lists}
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table(given), path, **options)
    with tables.opened(path) as file, pq.ParquetFile(path) as plain:
        assert file.rows == [plain.metadata.row_group(i).num_rows for i in range(plain.num_row_groups)]
        for group in range(len(file.rows)):
            for wanted in (None, ["image"], ["structs.bytes", "names"]):
                found, expected = file.read(group, wanted), plain.read_row_group(group, wanted)
                assert found.schema == expected.schema and found.to_pylist() == expected.to_pylist()


def test_large_values_that_come_again_are_read_in_parts(tmp_path: Path) -> None:
    """200 photos of 1 MiB, of which there are two: within bounds, and never decoded all at once."""
    path = str(tmp_path / "a.parquet")
    given = pa.DictionaryArray.from_arrays(pa.array([i % 2 for i in range(200)]), pa.array([bytes(MIB), b"x" * MIB]))
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": given}), path, store_schema=False)
    with tables.opened(path) as file:
        batches = [batch.column("image").to_pylist() for batch in file.batches(0)]
    assert max(map(len, batches)) <= tables.BATCH_BYTES // MIB
    assert [image[:1] for batch in batches for image in batch] == [b"\0", b"x"] * 100


def test_a_row_group_that_is_damaged_gives_bad_rows_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    content = bytearray(written(columns(300), row_group_size=100, use_dictionary=False, compression="none"))
    middle = pq.read_metadata(io.BytesIO(content)).row_group(1).column(0)
    content[middle.data_page_offset : middle.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    groups = find_groups(str(path))
    blocks = list(read_window(Window(tuple(groups), (0,)), 8))
    bad = [each for block in blocks for each in block["bad"] if each]
    assert sum(len(block["image"]) for block in blocks) == 300
    assert len(bad) >= 100 and all("row group 1" in each for each in bad)


def test_a_footer_that_tells_of_other_places_or_rows_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    content = written(columns(3), compression="none", use_dictionary=False)
    told = pq.read_metadata(io.BytesIO(content)).row_group(0).column(0)
    before, after = told.total_compressed_size, told.total_compressed_size + 60_000
    assert before < 64 * 128

    def zigzag(value: int) -> bytes:
        value, found = 2 * value, bytearray()
        while value > 127:
            found.append(value & 127 | 128)
            value >>= 7
        return bytes([*found, value])

    start = content.rindex(zigzag(before) + b"\x26")  # field 7 of a column's metadata, then the place of its pages
    footer = content[:start] + zigzag(after) + content[start + len(zigzag(before)) : -8]
    length = int.from_bytes(content[-8:-4], "little") + len(footer) + 8 - len(content)
    path.write_bytes(footer + struct.pack("<I", length) + b"PAR1")
    with pytest.raises(UserError, match="lies outside of the file"), tables.opened(str(path)) as file:
        file.read(0, ["image"])
