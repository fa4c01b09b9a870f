"""MNIST (LeCun & Cortes 2010) from its idx files, resized to 32×32, the size of g's output."""

import gzip
import struct
import zlib

import numpy as np

from dtn_ray import storage
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.errors import UserError

FILES = {"train": "train", "test": "t10k"}


def read_idx(uri: str, dimensions: int) -> np.ndarray:
    """Reads one idx file of unsigned bytes (plain, or gzipped with .gz). Raises UserError if it is damaged."""
    try:
        content = storage.read_bytes(uri)
        if uri.endswith(".gz"):
            content = gzip.decompress(content)
        zeros, kind, rank = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{rank}I", content, 4)
        if zeros != 0 or kind != 8 or rank != dimensions:
            raise ValueError(f"header says type {kind:#x} of {rank} dimensions, expected bytes of {dimensions}")
        return np.frombuffer(content, np.uint8, int(np.prod(shape)), 4 + 4 * rank).reshape(shape)
    except (ValueError, struct.error, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{uri}: damaged or truncated idx file ({error}); fetch it again") from error


def load(data_dir: str, split: str) -> LabelledImages:
    """MNIST's train (60,000) or test (10,000) images, N×1×32×32 uint8, enlarged from 28×28 by bilinear interpolation.

    The paper does not say how MNIST is resized. We enlarge it instead of padding it: the digits then fill the image
    more like SVHN's, and an f trained on SVHN reads more of them (docs/results/digits.md). Looks in
    DIR/mnist/MNIST/raw, DIR/MNIST/raw (torchvision's layout), DIR/mnist and DIR. Raises UserError if a file is missing
    or damaged, or for another split.
    """
    if split not in FILES:
        raise UserError(f"mnist has no split {split!r}: choose {' or '.join(FILES)}")
    images = read_idx(_find(data_dir, f"{FILES[split]}-images-idx3-ubyte"), 3)
    labels = read_idx(_find(data_dir, f"{FILES[split]}-labels-idx1-ubyte"), 1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise UserError(f"{data_dir}: MNIST images {images.shape} do not fit {len(labels)} labels of 28×28 images")
    if labels.size and labels.max() > 9:
        raise UserError(f"{data_dir}: MNIST's labels must be in 0..9, found {labels.max()}; is this EMNIST?")
    import torch  # takes seconds to import, and processes that stream other sets do not need it

    pixels = torch.from_numpy(images.copy())[:, None]
    enlarged = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear").numpy()
    return LabelledImages(enlarged, labels.astype(np.int64))


def is_there(data_dir: str) -> bool:
    """Whether the files of both splits exist."""
    try:
        for stem in FILES.values():
            _find(data_dir, f"{stem}-images-idx3-ubyte")
            _find(data_dir, f"{stem}-labels-idx1-ubyte")
    except UserError:
        return False
    return True


def _find(data_dir: str, name: str) -> str:
    folders = [
        storage.join(data_dir, *parts) for parts in (("mnist", "MNIST", "raw"), ("MNIST", "raw"), ("mnist",), ())
    ]
    for folder in folders:
        for candidate in (storage.join(folder, name), storage.join(folder, f"{name}.gz")):
            if storage.exists(candidate):
                return candidate
    raise UserError(
        f"{storage.join(folders[0], name)}: no such file (nor in {', '.join(folders[1:])}). "
        "Fetch MNIST's idx files, or use --download if this machine has internet access."
    )
