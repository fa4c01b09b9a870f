"""The digit domain of Sec. 5.1 as a grid: variants of one experiment, by seeds."""

from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from dtn_ray import storage
from dtn_ray.baselines.options import AdaptationOptions, DannOptions, FixMatchOptions
from dtn_ray.data.digits.load import load
from dtn_ray.errors import UserError
from dtn_ray.experiments import measures
from dtn_ray.experiments.grid import Cell, Row, Training
from dtn_ray.experiments.options import Options
from dtn_ray.experiments.trainings import Adaptation, Classifier, Dann, FixMatch, Transfer, given
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.train.options import DataConfig, Experiment
from dtn_ray.train.presets import PRESETS, classifier_of

WRITTEN = ("handwritten-digits", "mnist")  # digits of pen strokes; the others are photographed
Method = TypeVar("Method", bound=AdaptationOptions)
DANN_LR = 0.003  # where DANN begins with f
EPOCHS_ON_G = 10.0  # of a classifier that is trained on G(s)


class Digits:
    """What the rows of an experiment share: data, a preset with the user's changes, f, the judge and the seeds.

    Raises UserError where --f or --judge is no checkpoint, --width-f is given with --f, or the data is not given.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.preset = options.preset or ("embedded" if options.embedded else "digits")
        if not options.embedded and options.data_dir is None:
            raise UserError(
                "SVHN and MNIST are read from files: say where they are with --data-dir DIR, or use the embedded "
                "digits: --embedded"
            )
        if options.f and options.width_f is not None:
            raise UserError("--width-f: the width of f is that of the checkpoint that --f names; leave one of them out")
        self.base = self.of_preset(self.preset)
        if options.download:
            self._download()
        self.seeds = range(options.first_seed, options.first_seed + options.seeds)
        if options.f:  # the networks that are compared with f, or begin with it, have its width
            self.f: Training = (f := given(options.f))
            self.base = self.base.changed(width_f=f.width)
        else:
            self.f = self.f_without()
        self.judge: Training = given(options.judge) if options.judge else self.judge_of(self.base.data.target)

    def _download(self) -> None:
        """Fetches what is missing, once and for all rows: where files come from is no part of a training's name."""
        data = self.base.data
        for dataset, splits in ((data.source, (data.source_split, "train", "test")), (data.target, ("train", "test"))):
            for split in dict.fromkeys(splits):
                load(dataset, split, data.data_dir, download=True)

    def of_preset(self, name: str) -> Experiment:
        """A preset's experiment on this experiment's data, with the options that the user gave."""
        options = self.options
        experiment = PRESETS[name][0]()
        source, target, folder = "svhn", "mnist", options.data_dir and storage.absolute(options.data_dir)
        if options.embedded:
            source, target, folder = DataConfig.source, DataConfig.target, None
            widths = PRESETS["embedded"][0]().model
            experiment = experiment.changed(width_g=widths.width_g, width_D=widths.width_D, width_f=widths.width_f)
        split = options.source_split
        chosen = {
            name: value
            for name in ("width_g", "width_D", "width_f", "steps", "batch_size")
            if (value := getattr(options, name)) is not None
        }
        return experiment.changed(
            source=source,
            target=target,
            data_dir=folder,
            source_split=storage.absolute(split) if split.endswith(".mat") else split,
            bf16=options.bf16,
            **chosen,
        )

    def f_without(self, *classes: int) -> Classifier:
        """f, trained on s's labels without some classes."""
        data = replace(self.base.data, f_without=classes)
        return Classifier(self._recipe(data.source, data, self.options.f_seed))

    def judge_of(self, dataset: str) -> Classifier:
        """The judge of G(x) for a target: trained on its train split.

        One of photographed digits is trained as f is, by another seed and without inverted colours, because the few
        passes that MNIST's judge needs are not enough for them.
        """
        data, seed = replace(self.base.data, f_without=()), self.options.f_seed
        if dataset in WRITTEN:
            return Classifier(self._recipe(dataset, data, seed, judge=True))
        config = self._recipe(dataset, replace(data, source_split="train"), seed + 1)
        return Classifier(replace(config, augment=replace(config.augment, invert=0.0)))

    def _recipe(self, dataset: str, data: DataConfig, seed: int, *, judge: bool = False) -> Pretraining:
        """How `train.py` would train f, or the judge, with this experiment's options."""
        epochs = self.options.epochs
        # The epochs of SVHN's f depend on the number of images, and reading them takes a while.
        images = _images(data.source_split, data.data_dir) if epochs is None and dataset == "svhn" else 0
        config = classifier_of(dataset, data, self.base.model, seed, images, judge=judge)
        return replace(config, epochs=config.epochs if epochs is None else epochs, bf16=self.options.bf16)

    def transfer(
        self, seed: int, base: Experiment | None = None, f: Training | None = None, **changes: Any
    ) -> Transfer:
        """A DTN of one seed: the preset's, or `base`, with other values of settings named as on the command line.

        Without an `f` of its own, its f is the one that all share, or has seen all classes but `f_without`.
        """
        experiment = (base or self.base).changed(seed=seed, **changes)
        without = experiment.data.f_without
        return Transfer(experiment, f or (self.f_without(*without) if without else self.f), self.judge)

    def transfers(self, base: Experiment | None = None, f: Training | None = None, **changes: Any) -> list[Transfer]:
        """The DTNs of all seeds."""
        return [self.transfer(seed, base, f, **changes) for seed in self.seeds]

    def scored(self, transfer: Transfer, test_split: str | None = None) -> Cell:
        """The judge's accuracy on G(x), x in s's test split, and what else jobs/evaluate.py tells."""
        return Cell(measures.transfer, (transfer,), {"test_split": test_split or self.test_split})

    def on_t(self, classifier: Training) -> Cell:
        """A classifier's accuracy on t's test split."""
        return Cell(measures.classifier, (classifier,), self.t_test)

    def neighbours(self, dtn: Transfer, split: str) -> Cell:
        """1-NN's accuracy on t's test split; its gallery is G of a split of s, with s's labels."""
        return Cell(measures.neighbours, (dtn,), self.t_test | self.s(split))

    def s(self, split: str) -> dict[str, Any]:
        """A split of s, as measurements that learn from it take it."""
        data = self.base.data
        return {"source": data.source, "source_data_dir": data.data_dir, "source_split": split}

    @property
    def t_test(self) -> dict[str, Any]:
        """t's test split, as measurements take it."""
        data = self.base.data
        return {"dataset": data.target, "split": "test", "data_dir": data.data_dir}

    def row(self, title: str, paper: float | None = None, base: Experiment | None = None, **changes: Any) -> Row:
        """The judge's accuracy of a variant, over all seeds: `row("α = 2", alpha=2.0)`."""
        return Row(title, tuple(self.scored(each) for each in self.transfers(base, **changes)), paper)

    def adaptation(self, transfer: Transfer) -> Adaptation:
        """A classifier trained on G(s), as the judge is but for its number of passes and smoothed labels."""
        data = self.base.data
        config = self._recipe(data.target, data, transfer.experiment.seed, judge=True)
        epochs = EPOCHS_ON_G if self.options.epochs is None else self.options.epochs
        config = replace(config, epochs=epochs, label_smoothing=Pretraining.label_smoothing)
        return Adaptation(config, transfer)

    def dann(self, seed: int) -> Dann:
        """DANN on f's architecture and width, with unlabelled images of t's train split.

        It begins with f and has f's augmentation, and a lower rate. As published it begins with random weights; with
        7,000 images of s it then did not learn in anything tried. At the published rate of 0.01, begun with f, it lost
        what f knew after some hundred steps.
        """
        chosen = replace(self._adaptation(DannOptions(), seed), lr=DANN_LR, augment=Pretraining().augment)
        steps = self.options.dann_steps
        return Dann(chosen if steps is None else replace(chosen, steps=steps), self.f)

    def adapted_f(self) -> FixMatch:
        """f, which has gone on learning: from s's labels, and from unlabelled images of t's train split."""
        steps = self.options.fixmatch_steps
        chosen = self._adaptation(FixMatchOptions(), self.options.f_seed)
        return FixMatch(chosen if steps is None else replace(chosen, steps=steps), self.f)

    def _adaptation(self, defaults: Method, seed: int) -> Method:
        """An adaptation of f to t with this experiment's data."""
        data = self.base.data
        return replace(
            defaults,
            source=data.source,
            source_split=data.source_split,
            source_test_split=self.test_split,
            target=data.target,
            data_dir=data.data_dir,
            width=self.base.model.width_f,
            bf16=self.options.bf16,
            seed=seed,
        )

    @property
    def names(self) -> str:
        return f"{self.base.data.source} → {self.base.data.target}"

    @property
    def test_split(self) -> str:
        split = self.options.test_split
        return storage.absolute(split) if split.endswith(".mat") else split


@cache
def _images(split: str, data_dir: str | None) -> int:
    """Of SVHN."""
    return len(load("svhn", split, data_dir))
