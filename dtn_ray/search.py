"""Ray Tune: searches the weights of L_G, α, β and γ, by L_CONST on images that training does not see (Sec. 5.1).

Each trial is a data-parallel training of its own, on the same data and the same f. What a trial is worth:

    L_CONST · max(1, d / limit),  d = KID(G(s), t) / KID(s, t)

The paper's signal is L_CONST alone. A G that ignores t wins by it, so the distance from t in which such a G ends makes
it worse. Half of the images that are held out choose; the other half tell what the chosen weights are worth.
"""

import copy
import csv
import io
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

# Tune's newer console prints tables at any verbosity; ours are the lines.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import numpy as np
import optuna
import ray
import torch
from ray import tune
from ray.tune import Callback, Result
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.integration.ray_train import CHECKPOINT_PATH_KEY, TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from tqdm import tqdm

from dtn_ray import storage
from dtn_ray.checkpoint import load_trained
from dtn_ray.cluster import causes, worker_resources
from dtn_ray.config import Experiment, Run, Search, Space, fingerprint, to_dict
from dtn_ray.data.pixels import to_uint8
from dtn_ray.errors import UserError
from dtn_ray.evaluate.figures import samples_figure, search_figure
from dtn_ray.evaluate.trials import Found, front, worth
from dtn_ray.redact import SECRETS
from dtn_ray.resumable import Finished, claim, earlier, finish
from dtn_ray.train import Inputs, Ready, fit, measure, prepare

OBJECTIVE = "objective"
PAPER_GAMMA = 0.05  # of Sec. 5.2
RUNGS = (0.25, 0.75)  # parts of a training after which ASHA keeps the best third
KID_NOISE = 0.01  # s that is as t itself has a KID of about 0, or below, by which nothing can be divided
SHOWN = 6  # trials whose samples stand side by side
DRIVER = {"memory": 2.0**28}  # bytes; a trial's CPUs and GPUs are its workers'


def search(search: Search, experiment: Experiment, run: Run, concurrent: int | None = None) -> Finished:
    """Searches, and leaves the best weights as best.json, which jobs/train.py takes; its folder serves as a checkpoint.

    `concurrent`: trials at once; by default as many as the cluster has room for. The same call goes on where an earlier
    one stopped. Raises UserError for bad settings, files or resources, and where no trial could be trained.
    """
    run = replace(run, cpus_per_worker=run.cpus_per_worker or 1.0)
    space, experiment = _space(search.space, experiment)
    _check(search, experiment, run, concurrent)
    name = run.name or f"search-{experiment.model.kind}-{fingerprint(search)}-{fingerprint(experiment)}"
    folder = storage.join(run.storage, name)
    identity = {"kind": "search", "config": experiment, "search": search}
    if (finished := earlier(folder, identity)) is not None:
        return finished

    # What all trials share; the images held out are twice as many, half of them for the end.
    twice = replace(experiment.data, validation=2 * experiment.data.validation)
    ready = prepare(replace(experiment, data=twice), replace(run, name=name, checkpoint_every=Run.checkpoint_every))
    claim(folder, identity)
    choosing, judging = (_half(ready, part) for part in (0, 1))
    KID_of_s = max(ready.facts["KID_of_s"], KID_NOISE)
    limit = search.domain_limit * KID_of_s
    at_once = _at_once(run, ready, concurrent)

    own = {parameter: _value(experiment, parameter) for parameter in space}
    trial = tune.with_parameters(
        _trial,
        experiment=experiment,
        run=replace(run, storage=storage.absolute(storage.join(folder, "trials"))),  # Tune runs each elsewhere
        ready=choosing,
        limit=limit,
    )
    results = _tune(search, experiment, folder, run, tune.with_resources(trial, DRIVER), space, own, at_once)
    trials = [_found(result, experiment, KID_of_s) for result in results]
    if not any(each.state == "complete" for each in trials):
        reasons = {str(result.error).strip().splitlines()[-1] for result in results if result.error}
        raise UserError(
            f"{folder}: no trial was trained to its end without collapse: {'; '.join(reasons) or 'see above'}"
        )
    return _report(folder, experiment, trials, own, judging, limit, KID_of_s, run)


def _space(space: Space, experiment: Experiment) -> tuple[dict[str, Any], Experiment]:
    """What is sampled, by parameter, and the experiment with what is fixed. Raises UserError for no proper range."""
    sampled: dict[str, Any] = {}
    for name in (field.name for field in fields(Space)):
        chosen, option = getattr(space, name), f"--space.{name.replace('_', '-')}"
        if name in ("D_every", "tv_reduction"):
            if len(set(chosen)) > 1:
                sampled[name] = tune.choice(sorted(set(chosen)))
            elif chosen:
                experiment = changed(experiment, {name: chosen[0]})
            continue
        if chosen is None and name in ("alpha", "beta", "gamma"):
            middle = _value(experiment, name) or (PAPER_GAMMA if name == "gamma" else 0.0)
            if not middle:
                raise UserError(f"--{name} 0 has no range around it: give {option} LOW HIGH")
            chosen = (middle / 10, middle * 10)
        if chosen is None:
            continue
        low, high = chosen
        if not 0 < low <= high < math.inf:
            raise UserError(f"{option} {low:g} {high:g}: LOW must be above 0, and HIGH not below it")
        if low == high:
            experiment = changed(experiment, {name: low})
        else:
            sampled[name] = tune.loguniform(low, high)
    if not sampled:
        raise UserError("nothing to search: all of --space is fixed")
    return sampled, experiment


def _value(experiment: Experiment, parameter: str) -> Any:
    part = experiment.loss if hasattr(experiment.loss, parameter) else experiment.optim
    return getattr(part, parameter)


def changed(experiment: Experiment, weights: dict[str, Any]) -> Experiment:
    """The experiment with other values of what a search tries."""
    loss = {name: value for name, value in weights.items() if hasattr(experiment.loss, name)}
    optim = {name: value for name, value in weights.items() if name not in loss}
    return replace(experiment, loss=replace(experiment.loss, **loss), optim=replace(experiment.optim, **optim))


def _check(search: Search, experiment: Experiment, run: Run, concurrent: int | None) -> None:
    for option, value in (("--trials", search.trials), ("--concurrent", concurrent)):
        if value is not None and value < 1:
            raise UserError(f"{option} {value} must be at least 1")
    if search.domain_limit <= 0:
        raise UserError(f"--domain-limit {search.domain_limit} must be more than 0")
    if min(search.space.D_every, default=1) < 1:
        raise UserError(f"--space.D-every {min(search.space.D_every)} must be at least 1")
    at_most = int(experiment.optim.steps * RUNGS[0])
    if search.scheduler == "asha" and run.checkpoint_every > at_most:
        raise UserError(
            f"--checkpoint-every {run.checkpoint_every}: trials of {experiment.optim.steps} steps would not be looked "
            f"at in time to stop them: at most {at_most}, or --scheduler none"
        )


def _half(ready: Ready, part: int) -> Ready:
    """The same with one half of the images held out."""
    validation, labels = (ray.get(ref) for ref in (ready.inputs.validation, ready.inputs.labels))
    half = ray.put(validation[part::2]), ray.put(None if labels is None else labels[part::2])
    return replace(ready, inputs=replace(ready.inputs, validation=half[0], labels=half[1]))


def _at_once(run: Run, ready: Ready, concurrent: int | None) -> int:
    """Trials that the cluster has room for. Raises UserError where it has none for one, or not for `concurrent`."""
    each = worker_resources(run.workers, run.cpus_per_worker, run.gpu, spare=ready.spare)
    if concurrent is not None:
        together = concurrent * run.workers, concurrent * ready.spare
        worker_resources(together[0], run.cpus_per_worker, run.gpu, "concurrent", spare=together[1])
        return concurrent
    total = ray.cluster_resources()
    needed = {name: run.workers * amount for name, amount in each.items()}
    needed["CPU"] += ready.spare
    return max(1, int(min(total.get(name, 0) // amount for name, amount in needed.items() if amount)))


# ── Tune ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class OwnFirst(OptunaSearch):
    """Suggests the experiment's own weights first, which may lie outside of the ranges, and leaves others to Optuna."""

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
    """ASHA that trains the experiment's own weights to the end, so that there is something to beat."""

    def __init__(self, own: dict[str, Any], steps: int) -> None:
        # A trial ends by itself, with its result written: Tune need not stop it at its last step.
        super().__init__("step", max_t=steps + 1, grace_period=max(1, int(RUNGS[0] * steps)), reduction_factor=3)
        self.own = own

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config == self.own else decision


class Report(TuneReportCallback):
    """Passes a training's reports on to Tune, with what they are worth."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        first = metrics[0] | {OBJECTIVE: worth(metrics[0], self.limit)}
        super().after_report(run_context, [first, *metrics[1:]], checkpoint)


def _trial(weights: dict[str, Any], experiment: Experiment, run: Run, ready: Ready, limit: float) -> None:
    name = tune.get_context().get_trial_id()
    finished = fit(changed(experiment, weights), replace(run, name=name), ready, [Report(limit)])
    if finished.resumed:  # before Tune knew of it: nothing was reported now
        found = {OBJECTIVE: worth(finished.metrics, limit), CHECKPOINT_PATH_KEY: finished.checkpoint}
        tune.report(finished.metrics | found)


class Lines(Callback):
    """One line for each trial that ends, with the time left."""

    def __init__(self, trials: int) -> None:
        self.trials, self.ended, self.best = trials, 0, math.inf

    def setup(self, *_: Any, **__: Any) -> None:
        self.began, self.before = time.monotonic(), self.ended  # of this call: Tune keeps the object for a later one

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
        weights = "  ".join(f"{name} {_short(value)}" for name, value in trial.config.items())
        print(
            f"search {self.ended}/{self.trials} · {left} left · best {self.best:.3f} · "
            f"{trial.trial_id}: {weights} · {outcome}",
            flush=True,
        )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _tune(
    search: Search,
    experiment: Experiment,
    folder: str,
    run: Run,
    trial: Any,
    space: dict[str, Any],
    own: dict[str, Any],
    at_once: int,
) -> list[Result]:
    """Runs the trials, or goes on with those that an earlier call left."""
    filesystem, root = storage.resolve(folder)
    path = f"{root}/tune"
    if tune.Tuner.can_restore(path, storage_filesystem=filesystem):
        print(f"{folder}: going on with its trials", flush=True)
        tuner = tune.Tuner.restore(path, trial, resume_errored=True, storage_filesystem=filesystem)
        return _results(tuner)
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
    return _results(tuner)


def _results(tuner: tune.Tuner) -> list[Result]:
    with _known_to_trials(ray.get_runtime_context().gcs_address):
        results = tuner.fit()
    return [results[i] for i in range(len(results))]


@contextmanager
def _known_to_trials(address: str) -> Iterator[None]:
    """Tells all that Ray Train starts for a trial which Ray it belongs to.

    Where two run on a machine and neither was started by `ray start`, Ray Train's cleaner of stopped trials asks for
    the other's address too and dies of it: their CPUs would be lost, and the search would wait for them for good.

    Ray Tune would tell them the driver's keys for S3 too, where the dashboard and `ray list actors` show them; each
    node has its own way to S3.
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


# ── Outcome ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _found(result: Result, experiment: Experiment, KID_of_s: float) -> Found:
    metrics = result.metrics or {}
    step = metrics.get("step", 0)
    objective = metrics.get(OBJECTIVE, math.inf)
    complete = step >= experiment.optim.steps
    name = metrics.get("trial_id", "?")
    checkpoint = metrics.get(CHECKPOINT_PATH_KEY)
    return Found(
        name,
        dict(result.config or {}),
        step,
        objective,
        metrics.get("validation_L_const", math.nan),
        metrics.get("validation_KID", math.nan) / KID_of_s,
        metrics.get("validation_accuracy"),
        "failed"
        if result.error
        else "stopped"
        if not complete
        else "complete"
        if math.isfinite(objective)
        else "collapsed",
        checkpoint and f"trials/{name}/{checkpoint.rstrip('/').rpartition('/')[2]}",
    )


def _report(
    folder: str,
    experiment: Experiment,
    trials: list[Found],
    own: dict[str, Any],
    judging: Ready,
    limit: float,
    KID_of_s: float,
    run: Run,
) -> Finished:
    """Scores the best trial and the experiment's own weights on images that chose none, and writes what to look at."""
    complete = [each for each in trials if each.state == "complete"]
    best = min(complete, key=lambda each: each.objective)
    unbeaten = front(complete)
    # Weights that are not finite load no more.
    of_own = [each for each in trials if each.weights == own and each.checkpoint and math.isfinite(each.L_const)]
    shown = {each.name: each for each in [*of_own, best, *unbeaten]}
    shown = dict(list(shown.items())[:SHOWN])
    judge = ray.remote(_judge).options(num_cpus=1, num_gpus=int(run.gpu))
    scored = {
        name: judge.remote(storage.absolute(storage.join(folder, each.checkpoint)), judging.inputs, limit, KID_of_s)
        for name, each in shown.items()
        if each.checkpoint
    }
    with causes():
        held_out = dict(zip(scored, ray.get(list(scored.values())), strict=True))

    chosen = changed(experiment, best.weights)
    storage.write_bytes(storage.join(folder, "best.json"), json.dumps(to_dict(chosen), indent=2).encode())
    table = sorted(trials, key=lambda each: (each.state != "complete", each.objective))
    _write_table(folder, table, [each.name for each in unbeaten])
    titles = {
        name: "own weights" if each in of_own else "best" if each == best else "front" for name, each in shown.items()
    }
    pictures = {
        "search.png": search_figure(trials, unbeaten, best, of_own),
        "samples.png": samples_figure({f"{titles[name]}\n{name}": pairs for name, (_, pairs) in held_out.items()}),
    }
    for name, figure in pictures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=100, bbox_inches="tight")
        storage.write_bytes(storage.join(folder, name), content.getvalue(), "image/png")
    metrics = {
        "trials": len(trials),
        **{state: n for state in ("stopped", "collapsed", "failed") if (n := sum(e.state == state for e in trials))},
        "best": {"trial": best.name, **best.weights, "held_out": held_out[best.name][0]},
        "own": {**own, "held_out": held_out[of_own[0].name][0] if of_own else None},
        "front": [each.name for each in unbeaten],
        "files": [storage.join(folder, name) for name in ("best.json", "trials.csv", *pictures)],
    }
    assert best.checkpoint is not None
    return finish(folder, best.checkpoint, metrics)


def _judge(uri: str, inputs: Inputs, limit: float, KID_of_s: float) -> tuple[dict[str, float | None], np.ndarray]:
    """What images that no trial was chosen by tell of a checkpoint, and some of them, N×2×3×H×W uint8."""
    dtn = load_trained(uri).dtn.to("cuda" if torch.cuda.is_available() else "cpu")
    judge, s, labels, of_t = (ray.get(ref) for ref in (inputs.judge, inputs.validation, inputs.labels, inputs.of_t))
    judge = judge and copy.deepcopy(judge).to(next(dtn.g.parameters()).device)
    found, pairs = measure(dtn, dtn.g, judge, s, labels, of_t)
    values = {
        "L_const": found["validation_L_const"],
        "domain": found["validation_KID"] / KID_of_s,
        "objective": worth(found, limit),
        "accuracy": found.get("validation_accuracy"),
    }
    return values, to_uint8(pairs.flatten(0, 1)).unflatten(0, (-1, 2)).numpy()


def _write_table(folder: str, trials: list[Found], unbeaten: list[str]) -> None:
    text = io.StringIO()
    parameters = list(trials[0].weights)
    table: list[list[Any]] = [
        ["trial", *parameters, "objective", "L_const", "domain", "accuracy", "step", "state", "front"]
    ]
    for each in trials:
        values = (
            each.objective,
            each.L_const,
            each.domain,
            each.accuracy,
            each.step,
            each.state,
            each.name in unbeaten,
        )
        table.append([each.name, *(each.weights[name] for name in parameters), *values])
    csv.writer(text).writerows(table)
    storage.write_bytes(storage.join(folder, "trials.csv"), text.getvalue().encode())
    shown = [[_short(value) for value in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
