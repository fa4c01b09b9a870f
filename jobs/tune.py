"""Searches the weights of the losses, α, β and γ, with Ray Tune: each trial is a training of jobs/train.py.

python jobs/tune.py                                                  the embedded digits
python jobs/tune.py digits --data-dir DIR --f F --judge JUDGE        the paper's digits
python jobs/tune.py faces --source FACES --target EMOJI --f NETWORK.onnx

It ends with a table, plots, samples of the best trials side by side, and best.json, which train.py reads:
python jobs/train.py runs/NAME/best.json. The same command resumes a stopped search. `tune.py PRESET --help` lists the
options of a preset.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

from dtn_ray import cli
from dtn_ray.option_groups import Group, parse_one_of
from dtn_ray.resumable.options import Run
from dtn_ray.search.options import Search
from dtn_ray.train.command import form
from dtn_ray.train.options import Experiment
from dtn_ray.train.presets import PRESETS


@dataclass(frozen=True)
class Job:
    search: Annotated[Search, Group("search")]
    experiment: Annotated[Experiment, Group("experiment")]
    run: Annotated[Run, Group("run")]
    concurrent: Annotated[int | None, Group("search")] = None
    """Trials that run at the same time; by default as many as fit on the cluster. Each trial uses --workers workers,
    with one CPU each unless --cpus-per-worker is given."""


def parse(arguments: list[str]) -> Job:
    """The command line: the first argument is a preset; without one, `embedded`."""
    if not arguments or (arguments[0].startswith("-") and not {"-h", "--help"} & {*arguments}):
        arguments = ["embedded", *arguments]
    forms = {}
    for name, (make, _) in PRESETS.items():
        experiment = make()
        job = Job(Search(), experiment, Run(checkpoint_every=max(1, experiment.optim.steps // 8)))
        forms[name] = form(job, experiment, first=("trials", "concurrent"))
    return parse_one_of(forms, {name: text for name, (_, text) in PRESETS.items()}, __doc__, arguments)


def main(job: Job) -> dict:
    from dtn_ray.search.job import search

    outcome = search(job.search, job.experiment, job.run, job.concurrent)
    if outcome.resumed:
        print(f"{outcome.folder} is finished already; choose another --name to search again", file=sys.stderr)
    return {"checkpoint": outcome.checkpoint, **outcome.metrics}


if __name__ == "__main__":
    cli.run(lambda: main(parse(sys.argv[1:])))
