"""The options of a DTN training that decide its result."""

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from dtn_ray.bounds import Count, Pixels, Seed, Width
from dtn_ray.errors import UserError
from dtn_ray.method.options import Augment, LossConfig, OptimConfig
from dtn_ray.models.options import Norm, Upscaling
from dtn_ray.option_groups import Group


@dataclass(frozen=True)
class DataConfig:
    """The sets s and t."""

    source: str = "street-digits"
    """Dataset of s: street-digits (embedded) or svhn; for faces, a folder or s3:// prefix of Parquet files."""
    target: str = "handwritten-digits"
    """Dataset of t: handwritten-digits (embedded) or mnist; for faces, a folder or s3:// prefix of Parquet files."""
    data_dir: str | None = None
    """Folder or s3:// prefix with the files of svhn and mnist."""
    source_split: str = "largest"
    """Split of s: train, test, extra, train+extra or a .mat file. largest means extra (as in the paper) if its file
    exists, and train otherwise."""
    target_split: str = "test"
    """Split of t; the paper uses MNIST's test set."""
    s_without: tuple[int, ...] = ()
    """Classes left out of s (Sec. 5.1.1)."""
    t_without: tuple[int, ...] = ()
    """Classes left out of t (Sec. 5.1.1)."""
    f_without: tuple[int, ...] = ()
    """Classes left out when this run trains f itself (Sec. 5.1.1); with --f, the record of that f must say the same."""
    augment_s: Augment = field(default_factory=Augment)
    """Random changes to the training images of s. Not in the paper, whose s has half a million images."""
    validation: Count = 512
    """Images of s held out for validation (at most a tenth of s)."""
    download: bool = False
    """Download missing files with torchvision into --data-dir."""
    size: Pixels = 152
    """Width and height, in pixels, to which faces are scaled."""


@dataclass(frozen=True)
class ModelConfig:
    """The networks."""

    kind: Literal["digits", "faces"] = "digits"
    """The networks of Sec. 5.1 or of Sec. 5.2."""
    f: Annotated[str | None, tyro.conf.arg(aliases=["--perceptual"])] = None
    """The perceptual network. Digits: a checkpoint of jobs/pretrain.py; without one, f is trained first, on s's labels.
    Faces: any face network as ONNX, with NETWORK.json beside NETWORK.onnx to describe its preprocessing (not needed for
    the networks in docs/reference/face-networks.md); or a checkpoint of jobs/pretrain.py faces."""
    judge: str | None = None
    """Checkpoint of the judge, which measures the accuracy; without one, it is trained first, on t's labels."""
    feature_scale: Literal["unit", "none", "per-domain", "transport"] = "unit"
    """Normalization of f's features. unit: divide them by one number, so that they have unit variance over s. none:
    leave them unchanged. per-domain: subtract the mean of each domain, and divide by one number for each domain.
    transport: also give the features of s the covariance of those of t, for a t with little variety, such as drawn
    avatars."""
    exaggeration: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Multiply the distance of s's features from their mean by this factor, in g's input and in L_CONST, as a
    caricature exaggerates. Needs --feature-scale per-domain or transport. Not in the paper."""
    width_g: Width = 1.0
    """Number of filters of g, relative to the paper's."""
    width_D: Width = 1.0
    """Number of filters of D, relative to the paper's."""
    size_D: Annotated[int, Field(ge=64, le=2048)] = 152
    """Width and height, in pixels, of the input of the faces' D."""
    norm_D: Norm = "batch"
    """Batch normalization in the faces' D, as in the paper, or none. With batch normalization D cannot detect that G(x)
    is blurred, because the images of each domain form their own batch."""
    upscaling: Upscaling = "transposed"
    """How the faces' g doubles its resolution: transposed convolutions, or repeated pixels and 3×3 convolutions."""
    width_f: Width = 1.0
    """Number of filters of f and the judge if this run trains them, relative to the paper's."""
    with_f: bool = True
    """G = g∘f. Off, this is the row "G does not contain f" of Table 1: g begins with an encoder of f's architecture
    that is trained from scratch."""
    binary: bool = False
    """A D with two classes and no G(t), as in the baseline of Sec. 3; with --no-with-f this is the baseline method of
    Table 1."""


@dataclass(frozen=True)
class Experiment:
    """One DTN training: all settings that decide its result, and no others."""

    data: Annotated[DataConfig, Group("data")] = field(default_factory=DataConfig)
    model: Annotated[ModelConfig, Group("network")] = field(default_factory=ModelConfig)
    loss: Annotated[LossConfig, Group("loss")] = field(default_factory=LossConfig)
    optim: Annotated[OptimConfig, Group("optimiser")] = field(default_factory=OptimConfig)
    seed: Seed = 0
    """Seed of initialisation, data order and all other randomness."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The networks' input, for the manifest (dtn_ray/checkpoints/checkpoint.py)."""
        return {"size": self.data.size if self.model.kind == "faces" else 32, "range": [-1, 1], "layout": "NCHW"}

    def changed(self, **settings: Any) -> "Experiment":
        """The experiment with other values of some settings, named as on the command line: `changed(beta=0, seed=1)`.

        Raises UserError for a name that no setting has.
        """
        parts: dict[str, dict[str, Any]] = {}
        own = {}
        for name, value in settings.items():
            if name == "seed":
                own[name] = value
                continue
            holder = next((part for part in PARTS if name in {each.name for each in fields(getattr(self, part))}), None)
            if holder is None:
                raise UserError(f"{name}: no such setting of an experiment")
            parts.setdefault(holder, {})[name] = value
        return replace(self, **own, **{part: replace(getattr(self, part), **new) for part, new in parts.items()})


PARTS = ("data", "model", "loss", "optim")
"""The fields of an Experiment that hold settings; no two hold one of the same name."""
