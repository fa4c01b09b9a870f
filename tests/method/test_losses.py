"""Eqs. 1-7 against values worked out by hand."""

import math

import pytest
import torch

from dtn_ray.method import losses

LN3 = math.log(3)


def logits_of(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_L_d_is_the_sum_of_three_cross_entropies_with_the_classes_of_eq_3():
    G_s, G_t, t = logits_of([0.5, 0.3, 0.2]), logits_of([0.1, 0.25, 0.65]), logits_of([0.1, 0.1, 0.8])
    expected = -math.log(0.5) - math.log(0.25) - math.log(0.8)
    assert losses.L_d(G_s, G_t, t).item() == pytest.approx(expected, rel=1e-5)


def test_L_gan_g_asks_for_class_3_on_both_domains():
    G_s, G_t = logits_of([0.5, 0.3, 0.2], [0.2, 0.2, 0.6]), logits_of([0.1, 0.25, 0.65])
    expected = -(math.log(0.2) + math.log(0.6)) / 2 - math.log(0.65)
    assert losses.L_gan_g(G_s, G_t).item() == pytest.approx(expected, rel=1e-5)


def test_at_chance_L_d_is_3_ln_3_and_L_gan_g_2_ln_3():
    flat = torch.zeros(4, 3)
    assert losses.L_d(flat, flat, flat).item() == pytest.approx(3 * LN3)
    assert losses.L_gan_g(flat, flat).item() == pytest.approx(2 * LN3)


def test_baseline_risk_of_eq_1():
    def logit(p: float) -> torch.Tensor:
        return torch.tensor([[math.log(p / (1 - p))]])

    assert losses.R_gan(logit(0.2), logit(0.9)).item() == pytest.approx(-math.log(0.8) - math.log(0.9), rel=1e-5)
    assert losses.R_gan_g(logit(0.2)).item() == pytest.approx(-math.log(0.2), rel=1e-5)


def test_distances_between_representations():
    a, b = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    assert losses.L_const(a, b, "mse").item() == pytest.approx((9 + 1) / 4)
    assert losses.feature_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]), "cosine").item() == (
        pytest.approx(1 - 1 / math.sqrt(2))
    )
    # near: ‖a_1 - b_1‖ = 3, ‖a_2 - b_2‖ = 1; far: ‖a_1 - b_2‖ = √18, ‖a_2 - b_1‖ = 4
    assert losses.feature_distance(a, b, "hinge").item() == pytest.approx(2.0, abs=1e-4)
    assert losses.feature_distance(a, b, "triplet").item() == pytest.approx(0.0, abs=1e-4)
    close = torch.tensor([[0.0, 0.0], [0.3, 0.4]])
    # near: 0, 0; far: 0.5, 0.5, both inside the margin of 1
    assert losses.feature_distance(close, close, "hinge").item() == pytest.approx(0.5, abs=1e-4)
    assert losses.feature_distance(close, close, "triplet").item() == pytest.approx(0.5, abs=1e-4)


def test_distances_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="unknown distance d 'l7'"):
        losses.feature_distance(torch.zeros(2, 2), torch.zeros(2, 2), "l7")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2"):
        losses.feature_distance(torch.zeros(1, 2), torch.zeros(1, 2), "triplet")


def test_L_tid_is_the_mean_square_over_elements():
    x, G_x = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    G_x[0, 0, 0, 0] = 2.0
    assert losses.L_tid(x, G_x).item() == pytest.approx(4 / 8)


def test_second_gan_for_d2():
    zero = torch.zeros(3, 1)
    assert losses.L_tid_gan_d(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert losses.L_tid_gan(zero).item() == pytest.approx(math.log(2))


def test_L_tv_on_a_known_image():
    z = torch.tensor([[[[0.0, 3.0, 3.0], [4.0, 0.0, 0.0], [4.0, 0.0, 0.0]]]])
    # (right - here, below - here): (3, 4), (0, -3), (-4, 0), (0, 0)
    assert losses.L_tv(z, B=1, reduction="sum").item() == pytest.approx(5 + 3 + 4 + 0, abs=1e-3)
    assert losses.L_tv(z, B=2, reduction="sum").item() == pytest.approx(25 + 9 + 16, abs=1e-3)
    assert losses.L_tv(z, B=1, reduction="mean").item() == pytest.approx(12 / 4, abs=1e-3)


def test_L_tv_of_a_flat_image_has_a_finite_gradient():
    z = torch.zeros(1, 1, 4, 4, requires_grad=True)
    losses.L_tv(z).backward()
    assert torch.isfinite(z.grad).all()


def test_R_1_is_half_the_squared_gradient_of_the_logit_of_t():
    t = torch.tensor([[[[1.0, 2.0]]], [[[0.0, -1.0]]]], requires_grad=True)
    logits = torch.stack([t.sum((1, 2, 3)), 7 * t.sum((1, 2, 3)), (t**2).sum((1, 2, 3))], dim=1)
    # ∇ of x² + y² is (2x, 2y): squared norms 20 and 4, half of their mean is 6.
    torch.testing.assert_close(losses.R_1(logits, t), torch.tensor(6.0))
