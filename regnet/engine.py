r"""Eqs. (3) and (4) for every gene of a graph, from one product with the data.

Averaging over regulators, :math:`m = \bar A x`, is linear, so :math:`m W^\top = \bar A (x W^\top)`. One dense product
:math:`y = x\,[W_x\ W_m]^\top`, genes x 2 hidden, and one sparse product :math:`\bar A y` therefore give the pre-activations
and :math:`W\delta = y - \bar A y` of all genes: neither :math:`m` nor :math:`\delta` is formed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.nn import SAGEConv
from torch_geometric.utils import segment

from regnet.checks import check_device, check_finite, check_matrix
from regnet.graph import RegulatorLists, pick_rows
from regnet.layers import (
    Layer,
    LayerWeights,
    ProjectedWeights,
    UnreadableLayerError,
    as_function,
    evaluation_mode,
    read_layer_on_graph,
)
from regnet.shrinkage import Sensitivities, direction, lengths, sensitivities, undefined_at

_GENES_AT_ONCE = 2048
"""Rows at a time: few enough that what is made of them stays small, many enough that the processor is kept busy."""

AgainFromDelta = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Genes -> their W delta from delta itself, (genes, 2 hidden), and which of them have no delta beyond rounding."""


def sensitivities_on_graph(layer: Layer, x: Tensor, edge_index: Tensor) -> Sensitivities:
    r"""Exact sensitivities of every gene of a graph, Eq. (3), from one product with the data.

    .. math:: [W_x\delta\ W_m\delta] = y - \bar A y, \qquad y = x\,[W_x\ W_m]^\top

    with :math:`\bar A` the matrix that averages over regulators. Genes that almost equal their mean, where this difference
    loses its digits, are done again from :math:`\delta`. Beyond its input it takes about as much memory as two arrays of
    genes x 2 hidden.

    Args:
        layer: one that :mod:`regnet.layers` reads; any other ``g(x, m)`` goes through forward-mode automatic
            differentiation on the neighbour means. For a ``SAGEConv``, give the ``edge_index`` that the layer is called
            with; for one that projects its neighbours, :math:`S_m` is the answer to moving all of them by
            :math:`\delta_i`.
        x: expression, shape (genes, features), dense or in sparse rows (``x.to_sparse_csr()``).
        edge_index: regulator -> target, shape (2, edges), in any order.

    Returns:
        :class:`regnet.Sensitivities`; NaN for genes without regulators and genes equal to their mean.

    Raises:
        TypeError, ValueError: see :func:`regnet.sensitivities` and :func:`regnet.checks.check_edge_index`.

    References:
        Chapters 3 and 16 of the book.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> sensitivities_on_graph(layer, torch.tensor([[1.0], [3.0]]), torch.tensor([[0], [1]])).weight
    tensor([   nan, 0.2500])
    """
    check_matrix(x, sparse=True)
    check_device(edge_index, "edge_index", x)
    graph = RegulatorLists.of(message_direction(layer, edge_index), x.size(0))
    with torch.no_grad(), evaluation_mode(layer):
        try:
            weights = read_layer_on_graph(layer, x)
        except UnreadableLayerError:
            as_function(layer)  # raises for what is no g(x, m), before anything is computed
            x = x.to_dense()
            check_finite(x)
            result = sensitivities(layer, x, graph.mean(x), "jvp")
            return undefined_at(result, graph.in_degree() == 0)
        both = torch.cat([weights.w_self, weights.w_neighbor])
        products, row_lengths = _products(x, both)

        def again_from_delta(genes: Tensor) -> tuple[Tensor, Tensor]:
            delta, undefined = direction(_rows(x, genes), _means(x, graph, genes))
            return delta @ both.T, undefined

        return from_products(weights, products, row_lengths, graph, again_from_delta)


def effective_weight_on_graph(layer: Layer, x: Tensor, edge_index: Tensor) -> Tensor:
    r"""Effective shrinkage weight, Eq. (4), of every gene of a graph.

    Args:
        layer: see :func:`regnet.sensitivities_on_graph`.
        x: expression, shape (genes, features), dense or in sparse rows.
        edge_index: regulator -> target, shape (2, edges).

    Returns:
        Shape (genes,); NaN for genes without regulators and genes equal to their mean.

    Raises:
        TypeError, ValueError: see :func:`regnet.sensitivities_on_graph`.

    References:
        Section 4 of the note (chapters 4, 8 and 16 of the book).

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> effective_weight_on_graph(layer, torch.tensor([[1.0], [3.0]]), torch.tensor([[0], [1]]))
    tensor([   nan, 0.2500])
    """
    return sensitivities_on_graph(layer, x, edge_index).weight


def from_products(
    weights: LayerWeights | ProjectedWeights,
    products: Tensor,
    row_lengths: Tensor,
    graph: RegulatorLists,
    again_from_delta: AgainFromDelta,
) -> Sensitivities:
    """What is left to do once the products with the data are there, wherever the data are.

    Args:
        weights: what was read from the layer.
        products: ``x [w_self, w_neighbor]^T``, shape (genes, 2 hidden).
        row_lengths: length of every row of ``x``, shape (genes,).
        graph: the regulators of every gene.
        again_from_delta: gives ``W delta`` without a loss of digits, for the few genes that need it.

    Returns:
        :class:`regnet.Sensitivities`, see :func:`regnet.sensitivities_on_graph`.

    References:
        Chapter 16 of the book.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> x, graph = torch.tensor([[1.0], [3.0]]), RegulatorLists.of(torch.tensor([[0], [1]]), 2)
    >>> weights = read_layer_on_graph(layer, x)
    >>> from_products(weights, x @ layer.weight.detach(), x.squeeze(1), graph, again_from_delta=None).weight
    tensor([   nan, 0.2500])
    """
    scale = torch.maximum(row_lengths, graph.mean(row_lengths[:, None]).squeeze(1))
    undefined = (graph.in_degree() == 0) | (scale == 0)  # no regulators, or silent like all of them
    heard = weights.heard()
    quietest, loudest = torch.aminmax(heard) if heard.numel() else (0, 0)
    size = (torch.cat([lengths(weights.w_self), lengths(weights.w_neighbor)]) * heard).norm()
    rounding = 1e3 * torch.finfo(products.dtype).eps * size * scale
    values = weights.values(products)
    answers = products.new_empty(len(products), 2)
    for start in range(0, len(products), _GENES_AT_ONCE):
        genes = slice(start, start + _GENES_AT_ONCE)
        own, mean = values[genes], graph.between(start, start + _GENES_AT_ONCE).mean(values)
        gate = weights.gate(own, mean)
        delta = mean[:, : products.size(1)].neg_().add_(own[:, : products.size(1)])
        passed = weights.pass_on(gate, delta)
        # Where a gene almost equals its mean, as far as the output hears its active units, the difference has lost its
        # digits: it is done again from delta itself. Bounds clear most genes, and the others are looked at closely.
        before, left = (torch.linalg.vector_norm(rows, dim=1) for rows in (products[genes], passed))
        clear = quietest * left > torch.maximum(1e-2 * loudest * before, rounding[genes])
        doubtful = (~(clear | undefined[genes])).nonzero().squeeze(1)
        if len(doubtful):
            before = lengths(weights.pass_on(gate[doubtful], products[start + doubtful]) * heard)
            left = lengths(passed[doubtful] * heard)
            again = doubtful[~(left > torch.maximum(1e-2 * before, rounding[start + doubtful]))]
            if len(again):
                redone, undefined[start + again] = again_from_delta(start + again)
                passed[again] = weights.pass_on(gate[again], redone)
        answers[genes] = lengths(weights.push(passed))
    return undefined_at(Sensitivities(*answers.unbind(dim=1)), undefined)


def message_direction(layer: Layer, edge_index: Tensor) -> Tensor:
    """Regulator -> target: the edges themselves, but reversed for a ``SAGEConv`` with ``flow="target_to_source"``.

    Args:
        layer: the layer.
        edge_index: what the layer is called with, shape (2, edges).

    Returns:
        Edges along which the layer's messages go, shape (2, edges).

    References:
        Chapter 16 of the book.

    >>> message_direction(SAGEConv(2, 3, flow="target_to_source"), torch.tensor([[0], [1]])).tolist()
    [[1], [0]]
    """
    if isinstance(layer, SAGEConv) and layer.flow == "target_to_source":
        return edge_index.flip(0)
    return edge_index


def _products(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """x weight^T, shape (genes, rows of the weight), and the length of every row of x, which is then known to be finite."""
    if x.layout == torch.sparse_csr:
        # On a processor by the kernel that needs no MKL; on a graphics card that one does not exist.
        products = x @ weight.T if x.is_cuda else torch.sparse.mm(x, weight.T.contiguous(), "sum")
        row_lengths = _sparse_row_lengths(x)
    else:
        products, row_lengths = x.new_empty(len(x), len(weight)), x.new_empty(len(x))
        for start in range(0, len(x), _GENES_AT_ONCE):  # the second use of some rows finds them in the processor's cache
            genes = slice(start, start + _GENES_AT_ONCE)
            torch.mm(x[genes], weight.T, out=products[genes])
            row_lengths[genes] = lengths(x[genes])
    if not row_lengths.isfinite().all():
        check_finite(x)
    return products, row_lengths


def _means(x: Tensor, graph: RegulatorLists, genes: Tensor) -> Tensor:
    """Neighbour means of some genes, shape (some genes, features)."""
    lists = graph.select(genes)
    if x.layout == torch.strided:
        return lists.mean(x)
    regulators, number = lists.regulators.unique(return_inverse=True)
    return RegulatorLists(lists.offsets, number).mean(_rows(x, regulators))


def _rows(x: Tensor, genes: Tensor) -> Tensor:
    """Some rows of a matrix, dense."""
    if x.layout == torch.strided:
        return x[genes]
    entries, offsets = pick_rows(x.crow_indices(), genes)
    row = torch.arange(len(genes), device=x.device).repeat_interleave(offsets.diff())
    dense = x.values().new_zeros(len(genes), x.size(1))
    return dense.index_put_((row, x.col_indices()[entries]), x.values()[entries], accumulate=True)


def _sparse_row_lengths(x: Tensor) -> Tensor:
    entries = x.values()[:, None].abs()
    largest = entries.amax() if entries.any() else 1
    length: Tensor = segment((entries / largest).square(), x.crow_indices()).squeeze(1).sqrt()
    return largest * length
