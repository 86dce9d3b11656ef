"""Eq. (1) and the variances behind it, judged by closed forms, scipy and published tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from regnet.bayes import james_stein_weight, noise_variance, posterior_mean, posterior_weight, prior_variance

NAN, INF = float("nan"), float("inf")


def exact(a, b, rtol=1e-10, atol=0.0):
    torch.testing.assert_close(
        torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64), rtol=rtol, atol=atol
    )


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


# posterior_weight


def test_weight_is_eq_1(rng):
    noise = torch.rand(50, dtype=torch.float64, generator=rng) + 0.01
    prior = torch.rand(50, dtype=torch.float64, generator=rng)
    exact(posterior_weight(noise, prior), prior / (noise + prior))
    precision, prior_precision = 1 / noise, 1 / prior  # the note's lambda and rho
    exact(posterior_weight(noise, prior), precision / (precision + prior_precision))


def test_weight_at_its_limits():
    noise = double([1.0, 0.0, INF, 1.0, 1.0, 1.0])
    prior = double([0.0, 1.0, 1.0, INF, 1e-300, 1e300])
    weight = posterior_weight(noise, prior)
    assert weight[:4].tolist() == [0, 1, 0, 1]
    exact(weight[4], 1e-300)
    assert weight[5] == 1


def test_weight_does_not_depend_on_the_unit():
    noise, prior = double([0.3, 2.0]), double([1.7, 0.1])
    for c in (1e-150, 1e-3, 1e6, 1e150):
        exact(posterior_weight(c * noise, c * prior), posterior_weight(noise, prior))
    tiny = torch.tensor(1e-30)
    assert posterior_weight(tiny, 3 * tiny).item() == pytest.approx(0.75, rel=1e-6)
    huge = torch.tensor(3e38)
    assert posterior_weight(huge, huge).item() == 0.5


def test_weight_broadcasts_and_keeps_the_dtype():
    assert posterior_weight(torch.ones(3, 1), torch.ones(4)).shape == (3, 4)
    assert posterior_weight(1.0, torch.ones(2, dtype=torch.float64)).dtype == torch.float64
    assert posterior_weight(torch.ones(2, dtype=torch.float32), 1.0).dtype == torch.float32
    assert posterior_weight(1, 3).item() == 0.75


def test_a_number_takes_the_precision_of_the_tensor_beside_it(normal):
    x, m, tenth = normal(3, 6), normal(3, 6), double(0.1)
    assert torch.equal(posterior_weight(double([1.0]), 0.1), posterior_weight(double([1.0]), tenth))
    assert torch.equal(posterior_mean(x, m, 0.1), posterior_mean(x, m, tenth))
    assert torch.equal(prior_variance(x, m, 0.1), prior_variance(x, m, tenth))
    assert torch.equal(james_stein_weight(x, m, 0.1), james_stein_weight(x, m, tenth))
    assert torch.equal(posterior_weight(np.array([1.0]), 0.1), posterior_weight(double([1.0]), tenth))
    assert posterior_weight(torch.ones(2, dtype=torch.float16), 1.0).dtype == torch.float32


def test_a_default_device_other_than_that_of_the_data_changes_nothing(normal):
    x, m, noise = normal(3, 6), normal(3, 6), normal(3, 6).exp()

    def results():
        return (
            posterior_weight(noise, 0.5),
            posterior_weight(0.5, noise),
            posterior_mean(x, m, 0.3),
            prior_variance(x, m, 0.2),
            prior_variance(x, m, noise),
            james_stein_weight(x, m, 0.2),
        )

    expected = results()
    with torch.device("meta"):  # the default for new tensors, as a graphics card may be
        got = results()
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


def test_messages_name_the_argument_and_its_rule():
    x = torch.zeros(2, 3)
    for call, message in (
        (lambda: posterior_weight(-1.0, 1.0), "noise_var must not be negative or NaN; got -1.0"),
        (lambda: posterior_weight(1.0, -1.0), "prior_var must not be negative or NaN; got -1.0"),
        (lambda: posterior_mean(x, x, torch.ones(3)), "weight must be a scalar, one per gene (2,) or one per entry (2, 3)"),
        (lambda: prior_variance(x, x, -1.0), "noise_var must not be negative, NaN or infinite; got -1.0"),
        (
            lambda: prior_variance(x, x, torch.ones(3)),
            "noise_var must be a scalar, one per gene (2,) or one per entry (2, 3)",
        ),
        (lambda: prior_variance(x[:, :0], x[:, :0], 1.0), "prior_variance needs at least one cell; got x with 0 cells"),
        (lambda: noise_variance(x[:, :0], x[:, :0]), "noise_variance needs at least one cell; got x1 with 0 cells"),
        (lambda: james_stein_weight(x, x, INF), "noise_var must not be negative, NaN or infinite; got inf"),
        (
            lambda: james_stein_weight(x, x, 1.0, fitted=-1),
            "fitted is a number of parameters and must not be negative; got -1",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value).split("; got shape")[0] == message


@pytest.mark.parametrize(
    ("noise", "prior", "words"),
    [
        (-1.0, 1.0, ["noise_var", "negative", "-1.0"]),
        (1.0, torch.tensor([1.0, -2.0]), ["prior_var", "negative", "-2.0", "index 1"]),
        (torch.tensor([[1.0, 1.0], [NAN, 1.0]]), 1.0, ["noise_var", "NaN", "nan", "index (1, 0)"]),
        (torch.tensor([1.0, 0.0]), 0.0, ["both zero", "undefined", "index 1"]),
        (INF, INF, ["both infinite", "undefined"]),
        (torch.ones(2), torch.ones(3), ["broadcast", "(2,)", "(3,)"]),
    ],
)
def test_weight_refuses(noise, prior, words):
    with pytest.raises(ValueError) as caught:
        posterior_weight(noise, prior)
    for word in words:
        assert word in str(caught.value)


def test_eight_schools():
    """Rubin (1981): at tau = 10 the weights on the observed effects."""
    errors = double([15, 10, 16, 11, 9, 11, 10, 18])
    expected = [0.308, 0.500, 0.281, 0.452, 0.552, 0.452, 0.500, 0.236]
    exact(posterior_weight(errors**2, 100.0), expected, rtol=0, atol=5e-4)


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


def test_mean_at_its_limits(normal):
    x, m = normal(3, 4), normal(3, 4)
    assert torch.equal(posterior_mean(x, m, 0.0), m)
    exact(posterior_mean(x, m, 1.0), x, rtol=0, atol=1e-14)
    exact(posterior_mean(x, x, 0.37), x)
    exact(posterior_mean(x, m, 0.3), posterior_mean(m, x, 0.7), rtol=0, atol=1e-14)


def test_full_weight_returns_the_observation_even_beside_a_huge_prior_mean():
    assert posterior_mean(torch.tensor([[1.0]]), torch.tensor([[1e8]]), 1.0).item() == 1.0


def test_mean_takes_a_weight_per_gene_or_per_entry(normal):
    x, m = normal(3, 3), normal(3, 3)  # square, so that a row and a column could be mistaken for each other
    per_gene = double([0.0, 0.5, 1.0])
    expected = torch.stack([m[0], (x[1] + m[1]) / 2, x[2]])
    exact(posterior_mean(x, m, per_gene), expected, rtol=0, atol=1e-14)
    exact(posterior_mean(x, m, per_gene[:, None]), expected, rtol=0, atol=1e-14)
    exact(posterior_mean(x, m, per_gene[:, None].expand(3, 3)), expected, rtol=0, atol=1e-14)


def test_mean_refuses(normal):
    x = normal(2, 3)
    for weight, shown in ((1.5, "1.5"), (-0.1, "-0.1"), (NAN, "nan")):
        with pytest.raises(ValueError, match=rf"weight must lie in \[0, 1\]; got {shown}"):
            posterior_mean(x, x, double(weight))
    with pytest.raises(ValueError, match=r"one per gene \(2,\).*got shape \(3,\)"):
        posterior_mean(x, x, torch.full((3,), 0.5))
    with pytest.raises(ValueError, match=r"got x \(2, 3\) and m \(2, 2\)"):
        posterior_mean(x, x[:, :2], 0.5)
    with pytest.raises(ValueError, match="m must be finite"):
        posterior_mean(x, x * NAN, 0.5)
    with pytest.raises(ValueError, match=r"got 2.0 at index"):
        posterior_mean(x, x, double([0.5, 2.0]))


# prior_variance


def log_likelihood(t, square, noise):
    return -0.5 * (np.log(noise + t) + square / (noise + t)).sum()


def best_by_scipy(square, noise):
    """Global maximum over t >= 0: every local one, from a grid far finer than the module's, polished by scipy."""
    grid = np.concatenate([[0], np.geomspace(1e-8 * noise.min(), square.max() + noise.max(), 4000)])
    values = -0.5 * (np.log(noise + grid[:, None]) + square / (noise + grid[:, None])).sum(axis=1)
    best_t, best_value = 0.0, values[0]
    for i in range(1, len(grid) - 1):
        if values[i] >= values[i - 1] and values[i] >= values[i + 1]:
            found = optimize.minimize_scalar(
                lambda t: -log_likelihood(t, square, noise),
                bounds=(grid[i - 1], grid[i + 1]),
                method="bounded",
                options={"xatol": 1e-12},
            )
            if -found.fun > best_value:
                best_t, best_value = found.x, -found.fun
    return best_t, best_value


def test_homoscedastic_prior_variance_is_the_closed_form(normal):
    x, m = 2 * normal(20, 9), normal(20, 9)
    expected = (((x - m) ** 2).mean(dim=1) - 1.5).clamp(min=0)
    for noise in (1.5, torch.full((20,), 1.5), torch.full((20, 9), 1.5), torch.full((20, 1), 1.5)):
        exact(prior_variance(x, m, noise), expected)
    assert (expected > 0).any()


def test_homoscedastic_prior_variance_maximises_the_likelihood(normal):
    x, m = 2 * normal(6, 9), normal(6, 9)
    for gene, got in enumerate(prior_variance(x, m, 1.5).tolist()):
        square = ((x - m)[gene] ** 2).numpy()
        best, value = best_by_scipy(square, np.full(9, 1.5))
        assert got == pytest.approx(best, rel=1e-5, abs=1e-6)
        assert log_likelihood(got, square, 1.5) >= value - 1e-10


def test_prior_variance_is_clamped_at_exactly_zero():
    x = double([[0.1, -0.1, 0.1], [3.0, 3.0, 3.0]])
    assert prior_variance(x, torch.zeros_like(x), 1.0).tolist() == [0.0, 8.0]
    assert prior_variance(x[:1], torch.zeros(1, 3).double(), double([[1.0, 2.0, 3.0]])).tolist() == [0.0]


def test_prior_variance_of_each_gene_uses_its_own_noise():
    x = double([[2.0, -2.0], [2.0, -2.0]])
    assert prior_variance(x, torch.zeros_like(x), double([1.0, 3.0])).tolist() == [3.0, 1.0]


@pytest.mark.parametrize("seed", range(4))
def test_heteroscedastic_prior_variance_against_scipy(seed):
    draw = np.random.default_rng(seed)
    noise = draw.gamma(1.0, 1.0, (8, 12)) + 0.05
    x = draw.normal(0, np.sqrt(noise + draw.choice([0.0, 0.5, 3.0], (8, 1))))
    got = prior_variance(double(x), torch.zeros(8, 12, dtype=torch.float64), double(noise)).numpy()
    for gene in range(8):
        best, value = best_by_scipy(x[gene] ** 2, noise[gene])
        assert got[gene] == pytest.approx(best, rel=1e-6, abs=1e-8)
        assert log_likelihood(got[gene], x[gene] ** 2, noise[gene]) >= value - 1e-10
        if best == 0:
            assert got[gene] == 0
        else:  # the score is zero: the closed equation, at full precision
            total = noise[gene] + got[gene]
            terms = (x[gene] ** 2 - total) / total**2
            assert abs(terms.sum()) < 1e-10 * np.abs(terms).sum()


@pytest.mark.parametrize(
    ("cells_small", "cells_large", "at_the_small_peak"),
    [(20, 2, True), (16, 2, True), (2, 20, False), (8, 8, False), (1, 9, False)],
)
def test_prior_variance_finds_the_highest_of_two_peaks(cells_small, cells_large, at_the_small_peak):
    """Precise cells vote for tau^2 near 1e-2, noisy ones for 4900: two peaks, one global."""
    square = np.concatenate([np.full(cells_small, 1e-2 + 1e-4), np.full(cells_large, 5000.0)])
    noise = np.concatenate([np.full(cells_small, 1e-4), np.full(cells_large, 100.0)])
    grid = np.geomspace(1e-6, 1e4, 3000)
    values = np.array([log_likelihood(t, square, noise) for t in grid])
    peaks = (values[1:-1] > values[:-2]) & (values[1:-1] > values[2:])
    assert peaks.sum() == 2, "the example must have two peaks to test anything"
    best, _ = best_by_scipy(square, noise)
    assert (best < 1) == at_the_small_peak
    got = prior_variance(double(square).sqrt()[None], torch.zeros(1, len(square)).double(), double(noise)[None]).item()
    assert got == pytest.approx(best, rel=1e-6)


def test_the_peak_may_lie_at_the_end_of_the_search():
    """Where all cells ask for one variance it is where the search ends, and rounding may put its last point below it."""
    noise = double([[1.0, 4.0, 9.0]])
    for prior in range(1, 60):
        x = (noise + prior).sqrt()
        exact(prior_variance(x, torch.zeros_like(x), noise), [float(prior)])


def test_mixed_rows_take_the_right_route_each(normal):
    x, m = 2 * normal(3, 6), normal(3, 6)
    noise = torch.ones(3, 6, dtype=torch.float64)
    noise[1, 2] = 2.0
    together = prior_variance(x, m, noise)
    exact(together[[0, 2]], (((x - m) ** 2).mean(dim=1) - 1)[[0, 2]].clamp(min=0))
    exact(together[1], prior_variance(x[1:2], m[1:2], noise[1:2])[0])


def test_heteroscedastic_route_is_continuous_with_the_closed_form(normal):
    x, m = 3 * normal(5, 10), normal(5, 10)
    noise = torch.ones(5, 10, dtype=torch.float64)
    closed = prior_variance(x, m, noise)
    assert (closed > 0).all()
    noise[:, 0] += 1e-13
    exact(prior_variance(x, m, noise), closed)


@pytest.mark.parametrize("c", [1e-20, 1e-3, 1e5, 1e20])
def test_prior_variance_scales_with_the_square_of_the_unit(normal, rng, c):
    x, m = 2 * normal(6, 8), normal(6, 8)
    noise = torch.rand(6, 8, dtype=torch.float64, generator=rng) + 0.3
    exact(prior_variance(c * x, c * m, c**2 * noise) / c**2, prior_variance(x, m, noise), rtol=1e-9)
    exact(prior_variance(c * x, c * m, 0.5 * c**2) / c**2, prior_variance(x, m, 0.5), rtol=1e-10)


def test_prior_variance_ignores_cell_order_and_sign(normal, rng):
    x, m = 2 * normal(4, 9), normal(4, 9)
    noise = torch.rand(4, 9, dtype=torch.float64, generator=rng) + 0.3
    order = torch.randperm(9, generator=rng)
    expected = prior_variance(x, m, noise)
    exact(prior_variance(x[:, order], m[:, order], noise[:, order]), expected, rtol=1e-9)
    exact(prior_variance(-x, -m, noise), expected)
    exact(prior_variance(m, x, noise), expected)


@pytest.mark.parametrize("truth", [0.0, 0.3, 4.0])
@pytest.mark.parametrize("varying", [False, True])
def test_prior_variance_recovers_the_truth(truth, varying):
    """Five standard errors of the Fisher information of one gene, averaged over the genes."""
    genes, cells = 60, 800
    draw = np.random.default_rng(11)
    noise = draw.uniform(0.5, 1.5, (genes, cells)) if varying else np.ones((genes, cells))
    m = draw.normal(size=(genes, cells))
    x = m + draw.normal(0, np.sqrt(truth), m.shape) + draw.normal(0, np.sqrt(noise))
    got = prior_variance(double(x), double(m), double(noise)).numpy()
    standard_error = np.sqrt(2 / (1 / (noise + truth) ** 2).sum(axis=1))
    assert np.abs(got - truth).max() < 5 * standard_error.max()
    if truth:  # unbiased up to the standard error of the average
        assert abs(got.mean() - truth) < 5 * standard_error.mean() / np.sqrt(genes)
    else:  # half the estimates lie on the boundary
        assert stats.binomtest(int((got == 0).sum()), genes, 0.5).pvalue > 1e-4


@pytest.mark.parametrize("truth", [0.0, 0.1, 0.5])
def test_the_cut_at_zero_adds_what_the_chi_square_distribution_says(truth):
    """Mean and share of zeros of max(0, q - 1), where S q / (1 + tau^2) is chi-square: each within four standard errors."""
    genes, cells = 20_000, 20
    x = double(np.random.default_rng(3).normal(0, np.sqrt(1 + truth), (genes, cells)))
    got = prior_variance(x, torch.zeros_like(x), 1.0).numpy()
    edge = cells / (1 + truth)
    expected = (1 + truth) * stats.chi2.sf(edge, cells + 2) - stats.chi2.sf(edge, cells)
    assert abs(got.mean() - expected) < 4 * got.std() / np.sqrt(genes)
    assert expected - truth > 6 * got.std() / np.sqrt(genes), "the bias must show to test anything"
    share = stats.chi2.cdf(edge, cells)
    assert abs((got == 0).mean() - share) < 4 * np.sqrt(share * (1 - share) / genes)
    uncut = ((x**2).mean(dim=1) - 1).numpy()
    assert abs(uncut.mean() - truth) < 4 * (1 + truth) * np.sqrt(2 / cells / genes)
    assert uncut.std() == pytest.approx((1 + truth) * np.sqrt(2 / cells), rel=0.03)
    if truth == 0:  # as the docstring says, for many cells
        assert expected == pytest.approx(1 / np.sqrt(np.pi * cells), rel=0.05)


def test_unequal_noise_at_the_boundary_gives_the_zeros_that_a_weighted_sum_of_chi_squares_says():
    """With a true 0 the maximum lies at 0 where the likelihood does not climb there; the mean stays as near as in theory."""
    genes, cells = 3000, 30
    draw = np.random.default_rng(4)
    noise = np.exp(draw.normal(0, 0.7, cells))
    x = double(np.sqrt(noise) * draw.normal(size=(genes, cells)))
    got = prior_variance(x, torch.zeros_like(x), double(np.broadcast_to(noise, x.shape).copy())).numpy()
    share = (((draw.chisquare(1, (40_000, cells)) - 1) / noise).sum(axis=1) <= 0).mean()
    assert share > 0.52, "not simply one half"
    assert abs((got == 0).mean() - share) < 4 * np.sqrt(share * (1 - share) * (1 / genes + 1 / 40_000))
    information_error = (0.5 * (noise**-2.0).sum()) ** -0.5
    assert got.mean() == pytest.approx(information_error / np.sqrt(2 * np.pi), rel=0.1)  # half a normal variable


def test_exactly_zero_where_the_likelihood_is_level_at_the_boundary():
    """Squares equal to the noise: the derivative at 0 is 0, and negative beyond."""
    x = double([[1.0, 2.0, 3.0]])
    assert prior_variance(x, torch.zeros_like(x), x**2).item() == 0


def test_float32_is_exactly_zero_where_the_maximum_lies_on_the_boundary():
    """Rounding in the likelihood must not turn an exact zero into a small number."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(100, 2000, generator=draw) + 0.5
    x = 0.97 * noise.sqrt() * torch.randn(100, 2000, generator=draw)
    in_double = prior_variance(x.double(), torch.zeros_like(x).double(), noise.double())
    slope = ((x.double() ** 2 - noise.double()) / noise.double() ** 2).sum(dim=1)
    boundary = (in_double == 0) & (slope < -1)
    assert boundary.sum() > 30
    assert (prior_variance(x, torch.zeros_like(x), noise)[boundary] == 0).all()


def test_float32_agrees_with_float64(normal, rng):
    x, m = 2 * normal(10, 30), normal(10, 30)
    noise = torch.rand(10, 30, dtype=torch.float64, generator=rng) + 0.3
    single = prior_variance(x.float(), m.float(), noise.float())
    assert single.dtype == torch.float32
    exact(single, prior_variance(x, m, noise), rtol=1e-4, atol=1e-5)


@given(
    genes=st.integers(0, 4),
    cells=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    kind=st.sampled_from(["equal", "constant", "one cell off", "spread"]),
    varying=st.booleans(),
)
def test_prior_variance_of_degenerate_rows(genes, cells, dtype, kind, varying):
    steps = torch.arange(genes * cells, dtype=dtype).reshape(genes, cells)
    m = steps % 3
    x = m.clone()
    if kind == "constant":
        x = x + 2
    elif kind == "one cell off":
        x[:, 0] += 7
    elif kind == "spread":
        x = x + steps
    noise = 1 + (steps % 2 if varying else torch.zeros_like(steps))
    got = prior_variance(x, m, noise)
    assert got.shape == (genes,) and got.dtype == dtype
    assert (got >= 0).all() and (got <= ((x - m) ** 2).amax(dim=1)).all()
    if kind == "equal":
        assert (got == 0).all()


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (-1.0, ["noise_var", "negative", "-1.0"]),
        (NAN, ["noise_var", "NaN", "nan"]),
        (INF, ["noise_var", "infinite", "inf"]),
        (torch.tensor([1.0, -2.0]), ["negative", "-2.0", "index 1"]),
        (torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]), ["positive where it differs", "index (0, 2)"]),
        (torch.ones(3), ["noise_var", "one per gene (2,)", "got shape (3,)"]),
        (torch.ones(1, 3), ["noise_var", "got shape (1, 3)"]),
    ],
)
def test_prior_variance_refuses_noise(noise, words):
    with pytest.raises(ValueError) as caught:
        prior_variance(torch.ones(2, 3), torch.zeros(2, 3), noise)
    for word in words:
        assert word in str(caught.value)


def test_prior_variance_refuses_expression():
    with pytest.raises(ValueError, match="at least one cell"):
        prior_variance(torch.ones(2, 0), torch.ones(2, 0), 1.0)
    with pytest.raises(ValueError, match=r"x must be finite; got nan at gene 0, cell 1"):
        prior_variance(torch.tensor([[0.0, NAN]]), torch.zeros(1, 2), 1.0)
    with pytest.raises(ValueError, match=r"got x \(2, 2\) and m \(1, 2\)"):
        prior_variance(torch.zeros(2, 2), torch.zeros(1, 2), 1.0)


def test_noise_free_cells_are_allowed_where_all_are():
    x = double([[1.0, 3.0]])
    assert prior_variance(x, torch.zeros_like(x), 0.0).item() == 5.0


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
    noise = double([0.1, 0.5, 1.0, 2.0, 90.0])
    size = ((x - m) ** 2).sum(dim=1)
    expected = torch.maximum(double(0.0), 1 - (8 - fitted - 2) * noise / size)
    got = james_stein_weight(x, m, noise, fitted)
    exact(got, expected)
    assert got[-1] == 0
    exact(james_stein_weight(10 * x, 10 * m, 100 * noise, fitted), expected)


def test_james_stein_limits():
    x = double([[1.0, 2.0, 3.0]])
    assert james_stein_weight(x, torch.zeros_like(x), 0.0).item() == 1
    assert james_stein_weight(x, x, 1.0).item() == 0
    assert james_stein_weight(1e9 * x, torch.zeros_like(x), 1.0).item() == pytest.approx(1, abs=1e-15)


def test_james_stein_never_returns_nan():
    """No noise and no difference: refuse it or give a weight, but no silent NaN."""
    x = torch.ones(1, 4)
    try:
        weight = james_stein_weight(x, x, 0.0)
    except ValueError as error:
        assert "noise_var" in str(error)
    else:
        assert 0 <= weight.item() <= 1


def test_james_stein_estimates_the_weight_of_eq_1():
    """E[(S - 2) / |d|^2] = 1 / (noise + prior): the average over rows is Eq. (1) within five standard errors."""
    rows, cells, noise, prior = 4000, 40, 1.0, 1.5
    draw = np.random.default_rng(3)
    x = draw.normal(0, math.sqrt(noise + prior), (rows, cells))
    weights = james_stein_weight(double(x), torch.zeros(rows, cells).double(), noise)
    standard_error = weights.std().item() / math.sqrt(rows)
    assert abs(weights.mean().item() - posterior_weight(noise, prior).item()) < 5 * standard_error + 1e-7


def test_james_stein_refuses():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"more than 3 columns.*1 fitted.*got 3"):
        james_stein_weight(x, x, 1.0, fitted=1)
    with pytest.raises(ValueError, match="noise_var must not be negative"):
        james_stein_weight(x, x, -1.0)
    with pytest.raises(ValueError, match=r"one per row \(2\).*\(3,\)"):
        james_stein_weight(x, x, torch.ones(3))
    with pytest.raises(ValueError, match="x and m must both"):
        james_stein_weight(x, x[:1], 1.0)
