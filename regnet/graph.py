r"""From edges to the graph quantities of the note: the in-degree and the neighbour mean, and a rewired graph."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from torch import Tensor
from torch.nn import functional as F

from regnet.checks import check_device, check_edge_index, check_expression


def in_degree(edge_index: Tensor, num_genes: int) -> Tensor:
    r"""Number of regulators of every gene, :math:`|\Gamma(i)|`, shape (genes,), int64 (section 1 of the note).

    Args:
        edge_index: regulator -> target, shape (2, edges). An edge listed twice counts twice, as in PyTorch Geometric.
        num_genes: number of genes.

    Raises:
        TypeError, ValueError: ``edge_index`` is no integer tensor (2, edges), is empty, or names a gene that does not exist.

    >>> in_degree(torch.tensor([[0, 1], [2, 2]]), num_genes=3)
    tensor([0, 0, 2])
    """
    check_edge_index(edge_index, num_genes)
    return torch.bincount(edge_index[1], minlength=num_genes)


def neighbor_mean(x: Tensor, edge_index: Tensor) -> Tensor:
    r"""Mean expression of each gene's regulators (section 1 of the note).

    .. math:: m_{is} = \frac{1}{|\Gamma(i)|} \sum_{j \in \Gamma(i)} x_{js}

    Args:
        x: expression, shape (genes, cells), or any features of the genes.
        edge_index: regulator -> target, shape (2, edges).

    Returns:
        Shape and dtype of ``x``, summed in float64. A gene without regulators gets zeros, which are an empty mean and not
        an estimate: use :func:`regnet.effective_weight_on_graph`, which reports such a gene as undefined.

    Raises:
        TypeError, ValueError: ``x`` is no finite float32 or float64 matrix; see :func:`regnet.in_degree` for ``edge_index``.

    >>> neighbor_mean(torch.tensor([[1.0], [3.0], [0.0]]), torch.tensor([[0, 1], [2, 2]])).tolist()
    [[0.0], [0.0], [2.0]]
    """
    check_expression(x)
    check_device(edge_index, "edge_index", x)
    check_edge_index(edge_index, x.size(0))
    # In float32 a mean is off by some eps of x, which is much beside x - m where a gene almost equals its regulators.
    return Adjacency.of(edge_index, x.size(0)).mean(x.double()).to(x.dtype)


def mean_over_regulators(values: Tensor, edge_index: Tensor) -> Tensor:
    """The neighbour mean of any features (genes, features) in their own dtype, differentiable and without checks."""
    return Adjacency.of(edge_index, values.size(0)).mean(values)


@dataclass(frozen=True)
class Adjacency:
    """Who regulates whom, in CSR form: row *i*, ``col[rowptr[i] : rowptr[i + 1]]``, lists the regulators of gene *i*."""

    rowptr: Tensor
    col: Tensor

    @classmethod
    def of(cls, edge_index: Tensor, num_genes: int) -> Adjacency:
        """From edges in any order, regulator -> target, shape (2, edges); an edge listed twice counts twice."""
        return cls(*_to_csr(edge_index, num_genes))

    def in_degree(self) -> Tensor:
        """Length of every row, shape (genes,)."""
        return self.rowptr.diff()

    def rows(self, start: int, stop: int) -> Adjacency:
        """The rows from ``start`` up to but not including ``stop``, without a copy."""
        rowptr = self.rowptr[start : stop + 1]
        return Adjacency(rowptr - rowptr[0], self.col[int(rowptr[0]) : int(rowptr[-1])])

    def select(self, genes: Tensor) -> Adjacency:
        """The rows of some genes."""
        entries, rowptr = pick_rows(self.rowptr, genes)
        return Adjacency(rowptr, self.col[entries])

    def mean(self, values: Tensor) -> Tensor:
        r"""The product :math:`\bar A y` with ``values``, (any genes, features); rows without regulators give 0."""
        total = _sum(values, self.rowptr, self.col)
        # Divided, and not multiplied by a rounded 1/n: the mean of equal numbers is that number.
        return total / self.in_degree().clamp(min=1).to(values.dtype)[:, None]


@torch.library.custom_op("regnet::to_csr", mutates_args=())  # so that torch.func passes it plain tensors
def _to_csr(edge_index: Tensor, num_genes: int) -> tuple[Tensor, Tensor]:
    """``rowptr`` and ``col`` by scipy, which counts where PyTorch would sort."""
    regulator, target = edge_index.cpu().numpy()
    edges = coo_array((np.ones_like(target, bool), (target, regulator)), shape=(num_genes, num_genes))
    edges.has_canonical_format = True  # so that an edge listed twice stays two
    rows = edges.tocsr()
    rowptr, col = (torch.from_numpy(part).to(edge_index.device, torch.long) for part in (rows.indptr, rows.indices))
    return rowptr, col


class _Sum(torch.autograd.Function):
    """Sums over regulators without an array of edges x features, for every kind of automatic differentiation."""

    @staticmethod
    def forward(values: Tensor, rowptr: Tensor, col: Tensor) -> Tensor:
        if values.dtype == torch.float32 or values.is_cuda:
            return F.embedding_bag(col, values, rowptr, mode="sum", include_last_offset=True)
        # In float64 on a processor the kernel above runs on one core only, and the one for sparse matrices is faster.
        ones, size = torch.ones_like(col, dtype=values.dtype), (len(rowptr) - 1, len(values))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            sparse = torch.sparse_csr_tensor(rowptr, col, ones, size, device=values.device, check_invariants=False)
        total: Tensor = torch.sparse.mm(sparse, values, "sum")
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        values, rowptr, col = inputs
        ctx.save_for_backward(rowptr, col)
        ctx.save_for_forward(rowptr, col)
        ctx.num_genes = len(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rowptr, col = ctx.saved_tensors
        target = torch.arange(len(rowptr) - 1, device=col.device).repeat_interleave(rowptr.diff())
        into = Adjacency.of(torch.stack([target, col]), ctx.num_genes)
        return _sum(gradient, into.rowptr, into.col), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _sum(tangent, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None, None], values: Tensor, rowptr: Tensor, col: Tensor) -> tuple[Tensor, int]:
        last = values.movedim(in_dims[0], -1)  # all of a batch at once, as more features
        return _sum(last.flatten(1).contiguous(), rowptr, col).unflatten(1, last.shape[1:]), 2


def _sum(values: Tensor, rowptr: Tensor, col: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values, rowptr, col)  # type: ignore[no-untyped-call]
    return total


def pick_rows(rowptr: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where the entries of some rows of a CSR matrix stand, and the ``rowptr`` of the matrix of these rows alone."""
    start, count = rowptr[rows], rowptr.diff()[rows]
    end = count.cumsum(0)
    entries = torch.arange(int(count.sum()), device=rows.device) + (start - end + count).repeat_interleave(count)
    return entries, F.pad(end, (1, 0))


def rewire(edge_index: Tensor, seed: int = 0, swaps_per_edge: int = 10) -> Tensor:
    r"""A random graph in which every gene keeps its in-degree and its out-degree, after Maslov and Sneppen (2002).

    Two random edges :math:`a \to b,\ c \to d` become :math:`a \to d,\ c \to b` wherever that makes neither a self loop
    nor an edge that is already there.

    Args:
        edge_index: regulator -> target, shape (2, edges), without repeated edges; errors as in :func:`regnet.in_degree`.
        seed: of the choice of edges.
        swaps_per_edge: attempted swaps, as a multiple of the number of edges.

    Returns:
        Shape (2, edges), in the same order of regulators.

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
