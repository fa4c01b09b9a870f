"""Reads ONNX networks from any exporter as torch modules with gradients.

Two libraries read them; the first that succeeds is used:

- onnx2torch (last release: August 2024) knows operations up to opset 17. It makes modules, which
  dtn_ray/models/onnx_simplify.py makes fast. It is tried first because the digests in checkpoints depend on its names.
- onnx2fx (0.0.1, one author, Apache 2.0, 12,000 lines) reads the rest: opsets to 24, SAME padding, attention. It opens
  no file and runs no text as code. It is young, so it is pinned, the known differences from ONNX are refused
  (`refuse_differences`), names are replaced by numbers (it takes `a.b` and `a_b` for one), and each network is tried.

onnx2pytorch 0.6 reads fewer, and onnx's version converter (also in onnxscript) goes back to opset 17 only from networks
without Pad, Gelu, GroupNormalization or a Resize with axes.
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from dtn_ray.models import onnx_graph
from dtn_ray.models.allowance import is_exceeded
from dtn_ray.models.onnx_graph import CONTROL_FLOW, Declared

GREY = (0.299, 0.587, 0.114)
"""BT.601's weights of red, green and blue."""
UNREAD = "cannot be read: "


@dataclass(frozen=True)
class Intake:
    """The conversion from images N×3×H×W to a network's input."""

    grey: bool = False
    """One channel: its brightness."""
    channels_last: bool = False
    """N×H×W×C, as in TensorFlow."""
    bgr: bool = False
    """The images' channels are in the order blue, green, red."""

    def __call__(self, images: Tensor) -> Tensor:
        if self.grey:
            weights = images.new_tensor(GREY[::-1] if self.bgr else GREY)
            images = (images * weights[:, None, None]).sum(1, keepdim=True)
        return images.permute(0, 2, 3, 1) if self.channels_last else images


class OneByOne(nn.Module):
    """Applies a network for one image to a batch: by vmap, or otherwise one image after another."""

    def __init__(self, network: nn.Module, batched: bool, at_once: bool) -> None:
        super().__init__()
        self.network, self.batched, self.at_once = network, batched, at_once

    def forward(self, images: Tensor) -> Tensor:
        images = images[:, None] if self.batched else images
        if self.at_once:
            return torch.func.vmap(self._vector)(images)
        return torch.stack([self._vector(image) for image in images])

    def _vector(self, image: Tensor) -> Tensor:
        return self.network(image).flatten()  # type: ignore[no-any-return]


class Adapted(nn.Module):
    """A network with its intake in front."""

    def __init__(self, network: nn.Module, intake: Intake) -> None:
        super().__init__()
        self.network, self.intake = network, intake

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.intake(images))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Reading:
    """A network as one of the readers built it."""

    network: fx.GraphModule
    again: Callable[[], fx.GraphModule]
    digest: bytes


@dataclass(frozen=True)
class Read:
    """A network as read, in eval mode, and the conversion of its input."""

    reading: Reading
    intake: Intake
    alone: bool = False
    batched: bool = True
    """Whether its input has an axis for the batch."""
    at_once: bool = True

    def whole(self, network: nn.Module) -> nn.Module:
        """The network, or one derived from it, for images N×3×H×W."""
        network = OneByOne(network, self.batched, self.at_once) if self.alone else network
        return network if self.intake in (Intake(), Intake(bgr=True)) else Adapted(network, self.intake)

    def shapes(self, size: int) -> list[tuple[int, ...]]:
        """The shapes of the network's own input for square images: batches of two and of three, or one image."""
        image = tuple(self.intake(torch.zeros(1, 3, size, size)).shape[1:])
        if self.alone:
            return [(1, *image) if self.batched else image]
        return [(2, *image), (3, *image)]


def convert(content: bytes) -> fx.GraphModule:
    """The network of an ONNX file, in eval mode. Raises ValueError if none of the readers can read it."""
    model, _ = onnx_graph.prepare(onnx_graph.parse(content))
    problems: list[str] = []
    for reading in _readings(model, problems):
        return reading.network
    raise ValueError(_reason(model, problems))


def read(content: bytes, images: Tensor, bgr: bool = False, output: str | int | None = None) -> Read:
    """Reads a network with one output vector per image, by trying it on `images`, 3×3×H×W or more of them.

    `output`: which of its outputs, by name or number; else the first that is one vector an image. Raises ValueError,
    with the reason in one line, if it cannot be read or cannot take those images.
    """
    model, declared = onnx_graph.prepare(onnx_graph.parse(content))
    problems: list[str] = []
    for name in _candidates(model, declared, output):
        chosen = onnx_graph.only(model, name)
        for reading in _readings(chosen, problems):
            for intake, batched in _intakes(declared, bgr):
                found = _tried(reading, intake, batched, images, problems)
                if found is not None and (
                    output is not None or len(declared.outputs) == 1 or _is_vector(found, images)
                ):
                    return found
    raise ValueError(_misfit(model, declared, images.shape[-1], problems))


@contextmanager
def quietly() -> Iterator[None]:
    """During the `with`, suppresses the traceback that torch prints before it raises an error."""
    with redirect_stderr(io.StringIO()):
        yield


def _candidates(model: Any, declared: Declared, output: str | int | None) -> list[str]:
    """The outputs to try, in this order."""
    names = declared.outputs
    if isinstance(output, int) and not isinstance(output, bool) and 0 <= output < len(names):
        return [names[output]]
    if output in names:
        return [str(output)]
    if output is not None:
        raise ValueError(f"has no output {output!r}; it has {', '.join(names)} (numbered from 0)")
    ranks = onnx_graph.ranks(model) if len(names) > 1 else {}
    return sorted(names, key=lambda name: {2: 0, None: 1}.get(ranks.get(name), 2))


def _readings(model: Any, problems: list[str]) -> Iterator[Reading]:
    """The network as read by each reader that can read it; the errors of the others are recorded."""
    for reader, digest in ((_by_onnx2torch, _digest), (_by_onnx2fx, None)):
        try:
            network = reader(model)
        except Exception as error:  # protobuf, onnx and the readers have no common error class
            problems.append(f"{UNREAD}{_line(error)}")
            continue
        yield Reading(network, partial(reader, model), digest(network) if digest else onnx_graph.digest(model))


def _by_onnx2torch(model: Any) -> fx.GraphModule:
    from onnx2torch import convert

    warnings.filterwarnings("ignore", "Using a non-tuple sequence", module="onnx2torch")  # its slices; right so far
    onnx_graph.refuse_differences(model, fx=False)
    copy = type(model)()
    copy.CopyFrom(model)
    return convert(copy).eval()


def _by_onnx2fx(model: Any) -> fx.GraphModule:
    from onnx2fx import convert

    onnx_graph.refuse_differences(model, fx=True)
    copy = onnx_graph.numbered(model)
    onnx_graph.full_resizes(copy)
    return convert(copy).eval()


def _intakes(declared: Declared, bgr: bool) -> Iterator[tuple[Intake, bool]]:
    """Possible conversions of a graph's input, most likely first, and whether it has an axis for the batch."""
    shape = declared.input or (None,) * 4
    if len(shape) not in (3, 4):
        raise ValueError(f"takes an input of {len(shape)} axes; an image has 3, a batch of images 4")
    first, *_, last = shape[-3:]
    for channels, channels_last in ((first, False), (last, True)):
        other = first if channels_last else last
        if channels in (1, 3) or (channels is None and other not in (1, 3)):
            yield Intake(channels == 1, channels_last, bgr), len(shape) == 4


@torch.no_grad()
def _tried(reading: Reading, intake: Intake, batched: bool, images: Tensor, problems: list[str]) -> Read | None:
    """The network for a batch, if its output is the same as for single images; otherwise for one image at a time."""
    alone, at_once = (Read(reading, intake, True, batched, each) for each in (False, True))
    network = reading.network
    try:
        with quietly():
            expected = alone.whole(network)(images)
    except Exception as error:  # a network may raise anything where it does not fit
        problems.append(_line(error))
        return None
    for way in (Read(reading, intake), at_once) if batched else (at_once,):
        try:
            with quietly():
                found = way.whole(network)(images).flatten(1)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)
            return way
        except Exception:  # … or if it accepts one image at a time
            continue
    return alone


@torch.no_grad()
def _is_vector(found: Read, images: Tensor) -> bool:
    """Whether an output is N×F, possibly with further axes of length one."""
    given = found.reading.network(found.intake(images[:1])[(...) if found.batched else 0])
    return sum(length > 1 for length in given.shape) <= 1


def _reason(model: Any, problems: list[str]) -> str:
    """The message if none of the readers can read a network."""
    kinds, last = onnx_graph.operations(model), problems[-1].removeprefix(UNREAD)
    for kind in kinds:
        if "'s " in kind:
            advice = "export it without the optimisations of a runtime, in ONNX's own operations"
            return f"has the operation {kind}, which is not ONNX's own ({last}); {advice}"
    for kind in kinds:
        if kind in CONTROL_FLOW:
            return f"has the operation {kind}, which cannot be followed here ({last}); export it without control flow"
    return f"not an ONNX network that can be used here: {last}"


def _misfit(model: Any, declared: Declared, size: int, problems: list[str]) -> str:
    """The message if a network cannot be used."""
    tried = [each for each in problems if not each.startswith(UNREAD)]
    if problems and not tried:
        return _reason(model, problems)
    if not tried and len(declared.outputs) > 1:
        return f'gives {", ".join(declared.outputs)}, but none of them is one vector per image: name one as "output"'
    takes = "×".join("?" if each is None else str(each) for each in declared.input or ()) or "something else"
    kinds = [kind for kind in onnx_graph.operations(model) if kind in CONTROL_FLOW or "'s " in kind]
    why = f" by {kinds[0]}" if kinds else ""
    return f"does not take images 3×{size}×{size}: its input is {takes} ({tried[-1] if tried else 'no image'}{why})"


def _digest(network: nn.Module) -> bytes:
    """Digest of the weights in the file; it stays the same if the rest of the file changes."""
    sha = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        sha.update(name.encode() + value.numpy().tobytes())
    return sha.digest()


def _line(error: Exception) -> str:
    if is_exceeded(error):
        return "it takes far more memory than a network of its size should"
    return " ".join(str(error).split())[:300] or type(error).__name__
