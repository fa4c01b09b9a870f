"""The options of a search."""

from dataclasses import dataclass, field
from typing import Literal

from dtn_ray.method.options import Reduction

Range = tuple[float, float]


@dataclass(frozen=True)
class Space:
    """The search space. Ranges are LOW HIGH on a logarithmic scale; a weight whose LOW is its HIGH is fixed."""

    alpha: Range | None = None
    """α; by default a tenth to ten times the experiment's."""
    beta: Range | None = None
    """β; likewise."""
    gamma: Range | None = None
    """γ; likewise, and around 0.05, the paper's for faces, where the experiment's is 0."""
    lr_g: Range | None = None
    """g's learning rate; by default not searched, as all below."""
    lr_D: Range | None = None
    """D's learning rate."""
    D_every: tuple[int, ...] = ()
    """Steps between updates of D, such as 1 2 4."""
    tv_reduction: tuple[Reduction, ...] = ()
    """Reductions of L_TV (Eq. 7), on which γ depends: sum, mean."""


@dataclass(frozen=True)
class Search:
    """One search over the weights of L_G: what decides its result, and nothing else."""

    space: Space = field(default_factory=Space)
    trials: int = 16
    """Trainings; the first has the experiment's own weights, and is always trained to its end."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Optuna's tree-structured Parzen estimator, which learns from earlier trials, or random search."""
    scheduler: Literal["asha", "none"] = "asha"
    """Stop the worse two thirds of the trials at a quarter of --steps and at three quarters (ASHA), or none."""
    domain_limit: float = 0.1
    """KID between G(s) and t, relative to that between s and t, above which a trial's objective exceeds its L_CONST."""
