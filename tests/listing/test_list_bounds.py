"""Lists that unpack to more than anybody has memory for: a count, a row or one line, in bounded memory."""

import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measured import in_a_process, read_list

from dtn_ray.convert.people import _by_table
from dtn_ray.errors import UserError
from dtn_ray.listing.inventory import LONGEST_MANIFEST, open_inventory, read_inventory
from dtn_ray.text.display import LONGEST_LINE

MB = 1 << 20


def read(path: Path) -> dict:
    """What a list comes to, in a process of its own; peak memory in MiB."""
    (path.parent / "in").mkdir(exist_ok=True)
    return in_a_process(read_list, str(path), str(path.parent / "in"))


def unpacks_to(path: Path, *parts: tuple[bytes, int]) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for content, times in parts:
            for _ in range(times):
                file.write(content)
    return path


@pytest.mark.parametrize("name", ["k.txt.gz", "k.csv.gz"])
def test_a_line_of_any_length_is_one_count(tmp_path, name):
    path = unpacks_to(tmp_path / name, (b"key\na.png\n", 1), (b"x" * MB, 400), (b"\nb.png\n", 1))
    found = read(path)
    assert found["odd"] == {"bad_line": 1} and found["rows"] == 2 + name.startswith("k.txt")
    assert found["error"] == "" and found["peak"] < 700


def test_a_row_whose_quotation_marks_never_end_is_no_reason_to_hold_the_file(tmp_path):
    path = unpacks_to(tmp_path / "k.csv.gz", (b"key,size\na.png,3\n", 1), (b'a","b\n' * 1000, 20))
    found = read(path)
    assert found["rows"] == 1 and found["odd"]["bad_line"] > 10_000 and found["peak"] < 700


def test_many_columns_and_blank_lines_are_read_past(tmp_path):
    path = unpacks_to(tmp_path / "k.csv.gz", (b"key" + b",x" * 30_000 + b"\n", 1), (b"," * 30_000 + b"\n", 2000))
    assert read(path)["peak"] < 700
    found = read(unpacks_to(tmp_path / "k.txt.gz", (b"\n" * MB, 64), (b"a.png\n", 1)))
    assert found["rows"] == 1 and found["peak"] < 700


def test_a_dictionary_value_that_every_row_shares_is_a_bad_line_of_each(tmp_path):
    keys = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000 + [1]), pa.array(["a" * MB, "a.png"]))
    pq.write_table(pa.table({"key": keys}), tmp_path / "k.parquet", compression="zstd")
    assert (tmp_path / "k.parquet").stat().st_size < 1000
    found = read(tmp_path / "k.parquet")
    assert (found["rows"], found["odd"], found["error"]) == (1, {"bad_line": 20_000}, "")
    assert found["peak"] < 1500


def test_a_value_larger_than_the_bound_ends_in_one_line(tmp_path):
    make = (
        "import sys, pyarrow as pa, pyarrow.parquet as pq\n"
        "key = pa.array([b'a' * (500 << 20)], pa.binary())\n"
        "pq.write_table(pa.table({'key': key}), sys.argv[1], compression='zstd', use_dictionary=False)"
    )
    subprocess.run([sys.executable, "-c", make, tmp_path / "k.parquet"], check=True)
    found = read(tmp_path / "k.parquet")
    assert "more than 800 MiB are needed" in found["error"] and "\n" not in found["error"]


def test_a_file_that_nothing_of_can_be_read_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr("dtn_ray.listing.inventory.BAD_AT_ONCE", 100)
    (tmp_path / "k.csv").write_text("key,size\n" + "a.png,big\n" * 1000)
    with pytest.raises(UserError, match="none of 100 lines can be read; the last: line "):
        list(read_inventory(open_inventory(f"{tmp_path}/k.csv")[0], str(tmp_path), lambda *_: None))
    monkeypatch.setattr("dtn_ray.listing.list_text.BLOCK", 256)
    (tmp_path / "k.csv").write_text("key,size\nb.png,3\n" + "a.png,big\n" * 1000)
    assert list(read_inventory(open_inventory(f"{tmp_path}/k.csv")[0], str(tmp_path), lambda *_: None))


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"null", b'{"destinationBucket": "b", "fileFormat": "CSV", "files": [[]]}', b"<html>"]
)
def test_a_manifest_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="not a manifest") as refused:
        open_inventory(f"{tmp_path}/manifest.json")
    assert "\n" not in str(refused.value)
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(LONGEST_MANIFEST + 1)
    with pytest.raises(UserError, match="a manifest may have at most"):
        open_inventory(f"{tmp_path}/manifest.json")


def test_values_of_any_length_are_bad_lines_at_once(tmp_path):
    spaces = " " * 60_000
    (tmp_path / "k.csv").write_text(
        f"key,modified,size\na.png,x{spaces}UTC,1\nb.png,,1e{'9' * 50}\nc.png,1e99999999999999999999,1\n"
    )
    odd = list[str]()
    tables = read_inventory(open_inventory(f"{tmp_path}/k.csv")[0], str(tmp_path), lambda _, name: odd.append(name))
    assert not any(map(len, tables)) and len(odd) == 3 and all(len(each) < 500 for each in odd)


def test_messages_are_shortened():
    assert len(str(UserError("a" * 10_000_000))) <= LONGEST_LINE


def test_a_table_of_people_with_values_of_any_length_is_one_line(tmp_path):
    keys = [f"{i}.png" for i in range(2000)]
    persons = pa.DictionaryArray.from_arrays(pa.array([0] * 2000), pa.array(["p" * MB]))
    pq.write_table(pa.table({"key": keys, "person": persons}), tmp_path / "people.parquet")
    with pytest.raises(UserError, match="a person of 1048576 bytes"):
        _by_table(f"{tmp_path}/people.parquet", pa.chunked_array([sorted(keys)]))
    pq.write_table(pa.table({"key": keys, "person": [f"p{i % 2}" for i in range(2000)]}), tmp_path / "people.parquet")
    assert _by_table(f"{tmp_path}/people.parquet", pa.chunked_array([["1.png", "2.png", "x"]])).to_pylist() == [
        "p1",
        "p0",
        None,
    ]
