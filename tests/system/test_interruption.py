"""Trainings that are really killed: what they end with equals an uninterrupted run."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from dtn_ray.resumable.options import Run
from dtn_ray.train.job import train
from dtn_ray.train.trained import load_trained

ROOT = Path(__file__).parents[2]


def difference(one: str, two: str) -> float:
    """Largest difference between any two weights of g, D and g as it converts."""
    return max(
        (value - load_file(Path(two, f"{name}.safetensors"))[key]).abs().max().item()
        for name in ("g", "g_ema", "g_convert", "D")
        for key, value in load_file(Path(one, f"{name}.safetensors")).items()
    )


def wait_for_checkpoint(folder: Path, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not any(folder.glob("checkpoint_*/checkpoint.json")):
        assert time.monotonic() < deadline, f"no checkpoint in {folder} after {seconds} s"
        time.sleep(0.05)


def training_workers() -> list[psutil.Process]:
    """Ray Train's workers below this process."""
    return [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::RayTrainW")]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "tolerance"), [(1, 0.0), (2, 1e-3)], ids=["one", "two"])
def test_a_worker_killed_in_mid_epoch_is_replaced_and_the_weights_are_the_same(
    experiment, tmp_path, workers, tolerance
):
    longer = replace(experiment, optim=replace(experiment.optim, steps=160))
    run = Run(name="dtn", workers=workers, cpus_per_worker=1, checkpoint_every=40)
    whole = train(longer, replace(run, storage=str(tmp_path / "whole")))

    killed = []

    def kill() -> None:
        wait_for_checkpoint(tmp_path / "killed/dtn")
        time.sleep(0.5)  # past the checkpoint, into the steps after it
        victim = training_workers()[0]
        victim.send_signal(signal.SIGKILL)
        killed.append(victim.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    resumed = train(longer, replace(run, storage=str(tmp_path / "killed")))
    killer.join()
    assert killed and resumed.metrics["resumed_at"] in (40, 80, 120)
    assert difference(whole.checkpoint, resumed.checkpoint) <= tolerance


@pytest.mark.slow
def test_the_same_command_resumes_after_its_driver_was_killed(classifier, tmp_path):
    command = [
        *(sys.executable, str(ROOT / "jobs/train.py"), "--source", "handwritten-digits", "--source-split", "train"),
        *(
            "--target",
            "handwritten-digits",
            "--f",
            classifier,
            "--judge",
            classifier,
            "--width-g",
            "0.0625",
            "--width-D",
            "0.125",
        ),
        *("--steps", "400", "--batch-size", "16", "--ema-decay", "0.9", "--name", "dtn"),
        *("--checkpoint-every", "100", "--cpus-per-worker", "1"),
    ]
    # Each command starts a Ray of its own: none may join the Ray of this session, and what is switched off there, jobs
    # switch off themselves.
    ours = ("RAY_ADDRESS", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
    environment = {name: value for name, value in os.environ.items() if name not in ours}

    def start(folder: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, "--storage", str(tmp_path / folder)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with start("killed") as driver:
        wait_for_checkpoint(tmp_path / "killed/dtn")
        time.sleep(0.5)
        driver.kill()
    assert not (tmp_path / "killed/dtn/result.json").exists()
    with start("killed") as again:
        output, _ = again.communicate()
    assert again.returncode == 0, output
    assert "PreemptionWatcher" not in output, "with an error of Ray's own"
    with start("whole") as uninterrupted:
        assert uninterrupted.wait() == 0 or uninterrupted.stdout.read()
    resumed, whole = (load_trained(str(tmp_path / name / "dtn")).manifest for name in ("killed", "whole"))
    assert resumed["resumed_at"] >= 100 and whole["resumed_at"] == 0
    assert resumed["networks"] == whole["networks"], "the digests of all weights"
    assert torch.isfinite(torch.tensor(resumed["L_g"]))
