"""Ray: draws a target set of avatars into Parquet files. A later run draws those that are missing.

OUT/part-00000.parquet …   columns image (PNG), key (the avatar's seed), options (all that it was drawn from, as JSON)
OUT/emoji.json, sheet.png  style, licence, expression, count; a contact sheet
"""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image
from tqdm import tqdm

from dtn_ray import storage
from dtn_ray.emoji.draw import check, draw, licence
from dtn_ray.emoji.options import EmojiSet
from dtn_ray.errors import UserError, changes
from dtn_ray.images.encode import encode
from dtn_ray.parquet import tables
from dtn_ray.ray_cluster.connect import causes, connect
from dtn_ray.storage import json_files
from dtn_ray.storage.ownership import refuse_foreign

EMOJI_PER_FILE = 1000
EMOJI_PER_GROUP = 250  # small row groups, so that a training's stream shuffles well
SHEET = (6, 12)


def make_emoji(job: EmojiSet) -> dict[str, Any]:
    """Draws the missing avatars of a set, and returns facts about the set. Raises UserError for invalid settings."""
    if job.count < 1 or job.size < 16:
        raise UserError("--count must be at least 1 and --size at least 16")
    options = _options(job)
    # Not where it lies: a set may be moved.
    about = {name: value for name, value in asdict(job).items() if name != "out"} | {
        "options": options,
        "licence": licence(job.style),
        "drawn_with": {name: version(name) for name in ("dicebear-core", "dicebear-styles", "resvg-py")},
    }
    # Checks the settings here, so that not every task reports the same error.
    draw(job.style, "0", job.expression, job.size, **options)
    numbers = range(-(-job.count // EMOJI_PER_FILE))
    refuse_foreign(job.out, "emoji.json", ("style", "licence"), ["sheet.png", *map(_name, numbers)])
    record = storage.join(job.out, "emoji.json")
    if storage.exists(record):
        before = {"options": {}} | json_files.read_object(record)  # old sets' records lack them, and have out
        before.pop("out", None)
        if before != about:
            raise UserError(f"{record}: another set is there ({', '.join(changes(before, about))}); choose another OUT")
    storage.write_bytes(record, json.dumps(about, indent=2).encode(), "application/json")
    there = {*storage.list_keys(job.out)}
    missing = [i for i in numbers if _name(i) not in there]
    with tqdm(total=job.count, initial=job.count - sum(_count(job, i) for i in missing), unit="emoji") as bar:
        for drawn in _draw_files(job, missing, options):
            bar.update(drawn)
    storage.write_bytes(storage.join(job.out, "sheet.png"), _sheet(job), "image/png")
    return about | {"files": len(numbers), "sheet": storage.join(job.out, "sheet.png")}


def _options(job: EmojiSet) -> dict[str, Any]:
    if job.options is None:
        return {}
    try:
        options = json_files.read_object(job.options)
    except UserError as error:
        raise UserError(f"--options {error}") from error
    check(job.style, options)
    return options


def _draw_files(job: EmojiSet, numbers: list[int], options: dict[str, Any]) -> Iterator[int]:
    if not numbers:
        return
    connect()
    remote: Any = ray.remote(_draw_file).options(num_cpus=1, max_retries=5)
    waiting = [remote.remote(job, _name(i), i * EMOJI_PER_FILE, _count(job, i), options) for i in numbers]
    while waiting:
        (done,), waiting = ray.wait(waiting)
        with causes():
            drawn = ray.get(done)
        yield drawn


def _name(number: int) -> str:
    return f"part-{number:05}.parquet"


def _count(job: EmojiSet, number: int) -> int:
    return min(EMOJI_PER_FILE, job.count - number * EMOJI_PER_FILE)


def _draw_file(job: EmojiSet, name: str, first: int, count: int, options: dict[str, Any]) -> int:
    """Draws one file, and returns the number of avatars in it."""
    seeds = [f"{job.seed}-{i}" for i in range(first, first + count)]
    drawn = [draw(job.style, seed, job.expression, job.size, **options) for seed in seeds]
    table = pa.table(
        {
            "image": [encode(emoji.pixels.transpose(2, 0, 1)) for emoji in drawn],
            "key": seeds,
            "options": [json.dumps(emoji.options) for emoji in drawn],
        }
    ).replace_schema_metadata({"style": job.style, "licence": licence(job.style)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=EMOJI_PER_GROUP)
    storage.write_bytes(storage.join(job.out, name), buffer.getvalue())
    return len(seeds)


def _sheet(job: EmojiSet) -> bytes:
    """A contact sheet of the first file."""
    rows, columns = SHEET
    with tables.opened(storage.join(job.out, _name(0))) as file:
        table = file.read(0, ["image"])
    sheet = Image.new("RGB", (columns * job.size, rows * job.size), "white")
    for i, content in enumerate(table["image"].to_pylist()[: rows * columns]):
        sheet.paste(Image.open(io.BytesIO(content)), (i % columns * job.size, i // columns * job.size))
    buffer = io.BytesIO()
    sheet.save(buffer, format="png")
    return buffer.getvalue()
