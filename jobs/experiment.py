"""Makes a table or figure of the paper: trains and measures what is missing, and writes it beside the paper's numbers.

python jobs/experiment.py table1 --embedded             the embedded digits: nothing to download

python jobs/experiment.py table1 --data-dir DIR         SVHN and MNIST

The same command continues where it stopped. What one experiment has trained, the others use, if they share --out.
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from dtn_ray import cli
from dtn_ray.experiments.options import Options
from dtn_ray.option_groups import Form, Group

Name = Literal["table1", "table2", "table3", "figure3", "figure10-digits", "distances", "presets", "beyond"]
FIRST = (
    "data_dir",
    "embedded",
    "seeds",
    "preset",
    "f",
    "judge",
    "width_g",
    "width_D",
    "bf16",
    "out",
    "concurrent",
    "gpu",
)


@dataclass(frozen=True)
class Job:
    name: Annotated[tyro.conf.Positional[Name], tyro.conf.arg(metavar="NAME")]
    """table1: what each part of the method contributes. table2: domain adaptation. table3: a digit that was not seen;
    figure3: its images. figure10-digits: the other direction. distances: d and d2. presets: paper-digits beside
    ours. beyond: an f that has seen t, which is not in the paper."""
    options: Annotated[Options, Group("row")] = field(default_factory=Options)


def parse(arguments: list[str]) -> Job:
    """The command line."""
    return Form(Job, FIRST).parse(__doc__, arguments)


def main(job: Job) -> dict:
    from dtn_ray.experiments.job import experiment

    return experiment(job.name, job.options)


if __name__ == "__main__":
    cli.run(lambda: main(parse(sys.argv[1:])))
