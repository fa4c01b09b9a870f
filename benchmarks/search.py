"""What Ray Tune costs a search: trials an hour against the same trainings one after another without it, in one run.

python benchmarks/search.py        about fifteen minutes on two idle CPU cores; nothing is downloaded

Both train the embedded digits on the same data with the same f and judge, each training on one CPU; their weights α
differ, which changes no speed. By themselves, trainings follow one another; the search runs as many at a time as there
are CPUs, or --concurrent. Training f and the judge comes before; reading the data, and the search's own scoring and
plots, are in its time.
"""

import tempfile
import time
from dataclasses import dataclass, replace

import tyro
from harness import keep

from dtn_ray import cli, storage
from dtn_ray.resumable.options import Run
from dtn_ray.search.job import search
from dtn_ray.search.options import Search
from dtn_ray.search.space import changed
from dtn_ray.train.job import fit
from dtn_ray.train.prepare import prepare
from dtn_ray.train.presets import embedded


@dataclass(frozen=True)
class Options:
    trials: int = 4
    """Trainings on each side."""
    steps: int = 200
    """Of each training."""
    concurrent: int | None = None
    """Trials that the search runs at once; by default as many as fit."""
    out: str | None = None
    """File for the result as JSON."""


def measure(options: Options) -> dict:
    """Trials an hour of both, and the search's as a ratio."""
    experiment = embedded()
    experiment = replace(experiment, optim=replace(experiment.optim, steps=options.steps))
    run = Run(cpus_per_worker=1.0, checkpoint_every=max(1, options.steps // 4))
    with tempfile.TemporaryDirectory() as folder:
        ready = prepare(experiment, Run(storage=folder, name="networks", cpus_per_worker=1.0))
        networks = {role: storage.join(folder, "networks", role) for role in ("f", "judge")}
        experiment = replace(experiment, model=replace(experiment.model, **networks))

        began = time.perf_counter()
        for number in range(options.trials):
            alpha = experiment.loss.alpha * 2.0**number
            alone = replace(run, storage=folder, name=f"alone-{number}")
            fit(changed(experiment, {"alpha": alpha}), alone, ready)
        by_themselves = time.perf_counter() - began

        began = time.perf_counter()
        settings = Search(trials=options.trials, scheduler="none")
        search(settings, experiment, replace(run, storage=folder, name="search"), options.concurrent)
        searched = time.perf_counter() - began
    return {
        "trials": options.trials,
        "steps": options.steps,
        "alone_trials_per_hour": 3600 * options.trials / by_themselves,
        "search_trials_per_hour": 3600 * options.trials / searched,
        "ratio": by_themselves / searched,
    }


def main(options: Options) -> dict:
    return keep(measure(options), options.out)


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Options, description=__doc__)))
