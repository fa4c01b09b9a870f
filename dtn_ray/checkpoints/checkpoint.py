"""Checkpoints: a folder with `checkpoint.json` and one safetensors file per network. No pickle is ever read.

kind `classifier`: a DigitF with its classifier (f or a judge); from DANN, also its domain classifier.
kind `dtn`: f, g (and its average), D, optimisers, and the judge if there is one: everything that is needed to resume,
to score and to convert.
kind `face_network`: a DeepFace with its classifier.
kind `super_resolution`: an SRCNN.

Everything is checked before it is used: the manifest against its schema, settings against their bounds, files of
weights by their headers and then by the SHA-256 in the manifest (docs/explanation/security.md).
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import torch
from pyarrow import fs
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import nn

import dtn_ray
from dtn_ray import storage
from dtn_ray.bounds import AtLeastOne, Count
from dtn_ray.checkpoints import onnx_files, optimizer_states, run_result, weights
from dtn_ray.errors import UserError, reason
from dtn_ray.settings import T, fit, from_dict, to_dict
from dtn_ray.storage import json_files
from dtn_ray.storage.local_writes import replacing

FORMAT = 1
MANIFEST = "checkpoint.json"

NETWORKS = ("f", "g", "g_ema", "g_convert", "D", "D2", "judge", "classifier", "face_network", "srcnn")


class Config(Protocol):
    """The settings that networks were trained with: a frozen dataclass."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The networks' input: value range, layout and, for square images, their `size` in pixels."""


C = TypeVar("C", bound=Config)


def save(folder: str | Path, kind: str, config: Config, networks: dict[str, nn.Module], **facts: Any) -> None:
    """Writes networks and facts (step, metrics, …) into a local folder. The manifest is written last, when all is
    there.

    For a network with an attribute `onnx` (FrozenF), that file is written too.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        if content := getattr(network, "onnx", None):
            with replacing(folder / f"{name}.onnx") as path:
                path.write_bytes(content)
        weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        with replacing(folder / f"{name}.safetensors") as path:
            save_file(weights, path)
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "code_version": dtn_ray.__version__,
        "config": to_dict(config),
        "preprocessing": config.preprocessing,
        "networks": {name: digest(network) for name, network in networks.items()},
        **facts,
    }
    with replacing(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2))


def digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights: f's identity."""
    sha = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


class Manifest(BaseModel):
    """The required fields of a manifest. Other fields are information for people and are ignored. Settings have their
    own bounds."""

    model_config = ConfigDict(extra="allow")

    kind: Annotated[str, Field(max_length=80)]
    config: dict[str, Any]
    preprocessing: dict[str, Any]
    networks: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    """The SHA-256 of the weights of each network, by name."""
    step: Count = 0
    stages: list[tuple[AtLeastOne, Count]] = []
    """Pairs of the number of workers and the number of steps that they did."""
    metrics: dict[str, Any] = {}
    people: Annotated[int, Field(ge=0, le=1 << 24)] = 0


@contextmanager
def open_folder(uri: str) -> Iterator[Path]:
    """Opens a checkpoint as a local folder. From S3, manifest and networks are copied to a temporary folder.

    Also accepts a run's folder: it then opens the checkpoint that the run's result.json names, which must lie below it.
    Raises UserError if there is no checkpoint. UserErrors raised in the `with` name files on S3 by their URIs.
    """
    if not storage.exists(storage.join(uri, MANIFEST)):
        if not storage.exists(storage.join(uri, run_result.NAME)):
            raise UserError(
                f"{uri}: no checkpoint here (neither {MANIFEST} nor the {run_result.NAME} of a finished run)"
            )
        try:
            uri, _ = run_result.read(uri)
        except UserError as error:
            raise UserError(f"{error}; name one of the run's checkpoints instead") from error
    if not storage.is_s3(uri):
        yield Path(storage.resolve(uri)[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        _fetch(uri, Path(folder))
        try:
            yield Path(folder)
        except UserError as error:
            raise UserError(str(error).replace(folder, uri.rstrip("/"))) from error


def _fetch(uri: str, folder: Path) -> None:
    manifest = json_files.read_object(storage.join(uri, MANIFEST))
    (folder / MANIFEST).write_text(json.dumps(manifest))
    digests = manifest.get("networks")
    named = [f"{name}.safetensors" for name in NETWORKS if isinstance(digests, dict) and name in digests]
    filesystem, path = storage.resolve(uri)
    for file, largest in [*((name, weights.LARGEST) for name in named), ("f.onnx", onnx_files.LIMIT)]:
        try:
            [found] = filesystem.get_file_info([f"{path}/{file}"])
            if found.type != fs.FileType.File:
                continue  # if the file is needed, loading it will fail with a message
            if found.size > largest:
                raise UserError(f"{storage.join(uri, file)}: {found.size:,} bytes; it may have {largest:,}")
            fs.copy_files(found.path, str(folder / file), source_filesystem=filesystem)
        except OSError as error:
            raise UserError(f"{storage.join(uri, file)}: cannot be read: {reason(error)}") from error


def read_manifest(folder: Path, kind: str, needs: tuple[str, ...] = ()) -> dict[str, Any]:
    """The manifest of a local checkpoint.

    Raises UserError if it is damaged, of another kind or of a newer format, or lacks a field of `needs`.
    """
    manifest = _manifest(folder)
    found = manifest["kind"]
    if found != kind:
        made_by = {
            "dtn": "jobs/train.py",
            "classifier": "jobs/pretrain.py",
            "face_network": "jobs/pretrain.py faces",
            "super_resolution": "jobs/super_resolution.py",
        }
        raise UserError(
            f"{folder}: a checkpoint of kind {found!r}, but one of {made_by[kind]} (kind {kind!r}) is needed"
        )
    for name in needs:
        if name not in manifest:
            raise UserError(f"{folder}/{MANIFEST}: {name}: missing")
    return manifest


def _manifest(folder: Path) -> dict[str, Any]:
    uri = f"{folder}/{MANIFEST}"
    manifest = json_files.read_object(uri)
    written = manifest.get("format")
    if type(written) is not int:
        raise UserError(f"{uri}: format: missing, or not a number; is this file the manifest of a checkpoint?")
    if written != FORMAT:
        raise UserError(f"{folder}: checkpoint format {written}, this version of dtn-ray reads format {FORMAT}")
    try:
        fit(Manifest, manifest, finite=False)  # a training that diverged has metrics too
    except UserError as error:
        raise UserError(f"{uri}: {error}") from error
    return manifest


def read_settings(folder: Path, cls: type[T], manifest: dict[str, Any], key: str) -> T:
    if key not in manifest:
        raise UserError(f"{folder}/{MANIFEST}: {key}: missing")
    try:
        return from_dict(cls, manifest[key])
    except UserError as error:
        raise UserError(f"{folder}/{MANIFEST}: {key}: {error}") from error


def read_config(folder: Path, cls: type[C], manifest: dict[str, Any]) -> C:
    """The settings that the checkpoint was trained with. Raises UserError if its preprocessing does not match them."""
    config = read_settings(folder, cls, manifest, "config")
    for name, value in config.preprocessing.items():
        found = manifest["preprocessing"].get(name)
        if found != value:
            raise UserError(
                f"{folder}/{MANIFEST}: preprocessing: {name} is {str(found)[:80]}, but {value} by its config"
            )
    return config


def load_weights(network: nn.Module, folder: Path, name: str) -> nn.Module:
    """Loads the weights of a network, which may be `unfilled`, from `name`.safetensors.

    Raises UserError if the file is absent or damaged, does not fit the network, or does not match the manifest.
    """
    path = folder / f"{name}.safetensors"
    digests = _manifest(folder)["networks"]
    if name not in digests:
        raise UserError(f"{folder}/{MANIFEST}: networks: no SHA-256 of {name}; {path.name} is not used without one")
    empty = any(value.is_meta for value in network.state_dict().values())
    try:
        # Checkpoints of earlier versions contain the weights of an f from ONNX a second time.
        former = "network.network." if getattr(network, "onnx", None) else None
        network.load_state_dict(weights.read(path, network.state_dict(), digests[name], former), assign=empty)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: missing, damaged, or the weights of another network ({reason(error)})") from error
    return network


def save_optimizers(folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Writes the optimisers' states into one file of tensors and plain values."""
    with replacing(folder / "optimizers.pt") as path:
        torch.save({name: optimizer.state_dict() for name, optimizer in optimizers.items()}, path)


def load_optimizers(folder: Path, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Loads the optimisers' states from that file. Raises UserError if it is damaged, or of another training."""
    for name, state in optimizer_states.read(folder / "optimizers.pt", optimizers).items():
        optimizers[name].load_state_dict(state)
