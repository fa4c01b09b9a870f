"""The objective of a search's trial, and the Pareto front of the trials."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtn_ray.method.dtn import collapse_warning


@dataclass(frozen=True)
class Found:
    """A trial, by its last report."""

    name: str
    weights: dict[str, Any]
    """What it tried, by parameter."""
    step: int
    objective: float
    L_const: float
    """On held-out images of s, as the next two."""
    domain: float
    """KID(G(s), t) / KID(s, t): 0 where G(s) cannot be told from t, 1 where it is as unlike t as s is."""
    accuracy: float | None
    """The judge's, where s has labels; it has no part in the choice."""
    state: str
    """complete, stopped (by the scheduler), collapsed or failed."""
    checkpoint: str | None
    """Its place below the search's folder."""


def worth(metrics: Mapping[str, float], limit: float) -> float:
    """L_CONST · max(1, KID / limit) of a training's report: the lower, the better.

    Infinite where training diverged or D has collapsed. `limit`: KID above which L_CONST does not count alone. The
    paper chooses α, β, γ by L_CONST, and so does this among all trials whose G(s) are near enough to t; a product,
    because it orders the others too and needs no weight.
    """
    value = metrics["validation_L_const"] * max(1.0, metrics["validation_KID"] / limit)
    collapsed = collapse_warning(metrics.get("L_d", 0.0), metrics.get("L_gan_g", 0.0)) is not None
    return math.inf if collapsed or not math.isfinite(value) else value


def front(trials: Sequence[Found]) -> list[Found]:
    """The Pareto front, by rising L_CONST: the trials that no other beats in both L_CONST and the distance from t."""
    found, nearest = list[Found](), math.inf
    for each in sorted(trials, key=lambda each: (each.L_const, each.domain)):
        if each.domain < nearest:
            found.append(each)
            nearest = each.domain
    return found
