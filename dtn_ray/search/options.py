"""The options of a search."""

from dataclasses import dataclass, field
from typing import Literal

from dtn_ray.method.options import Reduction

Range = tuple[float, float]


@dataclass(frozen=True)
class Space:
    """The search space. Ranges are LOW HIGH on a logarithmic scale; with LOW equal to HIGH the value is fixed."""

    alpha: Range | None = None
    """α; by default from a tenth to ten times the experiment's value."""
    beta: Range | None = None
    """β; by default as for α."""
    gamma: Range | None = None
    """γ; by default as for α, or around 0.05 (the paper's value for faces) if the experiment's γ is 0."""
    lr_g: Range | None = None
    """Learning rate of g; by default not searched."""
    lr_D: Range | None = None
    """Learning rate of D; by default not searched."""
    D_every: tuple[int, ...] = ()
    """Steps between updates of D, such as 1 2 4; by default not searched."""
    tv_reduction: tuple[Reduction, ...] = ()
    """Reductions of L_TV (Eq. 7), on which the scale of γ depends: sum, mean; by default not searched."""


@dataclass(frozen=True)
class Search:
    """One search over the weights of L_G: all settings that decide its result, and no others."""

    space: Space = field(default_factory=Space)
    trials: int = 16
    """Number of trials. The first one has the experiment's own weights and is never stopped early."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe: Optuna's tree-structured Parzen estimator, which learns from earlier trials; random: random search."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha: stop the worse two thirds of the trials after a quarter and after three quarters of --steps; none: stop no
    trial early."""
    domain_limit: float = 0.1
    """Limit on the KID between G(s) and t, relative to the KID between s and t. Up to it a trial's objective is its
    L_CONST; above it the objective grows in proportion to the KID."""
