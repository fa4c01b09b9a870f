"""Conversion from S3 to S3 with everything going wrong at once: afterwards the books balance to the last object.

A part of the images is bad, a tenth of the store's requests fail, workers are killed, and the driver too. What comes
out equals an undisturbed run's.
"""

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from fault_proxy import Plan
from files import encode, huge_png
from objects import Objects
from PIL import Image

from dtn_ray.convert.job import convert
from dtn_ray.convert.options import Conversion

ROOT = Path(__file__).parents[2]
LEASE = 4  # seconds that a killed driver keeps others away
FAULTS = Plan(slow_down=0.04, internal_error=0.02, reset=0.02, reset_in_body=0.01, truncated=0.01, seed=5)


def photos(count: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """Images of every kind by key, one in twenty of them bad; and of those what the reason says."""
    noise = np.random.default_rng(3).integers(0, 256, (count + 1, 32, 32, 3), np.uint8)
    images, bad = dict[str, bytes](), dict[str, str]()
    for i in range(count):
        image, next_frame = Image.fromarray(noise[i]), Image.fromarray(noise[i + 1])
        folder = f"{i % 7}/" if i % 3 else ""
        animation = {"save_all": True, "append_images": [next_frame]}
        sixteen = Image.fromarray(noise[i, ..., 0].astype(np.uint16) * 256 + noise[i, ..., 1])
        name, content, reason = {
            0: ("zero.png", b"", "empty file"),
            20: ("cut.jpg", encode(image, "jpeg")[:300], "the file is cut short"),
            40: ("text.jpg", b"this is a letter, not a photo", "not an image of a known format"),
            60: ("huge.png", huge_png(), "20000×20000 pixels, more than the limit"),
            80: ("cut.png", encode(image)[:900], "the file is cut short"),
            5: ("cmyk.jpg", encode(image.convert("CMYK"), "jpeg"), None),
            25: ("sixteen.png", encode(sixteen), None),
            45: ("moving.gif", encode(image, "gif", **animation), None),
            65: ("moving.webp", encode(image, "webp", **animation), None),
            85: ("alpha #1.png", encode(image.convert("RGBA")), None),
        }.get(i % 100, ("photo.jpg", encode(image, "jpeg"), None))
        key = f"{folder}{i:05}-{name}"
        images[key] = content
        if reason:
            bad[key] = reason
    return images, bad


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Tells how long it took: `pytest -s` shows it."""
    began = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)


@contextmanager
def killing(
    parent: psutil.Process, outputs: Callable[[], int], pause: tuple[float, float], seed: int, at_most: int = 1000
) -> Iterator[Counter[str]]:
    """Kills a random Ray worker of the job, while a `with` lasts, again and again; counts them by name.

    After each there is a pause of so many seconds, and new outputs: a worker takes longer to start than to be killed.
    """
    chance, end, killed = random.Random(seed), threading.Event(), Counter[str]()
    failed: list[Exception] = []

    def kill() -> None:
        try:
            again_and_again()
        except Exception as error:
            failed.append(error)

    def again_and_again() -> None:
        before = outputs()
        while killed.total() < at_most and not end.wait(chance.uniform(*pause)):
            while outputs() <= before:
                if end.wait(0.2):
                    return
            before = outputs()
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                victim = chance.choice([p for p in parent.children(recursive=True) if p.name().startswith("ray::Map")])
                name = victim.name()
                victim.kill()
                killed[name] += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        end.set()
        thread.join()
    assert not failed, failed


class Driver:
    """jobs/convert.py as a process, with a Ray of its own below it."""

    def __init__(self, job: Conversion, log: Path) -> None:
        options = ("actors", "batch_size", "sheet", "lease_seconds")
        command = [sys.executable, str(ROOT / "jobs/convert.py"), job.checkpoint, job.source, job.out]
        command += [part for name in options for part in (f"--{name.replace('_', '-')}", str(getattr(job, name)))]
        self.log = log
        with log.open("a") as errors:
            self.popen = subprocess.Popen(
                command, env=os.environ | {"RAY_ADDRESS": "local"}, stdout=subprocess.PIPE, stderr=errors
            )
        self.process = psutil.Process(self.popen.pid)

    def finish(self, seconds: float) -> dict:
        """Its summary. Fails if it does not end well and in time."""
        try:
            stdout, _ = self.popen.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert self.popen.returncode == 0, self.log.read_text()[-4000:]
        return json.loads(stdout[stdout.index(b"{") :])

    def kill(self) -> None:
        """By SIGKILL, and then what is left of its Ray, which mostly ends with it."""
        children = self.process.children(recursive=True) if self.popen.poll() is None else []
        self.popen.kill()
        self.popen.communicate()
        _, left = psutil.wait_procs(children, timeout=5)
        for child in left:
            child.kill()
        psutil.wait_procs(left, timeout=10)


def wait_for_part(objects: Objects, out: str, driver: Driver, seconds: float) -> None:
    """Until the ledger has another part than now."""
    deadline, parts = time.monotonic() + seconds, set(objects.keys(f"{out}/ledger"))
    while set(objects.keys(f"{out}/ledger")) <= parts:
        assert driver.popen.poll() is None, driver.log.read_text()[-4000:]
        assert time.monotonic() < deadline, driver.log.read_text()[-4000:]
        time.sleep(0.1)


def check(objects: Objects, out: str, expected: dict[str, bytes], images: set[str], bad: dict[str, str]) -> None:
    """That nothing is lost, doubled, left over or different, and that all that failed says why."""
    ledger = objects.ledger(out)
    rows = {row["key"]: row for row in ledger}
    assert len(ledger) == len(rows), "one row for each"
    assert set(rows) == images, "nothing lost, nothing made up"
    failed = {key: row for key, row in rows.items() if row["status"] == "failed"}
    assert {
        key: (row["cause"], bad.get(key, "nothing") in row["reason"]) for key, row in failed.items()
    } == dict.fromkeys(bad, ("image", True))
    assert all(row["output"] is None and row["score"] is None for row in failed.values())
    outputs = [row["output"] for row in rows.values() if row["status"] == "converted"]
    assert len(set(outputs)) == len(outputs) == len(images) - len(bad)
    found = objects.images(out)
    assert set(found) == set(outputs), "no output without its row, no row without its output"
    assert [name for name in found if found[name] != expected[name]] == []
    for content in found.values():
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    (summary,) = [json.loads(content) for content in objects.read(out, "/summary.json").values()]
    assert (summary["images"], summary["failed"], summary["remaining"]) == (len(images), len(bad), 0)
    assert summary["done_before"] + summary["converted"] == len(outputs)


def undisturbed(objects: Objects, job: Conversion, bad: dict[str, str]) -> dict[str, bytes]:
    summary = convert(job)
    expected = objects.images(job.out)
    assert summary["failed"] == len(bad) and summary["converted"] == len(expected)
    assert len(set(expected.values())) > 0.9 * len(expected), "other images, other outputs"
    return expected


@pytest.mark.slow
def test_a_run_through_failing_requests_and_dying_workers_ends_as_an_undisturbed_one(
    made, bucket, fault_proxy, s3_server
):
    objects = Objects(s3_server)
    images, bad = photos(300)
    with phase("upload"):
        objects.put(f"{bucket}/in", images)
    job = Conversion(f"{made}/dtn", f"{bucket}/in", f"{bucket}/out", batch_size=15, sheet=4)
    with phase("undisturbed run"):
        expected = undisturbed(objects, Conversion(job.checkpoint, job.source, f"{bucket}/calm"), bad)

    def outputs() -> int:
        return sum("/images/" in key for key in objects.keys(job.out))

    fault_proxy.plan = FAULTS
    with (
        phase("disturbed run"),
        killing(psutil.Process(), outputs, (0.5, 1), seed=1, at_most=2) as killed,
    ):
        convert(job)
    counted = dict(fault_proxy.faults)
    fault_proxy.plan = Plan()
    print(counted, killed)
    assert sum(counted.values()) > 20 and killed
    check(objects, job.out, expected, set(images), bad)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_thousands_of_images_survive_killed_drivers_too(made, bucket, fault_proxy, s3_server, tmp_path):
    objects = Objects(s3_server)
    images, bad = photos(5000)
    with phase("upload"):
        objects.put(f"{bucket}/in", images)
    job = Conversion(
        f"{made}/dtn", f"{bucket}/in", f"{bucket}/out", actors=2, batch_size=50, sheet=4, lease_seconds=LEASE
    )
    with phase("undisturbed run"):
        expected = undisturbed(objects, Conversion(job.checkpoint, job.source, f"{bucket}/calm"), bad)

    def outputs() -> int:
        return sum("/images/" in key for key in objects.keys(job.out))

    fault_proxy.plan = FAULTS
    log = tmp_path / "log"
    for i in range(3):
        with phase(f"driver {i + 1}, killed"):
            driver = Driver(job, log)
            try:
                with killing(driver.process, outputs, (4, 8), seed=i) as killed:
                    wait_for_part(objects, job.out, driver, 300)
            finally:
                driver.kill()
        done = objects.newest(job.out)
        print(f"{len(done)} of {len(images)} in the ledger, {dict(killed)} killed")
        assert len(done) < len(images), "killed while there was something to do"
        converted = {row["output"] for row in done.values() if row["status"] == "converted"}
        assert converted <= set(objects.images(job.out)), "nothing is said to be done before it is"
        time.sleep(LEASE)
    with phase("last driver"):
        driver = Driver(job, log)
        with killing(driver.process, outputs, (4, 8), seed=3) as killed:
            summary = driver.finish(1500)
    counted, requests = dict(fault_proxy.faults), fault_proxy.requests.total()
    fault_proxy.plan = Plan()
    print(f"{dict(killed)} killed; {counted} of {requests} requests broken")
    assert sum(counted.values()) > 0.05 * requests and killed.total() >= 2
    assert summary["done_before"] >= len(done) - len(bad)
    check(objects, job.out, expected, set(images), bad)
