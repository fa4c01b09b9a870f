"""The digit domain of Sec. 5.1: SVHN → MNIST, or the embedded datasets that replace them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dtn_ray import storage
from dtn_ray.checkpoints import checkpoint
from dtn_ray.checkpoints.checkpoint import read_settings
from dtn_ray.data.digits import load
from dtn_ray.data.digits.load import CHANNELS
from dtn_ray.data.feed import InMemory
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.errors import UserError
from dtn_ray.method.dtn import DTN
from dtn_ray.method.features import FrozenF
from dtn_ray.models.digits import DigitD, DigitF, DigitG
from dtn_ray.models.layers import initialise_for_relu, unfilled
from dtn_ray.perceptual.load import build_classifier, load_classifier
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.resumable.options import Run
from dtn_ray.settings import fingerprint, from_dict
from dtn_ray.storage import json_files
from dtn_ray.train.domain import SCALING, Domain, Prepared
from dtn_ray.train.options import Experiment
from dtn_ray.train.presets import classifier_of


def build(experiment: Experiment, f: FrozenF) -> DTN:
    """As `Domain.build`; with Table 1's variants."""
    model = experiment.model
    if (target := experiment.data.target) not in CHANNELS:
        raise UserError(f"--target {target}: not a dataset of digits; choose one of {', '.join(CHANNELS)}")
    channels = CHANNELS[target]
    g: nn.Module = DigitG(f.network.features, channels, model.width_g)
    if not model.with_f:
        g = nn.Sequential(Encoder(DigitF(model.width_f)), DigitG(round(128 * model.width_f), channels, model.width_g))
    D = DigitD(channels, 1 if model.binary else 3, model.width_D)
    D2 = DigitD(2 * channels, 1, model.width_D) if experiment.loss.d2 == "gan" else None
    return DTN(f, g, D, D2=D2, with_f=model.with_f, binary=model.binary)


class Encoder(nn.Module):
    """An untrained network of f's shape at the bottom of g, where G does not contain f (Table 1).

    The paper does not say how it is initialised. Under torch's default, which f itself is trained from, the encodings
    of different images have a standard deviation of 0.01 and g could not tell them apart; with He et al.'s it is about
    0.4, and that of f's scaled features, which g reads elsewhere, is 1.
    """

    def __init__(self, network: DigitF) -> None:
        super().__init__()
        self.layers = network.layers
        initialise_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×32×32 or N×1×32×32 in [-1, 1] to N×features."""
        return self.layers(x.expand(-1, 3, -1, -1)).flatten(1)


def read_f(folder: Path, _: Experiment, manifest: dict[str, Any]) -> DigitF:
    """As `Domain.read_f`."""
    settings = read_settings(folder, Pretraining, manifest, "f")
    with unfilled():
        return build_classifier(replace(settings, dropout=0.0))


def prepare(experiment: Experiment, run: Run) -> Prepared:
    """As `Domain.prepare`; trains f and the judge first if no checkpoints of them are given."""
    from dtn_ray.resumable.run import check_folder

    s, t = _splits(experiment)
    images = len(s)
    s, t = _less_classes(experiment, s, t)
    s, held = s.split_off(experiment.data.validation, experiment.seed)
    if not len(held):
        raise UserError(
            f"no images to validate on: --validation {experiment.data.validation} must be at least 1, and s must have "
            f"at least 10 images (it has {len(s)})"
        )
    name = run.name or f"dtn-{experiment.data.source}-{experiment.data.target}-{fingerprint(experiment)}"
    inner = replace(run, storage=storage.join(run.storage, name))
    check_folder(inner.storage)

    # f and the judge: given, or trained first inside this run's folder.
    given = {
        role: load_classifier(uri)
        for role, uri in (("f", experiment.model.f), ("judge", experiment.model.judge))
        if uri
    }
    if "f" in given:
        _check_f_without(experiment, given["f"][1])
    f, f_manifest = given.get("f") or load_classifier(_pretrained(experiment, inner, "f", images))
    judge, judge_manifest = given.get("judge") or load_classifier(_pretrained(experiment, inner, "judge", images))
    facts = {
        "s_images": len(s),
        "t_images": len(t),
        "f": f_manifest["config"],
        "f_test_error": f_manifest.get("metrics", {}).get("test_error"),
        "f_digest": checkpoint.digest(f),
        "judge": judge_manifest["config"],
    }
    some_s, some_t = s.images[:SCALING], t.images[:SCALING]
    return Prepared(name, InMemory(s, t), some_s, some_t, held.images, held.labels, f, judge, facts)


def _check_f_without(experiment: Experiment, manifest: dict[str, Any]) -> None:
    """Raises UserError where the record of the f that was given does not say what --f-without says.

    `manifest`: that f's; its settings record which classes it was trained without. An f that lacks classes and comes
    without --f-without is used, and a line says what it lacks.
    """
    said, uri = experiment.data.f_without, experiment.model.f
    recorded = from_dict(Pretraining, manifest["config"]).without
    if {*recorded} == {*said}:
        return
    left_out = " ".join(map(str, sorted({*recorded})))
    if not said:
        print(f"{uri}: this f was trained without the classes {left_out}", flush=True)
        return
    wanted = " ".join(map(str, sorted({*said})))
    record = f"without the classes {left_out}" if recorded else "on all classes"
    raise UserError(
        f"--f-without {wanted}: by its record, --f {uri} was trained {record}. Choose an f that jobs/pretrain.py "
        f"--without {wanted} trained; or leave out --f, and this run trains one; or "
        + (f"say --f-without {left_out}" if recorded else "leave out --f-without")
    )


def load_domains(experiment: Experiment) -> tuple[LabelledImages, LabelledImages]:
    """s and t of an experiment, less the classes left out. Raises UserError for missing or damaged data."""
    return _less_classes(experiment, *_splits(experiment))


def _splits(experiment: Experiment) -> tuple[LabelledImages, LabelledImages]:
    chosen = experiment.data
    s = load.load(chosen.source, chosen.source_split, chosen.data_dir, download=chosen.download)
    t = load.load(chosen.target, chosen.target_split, chosen.data_dir, download=chosen.download)
    return s, t


def _less_classes(
    experiment: Experiment, s: LabelledImages, t: LabelledImages
) -> tuple[LabelledImages, LabelledImages]:
    return s.without(experiment.data.s_without), t.without(experiment.data.t_without)


def _pretrained(experiment: Experiment, run: Run, role: str, images: int) -> str:
    """The checkpoint of f or of the judge, trained under this run's folder. `images`: those of s's whole split."""
    from dtn_ray.perceptual.job import pretrain
    from dtn_ray.resumable.run import RECORD

    chosen = experiment.data
    dataset = chosen.source if role == "f" else chosen.target
    config = classifier_of(dataset, chosen, experiment.model, experiment.seed, images, judge=role == "judge")
    record = storage.join(run.storage, role, RECORD)
    if storage.exists(record):
        # Earlier versions went by the name of the split. A training that they began goes on as it began.
        before = json_files.read_object(record).get("config")
        if isinstance(before, dict) and isinstance(before.get("epochs"), float):
            config = replace(config, epochs=before["epochs"])
    return pretrain(config, replace(run, name=role)).checkpoint


DIGITS = Domain("digits", False, 64, build, read_f, prepare)
