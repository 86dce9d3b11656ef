r"""What the known graph alone says about a pair (regulator, target): five features, the pair's own edge left out.

Link prediction can be won without any expression: popular regulators have more targets, popular targets more regulators, and
a list of undirected interactions names many pairs both ways. These features make that knowledge explicit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regnet.checks import check_edge_index

NUM_FEATURES = 5


def pair_features(edge_index: Tensor, num_genes: int, pairs: Tensor) -> Tensor:
    r"""Structural features of pairs of genes in a known graph.

    With :math:`A_{ij} = 1` for an edge :math:`i \to j`, each pair :math:`(i, j)` gets

    .. math:: \Bigl[\log(1 + d_i^{out}),\ \log(1 + d_j^{in}),\ \log(1 + d_i^{out})\log(1 + d_j^{in}),\ A_{ji},\
        \log\bigl(1 + (A A^\top A)_{ij}\bigr)\Bigr]

    out-degree of the regulator, in-degree of the target, the product of these two logarithms, whether the reverse edge is
    known, and the number of paths :math:`i \to k \leftarrow r \to j` (regulators that share targets with *i* and regulate
    *j*). Where the pair is itself an edge of the graph, everything is counted as if it were not: so a training edge looks
    as it would if it were hidden.

    Args:
        edge_index: the known graph, regulator -> target, shape (2, edges); repeated edges count once.
        num_genes: number of genes.
        pairs: regulator and target, shape (2, pairs).

    Returns:
        Shape (pairs, 5), float64.

    Raises:
        TypeError, ValueError: see :func:`regnet.checks.check_edge_index`, for the graph and for the pairs.

    References:
        Chapter 12 of the book; Kovács et al. (2019) for paths of length three.

    >>> edge_index = torch.tensor([[0, 0, 1], [2, 3, 2]])
    >>> pair_features(edge_index, 4, torch.tensor([[1], [3]])).exp().round().int()  # one path: 1 -> 2 <- 0 -> 3
    tensor([[2, 2, 2, 1, 2]], dtype=torch.int32)
    """
    check_edge_index(edge_index, num_genes)
    check_edge_index(pairs, num_genes, "pairs")
    regulators, row = edge_index[0].unique(return_inverse=True)
    known = torch.zeros(len(regulators), num_genes, dtype=torch.float64, device=edge_index.device)
    known[row, edge_index[1].long()] = 1
    row_of = torch.full((num_genes,), -1, device=edge_index.device)  # a gene without targets has no row
    row_of[regulators.long()] = torch.arange(len(regulators), device=edge_index.device)

    def at(matrix: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        rows = row_of[sources]
        return torch.where(rows >= 0, matrix[rows, targets], 0)

    source, target = pairs.long()
    out_degree = torch.zeros(num_genes, dtype=known.dtype, device=known.device)
    out_degree[regulators.long()] = known.sum(dim=1)
    own = at(known, source, target)
    outgoing, incoming = out_degree[source] - own, known.sum(dim=0)[target] - own
    reverse = at(known, target, source) * (source != target)
    # With the own edge, paths i -> j <- r -> j and i -> k <- i -> j would count as well.
    paths = at(known @ known.T @ known, source, target) - own * (outgoing + incoming + 1)
    popular, regulated = outgoing.log1p(), incoming.log1p()
    return torch.stack([popular, regulated, popular * regulated, reverse, paths.log1p()], dim=1)
