"""Enlarges the images of g for print, with a trained SRCNN or any super-resolution network as ONNX."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dtn_ray import storage
from dtn_ray.checkpoints import onnx_files
from dtn_ray.checkpoints.checkpoint import load_weights, open_folder, read_config, read_manifest
from dtn_ray.errors import UserError, reason
from dtn_ray.models.allowance import allowance
from dtn_ray.models.layers import unfilled
from dtn_ray.models.srcnn import SRCNN, upscale
from dtn_ray.super_resolution import load
from dtn_ray.super_resolution.options import SuperResolution


def load_srcnn(uri: str) -> tuple[SRCNN, SuperResolution, dict[str, Any]]:
    """An SRCNN in eval mode, its settings and its manifest. Raises UserError if the checkpoint cannot be used."""
    with open_folder(uri) as folder:
        manifest = read_manifest(folder, "super_resolution")
        config = read_config(folder, SuperResolution, manifest)
        with unfilled():
            network = SRCNN(config.middle)
        load_weights(network, folder, "srcnn")
    return network.eval(), config, manifest


FACTORS = (1, 2, 3, 4)
TRIALS = ((2, 32), (1, 64))  # numbers of images and their sides in pixels; a network must accept all


@dataclass(frozen=True)
class SuperResolver:
    """A super-resolution network and its properties."""

    network: nn.Module
    """N×`channels`×H×W in [0, 1] to the same, `enlarges` times as large."""
    uri: str
    digest: str
    """SHA-256 of the weights, or of the ONNX file."""
    factors: tuple[int, ...]
    """The factors by which it can enlarge, in addition to 1."""
    channels: int = 1
    """1: luminance as from `rgb_to_ycbcr`; 3: RGB."""
    enlarges: int = 1
    """How many times larger its output is; 1: its input is an image enlarged by bicubic interpolation."""


def load_super_resolver(uri: str) -> SuperResolver:
    """A checkpoint (or finished run) of jobs/super_resolution.py, or NETWORK.onnx.

    A network from ONNX takes luminance N×1×H×W (BT.601's studio range) or RGB N×3×H×W in [0, 1], of any N, H and W, and
    returns as many channels. Its output either has the same size (it then sharpens images that bicubic interpolation
    enlarged by 2, 3 or 4) or is 2 to 4 times as large (it then works for that factor only); a trial run shows which.

    Raises UserError if the file is missing or cannot be used.
    """
    if not storage.exists(uri):
        raise UserError(f"{uri}: not there; give a checkpoint of jobs/super_resolution.py, or NETWORK.onnx")
    if not uri.endswith(".onnx"):
        network, config, manifest = load.load_srcnn(uri)
        return SuperResolver(network, uri, manifest["networks"]["srcnn"], tuple(sorted(config.factors)))
    content = onnx_files.read(uri)
    with allowance(len(content)):
        imported = _imported(content, uri)
        channels, enlarges = _tried(imported, uri)
    factors = (2, 3, 4) if enlarges == 1 else (enlarges,)
    return SuperResolver(imported, uri, hashlib.sha256(content).hexdigest(), factors, channels, enlarges)


def _imported(content: bytes, uri: str) -> nn.Module:
    from dtn_ray.models import onnx_reader  # imports onnx, which takes seconds and is seldom needed

    try:
        return onnx_reader.convert(content)
    except ImportError:
        raise  # our own mistake, not the network's
    except Exception as error:  # a network from others can raise anything
        raise UserError(f"{uri}: {reason(error)}") from error


def _tried(network: nn.Module, uri: str) -> tuple[int, int]:
    """The channels of a network's input, and how many times it enlarges. Raises UserError if it does neither."""
    problems = []
    for channels in (1, 3):
        try:
            (enlarges,) = set(_trials(network, channels))
            return channels, enlarges
        except Exception as error:  # a network may raise anything where it does not fit
            problems.append(f"{channels} channel{'s' * (channels > 1)}: {reason(error, 200)}")
    raise UserError(
        f"{uri}: not a super-resolution network: its input must be N×1×H×W or N×3×H×W for any N, H and W, and its "
        f"output as large, or 2 to 4 times as large. Tried with {'; with '.join(problems)}"
    )


@torch.no_grad()
def _trials(network: nn.Module, channels: int) -> Iterator[int]:
    from dtn_ray.models import onnx_reader

    generator = torch.Generator().manual_seed(0)
    for count, side in TRIALS:
        pictures = torch.rand(count, channels, side, side, generator=generator)
        with onnx_reader.quietly():
            found = network(pictures)
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        times = shape[-1] // side if isinstance(shape, tuple) and shape else 0
        if times not in FACTORS or shape != (count, channels, times * side, times * side):
            raise ValueError(f"the output for {count}×{channels}×{side}×{side} is {shape}")
        if not found.is_floating_point() or not found.isfinite().all():
            raise ValueError("the output is not finite, or not floating point")
        yield times


class Upscaler(nn.Module):
    """Enlarges images N×3×H×W in [-1, 1] `factor` times, 1 to 4; 1 leaves them as they are.

    Raises UserError for a factor for which the network was not trained: it would sharpen edges too much or too little,
    without any sign of an error.
    """

    def __init__(self, resolver: SuperResolver, factor: int) -> None:
        super().__init__()
        if factor not in FACTORS:
            raise UserError(f"images can be enlarged 1, 2, 3 or 4 times, not {factor} times")
        if factor > 1 and factor not in resolver.factors:
            served = " or ".join(map(str, resolver.factors))
            raise UserError(
                f"{resolver.uri}: enlarges {served} times, not {factor} times; choose that factor, or a network "
                f"trained by jobs/super_resolution.py --factors {factor}"
            )
        self.network, self.factor = resolver.network, factor
        self.channels, self.enlarges = resolver.channels, resolver.enlarges
        self.digest = hashlib.sha256(f"{resolver.digest} {factor}".encode()).hexdigest()
        """Digest of the network and the factor, which together with x decide the output."""

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W in [-1, 1] to N×3×`factor`·H×`factor`·W in [-1, 1], of x's type."""
        if self.factor == 1:
            return x
        return upscale(self.network, x, self.factor, self.channels, self.enlarges)
