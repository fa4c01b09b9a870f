"""Eqs. 1-7 of the paper, one function each. Pure torch.

Where the paper sums over s or t, these take the mean over the batch (of each domain by itself): the sums of Eqs. 3-6
are then per-sample expectations as in Eqs. 1-2, and α, β, γ do not change their meaning with the batch size.
Logits, not probabilities, come in: log-softmax is exact where a logarithm of a probability would underflow.
"""

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dtn_ray.method.options import FeatureDistance, Reduction
from dtn_ray.models.workers import next_samples, place

# The paper's classes 1, 2, 3 of D as indices of its logits.
G_OF_S, G_OF_T, REAL_T = 0, 1, 2


def _cross_entropy(logits: Tensor, label: int) -> Tensor:
    """Mean of -log D_label over a batch of logits N×classes."""
    return F.cross_entropy(logits, torch.full((len(logits),), label, device=logits.device))


def R_gan(logits_G_s: Tensor, logits_t: Tensor) -> Tensor:
    """Eq. 1, the risk that the binary D of the baseline minimises: -E_s log[1 - D(G(x))] - E_t log D(x); a scalar.

    Logits N×1. The paper writes the maximum over D; this is its negative, so that every loss here is minimised.
    """
    return F.softplus(logits_G_s).mean() + F.softplus(-logits_t).mean()


def R_gan_g(logits_G_s: Tensor) -> Tensor:
    """The loss of the baseline's G against Eq. 1, in Goodfellow et al.'s non-saturating form: -E_s log D(G(x)).

    Logits N×1. Left open by the paper; Eq. 4 has this form too, which is why it is chosen.
    """
    return F.softplus(-logits_G_s).mean()


def feature_distance(a: Tensor, b: Tensor, d: FeatureDistance = "mse") -> Tensor:
    """The metric d of Eqs. 2 and 5 between representations N×features, as a mean over the batch; a scalar.

    `mse`, the paper's choice, is the mean over samples *and* features (the text says mean squared error). `cosine` is
    1 - cos. The paper names hinge and triplet losses without giving them: `hinge` adds max(0, 1 - ‖a_i - b_j‖) for a
    pair of different samples to the distance ‖a_i - b_i‖ of equal ones, `triplet` is
    max(0, 1 + ‖a_i - b_i‖ - ‖a_i - b_j‖); j is the next sample of the batch, over all workers,
    which must hold two.
    Raises ValueError for an unknown d, or a batch of one where d needs two.
    """
    if d == "mse":
        return F.mse_loss(b, a)
    if d == "cosine":
        return (1 - F.cosine_similarity(a, b)).mean()
    if d not in get_args(FeatureDistance):
        raise ValueError(f"unknown distance d {d!r}: choose one of {', '.join(get_args(FeatureDistance))}")
    if len(a) * place()[1] < 2:
        raise ValueError(f"d={d!r} compares different samples: it needs a batch of at least 2, got {len(a)}")
    other = next_samples(b)
    if d == "triplet":
        return F.triplet_margin_loss(a, b, other)
    near, far = F.pairwise_distance(a, b), F.pairwise_distance(a, other)
    return near.mean() + F.hinge_embedding_loss(far, torch.full_like(far, -1.0))


def L_d(logits_G_s: Tensor, logits_G_t: Tensor, logits_t: Tensor) -> Tensor:
    """Eq. 3, the loss of the ternary D: -E_s log D1(G(x)) - E_t log D2(G(x)) - E_t log D3(x); a scalar.

    Logits N×3 of D on G(s), on G(t) and on t. At chance it is 3 ln 3.
    """
    return _cross_entropy(logits_G_s, G_OF_S) + _cross_entropy(logits_G_t, G_OF_T) + _cross_entropy(logits_t, REAL_T)


def R_1(logits_t: Tensor, t: Tensor) -> Tensor:
    """Gradient penalty of D on real images (Mescheder et al. 2018): E_t ‖∇ D(t)‖² / 2; a scalar. Not in the paper.

    Logits N×classes of D on t N×C×H×W, which must require gradients. For the ternary D, the logit of real t is used.
    """
    (gradient,) = torch.autograd.grad(logits_t[:, -1].sum(), t, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2


def L_gan_g(logits_G_s: Tensor, logits_G_t: Tensor) -> Tensor:
    """Eq. 4, L_GANG: -E_s log D3(G(x)) - E_t log D3(G(x)); a scalar. At chance it is 2 ln 3."""
    return _cross_entropy(logits_G_s, REAL_T) + _cross_entropy(logits_G_t, REAL_T)


def L_const(f_x: Tensor, f_G_x: Tensor, d: FeatureDistance = "mse") -> Tensor:
    """Eq. 5 (and Eq. 2), f-constancy on s: E_s d(f(x), f(G(x))); representations N×features, a scalar."""
    return feature_distance(f_x, f_G_x, d)


def L_tid(x: Tensor, G_x: Tensor) -> Tensor:
    """Eq. 6, identity on t, with d2 = MSE: E_t mean (x - G(x))² over the elements of images N×C×H×W; a scalar."""
    return F.mse_loss(G_x, x)


def L_tid_gan_d(logits_same: Tensor, logits_pair: Tensor) -> Tensor:
    """Loss of the second discriminator when d2 is "a second GAN" (Sec. 4); a scalar.

    The paper gives no formula. Ours keeps what d2 does, comparing x with G(x): D2 sees both images, stacked along the
    channels, and tells (x, x) from (x, G(x)). Logits N×1.
    """
    return F.softplus(-logits_same).mean() + F.softplus(logits_pair).mean()


def L_tid_gan(logits_pair: Tensor) -> Tensor:
    """Eq. 6 with a second GAN as d2, the loss of g: -E_t log D2(x, G(x)), logits N×1; a scalar."""
    return F.softplus(-logits_pair).mean()


def L_tv(z: Tensor, B: float = 1.0, reduction: Reduction = "mean", epsilon: float = 1e-8) -> Tensor:
    """Eq. 7, total variation: Σ_ij ((z_{i,j+1} - z_ij)² + (z_{i+1,j} - z_ij)²)^(B/2) of images N×C×H×W; a scalar.

    Mean over the batch and channels of the sum over pixels (`sum`, as written) or of the mean over pixels (`mean`,
    which keeps γ independent of the image's size). The exponent B/2 is that of Mahendran & Vedaldi (2015), whom the
    paper cites; it is lost in the printed equation. The sum runs over the (H-1)×(W-1) pixels that have both
    neighbours. `epsilon` inside the root keeps its gradient finite on flat areas.
    """
    horizontal = z[..., :-1, 1:] - z[..., :-1, :-1]
    vertical = z[..., 1:, :-1] - z[..., :-1, :-1]
    variation = (horizontal**2 + vertical**2 + epsilon) ** (B / 2)
    return variation.mean() if reduction == "mean" else variation.sum((-2, -1)).mean()
