"""What a conversion refuses, leaves out or ends early for: leases, failing stores and models, filters, dry runs."""

import io
import json
import os
import re
import socket
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from files import encode, write_dtn
from objects import Objects
from PIL import Image

from dtn_ray import storage
from dtn_ray.bulk.lease import hold
from dtn_ray.bulk.ledger import FORMAT, SCHEMA, Ledger
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.convert.pipeline import Converter
from dtn_ray.errors import UserError
from dtn_ray.train.trained import load_trained


@pytest.fixture
def photos(tmp_path) -> str:
    """400 small images."""
    for i in range(400):
        storage.write_bytes(f"{tmp_path}/in/{i:03}.png", encode(Image.new("RGB", (32, 32), (i % 200, 90, 30))))
    return f"{tmp_path}/in"


def ledger(out, made) -> Ledger:
    return Ledger(f"{out}/ledger/{load_trained(f'{made}/dtn').digest[:12]}")


@pytest.mark.slow
def test_a_run_of_failing_writes_ends_early_and_the_next_does_it_all(made, photos, tmp_path, ray_cluster):
    out = tmp_path / "out"
    images = out / load_trained(f"{made}/dtn").digest[:12] / "images"
    images.parent.mkdir(parents=True)
    images.write_text("a file where the folder should be")
    job = Conversion(f"{made}/dtn", photos, str(out), batch_size=20, sheet=0)
    with pytest.raises(UserError, match=r"stopped: (\d+) of the last \1 images failed.* most often: cannot be wr"):
        convert(job)
    rows = ledger(out, made).read().to_pylist()
    assert 100 <= len(rows) < 400 and {row["cause"] for row in rows} == {"store"}
    images.unlink()
    summary = convert(job)
    assert (summary["converted"], summary["failed"], summary["remaining"]) == (400, 0, 0)


def test_damaged_images_end_no_run_early(made, tmp_path, ray_cluster, monkeypatch):
    monkeypatch.setattr("dtn_ray.bulk.run.JUDGED_FROM", 30)
    for i in range(40):
        storage.write_bytes(f"{tmp_path}/in/{i:03}.png", b"not an image")
    assert convert(Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out"))["failed"] == 40


def test_a_model_that_gives_no_numbers_is_a_failure_worth_another_try(photos, tmp_path):
    write_dtn(tmp_path / "dtn")
    job = Conversion(f"{tmp_path}/dtn", photos, f"{tmp_path}/out")
    work = pa.table({"key": ["000.png"], "version": ["v"], "size": pa.nulls(1, pa.int64())})
    converter = Converter(job)
    for weight in converter.dtn.g.parameters():  # as arithmetic of few digits may; of a file they are refused
        weight.data.fill_(torch.nan)
    (row,) = converter(work).to_pylist()
    assert (row["status"], row["cause"], row["output"]) == ("failed", "model", None)
    assert "not finite" in row["reason"] and not (tmp_path / "out").exists()


def test_the_second_of_two_runs_ends_at_once(made, photos, tmp_path):
    out = f"{tmp_path}/out"
    with hold(f"{out}/lease.json", 60):
        began = time.monotonic()
        with pytest.raises(UserError, match=rf"another run works here: process {os.getpid()} on .* expires 2"):
            convert(Conversion(f"{made}/dtn", photos, out))
    assert time.monotonic() - began < 10
    assert [path.name for path in Path(out).iterdir()] == ["lease.json"]


def test_a_run_that_lost_its_lease_writes_no_more_to_the_ledger(made, photos, tmp_path, ray_cluster):
    out, written = tmp_path / "out", []

    def take_over() -> None:
        while not written:
            written.extend(out.glob("ledger/*/*.parquet"))
            time.sleep(0.01)
        other = {"holder": "another", "host": "elsewhere", "pid": 7, "since": 0, "expires": time.time() + 60}
        storage.write_bytes(f"{out}/lease.json", json.dumps(other).encode())

    thread = threading.Thread(target=take_over)
    thread.start()
    with pytest.raises(UserError, match=r"this run lost its lease.*process 7 on elsewhere"):
        convert(Conversion(f"{made}/dtn", photos, str(out), batch_size=4, lease_seconds=0.4, actors=1))
    thread.join()
    assert len(ledger(out, made).read()) < 400
    assert not list(out.glob("*/summary.json"))
    assert json.loads((out / "lease.json").read_text())["holder"] == "another"


def test_a_dry_run_counts_estimates_and_writes_nothing(made, photos, tmp_path):
    storage.write_bytes(f"{photos}/broken.png", b"not an image")
    summary = convert(Conversion(f"{made}/dtn", photos, f"{tmp_path}/out", dry_run=True, limit=300))
    assert (summary["images"], summary["done_before"], summary["to_convert"]) == (401, 0, 300)
    assert 0 < summary["estimated_seconds"] < 600
    assert summary["bytes_to_read"] == pytest.approx(
        300 / 401 * sum(path.stat().st_size for path in Path(photos).iterdir()), abs=1
    )
    assert not (tmp_path / "out").exists()


def test_names_without_a_suffix_and_files_too_large_to_read(made, tmp_path, ray_cluster):
    image = encode(Image.effect_noise((32, 32), 90))
    for name in ("a1b2c3", "photo.jpeg.part", "large.png"):
        storage.write_bytes(f"{tmp_path}/in/{name}", image + bytes(5000 * (name == "large.png")))
    job = Conversion(f"{made}/dtn", f"{tmp_path}/in", f"{tmp_path}/out", suffixes=("",), max_bytes=len(image) + 10)
    summary = convert(job)
    assert (summary["images"], summary["converted"]) == (3, 2)
    assert summary["failures"] == {"large.png": f"{len(image) + 5000} bytes, more than the limit of {len(image) + 10}"}


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"suffixes": (".JPG",)}, ["photo.JPG"]),
        ({"suffixes": (".jpg", "9.png")}, ["photo.JPG", *(f"{i:02}9.png" for i in range(40))]),
        ({"match": r"^1\d5\."}, [f"1{i}5.png" for i in range(10)]),
        ({"min_size": 1000}, ["large.png"]),
        ({"modified_since": "2001-01-01"}, None),
        ({"modified_since": "2001-01-01", "match": "00[01]"}, ["000.png"]),
        ({"modified_since": "2000-01-01T01:00+01:00", "match": "00[01]"}, ["000.png", "001.png"]),
        ({"match": "nothing"}, []),
    ],
)
def test_filters(made, photos, tmp_path, options, keys):
    storage.write_bytes(f"{photos}/large.png", encode(Image.effect_noise((64, 64), 90)))
    storage.write_bytes(f"{photos}/photo.JPG", encode(Image.new("RGB", (8, 8)), "jpeg"))
    os.utime(f"{photos}/001.png", (946684800, 946684800))  # 2000-01-01 UTC
    summary = convert(Conversion(f"{made}/dtn", photos, f"{tmp_path}/out", dry_run=True, **options))
    assert summary["to_convert"] == summary["images"] == (401 if keys is None else len(keys))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "("}, r"--match \(: not a regular expression"),
        ({"modified_since": "yesterday"}, "--modified-since yesterday: not a date such as"),
        ({"max_failure_rate": 50}, "--max-failure-rate 50 must lie between 0 and 1"),
        ({"limit": -1}, "--limit -1 must be at least 0"),
        ({"lease_seconds": 0}, "--lease-seconds 0 must be more than 0"),
    ],
)
def test_options_that_cannot_work_are_refused(made, photos, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        convert(Conversion(f"{made}/dtn", photos, f"{tmp_path}/out", **options))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def shop(s3_server) -> str:
    """A bucket with an image, for the tests that only read it."""
    objects = Objects(s3_server)
    objects.client.create_bucket(Bucket="guards")
    objects.put("s3://guards/in", {"a.png": encode(Image.new("RGB", (32, 32)))})
    objects.put("s3://guards/texts", {"a.txt": b"a"})
    return "s3://guards"


@pytest.fixture
def refusal(made, shop, s3_server, call, monkeypatch):
    """Calls the command as one of the test server's users; gives the one line that it ends with."""

    def run(checkpoint: str, source: str, out: str, user: str = "tester", **variables: str) -> str:
        for name, value in (s3_server | {"AWS_ACCESS_KEY_ID": user} | variables).items():
            monkeypatch.setenv(name, value)
        began = time.monotonic()
        code, stdout, stderr = call(f"convert {made}/{checkpoint} {source} {out}")
        assert time.monotonic() - began < 30
        assert (code, stdout) == (2, ""), stderr
        (line,) = stderr.splitlines()
        assert line.startswith("error: ") and len(line) < 600
        return line

    return run


ADVICE = r"(?i)\b(check|create|choose|give|grant|set|end in)\b"
NO_BUCKET = r"s3://no-such-bucket.*(no such|not exist|NoSuchBucket)"
DENIED = r"(Access ?Denied|ACCESS_DENIED|403|permission)"


@pytest.mark.parametrize(
    ("source", "out", "user", "words"),
    [
        ("s3://no-such-bucket/in", "out", "tester", NO_BUCKET),
        ("s3://guards/in", "s3://no-such-bucket/out", "tester", NO_BUCKET),
        ("s3://guards/in", "s3://guards/out", "reader", f"s3://guards/out.*{DENIED}"),
        ("s3://guards/in", "out", "nobody", f"s3://guards/in.*{DENIED}"),
        ("s3://guards/in", "s3://guards/in/out", "tester", "s3://guards/in/out lies inside the source"),
        ("s3://guards/nothing", "out", "tester", "s3://guards/nothing: no such folder or prefix"),
        ("s3://guards/texts", "out", "tester", "s3://guards/texts: no images there"),
    ],
    ids=["source-bucket", "out-bucket", "write-denied", "list-denied", "inside", "prefix", "no-images"],
)
def test_a_store_where_it_cannot_work_is_refused_in_one_line_with_advice(refusal, tmp_path, source, out, user, words):
    line = refusal("dtn", source, out if out.startswith("s3://") else str(tmp_path / out), user)
    assert re.search(words, line) and re.search(ADVICE, line), line


@pytest.mark.parametrize("whose", ["source", pytest.param("out", marks=pytest.mark.slow)])
def test_an_endpoint_that_is_down_is_named_within_half_a_minute(refusal, tmp_path, photos, whose):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"127.0.0.1:{closed.getsockname()[1]}"
    source, out = ("s3://guards/in", str(tmp_path / "out")) if whose == "source" else (photos, "s3://guards/out")
    line = refusal("dtn", source, out, AWS_ENDPOINT_URL=f"http://{endpoint}")
    assert endpoint in line and re.search(r"(?i)check the endpoint|AWS_ENDPOINT_URL", line), line


def test_wrong_credentials_are_refused_in_one_line(refusal, tmp_path):
    line = refusal("dtn", "s3://guards/in", f"{tmp_path}/out", AWS_SECRET_ACCESS_KEY="mistyped")
    assert "s3://guards/in" in line and "credentials" in line


def test_a_checkpoint_of_another_kind_is_refused_in_one_line(refusal, tmp_path):
    assert "kind 'classifier'" in refusal("classifier", "s3://guards/in", f"{tmp_path}/out")


def test_a_ledger_of_a_newer_version_is_refused_in_one_line(refusal, made, shop, s3_server):
    part = io.BytesIO()
    newer = SCHEMA.with_metadata({"ledger_format": str(FORMAT + 1)})
    pq.write_table(newer.empty_table(), part)
    model = load_trained(f"{made}/dtn").digest[:12]
    Objects(s3_server).put(f"{shop}/newer", {f"ledger/{model}/part-0.parquet": part.getvalue()})
    line = refusal("dtn", f"{shop}/in", f"{shop}/newer")
    assert f"the ledger has format {FORMAT + 1}" in line and "update dtn-ray" in line
    assert "delete" not in line, "there is nothing wrong with it"
