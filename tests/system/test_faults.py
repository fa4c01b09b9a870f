"""Conversion from S3 to S3 while the store fails, slows down or falls silent: nothing is lost, nothing taken for done.

The proxy breaks requests of all kinds: listings, images, ledger, lease.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import Plan
from files import encode
from objects import Objects
from PIL import Image

from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion

ROOT = Path(__file__).parents[2]
COUNT = 120  # enough for --max-failure-rate to be judged


def photos(count: int) -> dict[str, bytes]:
    """Images of noise: each differs from the others, and so do the outputs."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return {
        f"{i:03}.{'jpg' if i % 2 else 'png'}": encode(Image.fromarray(pixels), "jpeg" if i % 2 else "png")
        for i, pixels in enumerate(noise)
    }


@dataclass
class Case:
    """A source in a bucket, and what an undisturbed run makes of it."""

    objects: Objects
    checkpoint: str
    bucket: str
    expected: dict[str, bytes] = field(default_factory=dict)
    """Outputs by name relative to OUT."""

    def job(self, out: str, **options) -> Conversion:
        """Another OUT for each test."""
        options = {"batch_size": 20, "sheet": 0, "actors": 1} | options
        return Conversion(self.checkpoint, f"{self.bucket}/in", f"{self.bucket}/{out}", **options)

    def check(self, out: str, without: tuple[str, ...] = ()) -> dict[str, dict]:
        """That all images but `without` are converted, as without faults; returns the rows."""
        rows = self.objects.newest(f"{self.bucket}/{out}")
        converted = {key for key, row in rows.items() if row["status"] == "converted"}
        assert converted == set(photos(COUNT)) - set(without)
        found = self.objects.images(f"{self.bucket}/{out}")
        assert sorted(found) == sorted(rows[key]["output"] for key in converted)
        assert {name: self.expected[name] for name in found} == found
        return rows


@pytest.fixture(scope="module")
def case(made, ray_cluster, s3_server) -> Case:
    objects = Objects(s3_server)
    objects.client.create_bucket(Bucket="faults")
    case = Case(objects, f"{made}/dtn", "s3://faults")
    objects.put("s3://faults/in", photos(COUNT))
    assert convert(case.job("undisturbed"))["converted"] == COUNT
    case.expected = objects.images("s3://faults/undisturbed")
    assert len(set(case.expected.values())) == COUNT
    return case


def command(job: Conversion) -> str:
    return (
        f"convert {job.checkpoint} {job.source} {job.out} --batch-size {job.batch_size} --sheet {job.sheet} "
        f"--lease-seconds {job.lease_seconds} --actors {job.actors}"
    )


KINDS = ("slow_down", "internal_error", "reset", "reset_in_body", "truncated")


@pytest.mark.parametrize(
    "kinds", [KINDS, *(pytest.param((kind,), marks=pytest.mark.slow) for kind in KINDS)], ids=["all", *KINDS]
)
def test_a_fifth_of_all_requests_may_fail(case, fault_proxy, kinds):
    out = "-".join(kinds)
    fault_proxy.plan = Plan(**{kind: 0.2 / len(kinds) for kind in kinds}, seed=1)
    summary = convert(case.job(out))
    # Half of the requests, those that write, have no body in which they might break off.
    assert sum(fault_proxy.faults.values()) > 0.1 * COUNT and set(fault_proxy.faults) == set(kinds)
    assert (summary["converted"], summary["failed"], summary["remaining"]) == (COUNT, 0, 0)
    rows = case.check(out)
    assert {row["attempts"] for row in rows.values()} == {1}
    assert len(case.objects.ledger(f"{case.bucket}/{out}")) == COUNT


@pytest.mark.slow
def test_a_store_that_falls_silent_is_asked_again(case, fault_proxy):
    fault_proxy.plan = Plan(stall=0.02, stall_in_body=0.02, stall_seconds=200, seed=1)
    # Only a new Ray's workers know of shorter timeouts.
    timeouts = {"AWS_READ_TIMEOUT": "1s", "AWS_TIMEOUT": "5s", "AWS_CONNECT_TIMEOUT": "2s"}
    name, *arguments = command(case.job("silent")).split()
    done = subprocess.run(
        [sys.executable, str(ROOT / f"jobs/{name}.py"), *arguments],
        env=os.environ | timeouts | {"RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert fault_proxy.faults["stall"] >= 3 and fault_proxy.faults["stall_in_body"] >= 2, fault_proxy.faults
    case.check("silent")


@pytest.mark.slow
def test_a_body_of_which_nothing_comes_is_no_empty_file_and_worth_another_try(case, fault_proxy):
    fault_proxy.plan = Plan(truncated=1, sent=0, methods="GET", keys=r"/in/00[67]\.")
    summary = convert(case.job("cut"))
    assert fault_proxy.faults["truncated"] > 2, "it was tried again"
    rows = case.check("cut", without=("006.png", "007.jpg"))
    assert {(rows[key]["status"], rows[key]["cause"]) for key in ("006.png", "007.jpg")} == {("failed", "store")}
    assert summary["failed"] == 2
    fault_proxy.plan = Plan()
    assert convert(case.job("cut"))["converted"] == 2
    case.check("cut")


@pytest.mark.slow
def test_an_object_shorter_than_the_listing_says_is_not_damaged_for_good(case, fault_proxy):
    fault_proxy.plan = Plan(shortened=1, methods="GET", keys=r"/in/00[67]\.")
    convert(case.job("shortened"))
    assert fault_proxy.faults["shortened"] >= 2
    fault_proxy.plan = Plan()
    convert(case.job("shortened"))
    case.check("shortened")


@pytest.mark.slow
def test_objects_that_always_fail_stop_no_other_and_are_tried_alone_by_the_next_run(case, fault_proxy):
    fault_proxy.plan = Plan(internal_error=1, keys=r"/in/007\.jpg|/images/008\.png\.png")  # one is read, one written
    bad = ("007.jpg", "008.png")
    for attempt in (1, 2):
        summary = convert(case.job("always"))
        assert (summary["failed"], summary["done_before"], summary["remaining"]) == (2, (COUNT - 2) * (attempt - 1), 0)
        rows = case.check("always", without=bad)
        lost = {key: rows.pop(key) for key in bad}
        for row in lost.values():
            assert (row["status"], row["cause"], row["output"]) == ("failed", "store", None)
            assert row["attempts"] == attempt and ("InternalError" in row["reason"] or "500" in row["reason"])
        assert summary["failures"] == {key: row["reason"] for key, row in lost.items()}
        assert {row["attempts"] for row in rows.values()} == {1}
    fault_proxy.plan = Plan()
    assert convert(case.job("always"))["converted"] == 2
    assert [case.check("always")[key]["attempts"] for key in bad] == [3, 3]


@pytest.mark.slow
def test_a_store_that_refuses_from_half_way_on_ends_the_run_and_the_same_command_finishes(case, fault_proxy, call):
    line, out = command(case.job("refused", batch_size=5)), f"{case.bucket}/refused"
    fault_proxy.plan = Plan(denied_after=70, keys=r"/in/\d|/images/\d")
    code, _, stderr = call(line)
    assert code == 2
    message = stderr.strip().splitlines()[-1]
    assert message.startswith("error: ") and "--max-failure-rate" in message and "Traceback" not in stderr
    assert "ExpiredToken" in message or "403" in message
    fault_proxy.plan = Plan()
    rows = case.objects.newest(out)
    done = {row["output"] for row in rows.values() if row["status"] == "converted"}
    assert 0 < len(done) < COUNT // 2 and done <= set(case.objects.images(out))
    assert {row["cause"] for row in rows.values() if row["status"] == "failed"} == {"store"}
    code, stdout, stderr = call(line)
    assert code == 0, stderr
    assert json.loads(stdout[stdout.index("{") :])["done_before"] == len(done)
    for key, row in case.check("refused").items():
        refused = key in rows and rows[key]["status"] == "failed"
        assert row["attempts"] == (2 if refused else 1)


@pytest.mark.slow
def test_credentials_that_expire_for_everything_end_the_run_with_the_store_s_words(case, fault_proxy, call):
    line, out = command(case.job("expired", lease_seconds=4)), f"{case.bucket}/expired"
    fault_proxy.plan = Plan(denied_after=90)
    code, _, stderr = call(line)
    refused = time.monotonic()
    assert code == 2
    message = stderr.strip().splitlines()[-1]
    assert message.startswith("error: ") and "Traceback" not in stderr
    assert any(words in message for words in ("ExpiredToken", "ACCESS_DENIED", "403", "token has expired")), message
    fault_proxy.plan = Plan()
    rows = case.objects.newest(out)
    done = {row["output"] for row in rows.values() if row["status"] == "converted"}
    assert len(done) < COUNT and done <= set(case.objects.images(out))
    time.sleep(max(0, refused + 4 - time.monotonic()))  # the lease could not be given back either
    code, _, stderr = call(line)
    assert code == 0, stderr
    case.check("expired")
