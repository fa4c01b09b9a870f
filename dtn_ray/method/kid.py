"""The distance of G's images from t: the kernel distance between features. It needs neither labels nor pairs."""

from torch import Tensor


def kid(features: Tensor, of_t: Tensor) -> float:
    """The kernel distance KID (Bińkowski et al. 2018) between two sets of features, N×features and M×features.

    The unbiased estimate of MMD² for the kernel (x·y / features + 1)³, so about 0 (and a little below at times) where
    both sets come from one distribution. The paper has no such measure: low L_CONST alone does not tell whether G(x)
    looks like t. The features are a network's of ours, not Inception's, which knows neither digits nor emoji; their
    unit is t's, so that the kernel means the same for any. (torchmetrics has it too, but waits for all ranks, of which
    one validates.)
    """
    mean, scale = of_t.mean(0), of_t.var(dim=0).mean().sqrt().clamp_min(1e-12)
    x, y = (features - mean) / scale, (of_t - mean) / scale

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def among(some: Tensor) -> Tensor:
        values = kernel(some, some)
        return (values.sum() - values.trace()) / (len(some) * (len(some) - 1))

    return (among(x) + among(y) - 2 * kernel(x, y).mean()).item()
