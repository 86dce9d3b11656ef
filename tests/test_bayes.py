"""Eq. (1) and the variances behind it, judged by closed forms, scipy and published tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from regnet import james_stein_weight, noise_variance, posterior_mean, posterior_weight, prior_variance

NAN, INF, ONES = float("nan"), float("inf"), torch.ones(2, 3)


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


def exact(a, b, rtol=1e-10, atol=0.0):
    torch.testing.assert_close(double(a), double(b), rtol=rtol, atol=atol)


# posterior_weight


def test_weight_is_eq_1_and_does_not_depend_on_the_unit(rng):
    noise = torch.rand(50, dtype=torch.float64, generator=rng) + 0.01
    prior = torch.rand(50, dtype=torch.float64, generator=rng)
    exact(posterior_weight(noise, prior), prior / (noise + prior))
    precision, prior_precision = 1 / noise, 1 / prior  # the note's lambda and rho
    exact(posterior_weight(noise, prior), precision / (precision + prior_precision))
    for unit in (1e-150, 1e-3, 1e6, 1e150):
        exact(posterior_weight(unit * noise, unit * prior), posterior_weight(noise, prior))
    assert posterior_weight(torch.tensor(3e38), torch.tensor(3e38)).item() == 0.5, "a sum would overflow"


def test_weight_at_its_limits():
    weight = posterior_weight(double([1.0, 0.0, INF, 1.0, 1.0, 1.0]), double([0.0, 1.0, 1.0, INF, 1e-300, 1e300]))
    assert weight[[0, 1, 2, 3, 5]].tolist() == [0, 1, 0, 1, 1]
    exact(weight[4], 1e-300)


def test_eight_schools():
    """Rubin (1981): at tau = 10 the weights on the observed effects."""
    errors = double([15, 10, 16, 11, 9, 11, 10, 18])
    expected = [0.308, 0.500, 0.281, 0.452, 0.552, 0.452, 0.500, 0.236]
    exact(posterior_weight(errors**2, 100.0), expected, rtol=0, atol=5e-4)


def test_numbers_and_arrays_take_part_without_losing_precision(normal):
    x, m, tenth = normal(3, 6), normal(3, 6), double(0.1)
    exact(posterior_weight(double([1.0]), 0.1), [0.1 / 1.1], rtol=1e-15)
    exact(posterior_weight(np.array([1.0]), 0.1), [0.1 / 1.1], rtol=1e-15)
    for function in (posterior_mean, prior_variance, james_stein_weight):
        assert torch.equal(function(x, m, 0.1), function(x, m, tenth))
    assert posterior_weight(1, 3).item() == 0.75
    assert posterior_weight(torch.ones(3, 1), torch.ones(4)).shape == (3, 4)
    assert posterior_weight(torch.ones(2, dtype=torch.float16), 1.0).dtype == torch.float32


# posterior_mean


def test_mean_is_eq_1_and_the_integral_of_bayes_rule():
    x, m, noise, prior = 2.3, -0.4, 0.7, 1.9
    weight = posterior_weight(double(noise), double(prior))
    got = posterior_mean(double([[x]]), double([[m]]), weight).item()
    assert got == pytest.approx((1 - weight.item()) * m + weight.item() * x, rel=1e-12)

    def joint(theta):
        return stats.norm.pdf(x, theta, math.sqrt(noise)) * stats.norm.pdf(theta, m, math.sqrt(prior))

    mass = integrate.quad(joint, -15, 15, epsabs=1e-13, epsrel=1e-12)[0]
    mean = integrate.quad(lambda theta: theta * joint(theta), -15, 15, epsabs=1e-13, epsrel=1e-12)[0] / mass
    assert got == pytest.approx(mean, rel=1e-10)


def test_mean_takes_a_weight_per_gene_or_per_entry_and_is_exact_at_its_limits(normal):
    x, m = normal(3, 3), 1e8 * normal(3, 3)  # square, so that a row and a column could be mistaken for each other
    per_gene = double([0.0, 0.5, 1.0])
    expected = torch.stack([m[0], (x[1] + m[1]) / 2, x[2]])
    for weight in (per_gene, per_gene[:, None], per_gene[:, None].expand(3, 3)):
        got = posterior_mean(x, m, weight)
        assert torch.equal(got[[0, 2]], expected[[0, 2]]), "weights 0 and 1 return m and x themselves"
        exact(got, expected)


# noise_variance


def test_noise_variance_is_half_the_mean_square_of_the_difference(normal):
    x1, x2 = normal(6, 9), normal(6, 9)
    exact(noise_variance(x1, x2), ((x1 - x2) ** 2).sum(dim=1) / 18)
    assert noise_variance(x1, x1).eq(0).all()


# prior_variance


def log_likelihood(t, square, noise):
    return -0.5 * (np.log(noise + t) + square / (noise + t)).sum()


def best_by_scipy(square, noise):
    """Global maximum over t >= 0, and how many local ones: a far finer grid than the module's, polished by scipy."""
    grid = np.concatenate([[0], np.geomspace(1e-8 * noise.min(), square.max() + noise.max(), 4000)])
    values = -0.5 * (np.log(noise + grid[:, None]) + square / (noise + grid[:, None])).sum(axis=1)
    peaks = 1 + np.flatnonzero((values[1:-1] >= values[:-2]) & (values[1:-1] >= values[2:]))
    found = [(values[0], 0.0)]
    for i in peaks:
        bounds = (grid[i - 1], grid[i + 1])
        loss = optimize.minimize_scalar(
            lambda t: -log_likelihood(t, square, noise), bounds=bounds, method="bounded", options={"xatol": 1e-12}
        )
        found.append((-loss.fun, loss.x))
    return max(found)[1], len(peaks)


def test_prior_variance_with_equal_noise_is_the_closed_form(normal):
    x, m = 2 * normal(20, 9), normal(20, 9)
    expected = (((x - m) ** 2).mean(dim=1) - 4.0).clamp(min=0)
    for noise in (4.0, torch.full((20,), 4.0), torch.full((20, 9), 4.0), torch.full((20, 1), 4.0)):
        exact(prior_variance(x, m, noise), expected)
    assert 0 < (expected > 0).sum() < 20
    exact(prior_variance(x, m, 0.0), ((x - m) ** 2).mean(dim=1))
    per_gene = torch.linspace(0.5, 3, 20, dtype=torch.float64)
    exact(prior_variance(x, m, per_gene), (((x - m) ** 2).mean(dim=1) - per_gene).clamp(min=0))
    unequal = torch.full((20, 9), 4.0, dtype=torch.float64)
    unequal[::2, 0] += 1e-13  # the other route, in every second row
    exact(prior_variance(x, m, unequal), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_prior_variance_with_unequal_noise_is_the_maximum_that_scipy_finds(seed):
    draw = np.random.default_rng(seed)
    noise = draw.gamma(1.0, 1.0, (8, 12)) + 0.05
    x = draw.normal(0, np.sqrt(noise + draw.choice([0.0, 0.5, 3.0], (8, 1))))
    got = prior_variance(double(x), torch.zeros(8, 12, dtype=torch.float64), double(noise)).numpy()
    for gene in range(8):
        best, _ = best_by_scipy(x[gene] ** 2, noise[gene])
        assert got[gene] == pytest.approx(best, rel=1e-6, abs=1e-8)
        if best == 0:
            assert got[gene] == 0
        else:  # the score is zero: the closed equation, at full precision
            total = noise[gene] + got[gene]
            terms = (x[gene] ** 2 - total) / total**2
            assert abs(terms.sum()) < 1e-10 * np.abs(terms).sum()


@pytest.mark.parametrize(("precise", "noisy"), [(20, 2), (16, 2), (2, 20), (8, 8), (1, 9)])
def test_prior_variance_finds_the_higher_of_two_maxima(precise, noisy):
    """The likelihood of precise cells is largest near 1e-2, that of noisy ones near 4900."""
    square = np.repeat([1e-2 + 1e-4, 5000.0], [precise, noisy])
    noise = np.repeat([1e-4, 100.0], [precise, noisy])
    best, maxima = best_by_scipy(square, noise)
    assert maxima == 2 and (best < 1) == (precise > 10), "the example tests nothing otherwise"
    got = prior_variance(double(square).sqrt()[None], torch.zeros(1, len(square)).double(), double(noise)[None]).item()
    assert got == pytest.approx(best, rel=1e-6)


def test_the_maximum_may_lie_at_either_end_of_the_search():
    """Squares of noise + prior in every cell put it exactly at the prior, the end of the grid; a prior of 0 at the start."""
    noise = double([[1.0, 4.0, 9.0]])
    for prior in range(60):
        x = (noise + prior).sqrt()
        exact(prior_variance(x, torch.zeros_like(x), noise), [float(prior)])
    assert prior_variance(0.9 * noise.sqrt(), torch.zeros_like(noise), noise).item() == 0


@pytest.mark.parametrize("unit", [1e-20, 1e-3, 1e5, 1e20])
def test_prior_variance_scales_with_the_square_of_the_unit_and_ignores_cell_order_and_sign(normal, rng, unit):
    x, m = 2 * normal(6, 8), normal(6, 8)
    noise = torch.rand(6, 8, dtype=torch.float64, generator=rng) + 0.3
    expected, order = prior_variance(x, m, noise), torch.randperm(8, generator=rng)
    exact(prior_variance(unit * x, unit * m, unit**2 * noise) / unit**2, expected, rtol=1e-9)
    exact(prior_variance(x[:, order], m[:, order], noise[:, order]), expected, rtol=1e-9)
    exact(prior_variance(m, x, noise), expected)


def test_float32_is_exactly_zero_where_float64_is_and_agrees_elsewhere():
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(60, 500, generator=draw) + 0.5
    x = 0.97 * noise.sqrt() * torch.randn(60, 500, generator=draw)
    got = prior_variance(x, torch.zeros_like(x), noise)
    expected = prior_variance(x.double(), torch.zeros_like(x).double(), noise.double())
    slope = ((x.double() ** 2 - noise.double()) / noise.double() ** 2).sum(dim=1)
    boundary = (expected == 0) & (slope < -1)  # beyond rounding
    assert boundary.sum() > 20 and (got[boundary] == 0).all() and got.dtype == torch.float32
    exact(got, expected, rtol=1e-4, atol=1e-5)


# james_stein_weight


def test_batting_averages():
    """Efron and Morris (1977): c = .212, and what the rule then gains."""
    hits = double([18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7]) / 45
    rest = double([346, 298, 276, 222, 273, 270, 263, 210, 269, 230, 264, 256, 303, 264, 226, 285, 316, 200]) / 1000
    grand = hits.mean()
    x, m = hits[None], grand.expand(1, 18)
    weight = james_stein_weight(x, m, grand * (1 - grand) / 45, fitted=1)
    assert weight.item() == pytest.approx(0.212, abs=5e-4)
    shrunk = posterior_mean(x, m, weight)[0]
    assert ((hits - rest) ** 2).sum().item() == pytest.approx(0.0753, abs=5e-5)
    assert ((shrunk - rest) ** 2).sum().item() == pytest.approx(0.0213, abs=5e-5)
    assert int(((shrunk - rest).abs() < (hits - rest).abs()).sum()) == 16


@pytest.mark.parametrize("fitted", [0, 1, 3])
def test_james_stein_is_its_closed_form(normal, fitted):
    x, m = 2 * normal(5, 8), normal(5, 8)
    noise = double([0.0, 0.5, 1.0, 2.0, 90.0])
    expected = torch.maximum(double(0.0), 1 - (8 - fitted - 2) * noise / ((x - m) ** 2).sum(dim=1))
    got = james_stein_weight(x, m, noise, fitted)
    exact(got, expected)
    assert got[0] == 1 and got[-1] == 0
    exact(james_stein_weight(10 * x, 10 * m, 100 * noise, fitted), expected)
    assert james_stein_weight(x, x, 1.0).eq(0).all()


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: posterior_weight(-1.0, 1.0), r"noise_var must be at least 0; got -1\.0$"),
        (lambda: posterior_weight(1.0, double([1.0, -2.0])), r"prior_var must be at least 0; got -2\.0 at index \[1\]"),
        (lambda: posterior_weight(double([[1.0], [NAN]]), 1.0), r"noise_var must be at least 0; got nan at index \[1, 0\]"),
        (lambda: posterior_weight(double([1.0, 0.0]), 0.0), r"both zero or both infinite at index \[1\]"),
        (lambda: posterior_weight(INF, INF), "both zero or both infinite: no weight"),
        (lambda: posterior_mean(ONES, ONES, 1.5), r"weight must lie in \[0, 1\]; got 1.5"),
        (lambda: posterior_mean(ONES, ONES, NAN), r"weight must lie in \[0, 1\]; got nan"),
        (lambda: posterior_mean(ONES, ONES, double([0.5, 2.0])), r"got 2.0 at index \[1, 0\]"),
        (lambda: posterior_mean(ONES, ONES, torch.ones(3)), r"per gene \(2,\) or one per entry \(2, 3\); got shape \(3,\)"),
        (lambda: noise_variance(ONES, torch.ones(2, 4)), r"at least one cell; got \(2, 3\) of torch.float32 and \(2, 4\)"),
        (lambda: noise_variance(ONES, ONES.double()), "one dtype .* of torch.float32 and .* of torch.float64"),
        (lambda: prior_variance(ONES, -ONES, -1.0), r"noise_var must be at least 0 and finite; got -1\.0"),
        (lambda: prior_variance(ONES, -ONES, NAN), "noise_var must be at least 0 and finite; got nan"),
        (lambda: prior_variance(ONES, -ONES, INF), "noise_var must be at least 0 and finite; got inf"),
        (lambda: prior_variance(ONES, -ONES, double([[1, 1, 0], [1, 1, 1]])), r"where it differs.* got 0 at index \[0, 2\]"),
        (lambda: prior_variance(ONES, -ONES, torch.ones(1, 3)), r"one per gene \(2,\).*got shape \(1, 3\)"),
        (lambda: james_stein_weight(ONES, ONES, 1.0, 1), r"more than 2 \+ fitted columns; got 1 and 3"),
        (lambda: james_stein_weight(ONES, ONES, 0.0), r"noise_var is 0 and x equals m at index \[0\]"),
        (lambda: james_stein_weight(ONES, -ONES, INF), "noise_var must be at least 0 and finite; got inf"),
        (lambda: james_stein_weight(ONES, -ONES, torch.ones(3)), r"one per gene \(2,\).*got shape \(3,\)"),
    ],
)
def test_what_has_no_answer_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
