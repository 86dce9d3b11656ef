"""From edges to the two graph quantities of the note: the in-degree and the neighbour mean."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.utils import degree, scatter

from regnet.checks import check_device, check_edge_index, check_expression


def in_degree(edge_index: Tensor, num_genes: int) -> Tensor:
    r"""Number of regulators of every gene, :math:`|\Gamma(i)|`.

    Args:
        edge_index: regulator -> target, shape (2, edges). An edge listed twice counts twice,
            as everywhere in PyTorch Geometric.
        num_genes: number of genes.

    Returns:
        Shape (genes,), int64.

    Raises:
        TypeError, ValueError: see :func:`regnet.checks.check_edge_index`.

    References:
        Section 1 of the note.

    >>> in_degree(torch.tensor([[0, 1], [2, 2]]), num_genes=3)
    tensor([0, 0, 2])
    """
    check_edge_index(edge_index, num_genes)
    count: Tensor = degree(edge_index[1], num_genes, dtype=torch.long)
    return count


def neighbor_mean(x: Tensor, edge_index: Tensor) -> Tensor:
    r"""Mean expression of each gene's regulators.

    .. math:: m_{is} = \frac{1}{|\Gamma(i)|} \sum_{j \in \Gamma(i)} x_{js}

    Args:
        x: expression, shape (genes, cells), or any features of the genes.
        edge_index: regulator -> target, shape (2, edges).

    Returns:
        Shape of ``x``. A gene without regulators gets zeros, which are an empty mean and not an estimate;
        everything in :mod:`regnet.shrinkage` reports such a gene as undefined.

    Raises:
        TypeError, ValueError: see :func:`regnet.checks.check_expression` and :func:`regnet.checks.check_edge_index`.

    References:
        Section 1 of the note (chapter 1 of the book).

    >>> neighbor_mean(torch.tensor([[1.0], [3.0], [0.0]]), torch.tensor([[0, 1], [2, 2]]))
    tensor([[0.],
            [0.],
            [2.]])
    """
    check_expression(x)
    check_device(edge_index, "edge_index", x)
    check_edge_index(edge_index, x.size(0))
    return mean_over_regulators(x, edge_index)


def mean_over_regulators(x: Tensor, edge_index: Tensor) -> Tensor:
    """:func:`regnet.neighbor_mean` without its checks, for use inside a layer and under automatic differentiation.

    Args:
        x: features of the genes, shape (genes, features), any unit.
        edge_index: regulator -> target, shape (2, edges), of genes that exist.

    Returns:
        Shape, unit and dtype of ``x``; zeros for a gene without regulators.

    References:
        Section 1 of the note (chapter 1 of the book).

    >>> mean_over_regulators(torch.tensor([[1.0], [3.0], [0.0]]), torch.tensor([[0, 1], [2, 2]])).T
    tensor([[0., 0., 2.]])
    """
    regulator, target = edge_index.long()  # scatter takes no other integers
    m: Tensor = scatter(x[regulator], target, dim=0, dim_size=x.size(0), reduce="mean")
    return m


@dataclass(frozen=True)
class RegulatorLists:
    r"""The sparse matrix :math:`\bar A` that averages over regulators: the regulators of every gene, list after list.

    Where :func:`regnet.neighbor_mean` forms an array of edges x features, its :meth:`mean` forms only the result.

    Attributes:
        offsets: where the list of each gene begins, and where the last one ends, shape (genes + 1,).
        regulators: their rows in the expression matrix, shape (edges,).
    """

    offsets: Tensor
    regulators: Tensor

    @classmethod
    def of(cls, edge_index: Tensor, num_genes: int) -> RegulatorLists:
        """From edges in any order, regulator -> target, shape (2, edges); an edge listed twice counts twice."""
        check_edge_index(edge_index, num_genes)
        regulator, target = edge_index.cpu().numpy()
        edges = coo_array((np.ones_like(target, bool), (target, regulator)), shape=(num_genes, num_genes))
        edges.has_canonical_format = True  # so that an edge listed twice stays two
        rows = edges.tocsr()
        return cls(*(torch.from_numpy(part).to(edge_index.device, torch.long) for part in (rows.indptr, rows.indices)))

    def in_degree(self) -> Tensor:
        """Length of every list, shape (genes,)."""
        return self.offsets.diff()

    def between(self, start: int, stop: int) -> RegulatorLists:
        """The lists of the genes from ``start`` up to but not including ``stop``, without a copy."""
        offsets = self.offsets[start : stop + 1]
        return RegulatorLists(offsets - offsets[0], self.regulators[int(offsets[0]) : int(offsets[-1])])

    def select(self, genes: Tensor) -> RegulatorLists:
        """The lists of some genes."""
        entries, offsets = pick_rows(self.offsets, genes)
        return RegulatorLists(offsets, self.regulators[entries])

    def mean(self, values: Tensor) -> Tensor:
        r"""The product :math:`\bar A y` of the lists' genes with ``values``, (any genes, features); empty lists give 0.

        >>> RegulatorLists.of(torch.tensor([[0, 1], [2, 2]]), 3).mean(torch.tensor([[1.0], [3.0], [0.0]])).tolist()
        [[0.0], [0.0], [2.0]]
        """
        share = self.in_degree().clamp(min=1).to(values.dtype).reciprocal()[:, None]
        if values.dtype == torch.float32 or values.is_cuda:
            total: Tensor = F.embedding_bag(self.regulators, values, self.offsets, mode="sum", include_last_offset=True)
            return total.mul_(share)
        # In float64 on a processor the kernel above runs on one core only, and the one for sparse matrices is faster.
        ones = torch.ones_like(self.regulators, dtype=values.dtype)
        size = (len(self.offsets) - 1, len(values))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            lists = torch.sparse_csr_tensor(
                self.offsets, self.regulators, ones, size, device=values.device, check_invariants=False
            )
        total = torch.sparse.mm(lists, values, "sum")
        return total.mul_(share)


def pick_rows(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where the entries of some rows stand in lists that follow each other, and where the picked rows begin and end.

    Args:
        offsets: where the list of each row begins, and where the last one ends, shape (rows + 1,).
        rows: which to pick, shape (some,).

    Returns:
        Positions of their entries, shape (entries,), and the new offsets, shape (some + 1,).

    References:
        Chapter 16 of the book.

    >>> pick_rows(torch.tensor([0, 2, 3, 5]), torch.tensor([2, 0]))
    (tensor([3, 4, 0, 1]), tensor([0, 2, 4]))
    """
    start, count = offsets[rows], offsets.diff()[rows]
    end = count.cumsum(0)
    positions = torch.arange(int(count.sum()), device=rows.device) + (start - end + count).repeat_interleave(count)
    return positions, F.pad(end, (1, 0))


def rewire(edge_index: Tensor, seed: int = 0, swaps_per_edge: int = 10) -> Tensor:
    r"""A random graph in which every gene keeps its in-degree and its out-degree.

    Two random edges :math:`a \to b,\ c \to d` become :math:`a \to d,\ c \to b` wherever that makes neither a self loop
    nor an edge that is already there.

    Args:
        edge_index: regulator -> target, shape (2, edges), without repeated edges.
        seed: of the choice of edges.
        swaps_per_edge: attempted swaps, as a multiple of the number of edges.

    Returns:
        Shape (2, edges), in the same order of regulators.

    Raises:
        TypeError, ValueError: see :func:`regnet.checks.check_edge_index`.

    References:
        Maslov and Sneppen (2002).

    >>> edge_index = torch.tensor([[0, 0, 1, 1], [2, 3, 4, 5]])
    >>> rewired = rewire(edge_index)
    >>> in_degree(rewired, 6).tolist(), bool((rewired[0] == edge_index[0]).all())
    ([0, 0, 1, 1, 1, 1], True)
    """
    check_edge_index(edge_index, int(edge_index.max()) + 1 if edge_index.numel() else 0)
    regulators, targets = edge_index.tolist()
    present = set(zip(regulators, targets, strict=True))
    generator = torch.Generator().manual_seed(seed)
    attempts = torch.randint(len(targets), (swaps_per_edge * len(targets), 2), generator=generator, device="cpu")
    for first, second in attempts.tolist():
        a, b, c, d = regulators[first], targets[first], regulators[second], targets[second]
        if a == d or c == b or (a, d) in present or (c, b) in present:
            continue
        present -= {(a, b), (c, d)}
        present |= {(a, d), (c, b)}
        targets[first], targets[second] = d, b
    return torch.tensor([regulators, targets], dtype=edge_index.dtype, device=edge_index.device)
