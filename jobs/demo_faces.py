"""Faces to emoji on what packages ship and draw: finds faces, draws avatars, trains f and a DTN, converts photos.

python jobs/demo_faces.py        under ten minutes on two idle CPU cores; nothing is downloaded but the face detector

Photos of scikit-image: 100 small grey faces (lfw_subset, of Labeled Faces in the Wild, for research) and Eileen Collins
(NASA, public domain); of matplotlib: Grace Hopper (US Navy, public domain). Avatars of DiceBear: Avataaars by Pablo
Stanley (free for personal and commercial use).

f is trained here on those few pictures, to tell each from all others however it is lit and framed. It knows dark hair
from fair, and little of likeness: for that, name a face network by --f (docs/faces.md).
"""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from dtn_ray import cli


@dataclass(frozen=True)
class Job:
    out: str = "runs/demo-faces"
    """Local folder for all that the demo makes; a second call goes on with what is there."""
    f: str | None = None
    """A face network as ONNX, instead of the demo's own f."""
    detector: str | None = None
    """File of the face detector YuNet; by default it is fetched, and its hash is checked."""
    steps: int = 700
    """Steps of the DTN."""
    seed: int = 0
    """Seed of the trainings."""


def photos(folder: Path) -> None:
    """Writes the packages' photos: portraits, and grey faces on a grey ground."""
    import matplotlib.cbook
    import numpy as np
    import skimage.data
    from PIL import Image

    (folder / "portraits").mkdir(parents=True, exist_ok=True)
    (folder / "lfw").mkdir(exist_ok=True)
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        (folder / "portraits/grace-hopper.jpg").write_bytes(file.read())
    Image.fromarray(skimage.data.astronaut()).save(folder / "portraits/eileen-collins.png")
    for i, face in enumerate(skimage.data.lfw_subset()[:100]):
        ground = Image.new("L", (250, 250), 128)
        ground.paste(
            Image.fromarray((face * 255).astype(np.uint8)).resize((150, 150), Image.Resampling.BICUBIC), (50, 50)
        )
        ground.save(folder / f"lfw/{i:03}.png")


def each_its_own(folders: list[str], rows: int) -> bytes:
    """A Parquet file of the first pictures of some sets, each with an identity of its own: what the demo's f learns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dtn_ray.data import stream

    images = []
    for folder in folders:
        groups = stream.find_groups(folder)
        images += pa.concat_tables([group.table(["image"]) for group in groups])["image"].to_pylist()[:rows]
    table = pa.table({"image": images, "identity": [str(i) for i in range(len(images))]})
    buffer = io.BytesIO()
    pq.write_table(table.take(pa.array(sorted(range(len(images)), key=lambda i: i * 7919 % len(images)))), buffer, 64)
    return buffer.getvalue()


def main(job: Job) -> None:
    from dtn_ray.config import FacePretraining, Run, faces
    from dtn_ray.conversion import Conversion
    from dtn_ray.convert import convert
    from dtn_ray.data.augment import Augment
    from dtn_ray.ingest import ingest
    from dtn_ray.ingestion import Ingestion
    from dtn_ray.make_emoji import EmojiSet, make_emoji
    from dtn_ray.pretrain import pretrain_faces
    from dtn_ray.train import train

    out = Path(job.out)
    print("1/5  finding and aligning faces: set s", flush=True)
    photos(out / "photos")
    found = ingest(Ingestion(str(out / "photos"), str(out / "s"), detector=job.detector))
    print(f"{found['faces']} faces in {found['images']} photos", flush=True)
    source = str(out / "s/faces/shards")

    print("2/5  drawing avatars: set t", flush=True)
    target = str(out / "t")
    make_emoji(EmojiSet(target, count=1500))

    run = Run(storage=job.out, cpus_per_worker=1, checkpoint_every=1000)
    f = job.f
    if f is None:
        print("3/5  training f to tell each of these pictures from all others", flush=True)
        own = out / "own/each.parquet"
        own.parent.mkdir(exist_ok=True)
        own.write_bytes(each_its_own([source, target], 400))
        change = Augment(
            rotation=8, scale=(0.85, 1.15), shift=0.06, contrast=0.4, brightness=0.3, saturation=1, mirror=0.5
        )
        config = FacePretraining(
            str(own), width=0.25, features=64, epochs=60, held_out=10, dropout=0.2, augment=change, bf16=True
        )
        f = pretrain_faces(replace(config, seed=job.seed), replace(run, name="f")).checkpoint

    print("4/5  training the DTN", flush=True)
    preset = faces()
    experiment = replace(
        preset,
        data=replace(preset.data, source=source, target=target),
        model=replace(preset.model, f=f, width_g=0.5),
        loss=replace(preset.loss, warm_up=job.steps * 2 // 3, ramp=job.steps // 6),
        optim=replace(preset.optim, steps=job.steps, bf16=True),
        seed=job.seed,
    )
    trained = train(experiment, replace(run, name="dtn"))

    print("5/5  converting the photos", flush=True)
    summary = convert(Conversion(trained.checkpoint, str(out / "photos"), str(out / "emoji"), detector=job.detector))
    print(json.dumps({name: summary[name] for name in ("converted", "done_before", "no_face", "failed")}))
    print("contact sheet, photo | emoji:")
    print(Path(summary["sheet"]).absolute())


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Job, description=__doc__)))
