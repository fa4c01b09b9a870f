"""A trained DTN from its checkpoint."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dtn_ray.checkpoints import onnx_files
from dtn_ray.checkpoints.checkpoint import (
    MANIFEST,
    load_weights,
    open_folder,
    read_config,
    read_manifest,
    read_settings,
)
from dtn_ray.errors import UserError
from dtn_ray.method.dtn import DTN
from dtn_ray.method.features import FrozenF, Moments
from dtn_ray.models.digits import DigitF
from dtn_ray.models.layers import unfilled
from dtn_ray.perceptual.load import build_classifier, build_deepface, build_imported, eye_of
from dtn_ray.perceptual.options import FacePretraining, Pretraining
from dtn_ray.train.build import build_dtn
from dtn_ray.train.options import Experiment


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
        experiment = read_config(folder, Experiment, manifest)
        network = _network_f(folder, experiment, manifest)
        judge = None
        try:
            with unfilled():
                dtn = build_dtn(experiment, _empty_f(network, experiment))
        except UserError as error:
            raise UserError(f"{folder}/{MANIFEST}: config: {error}") from error
        load_weights(dtn.f, folder, "f")
        load_weights(dtn.g, folder, "g_convert" if weights == "convert" else "g")
        dtn.D = _if_there(dtn.D, folder, "D")
        dtn.D2 = dtn.D2 and _if_there(dtn.D2, folder, "D2")
        if manifest.get("judge"):
            settings = read_settings(folder, Pretraining, manifest, "judge")
            with unfilled():
                judge = build_classifier(settings)
            load_weights(judge, folder, "judge")
            judge.eval()
    return Trained(dtn.eval(), judge, experiment, manifest)


def _if_there(network: nn.Module, folder: Path, name: str) -> nn.Module:
    """A network that is not needed to convert, and may have been left out of a copy; then one without layers."""
    return load_weights(network, folder, name) if (folder / f"{name}.safetensors").exists() else nn.Module()


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
    """f without its weights; but one brought along whole, as its file has it."""
    uri = f"{folder}/{MANIFEST}"
    if experiment.model.kind == "digits":
        settings = read_settings(folder, Pretraining, manifest, "f")
        with unfilled():
            return build_classifier(replace(settings, dropout=0.0))
    facts = manifest.get("f")
    if not isinstance(facts, dict):
        raise UserError(f"{uri}: f: missing; it must tell what f is")
    if "config" in facts:
        faces = read_settings(folder, FacePretraining, facts, "config")
        with unfilled():
            return build_deepface(faces, 0)
    eye, path = eye_of(facts.get("eye"), f"{uri}: f.eye"), folder / "f.onnx"
    content = onnx_files.read_alone(str(path))
    if (digest := hashlib.sha256(content).hexdigest()) != facts.get("sha256"):
        raise UserError(
            f"{path}: not the network that this was trained with: it has the SHA-256 {digest}, by {MANIFEST} "
            f"{str(facts.get('sha256'))[:64]}"
        )
    return build_imported(content, eye, str(path))
