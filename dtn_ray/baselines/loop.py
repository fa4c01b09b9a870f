"""What each worker of DANN's training does."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train.torch
import torch
from torch import Tensor, nn

from dtn_ray.baselines.dann import DANN, adaptation_weight, annealed, losses
from dtn_ray.baselines.options import DannOptions
from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.feed import InMemoryAdaptation, Stages
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.method.augment import augment
from dtn_ray.method.pixels import to_float
from dtn_ray.method.precision import autocast
from dtn_ray.perceptual.load import build_classifier
from dtn_ray.perceptual.measure import predict, score
from dtn_ray.resumable.loop import Measured, Training, Worker, start_worker, train_steps
from dtn_ray.settings import to_dict


@dataclass(frozen=True)
class Inputs:
    """What every worker shares, as references into Ray's object store."""

    feed: ray.ObjectRef
    """InMemoryAdaptation."""
    source_test: ray.ObjectRef
    """LabelledImages."""
    target_test: ray.ObjectRef
    """LabelledImages."""
    f: ray.ObjectRef
    """The classifier to begin with, a DigitF, or None."""


def loop(settings: dict[str, Any]) -> None:
    """What Ray Train calls on each worker."""
    options: DannOptions = settings["config"]
    worker = start_worker(options.seed)
    train_steps(DannTraining(options, settings["inputs"], worker), worker, settings["run"])


class DannTraining(Training):
    """DANN on f's architecture. Labels of the target are read by `measure` alone."""

    title = "dann"

    def __init__(self, options: DannOptions, inputs: Inputs, worker: Worker) -> None:
        self.options, self.device = options, worker.device
        self.seed, self.steps, self.batch_size = options.seed, options.steps, options.batch_size

        # Data.
        self.feed: InMemoryAdaptation = ray.get(inputs.feed)
        self.source_test: LabelledImages = ray.get(inputs.source_test)
        self.target_test: LabelledImages = ray.get(inputs.target_test)

        # Networks and optimiser.
        f = build_classifier(options.classifier)
        if (given := ray.get(inputs.f)) is not None:
            f.load_state_dict(given.state_dict())
        self.network = DANN(f, options.width)
        self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parallel: nn.Module = ray.train.torch.prepare_model(self.network)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), options.lr, options.momentum, weight_decay=options.weight_decay
        )

    def restore(self, folder: Path) -> Stages:
        manifest = checkpoint.read_manifest(folder, "classifier", ("stages",))
        checkpoint.load_weights(self.network.f, folder, "classifier")
        checkpoint.load_weights(self.network.domain, folder, "domain_classifier")
        checkpoint.load_optimizers(folder, {"dann": self.optimizer})
        return [(workers, steps) for workers, steps in manifest["stages"]]

    def step(self, batch: tuple[np.ndarray, np.ndarray, np.ndarray], step: int) -> dict[str, Tensor]:
        options = self.options
        s, t = (
            augment(to_float(images), options.augment).to(self.device, memory_format=torch.channels_last)
            for images in (batch[0], batch[2])
        )
        progress = step / self.steps
        weight = adaptation_weight(progress, options.gamma)
        with autocast(self.device, options.bf16):
            logits, domain = self.parallel(s, t, weight)
        L_y, L_d = losses(logits.float(), domain.float(), torch.from_numpy(batch[1]).to(self.device))
        for group in self.optimizer.param_groups:
            group["lr"] = annealed(options.lr, progress) if options.anneal else options.lr
        self.optimizer.zero_grad(set_to_none=True)
        (L_y + L_d).backward()
        self.optimizer.step()
        return {"L_y": L_y.detach(), "L_d": L_d.detach(), "lambda": torch.tensor(weight)}

    def shown(self, values: Mapping[str, float]) -> Mapping[str, float]:
        return {name.replace("_", " ") if name.islower() else name: value for name, value in values.items()}

    def measure(self, done: int) -> Measured:
        on_source, on_target = (
            score(predict(self.network.f, test.images), test.labels) for test in (self.source_test, self.target_test)
        )
        self.network.train()
        known = {"test_error": 1 - on_source["accuracy"], "accuracy": on_target["accuracy"]}
        facts = {"source_images": len(self.feed.source), "target_images": len(self.feed.target)}
        return Measured({**known, **on_target, **facts}, known)

    def save(self, folder: Path, metrics: dict[str, Any], stages: Stages) -> None:
        networks = {"classifier": self.network.f, "domain_classifier": self.network.domain}
        facts = {"step": metrics["step"], "stages": stages, "metrics": metrics, "dann": to_dict(self.options)}
        checkpoint.save_optimizers(folder, {"dann": self.optimizer})
        checkpoint.save(folder, "classifier", self.options.classifier, networks, **facts)
