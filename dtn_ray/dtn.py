"""The Domain Transfer Network (Sec. 4): f, g, D, and one training step. Pure torch.

    G = g ∘ f
    L_G = L_GANG + α L_CONST + β L_TID + γ L_TV      minimised over g
    L_D                                              minimised over D
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dtn_ray import losses
from dtn_ray.models.digits import PerDomain


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
    d: losses.FeatureDistance = "mse"
    """d of Eq. 5."""
    d2: losses.ImageDistance = "mse"
    """d2 of Eq. 6; gan is a second discriminator on the pair (x, G(x))."""
    tv_exponent: float = 1.0
    """B of Eq. 7."""
    tv_reduction: losses.Reduction = "mean"
    """Whether Eq. 7 adds pixels up, as printed, or takes their mean."""


class FrozenF(nn.Module):
    """f as the DTN uses it: fixed weights, always in eval mode, its features divided by one scale.

    Gradients flow through it to its input, never into its weights: L_CONST reaches g through f(G(x)), not f.
    `scale` (a buffer, one number) sets the unit in which d measures: α means the same for any f once the features have
    unit variance over s. The paper's α was tuned to the features of its own f, whose scale it does not tell.
    """

    scale: Tensor

    def __init__(self, network: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.eval()

    def train(self, mode: bool = True) -> "FrozenF":
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """f(x)/scale: images N×C×H×W in [-1, 1] to N×features."""
        return self.network.represent(x).float() / self.scale
