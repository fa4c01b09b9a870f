"""Ray Tune: searches the weights of L_G, α, β and γ, by L_CONST on held-out images of s (Sec. 5.1).

Each trial is a data-parallel training of its own, on the same data and with the same f. The objective of a trial is

    L_CONST · max(1, d / limit),  d = KID(G(s), t) / KID(s, t)

The paper's signal is L_CONST alone. A G that ignores t minimises it, so a large distance from t increases the
objective. Half of the held-out images select the weights; the other half measure the selected weights.
"""

import copy
import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune import Result
from ray.tune.integration.ray_train import CHECKPOINT_PATH_KEY

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.method.pixels import to_uint8
from dtn_ray.ray_cluster.connect import causes, trainings_at_once
from dtn_ray.ray_cluster.deaths import death
from dtn_ray.resumable.options import Run
from dtn_ray.resumable.run import Finished, claim, earlier, finish
from dtn_ray.search.figures import samples_figure, search_figure
from dtn_ray.search.options import Search
from dtn_ray.search.space import parameter_space, value_of
from dtn_ray.search.tuner import DRIVER, OBJECTIVE, RUNGS, run_trial, short, tune_trials
from dtn_ray.search.worth import Found, front, worth
from dtn_ray.settings import fingerprint, to_dict
from dtn_ray.train.measure import measure
from dtn_ray.train.options import Experiment
from dtn_ray.train.prepare import Inputs, Ready, prepare
from dtn_ray.train.trained import load_trained

KID_NOISE = 0.01  # least divisor: if s resembles t, their KID is about 0 or even negative
SHOWN = 6  # trials whose samples are shown side by side


def search(search: Search, experiment: Experiment, run: Run, concurrent: int | None = None) -> Finished:
    """Searches, and writes the best weights to best.json, which jobs/train.py reads; its folder is also a checkpoint.

    `concurrent`: trials at once; by default as many as fit on the cluster. The same call continues where an earlier one
    stopped. Raises UserError for bad settings, files or resources, and if no trial could be trained.
    """
    run = replace(run, cpus_per_worker=run.cpus_per_worker or 1.0)
    space, experiment = parameter_space(search.space, experiment)
    _check(search, experiment, run, concurrent)
    name = run.name or f"search-{experiment.model.kind}-{fingerprint(search)}-{fingerprint(experiment)}"
    folder = storage.join(run.storage, name)
    identity = {"kind": "search", "config": experiment, "search": search}
    if (finished := earlier(folder, identity)) is not None:
        return finished

    # Data and networks that all trials share. Twice as many images are held out; half of them are for the final scores.
    twice = replace(experiment.data, validation=2 * experiment.data.validation)
    ready = prepare(replace(experiment, data=twice), replace(run, name=name, checkpoint_every=Run.checkpoint_every))
    claim(folder, identity)
    choosing, judging = (_half(ready, part) for part in (0, 1))
    KID_of_s = max(ready.facts["KID_of_s"], KID_NOISE)
    limit = search.domain_limit * KID_of_s
    at_once = trainings_at_once(run.workers, run.cpus_per_worker, run.gpu, concurrent, spare=ready.spare)

    own = {parameter: value_of(experiment, parameter) for parameter in space}
    trial = tune.with_parameters(
        run_trial,
        experiment=experiment,
        run=replace(run, storage=storage.absolute(storage.join(folder, "trials"))),  # Tune runs each elsewhere
        ready=choosing,
        limit=limit,
    )
    results = tune_trials(search, experiment, folder, run, tune.with_resources(trial, DRIVER), space, own, at_once)
    trials = [_found(result, experiment, KID_of_s) for result in results]
    if not any(each.state == "complete" for each in trials):
        reasons = {death(each.error) or str(each.error).strip().splitlines()[-1] for each in results if each.error}
        raise UserError(
            f"{folder}: no trial finished its training without collapse: {'; '.join(reasons) or 'see above'}"
        )
    return _report(folder, experiment, trials, own, judging, limit, KID_of_s, run)


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
            f"--checkpoint-every {run.checkpoint_every}: too large to stop trials of {experiment.optim.steps} steps "
            f"early: choose at most {at_most}, or --scheduler none"
        )


def _half(ready: Ready, part: int) -> Ready:
    """`ready` with one half of its held-out images."""
    validation, labels = (ray.get(ref) for ref in (ready.inputs.validation, ready.inputs.labels))
    half = ray.put(validation[part::2]), ray.put(None if labels is None else labels[part::2])
    return replace(ready, inputs=replace(ready.inputs, validation=half[0], labels=half[1]))


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
    """Scores the best trials and the experiment's own weights on fresh held-out images; writes table and figures."""
    complete = [each for each in trials if each.state == "complete"]
    best = min(complete, key=lambda each: each.objective)
    unbeaten = front(complete)
    # A checkpoint with weights that are not finite cannot be loaded.
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

    chosen = experiment.changed(**best.weights)
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
    """Scores of a checkpoint on images that took no part in the selection; and pairs x, G(x), N×2×3×H×W uint8."""
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
    shown = [[short(value) for value in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
