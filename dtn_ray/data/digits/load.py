"""Loads s and t of the digit experiments. `load` is the only entry point to their datasets."""

import os
import tempfile
from dataclasses import dataclass

from dtn_ray import storage
from dtn_ray.data.digits import handwritten_digits, mnist, svhn
from dtn_ray.data.digits.street_digits import street_digits
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.errors import UserError

DATASETS = {
    "street-digits": "rendered street-number digits, RGB; embedded, made on demand",
    "handwritten-digits": "scikit-learn's real handwritten digits, grayscale; embedded",
    "svhn": "Street View House Numbers, RGB, from .mat files; splits train, test, extra, train+extra",
    "mnist": "MNIST, grayscale, from idx files; splits train, test",
}
CHANNELS = {"street-digits": 3, "handwritten-digits": 1, "svhn": 3, "mnist": 1}

# The test images share nothing with any training set, whatever its size: they come from a stream of their own.
_STREET = {"train": (12_000, 1), "test": (2_000, 2)}


def load(dataset: str, split: str, data_dir: str | None = None, *, download: bool = False) -> LabelledImages:
    """Loads one split of a dataset; see DATASETS for what there is. `largest` is the largest training split.

    Raises UserError for an unknown dataset or split, and for missing or damaged files.
    """
    if dataset not in DATASETS:
        raise UserError(f"unknown dataset {dataset!r}: choose one of {', '.join(DATASETS)}")
    if dataset in ("street-digits", "handwritten-digits"):
        split = "train" if split == "largest" else split
        if dataset == "handwritten-digits":
            return handwritten_digits.load(split)
        if split not in _STREET:
            raise UserError(f"street-digits has no split {split!r}: choose train or test")
        return LabelledImages(*street_digits(*_STREET[split]))
    if data_dir is None and not split.endswith(".mat"):
        raise UserError(f"{dataset} is read from files: say where they are with --data-dir DIR")
    if download and data_dir is not None and not split.endswith(".mat"):
        _download(dataset, split, data_dir)
    if dataset == "svhn":
        return svhn.load(data_dir or "", split)
    return mnist.load(data_dir or "", "train" if split == "largest" else split)


@dataclass(frozen=True)
class Part:
    """One of the files, or of the embedded sets, that a split is made of."""

    name: str | None
    """Its name as a split, such as `test`; None of a file that is given by its path."""
    uri: str | None
    """Where it lies; None where that is not known, and of other datasets than SVHN."""


def parts(dataset: str, split: str, data_dir: str | None = None) -> list[Part]:
    """What a split is made of, however it is spelled. Reads no file. As for `load`; raises nothing."""
    if dataset != "svhn":
        return [Part("train" if split == "largest" else split, None)]
    if split.endswith(".mat"):
        return [Part(None, split)]
    return [Part(name, None if data_dir is None else svhn.path(data_dir, name)) for name in svhn.names(data_dir, split)]


def _download(dataset: str, split: str, data_dir: str) -> None:
    """Fetches a dataset's files with torchvision into a local folder, unless they are there already."""
    if storage.is_s3(data_dir):
        raise UserError(f"--download writes to a local folder, not to {data_dir}")
    names = ("extra" if split == "largest" else split).split("+")
    if dataset == "svhn" and not {*names} <= {*svhn.SPLITS}:
        return  # svhn.load refuses the unknown split
    import torchvision  # takes seconds to import, and is seldom needed

    place = storage.absolute(data_dir)
    try:
        os.makedirs(place, exist_ok=True)
        # Into a folder of its own first: torchvision overwrites files whose digest is another, also through links.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as fetched:
            if dataset == "mnist" and not mnist.is_there(data_dir):
                torchvision.datasets.MNIST(os.path.join(fetched, "mnist"), download=True)
            for name in names if dataset == "svhn" else ():
                # SVHN(download=True) would also read the whole split, which svhn.load does once more.
                url, file, md5 = torchvision.datasets.SVHN.split_list[name]
                if not storage.exists(storage.join(place, "svhn", file)):
                    torchvision.datasets.utils.download_url(url, os.path.join(fetched, "svhn"), file, md5)
            storage.copy_folder(fetched, place, overwrite=False)
    except (OSError, RuntimeError) as error:
        raise UserError(f"--download of {dataset} failed: {error}. Fetch its files by hand into {data_dir}.") from error
