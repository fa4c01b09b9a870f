"""What each worker of an SRCNN's training does."""

import math
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

from dtn_ray.checkpoints import checkpoint
from dtn_ray.data.order import step_seed, worker_slice
from dtn_ray.metrics import TrainingMetrics
from dtn_ray.models.srcnn import SRCNN
from dtn_ray.progress import Progress
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.report import report, use_assigned_cpus
from dtn_ray.super_resolution.measure import measure_all
from dtn_ray.super_resolution.options import SuperResolution
from dtn_ray.super_resolution.patches import Luminances, Pair, cut, draw_patches

WARM_UP = 100  # steps


def rate(config: SuperResolution, step: int) -> float:
    """The learning rate of a step: a linear warm-up, then a cosine to 0."""
    return config.lr * min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / config.steps)) / 2


def coarse(config: SuperResolution, step: int) -> bool:
    """Whether a step computes in bfloat16: not the last tenth.

    The weights learn to make good for the rounding, and in float32 the image would be 0.8 grey levels too bright.
    """
    return config.bf16 and step < 0.9 * config.steps


def loop(settings: dict[str, Any]) -> None:
    config: SuperResolution = settings["config"]
    run: Run = settings["run"]
    pairs: list[Pair] = ray.get(settings["pairs"])
    tests: Luminances = ray.get(settings["tests"])
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()

    # Network and optimiser.
    use_assigned_cpus()
    torch.manual_seed(config.seed)
    network = SRCNN(config.middle).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parallel: nn.Module = ray.train.torch.prepare_model(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    shapes = np.array([pair.sharp.shape for pair in pairs])
    side = config.patch + 2 * network.margin

    # Resume.
    start = 0
    if (last := ray.train.get_checkpoint()) is not None:
        with last.as_directory() as path:
            folder = Path(path)
            start = checkpoint.read_manifest(folder, "super_resolution", ("step",))["step"]
            checkpoint.load_weights(network, folder, "srcnn")
            checkpoint.load_optimizers(folder, {"srcnn": optimizer})
    progress = Progress("srcnn", start, config.steps, config.batch_size, quiet=rank > 0)
    exported = TrainingMetrics(context.get_experiment_name())

    for step in range(start, config.steps):
        # This worker's share of a batch that all draw alike.
        patches = draw_patches(shapes, side, config.batch_size, step_seed(config.seed, step, 0))
        blurred, sharp = cut(pairs, worker_slice(patches, rank, workers), side, network.margin)
        with torch.autocast(device.type, torch.bfloat16, enabled=coarse(config, step)):
            y = parallel(blurred.to(device, memory_format=torch.channels_last), pad=False)
        loss = F.mse_loss(y.float(), sharp.to(device))
        for group in optimizer.param_groups:
            group["lr"] = rate(config, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        done = step + 1
        if rank == 0 and done % run.log_every == 0:
            images_per_second = progress.update(done, {"training PSNR": -10 * math.log10(loss.item())})
            exported.log(done, images_per_second, {"loss": loss.item()})

        if done % run.checkpoint_every == 0 or done == config.steps:
            metrics: dict[str, Any] = {"step": done, "resumed_at": start, "loss": loss.item()}
            if rank:
                report(metrics)
                continue
            metrics["images"] = settings["images"]
            if tests:
                metrics |= measure_all(network, tests, config.factors)
                found = {name: value for name, value in metrics.items() if name.startswith("psnr")}
                progress.update(done, found)
                exported.validated(found)
            report(metrics, partial(_save, config, network, optimizer, metrics))


def _save(
    config: SuperResolution, network: SRCNN, optimizer: torch.optim.Optimizer, metrics: dict[str, Any], folder: Path
) -> None:
    checkpoint.save_optimizers(folder, {"srcnn": optimizer})
    checkpoint.save(folder, "super_resolution", config, {"srcnn": network}, step=metrics["step"], metrics=metrics)
