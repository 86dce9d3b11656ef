"""The 95 % intervals hold the truth 95 times in a hundred where it is known, and say what they cannot be computed from.

Coverages are counted over fixed draws and must lie within four binomial standard errors; chapter 17 of the book does the
same for genes like those of the data.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regnet import bootstrap_interval, mean_interval, seed_gene_interval
from regnet.figures import trend_band

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20)


def covers(hits, nominal=0.95):
    """Whether the share of hits is the nominal one, within four standard errors."""
    return abs(np.mean(hits) - nominal) < 4 * math.sqrt(nominal * (1 - nominal) / len(hits))


def holds(interval, truth):
    return interval[0] <= truth <= interval[1]


def correlation(a, b):
    """Spearman's."""
    return np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1]


# mean_interval


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_the_t_interval_covers_the_mean(seeds):
    draws = np.random.default_rng(seeds).normal(0.3, 0.1, size=(4000, seeds))
    assert covers([holds(mean_interval(row), 0.3) for row in draws])


def test_the_count_would_notice_a_normal_quantile():
    draws = np.random.default_rng(5).normal(0.3, 0.1, size=(4000, 5))
    assert not covers(np.abs(draws.mean(axis=1) - 0.3) < stats.norm.ppf(0.975) * stats.sem(draws, axis=1))


def test_the_t_interval_is_that_of_scipy():
    row = np.random.default_rng(0).normal(size=7)
    np.testing.assert_allclose(mean_interval(row), stats.ttest_1samp(row, 0).confidence_interval(0.95), rtol=1e-12)


@given(values, st.floats(-1e3, 1e3), st.sampled_from([-2.0, -0.5, 3.0]))
def test_the_t_interval_moves_and_stretches_with_its_values(row, shift, factor):
    low, high = mean_interval(row)
    assert low <= np.mean(row) + 1e-9 and np.mean(row) - 1e-9 <= high
    moved = mean_interval(shift + factor * np.array(row))
    expected = sorted((shift + factor * low, shift + factor * high))
    np.testing.assert_allclose(moved, expected, rtol=1e-7, atol=1e-5)


def test_the_t_interval_shrinks_like_the_square_root_of_the_number():
    row = np.random.default_rng(0).normal(size=500)
    widths = [np.ptp(mean_interval(np.tile(row, times))) for times in (1, 4, 16)]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.01) and widths[1] / widths[2] == pytest.approx(2, rel=0.01)


def test_equal_values_leave_a_point():
    assert mean_interval([0.25] * 4) == (0.25, 0.25)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([], r"at least two values; got shape \(0,\)"),
        ([1.0], r"at least two values; got shape \(1,\)"),
        (1.0, r"at least two values; got shape \(\)"),
        ([[1.0, 2.0], [1.0, 2.0]], r"a list of at least two values; got shape \(2, 2\)"),
        ([1.0, math.nan, 2.0], "values must be finite; got nan at index 1"),
        ([1.0, 2.0, math.inf], "values must be finite; got inf at index 2"),
    ],
)
def test_what_has_no_t_interval_is_refused(row, words):
    with pytest.raises(ValueError, match=words):
        mean_interval(row)


# bootstrap_interval


def test_the_bootstrap_covers_a_mean():
    """Over 200 rows, where the percentile interval is nearly exact, with as many draws as make its quantiles sharp."""
    rng = np.random.default_rng(0)
    hits = [holds(bootstrap_interval(np.mean, rng.gamma(4, size=200), resamples=300, rng=rng), 4) for _ in range(400)]
    assert covers(hits)


def test_the_bootstrap_covers_a_rank_correlation_with_ties():
    """Weights of whole degrees plus noise; by symmetry the correlation with noise of its own kind is zero."""
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(250):
        degree, weight = rng.geometric(0.4, 150), rng.gamma(2, size=150)
        hits.append(holds(bootstrap_interval(correlation, degree, weight, resamples=100, rng=rng), 0))
    assert covers(hits)


def test_the_width_is_that_of_the_standard_error():
    """A bootstrap that draws half of the rows, or the columns apart from each other, has another width."""
    rng = np.random.default_rng(2)
    a = rng.normal(size=2000)
    width = np.ptp(bootstrap_interval(np.mean, a, resamples=2000, rng=rng))
    assert width == pytest.approx(2 * 1.96 * stats.sem(a), rel=0.08)
    b = a + 0.1 * rng.normal(size=2000)
    low, high = bootstrap_interval(correlation, a, b, resamples=200, rng=rng)
    assert low < correlation(a, b) < high and low > 0.98
    four = np.ptp(bootstrap_interval(np.mean, np.tile(a, 4), resamples=2000, rng=rng))
    assert width / four == pytest.approx(2, rel=0.1)


def test_the_ends_are_the_quantiles_of_draws_of_all_rows():
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    a, b = np.random.default_rng(4).normal(size=(2, 40))
    found = bootstrap_interval(correlation, a, b, resamples=100, rng=rng)
    rows = [again.integers(40, size=40) for _ in range(100)]
    np.testing.assert_allclose(found, np.quantile([correlation(a[r], b[r]) for r in rows], [0.025, 0.975]), rtol=1e-12)
    assert rng.random() == again.random()


def test_the_bootstrap_moves_with_its_rows_and_takes_statistics_of_many_values():
    a = np.random.default_rng(5).normal(size=30)

    def both(drawn):
        return np.array([drawn.mean(), np.median(drawn)])

    low, high = bootstrap_interval(both, a, resamples=100, rng=np.random.default_rng(0))
    moved = bootstrap_interval(both, 5 - 2 * a, resamples=100, rng=np.random.default_rng(0))
    assert low.shape == high.shape == (2,) and (low < high).all()
    np.testing.assert_allclose(moved, (5 - 2 * high, 5 - 2 * low), rtol=1e-12)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (([1.0],), r"at least two rows; got the shapes \[\(1,\)\]"),
        (([1.0, 2.0], [1.0, 2.0, 3.0]), r"columns of one length.*got the shapes \[\(2,\), \(3,\)\]"),
        ((np.ones((2, 2)),), r"got the shapes \[\(2, 2\)\]"),
        (([1.0, 2.0], [1.0, math.nan]), "column 1 must be finite; got nan at index 1"),
    ],
)
def test_what_cannot_be_resampled_is_refused(columns, words):
    with pytest.raises(ValueError, match=words):
        bootstrap_interval(lambda *drawn: drawn[0].mean(), *columns, resamples=10, rng=np.random.default_rng(0))


def test_a_statistic_without_a_value_on_some_draw_is_refused():
    lone = np.array([1.0, 0.0, 0.0])

    def statistic(drawn):
        return 1.0 if drawn.any() else math.nan

    with pytest.raises(ValueError, match="defined on every draw of the rows; it is NaN on one"):
        bootstrap_interval(statistic, lone, resamples=50, rng=np.random.default_rng(0))


# seed_gene_interval


def crossed(rng, genes=60, seeds=5, over_genes=1.0, over_seeds=0.2, over_both=0.3):
    """Values of seeds x genes of mean 0, and their means: of every seed, and over the seeds on resampled genes."""
    table = over_genes * rng.normal(size=genes) + over_seeds * rng.normal(size=(seeds, 1))
    table = table + over_both * rng.normal(size=(seeds, genes))
    rows = rng.integers(genes, size=(200, genes))
    return table.mean(axis=1), table.mean(axis=0)[rows].mean(axis=1)


def test_the_interval_over_seeds_and_genes_covers_both():
    rng = np.random.default_rng(0)
    draws = [crossed(rng) for _ in range(1500)]
    assert covers([holds(seed_gene_interval(*draw), 0) for draw in draws])
    assert not covers([holds(mean_interval(per_seed), 0) for per_seed, _ in draws])  # what each of the two leaves out
    assert not covers([holds(np.quantile(again, [0.025, 0.975]), 0) for _, again in draws])


def test_what_differs_between_genes_and_seeds_makes_it_wide_and_never_narrow():
    rng = np.random.default_rng(1)
    hits = [holds(seed_gene_interval(*crossed(rng, over_genes=0.0, over_seeds=0.0, over_both=1.0)), 0) for _ in range(800)]
    assert np.mean(hits) > 0.97


def test_without_genes_it_is_the_t_interval_and_with_many_degrees_of_freedom_the_normal_one():
    per_seed = np.array([0.1, 0.3, 0.2, 0.6])
    np.testing.assert_allclose(seed_gene_interval(per_seed, [0.3, 0.3, 0.3]), mean_interval(per_seed), rtol=1e-12)
    assert seed_gene_interval([0.5, 0.5, 0.5], [0.5, 0.5]) == (0.5, 0.5), "nothing varies"
    agreed = seed_gene_interval([0.5, 0.5, 0.5], [0.5, 0.7])
    assert np.ptp(agreed) == pytest.approx(2 * stats.norm.ppf(0.975) * np.std([0.5, 0.7], ddof=1))
    again = np.random.default_rng(0).normal(0, 100, size=2000)
    assert np.ptp(seed_gene_interval(per_seed, again)) == pytest.approx(
        2 * stats.norm.ppf(0.975) * again.std(ddof=1), rel=1e-3
    )


def test_the_degrees_of_freedom_are_those_of_welch_and_satterthwaite():
    """The square of the sum over the square of each part by its own; the variance over genes counts as known."""
    per_seed, again = np.array([0.1, 0.3, 0.2]), np.array([0.15, 0.25, 0.2, 0.2, 0.4])
    over_seeds, over_genes = per_seed.var(ddof=1) / 3, again.var(ddof=1)
    freedom = (over_seeds + over_genes) ** 2 / (over_seeds**2 / 2)
    half_width = stats.t.ppf(0.975, freedom) * math.sqrt(over_seeds + over_genes)
    np.testing.assert_allclose(seed_gene_interval(per_seed, again), (0.2 - half_width, 0.2 + half_width), rtol=1e-12)


def test_statistics_of_any_shape_are_taken_one_by_one_and_undefined_draws_left_out():
    rng = np.random.default_rng(0)
    per_seed, again = rng.normal(size=(5, 2, 3)), rng.normal(size=(50, 2, 3))
    low, high = seed_gene_interval(per_seed, again)
    assert low.shape == high.shape == (2, 3)
    alone = seed_gene_interval(per_seed[:, 1, 2], again[:, 1, 2])
    assert (low[1, 2], high[1, 2]) == pytest.approx(tuple(alone), rel=1e-12)
    with_gaps = np.concatenate([again, np.full((3, 2, 3), math.nan)])
    np.testing.assert_allclose(seed_gene_interval(per_seed, with_gaps), (low, high), rtol=1e-12)


@pytest.mark.parametrize(
    ("per_seed", "resampled", "words"),
    [
        ([0.1], [0.1, 0.2], r"at least two of each; got the shapes \(1,\) and \(2,\)"),
        ([0.1, 0.2], [0.1], r"at least two of each; got the shapes \(2,\) and \(1,\)"),
        (0.1, [0.1, 0.2], r"got the shapes \(\) and \(2,\)"),
        (np.ones((5, 2)), np.ones((9, 3)), r"got the shapes \(5, 2\) and \(9, 3\)"),
        ([0.1, math.nan], [0.1, 0.2], "per_seed must be finite; got nan at index 1"),
        (np.full((2, 2), math.inf), np.ones((3, 2)), r"per_seed must be finite; got inf at index \(0, 0\)"),
    ],
)
def test_what_has_no_interval_over_seeds_and_genes_is_refused(per_seed, resampled, words):
    with pytest.raises(ValueError, match=words):
        seed_gene_interval(per_seed, resampled)


# trend_band


def test_the_band_covers_a_smooth_trend_at_every_point_even_where_the_spread_changes():
    rng = np.random.default_rng(0)

    def smooth(x):
        return 0.4 + 0.1 * x - 0.03 * x**2

    hits = []
    for _ in range(1500):
        x = rng.uniform(0, 3, 300)
        grid, _, low, high = trend_band(x, smooth(x) + (0.02 + 0.05 * x) * rng.normal(size=300))
        hits.append((low <= smooth(grid)) & (smooth(grid) <= high))
    assert all(covers([hit[point] for hit in hits]) for point in (0, 15, 30, 45, 59))


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


def test_the_band_is_wide_where_one_gene_alone_decides():
    """The spline passes through the last gene, whose residual is zero whatever its weight."""
    x = np.r_[np.repeat([0.0, 0.1, 0.2], 20), 1.0]
    _, _, low, high = trend_band(x, np.r_[np.tile([0.4, 0.5], 30), 0.9])
    assert high[-1] - low[-1] > 1
    assert high[0] - low[0] < 0.1
