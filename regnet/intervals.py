"""95 % intervals over seeds, over genes and over both, and what they decide; appendix C measures their coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests


class Interval(NamedTuple):
    """The two ends of a 95 % interval."""

    low: float
    high: float


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


class Contrast(NamedTuple):
    """An estimate with its standard error and degrees of freedom."""

    estimate: float
    error: float
    freedom: float


def contrast(layers: Sequence[ArrayLike], over_genes: ArrayLike | None = None, clusters: float = 0) -> Contrast:
    r"""Mean of a trend over layers, or its difference from that of control layers, with what genes and layers contribute.

    .. math:: \hat T = \bar T_1 - \bar T_2, \quad V = V_g + \frac{s_1^2}{n_1} + \frac{s_2^2}{n_2}, \quad
        \nu = \frac{V^2}{\frac{V_g^2}{C - 1} + \sum_k \frac{(s_k^2 / n_k)^2}{n_k - 1}}

    with the degrees of freedom of Welch (1947) and Satterthwaite (1946). All layers share one set of genes, so that
    :math:`V_g` is the variance of :math:`\hat T` itself over resampled genes.

    Args:
        layers: the trend of every layer, shape (n,), and where there is a control that of every control layer.
        over_genes: :math:`\hat T` on resampled genes, shape (draws,); draws where it is NaN are left out. Without them
            :math:`V_g = 0`: a statement about these genes, over trainings alone.
        clusters: the number *C* of units resampled; :func:`effective_clusters` with :func:`resample_regulators`.

    Raises:
        ValueError: a value is not finite, or there are fewer than two of layers, draws or clusters.

    >>> [round(value, 3) for value in contrast([[0.1, 0.3, 0.2]], [0.15, 0.25, 0.2, 0.2], clusters=10)]
    [0.2, 0.071, 4.263]
    """
    parts = [np.asarray_chkfinite(part, dtype=float) for part in layers]
    draws = np.empty(0) if over_genes is None else np.asarray(over_genes, dtype=float)
    draws = draws[~np.isnan(draws)]
    if min(map(len, parts)) < 2 or (over_genes is not None and (len(draws) < 2 or clusters <= 1)):
        raise ValueError("contrast needs at least two layers, two defined draws and more than one cluster")
    terms: list[tuple[float, float]] = [(part.var(ddof=1) / len(part), len(part) - 1) for part in parts]
    if over_genes is not None:
        terms.append((draws.var(ddof=1), clusters - 1))
    variances, degrees = np.array(terms).T
    freedom = variances.sum() ** 2 / (variances**2 / degrees).sum() if variances.any() else np.inf
    estimate = parts[0].mean() - (parts[1].mean() if len(parts) > 1 else 0)
    return Contrast(float(estimate), float(np.sqrt(variances.sum())), float(freedom))


def over_matrices(estimates: ArrayLike, matrices: Sequence[str]) -> Contrast:
    r"""Mean over expression matrices of the mean over the networks of each, for what other matrices would show.

    .. math:: \hat T = \frac{1}{M} \sum_k \bar T_k, \quad V = \frac{s^2(\bar T_1, \dots, \bar T_M)}{M}, \quad \nu = M - 1

    Networks of one matrix share its expression, so that the matrices are the replicates. In the normal model with random
    effects of matrices, and of networks, seeds and genes within them, the means :math:`\bar T_k` are independent, and of one
    variance where all matrices have as many networks and seeds: the t-interval is then exact.

    Args:
        estimates: one for each network, the mean over its seeds.
        matrices: the matrix of each network.

    Raises:
        ValueError: an estimate is not finite, the lengths differ, or there are fewer than two matrices.

    >>> [round(value, 3) for value in over_matrices([0.1, 0.3, 0.4, 0.6], ["mouse", "mouse", "man", "man"])]
    [0.35, 0.15, 1]
    """
    values = np.asarray_chkfinite(estimates, dtype=float)
    names, where = np.unique(matrices, return_inverse=True)
    if values.shape != where.shape or len(names) < 2:
        raise ValueError(f"over_matrices needs one matrix a network, of two or more; got {values.shape}, {list(names)}")
    means = np.bincount(where, values) / np.bincount(where)
    return Contrast(float(means.mean()), float(stats.sem(means)), len(means) - 1)


def resample_regulators(edge_index: ArrayLike, rng: np.random.Generator) -> NDArray[np.int64]:
    """Genes of regulators drawn with replacement: genes that share regulators come, or stay away, together.

    Each draw puts the regulators in a random order and gives every gene to the first of its own, so that two genes are in
    one cluster with the probability that one of their regulators is common to both (Broder 1997). Genes without regulators
    are in no draw.

    Args:
        edge_index: regulator -> target, shape (2, edges).
        rng: the generator of the draws.

    Returns:
        Indices of genes, with repetitions, after Cameron, Gelbach and Miller (2008).

    >>> sorted(set(resample_regulators([[0, 0, 1], [2, 3, 4]], np.random.default_rng(2)).tolist()))
    [2, 3]
    """
    genes, owner, regulators = _clusters(edge_index, rng)
    times = np.bincount(rng.integers(0, regulators, regulators), minlength=regulators)
    return np.repeat(genes, times[owner])


def effective_clusters(edge_index: ArrayLike, orders: int = 200) -> float:
    r"""Number of equal clusters as good as those of :func:`resample_regulators`, :math:`(\sum n)^2 / \sum n^2`.

    After Carter, Schnepel and Steigerwald (2017); for :func:`contrast`. Mean over so many random orders of the regulators.

    >>> round(effective_clusters([[0, 0, 0, 1], [2, 3, 4, 5]]), 3)
    1.6
    """
    rng = np.random.default_rng(0)
    sizes = (np.bincount(_clusters(edge_index, rng)[1]) for _ in range(orders))
    return float(np.mean([size.sum() ** 2 / (size**2).sum() for size in sizes]))


def _clusters(edge_index: ArrayLike, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Genes with regulators, for each the place of its first one in a random order of the regulators, and their number."""
    sources, targets = np.asarray(edge_index)
    regulators, source = np.unique(sources, return_inverse=True)
    genes, target = np.unique(targets, return_inverse=True)
    owner = np.full(len(genes), len(regulators))
    np.minimum.at(owner, target, rng.permutation(len(regulators))[source])
    return genes, owner, len(regulators)


def decide(contrasts: Mapping[str, Contrast], bounds: Mapping[str, float], level: float = 0.05) -> pd.DataFrame:
    """Say of each contrast whether it is present, absent within its bound, or neither is shown.

    Absent within a bound: two one-sided tests (Schuirmann 1987) reject that the contrast lies outside plus or minus the
    bound. Else present: a t-test rejects 0. Both adjust for the number of contrasts after Holm (1979).

    Args:
        contrasts: from :func:`contrast`, by name.
        bounds: the smallest size that counts, for each, fixed before the data are seen.
        level: of the tests.

    Returns:
        A table with one row a contrast and the columns ``estimate``, ``low`` and ``high`` (the unadjusted 95 % interval),
        ``p_zero`` and ``p_equivalence`` (adjusted), ``bound`` and ``verdict``.

    Raises:
        ValueError: a contrast has no bound.

    >>> decide({"a": Contrast(0.01, 0.01, 20), "b": Contrast(-0.4, 0.05, 9)}, {"a": 0.1, "b": 0.1})["verdict"].tolist()
    ['absent within 0.1', 'present']
    """
    if missing := [name for name in contrasts if name not in bounds]:
        raise ValueError(f"decide needs a bound for every contrast; got none for {missing}")
    table = pd.DataFrame(contrasts, index=Contrast._fields).T
    table["bound"] = pd.Series(bounds)
    t = stats.t(table["freedom"])
    half_width = t.ppf(0.975) * table["error"]
    table["low"], table["high"] = table["estimate"] - half_width, table["estimate"] + half_width
    error = table["error"].clip(lower=np.finfo(float).tiny)  # an estimate without error is decided by its value
    zero = 2 * t.sf((table["estimate"] / error).abs())
    equivalence = t.cdf((table["estimate"].abs() - table["bound"]) / error)
    table["p_zero"], table["p_equivalence"] = (multipletests(p, method="holm")[1] for p in (zero, equivalence))
    shown = [f"absent within {bound:g}" for bound in table["bound"]]
    table["verdict"] = np.where(table["p_zero"] < level, "present", "not shown")
    table["verdict"] = np.where(table["p_equivalence"] < level, shown, table["verdict"])
    return table[["estimate", "low", "high", "p_zero", "p_equivalence", "bound", "verdict"]]
