"""What each worker of an adaptation does: a training of f by the source's labels and the target's unlabelled images."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train.torch
import torch
from torch import Tensor, nn

from dtn_ray.baselines.dann import DANN, adaptation_weight, annealed
from dtn_ray.baselines.dann import losses as dann_losses
from dtn_ray.baselines.fixmatch import Alignment
from dtn_ray.baselines.fixmatch import losses as fixmatch_losses
from dtn_ray.baselines.options import AdaptationOptions, DannOptions, FixMatchOptions
from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.feed import InMemoryAdaptation, Stages
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.method.augment import augment
from dtn_ray.method.options import Augment
from dtn_ray.method.pixels import to_float
from dtn_ray.method.precision import autocast
from dtn_ray.models.digits import DigitF
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
    options: AdaptationOptions = settings["config"]
    worker = start_worker(options.seed)
    train_steps(TRAININGS[options.method](options, settings["inputs"], worker), worker, settings["run"])


class AdaptationTraining(Training):
    """What all adaptations of f share. Labels of the target are read by `measure` alone."""

    network: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, options: AdaptationOptions, inputs: Inputs, worker: Worker) -> None:
        self.options, self.device = options, worker.device
        self.seed, self.steps, self.batch_size = options.seed, options.steps, options.batch_size

        # Data.
        self.feed: InMemoryAdaptation = ray.get(inputs.feed)
        self.source_test: LabelledImages = ray.get(inputs.source_test)
        self.target_test: LabelledImages = ray.get(inputs.target_test)

        # f.
        self.f: DigitF = build_classifier(options.classifier)
        if (given := ray.get(inputs.f)) is not None:
            self.f.load_state_dict(given.state_dict())

    def on_device(self, images: np.ndarray, changes: Augment) -> Tensor:
        """A batch of the feed as f's input, randomly changed."""
        return augment(to_float(images), changes).to(self.device, memory_format=torch.channels_last)

    @property
    @abstractmethod
    def beside(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps beside f, by name."""

    def restore(self, folder: Path) -> Stages:
        manifest = checkpoint.read_manifest(folder, "classifier", ("stages",))
        for name, network in {"classifier": self.f, **self.beside}.items():
            checkpoint.load_weights(network, folder, name)
        checkpoint.load_optimizers(folder, {self.title: self.optimizer})
        return [(workers, steps) for workers, steps in manifest["stages"]]

    def shown(self, values: Mapping[str, float]) -> Mapping[str, float]:
        return {name.replace("_", " ") if name.islower() else name: value for name, value in values.items()}

    def measure(self, done: int) -> Measured:
        on_source, on_target = (
            score(predict(self.f, test.images), test.labels) for test in (self.source_test, self.target_test)
        )
        self.network.train()
        known = {"test_error": 1 - on_source["accuracy"], "accuracy": on_target["accuracy"]}
        facts = {"source_images": len(self.feed.source), "target_images": len(self.feed.target)}
        return Measured({**known, **on_target, **facts}, known)

    def save(self, folder: Path, metrics: dict[str, Any], stages: Stages) -> None:
        networks: dict[str, nn.Module] = {"classifier": self.f, **self.beside}
        facts = {"step": metrics["step"], "stages": stages, "metrics": metrics, self.title: to_dict(self.options)}
        checkpoint.save_optimizers(folder, {self.title: self.optimizer})
        checkpoint.save(folder, "classifier", self.options.classifier, networks, **facts)


class DannTraining(AdaptationTraining):
    """DANN on f's architecture."""

    title = "dann"
    options: DannOptions

    def __init__(self, options: DannOptions, inputs: Inputs, worker: Worker) -> None:
        super().__init__(options, inputs, worker)
        self.network: DANN = DANN(self.f, options.width)
        self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parallel: nn.Module = ray.train.torch.prepare_model(self.network)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), options.lr, options.momentum, weight_decay=options.weight_decay
        )

    @property
    def beside(self) -> dict[str, nn.Module]:
        return {"domain_classifier": self.network.domain}

    def step(self, batch: tuple[np.ndarray, np.ndarray, np.ndarray], step: int) -> dict[str, Tensor]:
        options = self.options
        s, t = (self.on_device(images, options.augment) for images in (batch[0], batch[2]))
        progress = step / self.steps
        weight = adaptation_weight(progress, options.gamma)
        with autocast(self.device, options.bf16):
            logits, domain = self.parallel(s, t, weight)
        L_y, L_d = dann_losses(logits.float(), domain.float(), torch.from_numpy(batch[1]).to(self.device))
        for group in self.optimizer.param_groups:
            group["lr"] = annealed(options.lr, progress) if options.anneal else options.lr
        self.optimizer.zero_grad(set_to_none=True)
        (L_y + L_d).backward()
        self.optimizer.step()
        return {"L_y": L_y.detach(), "L_d": L_d.detach(), "lambda": torch.tensor(weight)}


class FixMatchTraining(AdaptationTraining):
    """FixMatch on f's architecture."""

    title = "fixmatch"
    options: FixMatchOptions

    def __init__(self, options: FixMatchOptions, inputs: Inputs, worker: Worker) -> None:
        super().__init__(options, inputs, worker)
        self.network = self.f = self.f.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parallel: nn.Module = ray.train.torch.prepare_model(self.network)
        self.alignment = Alignment().to(self.device)
        self.changes_of_t = replace(options.augment, invert=0.0)  # t has no inverted images
        self.optimizer = torch.optim.AdamW(self.f.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, options.lr, total_steps=self.steps)

    @property
    def beside(self) -> dict[str, nn.Module]:
        return {"alignment": self.alignment}

    def restore(self, folder: Path) -> Stages:
        stages = super().restore(folder)
        self.schedule.last_epoch = sum(steps for _, steps in stages)
        return stages

    def step(self, batch: tuple[np.ndarray, np.ndarray, np.ndarray], step: int) -> dict[str, Tensor]:
        options = self.options
        s, t = self.on_device(batch[0], options.augment), self.on_device(batch[2], Augment())
        changed = self.on_device(batch[2], self.changes_of_t)
        self.f.eval()
        with torch.no_grad(), autocast(self.device, options.bf16):
            targets = self.alignment(self.f(t))
        self.f.train()
        with autocast(self.device, options.bf16):  # in two passes, whose dropout does not depend on the workers
            of_s, of_changed = self.parallel(s).float(), self.parallel(changed).float()
        L_s, L_t, sure = fixmatch_losses(
            of_s,
            torch.from_numpy(batch[1]).to(self.device),
            of_changed,
            targets,
            options.threshold,
            options.label_smoothing,
        )
        self.optimizer.zero_grad(set_to_none=True)
        (L_s + options.unlabelled * L_t).backward()
        self.optimizer.step()
        if step + 1 < self.steps:
            self.schedule.step()
        return {"L_s": L_s.detach(), "L_t": L_t.detach(), "sure": sure}


TRAININGS: dict[str, Any] = {each.title: each for each in (DannTraining, FixMatchTraining)}
