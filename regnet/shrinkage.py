r"""Eqs. (3)-(5): how strongly a layer :math:`h = g(x, m)` responds to its two inputs along :math:`\delta = x - m`.

A layer is any callable ``g(x, m)`` that treats the rows of its two inputs, (genes, features) each, independently.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Linear, Sequential

from regnet.checks import check_pair
from regnet.layers import Layer, as_function, check_parameters, evaluation_mode, read_layer

Method = Literal["exact", "jvp", "finite-difference"]


@dataclass(frozen=True)
class Sensitivities:
    r"""Directional sensitivities, Eq. (3), and the weight they define, Eq. (4).

    Attributes:
        self_sensitivity: :math:`S_{x,i} = \lVert A_i \delta_i \rVert_2`, shape (genes,), units of the layer's output.
        neighbor_sensitivity: :math:`S_{m,i} = \lVert B_i \delta_i \rVert_2`, same shape and units.
    """

    self_sensitivity: Tensor
    neighbor_sensitivity: Tensor

    @property
    def weight(self) -> Tensor:
        r"""The effective weight :math:`w_i^{\mathrm{eff}} = S_{x,i} / (S_{x,i} + S_{m,i})`, Eq. (4); NaN where undefined.

        Undefined means: :math:`\delta_i = 0`, or the layer responds to neither input.
        """
        # As a ratio, so that sensitivities of 1e-30 or 1e30 neither vanish nor overflow in a sum.
        return 1 / (1 + self.neighbor_sensitivity / self.self_sensitivity)


class LocalAffine(NamedTuple):
    r"""The affine map :math:`h = A x + B m + b` that a layer is around one gene (section 3 of the note)."""

    A: Tensor
    B: Tensor
    b: Tensor


class KinkDistance(NamedTuple):
    r"""Largest exact step of Eq. (5) along :math:`\hat\delta`, moving :math:`x` or moving :math:`m`; each (genes,)."""

    self_branch: Tensor
    neighbor_branch: Tensor


def sensitivities(
    layer: Layer, x: Tensor, m: Tensor, method: Method = "exact", eps: float = 1e-2, *, central: bool = False
) -> Sensitivities:
    r"""Directional sensitivities of a layer to its two inputs, Eq. (3).

    .. math:: S_{x,i} = \lVert A_i \delta_i \rVert_2,\; S_{m,i} = \lVert B_i \delta_i \rVert_2,\; \delta_i = x_i - m_i

    Args:
        layer: ``g(x, m)``; a module is evaluated in evaluation mode (no dropout) and put back.
        x: expression, shape (genes, features).
        m: neighbour means, same shape. In float32 they carry their own rounding, which matters where a gene almost equals
            its mean: on a graph :func:`regnet.sensitivities_on_graph` forms them in float64.
        method: ``"exact"`` is a closed form for the layers that :mod:`regnet.layers` reads; ``"jvp"``, forward-mode
            automatic differentiation, takes any layer; ``"finite-difference"`` is Eq. (5).
        eps: step of Eq. (5) along the unit vector, in units of ``x``; one that is lost in rounding is a ``UserWarning``.
        central: with ``"finite-difference"``, step both ways instead of forward only.

    Returns:
        :class:`Sensitivities`; NaN for a gene with :math:`x_i = m_i`, where there is no direction. Eq. (5) as printed
        estimates :math:`S / \lVert\delta\rVert`; here it is multiplied back, so that all methods return Eq. (3).

    Raises:
        TypeError: ``"exact"`` and the layer is of no kind that :mod:`regnet.layers` reads; or dtypes differ.
        ValueError: unusable options, shapes or devices that differ, entries that are not finite, or a layer of other width.

    >>> layer = torch.nn.Linear(4, 2, bias=False)
    >>> layer.weight.data = torch.cat([0.25 * torch.eye(2), 0.75 * torch.eye(2)], dim=1)
    >>> s = sensitivities(layer, torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    >>> s.self_sensitivity.detach(), s.neighbor_sensitivity.detach(), s.weight.detach()
    (tensor([1.2500]), tensor([3.7500]), tensor([0.2500]))
    """
    check_pair(x, m)
    if method not in ("exact", "jvp", "finite-difference"):
        raise ValueError(f'method must be "exact", "jvp" or "finite-difference"; got {method!r}')
    if not 0 < eps < math.inf:
        raise ValueError(f"eps must be positive and finite; got {eps}")
    if central and method != "finite-difference":
        raise ValueError(f'central=True belongs to method="finite-difference"; got method={method!r}')
    delta, undefined = direction(x, m)
    with torch.no_grad(), evaluation_mode(layer):
        if method == "exact":
            w = read_layer(layer, x)
            mask = w.mask(w.pre_activation(x, m))
            S_x = w.shares[0] * lengths(w.out(mask * (delta @ w.w_self.T)))
            S_m = w.shares[1] * lengths(w.out(mask * (delta @ w.w_neighbor.T)))
            return undefined_at(Sensitivities(S_x, S_m), undefined)
        g = as_function(layer)
        check_parameters(layer, x)
        if method == "jvp":
            toward_x, toward_m = jvp_along(g, x, m, delta)
        else:
            toward_x, toward_m = _finite_differences(g, x, m, delta, eps, central)
    return announced(norms(toward_x, toward_m, undefined), layer)


def effective_weight(layer: Layer, x: Tensor, m: Tensor, method: Method = "exact", eps: float = 1e-2) -> Tensor:
    r"""Effective shrinkage weight of every gene, Eq. (4).

    .. math:: w_i^{\mathrm{eff}} = \frac{S_{x,i}}{S_{x,i} + S_{m,i}} \in [0, 1]

    Arguments and errors are those of :func:`sensitivities`.

    Returns:
        Shape (genes,); NaN where undefined (:math:`x_i = m_i`, or no response to either input). A gene without regulators
        has ``m = 0`` by convention, which this function cannot see: use :func:`effective_weight_on_graph`.

    >>> layer = torch.nn.Linear(4, 2, bias=False)
    >>> layer.weight.data = torch.cat([0.25 * torch.eye(2), 0.75 * torch.eye(2)], dim=1)
    >>> effective_weight(layer, torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.ones(2, 2))
    tensor([0.2500,    nan])
    """
    return sensitivities(layer, x, m, method, eps).weight


def local_affine(layer: Layer, x_i: Tensor, m_i: Tensor) -> LocalAffine:
    r"""The exact affine map of a layer around one gene.

    .. math:: h_i = A_i x_i + B_i m_i + b_i, \qquad [A_i\ B_i] = W_2\,\mathrm{diag}(1[z_i > 0])\,W_1

    Args:
        layer: one that :mod:`regnet.layers` reads.
        x_i: the gene's expression, shape (features,).
        m_i: its neighbour mean, same shape.

    Returns:
        ``A`` and ``B``, (outputs, features) each, and ``b``, (outputs,).

    Raises:
        TypeError, ValueError: see :func:`sensitivities`.

    References:
        Section 3 of the note.

    >>> layer = torch.nn.Linear(2, 1)
    >>> layer.weight.data, layer.bias.data = torch.tensor([[0.25, 0.75]]), torch.tensor([1.0])
    >>> local_affine(layer, torch.tensor([2.0]), torch.tensor([4.0]))
    LocalAffine(A=tensor([[0.2500]]), B=tensor([[0.7500]]), b=tensor([1.]))
    """
    if x_i.dim() != 1 or x_i.shape != m_i.shape:
        raise ValueError(f"x_i and m_i must both be (features,); got x_i {tuple(x_i.shape)} and m_i {tuple(m_i.shape)}")
    x, m = x_i[None], m_i[None]
    check_pair(x, m)
    with torch.no_grad(), evaluation_mode(layer):
        weights = read_layer(layer, x)
        mask = weights.mask(weights.pre_activation(x, m))[0]
        return LocalAffine(
            A=weights.shares[0] * weights.out((mask[:, None] * weights.w_self).T).T,
            B=weights.shares[1] * weights.out((mask[:, None] * weights.w_neighbor).T).T,
            b=weights.out(mask * weights.bias) + weights.bias_out,
        )


def kink_distance(layer: Layer, x: Tensor, m: Tensor) -> KinkDistance:
    r"""How far Eq. (5) can step before a hidden unit switches.

    .. math:: \varepsilon_i = \min_k \{-z_k / (W_1 \hat\delta_i)_k : \text{unit } k \text{ switches}\}

    with :math:`z` the pre-activations and :math:`W_1` the half of the weights that belongs to the branch that moves. Forward
    differences with a step up to this length are exact. Arguments and errors are those of :func:`sensitivities`.

    Returns:
        :class:`KinkDistance`, units of ``x``; infinite where no unit ever switches, NaN where :math:`x_i = m_i`.

    >>> layer = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1))
    >>> layer[0].weight.data, layer[0].bias.data = torch.tensor([[-1.0, 2.0]]), torch.tensor([3.0])
    >>> kink_distance(layer, torch.tensor([[1.0]]), torch.tensor([[0.0]]))
    KinkDistance(self_branch=tensor([2.]), neighbor_branch=tensor([inf]))
    """
    check_pair(x, m)
    delta, undefined = direction(x, m)
    unit = delta / lengths(delta)[:, None]
    with torch.no_grad(), evaluation_mode(layer):
        weights = read_layer(layer, x)
        z = weights.pre_activation(x, m)
        active = weights.mask(z) > 0

        def first_switch(w: Tensor, share: Tensor) -> Tensor:
            if weights.w_out is None:
                return torch.full_like(undefined, torch.inf, dtype=x.dtype)
            rate = share[:, None] * (unit @ w.T)
            switches = torch.where(active, rate < 0, rate > 0)
            return torch.where(switches, (z / rate).abs(), torch.inf).amin(dim=1)

        both = zip((weights.w_self, weights.w_neighbor), weights.shares, strict=True)
        return KinkDistance(*(first_switch(*branch).masked_fill(undefined, torch.nan) for branch in both))


def secant_weight(layer: Layer, x: Tensor, m: Tensor) -> Tensor:
    r"""Secant weight of every gene, from three passes through the layer and no derivative.

    .. math:: w_i^{\mathrm{sec}} = \frac{\lVert g(x_i, m_i) - g(m_i, m_i) \rVert_2}
        {\lVert g(x_i, m_i) - g(m_i, m_i) \rVert_2 + \lVert g(x_i, x_i) - g(x_i, m_i) \rVert_2}

    It equals :math:`w_i` for every rule :math:`g(x, m) = Q\,(m + w(\lVert x - m \rVert)\,(x - m))` with
    :math:`0 \le w \le 1` and :math:`Q\delta_i \ne 0` that has a value at :math:`x = m`, whether :math:`w` is constant or
    adapts to :math:`\delta`, and :math:`w_i^{\mathrm{eff}}` where the layer is affine. Elsewhere :math:`g(m, m)` and
    :math:`g(x, x)` may be asked of the layer where it was never trained. Where :math:`\delta` is short beside :math:`x`
    about :math:`\log_{10}(\lVert x_i \rVert / \lVert \delta_i \rVert)` digits are lost; the effective weight loses none.

    Args:
        layer: ``g(x, m)``; a module is evaluated in evaluation mode and put back.
        x: expression, shape (genes, features).
        m: neighbour means, same shape.

    Returns:
        Shape (genes,), in [0, 1]; NaN where undefined (as :func:`effective_weight`, or where the layer is itself NaN or
        infinite at one of the three points).

    Raises:
        TypeError, ValueError: see :func:`sensitivities`.

    References:
        Sundararajan et al. (2017) for attributions along a path.

    >>> def shrink(x, m):  # a weight that adapts: 1 - 1/4 where the squared length of delta is 4
    ...     return m + (1 - 1 / ((x - m) ** 2).sum(dim=1, keepdim=True).clamp(min=1)) * (x - m)
    >>> secant_weight(shrink, torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2))
    tensor([0.7500])
    """
    check_pair(x, m)
    g = as_function(layer)
    check_parameters(layer, x)
    _, undefined = direction(x, m)
    with torch.no_grad(), evaluation_mode(layer):
        at_prior, here, at_data = g(m, m), g(x, m), g(x, x)
        for out in (at_prior, here, at_data):
            check_rows(out, x)
        return norms(here - at_prior, at_data - here, undefined).weight


def check_rows(out: Tensor, x: Tensor) -> None:
    """Raise unless what came out of a layer has one row a gene."""
    if out.dim() != 2 or out.size(0) != x.size(0):
        raise ValueError(f"the layer must return (genes, outputs), here ({x.size(0)}, any); got {tuple(out.shape)}")


def jvp_along(g: Callable[[Tensor, Tensor], Tensor], x: Tensor, m: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """A delta and B delta of every gene, (genes, outputs) each, by forward-mode automatic differentiation."""
    toward_x = torch.func.jvp(lambda x: g(x, m), (x,), (delta,))[1]
    check_rows(toward_x, x)
    toward_m = torch.func.jvp(lambda m: g(x, m), (m,), (delta,))[1]
    if (infinite := ~(toward_x + toward_m).isfinite().all(dim=1)).any():
        raise ValueError(f"the layer's derivative is NaN or infinite at gene {int(infinite.nonzero()[0])}")
    # By itself, a gene that moves c times as far responds c times as much, however far the others move.
    c = 0.5 + torch.rand(len(x), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(x)
    together = torch.func.jvp(g, (x, m), (c * delta, c * delta))[1]
    g(x, m)  # so that no hook leaves the layer a tensor of jvp
    size, step = torch.maximum(lengths(toward_x), lengths(toward_m)), lengths(delta)
    gain = (size / torch.where(step > 0, step, 1)).amax() if len(x) else 0
    size = size + torch.finfo(x.dtype).eps ** 0.5 * gain * step  # a layer that cancels what it sees leaves its rounding
    if not same_by_row(together, c * (toward_x + toward_m), size):
        raise ValueError("the layer must treat every gene by itself; its output at a gene changes with the other genes")
    return toward_x, toward_m


def _finite_differences(
    g: Callable[[Tensor, Tensor], Tensor], x: Tensor, m: Tensor, delta: Tensor, eps: float, central: bool
) -> tuple[Tensor, Tensor]:
    """Eq. (5) before its norms, times the length of delta."""
    length = lengths(delta)[:, None]
    step = eps * delta / torch.where(length > 0, length, 1)
    back_x, back_m = (g(x - step, m), g(x, m - step)) if central else (g(x, m),) * 2
    toward_x, toward_m = g(x + step, m) - back_x, g(x, m + step) - back_m
    check_rows(toward_x, x)
    changes = torch.stack([lengths(toward_x), lengths(toward_m)])
    if (lost := (changes <= 8 * torch.finfo(x.dtype).eps * lengths(back_x)) & (length[:, 0] > 0)).any():
        with suppress(RuntimeError):  # of a layer that cannot be differentiated; where its derivative is 0, so is S
            lost &= torch.stack([*map(lengths, jvp_along(g, x, m, delta))]) > 0
    if genes := lost.any(dim=0).nonzero().flatten().tolist():
        what = f"a step of eps={eps:g} changes the layer's output by no more than rounding for {len(genes)} genes, first"
        fix = 'S is rounding there; use a longer step, float64, method="exact" or method="jvp"'
        warnings.warn(f"{what} gene {genes[0]}: {fix}", stacklevel=3)
    width = (2 if central else 1) * eps
    return toward_x / width * length, toward_m / width * length


def direction(x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """delta = x - m, (genes, features), and which genes have none, (genes,)."""
    delta = x - m
    return delta, is_rounding(lengths(delta), lengths(x), lengths(m))


def is_rounding(delta: Tensor, x: Tensor, m: Tensor) -> Tensor:
    """Whether delta is no longer than the rounding of a mean in float64, from the lengths of all three, (genes,) each."""
    return delta <= 8 * torch.finfo(torch.float64).eps * torch.maximum(x, m)


def norms(toward_x: Tensor, toward_m: Tensor, undefined: Tensor) -> Sensitivities:
    """The lengths of a layer's responses, (genes, outputs) each; NaN where undefined."""
    return undefined_at(Sensitivities(lengths(toward_x), lengths(toward_m)), undefined)


def undefined_at(result: Sensitivities, undefined: Tensor) -> Sensitivities:
    """The same with NaN for some genes."""
    S_x, S_m = result.self_sensitivity, result.neighbor_sensitivity
    return Sensitivities(S_x.masked_fill(undefined, torch.nan), S_m.masked_fill(undefined, torch.nan))


def announced(result: Sensitivities, layer: Layer) -> Sensitivities:
    """The same, with a warning where a layer that is not called with [x, m] ignores x, or m, at every gene."""
    to_x, to_m = (bool((S > 0).any()) for S in (result.self_sensitivity, result.neighbor_sensitivity))
    if to_x != to_m and not isinstance(layer, Linear | Sequential):
        what = f"the layer's output does not depend on {'m' if to_x else 'x'} at any gene, so that every weight is {to_x:d}"
        warnings.warn(f"{what}: is it called as it should be?", stacklevel=4)
    return result


def same(out: Tensor, other: Tensor, scale: Tensor) -> bool:
    """Whether two outputs differ by no more than rounding, beside the largest entry of a third."""
    tolerance = torch.finfo(out.dtype).eps ** 0.5 * (scale.abs().nan_to_num().amax() if scale.numel() else 0)
    return torch.allclose(out, other, rtol=0, atol=float(tolerance), equal_nan=True) if out.shape == other.shape else False


def same_by_row(out: Tensor, other: Tensor, size: Tensor) -> bool:
    """Whether the rows of two derivatives differ by no more than rounding, beside a length of their own."""
    unit = torch.where(size > 0, size, 1)[:, None]
    return same(out / unit, other / unit, unit.new_ones(1))


def lengths(rows: Tensor) -> Tensor:
    """Euclidean length of every row, (..., features) -> (...), without the under- and overflow of squares."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    limits = torch.finfo(rows.dtype)
    extreme = ~((length > limits.tiny**0.5 / limits.eps) & (length < torch.inf))
    if extreme.any() and rows.size(-1):
        some = rows[extreme]
        largest = some.abs().amax(dim=-1)  # 0 for a row of zeros
        length[extreme] = largest * torch.linalg.vector_norm(some / torch.where(largest > 0, largest, 1)[:, None], dim=-1)
    return length
