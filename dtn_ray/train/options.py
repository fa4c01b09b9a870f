"""The options of a DTN training that decide its result."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from dtn_ray.bounds import Count, Pixels, Seed, Width
from dtn_ray.method.options import Augment, LossConfig, OptimConfig
from dtn_ray.models.options import Norm, Upscaling
from dtn_ray.settings import Unprefixed


@dataclass(frozen=True)
class DataConfig:
    """The sets s and t."""

    source: str = "street-digits"
    """Dataset of s: street-digits (embedded) or svhn; for faces, a folder or s3:// prefix of Parquet files."""
    target: str = "handwritten-digits"
    """Dataset of t: handwritten-digits (embedded) or mnist; for faces, as --source."""
    data_dir: str | None = None
    """Folder or s3:// prefix with the files of svhn and mnist."""
    source_split: str = "largest"
    """Split of s: train, test, extra, train+extra, a .mat file; largest is extra (the paper's) where it is there."""
    target_split: str = "test"
    """Split of t; the paper's is MNIST's test set."""
    s_without: tuple[int, ...] = ()
    """Classes left out of s (Sec. 5.1.1)."""
    t_without: tuple[int, ...] = ()
    """Classes left out of t (Sec. 5.1.1)."""
    f_without: tuple[int, ...] = ()
    """Classes left out when this run trains f itself (Sec. 5.1.1); with --f, the record of that f must say the same."""
    augment_s: Augment = field(default_factory=Augment)
    """Random changes to the images of s in training; the paper, whose s has half a million images, makes none."""
    validation: Count = 512
    """Images of s held out for validation (at most a tenth of s)."""
    download: bool = False
    """Fetch missing files with torchvision into --data-dir."""
    size: Pixels = 152
    """Pixels of the square that faces are scaled to."""


@dataclass(frozen=True)
class ModelConfig:
    """The networks."""

    kind: Literal["digits", "faces"] = "digits"
    """The networks of Sec. 5.1 or of Sec. 5.2."""
    f: Annotated[str | None, tyro.conf.arg(aliases=["--perceptual"])] = None
    """The perceptual network. Digits: a checkpoint of jobs/pretrain.py; without one, f is trained first, on s's labels.
    Faces: any face network as ONNX, of which NETWORK.json beside it tells what it sees, unless it is known; or a
    checkpoint of jobs/pretrain.py faces."""
    judge: str | None = None
    """Checkpoint of the judge, for the accuracy; without one, it is trained first, on t's labels."""
    feature_scale: Literal["unit", "none", "per-domain", "transport"] = "unit"
    """Divide f's features by one number so that they have unit variance over s, or leave them as they are; per-domain:
    take each domain's own mean off, and divide by its own number; transport: and carry s's onto t's covariance, for a t
    that differs in few ways, such as drawn avatars."""
    exaggeration: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Multiply the distance of s's features from their mean by this factor, in g's input and in L_CONST, as caricatures
    do. Needs --feature-scale per-domain or transport; the paper has none."""
    width_g: Width = 1.0
    """Filters of g, relative to the paper's."""
    width_D: Width = 1.0
    """Filters of D, relative to the paper's."""
    size_D: Annotated[int, Field(ge=64, le=2048)] = 152
    """Pixels of the square that the faces' D sees."""
    norm_D: Norm = "batch"
    """Batch normalization in the faces' D, as in the paper, or none. With it D cannot see that G(x) is blurred, because
    each domain is a batch of its own."""
    upscaling: Upscaling = "transposed"
    """How the faces' g doubles its size: transposed convolutions, or repeated pixels and 3×3 convolutions."""
    width_f: Width = 1.0
    """Filters of f and the judge where this run trains them, relative to the paper's."""
    with_f: bool = True
    """G = g∘f; off is Table 1's "G does not contain f": an encoder of f's shape is learned with g from scratch."""
    binary: bool = False
    """D of two classes and no G(t), as in the baseline of Sec. 3; with --no-with-f it is Table 1's baseline method."""


@dataclass(frozen=True)
class Experiment:
    """One DTN training: all settings that decide its result, and no others."""

    data: Annotated[DataConfig, Unprefixed] = field(default_factory=DataConfig)
    model: Annotated[ModelConfig, Unprefixed] = field(default_factory=ModelConfig)
    loss: Annotated[LossConfig, Unprefixed] = field(default_factory=LossConfig)
    optim: Annotated[OptimConfig, Unprefixed] = field(default_factory=OptimConfig)
    seed: Seed = 0
    """Seed of initialisation, data order and all other randomness."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What the networks take (dtn_ray/checkpoints/checkpoint.py)."""
        return {"size": self.data.size if self.model.kind == "faces" else 32, "range": [-1, 1], "layout": "NCHW"}
