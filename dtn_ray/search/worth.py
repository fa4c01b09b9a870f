"""The objective of a search's trial, and the Pareto front of the trials."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtn_ray.method.dtn import collapse_warning


@dataclass(frozen=True)
class Found:
    """The state of a trial at its last report."""

    name: str
    weights: dict[str, Any]
    """The searched parameters and their values in this trial."""
    step: int
    objective: float
    L_const: float
    """Measured on held-out images of s, like the next two."""
    domain: float
    """KID(G(s), t) / KID(s, t): 0 if G(s) cannot be distinguished from t, 1 if it is as different from t as s is."""
    accuracy: float | None
    """Accuracy of the judge, if s has labels; never used for selection."""
    state: str
    """complete, stopped (by the scheduler), collapsed or failed."""
    checkpoint: str | None
    """Path below the search's folder."""


def worth(metrics: Mapping[str, float], limit: float) -> float:
    """The objective of a training's report, L_CONST · max(1, KID / limit); lower is better.

    Infinite if the training diverged or D has collapsed. The paper chooses α, β, γ by L_CONST. This objective does the
    same among trials whose KID is below `limit`. Above it the KID enters as a factor, which also orders the remaining
    trials, and needs no weight.
    """
    value = metrics["validation_L_const"] * max(1.0, metrics["validation_KID"] / limit)
    collapsed = collapse_warning(metrics.get("L_d", 0.0), metrics.get("L_gan_g", 0.0)) is not None
    return math.inf if collapsed or not math.isfinite(value) else value


def front(trials: Sequence[Found]) -> list[Found]:
    """The Pareto front in order of L_CONST: trials that no other trial beats in both L_CONST and distance from t."""
    found, nearest = list[Found](), math.inf
    for each in sorted(trials, key=lambda each: (each.L_const, each.domain)):
        if each.domain < nearest:
            found.append(each)
            nearest = each.domain
    return found
