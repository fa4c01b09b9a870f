"""Figures of a search."""

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from dtn_ray.search.worth import Found


def search_figure(trials: Sequence[Found], unbeaten: Sequence[Found], best: Found, own: Sequence[Found]) -> plt.Figure:
    """The figure of a search: weights and outcomes as parallel coordinates, and L_CONST against the distance from t.

    `unbeaten`: the Pareto front; `own`: the trial with the experiment's own weights, if there is one.
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
    """One line per trial across one axis per weight and outcome; the axes of numbers are logarithmic."""
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
    """Positions of values on an axis from 0 to 1, and its labels. Numbers are placed by logarithm, 0 below them."""
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
    """Samples of several trials on the same images: x in the first row, then G(x) of each trial, under its title.

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
