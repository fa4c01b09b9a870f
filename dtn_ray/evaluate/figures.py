"""Pictures to look at: scores of digits, curves of a retrieval, the trials of a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image, ImageOps

from dtn_ray.contact_sheet import contact_sheet
from dtn_ray.evaluate import retrieval
from dtn_ray.evaluate.trials import Found
from dtn_ray.images import to_image


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


@dataclass(frozen=True)
class Retrieved:
    """One probe of Table 4 with what was found."""

    x: Image.Image
    G_x: Image.Image
    mate: Image.Image
    rank: float
    top: list[tuple[Image.Image, bool]]
    """The faces most similar to G(x), and whether each is the mate."""


# Name of the ranks: how their curve is drawn.
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
        share = 100 * retrieval.match_curve(ranks, upto)
        left.step(upto, share, line, where="post", color=colour, label=f"{title}: median rank {np.median(ranks):,.0f}")
    left.plot(upto, 100 * upto / gallery, ":", color="0.5", label=f"chance: median rank {(gallery + 1) / 2:,.0f}")
    paper = retrieval.PAPER["emoji"]
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
        title="Cumulative match: the person's other photo sought by",
    )
    left.xaxis.set_major_formatter("{x:,.0f}")
    left.grid(alpha=0.3)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False, fontsize=9)
    _retrieval_sheet(right, rows)
    return figure


def _retrieval_sheet(axes: Axes, rows: Sequence[Retrieved], size: int = 96, gap: int = 6) -> None:
    """x | G(x) | mate | the faces found, in two halves side by side; the mate has a frame where it is among them."""
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


def search_figure(trials: Sequence[Found], unbeaten: Sequence[Found], best: Found, own: Sequence[Found]) -> plt.Figure:
    """The figure of a search: weights and outcomes as parallel coordinates, and L_CONST against the distance from t.

    `unbeaten`: the Pareto front; `own`: the trial of the experiment's own weights, if there is one.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(17, 6.5), width_ratios=(1.6, 1), layout="constrained")
    _parallel_coordinates(left, trials, best, own)
    for state, colour, label in (("complete", "C0", "trained to the end"), ("stopped", "0.7", "stopped early")):
        some = [each for each in trials if each.state == state]
        right.scatter([each.domain for each in some], [each.L_const for each in some], s=28, c=colour, label=label)
    right.step(
        *([each.domain for each in unbeaten][::-1], [each.L_const for each in unbeaten][::-1]),
        where="post",
        color="C0",
        alpha=0.5,
        label="Pareto front",
    )
    for chosen, marker, colour, label in ((own, "s", "C1", "own weights"), ([best], "*", "C3", "best")):
        places = [each.domain for each in chosen], [each.L_const for each in chosen]
        right.scatter(*places, s=150, marker=marker, c=colour, label=label)
    right.set(xlabel="distance from t: KID(G(s), t) / KID(s, t)", ylabel="L_CONST on held-out images")
    right.set_xscale("symlog", linthresh=0.01)
    right.grid(alpha=0.3)
    right.legend(frameon=False)
    right.set_title("Likeness against looks: best is low and left")
    return figure


def _parallel_coordinates(axes: Axes, trials: Sequence[Found], best: Found, own: Sequence[Found]) -> None:
    """One line for each trial over an axis for each weight and outcome; numbers on logarithmic axes."""
    rows = [{**each.weights, "L_const": each.L_const, "distance from t": each.domain} for each in trials]
    for position, name in enumerate(rows[0]):
        heights, ticks = _heights([row[name] for row in rows])
        for row, height in zip(rows, heights, strict=True):
            row[name] = height
        axes.axvline(position, color="0.6", linewidth=0.8)
        for height, label in ticks.items():
            axes.text(position, height, f" {label}", ha="left", va="center", fontsize=9)
    for each, row in zip(trials, rows, strict=True):
        style: dict[str, Any] = (
            {"color": "C0", "alpha": 0.6} if each.state == "complete" else {"color": "0.75", "alpha": 0.6}
        )
        if each in own:
            style = {"color": "C1", "linewidth": 3.0, "label": "own weights"}
        if each == best:
            style = {"color": "C3", "linewidth": 3.0, "label": "best"}
        axes.plot(range(len(row)), list(row.values()), **style)
    axes.set(xticks=range(len(rows[0])), yticks=[], ylim=(-0.12, 1.12), title="Trials; grey ones did not reach the end")
    axes.set_xticklabels(rows[0])
    axes.legend(frameon=False, loc="lower left", ncols=2)
    for side in axes.spines.values():
        side.set_visible(False)


def _heights(values: list[Any]) -> tuple[list[float], dict[float, str]]:
    """Places of values on an axis from 0 to 1, and its labels: positive numbers by their logarithm, 0 below them."""
    numbers = [value for value in values if isinstance(value, float) and value > 0 and np.isfinite(value)]
    if not numbers:
        kinds = sorted(set(values), key=str)
        places = {kind: i / max(len(kinds) - 1, 1) for i, kind in enumerate(kinds)}
        return [places[value] for value in values], {place: str(kind) for kind, place in places.items()}
    low, high = min(numbers), max(numbers)
    start = 0.1 if any(value <= 0 for value in values) else 0.0
    span = np.log(high / low) or 1.0

    def height(value: float) -> float:
        return start + (1 - start) * np.log(value / low) / span if value > 0 else 0.0 * value

    ticks = {start: f"{low:.3g}", height(high): f"{high:.3g}"} | ({0.0: "0"} if start else {})
    return [height(value) for value in values], ticks


def samples_figure(trials: dict[str, np.ndarray], columns: int = 16) -> plt.Figure:
    """What some trials make of the same images: x in the first row, then G(x) of each trial, under its title.

    `trials`: pairs of x and G(x), N×2×3×H×W uint8, by title.
    """
    rows = {"x": next(iter(trials.values()))[:columns, 0]} | {
        title: pairs[:columns, 1] for title, pairs in trials.items()
    }
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(columns + 2, 1.15 * len(rows)), layout="constrained", squeeze=False
    )
    for (title, images), axis in zip(rows.items(), axes[:, 0], strict=True):
        axis.imshow(np.concatenate(list(images.transpose(0, 2, 3, 1)), axis=1), interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=10)
    return figure
