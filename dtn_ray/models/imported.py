"""f brought along: any face network as ONNX, as a frozen torch module through which gradients flow."""

import functools
import io
import math
import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Eye:
    """What a network sees of an aligned face, and how.

    Aligned faces (dtn_ray/faces.py) have the same place in a square picture of any size, so a crop in fractions of its
    side fits photos of 152 pixels and emoji of 64 alike.
    """

    size: int
    """Pixels of the square that the network takes."""
    crop: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Left, top and side of what it sees, as fractions of the picture's side."""
    low: float = -1.0
    """Value of black."""
    high: float = 1.0
    """Value of white."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Taken off each channel after that, in the order that the network takes them …"""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """… and by this each is divided."""
    bgr: bool = False
    """Blue first, as networks trained with OpenCV take it."""

    def __call__(self, x: Tensor) -> Tensor:
        """Pictures N×3×H×H in [-1, 1] to the network's input N×3×`size`×`size`; differentiable, bilinear."""
        left, top, side = self.crop
        if x.shape[-1] != self.size or self.crop != (0, 0, 1):
            shrink = x.shape[-1] * side / self.size
            if shrink > 1:  # or fine patterns would pass between the samples, unseen
                x = F.interpolate(x, math.ceil(x.shape[-1] / shrink), mode="bilinear", antialias=True)
            theta = x.new_tensor([[side, 0, 2 * left + side - 1], [0, side, 2 * top + side - 1]]).expand(len(x), 2, 3)
            grid = F.affine_grid(theta, [len(x), 3, self.size, self.size], align_corners=False)
            x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        x = (x + 1) / 2 * (self.high - self.low) + self.low
        x = x.flip(1) if self.bgr else x
        return (x - x.new_tensor(self.mean)[:, None, None]) / x.new_tensor(self.std)[:, None, None]


class _Clamp(nn.Module):
    """ONNX's Min or Max of tensors that broadcast; by a number, as a hardtanh, whose gradient costs least."""

    def __init__(self, smallest: bool) -> None:
        super().__init__()
        self.of_two = torch.minimum if smallest else torch.maximum
        self.smallest = smallest

    def forward(self, *tensors: Tensor) -> Tensor:
        numbers = [float(each) for each in tensors if not each.dim()]
        others = [each for each in tensors if each.dim()]
        if len(numbers) != 1 or not others:
            return functools.reduce(self.of_two, tensors)
        low, high = (-math.inf, numbers[0]) if self.smallest else (numbers[0], math.inf)
        return F.hardtanh(functools.reduce(self.of_two, others), low, high)


def _with_clamps(network: nn.Module) -> nn.Module:
    """onnx2torch takes Min and Max, of which ReLU6 is made, by stacking copies: half of a MobileNet's time."""
    from onnx2torch.node_converters.min_max import OnnxMinMax

    for name, module in list(network.named_modules()):
        if isinstance(module, OnnxMinMax):
            network.set_submodule(name, _Clamp(module._operator is torch.amin))
    return network


class ImportedF(nn.Module):
    """A network from ONNX with its eye, in eval mode, its weights fixed; `represent` gives f(x), N×`features`.

    Raises ValueError where the file is no ONNX network that onnx2torch knows, or does not give one vector an image.
    """

    def __init__(self, content: bytes, eye: Eye) -> None:
        super().__init__()
        import onnx  # seconds to import, and needed for faces alone
        from onnx2torch import convert

        warnings.filterwarnings("ignore", "Using a non-tuple sequence", module="onnx2torch")  # its slices; right so far
        try:
            network = _with_clamps(convert(onnx.load(io.BytesIO(content))).eval())
        except Exception as error:  # protobuf, onnx and onnx2torch have no common one
            raise ValueError(f"not an ONNX network that can be used here: {error}") from error
        # Here, and not by who uses it: a copy, in another process too, is made from the file again.
        self.network = network.requires_grad_(False)
        self.content, self.eye = content, eye
        with torch.no_grad():
            try:
                found = self.network(torch.zeros(2, 3, eye.size, eye.size))
            except RuntimeError as error:
                raise ValueError(f"does not take images 3×{eye.size}×{eye.size}: {error}") from error
        if not isinstance(found, Tensor) or len(found) != 2:
            raise ValueError("must give one vector for each image of a batch of any size")
        self.features = found.flatten(1).shape[1]

    def __reduce__(self) -> tuple[type["ImportedF"], tuple[bytes, Eye]]:
        return ImportedF, (self.content, self.eye)  # its weights are the file's, always

    def represent(self, x: Tensor) -> Tensor:
        """f(x): aligned faces N×3×H×H in [-1, 1], H of any size, to N×features."""
        return self.network(self.eye(x)).flatten(1)
