"""The digit networks of Sec. 5.1: f (and the judge, which has its architecture), g and D.

All take and give images in [-1, 1]. `width` multiplies the number of filters; 1.0 is the paper's size.
"""

from itertools import pairwise

from torch import Tensor, nn

from dtn_ray.models.layers import initialise, scaled
from dtn_ray.models.perceptual import Perceptual
from dtn_ray.models.workers import Dropout


class DigitF(Perceptual):
    """f of Sec. 5.1 with the classifier on top that it is trained with; also the architecture of the judge.

    Input N×3×32×32 (or N×1×32×32: "we replicate the grayscale image three times") in [-1, 1].
    `represent` gives f(x), N×128 (times width): the paper's 128×1×1 activations "post a 4×4 max pooling and before
    the ReLU"; `forward` gives N×`classes` logits.

    Left open by the paper: kernels (3×3, padding 1), the poolings before the 4×4 one (2×2 each, the only even way from
    32 to 4), the classifier (one linear layer after the ReLU) and its dropout (a regulariser of ours, `dropout`).
    """

    filters = (64, 128, 256, 128)
    poolings = (2, 2, 2, 4)

    def __init__(self, width: float = 1.0, classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for filters, pooling in zip(self.filters, self.poolings, strict=True):
            layers += [nn.Conv2d(channels, scaled(filters, width), 3, padding=1), nn.MaxPool2d(pooling), nn.ReLU()]
            channels = scaled(filters, width)
        self.layers = nn.Sequential(*layers[:-1])
        self.classifier = nn.Sequential(nn.ReLU(), Dropout(dropout), nn.Linear(channels, classes))
        self.features = channels

    def represent(self, x: Tensor) -> Tensor:
        """f(x): N×3×32×32 or N×1×32×32 in [-1, 1] to N×features."""
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        return self.layers(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.represent(x))


class DigitG(nn.Module):
    """g of Sec. 5.1: N×`features` to N×`channels`×32×32 in [-1, 1].

    "Four blocks of deconvolution, batch-normalization, and ReLU, with a hyperbolic tangent terminal", shaped as in
    Radford et al. (2015): 1 → 4 → 8 → 16 → 32 pixels with 512-256-128 filters. As there, the last block gives the
    image: the tanh replaces its batch norm and ReLU, which would bound it to [0, ∞).
    """

    filters = (512, 256, 128)

    def __init__(self, features: int = 128, channels: int = 1, width: float = 1.0) -> None:
        super().__init__()
        sizes = [features, *(scaled(filters, width) for filters in self.filters)]
        blocks: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            stride, padding = (1, 0) if i == 0 else (2, 1)
            blocks += [
                nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*blocks, nn.ConvTranspose2d(sizes[-1], channels, 4, 2, 1), nn.Tanh())
        initialise(self)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features[:, :, None, None])


class DigitD(nn.Module):
    """D of Sec. 5.1: N×`channels`×32×32 in [-1, 1] to N×`classes` logits (three: Eq. 3; two for the baseline).

    "Four batch-normalized convolutional layers and employs ReLU": 4×4 kernels of stride 2 with Radford et al.'s
    64-128-256-512 filters, 32 → 16 → 8 → 4 → 2 pixels. The logits come from a linear layer without batch norm, which
    would tie the three class probabilities of one image to those of the others in its batch.
    """

    filters = (64, 128, 256, 512)

    def __init__(self, channels: int = 1, classes: int = 3, width: float = 1.0) -> None:
        super().__init__()
        sizes = [channels, *(scaled(filters, width) for filters in self.filters)]
        blocks: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            blocks += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(sizes[-1] * 4, classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
