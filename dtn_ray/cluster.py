"""What the Ray jobs share: connecting, checking that the cluster is large enough, and running a resumable training."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

# A report is a barrier that waits for the controller's next poll, 2 s apart by default.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# Workers' prints reach the driver once already; the patch would print them a second time.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")

import ray
import ray.data
import ray.train
import torch
from ray.exceptions import RayTaskError
from ray.train import (
    Checkpoint,
    CheckpointUploadMode,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchTrainer

from dtn_ray import storage
from dtn_ray.config import Run, from_dict, to_dict
from dtn_ray.errors import UserError


def connect() -> None:
    """Joins the cluster that runs this job (or RAY_ADDRESS names); elsewhere starts an embedded Ray."""
    if not ray.is_initialized():
        ray.init(log_to_driver=True, logging_level=logging.WARNING)


@contextmanager
def causes() -> Iterator[None]:
    """A UserError of a task is raised here as it was there."""
    try:
        yield
    except RayTaskError as error:
        cause: BaseException | None = error.cause
        while cause and not isinstance(cause, UserError):
            cause = cause.__cause__
        # Ray Data adds lines of advice of its own.
        raise UserError(str(cause).splitlines()[0]) if cause else error from None


def quiet_ray_data() -> None:
    """Leaves the console to our progress lines: Ray Data's bars and plans go to its log file, warnings to both."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that they are off
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)


def worker_resources(
    workers: int, cpus: float | None, gpus: float, kind: str = "workers", spare: int = 0
) -> dict[str, float]:
    """What each of `workers` workers takes, which the command line counts as --`kind`.

    `cpus` None: an even share of the nodes, or one CPU beside a GPU. `spare`: CPUs to leave to tasks that the workers
    wait for.

    Fails at once where the cluster cannot hold them, instead of waiting for nodes that never come: raises UserError
    with both numbers. A worker never spans nodes.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    each = {"CPU": cpus or 1.0} | ({"GPU": float(gpus)} if gpus else {})
    room = sum(int(min(node.get(name, 0) // amount for name, amount in each.items())) for node in nodes)
    if room < workers:
        total = {name: sum(node.get(name, 0) for node in nodes) for name in each}
        raise UserError(
            f"{workers} {kind}, each with {_amounts(each)}, do not fit: the cluster has {_amounts(total)} "
            f"on {len(nodes)} node{'s' * (len(nodes) != 1)}, room for {room}. Lower --{kind} or add nodes."
        )
    if cpus is None and not gpus:
        # The most that lets all workers fit, if the nodes are alike.
        on_a_node = -(-workers // len(nodes))
        each["CPU"] = max(1.0, (min(node.get("CPU", 0) for node in nodes) - spare) // on_a_node)
    total = sum(node.get("CPU", 0) for node in nodes)
    if total < workers * each["CPU"] + spare:
        raise UserError(
            f"{workers} {kind}, each with {_amounts({'CPU': each['CPU']})}, leave no CPU to read the data with: the "
            f"cluster has {total:g}. Lower --cpus-per-worker or --{kind}, or add nodes."
        )
    return each


def _amounts(resources: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {kind}{'s' * (amount != 1)}" for kind, amount in resources.items())


def use_assigned_cpus() -> None:
    """Lets torch compute on as many threads as Ray gave this worker CPUs."""
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))


def report(metrics: dict[str, Any], write: Callable[[Path], None] | None = None) -> None:
    """Reports to Ray Train, on every worker at the same steps; `write` fills a folder with the checkpoint, on one.

    The checkpoint is uploaded while training goes on.
    """
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


@dataclass(frozen=True)
class Finished:
    """Outcome of a training: its folder, its last checkpoint (both URIs) and the last metrics."""

    folder: str
    checkpoint: str
    metrics: dict[str, Any]
    resumed: bool = False


def run_training(
    loop: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    run: Run,
    name: str,
    identity: dict[str, Any],
    spare: int = 0,
) -> Finished:
    """Runs a Ray Train loop under `--storage`/name, or goes on with it where it stopped.

    `spare`: CPUs that its workers leave to tasks that they wait for.

    `identity` is what decides the result, plain values and dataclasses: a folder of the same name with another identity
    is refused; a setting that did not exist then counts as its default. A finished run is not run again.

    Raises UserError where the cluster is too small or the training fails for good.
    """
    folder = storage.join(run.storage, name)
    finished = _compare(folder, identity)
    if finished is not None:
        return finished
    connect()
    resources = worker_resources(run.workers, run.cpus_per_worker, run.gpu, spare=spare)
    filesystem, root = storage.resolve(run.storage)
    record = json.dumps(_plain(identity), indent=2)
    storage.write_bytes(storage.join(folder, "experiment.json"), record.encode())
    trainer = TorchTrainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=run.workers,
            use_gpu=run.gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=root,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=run.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            # The progress line says the rest.
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        # Ray's text holds a traceback for each worker; its last line is the reason.
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"{folder}: given up after --max-failures {run.max_failures} restarts: {reason} (the log above has it "
            "whole). Once that is mended, the same command goes on from the last checkpoint."
        ) from error
    if result.checkpoint is None:
        raise UserError(f"{folder}: the training ended without a checkpoint; --steps must be at least 1")
    checkpoint = os.path.basename(result.checkpoint.path)
    metrics = dict(result.metrics or {})
    outcome = {"checkpoint": checkpoint, "metrics": metrics}
    storage.write_bytes(storage.join(folder, "result.json"), json.dumps(outcome, indent=2).encode())
    return Finished(folder, storage.join(folder, checkpoint), metrics)


def _compare(folder: str, identity: dict[str, Any]) -> Finished | None:
    """The outcome of a run that is finished already, or None. Raises UserError where the folder is another run's."""
    record = storage.join(folder, "experiment.json")
    if not storage.exists(record):
        return None
    before, now = json.loads(storage.read_bytes(record)), _plain(identity)
    for name, value in identity.items():
        if is_dataclass(value) and name in before:
            with suppress(UserError):  # what cannot be read is another one
                before[name] = to_dict(from_dict(type(value), before[name]))
    if before != now:
        changed = sorted(_changes(before, now))
        raise UserError(
            f"{folder} holds a run with other settings ({', '.join(changed)}): choose another --name, or delete it"
        )
    result = storage.join(folder, "result.json")
    if not storage.exists(result):
        return None
    outcome = json.loads(storage.read_bytes(result))
    return Finished(folder, storage.join(folder, outcome["checkpoint"]), outcome["metrics"], resumed=True)


def _plain(identity: dict[str, Any]) -> dict[str, Any]:
    return {name: to_dict(value) if is_dataclass(value) else value for name, value in identity.items()}


def _changes(before: Any, after: Any, prefix: str = "") -> list[str]:
    """Names of the settings in which two configurations differ."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [f"{prefix.rstrip('.')}: {before} → {after}"]
    keys = before.keys() | after.keys()
    return [change for key in keys for change in _changes(before.get(key), after.get(key), f"{prefix}{key}.")]
