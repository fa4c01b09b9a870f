"""Pictures of tables and the paper's figures, as PNG."""

import io

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from dtn_ray import storage
from dtn_ray.experiments.grid import Cell, Row, Table
from dtn_ray.experiments.tables import Results
from dtn_ray.images.contact_sheet import contact_sheet

SIDE = 32  # pixels of an image of a digit
COLUMNS = 6  # of a panel of Fig. 3, as in the paper
SCALE = 2
OURS, PAPER = "C0", "C3"


def rows(table: Table, found: Results) -> bytes:
    """The rows as points beside the paper's, and where there are pictures, G(x) of each row for the same x."""
    samples = [_sample(row, found, row.picture) for row in table.rows]
    x = next((each for row in table.rows if (each := _sample(row, found, "x")) is not None), None)
    height = 0.62 * (len(table.rows) + 1) + 1.0
    wide = x is not None
    figure, panels = plt.subplots(
        1, 2 if wide else 1, figsize=(17 if wide else 9, height), width_ratios=(1, 1.35) if wide else None,
        layout="constrained", sharey=True, squeeze=False,
    )  # fmt: skip
    axes = panels[0, 0]
    for place, line in enumerate(found.lines):
        if line.mean is not None and line.interval is not None:
            below, above = line.mean - line.interval[0], line.interval[1] - line.mean
            axes.errorbar(
                100 * line.mean, place, xerr=[[100 * below], [100 * above]], fmt="o", color=OURS, capsize=3,
                label="mean, 95 % interval" if place == 0 else None,
            )  # fmt: skip
            axes.scatter([100 * each for each in line.values], [place + 0.2] * len(line.values), s=9, color=OURS)
        if line.row.paper is not None:
            axes.scatter(100 * line.row.paper, place, marker="x", color=PAPER, zorder=3)
    axes.scatter([], [], s=9, color=OURS, label="each seed")
    axes.scatter([], [], marker="x", color=PAPER, label="the paper")
    axes.set(xlim=(0, 102), xlabel="accuracy, %", yticks=range(len(table.rows)), ylim=(len(table.rows) - 0.4, -1.5))
    axes.set_yticklabels([row.title for row in table.rows])
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", frameon=False, ncols=3, fontsize=8)
    if x is not None:
        for place, picture in ((-1, x), *enumerate(samples)):
            if picture is not None:
                number = picture.shape[1] / SIDE
                panels[0, 1].imshow(picture, extent=(0, number, place + 0.46, place - 0.46), interpolation="nearest")
        panels[0, 1].set(
            xlim=(0, x.shape[1] / SIDE), xticks=[], aspect="auto", title="x, and below it G(x) of each row"
        )
        panels[0, 1].tick_params(left=False)
        for edge in panels[0, 1].spines.values():
            edge.set_visible(False)
    figure.suptitle(table.title)
    return png(figure)


def panels(table: Table, found: Results) -> bytes:
    """Fig. 3: the input images and each row's results in the same places, sorted by the first row's probabilities."""
    first = table.rows[0].cells[0]
    if first.key not in found.values:
        return rows(table, found)
    order = np.argsort(-np.array(found.values[first.key]["probabilities"]), kind="stable")
    columns = [("input", _read(found, first, "x"))]
    columns += [
        (row.title, _read(found, row.cells[0], "G_x")) for row in table.rows if row.cells[0].key in found.values
    ]
    lines = -(-len(order) // COLUMNS)
    figure, axes = plt.subplots(1, len(columns), figsize=(2.7 * len(columns), 0.44 * lines + 1.2), squeeze=False)
    for i, (title, picture) in enumerate(columns):
        axes[0, i].imshow(_grid(_images(picture)[order]), interpolation="nearest")
        axes[0, i].set_axis_off()
        axes[0, i].set_title("\n".join(_wrapped(title, 26)), fontsize=9)
        axes[0, i].text(0.5, -0.02, f"({chr(97 + i)})", transform=axes[0, i].transAxes, ha="center", va="top")
    figure.suptitle(table.title)
    figure.tight_layout()
    return png(figure)


def pairs(table: Table, found: Results) -> bytes:
    """Fig. 10: x in odd columns, G(x) in even columns, of the first row's first seed."""
    cell = table.rows[0].cells[0]
    if cell.key not in found.values:
        return rows(table, found)
    both = _read(found, cell, "pairs")
    x, G_x = _images(both[:SIDE]), _images(both[SIDE:])
    sheet = contact_sheet([(Image.fromarray(a), Image.fromarray(b)) for a, b in zip(x, G_x, strict=True)])
    content = io.BytesIO()
    sheet.save(content, format="png")
    return content.getvalue()


def png(figure: plt.Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    plt.close(figure)
    return content.getvalue()


def _sample(row: Row, found: Results, name: str) -> np.ndarray | None:
    """A picture of the row's first cell that is measured; None where there is none."""
    cell = next((cell for cell in row.cells if cell.key in found.values), None)
    if cell is None or not storage.is_file(found.picture(cell, name)):
        return None
    return _read(found, cell, name)


def _read(found: Results, cell: Cell, name: str) -> np.ndarray:
    """H×W×3 uint8."""
    return np.asarray(Image.open(io.BytesIO(storage.read_bytes(found.picture(cell, name)))).convert("RGB"))


def _images(strip: np.ndarray) -> np.ndarray:
    """A strip of images side by side, H×NW×3, as N×H×W×3."""
    return np.stack(np.split(strip, strip.shape[1] // SIDE, axis=1))


def _grid(images: np.ndarray) -> np.ndarray:
    """N×H×W×3 as a picture of COLUMNS images in a row, white where there is none."""
    lines = -(-len(images) // COLUMNS)
    white = np.full((lines * COLUMNS - len(images), *images.shape[1:]), 255, np.uint8)
    filled = np.concatenate([images, white]).reshape(lines, COLUMNS, *images.shape[1:])
    return filled.transpose(0, 2, 1, 3, 4).reshape(lines * images.shape[1], COLUMNS * images.shape[2], 3)


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)
