"""Converts a folder or bucket of images with G; outputs keep their names. Runs bulk/run.py with a Converter.

OUT/<model>/images/<key>.png        G(x); <model> is the start of a digest of everything that decides it
OUT/<model>/shards/                 with --shards: many of these per file
OUT/<model>/people/                 one image for each person, with --person or --people (people.py)
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from dtn_ray.bulk.ledger import Row
from dtn_ray.bulk.run import Bulk, run
from dtn_ray.convert import people
from dtn_ray.convert.options import Conversion
from dtn_ray.convert.pipeline import Converter, finds_faces, identity, model_folder, upscaler
from dtn_ray.faces.align import align
from dtn_ray.faces.find import detector_file
from dtn_ray.images.decode import decode, photo
from dtn_ray.images.encode import to_image
from dtn_ray.train.trained import load_trained

SHOWN = 128  # pixels of a picture on the contact sheet


def convert(job: Conversion) -> dict[str, Any]:
    """Converts the images below `source` that G has not converted yet; returns counts and the places of the results.

    Raises UserError for a checkpoint of another kind, and as `bulk.run` does.
    """
    trained = load_trained(job.checkpoint)  # the wrong checkpoint fails here, not in every actor
    detector = detector_file(job.detector) if finds_faces(job, trained) else None
    model = identity(job, trained, upscaler(job))
    if job.dry_run:
        job = replace(job, gpu=job.gpu and torch.cuda.is_available())
    bulk = Bulk(
        job,
        identity=model,
        folder=model_folder(model),
        make=partial(Converter, job, detector),
        before=partial(_before, job),
        facts={"checkpoint": job.checkpoint},
        shards=job.shards,
        format=job.format,
        folders=people.FOLDERS,
    )
    if not (job.person or job.people):
        return run(bulk)
    people.who(job)
    summary = run(bulk)
    return summary if job.dry_run else summary | people.choose(job, bulk.ledger, bulk.folder)


def _before(job: Conversion, content: bytes, row: Row) -> Image.Image:
    """x, the input of G."""
    if not row.get("faces"):  # a ledger of format 1 has no such column
        return to_image(decode(content, SHOWN // 2, job.max_pixels))
    pixels, scale = photo(content, job.max_pixels, 2 * SHOWN)
    landmarks = np.reshape(row["faces"][0]["landmarks"], (5, 2))
    return Image.fromarray(align(pixels, (landmarks + 0.5) / scale - 0.5, SHOWN))
