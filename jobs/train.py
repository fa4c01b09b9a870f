"""Trains a Domain Transfer Network. Without checkpoints of f and the judge (digits), it trains these first.

python jobs/train.py                                    the embedded digits
python jobs/train.py digits --data-dir DIR              the paper's digits
python jobs/train.py runs/SEARCH/best.json              the best weights of a search

The same command resumes a stopped training. `train.py PRESET --help` lists the options of a preset.
"""

import sys
from dataclasses import dataclass
from typing import Annotated, Union

import tyro

from dtn_ray import cli
from dtn_ray.resumable.options import Run
from dtn_ray.settings import Unprefixed
from dtn_ray.train.command import described, into, job_of
from dtn_ray.train.options import Experiment
from dtn_ray.train.presets import PRESETS


@dataclass(frozen=True)
class Job:
    experiment: Annotated[Experiment, Unprefixed]
    run: Annotated[Run, Unprefixed]


def parse(arguments: list[str]) -> Job:
    """The command line: the first argument is a preset or the JSON file of an experiment; without one, `embedded`.

    Raises UserError if such a file does not hold an experiment.
    """
    if arguments and arguments[0].endswith(".json"):
        from dtn_ray.train.prepare import experiment_of

        experiment = experiment_of(arguments[0])
        shown = job_of(Job, experiment)
        default = into(shown, Job(experiment, Run()))
        return into(Job, tyro.cli(shown, args=arguments[1:], default=default, description=__doc__))
    if not arguments or (arguments[0].startswith("-") and not {"-h", "--help"} & {*arguments}):
        arguments = ["embedded", *arguments]
    presets = []
    for name, (make, description) in PRESETS.items():
        shown = job_of(Job, make())
        default = into(shown, Job(make(), Run()))
        text = described(description, make()) if arguments[0] == name else description
        presets.append(Annotated[shown, tyro.conf.subcommand(name, default=default, description=text)])
    return into(Job, tyro.cli(Union[tuple(presets)], args=arguments, description=__doc__))  # noqa: UP007


def main(job: Job) -> dict:
    from dtn_ray.train.job import train

    outcome = train(job.experiment, job.run)
    if outcome.resumed:
        print(f"{outcome.folder} is finished already; choose another --name to train again", file=sys.stderr)
    return {"checkpoint": outcome.checkpoint, **outcome.metrics}


if __name__ == "__main__":
    cli.run(lambda: main(parse(sys.argv[1:])))
