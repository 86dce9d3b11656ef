"""The intervals against scipy, statsmodels and closed forms; appendix C of the book measures their coverage."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.preprocessing import SplineTransformer
from statsmodels.formula.api import mixedlm

from regnet import mean_interval, over_matrices
from regnet.figures import trend_band
from regnet.intervals import Contrast, contrast, decide, effective_clusters, resample_regulators


def test_the_t_interval_is_that_of_scipy():
    row = np.random.default_rng(0).normal(size=7)
    np.testing.assert_allclose(mean_interval(row), stats.ttest_1samp(row, 0).confidence_interval(0.95), rtol=1e-12)
    assert mean_interval([0.25] * 4) == (0.25, 0.25)


def test_without_variance_over_genes_a_contrast_is_welchs_t_interval():
    trained, control = np.random.default_rng(1).normal(size=12), np.random.default_rng(2).normal(1, 3, size=5)
    estimate, error, freedom = contrast([trained, control], [0.3, 0.3, 0.3], clusters=9)
    half_width = stats.t.ppf(0.975, freedom) * error
    expected = stats.ttest_ind(trained, control, equal_var=False).confidence_interval()
    np.testing.assert_allclose((estimate - half_width, estimate + half_width), expected, rtol=1e-12)
    assert contrast([trained, control]) == (estimate, error, freedom)


def test_without_variance_over_layers_the_error_is_that_over_genes_with_a_freedom_less_than_the_clusters():
    found = contrast([[0.5, 0.5], [0.25] * 3], [0.1, 0.3, math.nan, 0.3, 0.1], clusters=7.5)
    np.testing.assert_allclose(found, (0.25, math.sqrt(0.04 / 3), 6.5), rtol=1e-12)
    assert contrast([[0.5, 0.5]], [0.2, 0.2], clusters=2) == (0.5, 0, math.inf)


def test_genes_come_together_with_the_probability_that_a_regulator_of_theirs_is_common():
    """Genes 4 and 5 have the regulator 0, gene 6 the regulators 0 and 1, gene 7 the regulators 1 and 2; 8 has none."""
    edge_index = [[0, 0, 0, 1, 1, 2, 2], [4, 5, 6, 6, 7, 7, 7]]  # the last edge twice
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    times = np.array([np.bincount(resample_regulators(edge_index, rng), minlength=9) for _ in range(10_000)])
    assert (times[:, 4] == times[:, 5]).all()
    assert not times[:, [0, 1, 2, 3, 8]].any()
    together = np.array([[1, 1, 1 / 2, 0], [1, 1, 1 / 2, 0], [1 / 2, 1 / 2, 1, 1 / 3], [0, 0, 1 / 3, 1]])
    np.testing.assert_allclose(times[:, 4:8].mean(axis=0), 1, atol=0.033)  # four standard errors of a binomial's mean
    np.testing.assert_allclose(np.cov(times[:, 4:8].T), together - 1 / 3, atol=0.05)  # cells of a multinomial
    np.testing.assert_array_equal(np.bincount(resample_regulators(edge_index, again), minlength=9), times[0])


def test_effective_clusters_are_the_regulators_where_these_have_as_many_genes_of_their_own():
    assert effective_clusters([[0, 1, 2, 2], [3, 4, 5, 5]]) == pytest.approx(3)
    assert effective_clusters([[0, 0, 1, 1], [2, 3, 3, 4]]) == pytest.approx(9 / 5)  # two genes and one, in either order


def test_the_verdicts_are_those_of_two_one_sided_tests_and_a_t_test_after_holm():
    estimate, error, freedom = np.array([0.01, -0.5, 0.11]), np.array([0.02, 0.1, 0.05]), np.array([8, 30, 12])
    rows = zip(estimate, error, freedom, strict=True)
    table = decide(dict(zip("abc", (Contrast(*row) for row in rows), strict=True)), dict.fromkeys("abc", 0.1))
    zero = 2 * stats.t.sf(np.abs(estimate) / error, freedom) * [1, 3, 2]
    inside = np.maximum(stats.t.cdf((estimate - 0.1) / error, freedom), stats.t.sf((estimate + 0.1) / error, freedom))
    np.testing.assert_allclose(table["p_zero"], zero, rtol=1e-12)
    np.testing.assert_allclose(table["p_equivalence"], np.minimum(inside * 3, 1), rtol=1e-12)
    np.testing.assert_allclose(table[["low", "high"]].T, stats.t.interval(0.95, freedom, estimate, error), rtol=1e-12)
    assert zero[2] / 2 < 0.05 < zero[2]
    assert table["verdict"].tolist() == ["absent within 0.1", "present", "not shown"]


def test_an_estimate_without_error_is_decided_by_its_value():
    exact = {name: Contrast(value, 0, math.inf) for name, value in zip("abc", (0.5, 0.05, 0), strict=True)}
    table = decide(exact, dict.fromkeys("abc", 0.1))
    assert table["verdict"].tolist() == ["present", "absent within 0.1", "absent within 0.1"]
    assert table["p_zero"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([1.0]), r"at least two values; got shape \(1,\)"),
        (lambda: mean_interval([1.0, math.nan, 2.0]), "infs or NaNs"),
        (lambda: contrast([[0.1]], [0.1, 0.2], 5), "at least two layers, two defined draws"),
        (lambda: contrast([[0.1, 0.2]], [0.1, math.nan], 5), "two defined draws"),
        (lambda: contrast([[0.1, 0.2]], [0.1, 0.2], 1), "more than one cluster"),
        (lambda: decide({"a": Contrast(0.1, 0.1, 5)}, {"b": 0.1}), r"none for \['a'\]"),
    ],
)
def test_what_has_no_interval_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_band_has_the_standard_errors_hc3_of_statsmodels():
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
    matrices = np.repeat(["a", "b", "c", "d"], 3)
    estimates = np.array([1.0, 1.2, 0.9, -0.4, -0.2, -0.5, 2.1, 2.0, 2.2, 0.3, 0.1, 0.5])
    found = over_matrices(estimates, matrices)
    fit = mixedlm("t ~ 1", pd.DataFrame({"t": estimates, "m": matrices}), groups="m").fit()
    np.testing.assert_allclose((found.estimate, found.error), (fit.params["Intercept"], fit.bse["Intercept"]), rtol=1e-3)
    assert found.freedom == 3
    assert over_matrices([*estimates, 0.3], [*matrices, "d"]).estimate == pytest.approx(found.estimate)


@pytest.mark.parametrize("case", [([0.1, 0.2], ["a", "a"]), ([0.1, 0.2], ["a", "b", "c"]), ([0.1, math.nan], ["a", "b"])])
def test_a_mean_over_matrices_needs_two_of_them_and_one_for_each_network(case):
    with pytest.raises(ValueError, match=r"over_matrices needs one matrix a network|infs or NaNs"):
        over_matrices(*case)
