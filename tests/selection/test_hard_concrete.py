"""The distribution of the masks against sampling, numerical integration and difference quotients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from hybrid.selection.hard_concrete import POLARISED, exceeds, mean, sample, settled

ALPHAS = (-4.0, -1.6, -0.3, 0.0, 0.7, 2.5, 5.0)


def by_hand(alpha: float, noise: float) -> float:
    s = 1 / (1 + math.exp(-(math.log(noise) - math.log(1 - noise) + alpha) * 1.5))
    return min(1.0, max(0.0, 1.2 * s - 0.1))


@given(st.floats(-8, 8), st.floats(0.001, 0.999))
def test_a_sample_is_the_formula(alpha, noise):
    z = sample(torch.tensor(alpha, dtype=torch.float64), torch.tensor(noise, dtype=torch.float64))
    assert z.item() == pytest.approx(by_hand(alpha, noise), abs=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_expectations_are_those_of_many_samples(alpha):
    count = 200_000
    noise = torch.rand(count, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    a = torch.tensor(alpha, dtype=torch.float64)
    z = sample(a, noise)
    five_sigma = 5 * z.std().item() / count**0.5
    assert mean(a).item() == pytest.approx(z.mean().item(), abs=five_sigma)
    for level in (0.0, 0.3, 0.9):
        p = exceeds(a, level).item()
        tolerance = 5 * math.sqrt(p * (1 - p) / count)
        assert (z > level).double().mean().item() == pytest.approx(p, abs=tolerance)
    assert (z == 0).any() and (z == 1).any()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mean_and_its_gradient_are_integrals(alpha, dtype):
    """E[z] and dE[z]/dalpha, integrated over the uniform noise that makes z."""
    a = torch.tensor([alpha], dtype=dtype, requires_grad=True)
    value = mean(a)
    (gradient,) = torch.autograd.grad(value.sum(), a)
    # Where z leaves 0 and reaches 1: there the integrand has kinks.
    kinks = [1 / (1 + math.exp(alpha - sign * 2 / 3 * math.log(11))) for sign in (-1, 1)]

    def slope(noise: float) -> float:
        z = by_hand(alpha, noise)
        s = (z + 0.1) / 1.2
        return 1.2 * 1.5 * s * (1 - s) if 0 < z < 1 else 0.0

    expected = 1 - kinks[1] + quad(lambda noise: by_hand(alpha, noise), *kinks, epsabs=1e-12)[0]
    tolerance = 1e-6 if dtype == torch.float32 else 1e-9
    assert value.item() == pytest.approx(expected, abs=tolerance)
    assert gradient.item() == pytest.approx(quad(slope, *kinks, epsabs=1e-12)[0], abs=tolerance)


def test_the_gradient_of_a_sample_is_a_difference_quotient_and_nothing_where_it_is_cut_off():
    noise = torch.tensor([1e-3, 0.2, 0.4, 0.5, 0.77, 0.999], dtype=torch.float64)
    alpha = torch.tensor([0.0, 1.0, -0.5, 0.1, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    z = sample(alpha, noise)
    (gradient,) = torch.autograd.grad(z.sum(), alpha)
    moved = [sample(alpha.detach() + step, noise) for step in (1e-6, -1e-6)]
    torch.testing.assert_close(gradient, (moved[0] - moved[1]) / 2e-6, rtol=1e-6, atol=1e-8)
    cut = (z == 0) | (z == 1)
    assert cut.tolist() == [True, False, False, False, False, True]
    assert not gradient[cut].any() and (gradient[~cut] > 0).all()


def test_noise_at_its_ends_makes_finite_gradients():
    alpha = torch.tensor([5.0, -5.0], requires_grad=True)
    z = sample(alpha, torch.tensor([0.0, 1.0]))
    z.sum().backward()
    assert z.tolist() == [0, 1] and alpha.grad.tolist() == [0, 0]


@given(st.floats(-9, 9))
def test_without_noise_a_mask_is_above_one_half_where_its_mean_is(alpha):
    a = torch.tensor(alpha, dtype=torch.float64)
    assert settled(a).item() == pytest.approx(by_hand(alpha / 1.5, 0.5), abs=1e-12)
    if abs(alpha) > 1e-6:
        assert (settled(a) > 0.5) == (mean(a) > 0.5) == (a > 0)


def test_where_masks_are_polarised():
    edge = torch.tensor(POLARISED, dtype=torch.float64)
    assert exceeds(-edge).item() == pytest.approx(0.5)
    assert exceeds(edge, 1 - 1e-12).item() == pytest.approx(0.5)
    assert mean(torch.zeros(())).item() == pytest.approx(0.5)


def test_shapes_are_kept():
    alpha = torch.randn(3, 5)
    for z in (sample(alpha, torch.rand(3, 5)), settled(alpha), exceeds(alpha), mean(alpha)):
        assert z.shape == (3, 5) and z.dtype == torch.float32
