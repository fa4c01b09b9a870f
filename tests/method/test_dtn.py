"""The training step: which weights each loss reaches, and what one update does."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from dtn_ray.method.dtn import DTN, DTNTrainer, collapse_warning, ema_with_warm_up, recalibrate
from dtn_ray.method.features import FrozenF, moments, transport
from dtn_ray.method.losses import R_1
from dtn_ray.method.options import Augment, LossConfig, OptimConfig
from dtn_ray.models.digits import DigitD, DigitF, DigitG


def make(**options) -> DTN:
    torch.manual_seed(0)
    f = DigitF(width=0.1)
    return DTN(FrozenF(f), DigitG(f.features, width=0.05), DigitD(width=0.1), **options)


def batches(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1, torch.rand(
        count, 1, 32, 32, generator=generator
    ) * 2 - 1


def changed(before: dict, after: dict) -> bool:
    return any(not torch.equal(before[name], after[name]) for name in before)


def weights(network) -> dict:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


@pytest.mark.parametrize(
    ("loss", "moves_g"),
    [
        (LossConfig(alpha=0, beta=0, gamma=0, gan=0), False),
        (LossConfig(alpha=1, beta=0, gamma=0, gan=0), True),
        (LossConfig(alpha=0, beta=1, gamma=0, gan=0), True),
        (LossConfig(alpha=0, beta=0, gamma=1, gan=0), True),
        (LossConfig(alpha=0, beta=0, gamma=0, gan=1), True),
    ],
    ids=["none", "L_const", "L_tid", "L_tv", "L_gan_g"],
)
def test_each_term_of_L_G_reaches_g_and_never_f(loss, moves_g):
    dtn = make()
    f, g, D = weights(dtn.f), weights(dtn.g), weights(dtn.D)
    DTNTrainer(dtn, loss, OptimConfig()).step(*batches(), 0)
    assert changed(g, weights(dtn.g)) is moves_g
    assert not changed(f, weights(dtn.f))
    assert changed(D, weights(dtn.D)) is bool(loss.gan)


def test_gradients_flow_through_f_to_its_input_but_not_into_its_weights():
    f = make().f
    x = batches()[0].requires_grad_()
    f(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in f.parameters())


def test_f_stays_in_eval_mode_when_the_dtn_trains():
    dtn = make().train()
    assert dtn.g.training and not dtn.f.training and not dtn.f.network.training


def test_D_is_updated_without_a_gradient_for_g():
    dtn = make()
    trainer = DTNTrainer(dtn, LossConfig(), OptimConfig())
    s, t = batches()
    images = [dtn.G(s), dtn.G(t)]
    trainer._update_D([image.detach() for image in images], t, step=1)
    assert all(parameter.grad is None for parameter in dtn.g.parameters())
    assert any(parameter.grad is not None for parameter in dtn.D.parameters())


def test_updating_g_leaves_no_gradient_in_D():
    dtn = make()
    trainer = DTNTrainer(dtn, LossConfig(), OptimConfig())
    s, t = batches()
    terms = trainer._terms_of_L_G([dtn.G(s), dtn.G(t)], dtn.f(s), t)
    terms["L_gan_g"].backward()
    assert all(parameter.grad is None for parameter in dtn.D.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in dtn.g.parameters())
    assert all(parameter.requires_grad for parameter in dtn.D.parameters())


def test_the_step_weighs_the_terms_by_alpha_beta_gamma():
    dtn = make()
    loss = LossConfig(alpha=2, beta=3, gamma=5)
    m = DTNTrainer(dtn, loss, OptimConfig()).step(*batches(), 0)
    expected = m["L_gan_g"] + 2 * m["L_const"] + 3 * m["L_tid"] + 5 * m["L_tv"]
    assert m["L_g"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_baseline_and_second_gan_train():
    binary = make(binary=True)
    binary.D = DigitD(classes=1, width=0.1)
    metrics = DTNTrainer(binary, LossConfig(beta=0), OptimConfig()).step(*batches(), 0)
    assert "L_tid" not in metrics
    second = make(D2=DigitD(channels=2, classes=1, width=0.1))
    before = weights(second.D2)
    metrics = DTNTrainer(second, LossConfig(d2="gan"), OptimConfig()).step(*batches(), 0)
    assert changed(before, weights(second.D2)) and "L_d2" in metrics


def test_ema_follows_g_and_equals_a_hand_computed_average():
    dtn = make()
    trainer = DTNTrainer(dtn, LossConfig(), OptimConfig(ema_decay=0.999))
    values = []
    for step in range(3):
        trainer.step(*batches(), step)
        values.append(copy.deepcopy(next(dtn.g.parameters()).detach()))
    expected = (values[0] + 2 * values[1] + 3 * values[2]) / 6
    torch.testing.assert_close(next(trainer.ema.module.parameters()), expected)


def test_ema_counts_the_newest_weights_one_minus_decay_once_the_warm_up_is_over():
    average = ema_with_warm_up(0.9)
    assert average(torch.tensor(0.0), torch.tensor(1.0), 8).item() == pytest.approx(0.2)
    assert average(torch.tensor(0.0), torch.tensor(1.0), 500).item() == pytest.approx(0.1)


def test_learning_rate_falls_by_the_schedule():
    rates = [OptimConfig(steps=10, schedule="linear").rate(step) for step in (0, 5, 10)]
    assert rates == pytest.approx([1, 0.5, 0])
    assert OptimConfig(steps=10, schedule="cosine").rate(5) == pytest.approx(0.5)
    assert OptimConfig(steps=10).rate(9) == 1


def test_feature_scale_gives_unit_variance():
    x, _ = batches(64)
    f = DigitF(width=0.1).eval()
    scaled = FrozenF(f, moments(f, x.split(7)).scale)(x)
    assert scaled.var(dim=0).mean().item() == pytest.approx(1, rel=1e-4)


def test_recalibrated_batch_norm_has_the_statistics_of_its_inputs():
    g = make().g
    features = torch.randn(100, 13) * 3 + 1
    recalibrate(g, features)
    first = g.layers[0](features[:, :, None, None])
    torch.testing.assert_close(g.layers[1].running_mean, first.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_each_input_counts_the_same_in_the_recalibrated_statistics():
    g = nn.Sequential(nn.BatchNorm1d(1, momentum=0.3))
    inputs = torch.tensor([[0.0], [2.0], [4.0], [6.0], [8.0], [40.0], [44.0]])
    recalibrate(g, inputs, batch_size=5)  # in batches of 4 and 3
    # By hand: 104 / 7. Were the batches 5 and 2 and counted alike, as torch's update_bn does, it would be 23.
    assert g[0].running_mean.item() == pytest.approx(104 / 7)
    # The batches' variances are 20 / 3 and (22.667² + 9.333² + 13.333²) / 2 = 1168 / 3, weighed by 4 and 3.
    assert g[0].running_var.item() == pytest.approx((4 * 20 / 3 + 3 * 1168 / 3) / 7)
    assert g[0].momentum == 0.3 and g.training
    g.eval()
    recalibrate(g, inputs, batch_size=7)
    assert g[0].running_mean.item() == pytest.approx(104 / 7) and not g.training


def test_collapse_is_named_only_where_both_losses_sit_at_chance():
    assert "D has collapsed" in collapse_warning(3.296, 2.197)
    assert collapse_warning(0.5, 7.0) is None


def test_a_D_that_has_just_begun_has_not_collapsed():
    loss = LossConfig(warm_up=50)
    assert collapse_warning(3.296, 2.197, loss.D_has_rested(99)) is None
    assert "D has collapsed" in collapse_warning(3.296, 2.197, loss.D_has_rested(100))
    assert not LossConfig().D_has_rested(0)


def test_networks_have_the_shapes_of_sec_5_1():
    f, g, D = DigitF(), DigitG(), DigitD()
    x = torch.zeros(2, 3, 32, 32)
    assert [layer.out_channels for layer in f.layers if hasattr(layer, "out_channels")] == [64, 128, 256, 128]
    assert f.represent(x).shape == (2, 128) and f(x).shape == (2, 10)
    assert f.represent(x[:, :1]).shape == (2, 128)
    assert (f.represent(torch.randn(8, 3, 32, 32)) < 0).any(), "the representation is taken before the ReLU"
    image = g(torch.randn(2, 128) * 50)
    assert image.shape == (2, 1, 32, 32) and image.abs().max() <= 1
    assert D(image).shape == (2, 3)
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in D.layers) == 4


class Flat(nn.Module):
    """A stand-in for f: its features are an image's channel means."""

    features = 3

    def represent(self, x):
        return x.mean((2, 3))


def test_each_domain_has_its_own_mean_and_scale():
    torch.manual_seed(0)
    s, t = torch.rand(50, 3, 4, 4) * 0.2 + 0.5, torch.rand(50, 3, 4, 4) * 0.1 - 0.8
    f = FrozenF(Flat(), domains=(moments(Flat(), s.split(10)), moments(Flat(), [t])))
    for images, of_t in ((s, False), (t, True)):
        features = f(images, of_t)
        torch.testing.assert_close(features.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
        torch.testing.assert_close(features.var(0).mean(), torch.ones(()))
    by_hand = (t[0].mean((1, 2)) - t.mean((0, 2, 3))) / t.mean((2, 3)).var(0).mean().sqrt()
    torch.testing.assert_close(f(t[:1], True)[0], by_hand, rtol=1e-4, atol=1e-4)  # means of float32
    assert set(f.state_dict()) == {"scale", "mean_s", "mean_t", "scale_t"}
    # Exaggerated: s lies so many times as far from its mean, and t where it was.
    caricature = FrozenF(Flat(), domains=(moments(Flat(), s.split(10)), moments(Flat(), [t])), exaggeration=1.5)
    torch.testing.assert_close(caricature(s), f(s) * 1.5)
    torch.testing.assert_close(caricature(t, True), f(t, True))
    assert set(FrozenF(Flat(), 2.0).state_dict()) == {"scale"}
    torch.testing.assert_close(FrozenF(Flat(), 2.0)(t, True), t.mean((2, 3)) / 2)


def test_transport_gives_s_the_covariance_of_t_and_keeps_its_directions(monkeypatch):
    s = torch.randn(4000, 3, 1, 1) * torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    t = torch.randn(4000, 3, 1, 1) * torch.tensor([4.0, 2.0, 1.0])[:, None, None] + 5
    domains = moments(Flat(), [s]), moments(Flat(), [t])
    # By hand, for covariances of the same axes: each is stretched by the ratio of the standard deviations, shrunk.
    shrunk = 0.95 * torch.tensor([16.0, 4.0, 1.0]) / 7 + 0.05
    expected = (shrunk / shrunk.flip(0)).sqrt()
    torch.testing.assert_close(transport(*domains), torch.diag(expected), atol=0.1, rtol=0)
    torch.testing.assert_close(transport(domains[0], domains[0]), torch.eye(3), atol=1e-4, rtol=0)
    # With axes that differ: no other map than the optimal one is symmetric and gives that covariance.
    monkeypatch.setattr("dtn_ray.method.features.SHRINKAGE", 0.0)
    t = torch.einsum("nchw,cd->ndhw", t, torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.5], [0.3, 0.0, 1.0]]))
    domains = moments(Flat(), [s]), moments(Flat(), [t])
    A = transport(*domains)
    torch.testing.assert_close(A, A.T, atol=1e-4, rtol=0)
    assert torch.linalg.eigvalsh(A).min() > 0
    f = FrozenF(Flat(), domains=domains, transport=transport(*domains))
    torch.testing.assert_close(torch.cov(f(s).T), torch.cov(f(t, True).T), atol=1e-3, rtol=1e-3)
    assert set(f.state_dict()) == {"scale", "mean_s", "mean_t", "scale_t", "transport"}


def test_the_warm_up_minimises_L_tid_alone_and_leaves_D_as_it_is():
    dtn = make()
    trainer = DTNTrainer(dtn, LossConfig(warm_up=2), OptimConfig(lr_g=1e-3))
    s, t = batches()
    before = {name: value.clone() for name, value in dtn.D.state_dict().items()}
    first, second, third = (trainer.step(s, t, step) for step in range(3))
    assert set(first) == set(second) == {"L_tid", "L_tv", "L_g"} and "L_d" in third and "L_const" in third
    assert second["L_tid"] < first["L_tid"]
    torch.testing.assert_close(first["L_g"], 15 * first["L_tid"])
    assert any((before[name] != value).any() for name, value in dtn.D.state_dict().items()), "in the third"
    dtn = make()
    DTNTrainer(dtn, LossConfig(warm_up=1), OptimConfig()).step(s, t, 0)
    assert all((before[name] == value).all() for name, value in dtn.D.state_dict().items()), "not in the first"


def test_alpha_grows_to_its_weight_once_the_warm_up_is_over():
    loss = LossConfig(alpha=8.0, beta=0.0, gan=0.0, warm_up=2, ramp=4)
    assert [loss.alpha_at(step) for step in (2, 3, 4, 5, 6, 99)] == [2, 4, 6, 8, 8, 8]
    assert LossConfig(alpha=8.0, warm_up=2).alpha_at(2) == 8
    terms = DTNTrainer(make(), loss, OptimConfig()).step(*batches(), 3)
    torch.testing.assert_close(terms["L_g"], 4 * terms["L_const"])


def test_what_D_sees_is_changed_at_random_and_its_gradient_on_t_is_penalised():
    s, t = batches()
    seen = {}
    for name, loss in {"plain": LossConfig(), "augmented": LossConfig(augment_D=Augment(brightness=0.5))}.items():
        dtn = make()
        seen[name] = []
        dtn.D.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].detach()))
        torch.manual_seed(1)
        DTNTrainer(dtn, loss, OptimConfig()).step(s, t, 1)
    assert len(seen["plain"]) == len(seen["augmented"]) == 5, "G(s), G(t), t; then G(s), G(t) for g"
    assert all((a - b).abs().max() > 0.1 for a, b in zip(seen["plain"], seen["augmented"], strict=True))

    norms = {}
    for r1 in (0.0, 100.0):
        dtn = make()
        trainer = DTNTrainer(dtn, LossConfig(r1=r1), OptimConfig(lr_D=1e-3))
        for step in range(0, 40, 4):
            trainer.step(s, t, step)
        real = t.clone().requires_grad_()
        norms[r1] = R_1(dtn.D(real), real).item()
    assert norms[100.0] < 0.5 * norms[0.0]


@pytest.mark.slow
def test_compiled_networks_train_alike_with_a_gradient_penalty(monkeypatch):
    compiled = partial(torch.compile, backend="aot_eager")  # differentiated once only, as any, and no C++ is built
    monkeypatch.setattr(torch, "compile", compiled)
    results = []
    for choice in (False, True):
        dtn, (s, t) = make(), batches()
        trainer = DTNTrainer(dtn, LossConfig(r1=1.0), OptimConfig(compile=choice))
        results.append([trainer.step(s, t, step) for step in range(5)][-1])
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)
