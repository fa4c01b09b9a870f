"""Figures: scores of digits, match curves of a retrieval."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image, ImageOps

from dtn_ray.evaluate import ranking
from dtn_ray.images.contact_sheet import contact_sheet
from dtn_ray.images.encode import to_image


def draw_confusion(axes: Axes, counts: np.ndarray, title: str) -> None:
    """Draws a confusion matrix for the labels 0..9; rows are normalised to per cent."""
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


@dataclass(frozen=True)
class Retrieved:
    """One probe of Table 4 with its results."""

    x: Image.Image
    G_x: Image.Image
    mate: Image.Image
    rank: float
    top: list[tuple[Image.Image, bool]]
    """The faces most similar to G(x), and whether each is the mate."""


# By name of the ranks: label, colour and line style of their curve.
CURVES = {
    "emoji": ("emoji", "C3", "-"),
    "photo": ("photo (ceiling)", "C0", "-"),
    "other_emoji": ("another person's emoji (floor)", "0.5", "-"),
}
MATE = "#1a9641"


def retrieval_figure(curves: dict[str, tuple[np.ndarray, int]], rows: Sequence[Retrieved]) -> plt.Figure:
    """The figure of Table 4: cumulative match curves beside a sheet of probes and the faces found.

    `curves`: ranks and the gallery's size by the names of CURVES.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(19, 6.8), width_ratios=(1, 1.9), layout="constrained")
    gallery = max(size for _, size in curves.values())
    upto = np.unique(np.geomspace(1, gallery, 400).round())
    for name, (ranks, _) in curves.items():
        title, colour, line = CURVES[name]
        share = 100 * ranking.match_curve(ranks, upto)
        left.step(upto, share, line, where="post", color=colour, label=f"{title}: median rank {np.median(ranks):,.0f}")
    left.plot(upto, 100 * upto / gallery, ":", color="0.5", label=f"chance: median rank {(gallery + 1) / 2:,.0f}")
    paper = ranking.PAPER["emoji"]
    points = [(1, paper["rank_1"]), (5, paper["rank_5"]), (paper["median_rank"], 0.5)]
    left.plot(
        [rank for rank, _ in points],
        [100 * share for _, share in points],
        *("x",),
        color="C3",
        clip_on=False,
        label=f"the paper's emoji, of {paper['gallery']:,}",
    )
    left.set(
        xscale="log",
        xlim=(1, gallery),
        ylim=(0, 100),
        xlabel=f"rank of the mate, of {gallery:,}",
        ylabel="probes found up to this rank, %",
        title="Cumulative match: the person's other photo retrieved by",
    )
    left.xaxis.set_major_formatter("{x:,.0f}")
    left.grid(alpha=0.3)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False, fontsize=9)
    _retrieval_sheet(right, rows)
    return figure


def _retrieval_sheet(axes: Axes, rows: Sequence[Retrieved], size: int = 96, gap: int = 6) -> None:
    """x | G(x) | mate | the faces found, in two halves side by side; if the mate was found, it has a frame."""
    columns = 3 + max((len(row.top) for row in rows), default=0)
    half, step, apart = -(-len(rows) // 2), size + gap, size // 2
    width = 2 * columns * step + apart
    sheet = Image.new("RGB", (width, max(half, 1) * step), "white")

    def paste(picture: Image.Image, left: int, top: int, frame: bool = False) -> None:
        picture = picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
        if frame:
            picture = ImageOps.expand(ImageOps.crop(picture, 5), 5, MATE)
        sheet.paste(picture, (left, top))

    for i, row in enumerate(rows):
        start, top = (i // half) * (columns * step + apart), (i % half) * step
        for j, picture in enumerate((row.x, row.G_x, row.mate)):
            paste(picture, start + j * step, top)
        for j, (picture, is_mate) in enumerate(row.top):
            paste(picture, start + (3 + j) * step + gap, top, is_mate)
        rank = f"{row.rank:,.0f}" if row.rank == round(row.rank) else f"{row.rank:,.1f}"
        axes.text(
            *(start + 2 * step + size - 4, top + size - 5, rank),
            ha="right",
            va="bottom",
            fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5},
        )
    for start in (0, columns * step + apart)[: 1 + (len(rows) > half)]:
        for j, title in enumerate(("x", "G(x)", "mate, rank", *map(str, range(1, columns - 2)))):
            shift = gap if j > 2 else 0
            axes.text(start + j * step + size / 2 + shift, -8, title, ha="center", va="bottom", fontsize=10)
    axes.imshow(sheet)
    axes.set_axis_off()
    axes.set_title("A random sample: the faces most similar to G(x), the mate framed", pad=22)
