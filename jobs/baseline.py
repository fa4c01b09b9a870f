"""Adapts a classifier to a target without labels, by a method that Table 2 compares the DTN with or by FixMatch.

Prints its accuracy on the target.

python jobs/baseline.py dann --source svhn --target mnist --data-dir DIR

python jobs/baseline.py fixmatch --f runs/f --source svhn --target mnist --data-dir DIR

python jobs/baseline.py sa --f runs/f --source svhn --target mnist --data-dir DIR

Without datasets: the embedded digits. Labels of the target are used for the accuracy alone.
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated

from dtn_ray import cli
from dtn_ray.baselines.options import AlignmentOptions, DannOptions, FixMatchOptions
from dtn_ray.option_groups import Form, Group, parse_one_of
from dtn_ray.resumable.options import Run

DANN = """DANN (Ganin et al. 2016): trains f's architecture by gradient reversal on labels of the source and unlabelled
images of both domains. The same command goes on where it stopped. The checkpoint loads wherever a classifier does."""

FIXMATCH = """FixMatch (Sohn et al. 2020) with distribution alignment, beyond the paper: f goes on learning from the
source's labels, and from its own sure answers on images of the target. It assumes that all classes are equally frequent
in the target. The checkpoint loads wherever a classifier does, also as the f of a DTN. The same command goes on where
it stopped."""

SA = """SA (Fernando et al. 2013): aligns the principal subspace of the source's f(x) with the target's, and classifies
by the aligned source. Writes scores.json."""

FIRST = ("f", "source", "target", "data_dir", "steps", "lr", "dimensions", "out", "bf16", "seed", "name", "storage")


@dataclass(frozen=True)
class Dann:
    config: Annotated[DannOptions, Group("training")] = field(default_factory=DannOptions)
    run: Annotated[Run, Group("run")] = field(default_factory=Run)


@dataclass(frozen=True)
class FixMatch:
    config: Annotated[FixMatchOptions, Group("training")] = field(default_factory=FixMatchOptions)
    run: Annotated[Run, Group("run")] = field(default_factory=Run)


def parse(arguments: list[str]) -> Dann | FixMatch | AlignmentOptions:
    """The command line."""
    forms = {"dann": Form(Dann, FIRST), "fixmatch": Form(FixMatch, FIRST), "sa": Form(AlignmentOptions, FIRST)}
    return parse_one_of(forms, {"dann": DANN, "fixmatch": FIXMATCH, "sa": SA}, __doc__, arguments)


def main(job: Dann | FixMatch | AlignmentOptions) -> dict:
    from dtn_ray.baselines.job import adapt, run_subspace_alignment

    if isinstance(job, AlignmentOptions):
        return run_subspace_alignment(job)
    outcome = adapt(job.config, job.run)
    return {"checkpoint": outcome.checkpoint, **outcome.metrics}


if __name__ == "__main__":
    cli.run(lambda: main(parse(sys.argv[1:])))
