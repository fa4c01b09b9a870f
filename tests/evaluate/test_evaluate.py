"""Scores of a trained DTN, against those worked out by hand."""

import json
import math

import numpy as np
import pytest
import torch
from files import write_mat, write_mnist
from PIL import Image
from torch import nn

from dtn_ray.errors import UserError
from dtn_ray.evaluate.digits import PAPER, score_digits
from dtn_ray.method.dtn import DTN
from dtn_ray.method.features import FrozenF
from dtn_ray.train.options import DataConfig, Experiment
from dtn_ray.train.trained import Trained, load_trained


class Mean(nn.Module):
    """An f of one feature, the mean of an image in [-1, 1], with a classifier of the ten levels that `level` gives."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def represent(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(1, 2, 3))[:, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = (25 * torch.arange(10) + 15) / 127.5 - 1
        return -(self.sign * self.represent(x) - levels).abs()


class Negative(nn.Module):
    """A g that paints the negative of the mean: G turns gray level v into 255 - v."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return -features[:, :, None, None].expand(-1, 1, 32, 32)


def inverter(data: DataConfig) -> Trained:
    """A DTN whose scores can be worked out by hand: the judge reads digit k from gray level 25k + 15."""
    dtn = DTN(FrozenF(Mean(-1)), Negative(), nn.Identity())
    return Trained(dtn.eval(), Mean(1), Experiment(data=data), {})  # type: ignore[arg-type]


LABELS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 5]
# What the judge reads on G(x): it takes the 9, the second 0 and the second 5 for others.
READ = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1, 4]
GRAYS = np.array([255 - (25 * digit + 15) for digit in READ], np.uint8)


@pytest.fixture
def scored(tmp_path):
    """s as an SVHN test split; t's test split reads 3, 5, 6 with labels 3, 5, 3; t's train split is gray."""
    s = np.broadcast_to(GRAYS, (32, 32, 3, 12)).copy()
    write_mat(tmp_path / "svhn/test_32x32.mat", LABELS, s)
    t = np.array([25 * digit + 15 for digit in (3, 5, 6)], np.uint8)
    write_mnist(tmp_path, [3, 5, 3], images=np.broadcast_to(t[:, None, None], (3, 28, 28)))
    write_mnist(tmp_path, [0, 0], part="train", images=np.full((2, 28, 28), 200, np.uint8))
    return tmp_path


def test_scores_equal_those_worked_out_by_hand(scored):
    scores = score_digits(inverter(DataConfig(source="svhn", target="mnist", data_dir=str(scored))))
    values = scores.values
    assert values["images"] == 12
    assert values["accuracy"] == pytest.approx(9 / 12)
    assert values["judge_accuracy"] == pytest.approx(2 / 3)
    # On x itself the judge reads 9 - k where it reads k on G(x): of the second 5, which G turns into a 4, a 5.
    assert values["original_image_accuracy"] == values["f_accuracy_on_G_s"] == pytest.approx(1 / 12)
    assert values["f_error_on_s"] == pytest.approx(3 / 12)
    # f reads 9 - k on t: 6, 4, 3.
    assert values["f_accuracy_on_t"] == pytest.approx(1 / 3)
    # f(x) = m and f(G(x)) = -m.
    means = GRAYS / 127.5 - 1
    assert values["L_const"] == pytest.approx(np.mean(4 * means**2), rel=1e-5)
    # t's train split is evenly gray, and G paints the negative.
    assert values["L_tid"] == pytest.approx((2 * (200 / 127.5 - 1)) ** 2, rel=1e-5)
    assert values["paper"] == PAPER


def test_the_confusion_matrix_counts_labels_against_the_judges_answers(scored):
    scores = score_digits(inverter(DataConfig(source="svhn", target="mnist", data_dir=str(scored))))
    expected = np.zeros((10, 10), int)
    for label, read in zip(LABELS, READ, strict=True):
        expected[label % 10, read] += 1
    assert expected[9, 8] == expected[0, 1] == expected[5, 4] == 1
    np.testing.assert_array_equal(scores.confusion, expected)
    assert scores.values["confusion"] == expected.tolist()
    assert scores.values["per_class_accuracy"] == {str(k): {0: 0.5, 5: 0.5, 9: 0.0}.get(k, 1.0) for k in range(10)}


def test_the_interval_is_wilsons(scored):
    low, high = score_digits(inverter(DataConfig("svhn", "mnist", str(scored)))).values["accuracy_95"]
    n, p, z = 12, 9 / 12, 1.959964
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert low == pytest.approx((middle - half) / (1 + z**2 / n), rel=1e-5)
    assert high == pytest.approx((middle + half) / (1 + z**2 / n), rel=1e-5)


def test_G_of_s_is_kept_beside_it_for_the_figure(scored):
    scores = score_digits(inverter(DataConfig("svhn", "mnist", str(scored))))
    assert scores.source.shape == (12, 3, 32, 32) and scores.transferred.shape == (12, 1, 32, 32)
    assert scores.transferred[:, 0, 9, 9].tolist() == [25 * digit + 15 for digit in READ]


def test_scores_do_not_depend_on_the_batch_size(scored):
    trained = inverter(DataConfig("svhn", "mnist", str(scored)))
    whole, parts = score_digits(trained).values, score_digits(trained, batch_size=5).values
    losses = {"L_const": pytest.approx(whole["L_const"]), "L_tid": pytest.approx(whole["L_tid"])}
    assert parts == whole | losses


def test_data_dir_stands_in_for_the_one_trained_with(scored):
    trained = inverter(DataConfig("svhn", "mnist", data_dir="/gone"))
    assert score_digits(trained, str(scored)).values["images"] == 12
    with pytest.raises(UserError, match=r"/gone/svhn/test_32x32\.mat: no such file"):
        score_digits(trained)


def test_an_unseen_mat_file_is_scored_in_place_of_the_test_split(tmp_path):
    grays = np.broadcast_to(GRAYS[:3], (32, 32, 3, 3)).copy()
    path = write_mat(tmp_path / "unseen.mat", [10, 1, 3], grays)
    values = score_digits(inverter(DataConfig("svhn", "handwritten-digits")), source_file=path).values
    assert values["images"] == 3 and values["accuracy"] == pytest.approx(2 / 3)
    assert values["per_class_accuracy"] == {"0": 1.0, "1": 1.0, "3": 0.0}
    assert values["paper"] is None, "the paper's numbers are for SVHN → MNIST"


def test_L_tid_is_taken_on_the_split_of_t_that_training_did_not_see(tmp_path):
    path = write_mat(tmp_path / "unseen.mat", [1], np.zeros((32, 32, 3, 1), np.uint8))
    values = {
        split: score_digits(inverter(DataConfig("svhn", "handwritten-digits", target_split=split)), None, path).values
        for split in ("train", "test")
    }
    assert values["train"]["L_tid"] != values["test"]["L_tid"]
    other = score_digits(inverter(DataConfig("handwritten-digits", "handwritten-digits", target_split="test")))
    assert values["test"]["L_tid"] == pytest.approx(other.values["L_tid"])


def test_evaluate_leaves_scores_and_a_figure(call, made, tmp_path):
    code, out, _ = call(f"evaluate {made}/dtn --source-file {made}/unseen.mat --out {tmp_path}/scores")
    printed = json.loads(out)
    written = json.loads((tmp_path / "scores/scores.json").read_text())
    assert code == 0 and printed == written | {"figure": f"{tmp_path}/scores/scores.png"}
    assert written["checkpoint"] == f"{made}/dtn" and written["weights"] == "convert"
    scores = score_digits(load_trained(f"{made}/dtn"), source_file=f"{made}/unseen.mat")
    assert {name: written[name] for name in scores.values} == json.loads(json.dumps(scores.values))
    assert written["images"] == 20 and np.sum(written["confusion"]) == 20
    assert np.asarray(Image.open(tmp_path / "scores/scores.png").convert("L")).std() > 10


def test_evaluate_of_g_scores_other_weights(call, made, tmp_path):
    constants = set()
    for weights in ("g", "convert"):
        _, out, _ = call(f"evaluate {made}/dtn --source-file {made}/unseen.mat --weights {weights} --out {tmp_path}")
        constants.add(json.loads(out)["L_const"])
    assert len(constants) == 2
