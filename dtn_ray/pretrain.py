"""Ray Train: trains f, or the judge, as a digit classifier (Sec. 5.1)."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.nn.functional as F
from torch import nn

from dtn_ray import checkpoint, data
from dtn_ray.cluster import Finished, connect, report, run_training, use_assigned_cpus
from dtn_ray.config import Pretraining, Run, fingerprint, to_dict
from dtn_ray.data.augment import augment
from dtn_ray.data.labelled import LabelledImages, to_float
from dtn_ray.data.order import batch_indices, step_seed, worker_slice
from dtn_ray.errors import UserError
from dtn_ray.models.digits import DigitF
from dtn_ray.progress import Progress


def pretrain(config: Pretraining, run: Run) -> Finished:
    """Trains a classifier and reports its error on the test split; its checkpoint serves as f or as a judge.

    The same call goes on where an earlier one stopped. Raises UserError for bad settings, files or resources.
    """
    if run.workers < 1 or config.batch_size < 1:
        raise UserError("--workers and --batch-size must be at least 1")
    if config.batch_size % run.workers:
        raise UserError(f"--batch-size {config.batch_size} does not divide among --workers {run.workers}")
    train = data.load(config.dataset, config.split, config.data_dir, download=config.download).without(config.without)
    test_split = config.test_split
    test = data.load(config.dataset, test_split, config.data_dir, download=config.download)
    connect()
    # In the object store once per node: its workers share the arrays without copies.
    sets = {"train": ray.put(train), "test": ray.put(test)}
    loop_config = {"config": config, "run": run, **sets}
    name = run.name or f"classifier-{config.dataset}-{fingerprint(config)}"
    return run_training(_loop, loop_config, run, name, {"kind": "classifier", "config": to_dict(config)})


def total_steps(config: Pretraining, images: int) -> int:
    """Steps of a pretraining over so many images; at least 1."""
    return max(1, round(config.epochs * images / config.batch_size))


@torch.no_grad()
def accuracy(network: DigitF, images: np.ndarray, labels: np.ndarray, batch_size: int = 500) -> float:
    """Share of uint8 images that a classifier in eval mode labels right."""
    network.eval()
    device = next(network.parameters()).device
    predicted = [
        network(to_float(images[i : i + batch_size]).to(device)).argmax(1).cpu()
        for i in range(0, len(images), batch_size)
    ]
    return float((torch.cat(predicted).numpy() == labels).mean())


def _loop(settings: dict[str, Any]) -> None:
    config: Pretraining = settings["config"]
    run: Run = settings["run"]
    train: LabelledImages = ray.get(settings["train"])
    test: LabelledImages = ray.get(settings["test"])
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    steps = total_steps(config, len(train))

    # Networks and optimiser.
    use_assigned_cpus()
    torch.manual_seed(config.seed)
    network = checkpoint.build_classifier(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parallel: nn.Module = ray.train.torch.prepare_model(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps)

    # Resume.
    start = 0
    if (last := ray.train.get_checkpoint()) is not None:
        with last.as_directory() as path:
            folder = Path(path)
            start = checkpoint.read_manifest(folder, "classifier")["step"]
            checkpoint.load_weights(network, folder, "classifier")
            checkpoint.load_optimizers(folder, {"classifier": optimizer})
        schedule.last_epoch = start
    progress = Progress(f"{config.dataset} classifier", start, steps, config.batch_size, quiet=rank > 0)

    for step in range(start, steps):
        torch.manual_seed(step_seed(config.seed, step, rank))
        indices = worker_slice(batch_indices(len(train), config.batch_size, step, config.seed), rank, workers)
        images = augment(to_float(train.images[indices]), config.augment).to(device)
        labels = torch.from_numpy(train.labels[indices]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            logits = parallel(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step + 1 < steps:
            schedule.step()
        if (step + 1) % run.log_every == 0:
            progress.update(step + 1, {"loss": loss.item()})

        if (step + 1) % run.checkpoint_every == 0 or step + 1 == steps:
            metrics: dict[str, Any] = {"step": step + 1, "resumed_at": start, "loss": loss.item()}
            if rank:
                report(metrics)
                continue
            metrics |= {
                "test_error": 1 - accuracy(network, test.images, test.labels),
                "test_images": len(test),
                "train_images": len(train),
            }
            network.train()
            progress.update(step + 1, {"test error": metrics["test_error"]})
            report(metrics, partial(_save, config, network, optimizer, metrics))


def _save(
    config: Pretraining, network: DigitF, optimizer: torch.optim.Optimizer, metrics: dict[str, Any], folder: Path
) -> None:
    checkpoint.save_optimizers(folder, {"classifier": optimizer})
    checkpoint.save(folder, "classifier", config, {"classifier": network}, step=metrics["step"], metrics=metrics)
