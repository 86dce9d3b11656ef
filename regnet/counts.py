"""Molecule counts behind log-normalised expression, and their split into two parts with independent noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
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
    whole = counts.detach().double()
    bad = ~((whole >= 0) & (whole == whole.round()) & (whole <= 2**53))  # float64 cannot hold every number above
    if bad.any():
        raise ValueError(
            f"counts must be whole numbers from 0 to 2**53; got {counts[bad][0].item()} ({int(bad.sum())} such entries in "
            "all); log-normalised expression goes through recover_counts first"
        )
    first = np.random.default_rng(seed).binomial(whole.cpu().long().numpy(), fraction)
    part = torch.as_tensor(first, dtype=counts.dtype, device=counts.device)
    return part, counts.detach() - part
