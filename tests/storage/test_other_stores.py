"""Jobs on other S3 stores than SeaweedFS: Ceph's gateway, and OpenStack Swift, which has no conditional writes.

test_lease.py, test_ledger.py and test_listing.py try the parts on them too.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from files import encode
from objects import Objects
from PIL import Image

from dtn_ray import storage
from dtn_ray.bulk.lease import Lease
from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.ingest.job import ingest
from dtn_ray.ingest.options import Ingestion
from dtn_ray.train.trained import load_trained

ROOT = Path(__file__).parents[2]
MANY = 2000
LEASE = 10.0  # seconds; the run takes longer, and a busy machine may hold up a heartbeat for four
ODD_KEYS = (
    *("a b.png", " space first.png", "space last .png", "a+b&c=d;e@f.png", "100%.png", "a%2Fb.png", "q?x=1#y.png"),
    *("été/фото.png", "日本/写真.png", "emoji 😀.png", "quote'\"`.png", "back\\slash.png", "<xml>&amp;.png"),
    *("twice//slash.png", "dots../..x/...png", "tab\there.png", "long" * 60 + ".png", "deep/" * 60 + "a.png"),
)


def photo(seed: int) -> bytes:
    return encode(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)))


def photos(*keys: str) -> dict[str, bytes]:
    return {key: photo(i) for i, key in enumerate(keys)}


def embedded(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a command that starts a Ray of its own, whose workers use a store."""
    ours = ("RAY_ADDRESS", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
    return {name: value for name, value in os.environ.items() if name not in ours} | environment


def command(checkpoint: str, bucket: str, *options: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs/convert.py"), checkpoint, f"{bucket}/in", f"{bucket}/out", *options]


def wait_until(condition, process: subprocess.Popen, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


@pytest.mark.parametrize("store", ["ceph", "swift"])
def test_keys_of_every_kind_are_converted_once(store, request, made) -> None:
    server, bucket = request.getfixturevalue(f"{store}_server"), request.getfixturevalue(f"{store}_bucket")
    objects = Objects(server)
    contents = photos(*ODD_KEYS, *(f"plain/{i}.png" for i in range(20))) | {"broken.png": b"not an image"}
    objects.put(f"{bucket}/in", contents)
    job = Conversion(f"{made}/dtn", f"{bucket}/in", f"{bucket}/out", unconditional_lease=store == "swift", sheet=4)
    summary = convert(job)
    rows = objects.newest(job.out)
    assert {key: row["status"] for key, row in rows.items()} == {
        key: "failed" if key == "broken.png" else "converted" for key in contents
    }
    assert sorted(objects.images(job.out)) == sorted(row["output"] for row in rows.values() if row["output"])
    assert (summary["converted"], summary["failed"], summary["remaining"]) == (len(contents) - 1, 1, 0)
    again = convert(job)
    assert (again["converted"], again["done_before"]) == (0, len(contents) - 1)
    assert not [key for key in objects.keys(job.out) if key.startswith("work/")], "the work lists are deleted"
    assert objects.newest(job.out) == rows


@pytest.mark.slow
def test_a_conversion_on_ceph_outlives_its_lease_keeps_others_out_and_goes_on_after_sigterm(
    made, ceph_server, ceph_bucket
) -> None:
    objects = Objects(ceph_server)
    objects.put(f"{ceph_bucket}/in", photos(*(f"{i:04}.png" for i in range(MANY))))
    line = command(f"{made}/dtn", ceph_bucket, "--actors", "1", "--batch-size", "4", "--lease-seconds", f"{LEASE}")
    out = f"{ceph_bucket}/out"
    environment = embedded(ceph_server)
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        wait_until(lambda: objects.keys(out), first)
        began, written = time.monotonic(), 0
        # A block of 500 comes first, and enters the ledger as a whole.
        while time.monotonic() - began < 1.2 * LEASE or written < 900:
            written = sum("/images/" in key for key in objects.keys(out))
            try:
                Lease(f"{out}/lease.json", LEASE).release()
            except UserError as error:
                assert f"another run works here: process {first.pid} on " in str(error)
            else:
                first.kill()
                pytest.fail(f"the lease was free: {first.communicate()[0][-3000:]}")
            assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        output = first.communicate(timeout=120)[0]
    assert first.returncode == 143, output
    assert "lease" not in output, output
    done = objects.newest(out)
    assert 0 < len(done) < MANY
    again = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    rows = objects.newest(out)
    assert sorted(rows) == [f"{i:04}.png" for i in range(MANY)]
    assert {row["status"] for row in rows.values()} == {"converted"} and {row["attempts"] for row in rows.values()} == {
        1
    }
    assert {key: rows[key] for key in done} == done, "what was done is not done again"
    assert len(objects.images(out)) == MANY


@pytest.mark.parametrize("store", ["ceph", "swift"])
def test_photos_are_ingested(store, request, yunet, portrait) -> None:
    server, bucket = request.getfixturevalue(f"{store}_server"), request.getfixturevalue(f"{store}_bucket")
    objects = Objects(server)
    contents = {"ann/1.jpg": encode(portrait, "jpeg"), "nobody.png": photo(1), "letter.jpg": b"not a photo"}
    objects.put(f"{bucket}/in", contents)
    job = Ingestion(f"{bucket}/in", f"{bucket}/out", detector=str(yunet), unconditional_lease=store == "swift", sheet=2)
    summary = ingest(job)
    assert (summary["converted"], summary["no_face"], summary["failed"], summary["faces"]) == (1, 1, 1, 1)
    assert len([key for key in objects.keys(f"{bucket}/out/faces/shards") if key.endswith(".parquet")]) == 1
    assert ingest(job)["done_before"] == 1


@pytest.mark.slow
def test_a_training_on_ceph_goes_on_from_its_checkpoints(classifier, ceph_server, ceph_bucket, tmp_path) -> None:
    objects = Objects(ceph_server)
    line = [
        *(sys.executable, str(ROOT / "jobs/train.py"), "--source", "handwritten-digits", "--source-split", "train"),
        *("--target", "handwritten-digits", "--f", classifier, "--judge", classifier, "--width-g", "0.0625"),
        *("--width-D", "0.125", "--batch-size", "16", "--ema-decay", "0.9", "--steps", "120"),
        *("--checkpoint-every", "20", "--cpus-per-worker", "1", "--storage", f"{ceph_bucket}/runs", "--name", "dtn"),
    ]
    environment, runs = embedded(ceph_server), f"{ceph_bucket}/runs/dtn"

    def saved() -> bool:
        return any(key.endswith("/checkpoint.json") for key in objects.keys(runs))

    options = {
        "env": environment,
        "cwd": tmp_path,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    with subprocess.Popen(line, **options) as first:
        try:
            wait_until(saved, first)
        except AssertionError:
            first.kill()
            pytest.fail(first.communicate()[0][-3000:])
        first.kill()
    assert "result.json" not in objects.keys(runs)
    again = subprocess.run(line, timeout=280, **options)
    assert again.returncode == 0, again.stdout
    trained = load_trained(runs)
    assert trained.manifest["step"] == 120 and trained.manifest["resumed_at"] >= 20
    folders = {key.partition("/")[0] for key in objects.keys(runs) if re.match(r"checkpoint_[^/]*/", key)}
    assert 1 <= len(folders) <= 2, "older checkpoints are deleted"


def test_a_store_without_conditional_writes_is_told_and_what_can_be_done(
    made, swift_server, swift_bucket, call
) -> None:
    Objects(swift_server).put(f"{swift_bucket}/in", photos("a.png", "b.png"))
    line = " ".join(command(f"{made}/dtn", swift_bucket)[2:])
    code, _, stderr = call(f"convert {line}")
    assert code == 2
    (error,) = [text for text in stderr.splitlines() if text.startswith("error: ")]
    assert "the store has no conditional writes" in error and "--unconditional-lease" in error
    assert "credentials" not in error and "Traceback" not in stderr
    code, stdout, stderr = call(f"convert {line} --unconditional-lease")
    assert code == 0, stderr
    assert json.loads(stdout[stdout.index("{") :])["converted"] == 2
    lease = json.loads(storage.read_bytes(f"{swift_bucket}/out/lease.json"))
    storage.write_bytes(
        f"{swift_bucket}/out/lease.json", json.dumps(lease | {"expires": time.time() + 60, "holder": "x"}).encode()
    )
    code, _, stderr = call(f"convert {line} --unconditional-lease")
    assert code == 2 and f"another run works here: process {os.getpid()}" in stderr


def test_swift_is_a_source_like_any_other(made, swift_server, swift_bucket, tmp_path) -> None:
    objects = Objects(swift_server)
    objects.put(f"{swift_bucket}/in", photos(*ODD_KEYS))
    summary = convert(Conversion(f"{made}/dtn", f"{swift_bucket}/in", f"{tmp_path}/out", sheet=2))
    assert (summary["converted"], summary["failed"]) == (len(ODD_KEYS), 0)
