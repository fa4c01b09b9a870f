"""Pictures to look at: contact sheets laid out like the paper's Fig. 2, confusion matrices."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from dtn_ray.images import to_image

GAP = 4


def contact_sheet(pairs: Sequence[tuple[Image.Image, Image.Image]], columns: int = 8, size: int = 64) -> Image.Image:
    """Source and transferred image side by side, "input in odd columns; output in even columns" (Fig. 2).

    `columns` counts pairs; every image is drawn at `size`×`size` pixels. Raises ValueError where there is no pair.
    """
    if not pairs:
        raise ValueError("a contact sheet needs at least one pair of images")
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    pair = 2 * size + GAP
    sheet = Image.new("RGB", (columns * (pair + 2 * GAP) + GAP, rows * (size + GAP) + GAP), "white")
    for i, images in enumerate(pairs):
        left, top = GAP + (i % columns) * (pair + 2 * GAP), GAP + (i // columns) * (size + GAP)
        for j, image in enumerate(images):
            # Small images show their pixels; large ones are smoothed down.
            method = Image.Resampling.NEAREST if image.width < size else Image.Resampling.LANCZOS
            sheet.paste(image.convert("RGB").resize((size, size), method), (left + j * (size + GAP), top))
    return sheet


def draw_confusion(axes: Axes, counts: np.ndarray, title: str) -> None:
    """Draws a confusion matrix, rows normalised to per cent, its counts' labels 0..9."""
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.argwhere(shares >= 0.5):
        value = shares[row, column]
        colour = "white" if value > 50 else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=7)
    axes.set(
        xticks=range(len(counts)), yticks=range(len(counts)), xlabel="judge on G(x)", ylabel="label of x", title=title
    )


def digit_figure(
    counts: np.ndarray, source: np.ndarray, transferred: np.ndarray, labels: str, seed: int = 0
) -> plt.Figure:
    """The figure of a digit evaluation: a sample of x | G(x) pairs beside the confusion matrix in per cent."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:80])
    sheet = contact_sheet([(to_image(source[i]), to_image(transferred[i])) for i in chosen])
    figure, (left, right) = plt.subplots(1, 2, figsize=(17, 8), width_ratios=(1.5, 1), layout="constrained")
    left.imshow(sheet)
    left.set_axis_off()
    left.set_title("x and G(x), a random sample")
    draw_confusion(right, counts, labels)
    return figure
