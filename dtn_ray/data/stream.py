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
from PIL import Image

from dtn_ray import storage, tables
from dtn_ray.data import layouts
from dtn_ray.errors import UserError
from dtn_ray.images import is_photo_name, photo

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
        """Its rows; `image` as `large_binary`, null where there is none. Raises OSError where the store fails.

        A row group that is damaged has null in all columns. Raises UserError where the file is gone, or the row group
        takes more memory than tables.GROUP_BYTES.
        """
        try:
            with tables.opened(self.uri) as file:
                stored = [layouts.image_column(file.schema) if name == "image" else name for name in columns]
                rows = file.read(self.index, stored).slice(self.start, self.rows)
        except FileNotFoundError as error:
            raise UserError(f"{self.uri}: was there when the training began, and is gone now") from error
        except tables.Damaged:
            types = {"image": layouts.IMAGES}
            return pa.table({name: pa.nulls(self.rows, types.get(name, pa.null())) for name in columns})
        if "image" in columns:
            rows = rows.set_column(rows.column_names.index("image"), "image", layouts.encoded(rows["image"]))
        return rows.select(columns)

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
        """`image` (null where the file is gone) and `identity` of its rows. Raises OSError where the store fails."""
        keys = self.keys[self.start : self.start + self.rows]
        found = storage.read_many([storage.join(self.uri, key) for key in keys])
        for image in found:
            if isinstance(image, OSError) and not isinstance(image, FileNotFoundError | PermissionError):
                raise image
        images = pa.array([image if isinstance(image, bytes) else None for image in found], layouts.IMAGES)
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
    keys = sorted(key for key in keys if is_photo_name(key) and "/" in key)
    if not keys:
        raise UserError(f"{uri}: neither Parquet files there nor folders of images, one for each person")
    order = np.random.default_rng(0).permutation(len(keys))
    parts = [tuple(keys[j] for j in order[i : i + FILES_AT_ONCE]) for i in range(0, len(keys), FILES_AT_ONCE)]
    return [Files(uri, part, len(part)) for part in parts]


def _parquet_files(uri: str, keys: Sequence[str]) -> list[str]:
    return [storage.join(uri, key) for key in sorted(keys) if key.endswith(".parquet") and layouts.is_data(key)]


def _row_groups(uri: str, uris: Sequence[str], columns: Sequence[str]) -> list[Group]:
    with ThreadPoolExecutor(32) as pool:
        found = [group for groups in pool.map(partial(_footer, columns=columns), uris) for group in groups]
    groups = [group for group in found if group.rows]
    if not groups:
        raise UserError(f"{uri}: its Parquet files have no rows")
    return groups


def _footer(uri: str, columns: Sequence[str]) -> list[Group]:
    try:
        with tables.opened(uri) as file:
            schema, rows = file.schema, file.rows
    except OSError as error:
        raise UserError(f"{uri}: not a readable Parquet file ({error})") from error
    for missing in (column for column in columns if column not in schema.names):
        meaning = ", which tells who is who" if missing == "identity" else ""
        raise UserError(f"{uri}: no column `{missing}`{meaning}; it has {', '.join(schema.names)}")
    layouts.check_images(schema.field("image").type, uri)
    if "identity" in columns and pa.types.is_nested(schema.field("identity").type):
        raise UserError(f"{uri}: column `identity` holds {schema.field('identity').type}; one value a row is needed")
    return [Group(uri, i, count) for i, count in enumerate(rows)]


def identities(groups: Sequence[Rows]) -> list[str]:
    """All people of some groups, sorted; reads nothing but their column `identity`."""
    with ThreadPoolExecutor(32) as pool:
        return sorted({name for names in pool.map(_identities, groups) for name in names})


def _identities(group: Rows) -> set[str]:
    if isinstance(group, Files):
        return {person(key) for key in group.keys[group.start : group.start + group.rows]}
    found = group.table(["identity"])["identity"].unique().to_pylist()
    return {str(each) for each in found if each is not None}  # a row without an identity is a bad row


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
    """About `count` rows of evenly spread groups, or all there are, as `read` gives them, without the bad ones.

    Raises UserError where more than half of them hold no image: then the set is not what it was taken for.
    """
    each = -(-count // min(len(groups), 8))
    chosen = [groups[i] for i in np.unique(np.linspace(0, len(groups) - 1, 8).astype(int))]
    some = Window(tuple(replace(group, rows=min(group.rows, each)) for group in chosen), (0,))
    blocks = list(read(some, size, columns))
    found = {name: np.concatenate([rows[name] for rows in blocks]) for name in ("image", *columns, "bad")}
    bad = [problem for problem in found.pop("bad") if problem]
    if 2 * len(bad) > some.rows:
        raise UserError(f"{len(bad)} of {some.rows} rows that were looked at hold no image, such as {bad[0]}")
    good = np.concatenate([rows["bad"] for rows in blocks]) == ""
    return {name: rows[good][:count] for name, rows in found.items()}


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

    A row that holds no image, or null in another column, is bad: the next good row of the window takes its place, so
    that a window always has as many rows as its files say, and a resumed training finds its place by arithmetic.
    `bad`, N texts, names such a row and what is wrong with it; empty for the others. Raises UserError where no row of
    the window is good, OSError where the store fails.
    """
    tables = [group.table(["image", *columns]) for group in window.groups]
    rows = pa.concat_tables(tables, promote_options="permissive")
    order = np.random.default_rng(window.seed).permutation(len(rows))
    bad = dict[int, str]()  # by the place in the order

    def image(place: int) -> np.ndarray | None:
        """The image of the row at a place of the order; None where it is bad."""
        row = int(order[place % len(order)])
        if place % len(order) in bad:
            return None
        try:
            for name in columns:
                if not rows[name][row].is_valid:
                    raise ValueError(f"no {name}")
            if (content := rows["image"][row].as_py()) is None:
                raise ValueError("no image")
            return decode(content, size)
        except ValueError as error:
            bad[place % len(order)] = f"{window.name(row)}: {error}"
            return None

    for start in range(window.start, len(order), IMAGES_PER_BLOCK):
        places = list(range(start, min(start + IMAGES_PER_BLOCK, len(order))))
        images = np.empty((len(places), 3, size, size), np.uint8)
        for i, place in enumerate(places):
            while (found := image(places[i])) is None:
                places[i] += 1
                if places[i] == place + len(order):
                    raise UserError(f"{bad[place]}; nor does any other of {len(order)} rows around it hold an image")
            images[i] = found
        some = rows.select([*columns]).take(pa.array(order[np.array(places) % len(order)]))
        problems = np.array([bad.get(place, "") for place in range(start, start + len(places))], object)
        yield {"image": images, "bad": problems} | {name: some[name].to_numpy() for name in columns}


def decode(content: bytes, size: int | None = None) -> np.ndarray:
    """An encoded image as 3×`size`×`size` uint8, or 3×H×W as it is stored; as `images.photo` reads it.

    Raises ValueError with the reason where it is none, or of more than MAX_PIXELS.
    """
    pixels, _ = photo(content, MAX_PIXELS)
    if size is not None and pixels.shape[:2] != (size, size):
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return pixels.transpose(2, 0, 1)
