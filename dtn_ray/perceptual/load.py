"""Loads face networks, known and imported ones, each with its preprocessing."""

import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from dtn_ray import storage
from dtn_ray.checkpoints import onnx_files
from dtn_ray.checkpoints.checkpoint import MANIFEST, load_weights, open_folder, read_config, read_manifest
from dtn_ray.errors import UserError, reason
from dtn_ray.models.digits import DigitF
from dtn_ray.models.faces import DeepFace
from dtn_ray.models.imported import Eye, ImportedF
from dtn_ray.models.layers import unfilled
from dtn_ray.models.perceptual import Perceptual
from dtn_ray.perceptual import load
from dtn_ray.perceptual.options import FacePretraining, Pretraining
from dtn_ray.settings import fit
from dtn_ray.storage import json_files


def load_classifier(uri: str) -> tuple[DigitF, dict[str, Any]]:
    """f or a judge with its manifest, in eval mode. Raises UserError if the checkpoint cannot be used."""
    with open_folder(uri) as folder:
        manifest = read_manifest(folder, "classifier")
        config = read_config(folder, Pretraining, manifest)
        with unfilled():
            network = build_classifier(config)
        load_weights(network, folder, "classifier")
    load.check_features(network.eval(), 32, uri)
    return network, manifest


def load_face_network(uri: str, option: str = "--f") -> tuple[ImportedF | DeepFace, dict[str, Any]]:
    """f of faces: any network as ONNX, or a checkpoint's DeepFace without its classifier.

    Also returns its facts for a DTN's manifest. `option` is named in messages. Raises UserError if it cannot be used.
    """
    if uri.endswith(".onnx"):
        return load.load_imported(uri, option)
    if not any(storage.exists(storage.join(uri, name)) for name in (MANIFEST, "result.json")):
        raise UserError(
            f"{option} {uri}: neither a face network as ONNX (NETWORK.onnx) nor a checkpoint of jobs/pretrain.py faces"
        )
    with open_folder(uri) as folder:
        manifest = read_manifest(folder, "face_network")
        config = read_config(folder, FacePretraining, manifest)
        with unfilled():
            network = build_deepface(config, manifest.get("people", 0))
        load_weights(network, folder, "face_network")
    network.classifier = None
    load.check_features(network.eval(), network.size, uri)
    return network, {"name": "DeepFace", "config": manifest["config"]}


def build_deepface(config: FacePretraining, people: int) -> DeepFace:
    """A freshly initialised network for a pretraining on so many people; 0 people: without the classifier, as f."""
    return DeepFace(people, config.width, config.dropout, config.features)


def build_classifier(config: Pretraining) -> DigitF:
    """A freshly initialised network for a pretraining."""
    return DigitF(width=config.width, dropout=config.dropout)


# Name and preprocessing, by the SHA-256 of the ONNX file. The crops are those with the best verification on LFW
# (docs/reference/face-networks.md).
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


def load_imported(uri: str, option: str = "--f") -> tuple[ImportedF, dict[str, Any]]:
    """A face network from ONNX, and its facts for a checkpoint's manifest; `option` is named in messages.

    The preprocessing of the networks in KNOWN is known; for others, NETWORK.json beside the network describes it, with
    the fields of `Eye`. Weights in separate files are merged into the network.

    Raises UserError if a file is missing or damaged, or does not fit.
    """
    if not uri.endswith(".onnx"):
        raise UserError(f"{option} {uri}: faces need a face network as ONNX (NETWORK.onnx)")
    if not storage.exists(uri):
        raise UserError(f"{option} {uri}: no such file")
    content = onnx_files.read(uri)
    digest = hashlib.sha256(content).hexdigest()
    name, eye = KNOWN.get(digest) or (uri.rpartition("/")[2], _declared(uri.removesuffix(".onnx") + ".json"))
    return build_imported(content, eye, uri), {"name": name, "sha256": digest, "eye": TypeAdapter(Eye).dump_python(eye)}


def build_imported(content: bytes, eye: Eye, uri: str) -> ImportedF:
    """The network of an ONNX file's content. Raises UserError naming `uri` if it cannot be used."""
    try:
        return ImportedF(content, eye)
    except ImportError:
        raise  # our own mistake, not the network's
    except Exception as error:  # a network from others can raise anything
        raise UserError(f"{uri}: {reason(error)}") from error


@torch.no_grad()
def check_features(f: Perceptual, size: int, uri: str) -> None:
    """Raises UserError naming `uri` if the features of f, or a judge, are not finite, or the same for all pictures.

    `size`: width and height of the pictures, in pixels.
    """
    generator = torch.Generator().manual_seed(0)
    # Noise at several scales, and plain black and white: for a small network, all fine noise may look the same.
    spots = [torch.rand(1, 3, side, side, generator=generator) * 2 - 1 for side in (2, 3, 5, 8, size)]
    plain = [torch.full((1, 3, 1, 1), value) for value in (-1.0, 1.0)]
    pictures = torch.cat([F.interpolate(each, size) for each in (*spots, *plain)])
    features = f.represent(pictures)
    if not features.isfinite().all():
        raise UserError(f"{uri}: its features are not finite; its training diverged")
    if torch.equal(features, features[:1].expand_as(features)):
        raise UserError(f"{uri}: its features are the same for every picture; train it again")


def eye_of(values: Any, uri: str) -> Eye:
    """An Eye from plain values. Raises UserError naming `uri` and each field that does not fit."""
    try:
        return fit(Eye, values)
    except UserError as error:
        raise UserError(f"{uri}: not the preprocessing of a network: {error}") from error


def _declared(uri: str) -> Eye:
    if not storage.exists(uri):
        raise UserError(
            f"{uri}: missing; it must describe how the network beside it expects an aligned face, such as "
            '{"size": 112, "crop": [0.1, 0.1, 0.8], "low": -1, "high": 1}'
        )
    return eye_of(json_files.read(uri), uri)
