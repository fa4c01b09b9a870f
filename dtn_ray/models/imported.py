"""f brought along: any face network as ONNX, as a frozen torch module through which gradients flow."""

import hashlib
import io
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


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
            grid = torch.stack(torch.meshgrid(self._places(left, x), self._places(top, x), indexing="xy"), -1)
            x = F.grid_sample(x, grid.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=False)
        x = (x + 1) / 2 * (self.high - self.low) + self.low
        x = x.flip(1) if self.bgr else x
        if self.mean != (0, 0, 0):
            x = x - x.new_tensor(self.mean)[:, None, None]
        return x if self.std == (1, 1, 1) else x / x.new_tensor(self.std)[:, None, None]

    def _places(self, first: float, x: Tensor) -> Tensor:
        """Where the crop's pixels lie on a side from -1 to 1; made on x's device, which a copy would wait for."""
        half = self.crop[2] / self.size
        low, high = 2 * first - 1 + half, 2 * (first + self.crop[2]) - 1 - half
        return torch.linspace(low, high, self.size, dtype=x.dtype, device=x.device)


class ImportedF(nn.Module):
    """A network from ONNX with its eye, in eval mode, its weights fixed; `represent` gives f(x), N×`features`.

    Its state is a digest of its weights alone: they are its file's, and no checkpoint keeps them a second time.

    Raises ValueError where the file is no ONNX network that onnx2torch knows, or does not give one vector an image.
    """

    def __init__(self, content: bytes, eye: Eye) -> None:
        super().__init__()
        self.content, self.eye = content, eye
        network = onnx_as_read(content)
        with torch.no_grad():
            try:
                found = network(torch.zeros(2, 3, eye.size, eye.size))
            except RuntimeError as error:
                raise ValueError(f"does not take images 3×{eye.size}×{eye.size}: {error}") from error
        if not isinstance(found, Tensor) or len(found) != 2:
            raise ValueError("must give one vector for each image of a batch of any size")
        self.features = found.flatten(1).shape[1]
        self.digest = _digest(network)
        self.network = _without_state(_simplified(network, content, eye))
        self.register_load_state_dict_pre_hook(_forget_weights)

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


def onnx_as_read(content: bytes) -> fx.GraphModule:
    """An ONNX file's network as onnx2torch reads it, in eval mode. Raises ValueError where it cannot."""
    import onnx  # seconds to import, and needed for faces alone
    from onnx2torch import convert

    warnings.filterwarnings("ignore", "Using a non-tuple sequence", module="onnx2torch")  # its slices; right so far
    try:
        return convert(onnx.load(io.BytesIO(content))).eval()
    except Exception as error:  # protobuf, onnx and onnx2torch have no common one
        raise ValueError(f"not an ONNX network that can be used here: {error}") from error


def _simplified(network: fx.GraphModule, content: bytes, eye: Eye) -> fx.GraphModule:
    """The network made fast, or as it is, with a warning, where that fails or gives something else."""
    from dtn_ray.models.simplify import simplify

    images = torch.rand(2, 3, eye.size, eye.size, generator=torch.Generator().manual_seed(0))
    images = images * (eye.high - eye.low) + eye.low
    with torch.no_grad():
        expected = network(images)
        try:
            torch.testing.assert_close(simplify(network, eye.size)(images), expected, rtol=1e-3, atol=1e-4)
        except Exception as error:  # a network of any kind, in operations of any kind
            warnings.warn(f"f could not be made faster and is used as its file has it: {error}", stacklevel=2)
            return onnx_as_read(content)
    return network


def _digest(network: nn.Module) -> bytes:
    """Of weights as their file has them: the same where others changed the file but not those."""
    sha = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        sha.update(name.encode() + value.numpy().tobytes())
    return sha.digest()


def _without_state(network: nn.Module) -> nn.Module:
    """Weights become buffers that no checkpoint keeps: they are the file's."""
    for module in network.modules():
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, value.detach(), persistent=False)
    return network


def _forget_weights(f: ImportedF, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Checkpoints of former versions have the weights once more."""
    former = [key for key in state if key.startswith(f"{prefix}network.")]
    if former:
        state.setdefault(f"{prefix}_extra_state", f.get_extra_state())
    for key in former:
        del state[key]
