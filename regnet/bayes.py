r"""Eq. (1): the normal-normal posterior, and the variances it needs.

The model of the note's section 1 is :math:`x_{is} \mid \theta_{is} \sim N(\theta_{is}, \sigma^2)` with
:math:`\theta_{is} \sim N(m_{is}, \tau_i^2)`. In code :math:`\sigma^2` is ``noise_var`` and
:math:`\tau_i^2` is ``prior_var``.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from regnet.checks import check_expression, check_pair


def posterior_weight(noise_var: Tensor | float, prior_var: Tensor | float) -> Tensor:
    r"""Weight on the observation in the posterior mean, Eq. (1).

    .. math:: w_i = \frac{\lambda}{\lambda + \rho_i} = \frac{\tau_i^2}{\sigma^2 + \tau_i^2}

    Args:
        noise_var: :math:`\sigma^2 \ge 0`, squared units of expression, any shape.
        prior_var: :math:`\tau_i^2 \ge 0`, same units, broadcastable to ``noise_var``; infinite
            for a flat prior.

    Returns:
        Weights in [0, 1], the broadcast shape.

    Raises:
        ValueError: a variance is negative or NaN, both are zero or both infinite, or the shapes do
            not broadcast; the message names the argument and the first offending index.

    References:
        Section 1 of the note (chapter 1 of the book); Robbins (1956).

    >>> posterior_weight(torch.tensor(1.0), torch.tensor(3.0))
    tensor(0.7500)
    """
    noise, prior = _as_floating(noise_var, prior_var)
    _check_variance(noise, "noise_var")
    _check_variance(prior, "prior_var")
    try:
        torch.broadcast_shapes(noise.shape, prior.shape)
    except RuntimeError:
        raise ValueError(
            f"noise_var and prior_var must broadcast; got shapes {tuple(noise.shape)} and {tuple(prior.shape)}"
        ) from None
    # A ratio of the two keeps variances of 1e-30 or 1e30 from underflowing or overflowing in a sum.
    weight = 1 / (1 + noise / prior)
    if weight.isnan().any():
        where = _at(weight.isnan())
        raise ValueError(f"noise_var and prior_var are both zero or both infinite{where}: the weight is undefined there")
    return weight


def posterior_mean(x: Tensor, m: Tensor, weight: Tensor | float) -> Tensor:
    r"""Posterior mean of the expression, Eq. (1).

    .. math:: \mu_{is}^* = (1 - w_i)\, m_{is} + w_i\, x_{is}

    Args:
        x: observed expression, shape (genes, cells).
        m: prior mean, same shape.
        weight: weight on ``x`` in [0, 1]: a scalar, one per gene (genes,), or one per entry
            (genes, cells).

    Returns:
        Shape (genes, cells).

    Raises:
        TypeError, ValueError: shapes differ, an entry is not finite, or a weight lies outside [0, 1].

    References:
        Section 1 of the note (chapter 1 of the book).

    >>> posterior_mean(torch.tensor([[4.0]]), torch.tensor([[0.0]]), 0.75)
    tensor([[3.]])
    """
    check_pair(x, m)
    w = _per_entry(torch.as_tensor(weight, dtype=x.dtype, device=x.device), x, "weight")
    bad = ~((w >= 0) & (w <= 1))
    if bad.any():
        raise ValueError(f"weight must lie in [0, 1]; got {w[bad][0].item()}{_at(bad)}")
    return torch.lerp(m, x, w)  # exactly m at weight 0 and exactly x at weight 1


def noise_variance(x1: Tensor, x2: Tensor) -> Tensor:
    r"""Noise variance :math:`\hat\sigma_i^2` of every gene from two measurements of the same expression.

    .. math:: \hat\sigma_i^2 = \frac{1}{2S} \sum_s \bigl(x^{(1)}_{is} - x^{(2)}_{is}\bigr)^2

    It is unbiased where both measurements have the same mean and variance and independent noise: what they share
    cancels in the difference.

    Args:
        x1: the first measurement, shape (genes, cells), e.g. log expression of one half of :func:`regnet.split_counts`.
        x2: the second, same shape and units.

    Returns:
        Shape (genes,), squared units of ``x1``; the noise of *one* measurement.

    Raises:
        TypeError, ValueError: shapes or dtypes differ, an entry is not finite, or there is no cell.

    References:
        Chapter 13 of the book; Neufeld et al. (2024) for the two measurements.

    >>> noise_variance(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
    tensor([1.])
    """
    check_expression(x1, "x1")
    check_expression(x2, "x2")
    if x1.shape != x2.shape or x1.dtype != x2.dtype:
        got = f"{tuple(x1.shape)} of {x1.dtype} and {tuple(x2.shape)} of {x2.dtype}"
        raise ValueError(f"x1 and x2 must both be (genes, cells) of one dtype; got {got}")
    if x1.size(1) == 0:
        raise ValueError("noise_variance needs at least one cell; got x1 with 0 cells")
    return ((x1 - x2) ** 2).mean(dim=1) / 2


def prior_variance(x: Tensor, m: Tensor, noise_var: Tensor | float) -> Tensor:
    r"""Maximum-likelihood prior variance :math:`\hat\tau_i^2` of every gene.

    Marginally :math:`x_{is} - m_{is} \sim N(0, \sigma_{is}^2 + \tau_i^2)`. Where the noise is the
    same in all cells of a gene this gives

    .. math:: \hat\tau_i^2 = \max\Bigl(0,\ \frac1S \sum_s (x_{is}-m_{is})^2 - \sigma_i^2\Bigr),

    and otherwise the global maximum of the likelihood over :math:`\tau_i^2 \ge 0`, found on a grid
    (the likelihood can have several peaks) and refined by bisection of its derivative. The prior mean counts as known;
    where it was fitted to the same cells the estimate is too small, and :func:`james_stein_weight` corrects for that.

    With the noise the same in all cells the estimate is unbiased before the cut at 0, with the standard error
    :math:`(\sigma_i^2 + \tau_i^2) \sqrt{2/S}`. The cut makes it too large on average, by
    :math:`\sigma_i^2 / \sqrt{\pi S}` where :math:`\tau_i^2 = 0`, where about half of the estimates are exactly 0, and by
    less and less above. Where the noise differs between cells it is about :math:`s / \sqrt{2\pi}` at :math:`\tau_i^2 = 0`,
    with :math:`s = (\tfrac12 \sum_s \sigma_{is}^{-4})^{-1/2}` (chapter 1 of the book).

    Args:
        x: observed expression, shape (genes, cells).
        m: prior mean, same shape.
        noise_var: :math:`\sigma^2`: a scalar, one per gene (genes,), or one per entry (genes, cells).

    Returns:
        Shape (genes,), never negative; exactly 0 where the maximum lies on the boundary.

    Raises:
        TypeError, ValueError: shapes differ, an entry is not finite, a noise variance is negative,
            NaN or infinite, or it is zero in some but not all cells of a gene.

    References:
        Section 1 of the note (chapter 1 of the book); Efron and Morris (1977); Rubin (1981).

    >>> prior_variance(torch.tensor([[3.0, -3.0], [0.1, 0.1]]), torch.zeros(2, 2), 1.0)
    tensor([8., 0.])
    """
    check_pair(x, m)
    if x.size(1) == 0:
        raise ValueError("prior_variance needs at least one cell; got x with 0 cells")
    noise = torch.as_tensor(noise_var, dtype=x.dtype, device=x.device)
    _check_variance(noise, "noise_var", finite=True)
    noise = _per_entry(noise, x, "noise_var").expand_as(x)
    square = (x - m) ** 2
    variance = (square.mean(dim=1) - noise[:, 0]).clamp(min=0)
    varying = (noise != noise[:, :1]).any(dim=1)
    if varying.any():
        impossible = (noise == 0) & varying[:, None]
        if impossible.any():
            where = _at(impossible)
            raise ValueError(f"noise_var must be positive where it differs between the cells of a gene; got 0{where}")
        # In float64 whatever the data: squares of variances leave the range and the precision of float32.
        variance[varying] = _maximise_likelihood(square[varying].double(), noise[varying].double()).to(x.dtype)
    return variance


def james_stein_weight(x: Tensor, m: Tensor, noise_var: Tensor | float, fitted: int = 0) -> Tensor:
    r"""James-Stein weight on the observation, one for each row.

    .. math:: w_i = \max\Bigl(0,\ 1 - \frac{(S - f - 2)\,\sigma_i^2}{\lVert x_i - m_i \rVert^2}\Bigr)

    The positive part of the James-Stein rule: Eq. (1) with the unknown :math:`\tau_i^2` replaced by
    an estimate from the same row.

    Args:
        x: observations, shape (rows, S).
        m: prior means, same shape.
        noise_var: :math:`\sigma^2 \ge 0`, a scalar or one per row.
        fitted: the number *f* of parameters of ``m`` that were fitted to the same row: 1 where
            ``m`` is the row's own mean.

    Returns:
        Shape (rows,), in [0, 1].

    Raises:
        TypeError, ValueError: as :func:`prior_variance`; fewer than 3 + ``fitted`` columns; ``fitted`` is negative; or the
            weight is 0/0.

    References:
        James and Stein (1961); Efron and Morris (1977).

    >>> james_stein_weight(torch.tensor([[3.0, 1.0, 2.0, 2.0]]), torch.zeros(1, 4), 1.0)
    tensor([0.8889])
    """
    check_pair(x, m)
    if fitted < 0:
        raise ValueError(f"fitted is a number of parameters and must not be negative; got {fitted}")
    lost = fitted + 2
    if x.size(1) <= lost:
        raise ValueError(f"james_stein_weight needs more than {lost} columns (2 and the {fitted} fitted); got {x.size(1)}")
    noise = torch.as_tensor(noise_var, dtype=x.dtype, device=x.device)
    _check_variance(noise, "noise_var", finite=True)
    if noise.numel() not in (1, x.size(0)):
        raise ValueError(f"noise_var must be a scalar or one per row ({x.size(0)}); got shape {tuple(noise.shape)}")
    weight = 1 - (x.size(1) - lost) * noise.reshape(-1) / ((x - m) ** 2).sum(dim=1)
    if weight.isnan().any():
        raise ValueError(f"noise_var is 0 and x equals m{_at(weight.isnan())}: the weight is undefined there")
    return weight.clamp(min=0)


def _maximise_likelihood(square: Tensor, noise: Tensor, grid_size: int = 200, bisections: int = 80) -> Tensor:
    """argmax over t >= 0 of -1/2 sum log(noise + t) + square / (noise + t), a row at a time."""

    def log_likelihood(t: Tensor) -> Tensor:
        return -(torch.log(noise + t[:, None]) + square / (noise + t[:, None])).sum(dim=1)

    def slope(t: Tensor) -> Tensor:
        return ((square - noise - t[:, None]) / (noise + t[:, None]) ** 2).sum(dim=1)

    # Beyond the largest square - noise every term falls, so the maximum is at most there.
    upper = (square - noise).amax(dim=1).clamp(min=0)
    smallest = 1e-6 * noise.amin(dim=1)
    steps = torch.linspace(0, 1, grid_size, dtype=square.dtype, device=square.device)
    ratio = (torch.maximum(upper, smallest) / smallest).log()
    grid = [torch.zeros_like(upper), *(smallest * (ratio * step).exp() for step in steps)]
    best = torch.stack([log_likelihood(t) for t in grid]).argmax(dim=0)

    # The peak next to the best grid point: on its right where the likelihood still climbs there.
    points = torch.stack([*grid, grid[-1]])
    at_best = points.gather(0, best[None])[0]
    climbing = slope(at_best) > 0
    low = torch.where(climbing, at_best, points.gather(0, (best - 1).clamp(min=0)[None])[0])
    high = torch.where(climbing, points.gather(0, (best + 1)[None])[0], at_best)
    for _ in range(bisections):
        middle = (low + high) / 2
        rising = slope(middle) > 0
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    return (low + high) / 2


def _as_floating(*values: Tensor | float) -> list[Tensor]:
    """Tensors of one floating dtype, at least the default one; a Python number follows the tensor beside it."""
    tensors = [
        value if isinstance(value, Tensor) else torch.as_tensor(value)
        for value in values
        if not isinstance(value, int | float)
    ]
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors], torch.get_default_dtype())
    device = tensors[0].device if tensors else None
    return [torch.as_tensor(value, dtype=dtype, device=device) for value in values]


def _check_variance(variance: Tensor, name: str, finite: bool = False) -> None:
    bad = ~(variance >= 0)
    if finite:
        bad |= torch.isinf(variance)
    if bad.any():
        rule = "negative, NaN or infinite" if finite else "negative or NaN"
        raise ValueError(f"{name} must not be {rule}; got {variance[bad][0].item()}{_at(bad)}")


def _at(bad: Tensor) -> str:
    """Where the first offending entry is, for an error message; nothing to say for a scalar."""
    if bad.dim() == 0:
        return ""
    index = tuple(bad.nonzero()[0].tolist())
    return f" at index {index[0] if len(index) == 1 else index}"


def _per_entry(value: Tensor, x: Tensor, name: str) -> Tensor:
    """Broadcast a scalar, a value per gene or a value per entry against x (genes, cells)."""
    if value.dim() == 0 or value.shape in (x.shape, (x.size(0), 1)):
        return value
    if value.shape == (x.size(0),):
        return value[:, None]
    allowed = f"a scalar, one per gene ({x.size(0)},) or one per entry {tuple(x.shape)}"
    raise ValueError(f"{name} must be {allowed}; got shape {tuple(value.shape)}")
