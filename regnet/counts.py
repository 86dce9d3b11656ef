"""Molecule counts behind log-normalised expression, their split into two parts, and their noise on the logarithmic scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from regnet.checks import check_expression


class Counts(NamedTuple):
    """What :func:`regnet.recover_counts` returns."""

    counts: Tensor
    per_count: Tensor


def recover_counts(x: Tensor) -> Counts:
    r"""Molecule counts from log-normalised expression, a transformation of Ahlmann-Eltze and Huber (2023).

    .. math:: c_{is} = \mathrm{round}\Bigl(\frac{e^{x_{is}} - 1}{u_s}\Bigr), \quad u_s = \min_{i:\,x_{is} > 0} e^{x_{is}} - 1

    The smallest positive entry of a cell counts as one molecule. If it is :math:`k > 1` of them, all counts of the cell come
    out divided by *k*, which is detected only where a quotient is further than a quarter from a whole number.

    Args:
        x: :math:`\log(1 + \text{normalised counts})`, shape (genes, cells), natural logarithm.

    Returns:
        The named tuple (``counts``, ``per_count``), molecules (genes, cells) as int64 and :math:`u_s` (cells,) in the dtype
        of ``x``, infinite in a cell without counts.

    Raises:
        TypeError, ValueError: ``x`` is not a finite matrix; or an entry is negative, further than a quarter from a whole
            number of molecules, or of more molecules than the precision of ``x`` can count.

    >>> recover_counts(torch.log1p(torch.tensor([[0.5, 0.0], [1.5, 2.0]]))).counts.tolist()
    [[1, 0], [3, 1]]
    """
    check_expression(x)
    normalised = x.expm1()
    per_count = normalised.where(x > 0, torch.inf).amin(dim=0)
    molecules = normalised / per_count
    counts = molecules.round()
    countable = molecules < 0.25 / torch.finfo(x.dtype).eps  # beyond that neighbouring whole numbers look the same
    bad = (x < 0) | (x > 0) & ~(((molecules - counts).abs() <= 0.25) & countable)
    if bad.any():
        gene, cell = bad.nonzero()[0].tolist()
        raise ValueError(
            f"x is not log1p of whole counts times one factor per cell: {x[gene, cell].item()} at gene {gene}, cell {cell} "
            f"would be {molecules[gene, cell].item():.3g} molecules ({int(bad.sum())} such entries in all)"
        )
    return Counts(counts.nan_to_num().long(), per_count)


def split_counts(counts: Tensor, fraction: float = 0.5, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    r"""Assign every molecule at random to one of two data sets: count splitting, after Neufeld et al. (2024).

    .. math:: c^{(1)}_{is} \mid c_{is} \sim \mathrm{Binomial}(c_{is}, f), \qquad c^{(2)}_{is} = c_{is} - c^{(1)}_{is}

    Where :math:`c_{is}` is a Poisson count of mean :math:`\mu_{is}`, the parts are independent Poisson counts of means
    :math:`f\mu_{is}` and :math:`(1-f)\mu_{is}`; the parts of overdispersed counts correlate.

    Args:
        counts: whole numbers of molecules, any shape, any integer or floating dtype.
        fraction: :math:`f`, the expected share of the first part, between 0 and 1.
        seed: of the random assignment.

    Returns:
        The two parts, shape and dtype of ``counts``; they add up to it.

    Raises:
        ValueError: a count is negative, not whole, NaN, infinite or above 2**53; or ``fraction`` is not inside (0, 1).

    >>> first, second = split_counts(torch.tensor([[4, 0, 100]]))
    >>> first + second
    tensor([[  4,   0, 100]])
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1; got {fraction}")
    whole = _whole(counts)
    first = np.random.default_rng(seed).binomial(whole.cpu().long().numpy(), fraction)
    part = torch.as_tensor(first, dtype=counts.dtype, device=counts.device)
    return part, counts.detach() - part


def log_expression(counts: Tensor, per_count: Tensor | None = None) -> Tensor:
    """log(1 + u c), (genes, cells), float64; u is per_count (cells,), by default 10,000 over the counts of the cell."""
    whole = _whole(counts)
    return torch.log1p(_worth(whole, per_count) * whole)


def log_noise_variance(counts: Tensor, per_count: Tensor | None = None, *, laws: int = 2, varying: bool = True) -> Tensor:
    r"""Variance that counting gives :math:`x = \log(1 + u_s c_{is})`, of every gene, (genes,) float64.

    .. math:: \sigma_i^2 = \frac1S \sum_s \operatorname{E}_\mu \operatorname{Var}(x_{is} \mid \mu), \qquad
        c_{is} \mid \mu \sim \operatorname{Poisson}(\mu / u_s)

    Arguments are those of :func:`mean_over_rates`.
    """
    return mean_over_rates(counts, per_count, _variance_by_rate, laws=laws, varying=varying)


def mean_over_rates(
    counts: Tensor,
    per_count: Tensor | None,
    by_rate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    laws: int = 2,
    varying: bool = True,
) -> Tensor:
    """Mean over cells of a function of their rate, which follows a gamma distribution of the gene's mean and variance.

    Args:
        counts: as in :func:`regnet.bayes_weight`, like ``per_count``.
        by_rate: of the depths of some cells: rates, and the function at these, averaged over the cells.
        laws: into how many groups the cells are cut by their depth :math:`1/u_s`, each with a gamma distribution of its own.
        varying: or a constant rate.
    """
    whole = _whole(counts).cpu()
    worth, total = _worth(whole, per_count), torch.zeros(len(whole), dtype=torch.float64)
    cells = np.flatnonzero(worth)  # none is known of a cell without counts, in which x is 0
    depth, molecules = 1 / worth.numpy()[cells], whole.numpy()[:, cells]
    for group in filter(len, np.array_split(depth.argsort(kind="stable"), laws)):
        mean = molecules[:, group].sum(axis=1) / depth[group].sum()
        expected = np.outer(mean, depth[group])
        excess = ((molecules[:, group] - expected) ** 2 - expected).sum(axis=1) / (expected**2).sum(axis=1).clip(1e-300)
        shape = 1 / excess.clip(1e-4)[:, None] if varying else np.full((len(whole), 1), 1e4)
        rates = special.gammaincinv(shape, (np.arange(100) + 0.5) / 100) / shape * mean[:, None]
        total += torch.from_numpy(np.interp(rates, *by_rate(depth[group])).mean(axis=1)) * len(group) / len(worth)
    return total


def _variance_by_rate(depth: np.ndarray, exact_to: float = 50) -> tuple[np.ndarray, np.ndarray]:
    """Rates, and the variance of log(1 + c / depth) averaged over cells, c being a Poisson count of mean rate x depth."""
    some = np.sort(depth)[np.linspace(0, len(depth) - 1, min(len(depth), 200)).round().astype(int)]
    rates = np.concatenate([[0.0], np.geomspace(1e-4, 1e6, 101) / np.median(depth)])
    mean = np.outer(rates, some)
    number = np.arange(int(exact_to + 12 * exact_to**0.5) + 30)
    small = mean.clip(max=exact_to)[..., None]
    mass = np.exp(special.xlogy(number, small) - small - special.gammaln(number + 1))
    value = np.log1p(number / some[:, None])
    exact = (mass * value**2).sum(axis=-1) - (mass * value).sum(axis=-1) ** 2
    slope = 1 / (mean + some)  # of log(c + depth) at the mean, for its expansion there
    expansion = mean * slope**2 - mean * slope**3 + 2.5 * (mean * slope**2) ** 2
    return rates, np.where(mean < exact_to, exact, expansion).mean(axis=1)


def _worth(whole: Tensor, per_count: Tensor | None) -> Tensor:
    """What a molecule of each cell is worth, (cells,) float64; 0 in a cell without counts."""
    if whole.dim() != 2:
        raise ValueError(f"counts must be (genes, cells); got shape {tuple(whole.shape)}")
    depth = whole.sum(dim=0)
    worth = torch.as_tensor(1e4 / depth if per_count is None else per_count, dtype=torch.float64, device=depth.device)
    if worth.shape != depth.shape or not bool(((worth > 0) & (worth.isfinite() | (depth == 0))).all()):
        got = f"shape {tuple(worth.shape)}" if worth.shape != depth.shape else f"{worth.amin():.4g} to {worth.amax():.4g}"
        raise ValueError(f"per_count must be one positive number for each of {len(depth)} cells; got {got}")
    return worth.where(depth > 0, 0.0)


def _whole(counts: Tensor) -> Tensor:
    """The counts in float64; raises where they are none."""
    whole = counts.detach().double()
    bad = ~((whole >= 0) & (whole == whole.round()) & (whole <= 2**53))  # float64 cannot hold every number above
    if bad.any():
        raise ValueError(
            f"counts must be whole numbers from 0 to 2**53; got {counts[bad][0].item()} ({int(bad.sum())} such entries in "
            "all); log-normalised expression goes through recover_counts first"
        )
    return whole
