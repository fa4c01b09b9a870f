"""Words that others chose (keys, columns, settings): shown clean everywhere, kept as they are in the data."""

import json
import os
import pickle
import re
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from objects import Objects
from webhooks import last_run, receiving

from dtn_ray.data.bad_rows import BadRows
from dtn_ray.errors import UserError
from dtn_ray.super_resolution.patches import read_luminances
from dtn_ray.text.display import CleanStream, chat, clean_streams, label, line, name

CLEAR = "\x1b[2J\x1b]0;owned\x07"
REVERSED = "\u202egnp.exe\u2066"
KEYS = [
    f"{CLEAR}.png",
    f"a{REVERSED}.png",
    "b\rerror: all is lost\nsucceeded.png",
    "c\x9b31m\x08\x08.png",
    "<!channel> <@U024BE7LD> <http:..evil.example|click>.png",
    "@everyone @here [click](http:..evil.example) www.evil.example.png",
    "<script>alert(1)<!--\"'onload=x.png",
    "h\udc83lf.png",
    "می\u200cخواهم 👩\u200d🚀 ü.png",
]
RAW = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Files that are no images, under these names, and some that are left out."""
    folder = tmp_path / "in"
    folder.mkdir()
    for key in KEYS:
        (folder / key).write_bytes(b"no image")
        (folder / key.replace(".png", ".text")).write_bytes(b"no image")
    return folder


def test_keys_in_all_that_a_run_says_and_leaves(made, photos, tmp_path, call):
    out = tmp_path / "out"
    with receiving() as server:
        code, stdout, stderr = call(
            f"convert {made}/dtn {photos} {out} --webhook http://127.0.0.1:{server.server_port}"
        )
    assert (code, stdout) == (2, "")
    *progress, error = stderr.splitlines()
    assert error.startswith("error: none of 9 images") and not RAW.search(error)
    assert "all is lost" not in "".join(progress)
    (told,) = server.bodies
    assert told == last_run(out) and told["error"] in error
    assert not RAW.search("".join(map(str, told.values())))

    (folder,) = (each.parent for each in out.glob("*/summary.json"))
    summary = (folder / "summary.json").read_text()
    assert summary.isascii() and not RAW.search(summary), "it is printed too"
    assert set(json.loads(summary)["failures"]) == {as_key(each) for each in KEYS}, "and names keys as they are"
    page = (folder / "report.html").read_text()
    assert not RAW.search(page) and "<script" not in page and "می\u200cخواهم 👩\u200d🚀 ü.png" in page
    assert r"a\u202egnp.exe\u2066.png" in page and r"b\rerror: all is lost\nsucceeded.png" in page
    (rows,) = (pq.read_table(path).to_pylist() for path in out.glob("ledger/*/*.parquet"))
    assert {row["key"] for row in rows} == {as_key(each) for each in KEYS}


def as_key(local: str) -> str:
    return local.replace("\udc83", "\uef83")  # what is no UTF-8 stands so in a key


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_a_chat_calls_nobody_and_links_nowhere(made, photos, tmp_path, call, key):
    for each in photos.iterdir():
        if os.fsdecode(each.name) != key:
            each.unlink()
    with receiving() as server:
        call(f"convert {made}/dtn {photos} {tmp_path}/out --webhook http://127.0.0.1:{server.server_port}")
    text = server.bodies[0]["text"]
    assert "none of 1 images" in text and "no image" not in text
    assert not re.search(r"[<>]|@\w|\]\(|&(?!amp;|lt;|gt;)|\bwww\.\w|https?:[^\u200b]", text) and not RAW.search(text)


def test_places_stay_as_they_can_be_copied_from_a_chat():
    assert chat("conversion s3://photos/a-b_c → s3://emoji: 7 converted") == (
        "conversion s3://photos/a-b_c → s3://emoji: 7 converted"
    )
    assert chat("https://evil.example & <b>") == "https:\u200b//evil.example &amp; &lt;b&gt;"


@pytest.mark.parametrize(
    "options", ["--match '{word}('", "--modified-since '{word}'", "--inventory '{word}.csv'", "--people '{word}'"]
)
def test_settings_in_an_error(made, tmp_path, call, options):
    code, stdout, stderr = call(f"convert {made}/dtn {made}/photos {tmp_path}/out " + options.format(word=CLEAR))
    assert (code, stdout) == (2, "") and stderr.count("\n") == 1
    assert r"\x1b[2J\x1b]0;owned\x07" in stderr and not RAW.search(stderr)


def test_column_names_in_an_error(made, tmp_path, call):
    pq.write_table(pa.table({f"{CLEAR}{i}": [1] for i in range(3)}), tmp_path / "people.parquet")
    (tmp_path / "list.csv").write_text(f"{CLEAR}0,{CLEAR}1\n1,2\n")
    for options in (f"--people {tmp_path}/people.parquet", f"--inventory {tmp_path}/list.csv"):
        code, _, stderr = call(f"convert {made}/dtn {made}/photos {tmp_path}/out {options}")
        assert code == 2 and stderr.count("\n") == 1 and r"\x1b[2J" in stderr and not RAW.search(stderr)
    (tmp_path / "faces").mkdir()
    pq.write_table(pa.table({f"image{CLEAR}": [b"1"]}), tmp_path / "faces/a.parquet")
    code, _, stderr = call(f"pretrain faces {tmp_path}/faces --storage {tmp_path}/runs")
    assert code == 2 and stderr.count("\n") == 1 and not RAW.search(stderr)


def test_a_version_in_a_list_becomes_no_header(made, tmp_path, call, s3_server, monkeypatch):
    for variable, value in s3_server.items():
        monkeypatch.setenv(variable, value)
    objects, out = Objects(s3_server), f"words-{uuid.uuid4().hex[:12]}"
    objects.client.create_bucket(Bucket=out)
    photo = Path(made, "photos/a.png").read_bytes()
    objects.put(f"s3://{out}/in", {"a.png": photo})
    etag = "\u00e9 x-amz-acl: public-read" + "\x1b" * 3000
    (tmp_path / "list.csv").write_text(f'key,etag,size\na.png,"{etag}",{len(photo)}\n')
    code, _, stderr = call(f"convert {made}/dtn s3://{out}/in s3://{out}/out --inventory {tmp_path}/list.csv")
    assert code == 0, stderr
    (key,) = (key for key in objects.keys(f"s3://{out}") if key.endswith("a.png.png"))
    metadata = objects.client.head_object(Bucket=out, Key=key)["Metadata"]
    assert metadata["source-version"].startswith(r"\xe9 x-amz-acl: public-read\x1b")
    assert len(metadata["source-version"]) <= 200


def test_warnings_of_trainings(tmp_path, capsys):
    (tmp_path / f"a{CLEAR}\nerror: b.png").write_bytes(b"no image")
    with pytest.raises(UserError):
        read_luminances(str(tmp_path), 8)
    BadRows().add([f"faces{CLEAR}\n.parquet: row 7: no image"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(each.startswith("warning: ") for each in lines) and not RAW.search("".join(lines))


def test_what_is_too_long_is_shortened_in_the_middle():
    key = "a" * 10_000_000 + "z"
    for function, longest in ((line, 4000), (name, 300), (label, 200), (UserError, 4000)):
        shown = str(function(key))
        assert len(shown) <= longest and shown.startswith("aaa") and shown.endswith("az")
        assert "10,000,001 characters" in shown and str(function(shown)) == shown
    assert len(chat("<" * 10_000_000)) < 20_000
    assert label("s3://Bücher") == r"s3://B\xfccher", "Ray's metrics take ASCII alone"


def test_the_last_resort_lets_colours_and_progress_through(capsys):
    clean_streams()
    before = sys.stdout
    clean_streams()
    assert sys.stdout is before and isinstance(before, CleanStream), "once is enough"
    print("\x1b[36m(pid=7)\x1b[0m 50%\r60%\x1b[K\x1b[A\tend")
    print(f"{CLEAR}\x1b[8;1Hx\x9b2J{REVERSED}\x08 http://me:pass-word@store")
    print("half \udc83", file=sys.stderr)
    stdout, stderr = capsys.readouterr()
    fine, cleaned = stdout.split("\n")[:2]
    assert fine == "\x1b[36m(pid=7)\x1b[0m 50%\r60%\x1b[K\x1b[A\tend"
    assert not RAW.search(cleaned) and cleaned.endswith(" http://***@store") and "owned" in cleaned
    assert stderr == "half \\udc83\n"
    assert sys.stdout.isatty() is False and sys.stdout.encoding
    assert pickle.loads(pickle.dumps(sys.stdout)) is sys.stdout
