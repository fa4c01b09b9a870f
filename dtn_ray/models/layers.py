"""What networks of all domains share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def scaled(filters: int, width: float) -> int:
    """Number of filters of a layer at a width multiplier; at least 1."""
    return max(1, round(filters * width))


def initialise(module: nn.Module) -> None:
    """DCGAN's initialisation: convolutions and linear layers from N(0, 0.02), batch norm's scale from N(1, 0.02).

    The paper refers to Radford et al. (2015) for g and D, and theirs is this. It matters: under torch's default
    initialisation the digit DTN learns nothing in its first 500 steps.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


class PerDomain(nn.Module):
    """Applies a network to several batches, one forward pass each, so that batch norm never mixes them.

    In one common pass the batch statistics give away which domain an image is from, and D wins at once; the paper does
    not say. `separate=False` is the common pass. One call per update is also what data-parallel wrappers expect.
    """

    def __init__(self, network: nn.Module, separate: bool = True) -> None:
        super().__init__()
        self.network, self.separate = network, separate

    def forward(self, *batches: Tensor) -> Sequence[Tensor]:
        if self.separate:
            return [self.network(batch) for batch in batches]
        return self.network(torch.cat(batches)).split([len(batch) for batch in batches])
