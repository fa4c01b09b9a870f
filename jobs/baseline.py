"""Runs one of the methods that Table 2 compares the DTN with, and prints its accuracy on the target.

python jobs/baseline.py dann --source svhn --target mnist --data-dir DIR

python jobs/baseline.py sa --f runs/f --source svhn --target mnist --data-dir DIR

Without datasets: the embedded digits. Labels of the target are used for the accuracy alone.
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated

from dtn_ray import cli
from dtn_ray.baselines.options import AlignmentOptions, DannOptions
from dtn_ray.option_groups import Form, Group, parse_one_of
from dtn_ray.resumable.options import Run

DANN = """DANN (Ganin et al. 2016): trains f's architecture by gradient reversal on labels of the source and unlabelled
images of both domains. The same command goes on where it stopped. The checkpoint loads wherever a classifier does."""

SA = """SA (Fernando et al. 2013): aligns the principal subspace of the source's f(x) with the target's, and classifies
by the aligned source. Writes scores.json."""

FIRST = ("f", "source", "target", "data_dir", "steps", "lr", "dimensions", "out", "bf16", "seed", "name", "storage")


@dataclass(frozen=True)
class Dann:
    config: Annotated[DannOptions, Group("training")] = field(default_factory=DannOptions)
    run: Annotated[Run, Group("run")] = field(default_factory=Run)


def parse(arguments: list[str]) -> Dann | AlignmentOptions:
    """The command line."""
    forms = {"dann": Form(Dann, FIRST), "sa": Form(AlignmentOptions, FIRST)}
    return parse_one_of(forms, {"dann": DANN, "sa": SA}, __doc__, arguments)


def main(job: Dann | AlignmentOptions) -> dict:
    from dtn_ray.baselines.job import run_subspace_alignment, train_dann

    if isinstance(job, AlignmentOptions):
        return run_subspace_alignment(job)
    outcome = train_dann(job.config, job.run)
    return {"checkpoint": outcome.checkpoint, **outcome.metrics}


if __name__ == "__main__":
    cli.run(lambda: main(parse(sys.argv[1:])))
