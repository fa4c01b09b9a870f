"""Ray Data: a folder or bucket of images → the same names, transferred by G.

Blocks between tasks carry keys and outcomes, never pixels: one actor fetches, decodes, transfers, encodes and writes,
with the network and the files on threads beside the model.
"""

import io
import json
import logging
import posixpath
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pyarrow import fs
from tqdm import tqdm
from tyro.conf import Positional, arg

from dtn_ray import storage
from dtn_ray.checkpoint import Trained, load_trained
from dtn_ray.cluster import connect, worker_resources
from dtn_ray.data.labelled import to_float, to_uint8
from dtn_ray.errors import UserError
from dtn_ray.evaluate.figures import contact_sheet, to_image

Image.MAX_IMAGE_PIXELS = None  # --max-pixels decides, for every image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # no others: Pillow would call Ghostscript for an EPS
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# Less than a core, so that on a machine of two the tasks beside the actor find room: without it Ray Data stalls there.
ACTOR_CPUS = 0.5


@dataclass(frozen=True)
class Conversion:
    """One conversion job."""

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """A checkpoint of jobs/train.py, or the folder of a finished run (local or s3://)."""
    source: Annotated[Positional[str], arg(metavar="IN")]
    """Folder or s3:// prefix of images; all below it are converted."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder or s3:// prefix for the results, apart from the source."""
    actors: int = 1
    """Model-holding actors that share the work."""
    gpu: bool = False
    """One GPU for each actor."""
    batch_size: int = 256
    """Images in one pass through the networks."""
    threads: int = 8
    """Files that one actor reads or writes at once."""
    max_pixels: int = 50_000_000
    """Images of more pixels are refused before they are decoded."""
    sheet: int = 64
    """Pairs on the contact sheet."""


def convert(job: Conversion) -> dict[str, Any]:
    """Converts every image under `source` and returns counts, failures and where to look.

    Writes G(x) as OUT/images/<key>.png, one outcome per source object to OUT/outcomes.parquet, OUT/summary.json and
    OUT/sheet.png. An image that cannot be read is a failed outcome with its reason, and stops nothing. Raises UserError
    for a missing or empty source, an output inside it, a checkpoint of another kind, or more actors than fit.
    """
    began = time.time()
    keys = list_images(job.source)
    if _inside(job.out, job.source):
        raise UserError(f"{job.out} lies inside the source {job.source}: the next run would convert its own output")
    load_trained(job.checkpoint)  # the wrong checkpoint fails here, not in every actor
    connect()
    worker_resources(job.actors, ACTOR_CPUS, job.gpu)

    _one_progress_bar()
    blocks = max(1, min(-(-len(keys) // job.batch_size), 1000))
    dataset = ray.data.from_arrow(pa.table({"key": keys})).repartition(blocks)
    outcomes = dataset.map_batches(
        Converter,
        fn_constructor_args=(job,),
        batch_size=job.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=job.actors),
        num_cpus=ACTOR_CPUS,
        num_gpus=1 if job.gpu else 0,
    )
    parts = []
    with tqdm(total=len(keys), unit="image", desc="converting") as bar:
        for part in outcomes.iter_batches(batch_size=None, batch_format="pyarrow"):
            parts.append(part)
            bar.update(len(part))
    table = pa.concat_tables(parts).sort_by("key")
    return _finish(job, table, time.time() - began)


def list_images(source: str) -> list[str]:
    """Keys of all images below a folder or prefix, relative to it, sorted. Raises UserError where there is none."""
    filesystem, root = storage.resolve(source)
    if storage.kind(source) != fs.FileType.Directory:
        raise UserError(f"{source}: no such folder or prefix")
    found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    keys = sorted(
        posixpath.relpath(info.path, root)
        for info in found
        if info.type == fs.FileType.File and info.path.lower().endswith(SUFFIXES)
    )
    if not keys:
        raise UserError(f"{source}: no images there ({len(found)} other entries; images end in {', '.join(SUFFIXES)})")
    return keys


def decode(content: bytes, size: int, max_pixels: int) -> np.ndarray:
    """An encoded image as the digits' f takes it: 3×`size`×`size` uint8, upright, cropped to its central square.

    Any mode of Pillow's (grayscale, palette, CMYK, alpha on white, 16-bit) becomes RGB. Raises ValueError with the
    reason where the image is empty, damaged, unknown or of more than `max_pixels`.
    """
    if not content:
        raise ValueError("empty file")
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width}×{image.height} pixels, more than the limit of {max_pixels}")
        image = ImageOps.exif_transpose(image)
        if image.mode == "F":  # as scanners and simulations write it: 0 is black, the brightest value white
            values = np.nan_to_num(np.asarray(image)).clip(0)
            image = Image.fromarray((values / max(values.max(), 1e-9) * 255).astype(np.uint8))
        if image.mode.startswith("I"):  # Pillow clips 16 bits to 8 instead of scaling them
            image = Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    except UnidentifiedImageError as error:
        raise ValueError("not an image of a known format") from error
    except ValueError:
        raise
    except Exception as error:  # Pillow raises whatever the damaged byte leads to
        raise ValueError(f"damaged image: {error}") from error


class Converter:
    """The actor: holds G once, turns a batch of keys into a batch of outcomes."""

    def __init__(self, job: Conversion) -> None:
        self.job = job
        self.device = "cuda" if job.gpu else "cpu"
        trained: Trained = load_trained(job.checkpoint)
        self.dtn = trained.dtn.to(self.device)
        self.size = trained.manifest["preprocessing"]["size"]
        self.pool = ThreadPoolExecutor(job.threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Keys in; key, status, reason, output, and score ‖f(x) - f(G(x))‖ out, one row for each key."""
        keys = batch["key"].to_pylist()
        images = list(self.pool.map(self._read, keys))
        readable = [i for i, image in enumerate(images) if isinstance(image, np.ndarray)]
        rows: list[dict[str, Any]] = [
            {"key": key, "status": "failed", "reason": image if isinstance(image, str) else None}
            for key, image in zip(keys, images, strict=True)
        ]
        if readable:
            transferred, scores = self._transfer(np.stack([images[i] for i in readable]))
            outputs = self.pool.map(self._write, [keys[i] for i in readable], transferred)
            for i, (output, reason), score in zip(readable, outputs, scores, strict=True):
                status = "failed" if reason else "converted"
                rows[i] |= {"status": status, "reason": reason, "output": output, "score": float(score)}
        return pa.Table.from_pylist(rows, schema=OUTCOME)

    def _read(self, key: str) -> np.ndarray | str:
        try:
            return decode(storage.read_bytes(storage.join(self.job.source, key)), self.size, self.job.max_pixels)
        except (OSError, ValueError) as error:
            return str(error)

    @torch.no_grad()
    def _transfer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = to_float(images).to(self.device)
        f_x, G_x = self.dtn.f(x), self.dtn.G(x)
        return to_uint8(G_x).cpu().numpy(), (f_x - self.dtn.f(G_x)).norm(dim=1).cpu().numpy()

    def _write(self, key: str, pixels: np.ndarray) -> tuple[str | None, str | None]:
        output = storage.join("images", f"{key}.png")
        encoded = io.BytesIO()
        to_image(pixels).save(encoded, format="png", compress_level=1)
        try:
            storage.write_bytes(storage.join(self.job.out, output), encoded.getvalue())
        except UserError as error:
            return None, f"cannot write: {error}"
        return output, None


OUTCOME = pa.schema(
    {
        "key": pa.string(),
        "status": pa.string(),  # converted or failed
        "reason": pa.string(),
        "output": pa.string(),
        "score": pa.float32(),
    }
)


def _one_progress_bar() -> None:
    """Leaves the console to this module's bar: Ray Data's bars and plans go to its log file alone, warnings to both."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that they are off
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)


def _finish(job: Conversion, table: pa.Table, seconds: float) -> dict[str, Any]:
    """Writes outcomes, contact sheet and summary, and returns the summary."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(storage.join(job.out, "outcomes.parquet"), buffer.getvalue())
    rows = table.to_pylist()
    converted = [row for row in rows if row["status"] == "converted"]
    failed = [row for row in rows if row["status"] == "failed"]
    summary = {
        "source": job.source,
        "out": job.out,
        "checkpoint": job.checkpoint,
        "images": len(rows),
        "converted": len(converted),
        "failed": len(failed),
        "failures": {row["key"]: row["reason"] for row in failed[:20]},
        "seconds": round(seconds, 1),
    }
    if converted and job.sheet:
        chosen = np.random.default_rng(0).permutation(len(converted))[: job.sheet]
        sheet = io.BytesIO()
        contact_sheet([_pair(job, converted[i]) for i in sorted(chosen)]).save(sheet, format="png")
        storage.write_bytes(storage.join(job.out, "sheet.png"), sheet.getvalue())
        summary["sheet"] = storage.join(job.out, "sheet.png")
    storage.write_bytes(storage.join(job.out, "summary.json"), json.dumps(summary, indent=2).encode())
    return summary


def _pair(job: Conversion, row: dict[str, Any]) -> tuple[Image.Image, Image.Image]:
    before = decode(storage.read_bytes(storage.join(job.source, row["key"])), 64, job.max_pixels)
    after = Image.open(io.BytesIO(storage.read_bytes(storage.join(job.out, row["output"]))))
    return to_image(before), after


def _inside(out: str, source: str) -> bool:
    """Whether one URI lies at or below another on the same filesystem."""
    (out_fs, out_path), (source_fs, source_path) = storage.resolve(out), storage.resolve(source)
    return type(out_fs) is type(source_fs) and (out_path + "/").startswith(source_path.rstrip("/") + "/")
