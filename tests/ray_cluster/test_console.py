"""What a user reads while a training runs: progress and the result, no tracebacks and no logs of Ray's own."""

import os
import re
import subprocess
import sys

import pytest
from clusters import ROOT

NOISE = ("Traceback", "Error", "TrainingReport", "Checkpoint(", "Token authentication")


@pytest.mark.slow
def test_a_training_beside_another_ray_prints_progress_and_its_result(ray_cluster, tmp_path):
    command = f"{sys.executable} jobs/pretrain.py --dataset handwritten-digits --split train --width 0.125 --epochs 1"
    options = ["--storage", str(tmp_path), "--name", "f", "--log-every", "5", "--cpus-per-worker", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [*command.split(), *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    told = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    assert done.returncode == 0, told
    assert [word for word in NOISE if word in told] == [], told
    progress = [line for line in told.splitlines() if "classifier" in line and "images/s" in line]
    assert progress and '"test_error"' in told, told


LINES = """
import dtn_ray, os
from ray._private import ray_logging
batch = {"ip": "10.0.0.1", "pid": "gcs_server", "is_err": True, "lines": [
    "[2026-11-28 22:16:45,928 E 16723 16723] (gcs_server) gcs_actor_scheduler.cc:538: Failed to kill actor 3021",
    "[2026-11-28 22:16:45,928 E 16723 16723] (gcs_server) gcs_server.cc:1: out of disk",
]}
print(*(line for each in ray_logging.stderr_deduplicator.deduplicate(batch) for line in each["lines"]), sep="\\n")
"""


@pytest.mark.parametrize(("given", "shown"), [({}, 1), ({"RAY_DEDUP_LOGS_SKIP_REGEX": "nothing"}, 2)])
def test_an_actor_that_was_still_starting_at_the_end_is_no_error_on_the_console(given, shown):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_DEDUP_LOGS_SKIP_REGEX"}
    done = subprocess.run(
        [sys.executable, "-c", LINES], cwd=ROOT, env=environment | given, capture_output=True, text=True, timeout=200
    )
    lines = done.stdout.splitlines()
    assert len(lines) == shown and "out of disk" in lines[-1], done
