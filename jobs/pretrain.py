"""Trains a classifier of digits, to be used as f or as the judge, and reports its error on the test split.

python jobs/pretrain.py --dataset svhn --data-dir DIR

Trains DeepFace, f for faces; `pretrain.py faces --help` lists its options:

python jobs/pretrain.py faces FACES
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated

from dtn_ray import cli
from dtn_ray.option_groups import Form, Group, parse_one_of
from dtn_ray.perceptual.options import FacePretraining, Pretraining
from dtn_ray.resumable.options import Run

FACES = """Trains DeepFace to tell people apart; reports identification and verification accuracy on held-out faces.

FACES: aligned faces, such as jobs/ingest.py --identity writes, or a folder with a subfolder for each person."""

FIRST = ("dataset", "data_dir", "split", "test_faces", "epochs", "bf16", "seed", "name", "storage", "workers", "gpu")


@dataclass(frozen=True)
class Digits:
    config: Annotated[Pretraining, Group("training")] = field(default_factory=Pretraining)
    run: Annotated[Run, Group("run")] = field(default_factory=Run)


@dataclass(frozen=True)
class Faces:
    config: Annotated[FacePretraining, Group("training")]
    run: Annotated[Run, Group("run")] = field(default_factory=Run)


def parse(arguments: list[str]) -> Digits | Faces:
    """The command line; if the first argument is not the name of a subcommand, it is parsed as `digits`."""
    if arguments[:1] not in (["digits"], ["faces"]):
        arguments = ["digits", *arguments]
    forms = {"digits": Form(Digits, FIRST), "faces": Form(Faces, FIRST)}
    return parse_one_of(forms, {"digits": __doc__, "faces": FACES}, __doc__, arguments)


def main(job: Digits | Faces) -> dict:
    from dtn_ray.perceptual.job import pretrain, pretrain_faces

    outcome = pretrain_faces(job.config, job.run) if isinstance(job, Faces) else pretrain(job.config, job.run)
    return {"checkpoint": outcome.checkpoint, **outcome.metrics}


if __name__ == "__main__":
    cli.run(lambda: main(parse(sys.argv[1:])))
