"""Windows of row groups, in an order computed from a seed, read and decoded.

A stream is an endless sequence of windows, each a few row groups shuffled together: one order of all rows, a pure
function of the seed and of the sizes of the row groups. Global batches cut it one after the other, and each worker
takes its share of every batch. So neither the number of workers nor a restart changes which rows a batch holds, and the
number of rows taken is all that is ever saved.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pyarrow as pa
from PIL import Image

from dtn_ray.data.rows import Rows, count_rows
from dtn_ray.errors import UserError
from dtn_ray.images.decode import photo

IMAGES_PER_BLOCK = 256  # decoded at once: 18 MB at 152 pixels
MAX_PIXELS = 100_000_000  # of one image


@dataclass(frozen=True)
class Window:
    """Some row groups, shuffled together, without the first `start` rows, which have already been taken."""

    groups: tuple[Rows, ...]
    seed: tuple[int, ...]
    start: int = 0

    @property
    def rows(self) -> int:
        return count_rows(self.groups) - self.start

    def name(self, row: int) -> str:
        """The name of a row (file and position), by its number before shuffling."""
        for group in self.groups:
            if row < group.rows:
                return group.name(row)
            row -= group.rows
        raise IndexError(row)


def sample_rows(groups: Sequence[Rows], count: int, size: int, columns: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """About `count` rows from evenly spaced groups, or all rows, in the form of `read_window`, without bad rows.

    Raises UserError if more than half of them hold no image, because then the set is probably not a set of images.
    """
    each = -(-count // min(len(groups), 8))
    chosen = [groups[i] for i in np.unique(np.linspace(0, len(groups) - 1, 8).astype(int))]
    some = Window(tuple(replace(group, rows=min(group.rows, each)) for group in chosen), (0,))
    blocks = list(read_window(some, size, columns))
    found = {name: np.concatenate([rows[name] for rows in blocks]) for name in ("image", *columns, "bad")}
    bad = [problem for problem in found.pop("bad") if problem]
    if 2 * len(bad) > some.rows:
        raise UserError(f"{len(bad)} of {some.rows} sampled rows hold no image, such as {bad[0]}")
    good = np.concatenate([rows["bad"] for rows in blocks]) == ""
    return {name: rows[good][:count] for name, rows in found.items()}


@dataclass(frozen=True)
class Part:
    """The rows of a window that one worker takes: its share of each global batch that the window is cut into."""

    window: Window
    at: int
    """Place in its global batch of the first row that is left of the window."""
    rank: int
    workers: int
    batch_size: int
    """Of the global batch."""

    @property
    def places(self) -> np.ndarray:
        """Places of its rows in the order of the window: int64, rising."""
        left = np.arange(self.window.rows)
        share = self.batch_size // self.workers
        return self.window.start + left[(self.at + left) % self.batch_size // share == self.rank]

    @property
    def rows(self) -> int:
        return len(self.places)


def windows_of(groups: Sequence[Rows], seed: int, size: int = 2, taken: int = 0) -> Iterator[Window]:
    """The endless sequence: in each epoch every row group once, in an order of its own, `size` in a window.

    It begins after the first `taken` rows.
    """
    first, taken = divmod(taken, count_rows(groups))
    for epoch in count(first):
        order = np.random.default_rng([seed, epoch]).permutation(len(groups))
        for i in range(0, len(groups), size):
            window = Window(tuple(groups[j] for j in order[i : i + size]), (seed, epoch, i))
            if taken < window.rows:
                yield replace(window, start=taken)
            taken = max(0, taken - window.rows)


def parts_of(windows: Iterable[Window], rank: int, workers: int, batch_size: int) -> Iterator[Part]:
    """The parts of one worker of windows that are cut into global batches; the first window begins a batch.

    Windows of which no row falls to the worker are left out.
    """
    at = 0
    for window in windows:
        part = Part(window, at, rank, workers, batch_size)
        if part.rows:
            yield part
        at = (at + window.rows) % batch_size


def read_window(
    window: Window, size: int, columns: Sequence[str] = (), places: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """The window's rows in order: `image` N×3×`size`×`size` uint8, N at most IMAGES_PER_BLOCK, and other columns.

    `places`: those of the rows to read, in the window's order; by default all that are left of it.

    A row that holds no image, or null in another column, is bad: the next good row of the window takes its place, so
    that a window always has as many rows as its files say, and a resumed training finds its place by arithmetic. Which
    row that is depends on the window alone, not on `places`.
    `bad`, N texts, names such a row and what is wrong with it; empty for the others. Raises UserError where no row of
    the window is good, OSError where the store fails.
    """
    tables = [group.table(["image", *columns]) for group in window.groups]
    rows = pa.concat_tables(tables, promote_options="permissive")
    order = np.random.default_rng(window.seed).permutation(len(rows))
    bad = dict[int, str]()  # by position in the order

    def image(place: int) -> np.ndarray | None:
        """The image of the row at a position in the order; None if the row is bad."""
        row = int(order[place % len(order)])
        if place % len(order) in bad:
            return None
        try:
            for name in columns:
                if not rows[name][row].is_valid:
                    raise ValueError(f"no {name}")
            if (content := rows["image"][row].as_py()) is None:
                raise ValueError("no image")
            return decode_row(content, size)
        except ValueError as error:
            bad[place % len(order)] = f"{window.name(row)}: {error}"
            return None

    places = np.arange(window.start, len(order)) if places is None else places
    for start in range(0, len(places), IMAGES_PER_BLOCK):
        own: list[int] = places[start : start + IMAGES_PER_BLOCK].tolist()
        taken = [*own]
        images = np.empty((len(own), 3, size, size), np.uint8)
        for i, place in enumerate(own):
            while (found := image(taken[i])) is None:
                taken[i] += 1
                if taken[i] == place + len(order):
                    raise UserError(f"{bad[place]}; nor does any other of {len(order)} rows around it hold an image")
            images[i] = found
        some = rows.select([*columns]).take(pa.array(order[np.array(taken) % len(order)]))
        problems = np.array([bad.get(place, "") for place in own], object)
        yield {"image": images, "bad": problems} | {name: some[name].to_numpy() for name in columns}


def decode_row(content: bytes, size: int | None = None) -> np.ndarray:
    """Decodes an image, like `images.photo`, to 3×`size`×`size` uint8, or to 3×H×W at its own size.

    Raises ValueError with the reason if it is not an image, or has more than MAX_PIXELS.
    """
    pixels, _ = photo(content, MAX_PIXELS)
    if size is not None and pixels.shape[:2] != (size, size):
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return pixels.transpose(2, 0, 1)
