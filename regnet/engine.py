r"""Eqs. (3) and (4) for every gene of a graph, from one product with the data.

Averaging over regulators, :math:`m = \bar A x`, is linear, so :math:`m W^\top = \bar A (x W^\top)`. One dense product
:math:`y = x\,[W_x\ W_m]^\top`, genes x 2 hidden, and one sparse product :math:`\bar A y` therefore give the pre-activations
and :math:`W\delta = y - \bar A y` of all genes: neither :math:`m` nor :math:`\delta` is formed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import segment

from regnet.bayes_layer import PosteriorMeanAggregator, PosteriorMeanConv
from regnet.checks import check_device, check_edge_index, check_finite, check_matrix
from regnet.convolution import along_edges, check_edge_features, gcn_shares, is_gcn, read_gcn, through_layer
from regnet.graph import Adjacency, pick_rows
from regnet.layers import (
    Layer,
    LayerWeights,
    UnreadableLayerError,
    as_function,
    evaluation_mode,
    is_convolution,
    read_layer,
    unwrapped,
)
from regnet.shrinkage import Sensitivities, announced, direction, jvp_along, lengths, norms, undefined_at

if TYPE_CHECKING:
    from dask.array import Array

_GENES_AT_ONCE = 2048
"""Rows at a time: few enough to bound temporary memory, many enough to keep the processor busy."""


class Recomputed(NamedTuple):
    """Quantities recomputed in float64 for some genes."""

    z: Tensor  # pre-activations, (genes, hidden)
    delta: Tensor  # W_self delta and W_neighbor delta, (genes, 2 hidden)
    undefined: Tensor  # whether delta is 0, (genes,)


def sensitivities_on_graph(layer: Layer, x: Tensor | Array, edge_index: Tensor, **edge_features: Tensor) -> Sensitivities:
    r"""Exact sensitivities of every gene of a graph, Eq. (3), of any layer or convolution.

    For the layers that :mod:`regnet.layers` reads, from one product with the data:

    .. math:: [W_x\delta\ W_m\delta] = y - \bar A y, \qquad y = x\,[W_x\ W_m]^\top

    with :math:`\bar A` the matrix that averages over regulators. Genes that almost equal their mean, where this difference
    loses its digits, are recomputed from :math:`\delta` in float64. A Dask array is read block by block, once, and once more
    for genes to be recomputed. Beyond its input this takes the memory of about two arrays of genes x 2 hidden.

    Every other convolution of PyTorch Geometric that can be called on a pair of node sets, and any other ``g(x, m)``, goes
    through forward-mode automatic differentiation of the layer itself (not on Dask), in four passes through it. Then
    :math:`S_m` is the response to all regulators moving together along :math:`\delta`, whatever the aggregation, and self
    loops that the layer adds move with the gene. Its output, and its derivative in a random direction, are compared with
    those on this graph. The
    response of a ``GCNConv`` is :math:`\Theta\delta` times what degrees alone decide,
    :math:`w_i = 1 / (1 + \sum_{j \in \Gamma(i)} \sqrt{d_i / d_j})` with :math:`d_i = 1 + |\Gamma(i)|`.

    Args:
        layer: as above; in evaluation mode for the time of the call.
        x: expression, shape (genes, features): a tensor, dense or CSR (``x.to_sparse_csr()``), or a Dask array, chunked in
            any way (a thousand cells a block or more serve best).
        edge_index: regulator -> target, shape (2, edges), in any order.
        edge_features: what the convolution takes further, ``edge_weight=`` or ``edge_attr=``, one row an edge.

    Returns:
        :class:`regnet.Sensitivities`; NaN for genes without regulators and genes equal to their mean.

    Raises:
        TypeError, ValueError: a convolution of which own and neighbours' part cannot be told apart, with the reason; see
            :func:`regnet.sensitivities` and :func:`regnet.in_degree` for the rest.

    References:
        Kipf and Welling (2017) for ``GCNConv``.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> sensitivities_on_graph(layer, torch.tensor([[1.0], [3.0]]), torch.tensor([[0], [1]])).weight
    tensor([   nan, 0.2500])
    """
    matrix, graph = _open(layer, x, edge_index)
    turned, edges = along_edges(layer, edge_index)
    gcn = is_gcn(turned)
    check_edge_features(edge_features, matrix.like, edge_index)
    with torch.no_grad(), evaluation_mode(layer):
        try:
            weights = (read_gcn if gcn else read_layer)(turned, matrix.like).scaled()
        except UnreadableLayerError:
            if not isinstance(matrix, InMemory):
                what = f"{type(turned).__name__} has no closed form, which a Dask array needs"
                raise UnreadableLayerError(f"{what}; load x into memory: torch.from_numpy(x.compute())") from None
            return announced(matrix.differentiate(layer, graph, edge_index, edge_features), layer)
        if unknown := edge_features.keys() - ({"edge_weight"} if gcn else set()):
            raise TypeError(f"{type(turned).__name__} takes no {' and no '.join(sorted(unknown))}; leave that out")
        if gcn:
            weights = replace(weights, shares=gcn_shares(turned, edges, x.shape[0], **edge_features))
        products, row_lengths = matrix.products(weights)
        return _from_products(weights, products, row_lengths, graph, matrix)


def effective_weight_on_graph(layer: Layer, x: Tensor | Array, edge_index: Tensor, **edge_features: Tensor) -> Tensor:
    r"""Effective shrinkage weight, Eq. (4), of every gene of a graph.

    .. math:: w_i^{\mathrm{eff}} = \frac{S_{x,i}}{S_{x,i} + S_{m,i}} \in [0, 1]

    Arguments and errors are those of :func:`regnet.sensitivities_on_graph`.

    Returns:
        Shape (genes,); NaN for genes without regulators and genes equal to their mean.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> effective_weight_on_graph(layer, torch.tensor([[1.0], [3.0]]), torch.tensor([[0], [1]]))
    tensor([   nan, 0.2500])
    """
    return sensitivities_on_graph(layer, x, edge_index, **edge_features).weight


def output_on_graph(layer: Layer, x: Tensor | Array, edge_index: Tensor) -> Tensor:
    """A layer that can be read, on a graph, (genes, outputs), by the same products. Without regulators m is 0, and a
    posterior mean is x."""
    matrix, graph = _open(layer, x, edge_index)
    with torch.no_grad(), evaluation_mode(layer):
        weights = read_layer(layer, matrix.like)
        if isinstance(unwrapped(layer), (PosteriorMeanAggregator, PosteriorMeanConv)):
            own = weights.shares[:1].expand(1, len(graph.in_degree())).masked_fill(graph.in_degree() == 0, 1)
            weights = replace(weights, shares=torch.cat([own, 1 - own]))
        to_self, to_neighbor = matrix.products(weights)[0].chunk(2, dim=1)
        z = weights.add(to_self, graph.mean(to_neighbor.contiguous()))
        return weights.out(weights.mask(z) * z) + weights.bias_out


def _open(layer: Layer, x: Tensor | Array, edge_index: Tensor) -> tuple[Any, Adjacency]:
    """The matrix, and the graph along which the layer's messages go: regulator -> target unless its flow is reversed."""
    if type(x).__module__.startswith("dask."):
        from regnet.blockwise import OnDask  # here, so that who has a tensor need not wait for Dask

        matrix: Any = OnDask(x)
    else:
        matrix = InMemory(x)
    check_device(edge_index, "edge_index", matrix.like)
    check_edge_index(edge_index, x.shape[0])
    return matrix, Adjacency.of(along_edges(layer, edge_index)[1], x.shape[0])


def _from_products(w: LayerWeights, products: Tensor, row_lengths: Tensor, graph: Adjacency, matrix: Any) -> Sensitivities:
    """Eq. (3) from the products with the data, for weights that :meth:`LayerWeights.scaled` returned."""
    scale = torch.maximum(row_lengths, graph.mean(row_lengths[:, None]).squeeze(1))
    undefined = (graph.in_degree() == 0) | (scale == 0)  # no regulators, or all zero like all of them
    hidden, size = len(w.bias), torch.cat([w.w_self, w.w_neighbor]).norm()
    smallest = 1e-4 * size * scale  # products that cancel to less may be rounding, in rows that sum to 0 for example
    result = Sensitivities(torch.empty_like(row_lengths), torch.empty_like(row_lengths))
    for start in range(0, len(products), _GENES_AT_ONCE):
        genes = slice(start, start + _GENES_AT_ONCE)
        own, mean = products[genes], graph.rows(start, start + _GENES_AT_ONCE).mean(products)
        mask = w.mask(w.at(genes).add(own[:, :hidden], mean[:, hidden:])).repeat(1, 2)
        delta = mask * (own - mean)  # W delta of the active units, of which W2 makes A delta and B delta
        # Where a gene almost equals its mean, as far as the output sees, the difference has lost its digits.
        left, before = delta.norm(dim=1), (mask * own).norm(dim=1)
        lost = ~(undefined[genes] | (left > torch.maximum(1e-2 * before, smallest[genes])))
        if lost.any():
            exact = matrix.recompute(w, graph, start + lost.nonzero().squeeze(1))
            delta[lost] = (w.mask(exact.z).repeat(1, 2) * exact.delta).to(delta)
            undefined[genes] = undefined[genes].masked_scatter(lost, exact.undefined)
        result.self_sensitivity[genes] = lengths(w.out(delta[:, :hidden]))
        result.neighbor_sensitivity[genes] = lengths(w.out(delta[:, hidden:]))
    S_x, S_m = w.shares[0] * result.self_sensitivity, w.shares[1] * result.neighbor_sensitivity
    return undefined_at(Sensitivities(S_x, S_m), undefined)


class InMemory:
    """A tensor (genes, cells), dense or CSR; ``regnet.blockwise.OnDask`` has the same attribute and two methods."""

    def __init__(self, x: Any) -> None:
        check_matrix(x, sparse=True)
        self.x = self.like = x

    def products(self, weights: LayerWeights) -> tuple[Tensor, Tensor]:
        """``x [w_self, w_neighbor]^T``, (genes, 2 hidden), and the length of every row of x."""
        x, both = self.x, torch.cat([weights.w_self, weights.w_neighbor])
        if x.layout == torch.sparse_csr:
            # On a processor by the kernel that needs no MKL; on a graphics card that one does not exist.
            products = x @ both.T if x.is_cuda else torch.sparse.mm(x, both.T.contiguous(), "sum")
            entries = x.values().abs()
            largest = entries.amax() if entries.any() else entries.new_ones(())  # lest squares leave the range
            row_lengths = largest * segment((entries / largest).square()[:, None], x.crow_indices()).squeeze(1).sqrt()
        else:
            products, row_lengths = x.new_empty(len(x), len(both)), x.new_empty(len(x))
            for start in range(0, len(x), _GENES_AT_ONCE):  # the second use of rows finds them in the processor's cache
                genes = slice(start, start + _GENES_AT_ONCE)
                torch.mm(x[genes], both.T, out=products[genes])
                row_lengths[genes] = lengths(x[genes])
        if not row_lengths.isfinite().all():
            check_finite(x)
        return products, row_lengths

    def recompute(self, weights: LayerWeights, graph: Adjacency, genes: Tensor) -> Recomputed:
        """From m and delta themselves, in float64."""
        w, parts = weights.double(), []
        for some in genes.split(128):  # whose regulators are a few thousand rows at most
            rows = graph.select(some)
            regulators, col = rows.col.unique(return_inverse=True)
            x, m = self._rows(some), Adjacency(rows.rowptr, col).mean(self._rows(regulators))
            delta, undefined = direction(x, m)
            both = torch.cat([delta @ w.w_self.T, delta @ w.w_neighbor.T], dim=1)
            parts.append(Recomputed(w.at(some).pre_activation(x, m), both, undefined))
        return Recomputed(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def differentiate(
        self, layer: Layer, graph: Adjacency, edge_index: Tensor, edge_features: dict[str, Tensor]
    ) -> Sensitivities:
        """For a layer that cannot be read, with m and delta from float64."""
        x = self.x.to_dense()
        check_finite(x)
        m = graph.mean(x.double())
        delta, undefined = direction(x.double(), m)
        delta, undefined = delta.to(x.dtype), undefined | (graph.in_degree() == 0)
        if is_convolution(layer):
            return through_layer(layer, x, edge_index, delta, undefined, edge_features)
        if edge_features:
            raise TypeError(f"a layer g(x, m) takes no {' and no '.join(edge_features)}; leave that out")
        return norms(*jvp_along(as_function(layer), x, m.to(x.dtype), delta), undefined)

    def _rows(self, genes: Tensor) -> Tensor:
        """Some rows of the matrix, dense, in float64."""
        x: Tensor = self.x
        if x.layout == torch.strided:
            return x[genes].double()
        entries, rowptr = pick_rows(x.crow_indices(), genes)
        row = torch.arange(len(genes), device=x.device).repeat_interleave(rowptr.diff())
        dense = x.values().new_zeros(len(genes), x.size(1), dtype=torch.float64)
        return dense.index_put_((row, x.col_indices()[entries]), x.values()[entries].double(), accumulate=True)
