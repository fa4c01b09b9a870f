"""Scores a trained DTN as Sec. 5.1 does: scores.json and scores.png, the JSON also on the last lines printed.

python jobs/evaluate.py CHECKPOINT --data-dir DIR       the test split of s

python jobs/evaluate.py CHECKPOINT --source-file X.mat  any file of SVHN's layout

Of faces, Table 4 (Sec. 5.2); `evaluate.py retrieval --help` lists its options:

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

RETRIEVAL = """Table 4 of a DTN of faces: retrieval.json and retrieval.png, the JSON also on the last lines printed.

Each person's other photo is sought by G(x), among any number of distractors, by a face network that is not f; beside it
by the photo itself (the ceiling) and by another person's emoji (the floor)."""


@dataclass(frozen=True)
class Digits:
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


def parse(arguments: list[str]) -> Digits | Retrieval:
    """The command line; where the first argument names no kind of evaluation, options are those of `digits`."""
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
