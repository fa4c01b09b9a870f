"""Folders and buckets with entries that are no ordinary photos: each is a row or a count, and ends nothing."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from files import encode
from objects import Objects
from PIL import Image

from dtn_ray import storage
from dtn_ray.bulk.keys import output_key
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.images.decode import FORMATS
from dtn_ray.images.names import SUFFIXES
from dtn_ray.storage.local_files import key_of, name_of

PHOTO = encode(Image.new("RGB", (32, 32), "teal"))
NOBODY = 65534


def put(folder: Path, *names: str | bytes) -> None:
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(PHOTO)


def rows_of(out: Path) -> dict[str, dict]:
    return {row["key"]: row for row in pq.read_table(out / "ledger").to_pylist()}


def counts(summary: dict) -> dict[str, int]:
    return {reason: found["count"] for reason, found in summary["left_out"].items()}


@pytest.fixture
def run(made, tmp_path):
    """Converts the folder IN into OUT, without Ray."""

    def convert_in(source: Path | str = tmp_path / "in", **options) -> dict:
        return convert(Conversion(f"{made}/dtn", str(source), f"{tmp_path}/out", **({"sheet": 0} | options)))

    return convert_in


def test_links_that_lead_in_circles_or_nowhere_and_special_files_are_counted(run, tmp_path):
    put(tmp_path / "in", "a.png", "sub/b.png")
    for name, target in (
        ("self.png", "self.png"),
        ("nowhere.png", "/nowhere/at/all"),
        ("sub/above", ".."),
        ("sub/outside", "../.."),  # where OUT is, too
        ("sub/ring", "ring2"),
        ("sub/ring2", "ring"),
        ("link.png", "a.png"),
        ("linked", "sub"),
    ):
        (tmp_path / "in" / name).symlink_to(target)
    os.mkfifo(tmp_path / "in/pipe.png")
    (tmp_path / "in/null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server, contextmanager(_inside)(tmp_path / "in"):
        server.bind("socket.png")
    summary = run()
    assert set(rows_of(tmp_path / "out")) == {"a.png", "link.png", "linked/b.png", "sub/b.png"}
    assert (summary["converted"], summary["failed"]) == (4, 0)
    # `linked` is `sub` again, with all that is in it.
    assert counts(summary) == {"link_loop": 9, "special": 3, "gone": 1}
    assert sorted(summary["left_out"]["special"]["first"]) == ["null.png", "pipe.png", "socket.png"]
    assert {"self.png", "sub/above", "sub/outside"} < set(summary["left_out"]["link_loop"]["first"])
    page = Path(summary["report"]).read_text()
    assert "Left out" in page and "nowhere.png" in page
    assert run()["done_before"] == 4


def _inside(folder: Path) -> Iterator[None]:
    """The name of a socket has 107 bytes at most."""
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user to whom permissions apply: root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folders_and_files_that_may_not_be_read_end_nothing(made):
    # Not below pytest's folder, which is root's own.
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        shutil.copytree(made / "dtn", base / "dtn")
        put(base / "in", "a.png", "lost+found/b.png", "deep/secret/c.png", "closed.png", "all/closed/d.png")
        (base / "out").mkdir()
        if not os.geteuid():
            subprocess.run(["chown", "-R", str(NOBODY), base], check=True)
        for name in ("lost+found", "deep/secret", "closed.png"):
            (base / "in" / name).chmod(0)
        try:
            with without_rights():
                summary = convert(Conversion(f"{base}/dtn", f"{base}/in", f"{base}/out", sheet=0))
                (base / "in/all").chmod(0)
                with pytest.raises(UserError) as refused:
                    convert(Conversion(f"{base}/dtn", f"{base}/in/all", f"{base}/out", sheet=0))
        finally:
            for name in ("lost+found", "deep/secret", "closed.png", "all"):
                (base / "in" / name).chmod(0o700)
        assert str(refused.value).startswith(f"{base}/in/all: cannot be listed: Permission denied")
        assert "bucket" not in str(refused.value)
        assert summary["left_out"]["unreadable"] == {
            "count": 2,
            "first": ["deep/secret/: Permission denied", "lost+found/: Permission denied"],
        }
        rows = rows_of(base / "out")
        assert {key: row["status"] for key, row in rows.items()} == {
            "a.png": "converted",
            "all/closed/d.png": "converted",
            "closed.png": "failed",
        }
        assert "ermission denied" in rows["closed.png"]["reason"] or rows["closed.png"]["cause"] == "denied"


def test_files_that_come_and_go_while_they_are_listed_end_nothing(run, tmp_path):
    put(tmp_path / "in", "a.png", "sub/b.png")
    script = (
        "import os, sys, shutil, itertools\n"
        "os.chdir(sys.argv[1]); print('on', flush=True)\n"
        "for i in itertools.count():\n"
        "    shutil.copyfile('a.png', f't{i % 20}.png'); os.makedirs(f'd{i % 20}', exist_ok=True)\n"
        "    for old in (f't{(i + 10) % 20}.png',): os.path.exists(old) and os.remove(old)\n"
        "    for old in (f'd{(i + 10) % 20}',): os.path.exists(old) and os.rmdir(old)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "in")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"on\n"
        try:
            for _ in range(5):
                assert run()["images"] >= 2
        finally:
            other.kill()
    statuses = {key: row["status"] for key, row in rows_of(tmp_path / "out").items()}
    assert statuses.pop("a.png") == statuses.pop("sub/b.png") == "converted"
    assert set(statuses.values()) <= {"converted", "failed"}


@pytest.mark.parametrize("seconds", [1_830_000_000_000, -3e9, -1, 0, 253_402_300_800, 2**62])
def test_times_of_any_year_are_taken(run, tmp_path, seconds):
    put(tmp_path / "in", "a.png")
    try:
        os.utime(tmp_path / "in/a.png", (seconds, seconds))
    except OverflowError:
        pytest.skip("no time that this file system can keep")
    (tmp_path / "keys.txt").write_text("a.png\n")
    assert run()["converted"] == 1
    assert run(modified_since="1950-01-01")["images"] == (os.stat(tmp_path / "in/a.png").st_mtime > -631_152_000)
    assert run(inventory=f"{tmp_path}/keys.txt")["done_before"] == 1


def test_folders_of_any_depth_are_read(run, tmp_path):
    put(tmp_path / "in", "a.png")
    folder = os.open(tmp_path / "in", os.O_RDONLY)
    for i in range(1100):
        os.mkdir(f"deep-{i:04}", dir_fd=folder)
        inner = os.open(f"deep-{i:04}", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    with open(os.open("b.png", os.O_CREAT | os.O_WRONLY, dir_fd=folder), "wb") as file:
        file.write(PHOTO)
    os.close(folder)
    try:
        assert run(sheet=2)["converted"] == 2
        assert run()["done_before"] == 2
        (key,) = set(rows_of(tmp_path / "out")) - {"a.png"}
        assert len(key) > 4096 and rows_of(tmp_path / "out")[key]["output"].partition("/images/")[2] == output_key(key)
    finally:  # pytest's own way ends at Python's limit of recursion
        subprocess.run(["rm", "-rf", tmp_path / "in"], check=True)


ODD_NAMES = [
    "テスト.png".encode("shift-jis"),
    "naïve.png".encode("latin-1"),
    b"\xed\xa0\x80.png",  # half of a surrogate pair
    "\uef83.png".encode(),  # what an escaped byte looks like
    unicodedata.normalize("NFC", "é.png").encode(),
    unicodedata.normalize("NFD", "é.png").encode(),
    b"line\nfeed.png",
    b"%2e%83.png",
    b"back\\slash.png",
    "ordner-ü".encode("latin-1") + b"/x.png",
    b"~home.png",
    b"-rf.png",
]


def test_names_in_any_encoding_are_converted_each_into_its_own_file(run, tmp_path):
    put(tmp_path / "in", *ODD_NAMES)
    summary = run(sheet=64)
    assert (summary["converted"], summary["failed"], summary["left_out"]) == (len(ODD_NAMES), 0, {})
    rows = rows_of(tmp_path / "out")
    assert {os.fsencode(name_of(key)) for key in rows} == set(ODD_NAMES)
    outputs = {row["output"] for row in rows.values()}
    assert len(outputs) == len(ODD_NAMES) and all((tmp_path / "out" / each).is_file() for each in outputs)
    assert run()["done_before"] == len(ODD_NAMES)
    # The same by a list that names them as they are.
    (tmp_path / "keys.txt").write_bytes(
        b"\n".join(name for name in ODD_NAMES if b"\n" not in name and b"\xee" not in name)
    )
    assert run(inventory=f"{tmp_path}/keys.txt")["done_before"] == len(ODD_NAMES) - 2


def test_a_source_whose_own_name_is_no_utf8_is_read(run, tmp_path):
    source = os.fsdecode(os.fsencode(tmp_path) + b"/in-\x83e")
    put(Path(source), "a.png", b"\x83.png")
    summary = run(source, sheet=2)
    assert summary["converted"] == 2 and Path(summary["report"]).read_bytes()


@pytest.mark.parametrize(
    "name", [b"\x83\x65", b"\xff", "é\uef83\uefff".encode(), b"\xee\xbe\x83", b"a\xee\xbe", b"\xf4\x90\x80\x80"]
)
def test_a_name_and_its_key_lead_to_each_other(name):
    key = key_of(os.fsdecode(name))
    assert os.fsencode(name_of(key)) == name and key.encode()
    assert key_of(key) != key or key.isascii()  # no other name has this key


def test_every_suffix_of_Pillow_for_our_formats_counts_as_a_photo():
    Image.init()
    known = {suffix for suffix, format in Image.registered_extensions().items() if format in FORMATS}
    assert known | {".jfif", ".jpe", ".hif", ".mpo", ".dib"} <= set(SUFFIXES)


def test_photos_of_rarer_suffixes_are_taken_and_what_is_left_out_is_counted(run, tmp_path):
    photos = ["a.jfif", "b.JPE", "c.HIF", "d.apng", "e.mpo", "f.dib", "folder.git/g.png", "_h.png"]
    litter = ["._a.jpg", "__MACOSX/x/._a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "sub/#recycle/b.png", "Thumbs.db"]
    litter += [".Trash-1000/files/c.png", "sub/.DS_Store", "DESKTOP.INI", ".git/objects/x.png"]
    others = ["list.TXT", "notes.txt", "movie.mp4", "IMG_0001", "photo.jpg_large", "x.tar/Makefile"]
    put(tmp_path / "in", *photos, *litter, *others)
    summary = run()
    assert set(rows_of(tmp_path / "out")) == set(photos)
    assert counts(summary) == {"other_suffix": len(others), "litter": len(litter)}
    assert summary["left_out"]["litter"]["first"] == sorted(litter)
    assert summary["left_out"]["other_suffix"]["suffixes"] == {".txt": 2, "": 2, ".mp4": 1, ".jpg_large": 1}
    page = Path(summary["report"]).read_text()
    assert "--suffixes &#39;&#39;" in page and "IMG_0001" in page and "._a.jpg" in page
    # All names, and still no litter.
    assert counts(run(suffixes=("",))) == {"litter": len(litter)}
    summary = run(match="^[a-f]", min_size=10**6)
    assert counts(summary) == {"other_suffix": 6, "litter": 9, "match": 1, "min_size": 7}
    assert counts(run(modified_since="2200-01-01"))["modified_since"] == len(photos)


def test_a_folder_without_photos_says_what_it_holds(run, tmp_path):
    put(tmp_path / "in", "a", "b.txt", "._c.jpg")
    with pytest.raises(UserError) as refused:
        run()
    assert "no images there" in str(refused.value) and "\n" not in str(refused.value)
    assert "2 have a suffix" in str(refused.value) and "--suffixes ''" in str(refused.value)


@pytest.mark.parametrize("options", [{}, {"shards": "parquet"}, {"limit": 1}])
def test_a_run_leaves_no_empty_folder(run, tmp_path, options):
    put(tmp_path / "in", "a.png", "b.png")
    run(**options)
    assert [path.name for path in (tmp_path / "out/.dtn-ray").iterdir()] == ["mark.json"]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_dir() and not list(path.iterdir())]


def test_keys_of_every_kind_in_a_bucket_are_a_row_or_a_count(made, bucket, s3_server):
    keys = ["a.png", "x//y.png", "tab\t.png", "marked.png/", "dots/.../z.png", "folder/", "._a.png", "\uef83.png"]
    refused = set()
    for key in keys:
        try:
            Objects(s3_server).put(f"{bucket}/in", {key: b"" if key == "folder/" else PHOTO})
        except ClientError:  # no store takes them all
            refused.add(key)
    assert len(refused) <= 2, refused
    out = f"{bucket}/out"
    summary = convert(Conversion(f"{made}/dtn", f"{bucket}/in", out, suffixes=("",), sheet=0))
    rows = Objects(s3_server).newest(out)
    stored = {
        row["Key"] for row in Objects(s3_server).client.list_objects_v2(Bucket=bucket[5:], Prefix="in/")["Contents"]
    }
    expected = {key.removeprefix("in/") for key in stored} - {"folder/", "._a.png", "", "x/", "dots/"}
    assert {key for key in rows if not key.endswith("/")} == {key for key in expected if not key.endswith("/")}
    assert {"a.png", "tab\t.png", "\uef83.png"} <= {key for key, row in rows.items() if row["status"] == "converted"}
    assert summary["left_out"]["litter"] == {"count": 1, "first": ["._a.png"]}


def test_a_list_of_a_bucket_with_odd_times_and_without_versions_is_read(monkeypatch):
    """By a server that answers as some gateways do: dates beyond Python's, or no date, ETag and size at all."""
    objects = "".join(
        f"<Contents><Key>in/{key}</Key>{rest}</Contents>"
        for key, rest in {
            "a.png": '<LastModified>59960-01-01T00:00:00.000Z</LastModified><ETag>"1"</ETag><Size>3</Size>',
            "b.png": '<ETag>"2"</ETag><Size>3</Size>',
            "c.png": "<LastModified>2024-01-02T03:04:05.123456789Z</LastModified>",
            "d.png": "<LastModified>long ago</LastModified><Size>3</Size>",
            "e/": "<Size>0</Size>",
        }.items()
    )
    answer = f"<ListBucketResult><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>".encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"),
            ("AWS_ACCESS_KEY_ID", "tester"),
            ("AWS_SECRET_ACCESS_KEY", "not-a-secret"),
            ("AWS_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        (page,) = storage.list_pages("s3://bucket/in")
        server.shutdown()
    assert page["key"].to_pylist() == ["a.png", "b.png", "c.png", "d.png"]
    assert page["version"].to_pylist() == ["1", "2", None, None]
    assert [time and time.year for time in page["modified"].to_pylist()] == [None, None, 2024, None]


def test_a_source_that_is_a_link_to_itself_or_an_out_that_is_no_utf8_is_told_in_one_line(run, made, tmp_path):
    (tmp_path / "in").symlink_to("in")
    with pytest.raises(UserError, match=r"in: cannot be read: Too many levels of symbolic links$"):
        run()
    put(tmp_path / "real", "a.png")
    with pytest.raises(UserError, match="not valid UTF-8"):
        convert(Conversion(f"{made}/dtn", f"{tmp_path}/real", os.fsdecode(os.fsencode(tmp_path) + b"/out-\x83")))
