"""The options of training f, or the judge."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from dtn_ray.bounds import AtLeastOne, Count, Features, NotNegative, Seed, Share, Width
from dtn_ray.method.options import Augment


@dataclass(frozen=True)
class Pretraining:
    """One training of a digit classifier with f's architecture, as f or as the judge."""

    dataset: str = "street-digits"
    """street-digits, svhn, handwritten-digits or mnist."""
    data_dir: str | None = None
    """Folder or s3:// prefix with the files of svhn and mnist."""
    split: str = "largest"
    """Split to train on; largest means extra for svhn if its file exists, and train otherwise."""
    test_split: str = "test"
    """Split whose error is reported."""
    without: tuple[int, ...] = ()
    """Classes left out of training (Sec. 5.1.1)."""
    download: bool = False
    """Download missing files with torchvision into --data-dir."""
    width: Width = 1.0
    """Number of filters, relative to the paper's."""
    epochs: NotNegative = 40.0
    """Passes over the training split."""
    batch_size: AtLeastOne = 64
    """Images in one step, over all workers together."""
    lr: NotNegative = 2e-3
    """Highest learning rate of AdamW, on a one-cycle schedule."""
    weight_decay: NotNegative = 0.05
    """AdamW's weight decay."""
    dropout: Share = 0.3
    """Dropout before the classifier."""
    label_smoothing: Share = 0.05
    """Label smoothing of the cross-entropy."""
    augment: Augment = field(
        default_factory=lambda: Augment(
            rotation=12, scale=(0.85, 1.15), shift=0.08, contrast=0.4, brightness=0.3, invert=0.5
        )
    )
    """Random changes to the training images; inverted colours make f useful on t as well as on s."""
    bf16: bool = False
    """Compute in bfloat16 where autocast considers it safe."""
    seed: Seed = 0
    """Seed of initialisation, data order and all other randomness."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The networks' input, for the manifest (dtn_ray/checkpoints/checkpoint.py)."""
        return {"size": 32, "range": [-1, 1], "layout": "NCHW"}


@dataclass(frozen=True)
class FacePretraining:
    """One training of DeepFace (Taigman et al. 2014) to tell people apart: f of Sec. 5.2."""

    faces: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FACES")]
    """Aligned faces: Parquet files with columns image and identity below a folder or s3:// prefix, or a folder of
    images with a subfolder for each person."""
    test_faces: str | None = None
    """Faces to test on, in the same layout, ideally of people who are not in FACES; by default some of FACES are held
    out."""
    held_out: Count = 1000
    """Number of faces to test on: of --test-faces, or held out from FACES (then at most a tenth of them)."""
    width: Width = 1.0
    """Number of filters and units, relative to the published network, whose weights take 400 MB."""
    features: Features = 256
    """Length of f(x); 256 in the paper."""
    epochs: NotNegative = 15.0
    """Passes over the faces."""
    batch_size: AtLeastOne = 64
    """Images in one step, over all workers together."""
    lr: NotNegative = 1e-3
    """Highest learning rate of AdamW, on a one-cycle schedule."""
    weight_decay: NotNegative = 0.05
    """AdamW's weight decay."""
    dropout: Share = 0.5
    """Dropout after F7, as published."""
    label_smoothing: Share = 0.0
    """Label smoothing of the cross-entropy."""
    augment: Augment = field(
        default_factory=lambda: Augment(
            rotation=5, scale=(0.92, 1.08), shift=0.04, contrast=0.3, brightness=0.2, mirror=0.5
        )
    )
    """Random changes to the training images."""
    bf16: bool = False
    """Compute in bfloat16 where autocast considers it safe."""
    seed: Seed = 0
    """Seed of initialisation, data order and all other randomness."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The networks' input, for the manifest (dtn_ray/checkpoints/checkpoint.py)."""
        return {"size": 152, "range": [-1, 1], "layout": "NCHW"}
