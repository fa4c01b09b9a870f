"""Trains f, or a judge, as a digit classifier, and reports its error on the test split.

python jobs/pretrain.py --dataset svhn --data-dir DIR
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dtn_ray import cli
from dtn_ray.config import Pretraining, Run, Unprefixed


@dataclass(frozen=True)
class Job:
    config: Annotated[Pretraining, Unprefixed] = field(default_factory=Pretraining)
    run: Annotated[Run, Unprefixed] = field(default_factory=Run)


def main(job: Job) -> dict:
    from dtn_ray.pretrain import pretrain

    outcome = pretrain(job.config, job.run)
    return {"checkpoint": outcome.checkpoint, **outcome.metrics}


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Job, description=__doc__)))
