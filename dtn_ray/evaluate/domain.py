"""How far what G draws is from t: the kernel distance between features, which needs neither labels nor pairs."""

import warnings

import torch
from torch import Tensor, nn


def kid(features: Tensor, of_t: Tensor) -> float:
    """The kernel distance KID (Bińkowski et al. 2018) between two sets of features, N×features and M×features.

    Unbiased, so about 0 (and a little below at times) where both sets come from one distribution. The paper has no such
    measure: low L_CONST alone does not tell whether G(x) looks like t. The features are a network's of ours, not
    Inception's, which knows neither digits nor emoji; their unit is t's, so that the kernel means the same for any.
    """
    from torchmetrics.image.kid import KernelInceptionDistance  # seconds, which every process of a training would pay

    mean, scale = of_t.mean(0), of_t.var(dim=0).mean().sqrt().clamp_min(1e-12)
    size = min(len(features), len(of_t))
    with warnings.catch_warnings(action="ignore"):  # that it keeps all features
        metric = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=size)
    # One subset of all: no chance in it.
    metric.update(((of_t[:size] - mean) / scale).cpu(), real=True)
    metric.update(((features[:size] - mean) / scale).cpu(), real=False)
    with torch.random.fork_rng(devices=[]):  # its permutation would shift all that a training draws after it
        return metric.compute()[0].item()
