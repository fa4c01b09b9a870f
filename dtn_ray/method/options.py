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
    """Random changes to images (data augmentation); by default none."""

    rotation: float = 0.0
    """Largest rotation, in degrees."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest relative size; sizes between them are drawn uniformly on a logarithmic scale."""
    aspect: float = 0.0
    """Largest relative change of the aspect ratio."""
    shear: float = 0.0
    """Largest slant, as a fraction of the height."""
    shift: float = 0.0
    """Largest shift, as a fraction of the image's side."""
    contrast: float = 0.0
    """Largest relative change of contrast around the image's mean."""
    brightness: float = 0.0
    """Largest change of brightness, for images in [-1, 1]."""
    saturation: float = 0.0
    """Largest fraction of the saturation that is removed; with 1, some images become grey."""
    invert: float = 0.0
    """Probability of inverting the colours, so that f responds equally to dark on light and light on dark."""
    mirror: float = 0.0
    """Probability of mirroring the image."""
    noise: float = 0.0
    """Standard deviation of added white noise, for images in [-1, 1]."""

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
    """Weight of L_GANG. The paper uses 1; 0 is its ablation without L_D and L_GANG."""
    d: FeatureDistance = "mse"
    """Distance d of Eq. 5."""
    d2: ImageDistance = "mse"
    """Distance d2 of Eq. 6; gan is a second discriminator on the pair (x, G(x))."""
    tv_exponent: float = 1.0
    """Exponent B of Eq. 7."""
    tv_reduction: Reduction = "mean"
    """Whether Eq. 7 sums over pixels, as printed in the paper, or takes their mean."""
    augment_G: Augment = field(default_factory=Augment)
    """Random changes to G(x) before f in L_CONST, which suppress fine patterns that only f responds to. Not in the
    paper."""
    augment_D: Augment = field(default_factory=Augment)
    """Random changes to all inputs of D, real and generated (Zhao et al. 2020), so that D does not memorise a small t.
    Not in the paper."""
    r1: float = 0.0
    """Weight of the gradient penalty of D on t (Mescheder et al. 2018), computed at every R1_EVERY-th update. Not in
    the paper."""
    warm_up: Count = 0
    """Number of steps at the beginning in which g minimises only L_TID and L_TV and D is not trained: g learns to draw
    t before it learns what to draw. Not in the paper."""
    ramp: Count = 0
    """Number of steps after the warm-up in which α grows from 0 to its value. With the full α at once, while D still
    easily tells g's images from t, g would learn patterns that only f responds to. Not in the paper."""

    def D_has_rested(self, step: int) -> bool:
        """Whether D is not trained at a step (from 0), or has been trained for fewer steps than it rested before."""
        return step < 2 * self.warm_up

    def alpha_at(self, step: int) -> float:
        """α at a step (from 0)."""
        return self.alpha * min(1.0, (step + 1 - self.warm_up) / self.ramp) if self.ramp else self.alpha


@dataclass(frozen=True)
class OptimConfig:
    """How L_G and L_D are minimised. The paper only names Adam; other values are from Radford et al. (2015) or ours."""

    batch_size: AtLeastOne = 64
    """Images of s in one step, over all workers together; the batch has as many images of t."""
    steps: Count = 6000
    """Training steps; each updates g once, and D once unless --D-every says otherwise."""
    D_every: AtLeastOne = 1
    """Update D only in every N-th step, for a D that learns faster than g; the paper does not state the ratio."""
    lr_g: NotNegative = 2e-4
    """Adam's learning rate for g."""
    lr_D: NotNegative = 2e-4
    """Adam's learning rate for D."""
    beta1: Annotated[float, Within(ge=0, lt=1)] = 0.5
    """Adam's β1, for g and D."""
    schedule: Schedule = "constant"
    """Schedule of both learning rates over the run: constant, linear to zero, or cosine to zero."""
    separate_batches: bool = True
    """Pass s, t and real images through batch norm one domain at a time."""
    ema_decay: Share = 0.0
    """Decay of the exponential moving average of g's weights, which conversion uses instead of g; 0 keeps no
    average."""
    bf16: bool = False
    """Compute in bfloat16 where autocast considers it safe; weights and losses stay float32."""
    channels_last: bool = True
    """Keep images and filters in memory as N×H×W×C, in which convolutions are faster; the results are the same."""
    compile: bool = False
    """Compile f, g and D with torch.compile."""

    def rate(self, step: int) -> float:
        """Factor on the learning rates at a step (from 0), by `schedule`."""
        done = min(step / max(self.steps, 1), 1.0)
        factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return factors[self.schedule]
