"""The settings of the method. Imports only the standard library: command lines and checkpoints read them too."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from dtn_ray.bounds import AtLeastOne, Count, NotNegative, Share, Within
from dtn_ray.errors import UserError

FeatureDistance = Literal["mse", "cosine", "hinge", "triplet"]
ImageDistance = Literal["mse", "gan"]
Reduction = Literal["mean", "sum"]

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class Augment:
    """How much training images vary; by default not at all."""

    rotation: float = 0.0
    """Largest rotation, in degrees."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and greatest relative size, drawn evenly on a logarithmic scale."""
    aspect: float = 0.0
    """Largest relative change of width against height."""
    shear: float = 0.0
    """Largest slant, as a fraction of the height."""
    shift: float = 0.0
    """Largest shift, as a fraction of the image's side."""
    contrast: float = 0.0
    """Largest relative change of contrast about the image's own mean."""
    brightness: float = 0.0
    """Largest change of brightness, on the scale of [-1, 1] images."""
    saturation: float = 0.0
    """Largest share of the colour that is taken away; with 1, some images become grey."""
    invert: float = 0.0
    """Probability of inverting the colours: makes f see dark on light and light on dark alike."""
    mirror: float = 0.0
    """Probability of mirroring the image."""
    noise: float = 0.0
    """Standard deviation of white noise, on the scale of [-1, 1] images."""

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"--augment.scale {self.scale[0]} {self.scale[1]}: needs 0 < least ≤ greatest")
        for name in ("aspect", "noise"):
            if getattr(self, name) < 0:
                raise UserError(f"--augment.{name} {getattr(self, name)}: needs at least 0")
        for name in ("saturation", "invert", "mirror"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--augment.{name} {getattr(self, name)}: needs a number from 0 to 1")


@dataclass(frozen=True)
class LossConfig:
    """The terms of L_G and their weights; the defaults are the paper's for digits."""

    alpha: float = 15.0
    """α, the weight of L_CONST (Eq. 5)."""
    beta: float = 15.0
    """β, the weight of L_TID (Eq. 6)."""
    gamma: float = 0.0
    """γ, the weight of L_TV (Eq. 7)."""
    gan: float = 1.0
    """Weight of L_GANG; the paper's is 1, and 0 gives its ablation without L_D and L_GANG."""
    d: FeatureDistance = "mse"
    """d of Eq. 5."""
    d2: ImageDistance = "mse"
    """d2 of Eq. 6; gan is a second discriminator on the pair (x, G(x))."""
    tv_exponent: float = 1.0
    """B of Eq. 7."""
    tv_reduction: Reduction = "mean"
    """Whether Eq. 7 sums over pixels, as printed, or takes their mean."""
    augment_G: Augment = field(default_factory=Augment)
    """Random changes to G(x) before f in L_CONST, against fine patterns that only f can see; the paper makes none."""
    augment_D: Augment = field(default_factory=Augment)
    """Random changes to all that D sees, real or not (Zhao et al. 2020), so that D does not memorise a small t; the
    paper makes none."""
    r1: float = 0.0
    """Weight of D's gradient penalty on t (Mescheder et al. 2018), taken at each R1_EVERY-th update; the paper has
    none."""
    warm_up: Count = 0
    """Number of first steps in which g minimises only L_TID and L_TV, and D rests: g learns to draw t before it learns
    what to draw. The paper has none."""
    ramp: Count = 0
    """Steps after the warm-up in which α grows from 0 to its weight: while D easily tells g's images from t, g would
    otherwise learn patterns that only f sees. The paper has none."""

    def D_has_rested(self, step: int) -> bool:
        """Whether D rests at a step (from 0), or has learned for fewer steps than it rested."""
        return step < 2 * self.warm_up

    def alpha_at(self, step: int) -> float:
        """α at a step (from 0)."""
        return self.alpha * min(1.0, (step + 1 - self.warm_up) / self.ramp) if self.ramp else self.alpha


@dataclass(frozen=True)
class OptimConfig:
    """How L_G and L_D are minimised. The paper says Adam and no more; the rest is Radford et al.'s (2015) or ours."""

    batch_size: AtLeastOne = 64
    """Images of s, and as many of t, in one step over all workers."""
    steps: Count = 6000
    """Training steps; each updates g once, and D once or as D_every says."""
    D_every: AtLeastOne = 1
    """Update D only in every N-th step, if it outruns g; the paper does not give its ratio."""
    lr_g: NotNegative = 2e-4
    """Adam's learning rate for g."""
    lr_D: NotNegative = 2e-4
    """Adam's learning rate for D."""
    beta1: Annotated[float, Within(ge=0, lt=1)] = 0.5
    """Adam's β1, for g and D."""
    schedule: Schedule = "constant"
    """How both rates fall over the run: constant, linear to zero, or cosine to zero."""
    separate_batches: bool = True
    """Pass s, t and real images through batch norm one domain at a time."""
    ema_decay: Share = 0.0
    """Decay of the running average of g's weights that is kept beside g and used for conversion; 0 keeps none."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast); weights and losses stay float32."""
    channels_last: bool = True
    """Keep images and filters in memory as N×H×W×C, which convolutions prefer; changes speed only."""
    compile: bool = False
    """Compile f, g and D with torch.compile."""

    def rate(self, step: int) -> float:
        """Factor on the learning rates at a step (from 0), by `schedule`."""
        done = min(step / max(self.steps, 1), 1.0)
        factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return factors[self.schedule]
