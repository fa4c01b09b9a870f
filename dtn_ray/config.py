"""The experiments as frozen dataclasses. These are the only list of options: the command lines are made from them."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import Field, TypeAdapter

from dtn_ray import json_files, losses
from dtn_ray.bounds import AtLeastOne, Count, Features, NotNegative, Pixels, Seed, Share, Width
from dtn_ray.data.augment import Augment
from dtn_ray.dtn import LossConfig, OptimConfig
from dtn_ray.errors import UserError
from dtn_ray.models.faces import Norm, Upscaling

T = TypeVar("T")
Unprefixed = tyro.conf.arg(name="")  # --alpha, not --loss.alpha


@dataclass(frozen=True)
class DataConfig:
    """The sets s and t."""

    source: str = "street-digits"
    """Dataset of s: street-digits (embedded) or svhn; of faces, a folder or s3:// prefix of Parquet files."""
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
    """Classes left out when this run trains f itself (Sec. 5.1.1)."""
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
    """Those of Sec. 5.1 or of Sec. 5.2."""
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
    """How many times as far from their mean s's features are taken, in g's input and in L_CONST, as caricatures do it.
    Needs --feature-scale per-domain or transport; the paper has none."""
    width_g: Width = 1.0
    """Filters of g, relative to the paper's."""
    width_D: Width = 1.0
    """Filters of D, relative to the paper's."""
    size_D: Annotated[int, Field(ge=64, le=2048)] = 152
    """Pixels of the square that the faces' D sees."""
    norm_D: Norm = "batch"
    """Batch normalization in the faces' D, as in the paper, or none: it hides from D that G(x) is blurred, since each
    domain is a batch of its own."""
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
    """One DTN training: what decides its result, and nothing else."""

    data: Annotated[DataConfig, Unprefixed] = field(default_factory=DataConfig)
    model: Annotated[ModelConfig, Unprefixed] = field(default_factory=ModelConfig)
    loss: Annotated[LossConfig, Unprefixed] = field(default_factory=LossConfig)
    optim: Annotated[OptimConfig, Unprefixed] = field(default_factory=OptimConfig)
    seed: Seed = 0
    """Decides initialisation, the order of the data and all that is random."""


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


@dataclass(frozen=True)
class SuperResolution:
    """One training of SRCNN (Dong et al. 2015), which enlarges what g draws."""

    images: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IMAGES")]
    """Folder or s3:// prefix of images to learn from; the published network's smaller set is T91."""
    test_images: str | None = None
    """Folder or s3:// prefix of images whose PSNR is reported, such as Set5."""
    factors: Annotated[tuple[Annotated[int, Field(ge=2, le=4)], ...], Field(min_length=1)] = (2,)
    """How many times the network will enlarge: 2, 3 or 4; trained for several at once it is worse at each."""
    middle: Literal[1, 3, 5] = 5
    """Side of the second layer's filters: 9-1-5, 9-3-5 or 9-5-5, the published networks."""
    steps: Count = 12_000
    """Steps of Adam; the paper took SGD with momentum, which needs 10⁸ patches and more."""
    batch_size: AtLeastOne = 16
    """Patches in one step over all workers."""
    patch: AtLeastOne = 48
    """Side of the square that a patch's loss is taken over, in pixels; what the network sees of it is larger."""
    lr: NotNegative = 1e-3
    """Highest learning rate, after a short warm-up; from there a cosine leads to 0."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast), but for the last tenth of the steps."""
    seed: Seed = 0
    """Decides initialisation, the patches and all that is random."""


@dataclass(frozen=True)
class Run:
    """Where and how a training runs; nothing here changes its result."""

    storage: str = "runs"
    """Folder or s3:// prefix that keeps the run: checkpoints, logs, result."""
    name: str | None = None
    """The run's name under --storage; by default made from the experiment, so that the same command resumes."""
    workers: int = 1
    """Data-parallel workers."""
    min_workers: int | None = None
    """Go on with fewer workers, down to so many, while nodes are missing, and with more once they come; by default a
    run waits for all."""
    gpu: bool = False
    """One GPU for each worker."""
    cpus_per_worker: float | None = None
    """CPUs that each worker takes and computes with; by default an even share of the nodes, or one beside a GPU."""
    log_every: int = 50
    """Steps between progress lines and points of the curves."""
    checkpoint_every: int = 500
    """Steps between checkpoints, each with a validation."""
    max_failures: int = 3
    """How many times a lost worker or node is replaced before the run gives up."""
    max_bad_rows: int = 1000
    """Rows of face sets that hold no image (null or damaged) are left out; more of them end the run."""

    def check(self, batch_size: int) -> None:
        """Raises UserError where a batch does not divide among the workers, or among as few as there may be."""
        if self.workers < 1 or batch_size < 1:
            raise UserError("--workers and --batch-size must be at least 1")
        if self.max_bad_rows < 0:
            raise UserError(f"--max-bad-rows {self.max_bad_rows} must be at least 0")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise UserError(f"--min-workers {self.min_workers} must lie between 1 and --workers {self.workers}")
        for workers in range(self.min_workers or self.workers, self.workers + 1):
            if batch_size % workers:
                among = f"--workers {workers}" if self.min_workers is None else f"{workers} workers (--min-workers)"
                raise UserError(f"--batch-size {batch_size} does not divide among {among}")


Range = tuple[float, float]


@dataclass(frozen=True)
class Space:
    """What a search tries. Ranges are LOW HIGH on a logarithmic scale; a weight whose LOW is its HIGH is fixed."""

    alpha: Range | None = None
    """α; by default a tenth to ten times the experiment's."""
    beta: Range | None = None
    """β; likewise."""
    gamma: Range | None = None
    """γ; likewise, and around 0.05, the paper's for faces, where the experiment's is 0."""
    lr_g: Range | None = None
    """g's learning rate; by default not searched, as all below."""
    lr_D: Range | None = None
    """D's learning rate."""
    D_every: tuple[int, ...] = ()
    """Steps between updates of D, such as 1 2 4."""
    tv_reduction: tuple[losses.Reduction, ...] = ()
    """Reductions of L_TV (Eq. 7), on which γ depends: sum, mean."""


@dataclass(frozen=True)
class Search:
    """One search over the weights of L_G: what decides its result, and nothing else."""

    space: Space = field(default_factory=Space)
    trials: int = 16
    """Trainings; the first has the experiment's own weights, and is always trained to its end."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Optuna's tree-structured Parzen estimator, which learns from earlier trials, or random search."""
    scheduler: Literal["asha", "none"] = "asha"
    """Stop the worse two thirds of the trials at a quarter of --steps and at three quarters (ASHA), or none."""
    domain_limit: float = 0.1
    """KID between G(s) and t above which a trial is worse than its L_CONST says, in parts of that between s and t."""


def paper_digits() -> Experiment:
    """Sec. 5.1 and nothing beyond it: SVHN → MNIST, α = β = 15, γ = 0."""
    return Experiment(data=DataConfig(source="svhn", target="mnist"))


def digits() -> Experiment:
    """Sec. 5.1 with what its score needed here (docs/results/digits.md): a faster g, stopped early and averaged."""
    paper = paper_digits()
    return replace(paper, optim=replace(paper.optim, steps=300, lr_g=1e-3, ema_decay=0.9995))


def embedded() -> Experiment:
    """Street-number digits → handwritten digits, both embedded, at a size that two CPU cores train in minutes."""
    return Experiment(
        model=ModelConfig(width_g=0.25, width_D=0.25, width_f=0.5),
        loss=LossConfig(alpha=2.0),  # with 15, g draws what this f can read, and no one else
        optim=OptimConfig(steps=600, lr_g=5e-4, ema_decay=0.998),
    )


def paper_faces() -> Experiment:
    """Sec. 5.2 and nothing beyond it: α = 100, β = 1, γ = 0.05, and Eq. 7 as printed."""
    return Experiment(
        data=DataConfig(source="", target=""),
        model=ModelConfig(kind="faces"),
        loss=LossConfig(alpha=100.0, beta=1.0, gamma=0.05, tv_exponent=1.0),
    )


def faces() -> Experiment:
    """Sec. 5.2 with what emoji needed here (docs/results/faces.md), for a GPU: features in each domain's own unit and
    exaggerated, g that draws t first, an α that grows, D without batch normalization that sees images changed, and
    weighs less."""
    paper = paper_faces()
    return replace(
        paper,
        data=replace(paper.data, augment_s=Augment(mirror=0.5)),
        model=replace(
            paper.model,
            feature_scale="per-domain",
            exaggeration=1.6,
            upscaling="nearest",
            size_D=128,
            norm_D="none",
        ),
        loss=LossConfig(
            alpha=16.0,
            beta=20.0,
            gamma=5.0,
            gan=0.25,
            augment_G=Augment(
                rotation=8,
                scale=(0.87, 1.15),
                shift=0.04,
                brightness=0.2,
                contrast=0.3,
                saturation=0.5,
                mirror=0.5,
                noise=0.1,
            ),
            augment_D=Augment(scale=(0.92, 1.08), shift=0.06, brightness=0.15, contrast=0.3, saturation=0.5),
            r1=0.5,
            warm_up=300,
            ramp=450,
        ),
        optim=OptimConfig(batch_size=64, steps=1800, lr_g=5e-4, lr_D=2e-4, schedule="cosine", ema_decay=0.995),
    )


def faces_small() -> Experiment:
    """The same at a size that two CPU cores train in an hour or two: half of D's filters, small batches, a
    smaller α, since D has seen less when it is reached, D at its full weight, which so few images need, and more
    exaggeration."""
    full = faces()
    return replace(
        full,
        model=replace(full.model, width_D=0.5, exaggeration=2.2),
        loss=replace(
            full.loss,
            alpha=8.0,
            gan=1.0,
            augment_G=Augment(scale=(0.94, 1.06), shift=0.02, brightness=0.1, contrast=0.15, mirror=0.5, noise=0.1),
            warm_up=500,
            ramp=600,
        ),
        optim=replace(full.optim, batch_size=24, steps=2600),
    )


PRESETS = {
    "embedded": (embedded, "embedded digits: nothing to download, minutes on two CPU cores (the default)"),
    "digits": (digits, "the paper's digits (Sec. 5.1): SVHN to MNIST, read from --data-dir"),
    "paper-digits": (paper_digits, "the same as the paper tells it: one rate for g and D, no average of g"),
    "faces": (
        faces,
        "faces to emoji (Sec. 5.2), for a GPU: --source and --target are Parquet files, --f a face network",
    ),
    "faces-small": (faces_small, "the same at a size that two CPU cores train in an hour or two"),
    "paper-faces": (
        paper_faces,
        "the same as the paper tells it: its weights, one rate for g and D, D of 152×152 pixels",
    ),
}


def classifier_of(dataset: str, data: DataConfig, model: ModelConfig, seed: int, *, judge: bool) -> Pretraining:
    """How a DTN run trains f (on s's dataset) or the judge (on t's) when no checkpoint of it is given.

    The judge sees upright digits of t only, as g draws them, so its images are neither inverted nor discoloured.
    """
    small = dataset == "handwritten-digits"
    shapes = Augment(rotation=10, scale=(0.9, 1.1), shift=0.06)
    common = Pretraining(
        dataset=dataset, data_dir=data.data_dir, download=data.download, width=model.width_f, seed=seed
    )
    if judge:
        return replace(common, split="train", epochs=40.0 if small else 5.0, augment=shapes, label_smoothing=0.0)
    epochs = {"street-digits": 8.0, "svhn": 40.0 if data.source_split in ("largest", "train") else 5.0}
    return replace(common, split=data.source_split, without=data.f_without, epochs=epochs.get(dataset, 10.0))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values, for JSON."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The configuration that `to_dict` wrote. Raises UserError naming each setting that does not fit."""
    try:
        return json_files.fit(cls, values)
    except UserError as error:
        raise UserError(f"not a valid {cls.__name__}: {error}") from error


def check(config: Any) -> None:
    """Raises UserError naming each setting out of its bounds (dtn_ray/bounds.py), as a command line may give it."""
    from_dict(type(config), to_dict(config))


def experiment_of(uri: str) -> Experiment:
    """The experiment in a JSON file, such as a search's best.json. Raises UserError naming what is wrong with it."""
    from dtn_ray import storage  # pyarrow, which a command line needs for this alone

    if not storage.exists(uri):
        raise UserError(f"{uri}: no such file, and no preset; presets are {', '.join(PRESETS)}")
    values = json_files.read(uri)
    try:
        return from_dict(Experiment, values)
    except UserError as error:
        raise UserError(f"{uri}: {error}") from error


def fingerprint(config: Any) -> str:
    """Eight hex digits that change when anything in the configuration does."""
    return hashlib.sha256(TypeAdapter(type(config)).dump_json(config)).hexdigest()[:8]
