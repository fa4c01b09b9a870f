"""One worker of a DTN's training."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train.torch
from torch import Tensor, nn

from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.feed import Feed, Stages
from dtn_ray.method.augment import augment
from dtn_ray.method.dtn import DTNTrainer, collapse_warning
from dtn_ray.method.pixels import to_float
from dtn_ray.models.layers import synchronise_batch_norm
from dtn_ray.models.perceptual import Perceptual
from dtn_ray.resumable.curves import Curves
from dtn_ray.resumable.loop import Measured, Training, Worker, start_worker, train_steps
from dtn_ray.train.domains import build_dtn
from dtn_ray.train.measure import for_conversion, measure, show
from dtn_ray.train.options import Experiment
from dtn_ray.train.prepare import Inputs


def loop(settings: dict[str, Any]) -> None:
    """The function that Ray Train calls on each worker."""
    worker = start_worker(settings["experiment"].seed)
    train_steps(DTNTraining(settings, worker), worker, settings["run"], quiet=settings["quiet"])


class DTNTraining(Training):
    """Training of g and D by Secs. 3 and 4. `settings`: see `fit` in train/job.py."""

    title = "dtn"

    def __init__(self, settings: dict[str, Any], worker: Worker) -> None:
        experiment: Experiment = settings["experiment"]
        inputs: Inputs = settings["inputs"]
        self.experiment, self.facts, self.quiet = experiment, settings["facts"], settings["quiet"]
        self.curves = Curves(settings["folder"])
        self.seed, self.steps, self.batch_size = experiment.seed, experiment.optim.steps, experiment.optim.batch_size

        # Data.
        self.feed: Feed = ray.get(inputs.feed)
        self.calibration: np.ndarray = ray.get(inputs.calibration)
        self.validation: np.ndarray = ray.get(inputs.validation)
        self.labels: np.ndarray | None = ray.get(inputs.labels)
        self.of_t: Tensor = ray.get(inputs.of_t)

        # Networks, the same on every worker.
        dtn = build_dtn(experiment, copy.deepcopy(ray.get(inputs.f)))
        judge: Perceptual | None = copy.deepcopy(ray.get(inputs.judge))
        self.judge = judge and judge.to(worker.device)
        if worker.workers > 1:
            dtn.g, dtn.D = (synchronise_batch_norm(network, worker.device) for network in (dtn.g, dtn.D))
            dtn.D2 = dtn.D2 and synchronise_batch_norm(dtn.D2, worker.device)
        wrap = data_parallel if worker.workers > 1 else None
        self.trainer = DTNTrainer(dtn, experiment.loss, experiment.optim, worker.device, wrap)
        self.g_convert: nn.Module = dtn.g

    def restore(self, folder: Path) -> Stages:
        for name, network in self._trained().items():
            checkpoint.load_weights(network, folder, name)
        checkpoint.load_optimizers(folder, self.trainer.optimizers)
        return [(workers, steps) for workers, steps in checkpoint.read_manifest(folder, "dtn", ("stages",))["stages"]]

    def step(self, batch: tuple[np.ndarray, np.ndarray], step: int) -> dict[str, Tensor]:
        s, t = batch
        return self.trainer.step(augment(to_float(s), self.experiment.data.augment_s), to_float(t), step)

    def log(self, done: int, losses: Mapping[str, float], images_per_second: float) -> None:
        self.curves.add(done, {**losses, "images_per_second": images_per_second})
        rested = self.experiment.loss.D_has_rested(done - 1)
        warning = collapse_warning(losses.get("L_d", 0.0), losses.get("L_gan_g", 0.0), rested)
        if warning and not self.quiet and not self.experiment.model.binary:
            print(f"warning: {warning}", flush=True)

    def measure(self, done: int) -> Measured:
        dtn = self.trainer.dtn
        self.g_convert = for_conversion(self.experiment, self.trainer, self.calibration)
        found, pairs = measure(dtn, self.g_convert, self.judge, self.validation, self.labels, self.of_t)
        show(found, pairs, self.curves.board, done)
        self.curves.keep()
        return Measured(found, found)

    def save(self, folder: Path, metrics: dict[str, Any], stages: Stages) -> None:
        networks: dict[str, nn.Module] = {"f": self.trainer.dtn.f, "g_convert": self.g_convert, **self._trained()}
        if self.judge is not None:
            networks["judge"] = self.judge
        checkpoint.save_optimizers(folder, self.trainer.optimizers)
        checkpoint.save(folder, "dtn", self.experiment, networks, **self.facts | metrics | {"stages": stages})

    def close(self) -> None:
        self.curves.close()

    def _trained(self) -> dict[str, nn.Module]:
        """The networks that a step changes, by their names in a checkpoint."""
        dtn = self.trainer.dtn
        networks = {"g": dtn.g, "D": dtn.D, "D2": dtn.D2, "g_ema": self.trainer.ema}
        return {name: network for name, network in networks.items() if network is not None}


def data_parallel(network: nn.Module) -> nn.Module:
    """Makes a network data-parallel. Batch norm's statistics are already synchronised, so buffers are not broadcast."""
    return ray.train.torch.prepare_model(network, parallel_strategy_kwargs={"broadcast_buffers": False})
