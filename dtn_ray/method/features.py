"""f as the DTN uses it: frozen, with scaled features."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtn_ray.models.imported import ImportedF
from dtn_ray.models.perceptual import Perceptual

SHRINKAGE = 0.05  # of covariances towards the identity, because a few thousand images estimate small variances poorly


@dataclass(frozen=True)
class Moments:
    """Mean and scale of f's features over a domain."""

    mean: Tensor | None
    """One number for each feature; None if it is not subtracted."""
    scale: float
    """The square root of the features' mean variance."""
    covariance: Tensor | None = None
    """Covariance, features×features."""


class FrozenF(nn.Module):
    """f as the DTN uses it: fixed weights, always in eval mode, normalized features.

    Gradients flow through it to its input, never into its weights: L_CONST reaches g through f(G(x)), not f.
    `scale` (a buffer, one number) divides the features that d compares: once they have unit variance over s, the same α
    has the same effect for any f. The paper's α was tuned to the features of its own f, and it does not give their
    scale.

    With `domains` (the moments of s and of t), each domain's own mean is subtracted from its features, and they are
    divided by the domain's own scale. This is the simplest "explicit domain adaptation step" of Sec. 6. The paper found
    it unnecessary for its f, but other networks need it: if all of t lies on one side of s (as emoji do for a face
    network), L_CONST mostly demands features that no image of t can have, and g gets inputs from s that are unlike
    everything it learned from t.

    With `transport` (features×features) as well, s's features are also multiplied by this matrix, which gives them t's
    covariance. Without it, if t varies in fewer ways than s (as drawn avatars do), g would get inputs that vary in
    directions it never saw in t.

    With `domains` and an `exaggeration` above 1, the distance of s's features from their mean is multiplied by it, both
    in g's input and in L_CONST, as in caricatures (Brennan 1985): the part of f(G(x)) that is specific to x then
    outweighs the part that is the same for all photos.
    """

    scale: Tensor
    mean_s: Tensor | None
    mean_t: Tensor | None
    scale_t: Tensor | None
    transport: Tensor | None

    def __init__(
        self,
        network: Perceptual,
        scale: float = 1.0,
        domains: tuple[Moments, Moments] | None = None,
        transport: Tensor | None = None,
        exaggeration: float = 1.0,
    ) -> None:
        super().__init__()
        self.network: Perceptual = network.requires_grad_(False)
        s, t = domains or (Moments(None, scale), Moments(None, scale))
        self.register_buffer("scale", torch.tensor(float(s.scale) / exaggeration))
        self.register_buffer("mean_s", s.mean if s.mean is None else s.mean.clone())
        self.register_buffer("mean_t", t.mean if t.mean is None else t.mean.clone())
        self.register_buffer("scale_t", torch.tensor(float(t.scale)) if domains else None)
        self.register_buffer("transport", transport)
        self.eval()

    @property
    def onnx(self) -> bytes | None:
        """The ONNX file of an imported f, which holds its weights; None for other networks."""
        return self.network.content if isinstance(self.network, ImportedF) else None

    def train(self, mode: bool = True) -> "FrozenF":
        return super().train(False)

    def forward(self, x: Tensor, of_t: bool = False) -> Tensor:
        """Normalized f(x): images N×C×H×W in [-1, 1] of s, or of t (like those of G), to N×features."""
        features: Tensor = self.network.represent(x).float()
        if self.mean_s is None or self.mean_t is None or self.scale_t is None:
            return features / self.scale
        if of_t:
            return (features - self.mean_t) / self.scale_t
        features = (features - self.mean_s) / self.scale
        return features if self.transport is None else features @ self.transport


@torch.no_grad()
def moments(network: Perceptual, batches: Iterable[Tensor]) -> Moments:
    """The moments of f's features over batches of images N×C×H×W in [-1, 1]; dividing by the scale gives unit
    variance."""
    features = torch.cat([network.represent(batch).float() for batch in batches])
    return Moments(features.mean(0), float(features.var(dim=0).mean().sqrt()), torch.cov(features.T))


def transport(s: Moments, t: Moments) -> Tensor:
    """The linear map A that gives features z of s the covariance of t (as z @ A), and moves them least on average.

    features×features, symmetric: the optimal transport between two Gaussians (Gelbrich 1990),
    A = Σs^-½ (Σs^½ Σt Σs^½)^½ Σs^-½, with each domain's covariance of normalized features, shrunk by SHRINKAGE.
    Whitening would also give both domains the same covariance, but it would rotate the features of s.
    """

    def shrunk(one: Moments) -> Tensor:
        assert one.covariance is not None
        covariance = one.covariance.double() / one.scale**2
        return (1 - SHRINKAGE) * covariance + SHRINKAGE * torch.eye(len(covariance), dtype=torch.double)

    def power(matrix: Tensor, exponent: float) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors * values.clamp_min(1e-12) ** exponent) @ vectors.T

    root, inverse = power(shrunk(s), 0.5), power(shrunk(s), -0.5)
    return (inverse @ power(root @ shrunk(t) @ root, 0.5) @ inverse).float()
