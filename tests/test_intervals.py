"""The intervals against scipy, statsmodels and closed forms; chapter 17 of the book measures their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from regnet import bootstrap_interval, mean_interval, seed_gene_interval
from regnet.figures import trend_band


def correlation(a, b):
    """Spearman's."""
    return np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1]


# mean_interval


def test_the_t_interval_is_that_of_scipy():
    row = np.random.default_rng(0).normal(size=7)
    np.testing.assert_allclose(mean_interval(row), stats.ttest_1samp(row, 0).confidence_interval(0.95), rtol=1e-12)
    assert mean_interval([0.25] * 4) == (0.25, 0.25)


# bootstrap_interval


def test_the_ends_are_the_quantiles_over_draws_of_whole_rows():
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    a, b = np.random.default_rng(4).normal(size=(2, 40))
    found = bootstrap_interval(correlation, a, b, resamples=100, rng=rng)
    rows = [again.integers(40, size=40) for _ in range(100)]
    np.testing.assert_allclose(found, np.quantile([correlation(a[r], b[r]) for r in rows], [0.025, 0.975]), rtol=1e-12)
    assert rng.random() == again.random()


def test_the_bootstrap_takes_statistics_of_many_values_and_has_the_width_of_the_standard_error():
    a = np.random.default_rng(5).normal(size=2000)

    def both(drawn):
        return np.array([drawn.mean(), np.median(drawn)])

    low, high = bootstrap_interval(both, a, resamples=1000, rng=np.random.default_rng(0))
    moved = bootstrap_interval(both, 5 - 2 * a, resamples=1000, rng=np.random.default_rng(0))
    assert low.shape == high.shape == (2,)
    np.testing.assert_allclose(moved, (5 - 2 * high, 5 - 2 * low), rtol=1e-12)
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * stats.sem(a), rel=0.1)


# seed_gene_interval


def test_the_degrees_of_freedom_are_those_of_welch_and_satterthwaite():
    """The square of the sum over the square of each part by its own; the variance over genes counts as known."""
    per_seed, resampled = np.array([0.1, 0.3, 0.2]), np.array([0.15, 0.25, 0.2, 0.2, 0.4])
    over_seeds, over_genes = per_seed.var(ddof=1) / 3, resampled.var(ddof=1)
    freedom = (over_seeds + over_genes) ** 2 / (over_seeds**2 / 2)
    half_width = stats.t.ppf(0.975, freedom) * math.sqrt(over_seeds + over_genes)
    np.testing.assert_allclose(seed_gene_interval(per_seed, resampled), (0.2 - half_width, 0.2 + half_width), rtol=1e-12)


def test_no_variance_over_genes_leaves_the_t_interval_and_none_over_seeds_the_normal_one():
    per_seed = np.array([0.1, 0.3, 0.2, 0.6])
    np.testing.assert_allclose(seed_gene_interval(per_seed, [0.3, 0.3, 0.3]), mean_interval(per_seed), rtol=1e-12)
    assert seed_gene_interval([0.5, 0.5, 0.5], [0.5, 0.5]) == (0.5, 0.5)
    width = np.ptp(seed_gene_interval([0.5, 0.5, 0.5], [0.5, 0.7]))
    assert width == pytest.approx(2 * stats.norm.ppf(0.975) * np.std([0.5, 0.7], ddof=1))


def test_statistics_of_any_shape_are_taken_one_by_one_and_undefined_draws_left_out():
    rng = np.random.default_rng(0)
    per_seed, resampled = rng.normal(size=(5, 2, 3)), rng.normal(size=(50, 2, 3))
    low, high = seed_gene_interval(per_seed, resampled)
    assert low.shape == high.shape == (2, 3)
    one = seed_gene_interval(per_seed[:, 1, 2], resampled[:, 1, 2])
    assert (low[1, 2], high[1, 2]) == pytest.approx(tuple(one), rel=1e-12)
    with_gaps = np.concatenate([resampled, np.full((3, 2, 3), math.nan)])
    np.testing.assert_allclose(seed_gene_interval(per_seed, with_gaps), (low, high), rtol=1e-12)


# What is refused


def resampled(*columns):
    def statistic(first, *_):
        return 1.0 if first.any() else math.nan

    return bootstrap_interval(statistic, *columns, resamples=50, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([1.0]), r"at least two values; got shape \(1,\)"),
        (lambda: mean_interval([1.0, math.nan, 2.0]), "infs or NaNs"),
        (lambda: resampled([1.0]), "two or more observations"),
        (lambda: resampled([1.0, 2.0], [1.0, 2.0, 3.0]), "same length"),
        (lambda: resampled([1.0, 2.0], [1.0, math.nan]), "infs or NaNs"),
        (lambda: resampled([1.0, 0.0, 0.0]), "the statistic is NaN on one draw of the rows"),
        (lambda: seed_gene_interval([0.1], [0.1, 0.2]), r"at least two of each; got shapes \(1,\) and \(2,\)"),
        (lambda: seed_gene_interval([0.1, 0.2], [0.1]), r"at least two of each; got shapes \(2,\) and \(1,\)"),
        (lambda: seed_gene_interval(np.ones((5, 2)), np.ones((9, 3))), r"got shapes \(5, 2\) and \(9, 3\)"),
        (lambda: seed_gene_interval([0.1, math.nan], [0.1, 0.2]), "infs or NaNs"),
    ],
)
def test_what_has_no_interval_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# trend_band


def test_the_band_has_the_standard_errors_hc3_of_statsmodels():
    import statsmodels.api as sm
    from sklearn.preprocessing import SplineTransformer

    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, 80)
    y = 0.3 + 0.2 * x + 0.1 * rng.normal(size=80)
    grid, middle, low, high = trend_band(x, y)
    spline = SplineTransformer(n_knots=3, degree=2).fit(x[:, None])
    fit = sm.OLS(y, spline.transform(x[:, None])).fit(cov_type="HC3", use_t=True)
    expected = fit.get_prediction(spline.transform(grid[:, None]))
    np.testing.assert_allclose(middle, expected.predicted_mean, rtol=1e-8)
    np.testing.assert_allclose(np.stack([low, high], axis=1), expected.conf_int(), rtol=1e-6)


def test_the_band_is_wide_where_one_gene_alone_determines_the_spline():
    x = np.r_[np.repeat([0.0, 0.1, 0.2], 20), 1.0]
    _, _, low, high = trend_band(x, np.r_[np.tile([0.4, 0.5], 30), 0.9])
    assert high[-1] - low[-1] > 1
    assert high[0] - low[0] < 0.1


# over_matrices


def test_networks_of_one_matrix_count_as_one_and_the_interval_is_that_of_the_random_effect():
    import pandas as pd
    from statsmodels.formula.api import mixedlm

    from regnet import over_matrices

    matrices = np.repeat(["a", "b", "c", "d"], 3)
    estimates = np.array([1.0, 1.2, 0.9, -0.4, -0.2, -0.5, 2.1, 2.0, 2.2, 0.3, 0.1, 0.5])
    found = over_matrices(estimates, matrices)
    fit = mixedlm("t ~ 1", pd.DataFrame({"t": estimates, "m": matrices}), groups="m").fit()
    np.testing.assert_allclose((found.estimate, found.error), (fit.params["Intercept"], fit.bse["Intercept"]), rtol=1e-3)
    assert found.freedom == 3
    assert over_matrices([*estimates, 0.3], [*matrices, "d"]).estimate == pytest.approx(found.estimate)


@pytest.mark.parametrize("case", [([0.1, 0.2], ["a", "a"]), ([0.1, 0.2], ["a", "b", "c"]), ([0.1, math.nan], ["a", "b"])])
def test_a_mean_over_matrices_needs_two_of_them_and_one_for_each_network(case):
    from regnet import over_matrices

    with pytest.raises(ValueError, match="over_matrices needs one matrix a network|infs or NaNs"):
        over_matrices(*case)
