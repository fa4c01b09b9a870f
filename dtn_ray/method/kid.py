"""The distance of G's images from t: the kernel distance between features. It needs neither labels nor pairs."""

from torch import Tensor


def kid(features: Tensor, of_t: Tensor) -> float:
    """The kernel distance KID (Bińkowski et al. 2018) between two sets of features, N×features and M×features.

    The unbiased estimate of MMD² for the kernel (x·y / features + 1)³: about 0, sometimes slightly negative, if both
    sets come from one distribution. The paper has no such measure, but a low L_CONST alone does not show whether G(x)
    looks like t. The features come from one of our own networks, because Inception was trained on neither digits nor
    emoji. They are normalized by t's mean and scale, so that the kernel does not depend on the network's scale.
    (torchmetrics has KID too, but it waits for all ranks, and only one rank validates.)
    """
    mean, scale = of_t.mean(0), of_t.var(dim=0).mean().sqrt().clamp_min(1e-12)
    x, y = (features - mean) / scale, (of_t - mean) / scale

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def among(some: Tensor) -> Tensor:
        values = kernel(some, some)
        return (values.sum() - values.trace()) / (len(some) * (len(some) - 1))

    return (among(x) + among(y) - 2 * kernel(x, y).mean()).item()
