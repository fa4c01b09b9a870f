"""The whole path on embedded data: trains f, the judge and a DTN, scores it, converts a folder of images.

python jobs/demo.py        about four minutes on two idle CPU cores; nothing is downloaded
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from dtn_ray import cli


@dataclass(frozen=True)
class Job:
    out: str = "runs/demo"
    """Local folder for all files of the demo; a second call continues where the first one stopped."""
    seed: int = 0
    """Seed of the trainings."""


def main(job: Job) -> None:
    from dtn_ray import storage
    from dtn_ray.convert.job import convert
    from dtn_ray.convert.options import Conversion
    from dtn_ray.data.digits.street_digits import street_digits
    from dtn_ray.evaluate.digits import score_digits
    from dtn_ray.images.encode import encode
    from dtn_ray.resumable.options import Run
    from dtn_ray.train.job import train
    from dtn_ray.train.presets import embedded
    from dtn_ray.train.trained import load_trained

    print("1/3  training f, the judge and the DTN: street-number digits → handwritten digits", flush=True)
    trained = train(replace(embedded(), seed=job.seed), Run(storage=job.out, name="dtn"))

    print("2/3  scoring on held-out images", flush=True)
    scores = score_digits(load_trained(trained.checkpoint)).values

    print("3/3  converting a folder of images", flush=True)
    photos = Path(job.out, "photos")
    images, labels = street_digits(96, seed=3)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = photos / f"{i:03}-{label}.png"
        if not path.exists():
            storage.write_bytes(str(path), encode(image), root=job.out)
    summary = convert(Conversion(trained.checkpoint, str(photos), str(Path(job.out, "converted"))))

    low, high = scores["accuracy_95"]
    print(f"judge's accuracy on held-out images: {scores['accuracy']:.1%} (95 % interval {low:.1%}-{high:.1%})")
    print(f"without the transfer: {scores['original_image_accuracy']:.1%}")
    converted = summary["done_before"] + summary["converted"]
    print(f"converted {converted} of {summary['images']} images; contact sheet, source | transferred:")
    print(Path(summary["sheet"]).absolute())
    if scores["accuracy"] < 0.8:
        sys.exit("error: the score is below 80 %, which the demo should exceed")


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Job, description=__doc__)))
