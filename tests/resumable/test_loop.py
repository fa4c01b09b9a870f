"""The loop of all trainings, with the smallest training: a line through points."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray import cloudpickle
from safetensors.torch import load_file, save_file

from dtn_ray.data.feed import Stages
from dtn_ray.data.order import worker_slice
from dtn_ray.resumable.loop import Measured, Training, start_worker, train_steps
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.run import run_training

STEPS = 9
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests


@dataclass(frozen=True)
class Points:
    """x of y = 2x."""

    bad_rows = None

    def batches(self, done: Stages, rank: int, workers: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
        step = sum(steps for _, steps in done)
        while True:
            x = np.random.default_rng([seed, step]).normal(size=(batch_size, 1)).astype(np.float32)
            yield worker_slice(x, rank, workers)
            step += 1


class Line(Training):
    """y = ax by gradient descent; dies once in step `dies`, where the file `mark` is."""

    title, seed, steps, batch_size, feed = "line", 3, STEPS, 4, Points()

    def __init__(self, mark: str, dies: int) -> None:
        self.network = torch.nn.Linear(1, 1, bias=False)
        self.parallel = ray.train.torch.prepare_model(self.network)
        self.mark, self.dies = Path(mark), dies
        self.drawn = torch.rand(())

    def restore(self, folder: Path) -> Stages:
        found = load_file(folder / "line.safetensors")
        self.network.load_state_dict({"weight": found["weight"]})
        return [(workers, steps) for workers, steps in found["stages"].tolist()]

    def step(self, batch: np.ndarray, step: int) -> dict[str, torch.Tensor]:
        if step == self.dies and self.mark.exists():
            self.mark.unlink()
            raise RuntimeError("a worker is lost")
        x = torch.from_numpy(batch)
        loss = ((self.parallel(x) - 2 * x) ** 2).mean()
        self.network.zero_grad()
        loss.backward()
        with torch.no_grad():
            self.network.weight -= 0.1 * self.network.weight.grad
        return {"loss": loss.detach(), "drawn": torch.rand(())}

    def measure(self, done: int) -> Measured:
        error = abs(self.network.weight.item() - 2)
        return Measured({"error": error, "measured_at": done}, {"error": error})

    def save(self, folder: Path, metrics: dict, stages: Stages) -> None:
        save_file({"weight": self.network.weight.detach(), "stages": torch.tensor(stages)}, folder / "line.safetensors")


def on_a_worker(settings: dict) -> None:
    worker = start_worker(Line.seed)
    train_steps(Line(settings["mark"], settings["dies"]), worker, settings["run"])


def outcome(folder: Path, workers: int = 1, dies: int = -1) -> tuple[dict, dict[str, torch.Tensor]]:
    folder.mkdir()
    (folder / "mark").touch()
    run = Run(storage=str(folder), workers=workers, cpus_per_worker=1, checkpoint_every=4, log_every=2)
    settings = {"run": run, "mark": str(folder / "mark"), "dies": dies}
    finished = run_training(on_a_worker, settings, run, "line", {"kind": "line"})
    assert (folder / "mark").exists() == (dies < 0)
    return finished.metrics, load_file(Path(finished.checkpoint, "line.safetensors"))


@pytest.mark.slow
def test_a_training_that_lost_its_worker_ends_as_an_uninterrupted_one(ray_cluster, tmp_path):
    whole, its = outcome(tmp_path / "whole")
    assert whole["step"] == whole["measured_at"] == STEPS and whole["resumed_at"] == 0
    assert whole["error"] == pytest.approx(abs(its["weight"].item() - 2)) and math.isfinite(whole["loss"])
    assert its["stages"].tolist() == [[1, STEPS]]

    again, same = outcome(tmp_path / "again", dies=6)
    assert again["resumed_at"] == 4 and same["stages"].tolist() == [[1, 4], [1, STEPS - 4]]
    assert torch.equal(same["weight"], its["weight"])
    assert {name: again[name] for name in ("loss", "drawn", "error")} == {
        name: whole[name] for name in ("loss", "drawn", "error")
    }, "what is drawn in a step depends on the seed and the step alone"

    two, close = outcome(tmp_path / "two", workers=2)
    assert two["step"] == STEPS and close["stages"].tolist() == [[2, STEPS]]
    torch.testing.assert_close(close["weight"], its["weight"])
