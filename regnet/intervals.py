r"""95 % intervals over seeds, over genes, and over both.

Which repetitions an interval speaks for is part of what it says: chapter 17 of the book simulates each of the three and
counts how often it holds the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_TAILS = np.array([0.025, 0.975])


class Interval(NamedTuple):
    """The two ends of a 95 % interval: numbers, or arrays of one shape."""

    low: float | NDArray[np.float64]
    """Where it starts."""
    high: float | NDArray[np.float64]
    """Where it ends."""


def mean_interval(values: ArrayLike) -> Interval:
    r"""95 % t-interval for the mean over repetitions, e.g. over the seeds of a training.

    .. math:: \bar v \pm t_{n-1,\,0.975}\, \frac{s}{\sqrt n}

    It covers exactly for normal values and nearly for values close to normal; with three to five values, skewness or few
    distinct values cost some points. It speaks for what differs between the values and
    for nothing else: where all seeds share one set of genes it does not speak for other genes.

    Args:
        values: one number a repetition, shape (n,), in any unit.

    Returns:
        The two ends, in the unit of ``values``.

    Raises:
        ValueError: there are fewer than two values, they are no list, or one is not finite.

    References:
        Student (1908); chapters 7, 14 and 17 of the book.

    >>> low, high = mean_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    measured = np.asarray(values, dtype=float)
    if measured.ndim != 1 or measured.size < 2:
        raise ValueError(f"mean_interval needs a list of at least two values; got shape {measured.shape}")
    _check_finite(measured, "values")
    half_width = stats.t.ppf(_TAILS[1], measured.size - 1) * stats.sem(measured)
    return Interval(float(measured.mean() - half_width), float(measured.mean() + half_width))


def bootstrap_interval(
    statistic: Callable[..., ArrayLike], *columns: ArrayLike, resamples: int, rng: np.random.Generator
) -> Interval:
    r"""95 % percentile interval of a statistic over resampled rows, e.g. genes.

    With :math:`T^*_1, \dots, T^*_B` the statistic of *B* draws of *n* rows with replacement, the ends are the quantiles of
    :math:`T^*` at 0.025 and 0.975. Rows count as independent: genes that share regulators are not, and the interval is then
    too narrow (chapter 17).

    Args:
        statistic: takes the resampled columns and returns a number, or an array of one shape.
        columns: each of shape (n,), one row a gene; the same genes are drawn from all of them.
        resamples: the number *B* of draws.
        rng: where the draws come from.

    Returns:
        The two ends, in the unit and the shape of the statistic.

    Raises:
        ValueError: there are fewer than two rows, the columns are of different lengths, an entry is not finite, or the
            statistic is undefined (NaN) on some draw.

    References:
        Efron and Tibshirani (1993); chapters 11, 13 and 17 of the book.

    >>> low, high = bootstrap_interval(np.median, [1.0, 2.0, 3.0, 4.0, 9.0], resamples=200, rng=np.random.default_rng(0))
    >>> float(low), float(high)
    (1.0, 9.0)
    """
    table = [np.asarray(column, dtype=float) for column in columns]
    shapes = [column.shape for column in table]
    if len(set(shapes)) != 1 or table[0].ndim != 1 or table[0].size < 2:
        raise ValueError(f"bootstrap_interval needs columns of one length, at least two rows; got the shapes {shapes}")
    for number, column in enumerate(table):
        _check_finite(column, f"column {number}")

    def on_rows(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        value = np.asarray(statistic(*(column[rows] for column in table)), dtype=float)
        if np.isnan(value).any():
            raise ValueError("the statistic must be defined on every draw of the rows; it is NaN on one: too few of a kind")
        return value

    rows = np.arange(table[0].size)
    how = {"vectorized": False, "method": "percentile", "batch": 100}  # so many draws are in memory at once
    drawn = stats.bootstrap((rows,), on_rows, n_resamples=resamples, rng=rng, **how)
    return Interval(*drawn.confidence_interval)


def seed_gene_interval(per_seed: ArrayLike, resampled: ArrayLike) -> Interval:
    r"""95 % interval for the mean over seeds that also speaks for other genes.

    The seeds share one set of genes, so the variance over genes is that of the *mean* over seeds when the same genes are
    resampled for all of them, and it is added to the variance of that mean over seeds:

    .. math::

        \bar T \pm t_{\nu,\,0.975} \sqrt{V_g + V_s}, \qquad V_s = \frac{s^2}{n}, \qquad
        \nu = (n-1) \Bigl(\frac{V_g + V_s}{V_s}\Bigr)^2

    with the degrees of freedom of Welch and Satterthwaite. What differs between genes *and* seeds is in both variances,
    which makes it wider; where the seeds' values are skewed it can still cover less often than it says (chapter 17).

    Args:
        per_seed: the statistic of every seed on all genes, shape (n, ...).
        resampled: its mean over the seeds on resampled genes, shape (draws, ...); draws with NaN are left out.

    Returns:
        The two ends, of the shape of one seed's statistic and in its unit.

    Raises:
        ValueError: there are fewer than two seeds or two draws, the shapes do not match, or ``per_seed`` is not finite.

    References:
        Welch (1947); Satterthwaite (1946); chapters 12 and 17 of the book.

    >>> low, high = seed_gene_interval([0.1, 0.3, 0.2], [0.15, 0.25, 0.2, 0.2])
    >>> round(float(low), 2), round(float(high), 2)
    (0.01, 0.39)
    """
    measured, draws = np.asarray(per_seed, dtype=float), np.asarray(resampled, dtype=float)
    if measured.ndim < 1 or draws.ndim < 1 or min(len(measured), len(draws)) < 2 or measured.shape[1:] != draws.shape[1:]:
        raise ValueError(
            "seed_gene_interval needs per_seed (seeds, ...) and resampled (draws, ...) with at least two of each; "
            f"got the shapes {measured.shape} and {draws.shape}"
        )
    _check_finite(measured, "per_seed")
    over_genes = np.nanvar(draws, axis=0, ddof=1)
    over_seeds = measured.var(axis=0, ddof=1) / len(measured)
    with np.errstate(divide="ignore", invalid="ignore"):  # seeds that agree leave only the genes: a normal interval
        freedom = (len(measured) - 1) * ((over_genes + over_seeds) / over_seeds) ** 2
    freedom = np.where(over_seeds == 0, np.inf, freedom)
    half_width = stats.t.ppf(_TAILS[1], freedom) * np.sqrt(over_genes + over_seeds)
    return Interval(measured.mean(axis=0) - half_width, measured.mean(axis=0) + half_width)


def _check_finite(values: NDArray[np.float64], name: str) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(index) for index in np.argwhere(bad)[0])
        raise ValueError(f"{name} must be finite; got {values[where]} at index {where if len(where) > 1 else where[0]}")
