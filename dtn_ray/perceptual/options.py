"""The options of training f, or the judge."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from dtn_ray.bounds import AtLeastOne, Count, Features, NotNegative, Seed, Share, Width
from dtn_ray.method.options import Augment


@dataclass(frozen=True)
class Pretraining:
    """One training of a digit classifier of f's architecture: f itself, or the judge."""

    dataset: str = "street-digits"
    """street-digits, svhn, handwritten-digits or mnist."""
    data_dir: str | None = None
    """Folder or s3:// prefix with the files of svhn and mnist."""
    split: str = "largest"
    """Split to train on; largest is extra for svhn where it is there, else train."""
    test_split: str = "test"
    """Split whose error is reported."""
    without: tuple[int, ...] = ()
    """Classes left out of training (Sec. 5.1.1)."""
    download: bool = False
    """Fetch missing files with torchvision into --data-dir."""
    width: Width = 1.0
    """Filters, relative to the paper's."""
    epochs: NotNegative = 40.0
    """Passes over the training split."""
    batch_size: AtLeastOne = 64
    """Images in one step over all workers."""
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
    """Compute in bfloat16 where that is safe (autocast)."""
    seed: Seed = 0
    """Decides initialisation, the order of the data and all that is random."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What the networks take (dtn_ray/checkpoints/checkpoint.py)."""
        return {"size": 32, "range": [-1, 1], "layout": "NCHW"}


@dataclass(frozen=True)
class FacePretraining:
    """One training of DeepFace (Taigman et al. 2014) to tell people apart: f of Sec. 5.2."""

    faces: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FACES")]
    """Aligned faces: Parquet files with columns image and identity below a folder or s3:// prefix, or a folder of
    images with a subfolder for each person."""
    test_faces: str | None = None
    """Faces of the same layout to test on, best of people who are not in FACES; without, some of FACES are held out."""
    held_out: Count = 1000
    """Faces held out where there are no --test-faces (at most a tenth); of --test-faces, so many are taken."""
    width: Width = 1.0
    """Filters and units, relative to the published network's, whose weights take 400 MB."""
    features: Features = 256
    """Numbers in f(x); the paper's f has 256."""
    epochs: NotNegative = 15.0
    """Passes over the faces."""
    batch_size: AtLeastOne = 64
    """Images in one step over all workers."""
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
    """Compute in bfloat16 where that is safe (autocast)."""
    seed: Seed = 0
    """Decides initialisation, the order of the data and all that is random."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What the networks take (dtn_ray/checkpoints/checkpoint.py)."""
        return {"size": 152, "range": [-1, 1], "layout": "NCHW"}
