"""The face networks of Sec. 5.2: f (DeepFace), g and D.

All take and give images in [-1, 1]. `width` multiplies the number of filters; 1.0 is the paper's size.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtn_ray.models.imported import Eye
from dtn_ray.models.layers import initialise, scaled
from dtn_ray.models.options import Norm, Upscaling
from dtn_ray.models.perceptual import Perceptual
from dtn_ray.models.workers import Dropout

SLOPE = 0.2  # of D's leaky ReLU


class LocallyConnected(nn.Module):
    """A convolution whose filters are not shared between positions (Taigman et al. 2014, Sec. 3.2).

    N×`inputs`×`size`×`size` to N×`outputs`×H×H with H = (`size` - `kernel`) // `stride` + 1.
    """

    def __init__(self, inputs: int, outputs: int, size: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.size = (size - kernel) // stride + 1
        self.weight = nn.Parameter(torch.empty(self.size**2, kernel**2 * inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs, self.size, self.size))
        nn.init.normal_(self.weight, 0.0, math.sqrt(2 / (inputs * kernel**2)))  # He et al. 2015, for a ReLU after it

    def forward(self, x: Tensor) -> Tensor:
        # Patches are stored by position, with channels innermost; with F.unfold's order this layer is many times
        # slower.
        rows = x.permute(0, 2, 3, 1).unfold(1, self.kernel, self.stride).unfold(2, self.kernel, self.stride)
        patches = rows.permute(1, 2, 0, 4, 5, 3).reshape(self.size**2, len(x), -1)
        places = torch.bmm(patches, self.weight).unflatten(0, (self.size, self.size))
        return places.permute(2, 3, 0, 1) + self.bias


class DeepFace(Perceptual):
    """f of Sec. 5.2 with the classifier that it is trained with: DeepFace (Taigman et al. 2014).

    Input N×3×152×152 in [-1, 1]. `represent` gives f(x), N×256; `forward` gives N×`classes` logits.

    C1-M2-C3-L4-L5-L6-F7 as published: two convolutions, three locally connected layers, 4,096 units, ReLU after each.
    The 256 features are a linear bottleneck between F7 and the classifier, as in the same authors' "Web-scale training
    for face identification" (2015), whose representation has that size; the DTN's paper gives only the size. The 3D
    frontalisation before the network is left out: our inputs are faces aligned by their landmarks.

    Weights are initialised as in He et al. (2015) instead of the publication's N(0, 0.01) with biases of 0.5. This
    matters: after these eight layers without normalisation, a feature's standard deviation over photos is 0.14 with it,
    but 0.0004 with torch's default initialisation, with which the network learns next to nothing from a small set.
    """

    size = 152
    eye = Eye(size)  # the whole aligned face

    def __init__(self, classes: int, width: float = 1.0, dropout: float = 0.5, features: int = 256) -> None:
        """`classes` 0: without the classifier, as f."""
        super().__init__()
        wide, narrow = scaled(32, width), scaled(16, width)
        units = scaled(4096, width)
        self.network = nn.Sequential(
            *(nn.Conv2d(3, wide, 11), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),  # 152 → 142 → 71
            *(nn.Conv2d(wide, narrow, 9), nn.ReLU()),  # 63
            *(LocallyConnected(narrow, narrow, 63, 9), nn.ReLU()),  # 55
            *(LocallyConnected(narrow, narrow, 55, 7, 2), nn.ReLU()),  # 25
            *(LocallyConnected(narrow, narrow, 25, 5), nn.ReLU()),  # 21
            *(nn.Flatten(), nn.Linear(narrow * 21 * 21, units), nn.ReLU(), Dropout(dropout)),
            nn.Linear(units, features),
        )
        self.classifier = nn.Linear(features, classes) if classes else None
        self.features = features
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                linear = layer in (self.network[-1], self.classifier)
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if linear else "relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def represent(self, x: Tensor) -> Tensor:
        """f(x): aligned faces N×3×H×H in [-1, 1], H of any size, to N×features."""
        return self.network(self.eye(x))

    def forward(self, x: Tensor) -> Tensor:
        assert self.classifier is not None
        return self.classifier(self.represent(x))


class FaceG(nn.Module):
    """g of Sec. 5.2: N×`features` to N×3×64×64 in [-1, 1].

    "5 blocks, each consisting of an upscaling convolution, batch-normalization and ReLU. Adding 1×1 convolution to each
    block resulted in lower L_CONST training errors, and made g 9-layers deep": 1 → 4 → 8 → 16 → 32 → 64 pixels. The
    nine layers are five upscaling convolutions and four 1×1 convolutions, one after every block except the last. The
    last block's convolution returns the image, through a tanh, as in the digits' g.

    The paper does not give the filters (here 512-256-128-64) and how to upscale. `transposed` is the 4×4 convolution
    with stride 2 of Radford et al. (2015). `nearest` repeats pixels before a 3×3 convolution and draws cleaner areas: a
    transposed convolution leaves a fine chequered pattern (Odena et al. 2016), which changes f's features although
    people do not notice it.
    """

    filters = (512, 256, 128, 64)

    def __init__(
        self, features: int = 256, channels: int = 3, width: float = 1.0, upscaling: Upscaling = "transposed"
    ) -> None:
        super().__init__()
        sizes = [features, *(scaled(filters, width) for filters in self.filters)]
        blocks: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            up = nn.ConvTranspose2d(inputs, outputs, 4, bias=False) if i == 0 else _twice(inputs, outputs, upscaling)
            blocks += [up, nn.BatchNorm2d(outputs), nn.ReLU()]
            blocks += [nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*blocks, _twice(sizes[-1], channels, upscaling, bias=True), nn.Tanh())
        initialise(self)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features[:, :, None, None])


def _twice(inputs: int, outputs: int, upscaling: Upscaling, bias: bool = False) -> nn.Module:
    """An upscaling convolution: twice the size."""
    if upscaling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias))


class FaceD(nn.Module):
    """D of Sec. 5.2: images N×`channels`×H×W in [-1, 1] to N×`classes` logits.

    "Takes 152×152 RGB images (either natural or scaled-up emoji) and consists of 6 blocks, each containing a
    convolution with stride 2, batch normalization, and a leaky ReLU with a parameter of 0.2": 152 → 76 → 38 → 19 → 9
    → 4 → 2 pixels. Its inputs are scaled to `size`, both real t and G(x). Real t must be given at g's resolution;
    otherwise D could tell them apart by the resolution alone. The paper does not give the filters (here
    64-128-256-512-512-512 of 4×4) and how to compute the logits (here a linear layer).

    With `norm` "none" there is no batch normalization, unlike in the paper, and weights are initialised as in He et al.
    (2015). If each domain is a batch of its own, batch normalization removes the difference between a blurred G(x) and
    a sharp t, the magnitude of a layer's values, and D only guesses for hundreds of steps (docs/results/faces.md).

    N×3×H×W in [-1, 1], H of any size, to N×`classes`. Raises ValueError for a `size` below 64.
    """

    filters = (64, 128, 256, 512, 512, 512)

    def __init__(
        self, channels: int = 3, classes: int = 3, width: float = 1.0, size: int = 152, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        if size < 2 ** len(self.filters):
            raise ValueError(f"D halves its input {len(self.filters)} times: size {size} must be at least 64")
        self.size = size
        sizes = [channels, *(scaled(filters, width) for filters in self.filters)]
        blocks: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            blocks.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=norm == "none"))
            blocks += [nn.BatchNorm2d(outputs)] if norm == "batch" else []
            blocks.append(nn.LeakyReLU(SLOPE))
        self.layers = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(sizes[-1] * (size >> 6) ** 2, classes))
        initialise(self)
        if norm == "none":
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):  # with DCGAN's initialisation the activations would vanish
                    nn.init.kaiming_normal_(layer.weight, SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        return self.layers(x)
