r"""The secant weight: how a layer answers to the whole way between :math:`m` and :math:`x`, instead of a first small step.

Where the weight itself depends on the length of :math:`\delta = x - m`, as in every rule that estimates its weight from the
data, the derivative behind Eq. (4) is not the weight. The secant weight is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regnet.graph import check_pair
from regnet.layers import Layer, as_function, check_parameters, evaluation_mode
from regnet.shrinkage import check_rows, direction, norms


def secant_weight(layer: Layer, x: Tensor, m: Tensor) -> Tensor:
    r"""Secant weight of every gene, from three passes through the layer and no derivative.

    .. math:: w_i^{\mathrm{sec}} = \frac{\lVert g(x_i, m_i) - g(m_i, m_i) \rVert_2}
        {\lVert g(x_i, m_i) - g(m_i, m_i) \rVert_2 + \lVert g(x_i, x_i) - g(x_i, m_i) \rVert_2}

    It equals :math:`w_i` for every rule :math:`g(x, m) = Q\,(m + w(\lVert x - m \rVert)\,(x - m))` with :math:`0 \le w
    \le 1` and :math:`Q\delta_i \ne 0` that has a value at :math:`x = m`, whether :math:`w` is constant or adapts to
    :math:`\delta`, and it equals :math:`w_i^{\mathrm{eff}}` where the layer is affine. For other layers :math:`g(m, m)`
    and :math:`g(x, x)` may be asked of the layer where it was never trained. Where :math:`\delta` is short beside
    :math:`x` the differences lose about :math:`\log_{10}(\lVert x_i \rVert / \lVert \delta_i \rVert)` digits; the
    effective weight does not.

    Args:
        layer: ``g(x, m)``, see :func:`regnet.sensitivities`; a module in training mode is evaluated in evaluation mode
            and put back.
        x: expression, shape (genes, features).
        m: neighbour means, same shape.

    Returns:
        Shape (genes,), in [0, 1]; NaN where undefined (:math:`x_i = m_i`, no answer either way, or a layer that is itself
        NaN or infinite at one of the three points). A gene without regulators has ``m = 0`` by convention, which this
        function cannot see.

    Raises:
        TypeError, ValueError: shapes or dtypes differ, entries are not finite, or the layer is no function
            ``g(x, m)`` with one row a gene.

    References:
        Chapter 14 of the book, where it is derived; Sundararajan et al. (2017) for attributions along a path.

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
