"""Turns a folder or bucket of photos into Parquet files of aligned faces for training: bulk/run.py with an Ingester.

OUT/faces/shards/*.parquet   columns image, key, version, face, detection, box, landmarks (and identity)
OUT/faces/ingestion.json     the settings; each OUT has one set of settings
"""

import json
from dataclasses import asdict
from functools import partial
from typing import Any

from PIL import Image, ImageDraw

from dtn_ray import storage
from dtn_ray.bulk.ledger import Row
from dtn_ray.bulk.run import Bulk, run
from dtn_ray.errors import UserError, changes
from dtn_ray.faces.find import detector_file
from dtn_ray.images.decode import photo
from dtn_ray.ingest.options import Ingestion
from dtn_ray.ingest.pipeline import Ingester, identity
from dtn_ray.storage import json_files, ownership

SETTINGS = ("faces", "confidence", "min_face", "size", "format", "identity")
SHOWN = 128  # pixels of a picture on the contact sheet


def ingest(job: Ingestion) -> dict[str, Any]:
    """Finds and aligns the faces of photos that are new or changed; returns counts and the places of the results.

    Raises UserError if OUT holds an ingestion with other settings, and as `bulk.run` does.
    """
    settings = {"identity_of_settings": identity(job), **{name: asdict(job)[name] for name in SETTINGS}}
    detector = detector_file(job.detector)
    record = storage.join(job.out, Ingester.folder, "ingestion.json")
    if storage.exists(record):
        before = json_files.read_object(record)
        if before != settings:
            old, new = ({name: each.get(name) for name in SETTINGS} for each in (before, settings))
            changed = ", ".join(changes(old, new))
            raise UserError(f"{record}: OUT holds an ingestion with other settings ({changed}); choose another OUT")
    elif ownership.holds_files(storage.join(job.out, Ingester.folder)):
        raise UserError(
            f"{storage.join(job.out, Ingester.folder)}: holds files but no ingestion.json, so they are not those of an "
            "ingestion: nothing is overwritten. Choose another OUT, or move them elsewhere"
        )
    write = partial(storage.write_bytes, record, json.dumps(settings, indent=2).encode(), "application/json")
    bulk = Bulk(
        job,
        identity=settings["identity_of_settings"],
        folder=Ingester.folder,
        make=partial(Ingester, job, detector),
        before=partial(_before, job),
        facts={},
        shards=Ingester.shards,
        format=job.format,
        begin=partial(write, root=job.out),
    )
    return run(bulk)


def _before(job: Ingestion, content: bytes, row: Row) -> Image.Image:
    """The whole photo, with a frame around each face."""
    pixels, scale = photo(content, job.max_pixels, 2 * SHOWN)
    image = Image.fromarray(pixels)
    draw, line = ImageDraw.Draw(image), max(2, max(image.size) // 60)
    for face in row["faces"] or ():
        left, top, width, height = (value / scale for value in face["box"])
        draw.rectangle((left, top, left + width, top + height), outline="red", width=line)
    image.thumbnail((SHOWN, SHOWN))
    square = Image.new("RGB", (SHOWN, SHOWN), "white")
    square.paste(image, ((SHOWN - image.width) // 2, (SHOWN - image.height) // 2))
    return square
