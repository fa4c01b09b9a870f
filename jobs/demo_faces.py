"""Faces to emoji on data from Python packages: finds faces, draws avatars, trains f and a DTN, converts and scores.

python jobs/demo_faces.py        half an hour on two CPU cores; only the face detector is downloaded

Photos of scikit-image: 100 small grey faces (lfw_subset, of Labeled Faces in the Wild, for research) and Eileen Collins
(NASA, public domain); of matplotlib: Grace Hopper (US Navy, public domain). Avatars of DiceBear: Avataaars by Pablo
Stanley (free for personal and commercial use).

f and the judge are trained on these few pictures, to recognise each picture under changes of light and framing. They
distinguish dark hair from fair hair, but hardly one person from another. For likeness, pass face networks as --f and
--judge (docs/reference/face-networks.md). Nobody has two photos here, so retrieval searches for the same photo,
mirrored.
"""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from dtn_ray import cli

EACH, PEOPLE, OTHERS = TABLES = "each/each.parquet", "people/people.parquet", "others/others.parquet"


@dataclass(frozen=True)
class Job:
    out: str = "runs/demo-faces"
    """Local folder for all files of the demo; a second call continues where the first one stopped."""
    f: str | None = None
    """A face network, instead of the demo's own f."""
    judge: str | None = None
    """Another face network, instead of the demo's own judge."""
    detector: str | None = None
    """File of the face detector YuNet; by default it is downloaded, and its hash is checked."""
    emoji: int = 1500
    """Number of avatars in the set t."""
    epochs: float = 20.0
    """Passes over the pictures in the trainings of f and of the judge."""
    steps: int = 900
    """Training steps of the DTN."""
    seed: int = 0
    """Seed of the trainings."""


def photos(folder: Path) -> None:
    """Writes the packages' photos: portraits, and grey faces on a grey ground."""
    import matplotlib.cbook
    import numpy as np
    import skimage.data
    from PIL import Image

    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        put(folder / "portraits/grace-hopper.jpg", file.read())
    put(folder / "portraits/eileen-collins.png", png(Image.fromarray(skimage.data.astronaut())))
    for i, face in enumerate(skimage.data.lfw_subset()[:100]):  # the other 100 show no faces
        ground = Image.new("L", (250, 250), 128)
        ground.paste(
            Image.fromarray((face * 255).astype(np.uint8)).resize((150, 150), Image.Resampling.BICUBIC), (50, 50)
        )
        put(folder / f"lfw/{i:03}.png", png(ground))


def put(path: Path, content: bytes) -> None:
    """Writes a file unless it exists."""
    from dtn_ray import storage

    if not path.exists():
        storage.write_bytes(str(path), content)


def png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def images(folder: str) -> list[bytes]:
    """The encoded images of a set."""
    from dtn_ray.data.rows import find_groups

    return [image for group in find_groups(folder) for image in group.table(["image"])["image"].to_pylist()]


def mirrored(image: bytes) -> bytes:
    from PIL import Image, ImageOps

    return png(ImageOps.mirror(Image.open(io.BytesIO(image))))


def write(path: Path, **columns: list[Any]) -> str:
    """Writes a Parquet file; returns its path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dtn_ray import storage

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, 64)
    storage.write_bytes(str(path), buffer.getvalue())
    return str(path)


def main(job: Job) -> None:
    import random

    from dtn_ray.convert.job import convert
    from dtn_ray.convert.options import Conversion
    from dtn_ray.emoji.job import make_emoji
    from dtn_ray.emoji.options import EmojiSet
    from dtn_ray.evaluate.options import Retrieval
    from dtn_ray.evaluate.retrieval import retrieve
    from dtn_ray.ingest.job import ingest
    from dtn_ray.ingest.options import Ingestion
    from dtn_ray.method.options import Augment
    from dtn_ray.perceptual.job import pretrain_faces
    from dtn_ray.perceptual.options import FacePretraining
    from dtn_ray.ray_cluster.connect import connect
    from dtn_ray.resumable.options import Run
    from dtn_ray.storage.ownership import refuse_foreign
    from dtn_ray.train.job import train
    from dtn_ray.train.presets import faces_small

    out = Path(job.out)
    refuse_foreign(job.out, "t/emoji.json", ("style", "licence"), TABLES)
    connect(trains=True)
    print("1/6  finding and aligning faces: set s", flush=True)
    photos(out / "photos")
    found = ingest(Ingestion(str(out / "photos"), str(out / "s"), detector=job.detector))
    print(f"{found['faces']} faces in {found['images']} photos", flush=True)
    source = str(out / "s/faces/shards")

    print("2/6  drawing avatars: set t", flush=True)
    target = str(out / "t")
    make_emoji(EmojiSet(target, count=job.emoji))

    print("3/6  training f and the judge to tell the pictures apart", flush=True)
    run = Run(storage=job.out, cpus_per_worker=1, checkpoint_every=1000)
    persons = images(source)
    pictures = [*persons, *images(target)[:150]]
    random.Random(0).shuffle(pictures)
    change = Augment(rotation=8, scale=(0.85, 1.15), shift=0.06, contrast=0.4, brightness=0.3, saturation=1, mirror=0.5)
    network = FacePretraining(
        write(out / EACH, image=pictures, identity=[str(i) for i in range(len(pictures))]),
        width=0.25,
        features=64,
        epochs=job.epochs,
        held_out=10,
        dropout=0.2,
        augment=change,
    )
    f = job.f or pretrain_faces(replace(network, seed=job.seed), replace(run, name="f")).checkpoint
    judge = job.judge or pretrain_faces(replace(network, seed=job.seed + 1), replace(run, name="judge")).checkpoint

    print("4/6  training the DTN", flush=True)
    preset = faces_small()
    experiment = replace(
        preset,
        data=replace(preset.data, source=source, target=target),
        # This f, trained on few photos, has little variety; outside the variety of t's features g would draw smears.
        model=replace(preset.model, f=f, width_g=0.5, size_D=64, feature_scale="transport", exaggeration=1.0),
        loss=replace(preset.loss, alpha=4.0, warm_up=job.steps // 3, ramp=job.steps // 3),
        optim=replace(preset.optim, steps=job.steps),
        seed=job.seed,
    )
    trained = train(experiment, replace(run, name="dtn"))

    print("5/6  converting the photos", flush=True)
    summary = convert(Conversion(trained.checkpoint, str(out / "photos"), str(out / "emoji"), detector=job.detector))
    print(json.dumps({name: summary[name] for name in ("converted", "done_before", "no_face", "failed")}))

    print("6/6  retrieval: finding each person's mirrored photo by the emoji", flush=True)
    half = persons[: len(persons) // 2]
    probes = write(
        out / PEOPLE,
        image=[*half, *map(mirrored, half)],
        identity=[str(i) for i in range(len(half))] * 2,
    )
    others = write(out / OTHERS, image=persons[len(half) :])
    retrieve(Retrieval(trained.checkpoint, probes, (others,), judge, out=str(out / "retrieval")))

    print("contact sheet, photo | emoji:")
    print(Path(summary["sheet"]).absolute())


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Job, description=__doc__)))
