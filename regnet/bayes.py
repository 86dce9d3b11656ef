r"""Eq. (1): the posterior of :math:`x \mid \theta \sim N(\theta, \sigma^2), \theta \sim N(m, \tau^2)`, and its variances."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from regnet.checks import check_expression, check_pair


def posterior_weight(noise_var: Tensor | float, prior_var: Tensor | float) -> Tensor:
    r"""Weight on the observation in the posterior mean, Eq. (1) (section 1 of the note; Robbins (1956)).

    .. math:: w_i = \frac{\lambda}{\lambda + \rho_i} = \frac{\tau_i^2}{\sigma^2 + \tau_i^2}

    Args:
        noise_var: :math:`\sigma^2 \ge 0`, squared units of expression, any shape.
        prior_var: :math:`\tau_i^2 \ge 0`, same units, broadcastable to ``noise_var``; infinite for a flat prior.

    Returns:
        Weights in [0, 1], the broadcast shape.

    Raises:
        ValueError: a variance is negative or NaN, or both are zero or infinite; the message gives the first index.

    >>> posterior_weight(torch.tensor(1.0), torch.tensor(3.0))
    tensor(0.7500)
    """
    noise, prior = _as_floating(noise_var, prior_var)
    _check_variance(noise, "noise_var")
    _check_variance(prior, "prior_var")
    # A ratio of the two keeps variances of 1e-30 or 1e30 from underflowing or overflowing in a sum.
    weight = 1 / (1 + noise / prior)
    undefined = weight.isnan()
    if undefined.any():
        raise ValueError(f"noise_var and prior_var are both zero or both infinite{_at(undefined)}: no weight is defined")
    return weight


def posterior_mean(x: Tensor, m: Tensor, weight: Tensor | float) -> Tensor:
    r"""Posterior mean of the expression, Eq. (1) (section 1 of the note).

    .. math:: \mu_{is}^* = (1 - w_i)\, m_{is} + w_i\, x_{is}

    Args:
        x: observed expression, shape (genes, cells).
        m: prior mean, same shape.
        weight: weight on ``x`` in [0, 1]: a scalar, one per gene (genes,), or one per entry (genes, cells).

    Returns:
        Shape (genes, cells), the unit of ``x``.

    Raises:
        TypeError, ValueError: shapes differ, an entry is not finite, or a weight lies outside [0, 1].

    >>> posterior_mean(torch.tensor([[4.0]]), torch.tensor([[0.0]]), 0.75)
    tensor([[3.]])
    """
    check_pair(x, m)
    w = _per_entry(weight, x, "weight")
    bad = ~((w >= 0) & (w <= 1))
    if bad.any():
        raise ValueError(f"weight must lie in [0, 1]; got {w[bad][0].item()}{_at(bad)}")
    return torch.lerp(m, x, w)  # exactly m at weight 0 and exactly x at weight 1


def noise_variance(x1: Tensor, x2: Tensor) -> Tensor:
    r"""Noise variance of every gene from two measurements of the same expression after Neufeld et al. (2024).

    .. math:: \hat\sigma_i^2 = \frac{1}{2S} \sum_s \bigl(x^{(1)}_{is} - x^{(2)}_{is}\bigr)^2

    Args:
        x1: the first measurement, shape (genes, cells), e.g. log expression of one half of :func:`regnet.split_counts`.
        x2: the second, same shape and units; of the same mean and variance, with independent noise.

    Returns:
        Shape (genes,), squared units of ``x1``: the noise of *one* measurement, without bias.

    Raises:
        TypeError, ValueError: shapes or dtypes differ, an entry is not finite, or there is no cell.

    >>> noise_variance(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
    tensor([1.])
    """
    check_expression(x1, "x1")
    check_expression(x2, "x2")
    if x1.shape != x2.shape or x1.dtype != x2.dtype or x1.size(1) == 0:
        got = f"{tuple(x1.shape)} of {x1.dtype} and {tuple(x2.shape)} of {x2.dtype}"
        raise ValueError(f"x1 and x2 must both be (genes, cells) of one dtype with at least one cell; got {got}")
    return ((x1 - x2) ** 2).mean(dim=1) / 2


def prior_variance(x: Tensor, m: Tensor, noise_var: Tensor | float) -> Tensor:
    r"""Maximum-likelihood prior variance of every gene under :math:`x_{is} - m_{is} \sim N(0, \sigma_{is}^2 + \tau_i^2)`.

    .. math:: \hat\tau_i^2 = \max\Bigl(0,\ \frac1S \sum_s (x_{is}-m_{is})^2 - \sigma_i^2\Bigr)

    where all cells of a gene have the same noise, and otherwise the global maximum of the likelihood over
    :math:`\tau_i^2 \ge 0`, which can have several local ones. The truncation at 0 makes it too large on average: with equal
    noise by :math:`\sigma_i^2 / \sqrt{\pi S}` at :math:`\tau_i^2 = 0`, and by less above. The prior mean counts as known;
    where it was fitted to the same cells the estimate is too small: see :func:`regnet.james_stein_weight`.
    Sources: section 1 of the note, Efron and Morris (1977), Rubin (1981).

    Args:
        x: observed expression, shape (genes, cells).
        m: prior mean, same shape.
        noise_var: :math:`\sigma^2`: a scalar, one per gene (genes,), or one per entry (genes, cells).

    Returns:
        Shape (genes,), squared units of ``x``; exactly 0 where the maximum lies on the boundary.

    Raises:
        TypeError, ValueError: shapes differ, there is no cell, an entry or a noise variance is not finite, or a noise
            variance is negative, or zero in some but not all cells of a gene.

    >>> prior_variance(torch.tensor([[3.0, -3.0], [0.1, 0.1]]), torch.zeros(2, 2), 1.0)
    tensor([8., 0.])
    """
    check_pair(x, m)
    if x.size(1) == 0:
        raise ValueError("prior_variance needs at least one cell; got x with 0 cells")
    noise = _per_entry(noise_var, x, "noise_var").expand_as(x)
    _check_variance(noise, "noise_var", finite=True)
    square = (x - m) ** 2
    variance = (square.mean(dim=1) - noise[:, 0]).clamp(min=0)
    varying = (noise != noise[:, :1]).any(dim=1)
    if varying.any():
        zero = (noise == 0) & varying[:, None]
        if zero.any():
            raise ValueError(f"noise_var must be positive where it differs between the cells of a gene; got 0{_at(zero)}")
        # In float64 whatever the data: squares of variances leave the range and the precision of float32.
        variance[varying] = _maximise_likelihood(square[varying].double(), noise[varying].double()).to(x.dtype)
    return variance


def james_stein_weight(x: Tensor, m: Tensor, noise_var: Tensor | float, fitted: int = 0) -> Tensor:
    r"""James-Stein weight on the observation, shape (rows,): Eq. (1) with :math:`\tau_i^2` estimated from the same row.

    .. math:: w_i = \max\Bigl(0,\ 1 - \frac{(S - f - 2)\,\sigma_i^2}{\lVert x_i - m_i \rVert^2}\Bigr)

    after James and Stein (1961) and Efron and Morris (1977).

    Args:
        x: observations, shape (rows, S).
        m: prior means, same shape.
        noise_var: :math:`\sigma^2 \ge 0`, a scalar or one per row.
        fitted: the number *f* of parameters of ``m`` that were fitted to the same row: 1 where ``m`` is the row's own mean.

    Raises:
        TypeError, ValueError: as :func:`regnet.prior_variance`; too few columns; a negative ``fitted``; the weight is 0/0.

    >>> james_stein_weight(torch.tensor([[3.0, 1.0, 2.0, 2.0]]), torch.zeros(1, 4), 1.0)
    tensor([0.8889])
    """
    check_pair(x, m)
    degrees = x.size(1) - fitted - 2
    if fitted < 0 or degrees <= 0:
        got = f"got {fitted} and {x.size(1)}"
        raise ValueError(f"james_stein_weight needs fitted >= 0 and more than 2 + fitted columns; {got}")
    noise = _per_entry(noise_var, x[:, :1], "noise_var")
    _check_variance(noise, "noise_var", finite=True)
    weight = (1 - degrees * noise / ((x - m) ** 2).sum(dim=1, keepdim=True)).squeeze(1)
    if weight.isnan().any():
        raise ValueError(f"noise_var is 0 and x equals m{_at(weight.isnan())}: the weight is undefined")
    return weight.clamp(min=0)


def _maximise_likelihood(square: Tensor, noise: Tensor, grid_size: int = 200, bisections: int = 80) -> Tensor:
    """argmax over t >= 0 of -1/2 sum log(noise + t) + square / (noise + t), for each row: a grid, then bisection."""

    def slope(t: Tensor) -> Tensor:
        return ((square - noise - t[:, None]) / (noise + t[:, None]) ** 2).sum(dim=1)

    # Beyond the largest square - noise every term decreases, so the maximum is at most there.
    smallest = 1e-6 * noise.amin(dim=1)
    ratio = ((square - noise).amax(dim=1) / smallest).clamp(min=1).log()
    steps = (torch.arange(grid_size, dtype=ratio.dtype, device=ratio.device) / (grid_size - 1))[:, None]
    grid = torch.cat([torch.zeros_like(ratio)[None], smallest * (ratio * steps).exp()])
    best = torch.stack([(torch.log(noise + t) + square / (noise + t)).sum(dim=1) for t in grid[..., None]]).argmin(dim=0)
    # The first step starts at the best grid point, and keeps the side on which the likelihood increases.
    low, middle, high = (grid.gather(0, (best + step).clamp(0, grid_size)[None])[0] for step in (-1, 0, 1))
    for _ in range(bisections):
        increasing = slope(middle) > 0
        low, high = torch.where(increasing, middle, low), torch.where(increasing, high, middle)
        middle = (low + high) / 2
    return middle


def _as_floating(*values: Tensor | float) -> list[Tensor]:
    """Tensors of one floating dtype, at least the default one; a Python number follows the tensor beside it."""
    tensors = [v if isinstance(v, Tensor) else torch.as_tensor(v) for v in values if not isinstance(v, int | float)]
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors], torch.get_default_dtype())
    device = tensors[0].device if tensors else None  # as_tensor alone would move them to the default device
    return [torch.as_tensor(value, dtype=dtype, device=device) for value in values]


def _check_variance(variance: Tensor, name: str, finite: bool = False) -> None:
    bad = ~(variance >= 0) | (variance.isinf() & finite)
    if bad.any():
        raise ValueError(f"{name} must be at least 0{' and finite' * finite}; got {variance[bad][0].item()}{_at(bad)}")


def _at(bad: Tensor) -> str:
    """Where the first offending entry is, for an error message; empty for a scalar."""
    index = bad.nonzero()[0].tolist()
    return f" at index {index}" if index else ""


def _per_entry(given: Tensor | float, x: Tensor, name: str) -> Tensor:
    """A scalar, a value per gene or a value per entry, as a tensor that broadcasts against x (genes, cells)."""
    value = torch.as_tensor(given, dtype=x.dtype, device=x.device)
    if value.shape == (x.size(0),):
        return value[:, None]
    if value.shape not in ((), (x.size(0), 1), x.shape):
        allowed = f"a scalar, one per gene ({x.size(0)},) or one per entry {tuple(x.shape)}"
        raise ValueError(f"{name} must be {allowed}; got shape {tuple(value.shape)}")
    return value
