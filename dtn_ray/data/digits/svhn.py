"""SVHN, cropped digits (Netzer et al. 2011), from the official `.mat` files or subsets in the same format."""

from pathlib import PurePath

import numpy as np

from dtn_ray import storage
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.errors import UserError

SPLITS = ("train", "test", "extra")


def read_mat(uri: str) -> LabelledImages:
    """Reads one `.mat` file: X 32×32×3×N uint8, y N×1 with the digit 0 as 10 (or as 0).

    While reading, takes about twice the images' size in memory (3.3 GB for `extra`); afterwards their size.
    Raises UserError if the file is absent, damaged or has another layout.
    """
    if not storage.exists(uri):
        raise UserError(
            f"{uri}: no such file. SVHN's are at http://ufldl.stanford.edu/housenumbers/; "
            "put them in DIR/svhn/, or use --download if this machine has internet access."
        )
    import scipy.io  # imported here, because it takes half a second in every process

    filesystem, path = storage.resolve(uri)
    try:
        with filesystem.open_input_file(path) as file:
            content = scipy.io.loadmat(file, variable_names=["X", "y"])
    except NotImplementedError as error:
        raise UserError(f"{uri}: a MATLAB 7.3 (HDF5) file; save it as version 7 or take the official file") from error
    except Exception as error:  # scipy can raise anything for a damaged file
        raise UserError(f"{uri}: damaged or truncated, cannot be read ({error}); fetch it again") from error
    if "X" not in content or "y" not in content:
        raise UserError(f"{uri}: not an SVHN file: it has no variables X and y")
    images, labels = content["X"], content["y"].reshape(-1)
    if images.ndim == 3:  # MATLAB drops a last dimension of 1
        images = images[..., None]
    if images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        raise UserError(f"{uri}: X is {images.shape} {images.dtype}, expected 32×32×3×N uint8 (the cropped digits)")
    if images.shape[3] != len(labels):
        raise UserError(f"{uri}: {images.shape[3]} images in X but {len(labels)} labels in y")
    if labels.dtype.kind not in "iuf" or len(labels) == 0 or not np.isin(labels, np.arange(11)).all():
        raise UserError(f"{uri}: y must hold at least one label, all in 1..10 (10 for the digit 0)")
    return LabelledImages(np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10)


def load(data_dir: str, split: str) -> LabelledImages:
    """SVHN's `split` from DIR/svhn/ or DIR: train, test, extra, several joined by + (train+extra), or one `.mat` file.

    `largest` is `extra`, the paper's s, if its file exists, and `train` otherwise.
    """
    if split.endswith(".mat"):
        return read_mat(split)
    parts = []
    for name in names(data_dir, split):
        if name not in SPLITS:
            raise UserError(f"svhn has no split {name!r}: choose {', '.join(SPLITS)}, train+extra, or a .mat file")
        parts.append(read_mat(path(data_dir, name)))
    if len(parts) == 1:
        return parts[0]
    return LabelledImages(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))


def names(data_dir: str | None, split: str) -> list[str]:
    """The splits that one by name, such as train+extra or largest, is made of."""
    if split == "largest":
        return ["extra" if data_dir is not None and storage.exists(path(data_dir, "extra")) else "train"]
    return split.split("+")


def path(data_dir: str, split: str) -> str:
    """Where the file of train, test or extra lies."""
    name = f"{split}_32x32.mat"
    nested = storage.join(data_dir, "svhn", name)
    flat = storage.join(data_dir, name)
    return flat if storage.exists(flat) or PurePath(data_dir).name == "svhn" else nested
