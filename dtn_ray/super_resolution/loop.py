"""One worker of an SRCNN's training."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.feed import Stages
from dtn_ray.method.precision import autocast
from dtn_ray.models.srcnn import SRCNN
from dtn_ray.resumable.loop import Measured, Training, Worker, start_worker, train_steps
from dtn_ray.super_resolution.measure import measure_all
from dtn_ray.super_resolution.options import SuperResolution
from dtn_ray.super_resolution.patches import Luminances, Pair, Patches

WARM_UP = 100  # steps


def rate(config: SuperResolution, step: int) -> float:
    """The learning rate of a step: a linear warm-up, then a cosine to 0."""
    return config.lr * min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / config.steps)) / 2


def coarse(config: SuperResolution, step: int) -> bool:
    """Whether a step computes in bfloat16: not in the last tenth of the steps.

    Otherwise the weights learn to compensate for the rounding, and in float32 images are 0.8 grey levels too bright.
    """
    return config.bf16 and step < 0.9 * config.steps


def loop(settings: dict[str, Any]) -> None:
    """The function that Ray Train calls on each worker."""
    config: SuperResolution = settings["config"]
    worker = start_worker(config.seed)
    pairs, tests = ray.get(settings["pairs"]), ray.get(settings["tests"])
    train_steps(SRCNNTraining(config, pairs, tests, settings["images"], worker), worker, settings["run"])


class SRCNNTraining(Training):
    """Training of SRCNN on patches, measured on `tests` (possibly none)."""

    title = "srcnn"

    def __init__(
        self, config: SuperResolution, pairs: list[Pair], tests: Luminances, images: int, worker: Worker
    ) -> None:
        self.config, self.tests, self.images, self.device = config, tests, images, worker.device
        self.seed, self.steps, self.batch_size = config.seed, config.steps, config.batch_size

        # Network and optimiser.
        self.network = SRCNN(config.middle).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parallel: nn.Module = ray.train.torch.prepare_model(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr)

        # Data.
        margin = self.network.margin
        self.feed = Patches(pairs, config.patch + 2 * margin, margin)

    def restore(self, folder: Path) -> Stages:
        step = checkpoint.read_manifest(folder, "super_resolution", ("step",))["step"]
        checkpoint.load_weights(self.network, folder, "srcnn")
        checkpoint.load_optimizers(folder, {"srcnn": self.optimizer})
        return [(1, step)]  # patches of a step are the same for any number of workers

    def step(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        blurred, sharp = batch
        with autocast(self.device, coarse(self.config, step)):
            y = self.parallel(blurred.to(self.device, memory_format=torch.channels_last), pad=False)
        loss = F.mse_loss(y.float(), sharp.to(self.device))
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.config, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def shown(self, values: Mapping[str, float]) -> Mapping[str, float]:
        return {"training PSNR": -10 * math.log10(values["loss"])} if "loss" in values else values

    def measure(self, done: int) -> Measured:
        if not self.tests:
            return Measured({"images": self.images}, {})
        found = measure_all(self.network, self.tests, self.config.factors)
        psnr = {name: value for name, value in found.items() if name.startswith("psnr")}
        return Measured({"images": self.images, **found}, psnr)

    def save(self, folder: Path, metrics: dict[str, Any], stages: Stages) -> None:
        checkpoint.save_optimizers(folder, {"srcnn": self.optimizer})
        facts = {"step": metrics["step"], "metrics": metrics}
        checkpoint.save(folder, "super_resolution", self.config, {"srcnn": self.network}, **facts)
