"""FixMatch (Sohn et al. 2020) with distribution alignment (Berthelot et al. 2020). Needs torch and nothing else.

f's answer to an image of the target, where it is sure of it, is the label of a changed version of the image. Before
that, answers that f gives too often are made less likely: it is assumed that all classes are equally frequent in the
target.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtn_ray.models.workers import mean_of_all

KEPT = 0.99  # of the running mean, in each step
SMALLEST = 1e-3  # of a class's running mean, so that a class that f never gives does not win at once


class Alignment(nn.Module):
    """Aligns the distribution of f's answers with equally frequent classes."""

    mean: Tensor

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((classes,), 1 / classes))

    @torch.no_grad()
    def forward(self, logits: Tensor) -> Tensor:
        """Probabilities, N×classes, from logits, N×classes: softmax, divided by its running mean over all workers'
        images, which this call moves on, and normalized."""
        p = F.softmax(logits.float(), 1)
        self.mean.lerp_(mean_of_all(p.mean(0)), 1 - KEPT)
        aligned = p / self.mean.clamp_min(SMALLEST)
        return aligned / aligned.sum(1, keepdim=True)


def losses(
    of_s: Tensor, labels: Tensor, of_changed_t: Tensor, targets: Tensor, threshold: float, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(L_s, L_t, share): cross-entropies on the source and on the target, and the share of t that f is sure of.

    Logits `of_s` N×classes with `labels` N, and `of_changed_t` M×classes with the aligned probabilities `targets`,
    M×classes, of the same images unchanged. Images of t whose highest probability is below `threshold` count as 0 in
    the mean over M.
    """
    confidence, answers = targets.max(1)
    sure = (confidence >= threshold).float()
    L_t = (F.cross_entropy(of_changed_t, answers, reduction="none") * sure).mean()
    return F.cross_entropy(of_s, labels, label_smoothing=label_smoothing), L_t, sure.mean()
