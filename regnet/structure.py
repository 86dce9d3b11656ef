"""What the known graph alone says about a pair (regulator, target), the pair's own edge left out."""

from __future__ import annotations

import torch
from torch import Tensor

from regnet.checks import check_edge_index


def pair_features(edge_index: Tensor, num_genes: int, pairs: Tensor) -> Tensor:
    r"""Structural features of each pair :math:`(i, j)` in a known graph with :math:`A_{ij} = 1` for an edge :math:`i \to j`.

    .. math:: \Bigl[\log(1 + d_i^{out}),\ \log(1 + d_j^{in}),\ \log(1 + d_i^{out})\log(1 + d_j^{in}),\
        \log\bigl(1 + (A A^\top A)_{ij}\bigr)\Bigr]

    out-degree, in-degree, the product of their logarithms, and the number of paths :math:`i \to k \leftarrow r \to j`, after
    Kovács et al. (2019). The pair's own edge is left out everywhere. Whether the reverse edge is known is no feature:
    :func:`regnet.training.split_edges` keeps both orders of a pair together.

    Args:
        edge_index: the known graph, regulator -> target, shape (2, edges); repeated edges count once.
        num_genes: number of genes.
        pairs: regulator and target, shape (2, pairs); both are checked as by :func:`regnet.in_degree`.

    Returns:
        Shape (pairs, 4), float64.

    >>> edge_index = torch.tensor([[0, 0, 1], [2, 3, 2]])
    >>> pair_features(edge_index, 4, torch.tensor([[1], [3]])).exp().round().int()  # one path: 1 -> 2 <- 0 -> 3
    tensor([[2, 2, 2, 2]], dtype=torch.int32)
    """
    check_edge_index(edge_index, num_genes)
    check_edge_index(pairs, num_genes, "pairs")
    regulators, row = edge_index[0].unique(return_inverse=True)
    known = torch.zeros(len(regulators), num_genes, dtype=torch.float64, device=edge_index.device)
    known[row, edge_index[1].long()] = 1
    row_of = torch.full((num_genes,), -1, device=edge_index.device)  # where a gene has no targets
    row_of[regulators.long()] = torch.arange(len(regulators), device=edge_index.device)

    def at(matrix: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        return torch.where(row_of[sources] >= 0, matrix[row_of[sources], targets], 0)

    source, target = pairs.long()
    own = at(known, source, target)
    outgoing = at(known.sum(dim=1, keepdim=True).expand_as(known), source, target) - own
    incoming = known.sum(dim=0)[target] - own
    # With the own edge, paths i -> j <- r -> j and i -> k <- i -> j would count as well.
    paths = at(known @ known.T @ known, source, target) - own * (outgoing + incoming + 1)
    popular, regulated = outgoing.log1p(), incoming.log1p()
    return torch.stack([popular, regulated, popular * regulated, paths.log1p()], dim=1)
