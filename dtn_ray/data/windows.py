"""Windows of row groups, in an order computed from a seed, read and decoded.

A stream is an endless sequence of windows, each a few row groups shuffled together. The order of the windows, the
worker that reads each, and the remaining rows after a restart with another number of workers are pure functions of the
seed and of the numbers of rows taken. Only these numbers are saved.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count

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


def windows_of(groups: Sequence[Rows], seed: int, size: int = 2) -> Iterator[Window]:
    """The endless sequence of windows of `size` row groups: in each epoch every row group once, in a new order."""
    for epoch in count():
        order = np.random.default_rng([seed, epoch]).permutation(len(groups))
        for i in range(0, len(groups), size):
            yield Window(tuple(groups[j] for j in order[i : i + size]), (seed, epoch, i))


def left_after(sequence: Iterator[Window], workers: int, rows: int) -> Iterator[Window]:
    """The rest of a sequence after each of `workers` has taken `rows` rows of every `workers`-th window."""
    wanted, left = [rows] * workers, list[Window]()
    for i, window in enumerate(sequence if rows else ()):
        taken = min(wanted[i % workers], window.rows)
        wanted[i % workers] -= taken
        if taken < window.rows:
            left.append(replace(window, start=window.start + taken))
        if not any(wanted):
            break
    return chain(left, sequence)


def read_window(window: Window, size: int, columns: Sequence[str] = ()) -> Iterator[dict[str, np.ndarray]]:
    """The window's rows in order: `image` N×3×`size`×`size` uint8, N at most IMAGES_PER_BLOCK, and other columns.

    A row without an image, or with null in another column, is bad. The next good row of the window replaces it, so that
    the number of rows of a window depends only on its files, and a resumed training can compute its position.
    `bad`, N texts, gives the name of each bad row and what is wrong with it; it is empty for good rows. Raises
    UserError if the window has no good row, OSError if the store fails.
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


def decode_row(content: bytes, size: int | None = None) -> np.ndarray:
    """Decodes an image, like `images.photo`, to 3×`size`×`size` uint8, or to 3×H×W at its own size.

    Raises ValueError with the reason if it is not an image, or has more than MAX_PIXELS.
    """
    pixels, _ = photo(content, MAX_PIXELS)
    if size is not None and pixels.shape[:2] != (size, size):
        pixels = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return pixels.transpose(2, 0, 1)
