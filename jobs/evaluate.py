"""Scores a trained DTN as Sec. 5.1 does: scores.json and scores.png, the JSON also on the last lines printed.

python jobs/evaluate.py CHECKPOINT --data-dir DIR       the test split of s

python jobs/evaluate.py CHECKPOINT --source-file X.mat  any file of SVHN's layout
"""

import io
import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from dtn_ray import cli, storage


@dataclass(frozen=True)
class Job:
    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint of jobs/train.py, or the folder of a finished run (local or s3://)."""
    data_dir: str | None = None
    """Folder or s3:// prefix with the files of svhn and mnist; by default the one trained with."""
    source_file: str | None = None
    """A .mat file of SVHN's layout to score on, instead of s's test split."""
    weights: Literal["convert", "g"] = "convert"
    """convert: g as it should be used, averaged and recalibrated on s; g: as training left it."""
    out: str = "runs/evaluation"
    """Folder or s3:// prefix for scores.json and scores.png."""


def main(job: Job) -> dict:
    import torch

    from dtn_ray.checkpoint import load_trained
    from dtn_ray.evaluate.digits import score_digits
    from dtn_ray.evaluate.figures import digit_figure

    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores = score_digits(load_trained(job.checkpoint, job.weights), job.data_dir, job.source_file, device=device)
    title = f"accuracy {scores.values['accuracy']:.2%} on {scores.values['images']} images"
    picture = io.BytesIO()
    digit_figure(scores.confusion, scores.source, scores.transferred, title).savefig(picture, format="png", dpi=100)
    values = {"checkpoint": job.checkpoint, "weights": job.weights, **scores.values}
    storage.write_bytes(storage.join(job.out, "scores.json"), json.dumps(values, indent=2).encode())
    storage.write_bytes(storage.join(job.out, "scores.png"), picture.getvalue())
    return values | {"figure": storage.join(job.out, "scores.png")}


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Job, description=__doc__)))
