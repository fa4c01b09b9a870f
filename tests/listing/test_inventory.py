"""Conversion of the objects that an inventory lists, in whatever form it comes."""

import csv
import gzip
import io
import json
from datetime import UTC, datetime
from urllib.parse import quote_plus

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

KEYS = ["z.png", "a b+c.png", "deep/ü%2F.png", "deep/m.png", "0.png"]  # in no order
TIME = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def photos(bucket, s3_server) -> str:
    """Below in/ the objects of KEYS; beside them one of another prefix, which inventories list too."""
    objects = Objects(s3_server)
    objects.put(f"{bucket}/in", {key: encode(Image.new("RGB", (32, 32), (i, 90, 30))) for i, key in enumerate(KEYS)})
    objects.put(bucket, {"other/x.png": encode(Image.new("RGB", (32, 32)))})
    return f"{bucket}/in"


def none_odd(reason: str, name: str) -> None:
    """Of an inventory of the whole bucket, what lies outside the source is told, and nothing else."""
    assert reason == "outside", name


def listed(photos: str) -> list[dict]:
    """Rows as S3 Inventory writes them, of the whole bucket, and of what it once held."""
    bucket = photos.removeprefix("s3://").removesuffix("/in")
    found = {f"in/{row['key']}": row for page in storage.list_pages(photos) for row in page.to_pylist()}
    rows = [
        {
            "bucket": bucket,
            "key": key,
            "is_latest": True,
            "is_delete_marker": False,
            "size": found[key]["size"],
            "last_modified_date": TIME,
            "e_tag": found[key]["version"],
            "storage_class": "STANDARD",
        }
        for key in [f"in/{key}" for key in KEYS]
    ]
    older = rows[0] | {"is_latest": False, "e_tag": "older"}
    deleted = rows[0] | {"key": "in/deleted.png", "is_delete_marker": True, "size": None, "e_tag": None}
    return [older, *rows, deleted, rows[0] | {"key": "other/x.png"}]


def manifest(photos: str, format: str) -> str:
    """Writes an inventory into the bucket, in two files; its manifest."""
    bucket = photos.removesuffix("/in")
    rows, files = listed(photos), []
    for i, part in enumerate((rows[:3], rows[3:])):
        buffer = io.BytesIO()
        if format == "CSV":
            text = io.StringIO()
            writer = csv.writer(text, quoting=csv.QUOTE_ALL)
            for row in part:
                values = {name: "" if value is None else str(value) for name, value in row.items()}
                values |= {"key": quote_plus(row["key"]), "last_modified_date": "2026-01-02T00:00:00.000Z"}
                writer.writerow([value.lower() if value in ("True", "False") else value for value in values.values()])
            content = gzip.compress(text.getvalue().encode(), mtime=0)
        else:
            (pq.write_table if format == "Parquet" else orc.write_table)(pa.Table.from_pylist(part), buffer)
            content = buffer.getvalue()
        files.append({"key": f"inventory/data/{i}", "size": len(content)})
        ending = ".csv.gz" if format == "CSV" else f".{format.lower()}"
        files[-1]["key"] += ending
        storage.write_bytes(f"{bucket}/{files[-1]['key']}", content)
    schema = (
        "Bucket, Key, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"
        if format == "CSV"
        else "message …"
    )
    about = {
        "sourceBucket": bucket.removeprefix("s3://"),
        "destinationBucket": f"arn:aws:s3:::{bucket.removeprefix('s3://')}",
        "fileFormat": format,
        "fileSchema": schema,
        "files": files,
    }
    uri = f"{bucket}/inventory/2026-01-02T01-00Z/manifest.json"
    storage.write_bytes(uri, json.dumps(about).encode())
    return uri


@pytest.mark.parametrize("format", ["CSV", "Parquet", "ORC"])
def test_an_S3_Inventory_of_each_format_tells_what_a_listing_tells(photos, format):
    files = open_inventory(manifest(photos, format))
    assert len(files) == 2
    tables = [table for file in files for table in read_inventory(file, photos, none_odd)]
    found = pa.concat_tables(tables).drop_columns("modified").sort_by("key")
    expected = pa.concat_tables(storage.list_pages(photos)).drop_columns("modified").sort_by("key")
    assert found.equals(expected)
    assert {time for table in tables for time in table["modified"].to_pylist()} == {TIME}


def test_a_conversion_takes_an_S3_Inventory_in_place_of_a_listing(made, photos, bucket):
    job = Conversion(f"{made}/dtn", photos, f"{bucket}/out", inventory=manifest(photos, "CSV"), sheet=0)
    summary = convert(job)
    assert (summary["images"], summary["converted"], summary["failed"]) == (5, 5, 0)
    # The same objects, now by a listing: versions are the same, so nothing is new.
    summary = convert(Conversion(f"{made}/dtn", photos, f"{bucket}/out", sheet=0))
    assert (summary["images"], summary["done_before"], summary["converted"]) == (5, 5, 0)


def test_a_list_of_keys_is_enough_and_an_absent_object_is_accounted_for(made, photos, bucket, s3_server, tmp_path):
    keys = [*KEYS[:2], f"{photos}/{KEYS[2]}", "absent.png", "readme.txt", f"{bucket}/other/x.png", KEYS[0]]
    (tmp_path / "keys.txt").write_text("\n".join(keys) + "\n", encoding="utf-8")
    job = Conversion(f"{made}/dtn", photos, f"{bucket}/out", inventory=f"{tmp_path}/keys.txt", sheet=0)
    summary = convert(job)
    assert (summary["images"], summary["converted"], summary["failed"]) == (4, 3, 1)
    assert "absent.png" in summary["failures"]
    again = convert(job)
    assert (again["done_before"], again["converted"], again["failed"]) == (3, 0, 1)
    rows = Objects(s3_server).newest(f"{bucket}/out")
    assert set(rows) == {*KEYS[:3], "absent.png"} and rows["absent.png"]["attempts"] == 2


def test_a_table_with_a_column_key_serves_for_a_local_folder(made, tmp_path, ray_cluster):
    for key in ("a.png", "b/c.png"):
        storage.write_bytes(f"{tmp_path}/in/{key}", encode(Image.new("RGB", (32, 32))))
    (tmp_path / "keys.csv").write_text('Key,note\n"b/c.png",x\n')
    job = Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", inventory=f"{tmp_path}/keys.csv", sheet=0)
    summary = convert(job)
    assert (summary["images"], summary["converted"]) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "absent.csv: no such file"),
        ("keys.xlsx", b"", "must end in one of"),
        ("keys.csv", b"name,size\na.png,3\n", "no column key, only name, size"),
        ("keys.csv", b"key,size\na.png\n", "line 2: 1 values for the columns key, size"),
        ("keys.csv", b"key,size\na.png,big\n", "line 2: size 'big' cannot be read"),
        ("keys.csv", b"key,modified\na.png,yesterday\n", "yesterday"),
        ("keys.parquet", b"PAR", "cannot be read"),
        ("keys.csv.gz", b"key\na.png\n", "cannot be read"),
        ("keys.txt", b"\xff\xfe\n", "no images below"),
        ("keys.txt", b"../secret.png\n", "leads out of"),
        ("keys.txt", b"\n", "no images below"),
        ("manifest.json", b"{}", "not a manifest of S3 Inventory"),
        ("manifest.json", b'{"destinationBucket": "b", "fileFormat": "XML", "files": []}', "format xml"),
    ],
)
def test_what_is_no_inventory_is_refused_by_name(made, tmp_path, ray_cluster, name, content, message):
    (tmp_path / "in").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    job = Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", inventory=f"{tmp_path}/{name}")
    with pytest.raises(UserError, match=message) as refused:
        convert(job)
    assert name in str(refused.value)
