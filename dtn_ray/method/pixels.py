"""Conversion between stored pixels and the method's tensors. Separate from the sets, whose readers need no torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


def to_float(images: "np.ndarray | Tensor") -> Tensor:
    """uint8 0..255 to float32 in [-1, 1]: the one place where images enter the method."""
    values = images.float() if isinstance(images, Tensor) else images.astype("float32")
    return torch.as_tensor(values).div(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [-1, 1] to uint8 0..255: the one place where images leave the method."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).byte()


@torch.no_grad()
def in_batches(
    function: Callable[[Tensor], Tensor],
    images: "np.ndarray",
    batch_size: int = 500,
    device: "torch.device | str" = "cpu",
) -> Tensor:
    """`function` of images N×C×H×W uint8, which gets `batch_size` of them at a time, in [-1, 1] on `device`.

    The results, N×…, are on the CPU. Networks must be in eval mode.
    """
    parts = (to_float(images[i : i + batch_size]).to(device) for i in range(0, len(images), batch_size))
    return torch.cat([function(x).cpu() for x in parts])
