"""Checkpoints: a folder with `checkpoint.json` and one safetensors file per network. No pickle is ever read.

kind `classifier`: a DigitF with its classifier (f or a judge).
kind `dtn`: f, g (and its average), D, optimisers, the judge where there was one: all that resuming, scoring and
converting need.
kind `face_network`: a DeepFace with its classifier.
kind `super_resolution`: an SRCNN.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dtn_ray
from dtn_ray import perceptual, storage
from dtn_ray.config import Experiment, FacePretraining, Pretraining, SuperResolution, T, from_dict, to_dict
from dtn_ray.data import CHANNELS
from dtn_ray.dtn import DTN, FrozenF, Moments
from dtn_ray.errors import UserError
from dtn_ray.local_writes import replacing
from dtn_ray.models.digits import DigitD, DigitF, DigitG
from dtn_ray.models.faces import DeepFace, FaceD, FaceG
from dtn_ray.models.imported import ImportedF
from dtn_ray.models.srcnn import SRCNN

FORMAT = 1
MANIFEST = "checkpoint.json"

Config = Experiment | Pretraining | FacePretraining | SuperResolution


def save(folder: str | Path, kind: str, config: Config, networks: dict[str, nn.Module], **facts: Any) -> None:
    """Writes networks and facts (step, metrics, …) into a local folder, the manifest last: it marks a whole one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        if isinstance(network, FrozenF) and isinstance(network.network, ImportedF):
            with replacing(folder / "f.onnx") as path:
                path.write_bytes(network.network.content)
        weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        with replacing(folder / f"{name}.safetensors") as path:
            save_file(weights, path)
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "code_version": dtn_ray.__version__,
        "config": to_dict(config),
        "preprocessing": _preprocessing(config),
        "networks": {name: digest(network) for name, network in networks.items()},
        **facts,
    }
    with replacing(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2))


def _preprocessing(config: Config) -> dict[str, Any]:
    """What the networks take; `size` is the pixels of the square that x is."""
    if isinstance(config, SuperResolution):
        return {"luminance": "BT.601, studio range", "range": [0, 1], "layout": "NCHW"}
    if isinstance(config, FacePretraining):
        return {"size": DeepFace.size, "range": [-1, 1], "layout": "NCHW"}
    size = config.data.size if isinstance(config, Experiment) and config.model.kind == "faces" else 32
    return {"size": size, "range": [-1, 1], "layout": "NCHW"}


def digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights: f's identity."""
    sha = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


@contextmanager
def open_folder(uri: str) -> Iterator[Path]:
    """A checkpoint as a local folder; one on S3 is copied to a temporary one.

    Also takes a run's folder: it then opens the checkpoint that the run's result.json names.
    Raises UserError where there is none.
    """
    if not storage.exists(storage.join(uri, MANIFEST)):
        result = storage.join(uri, "result.json")
        if not storage.exists(result):
            raise UserError(f"{uri}: no checkpoint here (no {MANIFEST}, nor a finished run's result.json)")
        try:
            uri = storage.join(uri, json.loads(storage.read_bytes(result))["checkpoint"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{result}: damaged ({error}); name one of the run's checkpoints instead") from error
    if not storage.is_s3(uri):
        yield Path(storage.resolve(uri)[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        storage.copy_folder(uri, folder)
        yield Path(folder)


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a local checkpoint. Raises UserError if it is of another kind or of a newer format."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        found, written = manifest["kind"], manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}/{MANIFEST}: not a readable checkpoint manifest ({error})") from error
    if written != FORMAT:
        raise UserError(f"{folder}: checkpoint format {written}, this version of dtn-ray reads format {FORMAT}")
    if found != kind:
        made_by = {
            "dtn": "jobs/train.py",
            "classifier": "jobs/pretrain.py",
            "face_network": "jobs/pretrain.py faces",
            "super_resolution": "jobs/super_resolution.py",
        }
        raise UserError(
            f"{folder}: a checkpoint of kind {found!r}; here one of {made_by[kind]} (kind {kind!r}) is needed"
        )
    return manifest


def _settings(folder: Path, cls: type[T], manifest: dict[str, Any], key: str) -> T:
    try:
        return from_dict(cls, manifest[key])
    except (KeyError, UserError) as error:
        raise UserError(f"{folder}/{MANIFEST}: {key}: {error}") from error


def load_weights(network: nn.Module, folder: Path, name: str) -> nn.Module:
    """Fills a network from `name`.safetensors. Raises UserError where the file is absent, damaged or does not fit."""
    path = folder / f"{name}.safetensors"
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: missing, damaged or not of this network ({reason})") from error
    return network


def load_classifier(uri: str) -> tuple[DigitF, dict[str, Any]]:
    """f or a judge with its manifest, in eval mode. Raises UserError where the checkpoint does not serve."""
    with open_folder(uri) as folder:
        manifest = read_manifest(folder, "classifier")
        network = build_classifier(_settings(folder, Pretraining, manifest, "config"))
        load_weights(network, folder, "classifier")
    return network.eval(), manifest


def load_face_network(uri: str, option: str = "--f") -> tuple[ImportedF | DeepFace, dict[str, Any]]:
    """f of faces: any network as ONNX, or a checkpoint's DeepFace without its classifier.

    With it, what a DTN's manifest keeps of it. `option` asked for it. Raises UserError where it does not serve.
    """
    if uri.endswith(".onnx"):
        return perceptual.load(uri, option)
    if not any(storage.exists(storage.join(uri, name)) for name in (MANIFEST, "result.json")):
        raise UserError(
            f"{option} {uri}: neither a face network as ONNX (NETWORK.onnx) nor a checkpoint of jobs/pretrain.py faces"
        )
    with open_folder(uri) as folder:
        manifest = read_manifest(folder, "face_network")
        config = _settings(folder, FacePretraining, manifest, "config")
        network = build_deepface(config, manifest.get("people", 0))
        load_weights(network, folder, "face_network")
    network.classifier = None
    return network.eval(), {"name": "DeepFace", "config": manifest["config"]}


def build_deepface(config: FacePretraining, people: int) -> DeepFace:
    """The network that a pretraining on so many people trains, freshly initialised; as f, of 0 people."""
    return DeepFace(people, config.width, config.dropout, config.features)


def load_srcnn(uri: str) -> tuple[SRCNN, SuperResolution, dict[str, Any]]:
    """An SRCNN in eval mode, how it was trained, its manifest. Raises UserError where the checkpoint does not serve."""
    with open_folder(uri) as folder:
        manifest = read_manifest(folder, "super_resolution")
        config = _settings(folder, SuperResolution, manifest, "config")
        network = SRCNN(config.middle)
        load_weights(network, folder, "srcnn")
    return network.eval(), config, manifest


def build_classifier(config: Pretraining) -> DigitF:
    """The network that a pretraining trains, freshly initialised."""
    return DigitF(width=config.width, dropout=config.dropout)


def build_dtn(experiment: Experiment, f: FrozenF) -> DTN:
    """The networks of an experiment around f, with g and D freshly initialised."""
    model = experiment.model
    if model.kind == "faces":
        g_of_faces = FaceG(f.network.features, width=model.width_g, upscaling=model.upscaling)  # type: ignore[arg-type]
        return DTN(f, g_of_faces, FaceD(width=model.width_D, size=model.size_D, norm=model.norm_D))
    channels = CHANNELS[experiment.data.target]
    g: nn.Module = DigitG(f.network.features, channels, model.width_g)  # type: ignore[arg-type]
    if not model.with_f:
        g = nn.Sequential(Encoder(DigitF(model.width_f)), DigitG(round(128 * model.width_f), channels, model.width_g))
    D = DigitD(channels, 1 if model.binary else 3, model.width_D)
    D2 = DigitD(2 * channels, 1, model.width_D) if experiment.loss.d2 == "gan" else None
    return DTN(f, g, D, D2=D2, with_f=model.with_f, binary=model.binary)


class Encoder(nn.Module):
    """An untrained network of f's shape at the bottom of g, where G does not contain f (Table 1)."""

    def __init__(self, network: DigitF) -> None:
        super().__init__()
        self.layers = network.layers

    def forward(self, x: Tensor) -> Tensor:
        """N×3×32×32 or N×1×32×32 in [-1, 1] to N×features."""
        return self.layers(x.expand(-1, 3, -1, -1)).flatten(1)


@dataclass(frozen=True)
class Trained:
    """A trained DTN, ready to use: G(x) with the weights meant for conversion."""

    dtn: DTN
    judge: DigitF | None
    experiment: Experiment
    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        """G's identity: SHA-256 over the digests of f and of g as it converts, and the size of x."""
        networks, size = self.manifest["networks"], self.manifest["preprocessing"]["size"]
        return hashlib.sha256(f"{networks['f']} {networks['g_convert']} {size}".encode()).hexdigest()


def load_trained(uri: str, weights: str = "convert") -> Trained:
    """A DTN in eval mode from its checkpoint (or a finished run's folder).

    `weights`: `convert` is g as it should be used (its average where the run kept one, batch norm recalibrated on s);
    `g` is g as training left it. Raises UserError where the checkpoint does not serve.
    """
    with open_folder(uri) as folder:
        manifest = read_manifest(folder, "dtn")
        experiment = _settings(folder, Experiment, manifest, "config")
        f = _empty_f(_network_f(folder, experiment, manifest), experiment)
        load_weights(f, folder, "f")
        dtn = build_dtn(experiment, f)
        load_weights(dtn.g, folder, "g_convert" if weights == "convert" else "g")
        judge = None
        if manifest.get("judge"):
            judge = build_classifier(_settings(folder, Pretraining, manifest, "judge"))
            load_weights(judge, folder, "judge")
            judge.eval()
    return Trained(dtn.eval(), judge, experiment, manifest)


def _empty_f(network: nn.Module, experiment: Experiment) -> FrozenF:
    """f with the buffers that its file will fill."""
    scale = experiment.model.feature_scale
    nothing = Moments(torch.zeros(network.features), 1.0)  # type: ignore[call-overload]
    return FrozenF(
        network,
        domains=(nothing, nothing) if scale in ("per-domain", "transport") else None,
        transport=torch.zeros(network.features, network.features) if scale == "transport" else None,  # type: ignore[call-overload]
    )


def _network_f(folder: Path, experiment: Experiment, manifest: dict[str, Any]) -> nn.Module:
    if experiment.model.kind == "digits":
        return build_classifier(replace(_settings(folder, Pretraining, manifest, "f"), dropout=0.0))
    if "config" in (manifest.get("f") or {}):
        return build_deepface(_settings(folder, FacePretraining, manifest["f"], "config"), 0)
    path = folder / "f.onnx"
    try:
        content, values = path.read_bytes(), manifest["f"]["eye"]
    except (OSError, KeyError, TypeError) as error:
        raise UserError(f"{path}: missing, or {MANIFEST} does not tell what f sees ({error!r})") from error
    return perceptual.build(content, perceptual.eye_of(values, f"{folder}/{MANIFEST}"), str(path))


def save_optimizers(folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Writes the optimisers' states into one file of tensors and plain values."""
    with replacing(folder / "optimizers.pt") as path:
        torch.save({name: optimizer.state_dict() for name, optimizer in optimizers.items()}, path)


def load_optimizers(folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Fills the optimisers from that file, which may hold nothing but tensors and plain values."""
    states = torch.load(folder / "optimizers.pt", weights_only=True, map_location="cpu")
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(states[name])
