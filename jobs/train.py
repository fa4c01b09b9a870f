"""Trains a Domain Transfer Network. Without checkpoints of f and the judge (digits), it trains these first.

python jobs/train.py                                    the embedded digits
python jobs/train.py digits --data-dir DIR              the paper's digits
python jobs/train.py runs/SEARCH/best.json              the best weights of a search

The same command resumes a stopped training. `train.py PRESET --help` lists the options of a preset.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

from dtn_ray import cli
from dtn_ray.option_groups import Group, parse_one_of
from dtn_ray.resumable.options import Run
from dtn_ray.train.command import form
from dtn_ray.train.options import Experiment
from dtn_ray.train.presets import PRESETS


@dataclass(frozen=True)
class Job:
    experiment: Annotated[Experiment, Group("experiment")]
    run: Annotated[Run, Group("run")]


def parse(arguments: list[str]) -> Job:
    """The command line: the first argument is a preset or the JSON file of an experiment; without one, `embedded`.

    Raises UserError if such a file does not hold an experiment.
    """
    if arguments and arguments[0].endswith(".json"):
        from dtn_ray.train.prepare import experiment_of

        experiment = experiment_of(arguments[0])
        return form(Job(experiment, Run()), experiment).parse(__doc__, arguments[1:])
    if not arguments or (arguments[0].startswith("-") and not {"-h", "--help"} & {*arguments}):
        arguments = ["embedded", *arguments]
    forms = {name: form(Job(make(), Run()), make()) for name, (make, _) in PRESETS.items()}
    return parse_one_of(forms, {name: text for name, (_, text) in PRESETS.items()}, __doc__, arguments)


def main(job: Job) -> dict:
    from dtn_ray.train.job import train

    outcome = train(job.experiment, job.run)
    if outcome.resumed:
        print(f"{outcome.folder} is finished already; choose another --name to train again", file=sys.stderr)
    return {"checkpoint": outcome.checkpoint, **outcome.metrics}


if __name__ == "__main__":
    cli.run(lambda: main(parse(sys.argv[1:])))
