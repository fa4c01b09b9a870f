"""Scores a trained DTN as in Sec. 5.1. Writes scores.json and scores.png; prints the JSON last.

python jobs/evaluate.py CHECKPOINT --data-dir DIR       the test split of s

python jobs/evaluate.py CHECKPOINT --source-file X.mat  any file in SVHN's format

For faces, Table 4 (Sec. 5.2); `evaluate.py retrieval --help` lists its options:

python jobs/evaluate.py retrieval CHECKPOINT --probes PROBES --distractors FACES --judge NETWORK.onnx
"""

import io
import json
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from dtn_ray import cli
from dtn_ray.evaluate.options import Retrieval

RETRIEVAL = """Table 4 for a DTN of faces. Writes retrieval.json and retrieval.png; prints the JSON last.

A face network other than f, the judge, searches for each person's other photo among any number of distractors. The
query is the emoji G(x); for comparison also the photo x itself (the ceiling) and another person's emoji (the floor)."""


@dataclass(frozen=True)
class Digits:
    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint of jobs/train.py, or the folder of a finished run (local or s3://)."""
    data_dir: str | None = None
    """Folder or s3:// prefix with the files of svhn and mnist; by default the one used in training."""
    source_file: str | None = None
    """A .mat file in SVHN's format to score on, instead of s's test split."""
    weights: Literal["convert", "g"] = "convert"
    """Which weights of g: `convert`, those for use (averaged, and recalibrated on s); or `g`, those of the last
    step."""
    out: str = "runs/evaluation"
    """Folder or s3:// prefix for scores.json and scores.png."""


def parse(arguments: list[str]) -> Digits | Retrieval:
    """The command line; if the first argument is not the name of a subcommand, it is parsed as `digits`."""
    if arguments[:1] not in (["digits"], ["retrieval"]):
        arguments = ["digits", *arguments]
    digits = Annotated[Digits, tyro.conf.subcommand("digits", description=__doc__)]
    faces = Annotated[Retrieval, tyro.conf.subcommand("retrieval", description=RETRIEVAL)]
    return tyro.cli(digits | faces, args=arguments, description=__doc__)


def main(job: Digits | Retrieval) -> dict:
    if isinstance(job, Digits):
        return score(job)
    from dtn_ray.evaluate.retrieval import retrieve

    return retrieve(job)


def score(job: Digits) -> dict:
    import torch

    from dtn_ray import storage
    from dtn_ray.evaluate.digits import score_digits
    from dtn_ray.evaluate.figures import digit_figure
    from dtn_ray.evaluate.seen import warnings
    from dtn_ray.storage.ownership import refuse_foreign
    from dtn_ray.text.display import line
    from dtn_ray.train.trained import load_trained

    refuse_foreign(job.out, "scores.json", ("checkpoint", "weights"), ["scores.png"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores = score_digits(load_trained(job.checkpoint, job.weights), job.data_dir, job.source_file, device=device)
    seen = scores.values["seen_in_training"]
    for warning in warnings(seen):
        print(f"warning: {line(warning)}", file=sys.stderr)
    title = f"accuracy {scores.values['accuracy']:.2%} on {scores.values['images']} images"
    title += ", which training saw" if "accuracy" in seen else ""
    picture = io.BytesIO()
    digit_figure(scores.confusion, scores.source, scores.transferred, title).savefig(picture, format="png", dpi=100)
    values = {"checkpoint": job.checkpoint, "weights": job.weights, **scores.values}
    storage.write_bytes(storage.join(job.out, "scores.json"), json.dumps(values, indent=2).encode())
    storage.write_bytes(storage.join(job.out, "scores.png"), picture.getvalue())
    return values | {"figure": storage.join(job.out, "scores.png")}


if __name__ == "__main__":
    cli.run(lambda: main(parse(sys.argv[1:])))
