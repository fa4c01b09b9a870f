"""The search space, in Ray Tune's terms."""

import math
from dataclasses import fields
from typing import Any

from ray import tune

from dtn_ray.errors import UserError
from dtn_ray.search.options import Space
from dtn_ray.train.options import Experiment

PAPER_GAMMA = 0.05  # of Sec. 5.2


def parameter_space(space: Space, experiment: Experiment) -> tuple[dict[str, Any], Experiment]:
    """The sampled parameters, and the experiment with the fixed ones. Raises UserError for an invalid range."""
    sampled: dict[str, Any] = {}
    for name in (field.name for field in fields(Space)):
        chosen, option = getattr(space, name), f"--space.{name.replace('_', '-')}"
        if name in ("D_every", "tv_reduction"):
            if len(set(chosen)) > 1:
                sampled[name] = tune.choice(sorted(set(chosen)))
            elif chosen:
                experiment = experiment.changed(**{name: chosen[0]})
            continue
        if chosen is None and name in ("alpha", "beta", "gamma"):
            middle = value_of(experiment, name) or (PAPER_GAMMA if name == "gamma" else 0.0)
            if not middle:
                raise UserError(f"--{name} 0 has no default range; set one with {option} LOW HIGH")
            chosen = (middle / 10, middle * 10)
        if chosen is None:
            continue
        low, high = chosen
        if not 0 < low <= high < math.inf:
            raise UserError(f"{option} {low:g} {high:g}: LOW must be greater than 0, and HIGH at least LOW")
        if low == high:
            experiment = experiment.changed(**{name: low})
        else:
            sampled[name] = tune.loguniform(low, high)
    if not sampled:
        raise UserError("nothing to search: all of --space is fixed")
    return sampled, experiment


def value_of(experiment: Experiment, parameter: str) -> Any:
    part = experiment.loss if hasattr(experiment.loss, parameter) else experiment.optim
    return getattr(part, parameter)
