"""FixMatch: its pseudo-labels and losses by hand, its training on Ray."""

import math
from dataclasses import replace

import adaptations
import pytest
import torch
from adaptations import lost_once, run
from files import write_classifier

from dtn_ray.baselines.fixmatch import KEPT, SMALLEST, Alignment, losses
from dtn_ray.baselines.job import adapt
from dtn_ray.baselines.loop import FixMatchTraining
from dtn_ray.baselines.options import FixMatchOptions
from dtn_ray.data.digits import load
from dtn_ray.errors import UserError
from dtn_ray.perceptual.job import pretrain
from dtn_ray.perceptual.load import load_classifier
from dtn_ray.perceptual.measure import accuracy
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.resumable.options import Run

SMALL = FixMatchOptions(
    source="street-digits", source_split="test", target_split="test", width=0.1, steps=6, batch_size=16, threshold=0.1
)


def test_answers_that_are_given_too_often_are_made_less_likely():
    logits = torch.log(torch.tensor([[0.6, 0.4], [0.8, 0.2]]))
    alignment = Alignment(2)
    first = alignment(logits)
    mean = torch.tensor([0.5, 0.5]) * KEPT + torch.tensor([0.7, 0.3]) * (1 - KEPT)
    torch.testing.assert_close(alignment.mean, mean)
    expected = torch.tensor([[0.6, 0.4], [0.8, 0.2]]) / mean
    torch.testing.assert_close(first, expected / expected.sum(1, keepdim=True))
    for _ in range(1000):
        last = alignment(logits)
    torch.testing.assert_close(last[0], torch.tensor([0.6 / 0.7, 0.4 / 0.3]) / (0.6 / 0.7 + 0.4 / 0.3))
    assert last[0].argmax() == 1, "the rarer answer wins where f is not sure"


def test_an_answer_that_is_never_given_does_not_win_at_once():
    alignment = Alignment(2)
    logits = torch.log(torch.tensor([[1 - 1e-6, 1e-6]]))
    for _ in range(5000):
        found = alignment(logits)
    assert alignment.mean[1] < SMALLEST and found[0].argmax() == 0


def test_losses_by_hand():
    of_s = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    of_t = torch.log(torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])).requires_grad_()
    targets = torch.tensor([[0.02, 0.95, 0.03], [0.8, 0.1, 0.1]])  # sure of the first alone
    L_s, L_t, sure = losses(of_s, torch.tensor([0]), of_t, targets, 0.9, 0.0)
    assert L_s.item() == pytest.approx(-math.log(0.5))
    assert L_t.item() == pytest.approx(-math.log(0.8) / 2) and sure.item() == 0.5
    L_t.backward()
    assert of_t.grad[0].any() and not of_t.grad[1].any()
    smooth = losses(of_s, torch.tensor([0]), of_t, targets, 0.9, 0.3)[0]
    assert smooth.item() == pytest.approx(-0.8 * math.log(0.5) - 0.1 * 2 * math.log(0.25))


def weights(outcome) -> dict[str, torch.Tensor]:
    return adaptations.weights(outcome, "alignment")


@pytest.fixture(scope="module")
def whole(ray_cluster, tmp_path_factory):
    return adapt(SMALL, run(tmp_path_factory.mktemp("fixmatch"), checkpoint_every=2))


def test_its_checkpoint_loads_as_a_classifier_and_has_the_accuracy_that_was_reported(whole):
    network, manifest = load_classifier(whole.folder)
    test = load.load("handwritten-digits", "test")
    assert whole.metrics["accuracy"] == pytest.approx(accuracy(network, test.images, test.labels))
    assert {"L_s", "L_t", "sure"} <= whole.metrics.keys() and whole.metrics["sure"] > 0
    assert manifest["fixmatch"]["threshold"] == 0.1 and manifest["config"]["augment"]["invert"] == 0.5
    assert weights(whole)["alignment.mean"].shape == (10,)


@pytest.mark.slow
def test_a_training_that_lost_its_worker_ends_as_an_uninterrupted_one(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("dtn_ray.baselines.job.loop", lost_once(FixMatchTraining))
    (tmp_path / "mark").touch()
    options = replace(SMALL, data_dir=str(tmp_path / "mark"))  # where the embedded digits are not read from
    again = adapt(options, run(tmp_path / "runs", checkpoint_every=2))
    assert again.metrics["resumed_at"] == 2 and not (tmp_path / "mark").exists()
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(again).items())


@pytest.mark.slow
def test_two_workers_equal_one(whole, tmp_path):
    two = adapt(SMALL, run(tmp_path, workers=2))
    for name, value in weights(two).items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_f_learns_the_target_without_its_labels(ray_cluster, tmp_path):
    """From street numbers to handwritten digits."""
    f = pretrain(Pretraining(width=0.2, epochs=15), Run(storage=str(tmp_path), name="f", cpus_per_worker=1))
    network, _ = load_classifier(f.checkpoint)
    test = load.load("handwritten-digits", "test")
    before = accuracy(network, test.images, test.labels)
    found = adapt(FixMatchOptions(f=f.checkpoint, width=0.2), run(tmp_path))
    assert found.metrics["accuracy"] > before + 0.1, (before, found.metrics)


def test_the_command_line(job):
    parsed = job("baseline").parse(["fixmatch", "--f", "F", "--threshold", "0.95", "--name", "a"])
    assert parsed.config == FixMatchOptions(f="F", threshold=0.95) and parsed.run == Run(name="a")


def test_a_network_of_another_width_is_refused(tmp_path):
    write_classifier(tmp_path / "f", Pretraining(dataset="handwritten-digits", width=0.25))
    with pytest.raises(UserError, match=r"a network of --width 0\.25, but --width 0\.1 is given"):
        adapt(replace(SMALL, f=str(tmp_path / "f")), run(tmp_path / "runs"))
