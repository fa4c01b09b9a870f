"""Ray Data: a folder or bucket of images → the same names, transferred by G. Run again, it does what is new.

Blocks between tasks carry keys and outcomes, never pixels: one actor fetches, decodes, transfers, encodes and writes,
with the network and the files on threads beside the model. The driver enters each finished batch into the ledger.

OUT/ledger/                         which object was converted by which model, with what outcome
OUT/lease.json                      held by the run that works here
OUT/<model>/images/<key>.png        G(x); <model> is the beginning of G's digest
OUT/<model>/outcomes.parquet        the last run's report: the ledger's row for each source object
OUT/<model>/summary.json, sheet.png
"""

import io
import json
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pyarrow import fs
from tqdm import tqdm
from tyro.conf import Positional, arg

from dtn_ray import lease, storage
from dtn_ray.checkpoint import Trained, load_trained
from dtn_ray.cluster import connect, worker_resources
from dtn_ray.data.labelled import to_float, to_uint8
from dtn_ray.errors import UserError
from dtn_ray.evaluate.figures import contact_sheet, to_image
from dtn_ray.keys import output_key
from dtn_ray.lease import Lease
from dtn_ray.ledger import SCHEMA, Ledger
from dtn_ray.storage import File

Image.MAX_IMAGE_PIXELS = None  # --max-pixels decides, for every image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # no others: Pillow would call Ghostscript for an EPS
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# Less than a core, so that on a machine of two the tasks beside the actor find room: without it Ray Data stalls there.
ACTOR_CPUS = 0.5

# --max-failure-rate looks at the latest outcomes, so that a store that breaks late in a long run is noticed too.
JUDGED_FROM = 100
JUDGED_AT_MOST = 1000


@dataclass(frozen=True)
class Conversion:
    """One conversion job."""

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """A checkpoint of jobs/train.py, or the folder of a finished run (local or s3://)."""
    source: Annotated[Positional[str], arg(metavar="IN")]
    """Folder or s3:// prefix of images; all below it are converted."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder or s3:// prefix for the results, apart from the source; one OUT for each source."""
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
    match: str = ""
    """Only keys in which this regular expression is found."""
    min_size: int = 0
    """Only objects of so many bytes or more."""
    modified_since: str = ""
    """Only objects changed at this time or later: 2026-01-31 or 2026-01-31T18:00+01:00; UTC where no zone is given."""
    limit: int | None = None
    """Convert so many at most; the next run goes on."""
    retry_failed: bool = False
    """Also try images again that could not be decoded, though they have not changed."""
    max_failure_rate: float = 0.5
    """End early if more than this part of the latest outcomes (100 to 1,000 of them) failed for want of the store or
    the model. Images that cannot be decoded do not count."""
    lease_seconds: float = 60.0
    """A run that was killed keeps others from OUT for so long; one that lives renews its lease."""
    dry_run: bool = False
    """Count, and estimate the time from a few images; write nothing."""


def convert(job: Conversion) -> dict[str, Any]:
    """Converts the images under `source` that this model has not converted yet; returns counts and where to look.

    An image is done once the ledger has it as converted from the object's present version; one that could not be
    decoded is failed for good until it changes; where the store or the model failed it is tried again. Nothing stops
    for a bad image. Raises UserError for a missing or empty source, an output inside it, a checkpoint of another kind,
    more actors than fit, another run on the same OUT, or when more than `max_failure_rate` fails.
    """
    began = time.time()
    files = _select(job, list_images(job.source))
    if _inside(job.out, job.source):
        raise UserError(f"{job.out} lies inside the source {job.source}: the next run would convert its own output")
    model = load_trained(job.checkpoint).digest  # the wrong checkpoint fails here, not in every actor
    ledger = Ledger(storage.join(job.out, "ledger"))
    if job.dry_run:
        before = _rows(ledger.read(), model)
        return _count(job, files, before) | _estimate(job, _todo(job, files, before))
    with lease.hold(storage.join(job.out, "lease.json"), job.lease_seconds) as held:
        before = _rows(ledger.read(), model)
        todo = _todo(job, files, before)
        if todo:
            _run(job, todo, before, model, ledger, held)
        held.check()
        after = _rows(ledger.compact(), model)
        held.check()
        return _finish(job, model, files, before, after, time.time() - began)


def list_images(source: str) -> list[File]:
    """All images below a folder or prefix, sorted by key. Raises UserError where there is none."""
    if storage.kind(source) != fs.FileType.Directory:
        raise UserError(f"{source}: no such folder or prefix")
    found = storage.list_files(source)
    images = [file for file in found if file.key.lower().endswith(SUFFIXES)]
    if not images:
        raise UserError(f"{source}: no images there ({len(found)} other entries; images end in {', '.join(SUFFIXES)})")
    return images


def _select(job: Conversion, files: list[File]) -> list[File]:
    """Those that pass the filters, which may be none of them."""
    try:
        pattern = re.compile(job.match)
    except re.error as error:
        raise UserError(f"--match {job.match}: not a regular expression: {error}") from error
    since = datetime.min.replace(tzinfo=UTC)
    if job.modified_since:
        try:
            since = datetime.fromisoformat(job.modified_since)
        except ValueError as error:
            raise UserError(f"--modified-since {job.modified_since}: not a date such as 2026-01-31") from error
        since = since if since.tzinfo else since.replace(tzinfo=UTC)
    if not 0 <= job.max_failure_rate <= 1:
        raise UserError(f"--max-failure-rate {job.max_failure_rate} must lie between 0 and 1")
    if job.limit is not None and job.limit < 0:
        raise UserError(f"--limit {job.limit} must be at least 0")
    if job.lease_seconds <= 0:
        raise UserError(f"--lease-seconds {job.lease_seconds} must be more than 0")
    return [file for file in files if pattern.search(file.key) and file.size >= job.min_size and file.modified >= since]


Row = dict[str, Any]


def _rows(ledger: pa.Table, model: str) -> dict[str, Row]:
    """The ledger's rows of one model, by key."""
    return {row["key"]: row for row in ledger.filter(pc.field("model") == model).to_pylist()}


def _todo(job: Conversion, files: list[File], before: dict[str, Row]) -> list[File]:
    return [file for file in files if not _settled(file, before.get(file.key), job.retry_failed)][: job.limit]


def _settled(file: File, row: Row | None, retry_failed: bool) -> bool:
    """Whether there is nothing to do for this version of a file."""
    if row is None or row["version"] != file.version:
        return False
    return row["status"] == "converted" or (row["cause"] == "image" and not retry_failed)


def _run(job: Conversion, todo: list[File], before: dict[str, Row], model: str, ledger: Ledger, held: Lease) -> None:
    """Converts `todo` on Ray, each finished batch into the ledger.

    Raises UserError where too much fails or the lease is lost.
    """
    connect()
    worker_resources(job.actors, ACTOR_CPUS, job.gpu)
    _one_progress_bar()
    blocks = max(1, min(-(-len(todo) // job.batch_size), 1000))
    outcomes = (
        ray.data.from_arrow(_table(todo, before))
        .repartition(blocks)
        .map_batches(
            Converter,
            fn_constructor_args=(job,),
            batch_size=job.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=job.actors),
            num_cpus=ACTOR_CPUS,
            num_gpus=1 if job.gpu else 0,
        )
    )
    latest: deque[str | None] = deque(maxlen=JUDGED_AT_MOST)
    with tqdm(total=len(todo), unit="image", desc="converting") as bar:
        part: pa.Table
        for part in outcomes.iter_batches(batch_size=None, batch_format="pyarrow"):  # type: ignore[assignment]
            held.check()
            ledger.append(part.append_column("model", pa.array([model] * len(part), pa.string())))
            bar.update(len(part))
            latest.extend(row["reason"] if row["cause"] in ("store", "model") else None for row in part.to_pylist())
            _judge(job, latest)


def _table(todo: Iterable[File], before: dict[str, Row]) -> pa.Table:
    rows = [
        {
            "key": file.key,
            "version": file.version,
            "size": file.size,
            "attempts": before[file.key]["attempts"] + 1 if file.key in before else 1,
        }
        for file in todo
    ]
    return pa.Table.from_pylist(
        rows, pa.schema([SCHEMA.field(name) for name in ("key", "version", "size", "attempts")])
    )


def _judge(job: Conversion, latest: deque[str | None]) -> None:
    """Raises UserError if too many of the latest outcomes are failures that another try may mend."""
    reasons = [reason for reason in latest if reason is not None]
    if len(latest) >= JUDGED_FROM and len(reasons) > job.max_failure_rate * len(latest):
        raise UserError(
            f"{job.out}: given up: {len(reasons)} of the last {len(latest)} images failed, more than "
            f"--max-failure-rate {job.max_failure_rate}; most often: {Counter(reasons).most_common(1)[0][0]}. "
            "Once that is mended, the same command goes on with what is missing."
        )


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
        self.images = f"{_folder(trained.digest)}/images"
        self.pool = ThreadPoolExecutor(job.threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A batch with the column key in; the same with status, cause, reason, output, score ‖f(x) - f(G(x))‖."""
        keys = batch["key"].to_pylist()
        read = list(self.pool.map(self._read, keys))
        rows: list[Row] = [each if isinstance(each, dict) else {} for each in read]
        images = {i: each for i, each in enumerate(read) if isinstance(each, np.ndarray)}
        if images:
            try:
                transferred, scores = self._transfer(np.stack(list(images.values())))
                done = self.pool.map(self._write, [keys[i] for i in images], transferred, scores)
                for i, row in zip(images, done, strict=True):
                    rows[i] = row
            except RuntimeError as error:  # as torch tells of too little memory
                for i in images:
                    rows[i] = _failure("model", f"the networks failed: {error}")
        outcomes = pa.Table.from_pylist(rows, schema=OUTCOME)
        for name in OUTCOME.names:
            batch = batch.append_column(name, outcomes[name])
        return batch

    def _read(self, key: str) -> np.ndarray | Row:
        try:
            content = storage.read_bytes(_uri(self.job.source, key))
        except (OSError, ValueError) as error:
            return _failure("store", str(error))
        try:
            return decode(content, self.size, self.job.max_pixels)
        except ValueError as error:
            return _failure("image", str(error))

    @torch.no_grad()
    def _transfer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = to_float(images).to(self.device)
        f_x, G_x = self.dtn.f(x), self.dtn.G(x)
        return to_uint8(G_x).cpu().numpy(), (f_x - self.dtn.f(G_x)).norm(dim=1).cpu().numpy()

    def _write(self, key: str, pixels: np.ndarray, score: np.float32) -> Row:
        if not np.isfinite(score):
            return _failure("model", "the networks gave values that are not finite")
        output = f"{self.images}/{output_key(key)}"
        encoded = io.BytesIO()
        to_image(pixels).save(encoded, format="png", compress_level=1)
        if not self.job.dry_run:
            try:
                storage.write_bytes(storage.join(self.job.out, output), encoded.getvalue())
            except UserError as error:
                return _failure("store", f"cannot write: {error}")
        return {"status": "converted", "output": output, "score": float(score)}


OUTCOME = pa.schema([SCHEMA.field(name) for name in ("status", "cause", "reason", "output", "score")])


def _failure(cause: str, reason: str) -> Row:
    return {"status": "failed", "cause": cause, "reason": " ".join(reason.split())[:500]}


def _folder(model: str) -> str:
    """Where a model's results lie below OUT."""
    return model[:12]


def _uri(source: str, key: str) -> str:
    """Of a source object; keys may begin with a slash, which `storage.join` would take for an absolute path."""
    return f"{source.rstrip('/')}/{key}"


def _one_progress_bar() -> None:
    """Leaves the console to this module's bar: Ray Data's bars and plans go to its log file alone, warnings to both."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that they are off
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)


def _count(job: Conversion, files: list[File], rows: dict[str, Row]) -> dict[str, Any]:
    """How many images are converted and failed by the ledger's rows, in their present version; and why some failed."""
    present = [row for file in files if (row := rows.get(file.key)) and row["version"] == file.version]
    failed = [row for row in present if row["status"] == "failed"]
    return {
        "source": job.source,
        "out": job.out,
        "checkpoint": job.checkpoint,
        "images": len(files),
        "done_before": len(present) - len(failed),
        "failed": len(failed),
        "failures": {row["key"]: row["reason"] for row in failed[:20]},
    }


def _estimate(job: Conversion, todo: list[File]) -> dict[str, Any]:
    """What a run would do, with its time from converting a few images here, start-up not counted."""
    seconds = 0.0
    if todo:
        sample = todo[:: -(-len(todo) // 32)]
        converter = Converter(replace(job, gpu=job.gpu and torch.cuda.is_available()))
        began = time.perf_counter()
        converter(_table(sample, {}))
        seconds = (time.perf_counter() - began) / len(sample) * len(todo) / job.actors
    return {
        "to_convert": len(todo),
        "bytes_to_read": sum(file.size for file in todo),
        "estimated_seconds": round(seconds, 1),
    }


def _finish(
    job: Conversion, model: str, files: list[File], before: dict[str, Row], after: dict[str, Row], seconds: float
) -> dict[str, Any]:
    """Writes outcomes, contact sheet and summary, and returns the summary."""
    folder = storage.join(job.out, _folder(model))
    rows = [after[file.key] for file in files if file.key in after]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer)
    storage.write_bytes(storage.join(folder, "outcomes.parquet"), buffer.getvalue())
    summary = _count(job, files, after)
    converted = summary["done_before"]
    done_before = sum(row == before.get(row["key"]) for row in rows if row["status"] == "converted")
    summary |= {
        "done_before": done_before,
        "converted": converted - done_before,
        "remaining": len(files) - converted - summary["failed"],
        "folder": folder,
        "seconds": round(seconds, 1),
    }
    sheet = _sheet(job, [row for row in rows if row["status"] == "converted"])
    if sheet:
        summary["sheet"] = storage.join(folder, "sheet.png")
        storage.write_bytes(summary["sheet"], sheet)
    storage.write_bytes(storage.join(folder, "summary.json"), json.dumps(summary, indent=2).encode())
    return summary


def _sheet(job: Conversion, converted: list[Row]) -> bytes | None:
    """The contact sheet as a PNG; None where there is nothing to show."""
    chosen = np.random.default_rng(0).permutation(len(converted))[: job.sheet]
    pairs = [pair for i in sorted(chosen) if (pair := _pair(job, converted[i]))]
    if not pairs:
        return None
    sheet = io.BytesIO()
    contact_sheet(pairs).save(sheet, format="png")
    return sheet.getvalue()


def _pair(job: Conversion, row: Row) -> tuple[Image.Image, Image.Image] | None:
    try:
        before = decode(storage.read_bytes(_uri(job.source, row["key"])), 64, job.max_pixels)
        after = Image.open(io.BytesIO(storage.read_bytes(storage.join(job.out, row["output"]))))
        return to_image(before), after
    except (OSError, ValueError):  # changed or gone since
        return None


def _inside(out: str, source: str) -> bool:
    """Whether one URI lies at or below another on the same filesystem."""
    (out_fs, out_path), (source_fs, source_path) = storage.resolve(out), storage.resolve(source)
    return type(out_fs) is type(source_fs) and (out_path + "/").startswith(source_path.rstrip("/") + "/")
