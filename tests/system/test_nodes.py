"""Nodes of a cluster that are really killed while a job is on them, and nodes that an autoscaler really adds."""

import csv
import io
import json
import os
import subprocess
import sys
import uuid
from dataclasses import replace

import numpy as np
import psutil
import pytest
import ray
from botocore.exceptions import ClientError
from clusters import ROOT, Cluster, free_port, kill, tiny_training, wait_until
from files import SMALL_F, encode, write_classifier
from objects import Objects
from PIL import Image

from dtn_ray.data.feed import InMemory
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.errors import UserError
from dtn_ray.resumable.options import Run

PATIENCE = 1200  # seconds that a step of a test may take on a busy machine

pytestmark = pytest.mark.timeout(3 * PATIENCE)


@pytest.fixture
def place(s3_server) -> str:
    """A new bucket, reached past the proxy of the faults."""
    name = f"nodes-{uuid.uuid4().hex[:12]}"
    Objects(s3_server).client.create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="module")
def f(tmp_path_factory) -> str:
    """A classifier with random weights."""
    config = replace(SMALL_F, dataset="handwritten-digits", without=())
    return write_classifier(tmp_path_factory.mktemp("f"), config)[0]


def newest(objects: Objects, run: str) -> dict:
    """The manifest of a run's last checkpoint; empty where there is none."""
    try:
        manifests = objects.read(run, "/checkpoint.json")
    except ClientError:  # deleted between the listing and the reading
        return {}
    return json.loads(manifests[max(manifests)]) if manifests else {}


def ray_workers(node: psutil.Popen, name: str) -> list[psutil.Process]:
    return [process for process in node.children(recursive=True) if process.name().startswith(f"ray::{name}")]


@pytest.mark.slow
def test_workers_of_a_lost_node_wait_for_another_and_go_on_from_the_checkpoint(s3_server, place, f, tmp_path):
    objects, run, log = Objects(s3_server), f"{place}/runs/dtn", tmp_path / "log"
    options = ("--workers", "2", "--steps", "600", "--checkpoint-every", "40", "--log-every", "40")
    command = tiny_training(f, *options, "--storage", f"{place}/runs", "--name", "dtn")
    with Cluster(s3_server, cpus=1) as cluster:
        node = cluster.add_node(1)
        driver = cluster.popen([sys.executable, *command], log)
        wait_until(lambda: newest(objects, run).get("step", 0) >= 120, PATIENCE, driver, log)
        assert ray_workers(node, "RayTrainW")
        kill(node)
        wait_until(lambda: "waiting for nodes: 2 workers" in log.read_text(), PATIENCE, driver, log)
        cluster.add_node(1)
        assert driver.wait(PATIENCE) == 0, log.read_text()[-6000:]
    assert "enough for 1" in log.read_text()
    manifest = newest(objects, run)
    assert manifest["resumed_at"] >= 80, "of three checkpoints, the last may not have been entered"
    assert [workers for workers, _ in manifest["stages"]] == [2, 2]
    assert sum(steps for _, steps in manifest["stages"]) == manifest["step"] == 600
    assert objects.read(run, "result.json")


@pytest.mark.slow
def test_an_elastic_training_goes_on_with_the_nodes_that_are_there(s3_server, place, f, tmp_path):
    objects, run, log = Objects(s3_server), f"{place}/runs/dtn", tmp_path / "log"
    options = ("--workers", "2", "--min-workers", "1", "--steps", "1000000", "--checkpoint-every", "40")
    command = tiny_training(f, *options, "--storage", f"{place}/runs", "--name", "dtn")

    def workers() -> list[int]:
        manifest = newest(objects, run)
        assert sum(steps for _, steps in manifest.get("stages", ())) == manifest.get("step", 0)
        return [count for count, _ in manifest.get("stages", ())]

    with Cluster(s3_server, cpus=1) as cluster:
        node = cluster.add_node(1)
        driver = cluster.popen([sys.executable, *command], log)
        wait_until(lambda: newest(objects, run).get("step", 0) >= 120, PATIENCE, driver, log)
        assert workers() == [2]
        kill(node)
        wait_until(lambda: workers() == [2, 1], PATIENCE, driver, log)
        cluster.add_node(1)
        wait_until(lambda: workers() == [2, 1, 2], PATIENCE, driver, log)
    assert "waiting for nodes" not in log.read_text()


@pytest.mark.slow
def test_a_search_goes_on_with_the_trial_of_a_lost_node(s3_server, place, f, tmp_path):
    objects, run, log = Objects(s3_server), f"{place}/runs/search", tmp_path / "log"
    trials = ("--trials", "2", "--concurrent", "2", "--scheduler", "none", "--storage", f"{place}/runs")
    options = ("--steps", "400", "--checkpoint-every", "20", *trials, "--name", "search")
    _, *training = tiny_training(f, *options)

    def steps() -> dict[str, int]:
        """Of the last checkpoint, by trial."""
        try:
            manifests = objects.read(f"{run}/trials", "/checkpoint.json")
        except ClientError:  # deleted between the listing and the reading
            return {}
        latest = {key.partition("/")[0]: json.loads(manifests[key]) for key in sorted(manifests)}
        return {trial: manifest["step"] for trial, manifest in latest.items()}

    with Cluster(s3_server, cpus=1) as cluster:
        node = cluster.add_node(1)
        driver = cluster.popen([sys.executable, "jobs/tune.py", *training], log)
        wait_until(lambda: len(steps()) == 2 and min(steps().values()) >= 60, PATIENCE, driver, log)
        assert ray_workers(node, "RayTrainW"), "a trial is on each node"
        kill(node)
        before = steps()
        assert max(before.values()) < 400, "killed on the way"
        assert driver.wait(PATIENCE) == 0, log.read_text()[-6000:]
    rows = list(csv.DictReader(io.StringIO(objects.read(run, "trials.csv")["trials.csv"].decode())))
    assert [row["state"] for row in rows] == ["complete"] * 2
    manifests = [json.loads(text) for text in objects.read(f"{run}/trials", "/checkpoint.json").values()]
    last = [manifest for manifest in manifests if manifest["step"] == 400]
    went_on = [manifest["resumed_at"] for manifest in last if manifest["resumed_at"]]
    assert len(last) == 2 and len(went_on) == 1, "one trial from its checkpoint, the other undisturbed"
    assert went_on[0] >= 40


@pytest.mark.slow
def test_a_conversion_ends_complete_when_a_node_is_lost_on_the_way(s3_server, place, made, tmp_path):
    objects, log = Objects(s3_server), tmp_path / "log"
    noise = np.random.default_rng(0).integers(0, 256, (3000, 16, 16, 3), np.uint8)
    objects.put(f"{place}/in", {f"{i:04}.png": encode(Image.fromarray(image)) for i, image in enumerate(noise)})
    command = ["jobs/convert.py", f"{made}/dtn", f"{place}/in", f"{place}/out", "--sheet", "4", "--batch-size", "16"]
    with Cluster(s3_server, cpus=1) as cluster:
        node = cluster.add_node(2)
        driver = cluster.popen([sys.executable, *command, "--actors", "3"], log)
        wait_until(lambda: objects.images(f"{place}/out") and ray_workers(node, "Map"), PATIENCE, driver, log)
        kill(node)
        done = len(objects.images(f"{place}/out"))
        assert driver.wait(PATIENCE) == 0, log.read_text()[-6000:]
    assert 0 < done < 3000, "killed on the way"
    rows = objects.ledger(f"{place}/out")
    assert sorted(row["key"] for row in rows) == [f"{i:04}.png" for i in range(3000)]
    assert {row["status"] for row in rows} == {"converted"}
    assert set(objects.images(f"{place}/out")) == {row["output"] for row in rows}


@pytest.mark.slow
def test_nodes_come_for_a_job_and_leave_after_it(s3_server, place, f, tmp_path):
    logs = {workers: tmp_path / f"log-{workers}" for workers in (4, 2)}

    def start(workers: int) -> psutil.Popen:
        options = ("--workers", str(workers), "--steps", "6", "--storage", f"{place}/runs", "--name", f"dtn-{workers}")
        return cluster.popen([sys.executable, *tiny_training(f, *options)], logs[workers])

    def nodes() -> int:
        return sum(process.name() == "raylet" for process in head.children(recursive=True))

    with Cluster(s3_server, cpus=1, autoscaled=2) as cluster:
        (head,) = cluster.processes[-1:]
        assert start(4).wait(PATIENCE) == 2 and nodes() == 1
        assert "4 workers, each with 1 CPU, do not fit" in logs[4].read_text()
        assert "The limits of its autoscaler do not let it add enough nodes" in logs[4].read_text()
        driver = start(2)
        wait_until(lambda: nodes() == 2, PATIENCE, driver, logs[2])
        assert driver.wait(PATIENCE) == 0, logs[2].read_text()[-6000:]
        assert "waiting for the autoscaler to add nodes: 2 workers" in logs[2].read_text()
        wait_until(lambda: nodes() == 1, PATIENCE, head, logs[2])
    assert Objects(s3_server).read(f"{place}/runs/dtn-2", "result.json")


@pytest.mark.slow
def test_a_wrong_token_is_refused_in_one_line(s3_server, f, tmp_path):
    log = tmp_path / "log"
    with Cluster(s3_server, cpus=1) as cluster:
        cluster.environment["RAY_AUTH_TOKEN"] = "wrong" * 8
        driver = cluster.popen([sys.executable, *tiny_training(f, "--storage", str(tmp_path / "runs"))], log)
        assert driver.wait(PATIENCE) == 2, log.read_text()[-6000:]
    assert f"error: the Ray cluster at {cluster.address} rejects this job" in log.read_text()
    assert "Traceback" not in log.read_text()


CONNECT = """
from dtn_ray import cli
from dtn_ray.ray_cluster.connect import connect
cli.run(connect)
"""


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:{closed}", "no Ray cluster answers at 127.0.0.1:{closed} ("),
        ("cluster.invalid:6379", "no Ray cluster answers at cluster.invalid:6379 ("),
        ("127.0.0.1:many", "no Ray cluster answers at 127.0.0.1:many ("),
        ("http://127.0.0.1:8265", "RAY_ADDRESS=http://127.0.0.1:8265 works only with `ray job submit"),
        ("ray://127.0.0.1:10001", "RAY_ADDRESS=ray://127.0.0.1:10001 works only with `ray job submit"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address, message):
    closed = free_port()
    done = subprocess.run(
        [sys.executable, "-c", CONNECT],
        env=os.environ | {"RAY_ADDRESS": address.format(closed=closed)},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: " + message.format(closed=closed))


LONG_END = """
import os, signal, time
from dtn_ray import cli
from dtn_ray.ray_cluster.connect import connect

def job():
    connect()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        time.sleep(4)  # Ray's handler would abort the process after 3 s

cli.run(job)
"""


def test_a_job_on_ray_that_is_terminated_has_the_time_to_end(ray_cluster):
    done = subprocess.run(
        [sys.executable, "-c", LONG_END],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr.splitlines()[-1] == "terminated; the same command continues from what was saved"
    assert "SIGTERM received" not in done.stderr


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (Run(workers=3), "--batch-size 16 cannot be divided evenly among --workers 3"),
        (Run(workers=4, min_workers=2), "--batch-size 16 cannot be divided evenly among 3 workers"),
        (Run(workers=2, min_workers=3), "--min-workers 3 must be between 1 and --workers 2"),
        (Run(workers=2, min_workers=0), "--min-workers 0 must be between 1 and --workers 2"),
    ],
)
def test_numbers_of_workers_that_cannot_share_a_batch_are_refused(run, problem):
    with pytest.raises(UserError, match=problem):
        run.check(16)
    Run(workers=2, min_workers=1).check(16)


def test_other_numbers_of_workers_go_on_with_the_images_that_come_next():
    images = np.arange(50, dtype=np.uint8)[:, None, None, None]
    labels = np.zeros(50, np.int64)
    feed = InMemory(LabelledImages(images, labels), LabelledImages(images, labels))

    def drawn(done: list[tuple[int, int]], workers: int, steps: int) -> list[int]:
        shares = [feed.batches(done, rank, workers, 8, seed=3) for rank in range(workers)]
        return [int(i) for _ in range(steps) for share in shares for i in next(share)[0].ravel()]

    whole = drawn([], 1, 25)
    parts = drawn([], 2, 9) + drawn([(2, 9)], 1, 7) + drawn([(2, 9), (1, 7)], 4, 9)
    assert parts == whole and sorted(whole) == sorted([*range(50)] * 4), "four epochs, each image once in each"
