"""What lies outside IN is counted and never read, by whatever name a list, a listing or a ledger leads there."""

import functools
import operator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import encode
from objects import Objects
from PIL import Image
from pyarrow import orc

from dtn_ray import storage
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.listing.inventory import open_inventory, read_inventory
from dtn_ray.storage.local_files import Walked

PHOTO = encode(Image.new("RGB", (32, 32), "teal"))


@pytest.fixture
def place(tmp_path) -> Path:
    """in/ with a photo in a subfolder and links; in2/ beside it, with what must not be read through `..`."""
    for name in ("in/a.png", "in/sub/b.png", "in2/secret.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PHOTO)
    (tmp_path / "in/sub/above").symlink_to("..")
    (tmp_path / "in/sub/outside").symlink_to("../..")
    (tmp_path / "in/away").symlink_to("../in2")
    return tmp_path


def listed(path: Path, source: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Keys that a list names below the source, and what was left out."""
    odd = list[tuple[str, str]]()
    found = [
        table["key"].to_pylist()
        for file in open_inventory(str(path))
        for table in read_inventory(file, source, lambda reason, name: odd.append((reason, name)))
    ]
    return functools.reduce(operator.iadd, found, []), odd


OUTSIDE = [
    "../in2/secret.png",
    "./../in2/secret.png",
    "sub/../../in2/secret.png",
    "sub//..//..//in2/secret.png",
    "..",
    "{place}/in2/secret.png",
    "{place}/in/../in2/secret.png",
    "//etc/passwd.png",
    "file://{place}/in/../in2/secret.png",
    "file://{place}/in/%2e%2e/in2/secret.png",
    "file://{place}/in%2F..%2Fin2/secret.png",
    "FILE://localhost{place}/in2/secret.png",
    "file://elsewhere{place}/in/a.png",
    "http://h/a.png",
    "s3://bucket/in/a.png",
    "sub/outside/in2/secret.png",
    "{place}/in/sub/outside/in2/secret.png",
    "sub/above/in2/secret.png",
]


@pytest.mark.parametrize("source", ["{place}/in", "file://{place}/in", "{place}/in/"])
@pytest.mark.parametrize("format", ["txt", "csv", "bucket.csv", "parquet", "bucket.parquet", "orc"])
def test_no_form_of_list_leads_out_of_a_local_source(place, source, format):
    names = [name.format(place=place) for name in OUTSIDE]
    keys = [*names, "a.png", "away/secret.png", "..\\in2\\secret.png", "%2e%2e/in2/secret.png"]
    path = place / f"list.{format}"
    if format.endswith("txt"):
        path.write_text("\n".join(keys))
    elif format.endswith("csv"):
        head, start = ("bucket,key", ",") if format.startswith("bucket") else ("key", "")
        path.write_text("\n".join([head, *(f'{start}"{key}"' for key in keys)]))
    else:
        table = pa.table({"key": keys} | ({"bucket": [""] * len(keys)} if "bucket" in format else {}))
        (orc if format == "orc" else pq).write_table(table, path)
    if format == "orc":  # only a manifest leads to one
        from dtn_ray.listing.inventory import InventoryFile

        odd = list[tuple[str, str]]()
        tables = read_inventory(
            InventoryFile(str(path), "orc"), source.format(place=place), lambda *each: odd.append(each)
        )
        found = functools.reduce(operator.iadd, (table["key"].to_pylist() for table in tables), [])
    else:
        found, odd = listed(path, source.format(place=place))
    # The link `away` is followed, as a walk of IN follows it; the last two are names as any other.
    assert found == ["a.png", "away/secret.png", "..\\in2\\secret.png", "%2e%2e/in2/secret.png"]
    assert len(odd) == len(names) and {reason for reason, _ in odd} == {"outside", "unsafe"}


def test_a_list_reaches_no_further_than_a_walk(place):
    walked = {
        key for page in storage.list_pages(str(place / "in"), odd=lambda *_: None) for key in page["key"].to_pylist()
    }
    assert walked == {"a.png", "sub/b.png", "away/secret.png"}
    lists = Walked(str(place / "in")).lists
    assert lists("sub") and lists("away") and lists("absent/folder")
    assert not lists("sub/above") and not lists("sub/outside") and not lists("sub/outside/in2")


def test_a_conversion_reads_nothing_outside_and_tells_so(made, place):
    pq.write_table(pa.table({"bucket": ["", None], "key": ["../in2/secret.png", "a.png"]}), place / "list.parquet")
    job = Conversion(f"{made}/dtn", f"file://{place}/in", f"{place}/out", inventory=f"{place}/list.parquet", sheet=0)
    # A Parquet list is read by Ray, of which this needs none.
    tables = list(read_inventory(open_inventory(job.inventory)[0], job.source, lambda *_: None))
    assert [table["key"].to_pylist() for table in tables if len(table)] == [["a.png"]]
    (place / "list.txt").write_text(f"file://{place}/in/../in2/secret.png\na.png\n")
    summary = convert(Conversion(job.checkpoint, job.source, job.out, inventory=f"{place}/list.txt", sheet=0))
    assert (summary["converted"], summary["left_out"]["unsafe"]["count"]) == (1, 1)
    assert [each.name for each in (place / "out").rglob("*.png")] == ["a.png.png"]


@pytest.mark.parametrize(("name", "local"), [("a/../../x", True), ("..", True), ("../x", False), ("a/..", False)])
def test_no_name_leads_out_of_what_it_is_joined_to(tmp_path, name, local):
    base = str(tmp_path) if local else "s3://bucket/prefix"
    for join in (storage.join, storage.child):
        with pytest.raises(UserError, match="leads out of it"):
            join(base, name)


def test_a_name_that_begins_with_a_slash_stays_below():
    # Of an object `prefix//etc/passwd`, a listing tells the key `/etc/passwd`: never the local file.
    assert storage.join("s3://bucket/prefix", "/etc/passwd") == "s3://bucket/prefix//etc/passwd"
    assert storage.join("/folder", "/etc/passwd") == "/folder//etc/passwd"
    assert storage.join("/folder/", "a", "b") == "/folder/a/b" and storage.join("", "a") == "a"


def test_lists_of_a_bucket_name_only_what_lies_below_the_prefix(made, bucket, s3_server, tmp_path):
    Objects(s3_server).put(bucket, {"in/a.png": PHOTO, "in2/secret.png": PHOTO})
    lines = [
        "a.png",
        "../in2/secret.png",
        f"{bucket}/in/../in2/secret.png",
        f"{bucket}/in2/secret.png",
        "s3://other/in/a.png",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found, odd = listed(tmp_path / "list.txt", f"{bucket}/in")
    assert found == ["a.png"] and [reason for reason, _ in odd] == ["unsafe", "unsafe", "outside", "outside"]
    name = bucket.removeprefix("s3://")
    keys = ["in/a.png", "in/../in2/secret.png", "in2/secret.png", "../in2/secret.png"]
    table = pa.table({"bucket": [name, name, name, ""], "key": keys})
    pq.write_table(table, tmp_path / "list.parquet")
    found, odd = listed(tmp_path / "list.parquet", f"{bucket}/in")
    assert found == ["a.png"] and sorted(reason for reason, _ in odd) == ["outside", "unsafe", "unsafe"]


def test_a_manifest_in_a_bucket_names_no_files_of_another(bucket):
    content = b'{"destinationBucket": "arn:aws:s3:::other", "fileFormat": "Parquet", "files": [{"key": "x.parquet"}]}'
    storage.write_bytes(f"{bucket}/manifest.json", content)
    with pytest.raises(UserError, match="another bucket, other"):
        open_inventory(f"{bucket}/manifest.json")
