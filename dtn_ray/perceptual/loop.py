"""What each worker of a classifier's training does."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.nn.functional as F
from torch import nn

from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.feed import InMemoryLabelled, Stages
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.data.order import step_seed
from dtn_ray.data.streamed import StreamedPeople
from dtn_ray.method.augment import augment
from dtn_ray.method.pixels import to_float
from dtn_ray.metrics import TrainingMetrics
from dtn_ray.models.digits import DigitF
from dtn_ray.models.faces import DeepFace
from dtn_ray.perceptual.load import build_classifier, build_deepface
from dtn_ray.perceptual.measure import measure
from dtn_ray.perceptual.options import FacePretraining, Pretraining
from dtn_ray.progress import Progress
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.report import of_all_workers, report, use_assigned_cpus


@dataclass(frozen=True)
class Inputs:
    """What every worker of a classifier's training shares, as references into Ray's object store."""

    feed: ray.ObjectRef
    """InMemoryLabelled or StreamedPeople."""
    test: ray.ObjectRef
    """LabelledImages."""
    classes: int
    images: int
    """In the feed."""


def total_steps(config: Pretraining | FacePretraining, images: int) -> int:
    """Steps of a pretraining over so many images; at least 1."""
    return max(1, round(config.epochs * images / config.batch_size))


def loop(settings: dict[str, Any]) -> None:
    config: Pretraining | FacePretraining = settings["config"]
    run: Run = settings["run"]
    inputs: Inputs = settings["inputs"]
    feed: InMemoryLabelled | StreamedPeople = ray.get(inputs.feed)
    test: LabelledImages = ray.get(inputs.test)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    steps = total_steps(config, inputs.images)

    # Networks and optimiser.
    use_assigned_cpus()
    torch.manual_seed(config.seed)
    network: DigitF | DeepFace
    if isinstance(config, Pretraining):
        kind, title, network = "classifier", f"{config.dataset} classifier", build_classifier(config)
    else:
        kind, title, network = "face_network", "deepface", build_deepface(config, inputs.classes)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parallel: nn.Module = ray.train.torch.prepare_model(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps)

    # Resume.
    before: Stages = []
    if (last := ray.train.get_checkpoint()) is not None:
        with last.as_directory() as path:
            folder = Path(path)
            before = [(count, done) for count, done in checkpoint.read_manifest(folder, kind, ("stages",))["stages"]]
            checkpoint.load_weights(network, folder, kind)
            checkpoint.load_optimizers(folder, {kind: optimizer})
    start = sum(done for _, done in before)
    schedule.last_epoch = start
    progress = Progress(title, start, steps, config.batch_size, quiet=rank > 0)
    exported = TrainingMetrics(context.get_experiment_name())

    shares = feed.batches(before, rank, workers, config.batch_size, config.seed)
    for step in range(start, steps):
        images, labels = next(shares)
        torch.manual_seed(step_seed(config.seed, step, rank))
        x = augment(to_float(images), config.augment).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            logits = parallel(x)
        loss = F.cross_entropy(
            logits.float(), torch.from_numpy(labels).to(device), label_smoothing=config.label_smoothing
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step + 1 < steps:
            schedule.step()
        done = step + 1
        if rank == 0 and done % run.log_every == 0:
            values = {"loss": loss.item()}
            exported.log(done, progress.update(done, values), values)

        if done % run.checkpoint_every == 0 or done == steps:
            metrics: dict[str, Any] = {"step": done, "resumed_at": start, "loss": loss.item()}
            if isinstance(feed, StreamedPeople):
                metrics["bad_rows"] = len(of_all_workers(feed.bad_rows.found))
            if rank:
                report(metrics)
                continue
            found = measure(network, test)
            network.train()
            known = {name: value for name, value in found.items() if value is not None}
            progress.update(done, {name.replace("_", " "): value for name, value in known.items()})
            exported.validated(known)
            metrics |= found | {"test_images": len(test), "train_images": inputs.images}
            facts = {"step": done, "stages": [*before, (workers, done - start)], "metrics": metrics}
            if kind == "face_network":
                facts["people"] = inputs.classes
            report(metrics, partial(_save, kind, config, network, optimizer, facts))


def _save(
    kind: str,
    config: Pretraining | FacePretraining,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
    folder: Path,
) -> None:
    checkpoint.save_optimizers(folder, {kind: optimizer})
    checkpoint.save(folder, kind, config, {kind: network}, **facts)
