"""Lists of keys that other programs made: the same keys as the listing's, and what cannot be read by its line."""

import gzip
import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import encode
from objects import Objects
from PIL import Image

from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.storage import s3

PHOTO = encode(Image.new("RGB", (32, 32), "teal"))
SIZE = len(PHOTO)
KEYS = ["a.png", "sub/b.png", "sub/ü,c.png"]


@pytest.fixture
def source(tmp_path) -> Path:
    for key in KEYS:
        (tmp_path / "in" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / key).write_bytes(PHOTO)
    (tmp_path / "alias").symlink_to("in")
    return tmp_path / "in"


@pytest.fixture
def run(made, source, tmp_path):
    """Converts by a list, without Ray; the listing, before it, makes sure that no key is another."""

    def convert_listed(name: str, content: bytes | str | pa.Table, at: str | None = None, **options) -> dict:
        path = tmp_path / name
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        job = Conversion(f"{made}/dtn", at or str(source), f"{tmp_path}/out", inventory=str(path), sheet=0, **options)
        return convert(job)

    return convert_listed


def counts(summary: dict) -> dict[str, int]:
    return {reason: found["count"] for reason, found in summary["left_out"].items()}


def rows_of(out: Path) -> dict[str, dict]:
    return {row["key"]: row for row in pq.read_table(out / "ledger").to_pylist()}


LINES = "\n".join(KEYS) + "\n"
TABLE = 'Key;Size;"Last Modified"\n' + "".join(f"{key};{SIZE}.0;2024-01-02T03:04:05.123456789Z\n" for key in KEYS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("k.txt", LINES),
        ("k.txt", "\ufeff" + LINES),
        ("k.txt", LINES.replace("\n", "\r\n") + "\r\n\r\n"),
        ("k.txt", "\n\n" + LINES.replace("\n", "\n \n")),
        ("k.txt", LINES.rstrip()),
        ("k.txt", LINES.encode("utf-16")),
        ("k.txt", LINES.encode("utf-16-le")),
        ("k.txt", "\ufeff".encode("utf-16-be") + LINES.encode("utf-16-be")),
        ("k.txt", LINES.encode("utf-32")),
        ("k.txt.gz", gzip.compress(LINES.encode("utf-8-sig"), mtime=0)),
        ("k.txt", ".\n./sub\n" + "".join(f"./{key}\n" for key in KEYS) + LINES),
        ("k.txt", "".join(f".//{key.replace('/', '//./')}\n" for key in KEYS)),
        ("k.txt", "".join(f'"{key}"\n' for key in KEYS)),
        ("k.csv", "key\n" + "".join(f'"{key}"\n' for key in KEYS)),
        ("k.csv", "\ufeffkey\n" + LINES + "\n\n"),
        ("k.csv", LINES),
        ("k.csv", "photo\n" + LINES),
        ("k.csv", "sep=;\nKEY ;Size\n" + "".join(f"{key};{SIZE}\n" for key in KEYS)),
        ("k.csv", TABLE),
        ("k.csv", TABLE.replace(";", "\t").encode("utf-16")),
        ("k.csv", "key,size,\n" + "".join(f'"{key}","{SIZE}",,\n' for key in KEYS)),
        ("k.csv", "size,key,size\n" + "".join(f'{SIZE},"{key}",x\n' for key in KEYS)),
        ("k.csv.gz", gzip.compress(TABLE.encode(), mtime=0)),
        ("k.parquet", pa.table({"Key": KEYS, "size": [float(SIZE), None, SIZE]})),
        ("k.parquet", pa.table({"key": pa.array([key.encode() for key in KEYS])})),
        ("k.parquet", pa.table({"key": pa.array(KEYS).dictionary_encode(), "last-modified": [1704164645.5] * 3})),
        (
            "k.parquet",
            pa.table({"key": KEYS, "modified": pa.array([1704164645123456789, None, 7], pa.timestamp("ns"))}),
        ),
        ("k.parquet", pa.table({"key": KEYS, "modified": pa.array([2**52, None, -(2**52)], pa.timestamp("s"))})),
        ("k.parquet", pa.table({"key": KEYS, "modified": [datetime(2024, 1, 2, tzinfo=UTC)] * 3})),
    ],
)
def test_lists_of_every_kind_name_the_same_keys_as_the_listing(run, source, tmp_path, ray_cluster, name, content):
    summary = run(name, content)
    assert (summary["converted"], summary["failed"]) == (3, 0)
    assert set(rows_of(tmp_path / "out")) == set(KEYS)
    assert set(counts(summary)) <= {"folder", "other_suffix"}


def test_paths_and_uris_below_a_local_folder_are_its_keys(run, source, tmp_path, monkeypatch):
    alias = tmp_path / "alias"
    (source / "linked").symlink_to("sub")
    for folder in (source, alias, f"file://{source}", f"file://localhost{alias}"):
        names = [f"{folder}/{key}" for key in KEYS]
        if isinstance(folder, str):
            names = [name.replace("ü", "%C3%BC") for name in names]
        for at in (str(source), str(alias)):
            assert run("k.txt", "\n".join(names), at)["images"] == 3
    assert set(rows_of(tmp_path / "out")) == set(KEYS)
    assert run("k.txt", f"{alias}/linked/b.png")["converted"] == 1
    assert "linked/b.png" in rows_of(tmp_path / "out")
    summary = run(
        "k.txt", f"{source}\n{tmp_path}/x.png\nhttp://h/a.png\nfile:///etc/x.png\n../x.png\nsub/../a.png\n/in\na.png"
    )
    assert (summary["images"], counts(summary)) == (1, {"outside": 1, "unsafe": 5})
    assert "line 5: ../x.png leads out of IN" in summary["left_out"]["unsafe"]["first"]


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("k.csv", f"key,size\na.png,{SIZE}\nsub/b.png,big\n", "line 3: size 'big' cannot be read"),
        ("k.csv", f"key,size\na.png,{SIZE}\nsub/b.png,829.5\n", "line 3: size '829.5' cannot be read"),
        ("k.csv", f"key,size\na.png,{SIZE}\nsub/b.png,-1\n", "line 3: size '-1' cannot be read"),
        ("k.csv", "key,modified\na.png,2024-01-02\n\nsub/b.png,yesterday\n", "line 4: modified 'yesterday' cannot"),
        ("k.csv", f"key,size\na.png,{SIZE}\nsub/b.png\n", "line 3: 1 values for the columns key, size"),
        ("k.csv", f"size,key\n{SIZE},a.png\n{SIZE},\n", "line 3: no key"),
        ("k.csv", f'key,size\n"broken.png,1\na.png,{SIZE}\n', "line 2: unexpected end of data"),
        ("k.csv", f'key,size\n"broken"x.png,1\na.png,{SIZE}\n', "line 2: ',' expected"),
        ("k.txt", f"{'x' * 100_000}\na.png\n", "line 1: more than 65536 characters"),
        ("k.parquet", pa.table({"key": ["a.png", None]}), "row 2: no key"),
        ("k.parquet", pa.table({"key": ["a.png", "b.png"], "size": [float(SIZE), 0.5]}), "row 2: size 0.5 cannot"),
    ],
)
def test_a_line_that_cannot_be_read_is_one_count_with_its_number(run, ray_cluster, name, content, first):
    summary = run(name, content)
    assert (summary["converted"], summary["left_out"]["bad_line"]["count"]) == (1, 1)
    assert summary["left_out"]["bad_line"]["first"][0].startswith(first)
    assert first[:20] in Path(summary["report"]).read_text().replace("&#39;", "'")


def test_keys_that_no_file_can_have_are_rows(run, source, tmp_path):
    os.mkfifo(source / "pipe.png")
    names = ["a.png", f"{'x' * 300}.png", "n\0l.png", f"{'d/' * 3000}x.png", "absent.png", "a.png/x.png", "pipe.png"]
    summary = run("k.txt", "\n".join(names))
    assert (summary["converted"], summary["failed"], summary["left_out"]) == (1, 6, {})
    assert set(rows_of(tmp_path / "out")) == set(names)
    assert all(row["reason"] for row in rows_of(tmp_path / "out").values() if row["status"] == "failed")


def test_times_of_a_list_are_those_that_it_means(run):
    times = ["2024-01-02 03:04:05 UTC", "1704164645", "1704164645.25", "1704164645000", "Tue, 02 Jan 2024 03:04:05 GMT"]
    times += ["2024-01-02T03:04:05Z", "2024-01-02 04:04:05+01:00", "2024-01-02 04:04:05.000000000 +0100", "20240103"]
    times += ["59960-01-01T00:00:00Z"]
    for time in times:
        content = f'key,size,etag,lastModified\na.png,{SIZE},x,"{time}"\n'
        assert run("k.csv", content, modified_since="2024-01-02T03:04:05")["images"] == 1, time
        early = run("k.csv", content, modified_since="2024-01-03T00:00:01")["images"]
        assert early == (time[0] == "5"), time


def test_a_list_for_a_bucket_in_which_single_keys_are_refused(made, bucket, s3_server, tmp_path, monkeypatch):
    Objects(s3_server).put(f"{bucket}/in", {"a.png": PHOTO, "b.png": PHOTO})
    content = (
        b"a.png\ndenied.png\nbroken.png\n" + b"x" * 1100 + b".png\nna\xefve.png\n" + f"{bucket}/in/b.png\n".encode()
    )
    (tmp_path / "keys.txt").write_bytes(content + b"s3a://other/in/c.png\n")
    real = storage_client()
    status = {"denied.png": (403, "403", "Forbidden"), "broken.png": (500, "500", "Internal Server Error")}

    class Client:
        def __getattr__(self, name):
            return getattr(real, name)

        def head_object(self, *, Bucket, Key):
            for name, (code, short, words) in status.items():
                if Key.endswith(name):
                    from botocore.exceptions import ClientError

                    answer = {"Error": {"Code": short, "Message": words}, "ResponseMetadata": {"HTTPStatusCode": code}}
                    raise ClientError(answer, "HeadObject")
            return real.head_object(Bucket=Bucket, Key=Key)

    monkeypatch.setattr("dtn_ray.storage.objects.s3_client", Client)
    job = Conversion(f"{made}/dtn", f"{bucket}/in", f"{bucket}/out", inventory=f"{tmp_path}/keys.txt", sheet=0)
    summary = convert(job)
    assert (summary["images"], summary["converted"], summary["failed"]) == (5, 2, 3)
    assert counts(summary) == {"outside": 1, "bad_line": 1}
    assert summary["left_out"]["bad_line"]["first"] == ["line 5: not in UTF-8: na\uefefve.png"]


def storage_client():
    return s3.client()


def test_a_long_list_is_read_by_ray_and_its_odd_lines_are_counted(run, monkeypatch, ray_cluster):
    monkeypatch.setattr("dtn_ray.listing.inventory.SHORT", 1)
    summary = run("k.csv", f"key,size\n./a.png,{SIZE}\na.png,{SIZE}\nx.txt,1\nsub/b.png,?\n../y.png,1\n,\n")
    assert (summary["images"], summary["converted"]) == (1, 1)
    assert counts(summary) == {"other_suffix": 1, "unsafe": 1, "bad_line": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("k.csv", "name,size\na.png,3\n", "no column key, only name, size: its first line must name the columns"),
        ("k.csv", "a.png,3\nb.png,4\n", "no column key, only a.png, 3"),
        ("k.csv", "", "no images below"),
        ("k.txt", "\n", "no images below"),
        ("k.txt", "../a.png\n", "line 1: ../a.png leads out of IN"),
        ("k.csv", "key,size\na.png,big\n", "line 2: size 'big' cannot be read"),
    ],
)
def test_what_is_no_list_ends_with_one_line(run, name, content, message):
    with pytest.raises(UserError) as refused:
        run(name, content)
    assert message in str(refused.value) and "\n" not in str(refused.value)
