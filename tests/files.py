"""Small files of every kind that the tests read: data sets, checkpoints, images."""

import gzip
import io
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
from PIL import Image
from torch import nn

from dtn_ray import checkpoint
from dtn_ray.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    Pretraining,
    to_dict,
)
from dtn_ray.dtn import FrozenF

SMALL_F = Pretraining(width=0.05, augment=replace(Pretraining().augment, invert=0.25), without=(3,))
SMALL = Experiment(
    data=DataConfig(source="svhn", target="handwritten-digits", s_without=(1, 2)),
    model=ModelConfig(width_g=0.02, width_D=0.05),
)


def write_classifier(folder: Path, config: Pretraining = SMALL_F) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    network = checkpoint.build_classifier(config)
    checkpoint.save(folder, "classifier", config, {"classifier": network}, step=7, metrics={"test_error": 0.25})
    return str(folder), network


def write_dtn(folder: Path, experiment: Experiment = SMALL, *, judge: bool = True) -> str:
    """A DTN with random weights, its g_convert other than its g, as a training would leave it."""
    torch.manual_seed(1)
    dtn = checkpoint.build_dtn(experiment, FrozenF(checkpoint.build_classifier(SMALL_F), scale=2.5))
    g_convert = checkpoint.build_dtn(experiment, dtn.f).g
    networks: dict[str, nn.Module] = {"f": dtn.f, "g": dtn.g, "D": dtn.D, "g_convert": g_convert}
    facts: dict[str, Any] = {"f": to_dict(SMALL_F), "step": 12}
    if judge:
        networks["judge"] = checkpoint.build_classifier(SMALL_F)
        facts["judge"] = to_dict(SMALL_F)
    checkpoint.save(folder, "dtn", experiment, networks, **facts)
    return str(folder)


def svhn_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3, count), np.uint8)


def write_mat(path: Path, labels, images: np.ndarray | None = None, **options) -> str:
    """A file of SVHN's layout: labels as a column, unless they are an array of another shape."""
    if not isinstance(labels, np.ndarray):
        labels = np.array(labels, np.uint8)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"X": svhn_images(labels.size) if images is None else images, "y": labels}, **options)
    return str(path)


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(
    folder: Path, labels, *, part: str = "t10k", suffix: str = "", images: np.ndarray | None = None
) -> Path:
    labels = np.array(labels)
    images = np.zeros((len(labels), 28, 28), np.uint8) if images is None else images
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = gzip.compress(idx(array)) if suffix else idx(array)
        (folder / f"{part}-{name}-ubyte{suffix}").write_bytes(content)
    return folder


def encode(image: Image.Image, form: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
