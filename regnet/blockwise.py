r"""Matrices larger than memory, on Dask.

What :mod:`regnet.engine` takes from the expression matrix is a sum over blocks of cells,
:math:`x W^\top = \sum_b x_b W_b^\top`: one pass adds up arrays of genes x 2 hidden, on threads or, where a
``dask.distributed.Client`` is active, on its workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from itertools import chain
from typing import Any, NamedTuple
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
import torch
from dask.delayed import Delayed
from scipy import sparse
from torch import Tensor

from regnet.checks import check_edge_index
from regnet.engine import Recomputed
from regnet.graph import Adjacency
from regnet.layers import LayerWeights
from regnet.shrinkage import is_rounding

Block = Any
"""Some genes x some cells, of NumPy or of scipy.sparse."""

_GROUP = 16
"""How many slices are added one after the other."""


class Moments(NamedTuple):
    """Means over cells of x, (x - mean)^2, m (0 without regulators) and (x - m)^2 (NaN without), each (genes,), float64."""

    mean: Tensor
    variance: Tensor
    neighbor_mean: Tensor
    squared_deviation: Tensor


class OnDask:
    """A Dask array (genes, cells), for :mod:`regnet.engine`."""

    def __init__(self, x: da.Array) -> None:
        _check(x)
        self.x = x
        self.like = torch.ones((), dtype=torch.float32 if x.dtype == np.float32 else torch.float64).expand(x.shape)

    def products(self, weights: LayerWeights) -> tuple[Tensor, Tensor]:
        (x,) = dask.optimize(self.x)  # so that no more is read than is needed
        # Every block is read once and used by both; the squares alone need float64, lest they overflow.
        with explain_read_errors():
            products, squares = dask.compute(
                _sum_over_blocks(_block_products, x, weights),
                _sum_over_blocks(_block_squares, x, extra=1, dtype=np.float64),
            )
        return torch.from_numpy(products[0]), torch.from_numpy(squares[0, :, 0]).sqrt().to(self.like.dtype)

    def recompute(self, weights: LayerWeights, graph: Adjacency, genes: Tensor) -> Recomputed:
        """In another pass, over the rows of these genes and their regulators alone."""
        rows, hidden = graph.select(genes), len(weights.bias)
        needed, number = torch.cat([genes, rows.col]).unique(return_inverse=True)
        regulators, shares = Adjacency(rows.rowptr, number[len(genes) :]), weights.at(genes).shares.double()
        function = partial(_block_delta, own=number[: len(genes)], regulators=regulators, shares=shares)
        (x,) = dask.optimize(_all_genes(self.x)[needed.numpy()])
        with explain_read_errors():
            sums = _sum_over_blocks(function, x, weights, extra=hidden + 3, dtype=np.float64).compute()
        delta, z, squares = torch.from_numpy(sums[0]).split([2 * hidden, hidden, 3], dim=1)
        return Recomputed(z + weights.bias.double(), delta, is_rounding(*squares.sqrt().unbind(dim=1)))


def neighbor_mean_blockwise(x: da.Array, edge_index: Tensor) -> da.Array:
    """:func:`regnet.neighbor_mean` of a Dask array (genes, cells), block by block; nothing is computed yet."""
    dense = dense_blocks(x)
    check_edge_index(edge_index, x.shape[0])
    graph = Adjacency.of(edge_index, x.shape[0])

    def mean(block: np.ndarray) -> np.ndarray:
        if not np.isfinite(block).all():
            gene = np.argwhere(~np.isfinite(block))[0][0]
            raise ValueError(f"x must be finite; gene {gene} has an entry that is not; remove or impute it first")
        return graph.mean(torch.from_numpy(block.astype(np.float64))).numpy().astype(block.dtype)

    return dense.map_blocks(mean, dtype=x.dtype)


def moments_blockwise(x: da.Array, edge_index: Tensor) -> Moments:
    """What Eq. (1) needs of every gene, in one pass over the blocks of a Dask array (genes, cells).

    Where the noise of a gene is the same in all cells, ``(moments.squared_deviation - noise_var).clamp(min=0)`` is
    :func:`regnet.prior_variance`.
    """
    dense = dense_blocks(x).astype(np.float64)
    m = neighbor_mean_blockwise(dense, edge_index)
    parts = dense.mean(axis=1), dense.var(axis=1), m.mean(axis=1), ((dense - m) ** 2).mean(axis=1)
    moments = Moments(*(torch.from_numpy(part) for part in dask.compute(*parts)))
    moments.squared_deviation[Adjacency.of(edge_index, x.shape[0]).in_degree() == 0] = torch.nan
    return moments


def dense_blocks(x: da.Array) -> da.Array:
    """A Dask array with all genes in every block, and NumPy blocks where they may have been scipy's sparse matrices."""
    _check(x)
    return _all_genes(x).map_blocks(_to_numpy, dtype=x.dtype, meta=np.empty((0, 0), dtype=x.dtype))


@contextmanager
def explain_read_errors() -> Iterator[None]:
    """An error that says what to do, where a block on disk is damaged or too large."""
    try:
        yield
    except RuntimeError as error:  # of Zarr's decompression, or of a sparse block that is not whole
        if "allocate memory" in str(error):  # PyTorch's own
            raise MemoryError("too little memory for a block; write the matrix in smaller chunks") from error
        raise ValueError(
            f"the matrix on disk cannot be read ({error}); if it is damaged, write or download it again"
        ) from error


def _check(x: da.Array) -> None:
    """Raise unless x is a Dask array (genes, cells) of known shape, of float32 or float64."""
    if not isinstance(x, da.Array) or x.ndim != 2 or x.dtype not in (np.float32, np.float64):
        got = f"{x.shape} of {x.dtype}" if isinstance(x, da.Array) else type(x).__name__
        raise TypeError(
            f"x must be a Dask array (genes, cells) of float32 or float64; got {got}; convert it with "
            "dask.array.from_array(...) or x.astype(...)"
        )
    if any(math.isnan(size) for size in x.shape):
        raise ValueError(f"x must know its shape; got {x.shape}; call x.compute_chunk_sizes() first")


def _all_genes(x: da.Array) -> da.Array:
    """All genes in every block; where blocks held some genes of many cells, of as many cells as fit a block."""
    return x if x.numblocks[0] == 1 else x.rechunk({0: -1, 1: "auto"})


def _to_numpy(block: Block) -> np.ndarray:
    return block.toarray() if sparse.issparse(block) else np.asarray(block)


def _block_products(block: Block, first_cell: np.ndarray, w_self: np.ndarray, w_neighbor: np.ndarray) -> np.ndarray:
    """What a block adds to the products, (1, genes, 2 hidden)."""
    return np.asarray(block @ np.hstack([w_self, w_neighbor]))[None]


def _block_squares(block: Block, first_cell: np.ndarray) -> np.ndarray:
    """What a block adds to the squared lengths, (1, genes, 1)."""
    if sparse.issparse(block):
        squares = np.asarray(block.astype(np.float64).power(2).sum(axis=1)).reshape(-1)
    else:
        squares = np.einsum("ij,ij->i", block, block, dtype=np.float64)
    if not np.isfinite(squares).all():
        values = _to_numpy(block)
        bad = np.argwhere(~np.isfinite(values))
        gene, cell = bad[0]
        raise ValueError(
            f"x must be finite; got {values[gene, cell]} at cell {cell + first_cell[0]}, "
            f"row {gene} of its block ({len(bad)} such in this block); remove or impute it first"
        )
    return squares[None, :, None]


def _block_delta(
    block: Block,
    first_cell: np.ndarray,
    w_self: np.ndarray,
    w_neighbor: np.ndarray,
    own: Tensor,
    regulators: Adjacency,
    shares: Tensor,
) -> np.ndarray:
    """What a block adds to W delta, to z without its bias, and to the squared lengths of delta, x and m."""
    rows = torch.from_numpy(_to_numpy(block).astype(np.float64))
    to_self, to_neighbor = (torch.from_numpy(w.astype(np.float64)) for w in (w_self, w_neighbor))
    x, m = rows[own], regulators.mean(rows)
    delta = x - m
    squares = torch.stack([part.square().sum(dim=1) for part in (delta, x, m)], dim=1)
    share_x, share_m = shares[..., None]
    z = share_x * (x @ to_self) + share_m * (m @ to_neighbor)
    return torch.cat([delta @ to_self, delta @ to_neighbor, z, squares], dim=1).numpy()[None]


def _sum_over_blocks(
    function: Callable[..., np.ndarray], x: da.Array, weights: LayerWeights | None = None, extra: int = 0, dtype: Any = None
) -> Delayed:
    """The sum over blocks of cells of ``function(block, number of its first cell, weights of its cells)``, to be computed.

    Shape (1, genes, rows of both weights + extra); in the dtype of x where none is given.
    """
    cells, dtype = x.chunks[1], dtype or x.dtype
    of_cells = [_without_copy(w.cpu().numpy().T, cells) for w in ([weights.w_self, weights.w_neighbor] if weights else [])]
    first_cell = da.from_array(np.cumsum([0, *cells[:-1]]), chunks=1)
    # Every block of cells gives one slice of a third dimension.
    slices = da.blockwise(
        function,
        "jik",
        x,
        "ij",
        first_cell,
        "j",
        *chain.from_iterable(zip(of_cells, ("js", "jn"), strict=False)),
        new_axes={"k": sum(w.shape[1] for w in of_cells) + extra},
        concatenate=True,
        align_arrays=False,  # they are, but for the lengths of the blocks
        adjust_chunks={"j": 1},
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype=dtype),
    )
    # Added one after the other in groups, and then the groups: few slices are there at a time, where Dask's own sum lets
    # many wait for each other, and no chain is long, for which a cluster would have to send each sum to the next block.
    add = dask.delayed(np.add)
    pieces = []  # of genes, where the blocks hold only some
    for sums in slices.to_delayed(optimize_graph=False)[:, :, 0].T.tolist():
        while len(sums) > 1:
            sums = [reduce(add, sums[start : start + _GROUP]) for start in range(0, len(sums), _GROUP)]
        pieces += sums
    return dask.delayed(np.concatenate)(pieces, axis=1) if len(pieces) > 1 else pieces[0]


def _without_copy(rows: np.ndarray, lengths: tuple[int, ...]) -> da.Array:
    """A matrix as a Dask array of blocks of so many rows, which ``dask.array.from_array`` would hold twice."""
    name = f"rows-{uuid4().hex}"
    parts = np.split(rows, np.cumsum(lengths[:-1]))
    graph = {(name, number, 0): part for number, part in enumerate(parts)}
    return da.Array(graph, name, chunks=(lengths, (rows.shape[1],)), dtype=rows.dtype)
