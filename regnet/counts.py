r"""Molecule counts behind log-normalised expression, and their split into two independent halves.

:func:`regnet.recover_counts` undoes :math:`x_{is} = \log(1 + u_s c_{is})`, the usual normalisation of a cell to a common
total; :func:`regnet.split_counts` deals the molecules to two data sets whose noise is independent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regnet.checks import check_expression


class Counts(NamedTuple):
    r"""Counts :math:`c_{is}` and what one of them is worth in each cell: :math:`x_{is} = \log(1 + u_s c_{is})`."""

    counts: Tensor
    """Molecules, (genes, cells), int64."""
    per_count: Tensor
    r""":math:`u_s`, (cells,), dtype of the expression; infinite in a cell where nothing was seen."""


def recover_counts(x: Tensor) -> Counts:
    r"""Molecule counts from log-normalised expression.

    .. math:: c_{is} = \mathrm{round}\Bigl(\frac{e^{x_{is}} - 1}{u_s}\Bigr), \quad u_s = \min_{i:\,x_{is} > 0} e^{x_{is}} - 1

    The smallest positive entry of a cell is taken for one molecule. In a cell whose smallest count is :math:`k > 1` all
    counts come out divided by *k* and rounded, which is noticed only where a quotient is further than a quarter from a
    whole number: 2 and 4, or 5, 6 and 11, pass unnoticed.

    Args:
        x: :math:`\log(1 + \text{normalised counts})`, shape (genes, cells), natural logarithm.

    Returns:
        :class:`regnet.counts.Counts`.

    Raises:
        TypeError, ValueError: see :func:`regnet.checks.check_expression`; there is no gene; an entry is negative; or some
            entry is further than a quarter from a whole number of molecules, or too large for one to be told from the next
            in the precision of ``x``: it is not of this form.

    References:
        Chapter 13 of the book.

    >>> recover_counts(torch.log1p(torch.tensor([[0.5, 0.0], [1.5, 2.0]]))).counts
    tensor([[1, 0],
            [3, 1]])
    """
    check_expression(x)
    if (x < 0).any():
        gene, cell = (x < 0).nonzero()[0].tolist()
        raise ValueError(
            f"x must be log1p of counts, hence not negative; got {x[gene, cell].item()} at gene {gene}, cell {cell}"
        )
    if x.size(0) == 0:
        raise ValueError("recover_counts needs at least one gene; got x with 0 genes")
    normalised = x.expm1()
    per_count = normalised.where(x > 0, torch.inf).amin(dim=0)
    molecules = normalised / per_count
    counts = molecules.round()
    countable = molecules < 0.25 / torch.finfo(x.dtype).eps  # beyond that neighbouring whole numbers look the same
    far = (x > 0) & ~(((molecules - counts).abs() <= 0.25) & countable)
    if far.any():
        gene, cell = far.nonzero()[0].tolist()
        raise ValueError(
            f"x is not log1p of counts times one factor a cell: gene {gene} of cell {cell} would be "
            f"{molecules[gene, cell].item():.3g} molecules ({int(far.sum())} entries in all are no whole number)"
        )
    return Counts(counts.nan_to_num().long(), per_count)


def split_counts(counts: Tensor, fraction: float = 0.5, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    r"""Deal every molecule to one of two data sets by a coin: count splitting.

    .. math:: c^{(1)}_{is} \mid c_{is} \sim \mathrm{Binomial}(c_{is}, f), \qquad c^{(2)}_{is} = c_{is} - c^{(1)}_{is}

    Where :math:`c_{is}` is a Poisson count of mean :math:`\mu_{is}`, the parts are independent Poisson counts of means
    :math:`f\mu_{is}` and :math:`(1-f)\mu_{is}`; counts that vary more than Poisson leave parts that correlate.

    Args:
        counts: whole numbers of molecules, any shape, any integer or floating dtype.
        fraction: :math:`f`, the share of the first part, between 0 and 1.
        seed: of the coin.

    Returns:
        The two parts, shape and dtype of ``counts``; they add up to it.

    Raises:
        TypeError: not a tensor of numbers.
        ValueError: a count is negative, not whole, NaN, infinite or above 2**53; or ``fraction`` is not inside (0, 1).

    References:
        Neufeld et al. (2024); chapter 13 of the book.

    >>> first, second = split_counts(torch.tensor([[4, 0, 100]]))
    >>> first + second
    tensor([[  4,   0, 100]])
    """
    if not isinstance(counts, Tensor) or counts.dtype == torch.bool or counts.is_complex():
        got = f"a tensor of {counts.dtype}" if isinstance(counts, Tensor) else type(counts).__name__
        raise TypeError(f"counts must be a torch.Tensor of whole numbers; got {got}")
    counts = counts.detach()
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1; got {fraction}")
    whole = counts.double()
    bad = ~((whole >= 0) & (whole == whole.round()) & (whole <= 2**53))  # the last whole number that float64 counts to
    if bad.any():
        raise ValueError(
            f"counts must be whole numbers of molecules from 0 to 2**53; got {counts[bad][0].item()} ({int(bad.sum())} such "
            "entries in all); log-normalised expression goes through recover_counts first"
        )
    first = np.random.default_rng(seed).binomial(counts.cpu().long().numpy(), fraction)
    part = torch.as_tensor(first, device=counts.device).to(counts.dtype)
    return part, counts - part
