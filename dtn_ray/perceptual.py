"""f for faces: known networks and those brought along, with what each sees of an aligned face."""

import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import nn

from dtn_ray import json_files, onnx_files, storage
from dtn_ray.errors import UserError, reason
from dtn_ray.models.imported import Eye, ImportedF

# By the SHA-256 of their ONNX file: name and eye. Crops were chosen by LFW pairs told apart (docs/faces.md).
KNOWN = {
    "0911f1b7ab9de5b83608b38af174aecc4fd345b3f0c7b78092ed2a3c4b09734a": (
        "dlib's ResNet, 128 features",
        Eye(150, (26.5 / 128, 42 / 128, 76 / 128)),
    ),
    "b0b8eb33de66dce2dc863d28e85582142cc32f55370180fddd1895b0264ef8a3": (
        "HSE's MobileNet, 1024 features",
        Eye(224, (0.05, 0.05, 0.9)),
    ),
}


def load(uri: str, option: str = "--f") -> tuple[ImportedF, dict[str, Any]]:
    """A face network from ONNX, and what a checkpoint keeps of it besides its weights; `option` asked for it.

    What it sees is known of the networks in KNOWN; of others, the file beside it tells, NETWORK.json with the fields of
    `Eye`. Weights in files beside it are taken in.

    Raises UserError where a file is missing or damaged, or does not fit.
    """
    if not uri.endswith(".onnx"):
        raise UserError(f"{option} {uri}: faces need a face network as ONNX (NETWORK.onnx)")
    if not storage.exists(uri):
        raise UserError(f"{option} {uri}: no such file")
    content = onnx_files.read(uri)
    digest = hashlib.sha256(content).hexdigest()
    name, eye = KNOWN.get(digest) or (uri.rpartition("/")[2], _declared(uri.removesuffix(".onnx") + ".json"))
    return build(content, eye, uri), {"name": name, "sha256": digest, "eye": TypeAdapter(Eye).dump_python(eye)}


def build(content: bytes, eye: Eye, uri: str) -> ImportedF:
    """The network of an ONNX file's content. Raises UserError naming `uri` where it does not serve."""
    try:
        return ImportedF(content, eye)
    except ImportError:
        raise  # a fault of ours
    except Exception as error:  # a network may raise anything where it is odd
        raise UserError(f"{uri}: {reason(error)}") from error


@torch.no_grad()
def check(f: nn.Module, size: int, uri: str) -> None:
    """Raises UserError naming `uri` where f, or a judge, gives the same for all pictures, or no numbers.

    `size`: pixels of the side of the pictures.
    """
    generator = torch.Generator().manual_seed(0)
    # Spots of many sizes, and plain black and white: a small network may take any fine noise for the same.
    spots = [torch.rand(1, 3, side, side, generator=generator) * 2 - 1 for side in (2, 3, 5, 8, size)]
    plain = [torch.full((1, 3, 1, 1), value) for value in (-1.0, 1.0)]
    pictures = torch.cat([F.interpolate(each, size) for each in (*spots, *plain)])
    features = f.represent(pictures)  # type: ignore[operator]
    if not features.isfinite().all():
        raise UserError(f"{uri}: it gives numbers that are not finite; its training diverged")
    if torch.equal(features, features[:1].expand_as(features)):
        raise UserError(f"{uri}: it gives the same for every picture; train it anew")


def eye_of(values: Any, uri: str) -> Eye:
    """An eye from plain values. Raises UserError naming `uri` and each field that does not fit."""
    try:
        return json_files.fit(Eye, values)
    except UserError as error:
        raise UserError(f"{uri}: not what a network sees: {error}") from error


def _declared(uri: str) -> Eye:
    if not storage.exists(uri):
        raise UserError(
            f"{uri}: missing; it must tell what the network beside it sees of an aligned face, as in "
            '{"size": 112, "crop": [0.1, 0.1, 0.8], "low": -1, "high": 1}'
        )
    return eye_of(json_files.read(uri), uri)
