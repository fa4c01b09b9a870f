"""Trains SRCNN, which enlarges the images of g for print (Sec. 5.2), and reports its PSNR on test images.

python jobs/super_resolution.py IMAGES --test-images SET5 --factors 2
"""

from dataclasses import dataclass, field
from typing import Annotated

from dtn_ray import cli
from dtn_ray.option_groups import Group, parse
from dtn_ray.resumable.options import Run
from dtn_ray.super_resolution.options import SuperResolution

FIRST = ("test_images", "factors", "steps", "bf16", "seed", "name", "storage", "workers", "gpu")


@dataclass(frozen=True)
class Job:
    config: Annotated[SuperResolution, Group("training")]
    run: Annotated[Run, Group("run")] = field(default_factory=Run)


def main(job: Job) -> dict:
    from dtn_ray.super_resolution.job import train_super_resolution

    outcome = train_super_resolution(job.config, job.run)
    return {"checkpoint": outcome.checkpoint, **outcome.metrics}


if __name__ == "__main__":
    cli.run(lambda: main(parse(Job, __doc__, FIRST)))
