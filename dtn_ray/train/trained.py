"""Loads a trained DTN from its checkpoint."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

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
from dtn_ray.models.layers import unfilled
from dtn_ray.models.perceptual import Perceptual
from dtn_ray.perceptual.load import build_classifier
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.train.domain import Domain
from dtn_ray.train.domains import build_dtn, domain_of
from dtn_ray.train.options import Experiment


@dataclass(frozen=True)
class Trained:
    """A trained DTN, ready to use: G(x) with the weights meant for conversion."""

    dtn: DTN
    judge: Perceptual | None
    experiment: Experiment
    manifest: dict[str, Any]

    @property
    def domain(self) -> Domain:
        return domain_of(self.experiment)

    @property
    def digest(self) -> str:
        """The identity of G: SHA-256 over the digests of f and of g for conversion, and the size of x."""
        networks, size = self.manifest["networks"], self.manifest["preprocessing"]["size"]
        return hashlib.sha256(f"{networks['f']} {networks['g_convert']} {size}".encode()).hexdigest()


def load_trained(uri: str, weights: str = "convert") -> Trained:
    """A DTN in eval mode from its checkpoint (or a finished run's folder).

    `weights`: `convert` is g for use (its average if the run kept one, batch norm recalibrated on s); `g` is g after
    the last step. Raises UserError if the checkpoint cannot be used.
    """
    with open_folder(uri) as folder:
        manifest = read_manifest(folder, "dtn")
        experiment = read_config(folder, Experiment, manifest)
        network = domain_of(experiment).read_f(folder, experiment, manifest)
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
    """Loads a network that conversion does not need; if its file is missing from a copy, returns an empty module."""
    return load_weights(network, folder, name) if (folder / f"{name}.safetensors").exists() else nn.Module()


def _empty_f(network: Perceptual, experiment: Experiment) -> FrozenF:
    """f with empty buffers, which are filled from its file."""
    scale = experiment.model.feature_scale
    nothing = Moments(torch.zeros(network.features), 1.0)
    return FrozenF(
        network,
        domains=(nothing, nothing) if scale in ("per-domain", "transport") else None,
        transport=torch.zeros(network.features, network.features) if scale == "transport" else None,
    )
