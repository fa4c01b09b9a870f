"""Any face network in ONNX, as f: a frozen torch module through which gradients flow."""

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtn_ray.bounds import Positive, Within
from dtn_ray.models.allowance import allowance
from dtn_ray.models.perceptual import Perceptual

if TYPE_CHECKING:
    from dtn_ray.models import onnx_reader


Place = Annotated[float, Within(ge=-2, le=2)]


@dataclass(frozen=True)
class Eye:
    """The preprocessing of a face network: the region of an aligned face that is its input, and its value range.

    Aligned faces (dtn_ray/faces/align.py) have the same place in a square picture of any size, so a crop in fractions
    of its side fits photos of 152 pixels and emoji of 64 alike.
    """

    size: Annotated[int, Within(ge=1, le=1024)]
    """Width and height of the network's input, in pixels."""
    crop: tuple[Place, Place, Annotated[float, Within(gt=0, le=4)]] = (0.0, 0.0, 1.0)
    """Left, top and side of the input region, as fractions of the picture's side."""
    low: float = -1.0
    """Value of black."""
    high: float = 1.0
    """Value of white."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Then subtracted from each channel, in the network's order of channels."""
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    """Then each channel is divided by this."""
    bgr: bool = False
    """Whether the channels are in the order blue, green, red, as in networks trained with OpenCV."""
    output: str | int | None = None
    """The network's output that is f(x), by name or by number from 0; by default the first that is a vector."""

    def __call__(self, x: Tensor) -> Tensor:
        """Pictures N×3×H×H in [-1, 1] to the network's input N×3×`size`×`size`; differentiable, bilinear."""
        left, top, side = self.crop
        if x.shape[-1] != self.size or self.crop != (0, 0, 1):
            shrink = x.shape[-1] * side / self.size
            if shrink > 1:  # otherwise fine patterns between the samples would be ignored
                x = F.interpolate(x, math.ceil(x.shape[-1] / shrink), mode="bilinear", antialias=True)
            grid = torch.stack(torch.meshgrid(self._places(left, x), self._places(top, x), indexing="xy"), -1)
            x = F.grid_sample(x, grid.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=False)
        return self.values(x)

    def values(self, x: Tensor) -> Tensor:
        """Colours N×3×H×W in [-1, 1] to the network's value range and order of channels."""
        x = (x + 1) / 2 * (self.high - self.low) + self.low
        x = x.flip(1) if self.bgr else x
        if self.mean != (0, 0, 0):
            x = x - x.new_tensor(self.mean)[:, None, None]
        return x if self.std == (1, 1, 1) else x / x.new_tensor(self.std)[:, None, None]

    def _places(self, first: float, x: Tensor) -> Tensor:
        """Positions of the crop's pixels on a side from -1 to 1; computed on x's device to avoid a blocking copy."""
        half = self.crop[2] / self.size
        low, high = 2 * first - 1 + half, 2 * (first + self.crop[2]) - 1 - half
        return torch.linspace(low, high, self.size, dtype=x.dtype, device=x.device)


class ImportedF(Perceptual):
    """A network from ONNX with its preprocessing (`eye`), in eval mode with fixed weights.

    `represent` returns f(x), N×`features`. The input format (N×3×H×W or N×H×W×3, bytes or floats, colour or grey, a
    batch or one image at a time) is found from the file and by trials. The state dict contains only a digest of the
    weights: they are in the ONNX file, so checkpoints don't store them again.

    Raises ValueError, with the reason in one line, if the file is not an ONNX network that can be read, if the network
    does not return one vector per image or returns values that are not finite, or if no gradient reaches its input.
    """

    def __init__(self, content: bytes, eye: Eye) -> None:
        from dtn_ray.models import onnx_reader  # imports onnx, which takes seconds

        super().__init__()
        self.content, self.eye = content, eye
        with allowance(len(content), eye.size**2):
            self._read(onnx_reader)
        self.register_load_state_dict_pre_hook(_forget_weights)

    def _read(self, onnx_reader: Any) -> None:
        content, eye = self.content, self.eye
        images = torch.rand(3, 3, eye.size, eye.size, generator=torch.Generator().manual_seed(0), device="cpu")
        images = eye.values(2 * images - 1)
        read = onnx_reader.read(content, images, eye.bgr, eye.output)
        self.features, self.digest = _checked(read.whole(read.reading.network), images), read.reading.digest
        self.network = _without_state(_simplified(read, images))

    def __reduce__(self) -> tuple[type["ImportedF"], tuple[bytes, Eye]]:
        return ImportedF, (self.content, self.eye)

    def represent(self, x: Tensor) -> Tensor:
        """f(x): aligned faces N×3×H×H in [-1, 1], H of any size, to N×features."""
        return self.network(self.eye(x)).flatten(1)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(list(self.digest), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise RuntimeError("made with another ONNX network")


@torch.enable_grad()  # conversion loads the network with gradients disabled
def _checked(network: nn.Module, images: Tensor) -> int:
    """The number of its features. Raises ValueError if they are not finite, or do not depend on each image."""
    images = images.detach().requires_grad_()
    found = network.requires_grad_(False)(images).flatten(1)
    if not found.is_floating_point():
        raise ValueError(f"its output has type {found.dtype}, which has no gradient; export it in float32")
    if not found.isfinite().all():
        raise ValueError("its output for noise is infinite or NaN; check that low, high, mean and std are right")
    if not found.requires_grad:
        raise ValueError("no gradient passes through it, so it cannot guide g; export it in floating point")
    if torch.equal(found, found[:1].expand_as(found)):
        raise ValueError("its output is the same for every picture, so it cannot guide g")
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    [gradient] = torch.autograd.grad((found * weights).sum(), images)
    if not gradient.isfinite().all() or not gradient.flatten(1).any(1).all():
        raise ValueError("its gradient is zero or not finite, so it cannot guide g; export it in floating point")
    return found.shape[1]


def _simplified(read: "onnx_reader.Read", images: Tensor) -> nn.Module:
    """The simplified network; or the original one, with a warning, if that fails or changes the output."""
    from dtn_ray.models.onnx_reader import quietly
    from dtn_ray.models.onnx_simplify import simplify

    network = read.reading.network
    with torch.no_grad():
        expected = read.whole(network)(images)
        try:
            with quietly():
                fast = read.whole(simplify(network, *read.shapes(images.shape[-1])))
                found = fast(images)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
            return fast
        except Exception as error:  # networks from others can fail in any way
            warnings.warn(f"f could not be made faster and is used as its file has it: {error}", stacklevel=2)
            return read.whole(read.reading.again())


def _without_state(network: nn.Module) -> nn.Module:
    """Turns weights into buffers that checkpoints do not store, because the ONNX file holds them."""
    for module in network.modules():
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, value.detach(), persistent=False)
    return network


def _forget_weights(f: ImportedF, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Ignores the weights that checkpoints of earlier versions contain a second time."""
    former = [key for key in state if key.startswith(f"{prefix}network.")]
    if former:
        state.setdefault(f"{prefix}_extra_state", f.get_extra_state())
    for key in former:
        del state[key]
