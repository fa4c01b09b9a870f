"""DANN: its gradients and schedules by hand, its training on Ray, the command line."""

import json
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import adaptations
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from adaptations import lost_once, run
from files import write_classifier
from safetensors.torch import load_file

from dtn_ray.baselines.dann import DANN, ReversedGradient, adaptation_weight, annealed, losses
from dtn_ray.baselines.job import adapt
from dtn_ray.baselines.loop import DannTraining
from dtn_ray.baselines.options import AlignmentOptions, DannOptions
from dtn_ray.checkpoints import checkpoint, optimizer_states
from dtn_ray.data.digits import load
from dtn_ray.data.digits.street_digits import street_digits
from dtn_ray.data.feed import InMemoryAdaptation
from dtn_ray.data.labelled import LabelledImages
from dtn_ray.errors import UserError
from dtn_ray.method.pixels import to_float
from dtn_ray.models.digits import DigitF
from dtn_ray.perceptual.load import load_classifier
from dtn_ray.perceptual.measure import accuracy
from dtn_ray.perceptual.options import Pretraining
from dtn_ray.resumable.options import Run

SMALL = DannOptions(
    source="handwritten-digits", source_split="train", width=0.1, steps=6, batch_size=16, lr=0.05, dropout=0.0
)


# Gradients and schedules


def test_the_gradient_is_minus_lambda_times_that_of_finite_differences():
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64)
    layers = [torch.nn.Linear(3, 4).double(), torch.nn.Linear(4, 1).double()]
    weight = layers[0].weight

    def domain_loss(reverse: float | None) -> torch.Tensor:
        features = torch.tanh(layers[0](x))
        if reverse is not None:
            features = ReversedGradient.apply(features, reverse)
        return F.softplus(layers[1](features)).mean()

    domain_loss(0.3).backward()
    of_features, of_domain = weight.grad.clone(), layers[1].weight.grad.clone()
    differences = torch.zeros_like(weight)
    with torch.no_grad():
        for i in range(weight.numel()):
            value = weight.view(-1)[i].item()
            found = []
            for shift in (1e-5, -1e-5):
                weight.view(-1)[i] = value + shift
                found.append(domain_loss(0.3).item())
            weight.view(-1)[i] = value
            differences.view(-1)[i] = (found[0] - found[1]) / 2e-5
    torch.testing.assert_close(of_features, -0.3 * differences, rtol=1e-6, atol=1e-9)
    layers[1].weight.grad = None
    domain_loss(None).backward()
    torch.testing.assert_close(of_domain, layers[1].weight.grad), "the domain classifier itself learns at full rate"


def test_the_reversal_passes_values_as_they_are():
    x = torch.randn(4, 2)
    assert torch.equal(ReversedGradient.apply(x, 0.7), x)


def test_the_schedules_by_hand():
    assert adaptation_weight(0.0, 10.0) == 0.0
    assert adaptation_weight(0.1, 10.0) == pytest.approx(math.tanh(0.5))  # 2 / (1 + e^-x) - 1 is tanh(x/2)
    assert adaptation_weight(1.0, 10.0) == pytest.approx(0.9999092)
    assert {adaptation_weight(p, 0.0) for p in (0.0, 0.5, 1.0)} == {0.0}
    assert annealed(0.01, 0.0) == 0.01
    assert annealed(0.01, 0.5) == pytest.approx(0.01 / 6**0.75)
    assert annealed(0.01, 1.0) == pytest.approx(0.001655, rel=1e-3)


def small_dann() -> DANN:
    torch.manual_seed(1)
    return DANN(DigitF(width=0.05), width=0.02)


def test_lambda_weighs_the_reversed_gradient_of_f_alone():
    x = torch.rand(4, 3, 32, 32) * 2 - 1, torch.rand(3, 1, 32, 32) * 2 - 1
    labels = torch.tensor([0, 3, 9, 3])
    found = {}
    for weight in (0.0, 0.5, 1.0):
        dann = small_dann()
        L_y, L_d = losses(*dann(*x, weight), labels)
        (L_y + L_d).backward()
        found[weight] = [dann.f.layers[0].weight.grad, dann.domain[0].weight.grad, dann.f.classifier[2].weight.grad]
    dann = small_dann()
    losses(*dann(*x, 0.0), labels)[0].backward()
    torch.testing.assert_close(found[0.0][0], dann.f.layers[0].weight.grad)  # λ = 0: labels alone
    torch.testing.assert_close(found[0.5][0], (found[0.0][0] + found[1.0][0]) / 2)
    assert not torch.allclose(found[1.0][0], found[0.0][0])
    for i in (1, 2):
        assert torch.equal(found[0.0][i], found[1.0][i]) and found[0.0][i].any()


def test_losses_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    domain = torch.tensor([0.0, math.log(3), math.log(3), 0.0])  # D(x) = 1/2, 3/4, 3/4, 1/2
    L_y, L_d = losses(logits, domain, torch.tensor([0, 1]))
    assert L_y.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    assert L_d.item() == pytest.approx(-(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 4) + math.log(1 / 2)) / 4)


def test_grayscale_and_colour_give_the_same():
    dann, grey = small_dann(), torch.rand(3, 1, 32, 32) * 2 - 1
    for first, second in zip(dann(grey, grey, 1.0), dann(grey.expand(-1, 3, -1, -1), grey, 1.0), strict=True):
        assert torch.equal(first, second)


def test_the_domain_classifier_tells_the_domains_apart_unless_its_gradient_is_reversed():
    images, labels = street_digits(256, seed=5)
    s, of_s = to_float(images), torch.from_numpy(labels)
    t = to_float(load.load("handwritten-digits", "train").images[:256])

    def domain_loss(gamma: float) -> float:
        torch.manual_seed(0)
        dann = DANN(DigitF(width=0.1), width=0.05)
        optimizer = torch.optim.SGD(dann.parameters(), 0.05, 0.9)
        for step in range(120):
            i, j = torch.randint(256, (2, 32))
            optimizer.zero_grad()
            sum(losses(*dann(s[i], t[j], adaptation_weight(step / 120, gamma)), of_s[i])).backward()
            optimizer.step()
        with torch.no_grad():
            return losses(*dann(s, t, 1.0), of_s)[1].item()

    assert domain_loss(0.0) < 0.5 < 0.65 < domain_loss(10.0)  # ln 2 = 0.69: a guess


# Data


def test_the_feed_gives_source_labels_and_as_many_target_images_of_each_share():
    source = LabelledImages(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10) + 100)
    feed = InMemoryAdaptation(source, np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1))
    whole = list(islice(feed.batches([], 0, 1, 4, seed=3), 6))
    s = np.concatenate([batch[0].ravel() for batch in whole])
    assert all((batch[1] == batch[0].ravel() + 100).all() for batch in whole)
    assert sorted(s[:10]) == [*range(10)] and sorted(np.concatenate([batch[2].ravel() for batch in whole])[:6]) == [
        *range(6)
    ]
    later = list(islice(feed.batches([(1, 2), (2, 1)], 1, 2, 4, seed=3), 3))
    for batch, same in zip(later, whole[3:], strict=True):
        assert all((ours == theirs[2:]).all() for ours, theirs in zip(batch, same, strict=True))


# The training


def weights(outcome) -> dict[str, torch.Tensor]:
    return adaptations.weights(outcome, "domain_classifier")


@pytest.fixture(scope="module")
def whole(ray_cluster, tmp_path_factory):
    return adapt(SMALL, run(tmp_path_factory.mktemp("dann"), checkpoint_every=2))


def test_its_checkpoint_loads_as_a_classifier_and_has_the_accuracy_that_was_reported(whole):
    network, manifest = load_classifier(whole.folder)
    test = load.load("handwritten-digits", "test")
    assert whole.metrics["accuracy"] == pytest.approx(accuracy(network, test.images, test.labels))
    assert whole.metrics["test_error"] == pytest.approx(1 - whole.metrics["accuracy"])  # source and target are one here
    low, high = whole.metrics["accuracy_95"]
    assert low < whole.metrics["accuracy"] < high and whole.metrics["images"] == len(test)
    assert whole.metrics["step"] == 6 and {"L_y", "L_d"} <= whole.metrics.keys()
    assert whole.metrics["lambda"] == pytest.approx(adaptation_weight(5 / 6, 10.0))
    assert manifest["dann"]["gamma"] == 10.0 and manifest["config"]["width"] == 0.1
    assert weights(whole)["domain_classifier.0.weight"].shape == (102, 13)  # 1024 and 128 filters at a tenth


def test_the_same_call_does_not_train_again_and_another_is_refused(whole):
    again = adapt(SMALL, run(Path(whole.folder).parent))
    assert again.resumed and again.metrics == whole.metrics
    with pytest.raises(UserError, match=r"other settings \(config.gamma: 10.0 → 0.0\)"):
        adapt(replace(SMALL, gamma=0.0), run(Path(whole.folder).parent))


@pytest.mark.slow
def test_a_training_that_lost_its_worker_ends_as_an_uninterrupted_one(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("dtn_ray.baselines.job.loop", lost_once(DannTraining))
    (tmp_path / "mark").touch()
    options = replace(SMALL, data_dir=str(tmp_path / "mark"))  # where the embedded digits are not read from
    again = adapt(options, run(tmp_path / "runs", checkpoint_every=2))
    assert again.metrics["resumed_at"] == 2 and not (tmp_path / "mark").exists()
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(again).items())


@pytest.mark.slow
def test_it_begins_with_the_classifier_that_is_given(whole, tmp_path):
    begun = adapt(replace(SMALL, f=whole.folder, steps=1, lr=1e-9), run(tmp_path))
    assert begun.metrics["accuracy"] == whole.metrics["accuracy"]
    for name, value in load_file(Path(begun.checkpoint, "classifier.safetensors")).items():
        torch.testing.assert_close(value, weights(whole)[f"classifier.{name}"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_two_workers_equal_one(whole, tmp_path):
    two = adapt(SMALL, run(tmp_path, workers=2))
    for name, value in weights(two).items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1"),
        ({"batch_size": 15}, "--batch-size 15 cannot be divided evenly among --workers 2"),
        ({"momentum": 1.0}, "momentum"),
        ({"target": "nope"}, "unknown dataset 'nope'"),
        ({"target_split": "extra"}, "no split 'extra'"),
        ({"f": "{tmp}/gone"}, "gone: no checkpoint here"),
        ({"f": "{tmp}/f"}, r"--f .*/f: a network of --width 0\.25, but --width 0\.1 is given"),
        ({"source": "svhn"}, "svhn is read from files: .*--data-dir"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, values, message):
    write_classifier(tmp_path / "f", Pretraining(dataset="handwritten-digits", width=0.25))
    values = {name: value.format(tmp=tmp_path) if name == "f" else value for name, value in values.items()}
    with pytest.raises(UserError, match=message):
        adapt(replace(SMALL, **values), run(tmp_path / "runs", workers=2))
    assert not (tmp_path / "runs").exists()


# SGD's state in a checkpoint


def sgd() -> tuple[torch.nn.Linear, torch.optim.SGD]:
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return network, optimizer


def test_the_momentum_is_kept(tmp_path):
    _, optimizer = sgd()
    checkpoint.save_optimizers(tmp_path, {"dann": optimizer})
    _, other = sgd()
    other.state.clear()
    checkpoint.load_optimizers(tmp_path, {"dann": other})
    buffers = [state["momentum_buffer"] for state in other.state.values()]
    assert len(buffers) == 2 and all(torch.equal(buffer, torch.ones_like(buffer)) for buffer in buffers)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("momentum_buffer", torch.ones(4), "momentum_buffer must be a tensor of shape"),
        ("momentum_buffer", torch.full((2, 3), float("nan")), "not finite"),
        ("exp_avg", torch.ones(2, 3), "needs momentum_buffer"),
    ],
)
def test_states_that_are_not_sgds_are_refused(tmp_path, name, value, message):
    _, optimizer = sgd()
    state = optimizer.state_dict()
    state["state"][0][name] = value
    torch.save({"dann": state}, tmp_path / "optimizers.pt")
    with pytest.raises(UserError, match=message):
        optimizer_states.read(tmp_path / "optimizers.pt", {"dann": optimizer})


def test_states_of_another_optimiser_are_refused(tmp_path):
    network, optimizer = sgd()
    adam = torch.optim.Adam(network.parameters())
    adam.step()
    checkpoint.save_optimizers(tmp_path, {"dann": adam})
    with pytest.raises(UserError, match="needs momentum_buffer"):
        checkpoint.load_optimizers(tmp_path, {"dann": optimizer})


# The command line


def test_the_command_line(job):
    parse = job("baseline").parse
    dann = parse(
        ["dann", "--source", "svhn", "--data-dir", "D", "--gamma", "0", "--augment.invert", ".5", "--name", "a"]
    )
    default = DannOptions()
    assert dann.config == replace(
        default, source="svhn", data_dir="D", gamma=0.0, augment=replace(default.augment, invert=0.5)
    )
    assert dann.run == Run(name="a")
    assert parse(["sa", "--f", "F", "--dimensions", "8", "9"]) == AlignmentOptions(f="F", dimensions=(8, 9))


def test_the_command_runs_sa_and_prints_its_accuracy(call, tmp_path):
    code, out, err = call(
        f"baseline sa --source handwritten-digits --source-split train --dimensions 30 --out {tmp_path}/o"
    )
    assert (code, err) == (0, "")
    result = json.loads(out[out.index("{") :])
    assert result == json.loads((tmp_path / "o/scores.json").read_text()) and result["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("baseline", "dann"),
        ("baseline nope", "nope"),
        ("baseline dann --bogus 3", "--bogus"),
        ("baseline sa --classifier best", "best"),
        ("baseline dann --source svhn", "svhn is read from files"),
        ("baseline sa --source handwritten-digits --target mnist", "mnist is read from files"),
    ],
)
def test_bad_command_lines_exit_2(call, line, message):
    code, out, err = call(line)
    assert code == 2 and message in out + err and "Traceback" not in err
