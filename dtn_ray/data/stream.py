"""Images in Parquet files, of any number, in an order that is arithmetic; streaming.py streams them.

A stream is an endless sequence of windows, each some row groups shuffled together. Which window comes when, who reads
it, and what is left after a restart with another number of workers, are pure functions of the seed and of how many rows
were taken; nothing but those numbers is ever saved.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, count

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dtn_ray import storage
from dtn_ray.errors import UserError

IMAGES_PER_BLOCK = 256  # decoded at once: 18 MB at 152 pixels


@dataclass(frozen=True)
class Group:
    """Rows of one row group of a Parquet file with a column `image` of encoded images."""

    uri: str
    index: int
    rows: int
    start: int = 0


@dataclass(frozen=True)
class Window:
    """Some row groups, shuffled together, less the first `start` rows, which were taken already."""

    groups: tuple[Group, ...]
    seed: tuple[int, ...]
    start: int = 0

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups) - self.start


def find_groups(uri: str) -> list[Group]:
    """The row groups of all Parquet files at or below a URI, in the order of their names.

    Reads footers alone. Raises UserError where there is none, or one is damaged or has no column `image`.
    """
    uris = (
        [uri]
        if uri.endswith(".parquet")
        else [storage.join(uri, key) for key in sorted(storage.list_keys(uri)) if key.endswith(".parquet")]
    )
    if not uris:
        raise UserError(f"{uri}: no Parquet files there; jobs/ingest.py and jobs/make_emoji.py write them")
    with ThreadPoolExecutor(32) as pool:
        groups = [group for found in pool.map(_groups, uris) for group in found if group.rows]
    if not groups:
        raise UserError(f"{uri}: its Parquet files have no rows")
    return groups


def _groups(uri: str) -> list[Group]:
    filesystem, path = storage.resolve(uri)
    try:
        footer = pq.read_metadata(path, filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{uri}: not a readable Parquet file ({error})") from error
    if "image" not in footer.schema.names:
        raise UserError(f"{uri}: no column `image`; it has {', '.join(footer.schema.names)}")
    return [Group(uri, i, footer.row_group(i).num_rows) for i in range(footer.num_row_groups)]


def hold_out(groups: Sequence[Group], count: int) -> tuple[list[Group], list[Group]]:
    """(the rest, the last `count` rows); at most a tenth of all is held out."""
    count = min(count, sum(group.rows for group in groups) // 10)
    rest, held = list(groups), list[Group]()
    while count:
        last = rest.pop()
        taken = min(count, last.rows)
        held.insert(0, replace(last, start=last.start + last.rows - taken, rows=taken))
        if taken < last.rows:
            rest.append(replace(last, rows=last.rows - taken))
        count -= taken
    return rest, held


def sample(groups: Sequence[Group], count: int, size: int) -> np.ndarray:
    """About `count` images of evenly spread groups, or all there are: N×3×`size`×`size` uint8."""
    each = -(-count // min(len(groups), 8))
    chosen = [groups[i] for i in np.unique(np.linspace(0, len(groups) - 1, 8).astype(int))]
    some = Window(tuple(replace(group, rows=min(group.rows, each)) for group in chosen), (0,))
    return np.concatenate(list(read(some, size)))[:count]


def windows(groups: Sequence[Group], seed: int, size: int = 2) -> Iterator[Window]:
    """The endless sequence: in each epoch every row group once, in an order of its own, `size` in a window."""
    for epoch in count():
        order = np.random.default_rng([seed, epoch]).permutation(len(groups))
        for i in range(0, len(groups), size):
            yield Window(tuple(groups[j] for j in order[i : i + size]), (seed, epoch, i))


def left_after(sequence: Iterator[Window], workers: int, rows: int) -> Iterator[Window]:
    """What is left of a sequence once each of `workers` has taken `rows` rows of every `workers`-th window."""
    wanted, left = [rows] * workers, list[Window]()
    for i, window in enumerate(sequence if rows else ()):
        taken = min(wanted[i % workers], window.rows)
        wanted[i % workers] -= taken
        if taken < window.rows:
            left.append(replace(window, start=window.start + taken))
        if not any(wanted):
            break
    return chain(left, sequence)


def read(window: Window, size: int) -> Iterator[np.ndarray]:
    """The window's images in order, N×3×`size`×`size` uint8 each, N at most IMAGES_PER_BLOCK.

    Raises UserError for a row that is no image: shards hold none, unless damaged.
    """
    tables = []
    for group in window.groups:
        filesystem, path = storage.resolve(group.uri)
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            tables.append(file.read_row_group(group.index, columns=["image"]).slice(group.start, group.rows))
    contents = pa.concat_tables(tables)["image"]
    order = np.random.default_rng(window.seed).permutation(len(contents))[window.start :]
    for i in range(0, len(order), IMAGES_PER_BLOCK):
        some = contents.take(pa.array(order[i : i + IMAGES_PER_BLOCK])).to_pylist()
        try:
            yield np.stack([decode(content, size) for content in some])
        except (OSError, ValueError, TypeError) as error:
            names = ", ".join(sorted({group.uri for group in window.groups}))
            raise UserError(f"{names}: a row that is no image ({error})") from error


def decode(content: bytes, size: int | None = None) -> np.ndarray:
    """An encoded image as 3×`size`×`size` uint8, or 3×H×W as it is stored.

    Raises OSError, ValueError or TypeError where it is none.
    """
    image = Image.open(io.BytesIO(content)).convert("RGB")
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)
