"""SRCNN (Dong et al. 2015), with which Sec. 5.2 enlarges g's 64×64 output to print quality. Only torch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SRCNN(nn.Module):
    """Sharpens what bicubic interpolation enlarged: luminance N×1×H×W to the same, as `rgb_to_ycbcr` gives it.

    The published 9-1-5 network, 64 and 32 filters, or with `middle=5` the larger 9-5-5 whose results the authors
    report as best. The image's border is repeated `margin` pixels outwards instead of cut off, so that the size stays.

    It begins as bicubic interpolation: one path of centred unit filters carries the luminance through, and the other
    filters have He's variance (small in the last layer). The published N(0, 0.001) leaves Adam to find that path first:
    docs/results/super-resolution.md.
    """

    def __init__(self, middle: int = 5) -> None:
        super().__init__()
        self.middle = middle
        kernels, filters = (9, middle, 5), (1, 64, 32, 1)
        self.margin = sum(kernel // 2 for kernel in kernels)
        layers = [nn.Conv2d(filters[i], filters[i + 1], kernels[i]) for i in range(3)]
        self.layers = nn.ModuleList(layers)
        with torch.no_grad():
            for layer in layers:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                layer.bias.zero_()  # type: ignore[union-attr]
            first, second, last = (layer.weight for layer in layers)
            last.mul_(0.01)
            first[0], second[0], last[0, 0] = 0.0, 0.0, 0.0
            for weight in (first, second, last):
                weight[0, 0, weight.shape[2] // 2, weight.shape[3] // 2] = 1.0

    def forward(self, y: Tensor, pad: bool = True) -> Tensor:
        """Without `pad`, the output is `margin` pixels smaller on each side, so that no padding affects it."""
        if pad:
            y = F.pad(y, [self.margin] * 4, mode="replicate")
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](y)))))


# ITU-R BT.601 in studio range (Y from 16 to 235 of 255, Cb and Cr about 128), as MATLAB's rgb2ycbcr, which the
# super-resolution literature trains and measures with: Y, Cb and Cr of RGB.
_YCBCR = torch.tensor([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_RGB = torch.linalg.inv(_YCBCR)
_OFFSET = torch.tensor([16.0, 128.0, 128.0])[:, None, None] / 255


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """N×3×H×W, RGB in [0, 1] to Y, Cb, Cr in BT.601's studio range divided by 255: Y from 16/255 to 235/255."""
    return _mix(_YCBCR, rgb) + _OFFSET.to(rgb)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """The inverse of `rgb_to_ycbcr`; not clipped."""
    return _mix(_RGB, ycbcr - _OFFSET.to(ycbcr))


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    # Not as a matrix product, which autocast would round to bfloat16 and a GPU to TF32.
    return (matrix.to(x)[:, :, None, None] * x[:, None]).sum(2)


def bicubic(x: Tensor, height: int, width: int) -> Tensor:
    """N×C×H×W resized as MATLAB's imresize does it: Keys' cubic with a = -0.5, widened where it shrinks; not clipped.

    torch's own has a = -0.75 unless it is asked for antialiasing, which changes nothing else where it enlarges.
    """
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True)


def degrade(y: Tensor, factor: int) -> Tensor:
    """N×C×H×W shrunk `factor` times and enlarged again, both bicubic: the network's input; not clipped.

    H and W must be multiples of `factor`.
    """
    height, width = y.shape[-2:]
    return bicubic(bicubic(y, height // factor, width // factor), height, width)


def upscale(network: nn.Module, x: Tensor, factor: int, channels: int = 1, enlarges: int = 1) -> Tensor:
    """Images N×3×H×W in [-1, 1] enlarged `factor` times, by bicubic interpolation and a network that takes [0, 1].

    `channels`: 1 if the network's input is luminance (colour stays bicubic), or 3 if it is RGB.
    `enlarges`: 1 if the network sharpens enlarged images, or `factor` if it enlarges images itself.
    Computes in float32, also under autocast, and returns x's type.
    """
    height, width = factor * x.shape[-2], factor * x.shape[-1]
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 is as coarse as 8 bits: 0.1 dB
        small = (x.float() + 1) / 2
        large = bicubic(small, height, width)
        if channels == 3:
            rgb = network(large if enlarges == 1 else small)
        else:
            ycbcr = rgb_to_ycbcr(large)
            y = network(ycbcr[:, :1] if enlarges == 1 else rgb_to_ycbcr(small)[:, :1])
            rgb = ycbcr_to_rgb(torch.cat([y, ycbcr[:, 1:]], 1))
        return (rgb.clamp(0, 1) * 2 - 1).to(x)
