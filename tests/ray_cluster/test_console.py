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
