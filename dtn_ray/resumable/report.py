"""Reports from the workers of a training to Ray Train."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import (
    Checkpoint,
    CheckpointUploadMode,
)

from dtn_ray.ray_cluster import ray_train_console


def use_assigned_cpus() -> None:
    """Sets torch's number of threads to the number of CPUs that Ray assigned to this worker."""
    torch.set_num_threads(math.ceil(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def report(metrics: dict[str, Any], write: Callable[[Path], None] | None = None) -> None:
    """Reports to Ray Train; every worker must call it at the same steps. One passes `write`, which writes a checkpoint.

    The checkpoint is uploaded while the training continues.
    """
    ray_train_console.quiet_reports()
    if write is None:
        ray.train.report(metrics)
        return
    folder = tempfile.mkdtemp(prefix="dtn-checkpoint-")
    write(Path(folder))
    ray.train.report(
        metrics,
        checkpoint=Checkpoint.from_directory(folder),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


def of_all_workers(names: set[str]) -> set[str]:
    """The union of all workers' names; every worker must call this at the same steps."""
    if ray.train.get_context().get_world_size() == 1:
        return names
    held: list[set[str]] = [set()] * ray.train.get_context().get_world_size()
    torch.distributed.all_gather_object(held, names)
    return set().union(*held)
