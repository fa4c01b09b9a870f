"""A training on Ray Train that the same command resumes, wherever it stopped.

<storage>/<name>/experiment.json   the settings that identify the run; other settings need another name
<storage>/<name>/checkpoint_*/     Ray Train's checkpoints
<storage>/<name>/result.json       the outcome of a finished run
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import (
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchTrainer

from dtn_ray import storage
from dtn_ray.checkpoints import run_result
from dtn_ray.errors import UserError, changes
from dtn_ray.ray_cluster import ray_train_console
from dtn_ray.ray_cluster.connect import GOES_ON, connect, telling_shortages, worker_resources
from dtn_ray.ray_cluster.deaths import death
from dtn_ray.resumable.options import Run
from dtn_ray.settings import from_dict, to_dict
from dtn_ray.storage import json_files
from dtn_ray.storage.local_writes import links_below

RECORD = "experiment.json"
INNER = ("f/", "judge/")  # folders of the trainings of f and the judge inside a DTN's run; they check their own folders
SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of checkpoints
CHECKPOINT = re.compile(r"checkpoint_[\w.:-]+")


class GiveUpOnUserErrors(UserCallback):
    """Ends a run at a worker's UserError, because it would occur again after every restart."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            cause = getattr(error, "_base_exc", error)  # Ray's wrapper around it holds the traceback as text
            if isinstance(cause, UserError):
                raise ControllerError(cause)


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
    spare: float = 0,
    callbacks: Sequence[UserCallback] = (),
) -> Finished:
    """Runs a Ray Train loop under `--storage`/name, or resumes it where it stopped.

    `spare`: CPUs that the workers leave for tasks that they wait for. `callbacks`: of Ray Train, called at each report.

    `identity` holds everything that decides the result, as plain values and dataclasses. A folder of the same name with
    another identity is refused; a setting that did not exist when it was written counts as its default. A finished run
    is not run again.

    Raises UserError if the cluster is too small, or the training fails permanently.
    """
    folder = storage.join(run.storage, name)
    finished = earlier(folder, identity)
    if finished is not None:
        return finished
    connect(trains=True)
    resources = worker_resources(run.workers, run.cpus_per_worker, run.gpu, spare=spare, at_least=run.min_workers)
    filesystem, root = storage.resolve(run.storage)
    claim(folder, identity)
    trainer = TorchTrainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=(run.min_workers, run.workers) if run.min_workers else run.workers,  # type: ignore[arg-type]
            use_gpu=run.gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=root,
            storage_filesystem=filesystem,
            callbacks=[*callbacks, GiveUpOnUserErrors()],  # type: ignore[list-item]
            failure_config=FailureConfig(max_failures=run.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            # The progress line shows everything else.
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
        ),
    )
    ray_train_console.prepare()
    try:
        with telling_shortages(resources, run.min_workers or run.workers):
            result = trainer.fit()
    except TrainingFailedError as error:
        if isinstance(error, ControllerError) and isinstance(error.controller_failure, UserError):
            raise UserError(str(error.controller_failure)) from error
        # Ray's message holds a traceback for each worker; its last line is the reason.
        reason = death(error) or str(error).strip().splitlines()[-1]
        raise UserError(
            f"{folder}: stopped after --max-failures {run.max_failures} restarts: {reason} (the log above has the "
            "full error). Once that is fixed, the same command continues from the last checkpoint."
        ) from error
    except RayError as error:  # from the process of Ray Train's controller
        if (cause := death(error)) is not None:
            raise UserError(f"{folder}: {cause}. {GOES_ON}") from error
        raise
    if result.checkpoint is None:
        raise UserError(f"{folder}: the training ended without a checkpoint; --steps must be at least 1")
    checkpoint = os.path.basename(result.checkpoint.path)
    metrics = dict(result.metrics or {})
    return finish(folder, checkpoint, metrics)


def claim(folder: str, identity: dict[str, Any]) -> None:
    """Records in a folder which run it belongs to. Raises UserError as `check_folder` does."""
    check_folder(folder)
    storage.write_bytes(storage.join(folder, RECORD), json.dumps(_plain(identity), indent=2).encode())


def check_folder(folder: str) -> None:
    """Raises UserError if a run could overwrite or delete files that no run wrote.

    These cases are: a folder that has files but no experiment.json; links, through which Ray Train would write; and a
    list of checkpoints that names folders elsewhere, because Ray Train deletes old checkpoints in its list.
    """
    if not storage.is_s3(folder) and (link := next(links_below(storage.local_path(folder)), None)):
        raise UserError(f"{link}: a link, which the folder of a run must not hold: remove it, or choose another --name")
    if not storage.exists(storage.join(folder, RECORD)):
        for page in storage.list_pages(folder):
            if others := [key for key in page["key"].to_pylist() if not key.startswith(INNER)]:
                raise UserError(
                    f"{folder}: holds files, such as {others[0]}, but not those of a run (no {RECORD}): choose another "
                    "--name, or move the files elsewhere"
                )
    snapshot = storage.join(folder, SNAPSHOT)
    names = list(_checkpoints(json_files.read(snapshot))) if storage.exists(snapshot) else []
    if odd := [name for name in names if not (isinstance(name, str) and CHECKPOINT.fullmatch(name))]:
        raise UserError(f"{snapshot}: names {odd[0]!r}, which is not a checkpoint of this run: choose another --name")


def _checkpoints(state: Any) -> Iterator[Any]:
    """The names of all checkpoints in Ray Train's list."""
    if isinstance(state, dict):
        yield from ([state["checkpoint_dir_name"]] if "checkpoint_dir_name" in state else [])
        state = list(state.values())
    for each in state if isinstance(state, list) else []:
        yield from _checkpoints(each)


def finish(folder: str, checkpoint: str, metrics: dict[str, Any]) -> Finished:
    """Records the outcome of a run; `checkpoint`: the path below `folder` of the checkpoint that represents the run."""
    outcome = {"checkpoint": checkpoint, "metrics": metrics}
    storage.write_bytes(storage.join(folder, run_result.NAME), json.dumps(outcome, indent=2).encode())
    return Finished(folder, storage.join(folder, checkpoint), metrics)


def earlier(folder: str, identity: dict[str, Any]) -> Finished | None:
    """The outcome of a run that has finished already, or None. Raises UserError if the folder is another run's."""
    record = storage.join(folder, RECORD)
    if not storage.exists(record):
        return None
    try:
        before, now = json_files.read_object(record), _plain(identity)
    except UserError as error:
        raise UserError(
            f"{error}; the settings of this run are unknown: choose another --name, or delete it"
        ) from error
    for name, value in identity.items():
        if is_dataclass(value) and name in before:
            with suppress(UserError):  # unreadable settings count as different
                before[name] = to_dict(from_dict(type(value), before[name]))
    if before != now:
        raise UserError(
            f"{folder} holds a run with other settings ({', '.join(changes(before, now))}): choose another --name, or "
            "delete it"
        )
    if not storage.exists(storage.join(folder, run_result.NAME)):
        return None
    try:
        checkpoint, metrics = run_result.read(folder)
    except UserError as error:
        raise UserError(f"{error}; delete it, and the same command continues from the last checkpoint") from error
    return Finished(folder, checkpoint, metrics, resumed=True)


def _plain(identity: dict[str, Any]) -> dict[str, Any]:
    return {name: to_dict(value) if is_dataclass(value) else value for name, value in identity.items()}
