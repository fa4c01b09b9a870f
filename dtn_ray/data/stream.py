"""Images in Parquet files, of any number, in an order that is arithmetic; streaming.py streams them.

A stream is an endless sequence of windows, each some row groups shuffled together. Which window comes when, who reads
it, and what is left after a restart with another number of workers, are pure functions of the seed and of how many rows
were taken; nothing but those numbers is ever saved.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.images import SUFFIXES, photo

IMAGES_PER_BLOCK = 256  # decoded at once: 18 MB at 152 pixels
FILES_AT_ONCE = 256
WITH_IDENTITY = ("image", "identity")
MAX_PIXELS = 100_000_000  # of one image


@dataclass(frozen=True)
class Group:
    """Rows of one row group of a Parquet file with a column `image` of encoded images."""

    uri: str
    index: int
    rows: int
    start: int = 0

    def table(self, columns: list[str]) -> pa.Table:
        """Its rows, as they are stored."""
        filesystem, path = storage.resolve(self.uri)
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            return file.read_row_group(self.index, columns=columns).slice(self.start, self.rows)

    def name(self, row: int) -> str:
        """Of one of its rows."""
        return f"{self.uri}, row {self.start + row} of row group {self.index}"


@dataclass(frozen=True)
class Files:
    """Images below a folder, each in a subfolder of its own person."""

    uri: str
    keys: tuple[str, ...]
    rows: int
    start: int = 0

    def table(self, columns: list[str]) -> pa.Table:
        """`image` and `identity` of its rows. Raises UserError where a file cannot be read."""
        keys = self.keys[self.start : self.start + self.rows]
        images = storage.read_many([storage.join(self.uri, key) for key in keys])
        for image in images:
            if isinstance(image, OSError):
                raise UserError(str(image))
        return pa.table({"image": images, "identity": [*map(person, keys)]}).select(columns)

    def name(self, row: int) -> str:
        """Of one of its rows."""
        return storage.join(self.uri, self.keys[self.start + row])


Rows = Group | Files


@dataclass(frozen=True)
class Window:
    """Some row groups, shuffled together, less the first `start` rows, which were taken already."""

    groups: tuple[Rows, ...]
    seed: tuple[int, ...]
    start: int = 0

    @property
    def rows(self) -> int:
        return count_rows(self.groups) - self.start

    def name(self, row: int) -> str:
        """Where a row is stored, by its number before they were shuffled."""
        for group in self.groups:
            if row < group.rows:
                return group.name(row)
            row -= group.rows
        raise IndexError(row)


def find_groups(uri: str, columns: Sequence[str] = ("image",)) -> list[Group]:
    """The row groups of all Parquet files at or below a URI, in the order of their names.

    Reads footers alone. Raises UserError where there is none, or one is damaged or lacks one of `columns`.
    """
    uris = [uri] if uri.endswith(".parquet") else _parquet_files(uri, storage.list_keys(uri))
    if not uris:
        raise UserError(f"{uri}: no Parquet files there; jobs/ingest.py and jobs/make_emoji.py write them")
    return _row_groups(uri, uris, columns)


def find_people(uri: str) -> list[Rows]:
    """Faces of people: Parquet files with columns `image` and `identity`, or a folder with a subfolder for each person.

    Files of a folder come in a random order, always the same. Raises UserError where there are none.
    """
    if uri.endswith(".parquet"):
        return [*find_groups(uri, WITH_IDENTITY)]
    keys = storage.list_keys(uri)
    if uris := _parquet_files(uri, keys):
        return [*_row_groups(uri, uris, WITH_IDENTITY)]
    keys = sorted(key for key in keys if key.lower().endswith(SUFFIXES) and "/" in key)
    if not keys:
        raise UserError(f"{uri}: neither Parquet files there nor folders of images, one for each person")
    order = np.random.default_rng(0).permutation(len(keys))
    parts = [tuple(keys[j] for j in order[i : i + FILES_AT_ONCE]) for i in range(0, len(keys), FILES_AT_ONCE)]
    return [Files(uri, part, len(part)) for part in parts]


def _parquet_files(uri: str, keys: Sequence[str]) -> list[str]:
    return [storage.join(uri, key) for key in sorted(keys) if key.endswith(".parquet")]


def _row_groups(uri: str, uris: Sequence[str], columns: Sequence[str]) -> list[Group]:
    with ThreadPoolExecutor(32) as pool:
        found = [group for groups in pool.map(partial(_footer, columns=columns), uris) for group in groups]
    groups = [group for group in found if group.rows]
    if not groups:
        raise UserError(f"{uri}: its Parquet files have no rows")
    return groups


def _footer(uri: str, columns: Sequence[str]) -> list[Group]:
    filesystem, path = storage.resolve(uri)
    try:
        footer = pq.read_metadata(path, filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{uri}: not a readable Parquet file ({error})") from error
    names = footer.schema.names
    for missing in (column for column in columns if column not in names):
        meaning = ", which tells who is who" if missing == "identity" else ""
        raise UserError(f"{uri}: no column `{missing}`{meaning}; it has {', '.join(names)}")
    return [Group(uri, i, footer.row_group(i).num_rows) for i in range(footer.num_row_groups)]


def identities(groups: Sequence[Rows]) -> list[str]:
    """All people of some groups, sorted; reads nothing but their column `identity`."""
    with ThreadPoolExecutor(32) as pool:
        return sorted({name for names in pool.map(_identities, groups) for name in names})


def _identities(group: Rows) -> set[str]:
    if isinstance(group, Files):
        return {person(key) for key in group.keys[group.start : group.start + group.rows]}
    found = group.table(["identity"])["identity"].unique().to_pylist()
    if None in found:
        raise UserError(f"{group.uri}: rows without an identity; leave them out, or they would be one person")
    return {str(each) for each in found}


def person(key: str) -> str:
    """Whose folder a key lies in."""
    return key.rpartition("/")[0]


def count_rows(groups: Iterable[Rows]) -> int:
    """Rows of all groups together."""
    return sum(group.rows for group in groups)


def hold_out(groups: Sequence[Rows], count: int) -> tuple[list[Rows], list[Rows]]:
    """(the rest, the last `count` rows); at most a tenth of all is held out."""
    count = min(count, count_rows(groups) // 10)
    rest, held = list(groups), list[Rows]()
    while count:
        last = rest.pop()
        taken = min(count, last.rows)
        held.insert(0, replace(last, start=last.start + last.rows - taken, rows=taken))
        if taken < last.rows:
            rest.append(replace(last, rows=last.rows - taken))
        count -= taken
    return rest, held


def sample(groups: Sequence[Rows], count: int, size: int, columns: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """About `count` rows of evenly spread groups, or all there are, as `read` gives them."""
    each = -(-count // min(len(groups), 8))
    chosen = [groups[i] for i in np.unique(np.linspace(0, len(groups) - 1, 8).astype(int))]
    some = Window(tuple(replace(group, rows=min(group.rows, each)) for group in chosen), (0,))
    found = list(read(some, size, columns))
    return {name: np.concatenate([rows[name] for rows in found])[:count] for name in ("image", *columns)}


def windows(groups: Sequence[Rows], seed: int, size: int = 2) -> Iterator[Window]:
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


def read(window: Window, size: int, columns: Sequence[str] = ()) -> Iterator[dict[str, np.ndarray]]:
    """The window's rows in order: `image` N×3×`size`×`size` uint8, N at most IMAGES_PER_BLOCK, and other columns.

    Raises UserError for a row that is no image: shards hold none, unless damaged.
    """
    rows = pa.concat_tables([group.table(["image", *columns]) for group in window.groups])
    order = np.random.default_rng(window.seed).permutation(len(rows))[window.start :]
    for i in range(0, len(order), IMAGES_PER_BLOCK):
        some = rows.take(pa.array(order[i : i + IMAGES_PER_BLOCK]))
        images = np.empty((len(some), 3, size, size), np.uint8)
        for place, row in enumerate(some["image"]):
            try:
                images[place] = decode(row.as_py(), size)
            except ValueError as error:
                raise UserError(f"{window.name(order[i + place])}: {error}") from error
        yield {"image": images} | {name: some[name].to_numpy() for name in columns}


def decode(content: bytes, size: int | None = None) -> np.ndarray:
    """An encoded image as 3×`size`×`size` uint8, or 3×H×W as it is stored; as `images.photo` reads it.

    Raises ValueError with the reason where it is none, or of more than MAX_PIXELS.
    """
    pixels, _ = photo(content, MAX_PIXELS)
    if size is not None and pixels.shape[:2] != (size, size):
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return pixels.transpose(2, 0, 1)
