"""Small files of every kind that the tests read: data sets, checkpoints, images."""

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from dtn_ray.checkpoints import checkpoint
from dtn_ray.method.dtn import recalibrate
from dtn_ray.method.features import FrozenF
from dtn_ray.perceptual.load import build_classifier, load_classifier, load_face_network, load_imported
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.settings import to_dict
from dtn_ray.super_resolution.load import load_super_resolver
from dtn_ray.train.domains import build_dtn
from dtn_ray.train.options import DataConfig, Experiment, ModelConfig
from dtn_ray.train.trained import load_trained

LOAD: dict[str, Callable[[str], Any]] = {
    "dtn": load_trained,
    "faces": load_trained,
    "classifier": load_classifier,
    "face_network": load_face_network,
    "srcnn": load_super_resolver,
}
"""The function that loads each kind of checkpoint."""

SMALL_F = Pretraining(width=0.05, augment=replace(Pretraining().augment, invert=0.25), without=(3,))
SMALL = Experiment(
    data=DataConfig(source="svhn", target="handwritten-digits", s_without=(1, 2)),
    model=ModelConfig(width_g=0.02, width_D=0.05),
)


def write_classifier(folder: Path, config: Pretraining = SMALL_F) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    network = build_classifier(config)
    checkpoint.save(folder, "classifier", config, {"classifier": network}, step=7, metrics={"test_error": 0.25})
    return str(folder), network


def write_dtn(folder: Path, experiment: Experiment = SMALL, *, judge: bool = True) -> str:
    """A DTN with random weights; g_convert differs from g, as after a training."""
    torch.manual_seed(1)
    dtn = build_dtn(experiment, FrozenF(build_classifier(SMALL_F), scale=2.5))
    g_convert = build_dtn(experiment, dtn.f).g
    with torch.no_grad():  # or both draw nothing but grey, and differ by less than is seen
        x = torch.rand(64, 3, 32, 32) * 2 - 1
        for g in (dtn.g, g_convert):
            recalibrate(g, dtn.f(x) if dtn.with_f else x)
    networks: dict[str, nn.Module] = {"f": dtn.f, "g": dtn.g, "D": dtn.D, "g_convert": g_convert}
    facts: dict[str, Any] = {"f": to_dict(SMALL_F), "step": 12}
    if judge:
        networks["judge"] = build_classifier(SMALL_F)
        facts["judge"] = to_dict(SMALL_F)
    checkpoint.save(folder, "dtn", experiment, networks, **facts)
    return str(folder)


def write_face_network(path: Path, seed: int, features: int = 16, weight: np.ndarray | None = None) -> str:
    """A face network with one linear layer on 8×8 pixels, random unless given, and the JSON of its preprocessing."""
    if weight is None:
        weight = np.random.default_rng(seed).normal(size=(features, 3, 8, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[8, 8])],
        "face",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(weight), 1, 1])],
        [numpy_helper.from_array(weight, "weight")],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    path.with_suffix(".json").write_text(json.dumps({"size": 8, "crop": [0.1, 0.1, 0.8]}))
    return str(path)


def write_faces_dtn(folder: Path, f: str, size: int = 24) -> str:
    """A DTN of faces with random weights, whose g draws different emoji for different faces."""
    experiment = Experiment(
        data=DataConfig(size=size), model=ModelConfig(kind="faces", f=f, width_g=0.02, width_D=0.02, size_D=64)
    )
    network, facts = load_imported(f)
    torch.manual_seed(2)
    dtn = build_dtn(experiment, FrozenF(network, scale=2.5))
    with torch.no_grad():
        recalibrate(dtn.g, dtn.f(torch.rand(64, 3, size, size) * 2 - 1))
        dtn.g.layers[-2].weight.mul_(30)
    networks: dict[str, nn.Module] = {"f": dtn.f, "g": dtn.g, "D": dtn.D, "g_convert": dtn.g}
    checkpoint.save(folder, "dtn", experiment, networks, f=facts, f_digest=checkpoint.digest(network), step=12)
    return str(folder)


def write_faces(path: Path, images: list[bytes], rows: int | None = None, **columns: list[Any]) -> str:
    """A Parquet file of encoded faces and other columns, in row groups of `rows`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": pa.array(images, pa.binary()), **columns})
    pq.write_table(table, path, row_group_size=rows or max(len(images), 1))
    return str(path)


def svhn_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3, count), np.uint8)


def write_mat(path: Path, labels, images: np.ndarray | None = None, **options) -> str:
    """A file in SVHN's format; labels become a column, unless they are an array of another shape."""
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
        content = gzip.compress(idx(array), mtime=0) if suffix else idx(array)
        (folder / f"{part}-{name}-ubyte{suffix}").write_bytes(content)
    return folder


def encode(image: Image.Image, form: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def huge_png() -> bytes:
    """An image whose header claims four hundred million pixels, with almost no content."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(9)))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
