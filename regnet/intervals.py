"""95 % intervals over seeds, over genes, and over both; chapter 17 of the book measures their coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


class Interval(NamedTuple):
    """The two ends of a 95 % interval: numbers, or arrays of one shape."""

    low: float | NDArray[np.float64]
    high: float | NDArray[np.float64]


def mean_interval(values: ArrayLike) -> Interval:
    r"""95 % t-interval for the mean over repetitions, e.g. over the seeds of a training, after Student (1908).

    .. math:: \bar v \pm t_{n-1,\,0.975}\, \frac{s}{\sqrt n}

    It is exact for normal values; with three to five values, skewness or few distinct values cost some coverage. It
    covers the variation between the values only: where all seeds share one set of genes it says nothing of other genes.

    Args:
        values: one number per repetition, shape (n,); ValueError unless there are at least two, all finite.

    Returns:
        The two ends, in the unit of ``values``.

    >>> low, high = mean_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    measured = np.asarray_chkfinite(values, dtype=float)
    if measured.ndim != 1 or measured.size < 2:
        raise ValueError(f"mean_interval needs a list of at least two values; got shape {measured.shape}")
    half_width = stats.t.ppf(0.975, measured.size - 1) * stats.sem(measured)
    return Interval(float(measured.mean() - half_width), float(measured.mean() + half_width))


def bootstrap_interval(
    statistic: Callable[..., ArrayLike], *columns: ArrayLike, resamples: int, rng: np.random.Generator
) -> Interval:
    """95 % percentile interval of a statistic over resampled rows, e.g. genes, after Efron and Tibshirani (1993).

    The ends are the 0.025 and 0.975 quantiles of the statistic over *B* draws of *n* rows with replacement. Rows count as
    independent: genes that share regulators are not, and the interval is then too narrow.

    Args:
        statistic: takes the resampled columns and returns a number, or an array of one shape.
        columns: each of shape (n,), one row per gene; the same genes are drawn from all of them.
        resamples: the number *B* of draws.
        rng: the generator of the draws.

    Returns:
        The two ends, in the unit and the shape of the statistic.

    Raises:
        ValueError: there are fewer than two rows, the columns are of different lengths, an entry is not finite, or the
            statistic is undefined (NaN) on some draw.

    >>> low, high = bootstrap_interval(np.median, [1.0, 2.0, 3.0, 4.0, 9.0], resamples=200, rng=np.random.default_rng(0))
    >>> float(low), float(high)
    (1.0, 9.0)
    """

    def defined(*drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        value = np.asarray(statistic(*drawn), dtype=float)
        if np.isnan(value).any():
            raise ValueError("the statistic is NaN on one draw of the rows: it must be defined on every one")
        return value

    table = [np.asarray_chkfinite(column, dtype=float) for column in columns]
    how = {"paired": True, "vectorized": False, "method": "percentile", "batch": 100}  # so many draws in memory at once
    return Interval(*stats.bootstrap(table, defined, n_resamples=resamples, rng=rng, **how).confidence_interval)


def seed_gene_interval(per_seed: ArrayLike, resampled: ArrayLike) -> Interval:
    r"""95 % interval for the mean over seeds that also covers the choice of genes.

    The seeds share one set of genes. The variance over genes is therefore that of the *mean* over seeds on resampled
    genes, and it is added to the variance of that mean over seeds:

    .. math:: \bar T \pm t_{\nu,\,0.975} \sqrt{V_g + V_s}, \quad V_s = s^2 / n, \quad \nu = (n-1) (V_g / V_s + 1)^2

    with the degrees of freedom of Welch (1947) and Satterthwaite (1946). An interaction of genes and seeds is in both
    variances, which makes the interval conservative; with skewed values of the seeds its coverage can still be too low.

    Args:
        per_seed: the statistic of every seed on all genes, shape (n, ...), finite.
        resampled: its mean over the seeds on resampled genes, shape (draws, ...); draws with NaN are left out.

    Returns:
        The two ends, of the shape of one seed's statistic and in its unit.

    Raises:
        ValueError: there are fewer than two seeds or two draws, the shapes do not match, or ``per_seed`` is not finite.

    >>> low, high = seed_gene_interval([0.1, 0.3, 0.2], [0.15, 0.25, 0.2, 0.2])
    >>> round(float(low), 2), round(float(high), 2)
    (0.01, 0.39)
    """
    measured, draws = np.asarray_chkfinite(per_seed, dtype=float), np.asarray(resampled, dtype=float)
    if measured.ndim < 1 or draws.ndim < 1 or min(len(measured), len(draws)) < 2 or measured.shape[1:] != draws.shape[1:]:
        shapes = f"{measured.shape} and {draws.shape}"
        raise ValueError(f"per_seed (seeds, ...) and resampled (draws, ...) need at least two of each; got shapes {shapes}")
    over_genes = np.nanvar(draws, axis=0, ddof=1)
    over_seeds = measured.var(axis=0, ddof=1) / len(measured)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = (len(measured) - 1) * ((over_genes + over_seeds) / over_seeds) ** 2
    freedom = np.where(over_seeds == 0, np.inf, freedom)  # a normal interval over genes
    half_width = stats.t.ppf(0.975, freedom) * np.sqrt(over_genes + over_seeds)
    return Interval(measured.mean(axis=0) - half_width, measured.mean(axis=0) + half_width)
