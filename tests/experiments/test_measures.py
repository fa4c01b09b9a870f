"""Measurements of checkpoints, against the same worked out from their networks directly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from files import SMALL, write_classifier, write_dtn

from dtn_ray.data.digits.load import load
from dtn_ray.errors import UserError
from dtn_ray.experiments import measures
from dtn_ray.method.pixels import to_float, to_uint8
from dtn_ray.perceptual.load import load_classifier
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.train.options import DataConfig
from dtn_ray.train.trained import load_trained

WRITTEN = DataConfig(source="handwritten-digits", target="handwritten-digits")
T = ("handwritten-digits", "test", None)
S = ("handwritten-digits", "train", None)


@pytest.fixture(scope="module")
def dtn(tmp_path_factory) -> str:
    return write_dtn(tmp_path_factory.mktemp("dtn"), replace(SMALL, data=WRITTEN))


@pytest.fixture(scope="module")
def f(tmp_path_factory) -> str:
    return write_classifier(tmp_path_factory.mktemp("f"), Pretraining(dataset="handwritten-digits", width=0.15))[0]


@torch.no_grad()
def G(dtn: str, images: np.ndarray) -> np.ndarray:
    return to_uint8(load_trained(dtn).dtn.G(to_float(images))).numpy()


def test_a_nearest_neighbour_in_G_of_s_has_its_label(dtn):
    s, t = load(*S), load(*T)
    gallery = G(dtn, s.images).reshape(len(s), -1).astype(np.int64)
    queries = t.images.reshape(len(t), -1).astype(np.int64)
    distances = (gallery**2).sum(1) - 2 * queries @ gallery.T
    found = measures.neighbours(dtn, *S, *T).values
    assert found["accuracy"] == pytest.approx((s.labels[distances.argmin(1)] == t.labels).mean(), abs=2 / len(t))
    assert (found["images"], found["gallery"]) == (len(t), len(s))


@torch.no_grad()
def test_one_digit_has_its_accuracy_and_probabilities_by_the_judge(dtn):
    trained, s = load_trained(dtn), load(*T)
    threes = s.images[s.labels == 3]
    probabilities = trained.judge(to_float(G(dtn, threes))).softmax(1)
    found = measures.digit(dtn, 3, "test")
    assert found.values["accuracy"] == pytest.approx((probabilities.argmax(1) == 3).float().mean().item())
    assert found.values["images"] == len(threes)
    shown = min(measures.SHOWN, len(threes))
    assert found.pictures["x"].shape == found.pictures["G_x"].shape == (3, 32, 32 * shown)
    # Whichever were drawn, picture and probability are of the same image.
    drawn = G(dtn, threes)
    for i in (0, shown - 1):
        here = [
            j for j, image in enumerate(threes) if (found.pictures["x"][0, :, 32 * i : 32 * i + 32] == image[0]).all()
        ]
        assert len(here) == 1
        assert found.values["probabilities"][i] == pytest.approx(probabilities[here[0], 3].item(), abs=1e-5)
        assert (found.pictures["G_x"][0, :, 32 * i : 32 * i + 32] == drawn[here[0], 0]).all()


def test_figure_3_shows_the_same_images_of_each_dtn(dtn, tmp_path):
    other = write_dtn(tmp_path, replace(SMALL, data=replace(WRITTEN, t_without=(3,))))
    one, two = measures.digit(dtn, 3, "test"), measures.digit(other, 3, "test")
    np.testing.assert_array_equal(one.pictures["x"], two.pictures["x"])


def test_a_dtn_is_scored_as_evaluate_does_and_shows_what_it_scored(dtn):
    found = measures.transfer(dtn, "test")
    assert found.values["images"] == len(load(*T)) and found.values["step"] == 12
    first = found.pictures["x"][:, :, :32]
    np.testing.assert_array_equal(G(dtn, first[None, :1])[0, 0], found.pictures["G_x"][0, :, :32])
    assert found.pictures["pairs"].shape == (3, 64, 32 * measures.PAIRS)


@torch.no_grad()
def test_a_classifier_is_scored_on_a_split(f):
    network, _ = load_classifier(f)
    t = load(*T)
    expected = (network(to_float(t.images)).argmax(1).numpy() == t.labels).mean()
    found = measures.classifier(f, *T).values
    low, high = found.pop("accuracy_95")
    assert found == {"accuracy": pytest.approx(expected), "images": len(t)} and 0 < low < expected < high < 1


def test_features_aligned_with_themselves_are_classified_well(f):
    values = measures.aligned(f, *S, *T, dimensions=10).values
    assert values["accuracy"] > 0.3, "one domain; but f is small and has learnt nothing"
    assert (values["images"], values["source_images"], values["dimensions"]) == (898, 899, 10)


def test_a_digit_that_is_not_there_is_named(dtn):
    with pytest.raises(UserError, match="handwritten-digits test: holds no image of the digit 11"):
        measures.digit(dtn, 11, "test")


def test_a_dtn_without_a_judge_is_named(tmp_path):
    dtn = write_dtn(tmp_path, replace(SMALL, data=WRITTEN), judge=False)
    with pytest.raises(UserError, match="holds no judge"):
        measures.digit(dtn, 3, "test")
