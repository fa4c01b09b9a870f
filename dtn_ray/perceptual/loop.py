"""One worker of a classifier's training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.feed import Feed, Stages
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.method.augment import augment
from dtn_ray.method.pixels import to_float
from dtn_ray.method.precision import autocast
from dtn_ray.models.digits import DigitF
from dtn_ray.models.faces import DeepFace
from dtn_ray.perceptual.load import build_classifier, build_deepface
from dtn_ray.perceptual.measure import measure
from dtn_ray.perceptual.options import FacePretraining, Pretraining
from dtn_ray.resumable.loop import Measured, Training, Worker, start_worker, train_steps


@dataclass(frozen=True)
class Inputs:
    """The data that all workers of a classifier's training share, as references into Ray's object store."""

    feed: ray.ObjectRef
    """InMemoryLabelled or StreamedPeople."""
    test: ray.ObjectRef
    """LabelledImages."""
    classes: int
    images: int
    """Number of images in the feed."""


def total_steps(config: Pretraining | FacePretraining, images: int) -> int:
    """Steps of a pretraining over so many images; at least 1."""
    return max(1, round(config.epochs * images / config.batch_size))


def loop(settings: dict[str, Any]) -> None:
    """The function that Ray Train calls on each worker."""
    config: Pretraining | FacePretraining = settings["config"]
    worker = start_worker(config.seed)
    training = ClassifierTraining(config, settings["inputs"], worker)
    train_steps(training, worker, settings["run"], quiet=settings["quiet"])


class ClassifierTraining(Training):
    """A classifier of digits (Sec. 5.1), or DeepFace as a classifier of people (Sec. 5.2)."""

    def __init__(self, config: Pretraining | FacePretraining, inputs: Inputs, worker: Worker) -> None:
        self.config, self.inputs, self.device = config, inputs, worker.device
        self.seed, self.steps, self.batch_size = config.seed, total_steps(config, inputs.images), config.batch_size

        # Data.
        self.feed: Feed = ray.get(inputs.feed)
        self.test: LabelledImages = ray.get(inputs.test)

        # Network and optimiser.
        self.network: DigitF | DeepFace
        if isinstance(config, Pretraining):
            self.kind, self.title = "classifier", f"{config.dataset} classifier"
            self.network = build_classifier(config)
        else:
            self.kind, self.title = "face_network", "deepface"
            self.network = build_deepface(config, inputs.classes)
        self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parallel: nn.Module = ray.train.torch.prepare_model(self.network)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, config.lr, total_steps=self.steps)

    def restore(self, folder: Path) -> Stages:
        manifest = checkpoint.read_manifest(folder, self.kind, ("stages",))
        checkpoint.load_weights(self.network, folder, self.kind)
        checkpoint.load_optimizers(folder, {self.kind: self.optimizer})
        stages = [(workers, steps) for workers, steps in manifest["stages"]]
        self.schedule.last_epoch = sum(steps for _, steps in stages)
        return stages

    def step(self, batch: tuple[np.ndarray, np.ndarray], step: int) -> dict[str, Tensor]:
        images, labels = batch
        x = augment(to_float(images), self.config.augment).to(self.device, memory_format=torch.channels_last)
        with autocast(self.device, self.config.bf16):
            logits = self.parallel(x)
        of_x = torch.from_numpy(labels).to(self.device)
        loss = F.cross_entropy(logits.float(), of_x, label_smoothing=self.config.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if step + 1 < self.steps:
            self.schedule.step()
        return {"loss": loss.detach()}

    def shown(self, values: Mapping[str, float]) -> Mapping[str, float]:
        return {name.replace("_", " "): value for name, value in values.items()}

    def measure(self, done: int) -> Measured:
        found = measure(self.network, self.test)
        self.network.train()
        known = {name: value for name, value in found.items() if value is not None}
        return Measured({**found, "test_images": len(self.test), "train_images": self.inputs.images}, known)

    def save(self, folder: Path, metrics: dict[str, Any], stages: Stages) -> None:
        facts: dict[str, Any] = {"step": metrics["step"], "stages": stages, "metrics": metrics}
        if self.kind == "face_network":
            facts["people"] = self.inputs.classes
        checkpoint.save_optimizers(folder, {self.kind: self.optimizer})
        checkpoint.save(folder, self.kind, self.config, {self.kind: self.network}, **facts)
