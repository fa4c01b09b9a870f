"""DANN (Ganin et al. 2016): features that tell digits apart, and not the domains. Needs torch and nothing else.

The label predictor minimises L_y on the source. A domain classifier minimises L_d on both domains, and its gradient is
reversed on the way to the features, which therefore maximise λ L_d.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtn_ray.models.digits import DigitF
from dtn_ray.models.layers import scaled


class ReversedGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -`weight`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None


def adaptation_weight(progress: float, gamma: float) -> float:
    """λ_p = 2 / (1 + exp(-γp)) - 1: from 0 at the beginning, `progress` 0, towards 1 at the end, `progress` 1.

    γ = 0 keeps λ at 0: the features then learn from the source alone.
    """
    return 2 / (1 + math.exp(-gamma * progress)) - 1


def annealed(lr: float, progress: float) -> float:
    """μ_p = μ_0 / (1 + 10p)^0.75, the learning rate at `progress` p from 0 to 1; a sixth of `lr` at the end."""
    return lr / (1 + 10 * progress) ** 0.75


class DANN(nn.Module):
    """f with its classifier as feature extractor and label predictor, and a domain classifier beside it.

    The domain classifier, x → 1024 → 1024 → 1 (times width) as published, sees what f's linear layer sees: f(x) after
    its ReLU.
    """

    hidden = 1024

    def __init__(self, f: DigitF, width: float = 1.0) -> None:
        super().__init__()
        self.f = f
        hidden = scaled(self.hidden, width)
        self.domain = nn.Sequential(
            nn.Linear(f.features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, s: Tensor, t: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Logits of the digits of s, N×10, and of being from the source, N+M, for s and then t.

        `s` N×C×32×32 and `t` M×C×32×32 in [-1, 1], C 3 or 1; `weight`: λ, which touches the gradient alone.
        """
        both = torch.cat([images.expand(-1, 3, -1, -1) for images in (s, t)])
        represented = self.f.represent(both)
        domain = self.domain(ReversedGradient.apply(F.relu(represented), weight))
        return self.f.classifier(represented[: len(s)]), domain.flatten()


def losses(logits: Tensor, domain: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(L_y, L_d): cross-entropy of the digits of s, `labels` N, and of the domain over s and t; means over images."""
    from_source = (torch.arange(len(domain), device=domain.device) < len(labels)).float()
    return F.cross_entropy(logits, labels), F.binary_cross_entropy_with_logits(domain, from_source)
