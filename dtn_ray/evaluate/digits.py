"""The measurements of Sec. 5.1 for a digit DTN, mainly Table 1: the judge's accuracy on G(x), for x in s's test set."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor

from dtn_ray.data.digits import load
from dtn_ray.errors import UserError
from dtn_ray.evaluate.seen import Images, trained_on, unseen
from dtn_ray.method import losses
from dtn_ray.method.dtn import DTN
from dtn_ray.method.pixels import in_batches, to_uint8
from dtn_ray.perceptual.measure import accuracy, predict, score
from dtn_ray.train.trained import Trained

# The paper's values, reported beside our measurements.
PAPER = {
    "accuracy": 0.9066,
    "original_image_accuracy": 0.4006,
    "judge_accuracy": 0.994,
    "f_error_on_s": 0.0495,
    "f_accuracy_on_t": 0.7608,
}


@dataclass(frozen=True)
class DigitScores:
    """Scores of one DTN: plain values for JSON, and the data of the figures."""

    values: dict[str, Any]
    confusion: np.ndarray
    """10×10 counts: a row for each label of x, a column for each prediction of the judge on G(x)."""
    source: np.ndarray
    """N×C×32×32 uint8: x."""
    transferred: np.ndarray
    """N×C×32×32 uint8: G(x)."""


def score_digits(
    trained: Trained,
    data_dir: str | None = None,
    source_file: str | None = None,
    batch_size: int = 500,
    device: str = "cpu",
) -> DigitScores:
    """Scores a digit DTN on the test split of s, or on `source_file` (a .mat in SVHN's format).

    `data_dir` stands in for the checkpoint's. L_TID is taken on another split of t's dataset than G was trained on, and
    the judge's accuracy on t, or on another split where the judge was trained on t. `scored_on` names the splits;
    `seen_in_training` names each score that is taken on images which training saw, and why (dtn_ray/evaluate/seen.py).
    Raises UserError where the checkpoint holds no judge, or the data is missing or damaged.
    """
    if trained.judge is None:
        raise UserError("this checkpoint holds no judge, so its accuracy cannot be measured: train with --judge")
    chosen = trained.experiment.data
    folder = data_dir or chosen.data_dir
    if source_file is not None and chosen.source != "svhn":
        raise UserError(f"--source-file reads SVHN's .mat files, but this DTN's s is {chosen.source}")
    if source_file is not None and not source_file.endswith(".mat"):
        raise UserError(f"--source-file {source_file}: not a .mat file")

    # The images to score on.
    known = trained_on(trained)
    of_t = Images(chosen.target, chosen.target_split, folder)
    others = [Images(chosen.target, split, folder) for split in ("train", "test")]
    scored, judged = Images(chosen.source, source_file or "test", folder), unseen([of_t, *others], known.judge)
    beside_t = unseen(others if chosen.target_split == "test" else others[::-1], known.t)
    s, t, t_judged, t_unseen = (
        load.load(each.dataset, each.split, folder) for each in (scored, of_t, judged, beside_t)
    )
    dtn, judge = trained.dtn.to(device), trained.judge.to(device)

    transferred = to_uint8(in_batches(dtn.G, s.images, batch_size, device)).numpy()
    predicted = predict(judge, transferred, batch_size)
    confusion = confusion_matrix(s.labels, predicted, labels=range(10))
    per_class = confusion.diagonal() / np.maximum(confusion.sum(1), 1)
    f_classifier = dtn.f.network
    values = {
        **score(predicted, s.labels),
        "original_image_accuracy": accuracy(judge, s.images, s.labels, batch_size),
        "judge_accuracy": accuracy(judge, t_judged.images, t_judged.labels, batch_size),
        "f_error_on_s": 1 - accuracy(f_classifier, s.images, s.labels, batch_size),
        "f_accuracy_on_t": accuracy(f_classifier, t.images, t.labels, batch_size),
        "f_accuracy_on_G_s": accuracy(f_classifier, transferred, s.labels, batch_size),
        "L_const": _l_const(dtn, s.images, batch_size, device),
        "L_tid": _l_tid(dtn, t_unseen.images[:2000], batch_size, device),
        "per_class_accuracy": {str(digit): float(per_class[digit]) for digit in range(10) if confusion[digit].sum()},
        "confusion": confusion.tolist(),
        "scored_on": {"accuracy": scored.split, "judge_accuracy": judged.split, "L_tid": beside_t.split},
        "seen_in_training": known.reasons(scored, of_t, judged, beside_t),
        "paper": PAPER if chosen.source == "svhn" and chosen.target == "mnist" else None,
    }
    return DigitScores(values, confusion, s.images, transferred)


def _l_const(dtn: DTN, images: np.ndarray, batch_size: int, device: str) -> float:
    def per_image(x: Tensor) -> Tensor:
        return (dtn.f(x) - dtn.f(dtn.G(x), True)).square().mean(1)

    return in_batches(per_image, images, batch_size, device).mean().item()


def _l_tid(dtn: DTN, images: np.ndarray, batch_size: int, device: str) -> float:
    def per_image(x: Tensor) -> Tensor:
        return torch.stack([losses.L_tid(image, other) for image, other in zip(x, dtn.G(x, True), strict=True)])

    return in_batches(per_image, images, batch_size, device).mean().item()
