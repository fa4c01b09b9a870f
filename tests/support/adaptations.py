"""What the tests of DANN and of FixMatch share: a training of f by labels of one set and images of another."""

import sys
from pathlib import Path
from typing import Any

import torch
from ray import cloudpickle
from safetensors.torch import load_file

from dtn_ray.baselines.loop import AdaptationTraining
from dtn_ray.resumable.loop import start_worker, train_steps
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.run import Finished

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests


def run(folder: Path | str, **options) -> Run:
    return Run(**({"storage": str(folder), "name": "adapted", "cpus_per_worker": 1, "log_every": 2} | options))


def weights(outcome: Finished, beside: str) -> dict[str, torch.Tensor]:
    """Of f, and of the network that its checkpoint keeps `beside` it."""
    return {
        f"{name}.{key}": value
        for name in ("classifier", beside)
        for key, value in load_file(Path(outcome.checkpoint, f"{name}.safetensors")).items()
    }


def lost_once(kind: type[AdaptationTraining]) -> Any:
    """The loop of a training that is lost once, in a step between two checkpoints: if the file `data_dir` exists."""

    def loop(settings: dict) -> None:
        class Dying(kind):
            def step(self, batch, step):
                mark = Path(self.options.data_dir or "")
                if step == 3 and mark.exists():
                    mark.unlink()
                    raise RuntimeError("a worker is lost")
                return super().step(batch, step)

        worker = start_worker(settings["config"].seed)
        train_steps(Dying(settings["config"], settings["inputs"], worker), worker, settings["run"])

    return loop
