"""SRCNN (Dong et al. 2015), which Sec. 5.2 enlarges g's 64×64 output with to print quality. Pure torch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SRCNN(nn.Module):
    """Sharpens what bicubic interpolation enlarged: luminance N×1×H×W in [0, 1] to the same.

    The published 9-1-5 network, 64 and 32 filters, or with `middle=5` the larger 9-5-5 whose results the authors
    report as best. Borders are repeated instead of cut off, so that the size stays.
    """

    def __init__(self, middle: int = 5) -> None:
        super().__init__()
        self.middle = middle
        kernels, filters = (9, middle, 5), (1, 64, 32, 1)
        layers = [
            nn.Conv2d(filters[i], filters[i + 1], kernels[i], padding=kernels[i] // 2, padding_mode="replicate")
            for i in range(3)
        ]
        for layer in layers:
            nn.init.normal_(layer.weight, 0.0, 0.001)  # as published
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.layers = nn.ModuleList(layers)

    def forward(self, y: Tensor) -> Tensor:
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](y)))))


# ITU-R BT.601 on full range, which the super-resolution literature measures on: Y of RGB, then Cb and Cr.
_YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def upscale(network: nn.Module, x: Tensor, factor: int) -> Tensor:
    """Images N×3×H×W in [-1, 1] enlarged `factor` times: bicubic, and then the network on their luminance."""
    matrix = _YCBCR.to(x)
    large = F.interpolate((x + 1) / 2, scale_factor=factor, mode="bicubic", align_corners=False).clamp(0, 1)
    ycbcr = torch.einsum("ij,njhw->nihw", matrix, large)
    sharp = torch.cat([network(ycbcr[:, :1]), ycbcr[:, 1:]], 1)
    return (torch.einsum("ij,njhw->nihw", torch.linalg.inv(matrix), sharp).clamp(0, 1) * 2 - 1).to(x)
