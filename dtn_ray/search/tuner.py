"""The trials of a search on Ray Tune."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune import Callback, Result
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.integration.ray_train import CHECKPOINT_PATH_KEY, TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from tqdm import tqdm

from dtn_ray import storage
from dtn_ray.resumable.options import Run
from dtn_ray.search.options import Search
from dtn_ray.search.worth import worth
from dtn_ray.text.redact import SECRETS
from dtn_ray.train.job import fit
from dtn_ray.train.options import Experiment
from dtn_ray.train.prepare import Ready

OBJECTIVE = "objective"
RUNGS = (0.25, 0.75)  # parts of a training after which ASHA keeps the best third
DRIVER = {"memory": 2.0**28}  # bytes; a trial's CPUs and GPUs are its workers'


# ── Tune ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class OwnFirst(OptunaSearch):
    """Suggests the experiment's own weights first, which may lie outside of the ranges; then Optuna suggests."""

    def __init__(self, own: dict[str, Any], space: dict[str, Any], sampler: str, seed: int) -> None:
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(
            self.convert_search_space(space), metric=OBJECTIVE, mode="min", sampler=samplers[sampler](seed=seed)
        )
        self.own, self.first = own, ""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        self.first = self.first or trial_id
        return self.own if trial_id == self.first else super().suggest(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id != self.first:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id != self.first:
            super().on_trial_complete(trial_id, result, error)


class SpareOwn(ASHAScheduler):
    """ASHA that never stops the trial with the experiment's own weights, so that there is a baseline."""

    def __init__(self, own: dict[str, Any], steps: int) -> None:
        # A trial ends by itself and writes its result, so Tune must not stop it at its last step.
        super().__init__("step", max_t=steps + 1, grace_period=max(1, int(RUNGS[0] * steps)), reduction_factor=3)
        self.own = own

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config == self.own else decision


class Report(TuneReportCallback):
    """Passes a training's reports on to Tune, with the objective."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        first = metrics[0] | {OBJECTIVE: worth(metrics[0], self.limit)}
        super().after_report(run_context, [first, *metrics[1:]], checkpoint)


def run_trial(weights: dict[str, Any], experiment: Experiment, run: Run, ready: Ready, limit: float) -> None:
    name = tune.get_context().get_trial_id()
    finished = fit(experiment.changed(**weights), replace(run, name=name), ready, [Report(limit)])
    if finished.resumed:  # before Tune knew of it: nothing was reported now
        found = {OBJECTIVE: worth(finished.metrics, limit), CHECKPOINT_PATH_KEY: finished.checkpoint}
        tune.report(finished.metrics | found)


# Tune stores the name in a search's files, and resumes only with a function of the same name.
run_trial.__name__ = "_trial"


class Lines(Callback):
    """Prints one line for each trial that ends, with the time left."""

    def __init__(self, trials: int) -> None:
        self.trials, self.ended, self.best = trials, 0, math.inf

    def setup(self, *_: Any, **__: Any) -> None:
        self.began, self.before = time.monotonic(), self.ended  # of this call; Tune pickles the object for later calls

    def get_state(self) -> dict[str, Any]:
        return {"ended": self.ended, "best": self.best}

    def set_state(self, state: dict[str, Any]) -> None:
        self.ended = self.before = state["ended"]
        self.best = state["best"]

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result
        self._line(trial, f"objective {result.get(OBJECTIVE, math.nan):.3f} at step {result.get('step', 0)}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._line(trial, "failed")

    def _line(self, trial: Trial, outcome: str) -> None:
        self.ended += 1
        self.best = min(self.best, trial.last_result.get(OBJECTIVE, math.inf))
        each = (time.monotonic() - self.began) / (self.ended - self.before)
        left = tqdm.format_interval(each * (self.trials - self.ended))
        weights = "  ".join(f"{name} {short(value)}" for name, value in trial.config.items())
        print(
            f"search {self.ended}/{self.trials} · {left} left · best {self.best:.3f} · "
            f"{trial.trial_id}: {weights} · {outcome}",
            flush=True,
        )


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def tune_trials(
    search: Search,
    experiment: Experiment,
    folder: str,
    run: Run,
    trial: Any,
    space: dict[str, Any],
    own: dict[str, Any],
    at_once: int,
) -> list[Result]:
    """Runs the trials, or resumes those of an earlier call."""
    filesystem, root = storage.resolve(folder)
    path = f"{root}/tune"
    if tune.Tuner.can_restore(path, storage_filesystem=filesystem):
        print(f"{folder}: continuing its trials", flush=True)
        tuner = tune.Tuner.restore(path, trial, resume_errored=True, storage_filesystem=filesystem)
        return results_of(tuner)
    steps = experiment.optim.steps
    tuner = tune.Tuner(
        trial,
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE,
            mode="min",
            num_samples=search.trials,
            max_concurrent_trials=at_once,
            search_alg=OwnFirst(own, space, search.sampler, experiment.seed),
            scheduler=SpareOwn(own, steps) if search.scheduler == "asha" else FIFOScheduler(),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=root,
            storage_filesystem=filesystem,
            failure_config=tune.FailureConfig(max_failures=run.max_failures),
            callbacks=[Lines(search.trials)],
            verbose=0,
        ),
    )
    return results_of(tuner)


def results_of(tuner: tune.Tuner) -> list[Result]:
    with known_to_trials(ray.get_runtime_context().gcs_address):
        results = tuner.fit()
    return [results[i] for i in range(len(results))]


@contextmanager
def known_to_trials(address: str) -> Iterator[None]:
    """Passes the address of this Ray to all processes that Ray Train starts for a trial.

    If two Rays run on a machine and neither was started by `ray start`, Ray Train's cleaner of stopped trials finds
    both addresses and dies. The CPUs of stopped trials would then never be released, and the search would wait forever.

    Also keeps Ray Tune from passing on the driver's S3 keys, which the dashboard and `ray list actors` would show. Each
    node has its own credentials for S3.
    """
    class_cache.ENV_VARS_TO_PROPAGATE -= {"AWS_ACCESS_KEY_ID", *SECRETS}
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = address
    class_cache.ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE.discard("RAY_ADDRESS")
        del os.environ["RAY_ADDRESS"]
        if before is not None:
            os.environ["RAY_ADDRESS"] = before
