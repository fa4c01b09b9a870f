"""The options of the methods that Table 2 compares with."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from dtn_ray.bounds import AtLeastOne, Count, NotNegative, Seed, Share, Width, Within
from dtn_ray.method.options import Augment
from dtn_ray.perceptual.options import Pretraining

Classifier = Literal["svm", "nearest"]


@dataclass(frozen=True, kw_only=True)
class SourceAndTarget:
    """The labelled source and the unlabelled target."""

    source: str = "street-digits"
    """Dataset of the source, whose labels are used: street-digits (embedded) or svhn."""
    source_split: str = "largest"
    """Split of the source: train, test, extra, train+extra, a .mat file; largest is extra if it is there."""
    target: str = "handwritten-digits"
    """Dataset of the target: handwritten-digits (embedded) or mnist."""
    data_dir: str | None = None
    """Folder or s3:// prefix with the files of svhn and mnist."""
    download: bool = False
    """Fetch missing files with torchvision into --data-dir."""


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions(SourceAndTarget):
    """Subspace alignment (SA) of f(x), or of pixels."""

    f: str | None = None
    """Checkpoint of jobs/pretrain.py, trained on the source, whose f(x) is aligned; without one, the pixels are."""
    target_split: str = "test"
    """Split of the target that is aligned, and then classified; its labels are used only for the accuracy."""
    dimensions: tuple[AtLeastOne, ...] = tuple(range(2, 61))
    """Dimensions of the subspaces. Of several, the one that is best on the target's labels is reported, as Ganin et al.
    did with 2 to 60: then the accuracy is an upper bound."""
    classifier: Classifier = "svm"
    """Of the aligned source: svm, linear, as in Ganin et al. (2016); nearest, 1-NN, as in Fernando et al. (2013)."""
    out: str = "runs/subspace-alignment"
    """Folder or s3:// prefix for scores.json."""


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions(SourceAndTarget):
    """One training of f's architecture by labels of the source and unlabelled images of the target."""

    method: ClassVar[str]

    source_test_split: str = "test"
    """Split of the source whose error is reported: the labels that settings may be chosen by."""
    target_split: str = "train"
    """Split of the target that is learned from, without its labels."""
    test_split: str = "test"
    """Split of the target whose accuracy is reported; nothing is chosen by it."""
    f: str | None = None
    """Checkpoint of jobs/pretrain.py, trained on the source, to begin with; without one, training begins from random
    weights, and needs many more steps. Its width must be --width."""
    width: Width = 1.0
    """Filters of f, relative to the paper's; also the units of DANN's domain classifier, relative to the published."""
    steps: Count
    """Updates of all networks."""
    batch_size: AtLeastOne = 64
    """Images of the source, and as many of the target, in one step over all workers; 64 as published for both
    methods."""
    lr: NotNegative
    """Learning rate of the optimiser."""
    weight_decay: NotNegative
    """Weight decay of the optimiser."""
    dropout: Share = 0.3
    """Dropout before the classifier."""
    label_smoothing: Share = 0.0
    """Label smoothing of the cross-entropy on the source."""
    augment: Augment
    """Random changes to the training images."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast)."""
    seed: Seed = 0
    """Decides initialisation, the order of the data and all that is random."""

    @property
    def classifier(self) -> Pretraining:
        """The settings that f and its classifier are built from, as their checkpoint keeps them."""
        return Pretraining(
            dataset=self.source,
            data_dir=self.data_dir,
            split=self.source_split,
            test_split=self.source_test_split,
            width=self.width,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            dropout=self.dropout,
            label_smoothing=self.label_smoothing,
            augment=self.augment,
            bf16=self.bf16,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class DannOptions(AdaptationOptions):
    """One training of DANN on f's architecture: labels of the source, unlabelled images of both domains."""

    method = "dann"

    steps: Count = 4000
    """Updates of all networks."""
    lr: NotNegative = 0.01
    """First learning rate of SGD; 0.01 as published."""
    momentum: Annotated[float, Within(ge=0, lt=1)] = 0.9
    """SGD's momentum; 0.9 as published."""
    weight_decay: NotNegative = 0.0
    """SGD's weight decay; Ganin et al. restrict the norms of the weights instead."""
    anneal: bool = True
    """Lower the learning rate by (1 + 10p)^-0.75, p the part of the steps done; Ganin et al. kept it constant between
    MNIST and SVHN, where they trained for more than 150 epochs."""
    gamma: NotNegative = 10.0
    """γ of λ = 2 / (1 + exp(-γp)) - 1, the weight of the reversed gradient; 10 as published, 0 learns from the source
    alone."""
    augment: Augment = field(default_factory=Augment)
    """Random changes to the training images of both domains; none as published. With f's own (--augment.invert 0.5
    and more), DANN has the advantages that f has."""


@dataclass(frozen=True, kw_only=True)
class FixMatchOptions(AdaptationOptions):
    """One training of FixMatch on f's architecture: f's own sure answers on the target's images are its labels there.

    The defaults are ours, for an f to begin with.
    """

    method = "fixmatch"

    steps: Count = 1200
    """Updates of f."""
    lr: NotNegative = 1e-3
    """Highest learning rate of AdamW, on a one-cycle schedule."""
    weight_decay: NotNegative = 0.05
    """AdamW's weight decay."""
    label_smoothing: Share = 0.05
    """Label smoothing of the cross-entropy on the source."""
    threshold: Share = 0.9
    """How sure f must be of an image of the target, from 0 to 1, for its answer to count as a label; 0.95 as published,
    where no f was there to begin with."""
    unlabelled: NotNegative = 1.0
    """Weight of the target's images beside the source's."""
    augment: Augment = field(default_factory=lambda: Pretraining().augment)
    """Random changes to the training images: f's own. Images of the target are changed likewise, but never inverted,
    and must then be given the answer that f gives to the unchanged image."""
