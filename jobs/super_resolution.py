"""Trains SRCNN, which enlarges the images of g for print (Sec. 5.2), and reports its PSNR on test images.

python jobs/super_resolution.py IMAGES --test-images SET5 --factors 2
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dtn_ray import cli
from dtn_ray.resumable.options import Run
from dtn_ray.settings import Unprefixed
from dtn_ray.super_resolution.options import SuperResolution


@dataclass(frozen=True)
class Job:
    config: Annotated[SuperResolution, Unprefixed]
    run: Annotated[Run, Unprefixed] = field(default_factory=Run)


def main(job: Job) -> dict:
    from dtn_ray.super_resolution.job import train_super_resolution

    outcome = train_super_resolution(job.config, job.run)
    return {"checkpoint": outcome.checkpoint, **outcome.metrics}


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Job, description=__doc__)))
