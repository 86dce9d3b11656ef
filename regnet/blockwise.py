r"""The effective weight of matrices larger than memory, on Dask.

Everything that :mod:`regnet.engine` takes from the expression matrix is a sum over cells: with :math:`b` running over blocks
of cells, :math:`x W^\top = \sum_b x_b W_b^\top`. One pass over the blocks, read from disk a few at a time, adds up arrays of
genes x 2 hidden; what follows is the same code as in memory. On threads nothing has to be set up; where a
``dask.distributed.Client`` is active the same calls run on its workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
import torch
from dask.delayed import Delayed
from scipy import sparse
from torch import Tensor

from regnet.engine import from_products, message_direction
from regnet.graph import RegulatorLists
from regnet.layers import (
    Layer,
    LayerWeights,
    ProjectedWeights,
    UnreadableLayerError,
    evaluation_mode,
    read_layer,
    read_layer_on_graph,
)
from regnet.shrinkage import Sensitivities, within_rounding

Block = Any
"""Some genes x some cells, of NumPy or of scipy.sparse."""

_GROUP = 16
"""How many slices are added one after the other."""


class LazyExpression(NamedTuple):
    """An expression matrix that stays on disk."""

    x: da.Array
    """Genes x cells; blocks of NumPy or, as stored, of scipy's sparse matrices."""
    gene_names: list[str]
    """One for each row; the numbers of the rows where the file names none."""
    cell_names: list[str]
    """One for each column; none where the file names none."""


class Moments(NamedTuple):
    """Sums over cells that Eq. (1) needs, each of shape (genes,) and of float64."""

    mean: Tensor
    """Mean over cells of x."""
    variance: Tensor
    """Variance over cells of x, with the number of cells as the divisor; squared units of x."""
    neighbor_mean: Tensor
    """Mean over cells of m; 0 without regulators."""
    squared_deviation: Tensor
    r"""Mean over cells of :math:`(x - m)^2`, the sufficient statistic of :func:`regnet.prior_variance`; NaN without m."""


def open_expression(path: str | Path) -> LazyExpression:
    """Open a ``.h5ad`` or ``.zarr`` file without reading its matrix.

    Args:
        path: AnnData's ``.h5ad`` or ``.zarr`` (cells x genes, which is transposed here), or a plain array in ``.zarr``
            (genes x cells).

    Returns:
        :class:`regnet.blockwise.LazyExpression`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another suffix, a file that cannot be read, or one without a matrix of real numbers. Damage inside the
            matrix shows when it is read.

    References:
        Chapter 16 of the book.

    >>> import tempfile, zarr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     zarr.save(f"{folder}/x.zarr", np.zeros((3, 5)))
    ...     open_expression(f"{folder}/x.zarr").x.shape
    (3, 5)
    """
    import anndata  # these take seconds to import
    import zarr

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".h5ad", ".zarr"):
        raise ValueError(f"{path} must end in .h5ad or .zarr; for other files use regnet.io.read_expression")
    if not path.exists() or (suffix == ".h5ad" and path.is_dir()):
        raise FileNotFoundError(f"there is no file {path}{', but a folder' * path.is_dir()}")
    try:
        if suffix == ".zarr" and isinstance(array := zarr.open(path, mode="r"), zarr.Array):
            if array.ndim != 2:
                raise ValueError(f"an array of {array.ndim} dimensions, and not genes x cells")
            x, genes, cells = da.from_zarr(array), [str(gene) for gene in range(array.shape[0])], []
        else:
            table = anndata.experimental.read_lazy(path)
            if not isinstance(table.X, da.Array):
                raise ValueError(
                    "its matrix X has no encoding of AnnData 0.7 or later; read it with AnnData and write it again"
                )
            x = (table.X.map_blocks(_whole, meta=table.X._meta) if sparse.issparse(table.X._meta) else table.X).T
            genes, cells = ([str(name) for name in names] for names in (table.var_names, table.obs_names))
        if x.dtype.kind not in "biuf":
            raise ValueError(f"its entries are {x.dtype}, and not real numbers")
    except Exception as error:  # HDF5, Zarr and AnnData each have errors of their own for a damaged file
        raise ValueError(f"{path} cannot be read as {suffix}: {error}; write it again or check the download") from error
    return LazyExpression(x, genes, cells)


def _whole(block: Block) -> Block:
    """A sparse block as it was stored; indices beyond its shape, as in a damaged file, would crash the whole process."""
    try:
        block.check_format(full_check=True)
    except ValueError as error:
        raise RuntimeError(str(error)) from None
    return block


@contextmanager
def damage_said() -> Iterator[None]:
    """An error that says what to do, where a block on disk is damaged or too large."""
    try:
        yield
    except RuntimeError as error:  # of Zarr's decompression, or from above
        if "allocate memory" in str(error):  # PyTorch's own
            raise MemoryError("too little memory for a block; write the matrix in smaller chunks") from error
        raise ValueError(
            f"the matrix on disk cannot be read ({error}); if it is damaged, write or download it again"
        ) from error


def sensitivities_blockwise(layer: Layer, x: da.Array, edge_index: Tensor) -> Sensitivities:
    r"""Exact sensitivities of every gene of a graph, Eq. (3), in one pass over blocks of cells.

    .. math:: y = \sum_b x_b\,[W_{x,b}\ W_{m,b}]^\top, \qquad [W_x\delta\ W_m\delta] = y - \bar A y

    Only where genes almost equal their mean the blocks are read again for those genes, once for every few thousand genes
    among which there are some.

    Args:
        layer: one that :mod:`regnet.layers` reads; ``g(x, m)`` of another kind need not be a sum over cells.
        x: expression, Dask array of shape (genes, cells) in the dtype of the layer, chunked in any way. Blocks of a
            thousand cells or more serve best: what a block adds to the sums has 2 hidden columns, however few cells it has.
        edge_index: regulator -> target, shape (2, edges).

    Returns:
        :class:`regnet.Sensitivities`; NaN as in :func:`regnet.sensitivities_on_graph`.

    Raises:
        TypeError, ValueError: see :func:`regnet.sensitivities_on_graph`; ``x`` is no Dask array (genes, cells).

    References:
        Chapter 16 of the book.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> x = da.from_array(np.array([[1], [3]], dtype=np.float32))
    >>> sensitivities_blockwise(layer, x, torch.tensor([[0], [1]])).weight
    tensor([   nan, 0.2500])
    """
    like = _stand_in(x)
    graph = RegulatorLists.of(message_direction(layer, edge_index), x.shape[0])
    with torch.no_grad(), evaluation_mode(layer):
        try:
            weights = read_layer_on_graph(layer, like)
        except UnreadableLayerError as error:
            raise UnreadableLayerError(
                f"{type(layer).__name__} cannot be read, and only layers that can are a sum over cells ({error}); supported "
                "are a SAGEConv with mean aggregation, Linear-ReLU-Linear and Linear on [x, m]; for another layer use "
                "effective_weight_on_graph on the matrix in memory"
            ) from None
        products, row_lengths = _products(x, weights)
        return from_products(
            weights, products, row_lengths, graph, lambda genes: _from_delta(x, weights, graph.select(genes), genes)
        )


def effective_weight_blockwise(layer: Layer, x: da.Array, edge_index: Tensor) -> Tensor:
    r"""Effective shrinkage weight, Eq. (4), of every gene of a graph, in one pass over blocks of cells.

    Args:
        layer: see :func:`regnet.blockwise.sensitivities_blockwise`.
        x: expression, Dask array of shape (genes, cells).
        edge_index: regulator -> target, shape (2, edges).

    Returns:
        Shape (genes,); NaN for genes without regulators and genes equal to their mean.

    Raises:
        TypeError, ValueError: see :func:`regnet.blockwise.sensitivities_blockwise`.

    References:
        Section 4 of the note (chapters 4 and 16 of the book).

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> x = da.from_array(np.array([[1], [3]], dtype=np.float32))
    >>> effective_weight_blockwise(layer, x, torch.tensor([[0], [1]]))
    tensor([   nan, 0.2500])
    """
    return sensitivities_blockwise(layer, x, edge_index).weight


def first_layer_blockwise(layer: Layer, x: da.Array, edge_index: Tensor) -> Tensor:
    """What the first layer makes of the expression, from the same pass: the input of the layers above it.

    Args:
        layer: one that :func:`regnet.layers.read_layer` reads.
        x: expression, Dask array of shape (genes, cells).
        edge_index: regulator -> target, shape (2, edges).

    Returns:
        ``g(x, m)``, shape (genes, outputs); with m = 0 for genes without regulators, as in the network.

    Raises:
        TypeError, ValueError: see :func:`regnet.blockwise.sensitivities_blockwise`.

    References:
        Chapter 16 of the book.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> x = da.from_array(np.array([[1], [3]], dtype=np.float32))
    >>> first_layer_blockwise(layer, x, torch.tensor([[0], [1]]))
    tensor([[0.2500],
            [1.5000]])
    """
    like = _stand_in(x)
    graph = RegulatorLists.of(message_direction(layer, edge_index), x.shape[0])
    with torch.no_grad(), evaluation_mode(layer):
        weights = read_layer(layer, like)
        products, _ = _products(x, weights)
        to_self, to_neighbor = products.chunk(2, dim=1)
        z = to_self + graph.mean(to_neighbor.contiguous()) + weights.bias
        return weights.out(weights.mask(z) * z) + weights.bias_out


def neighbor_mean_blockwise(x: da.Array, edge_index: Tensor) -> da.Array:
    r"""Mean expression of each gene's regulators, block by block; nothing is computed yet.

    .. math:: m_{is} = \frac{1}{|\Gamma(i)|} \sum_{j \in \Gamma(i)} x_{js}

    Args:
        x: expression, Dask array of shape (genes, cells).
        edge_index: regulator -> target, shape (2, edges).

    Returns:
        Dask array of NumPy blocks, shape and floating dtype of ``x``; zeros for a gene without regulators.

    Raises:
        TypeError, ValueError: see :func:`regnet.neighbor_mean`.

    References:
        Section 1 of the note (chapters 1 and 16 of the book).

    >>> x = da.from_array(np.array([[1.0], [3.0], [0.0]]))
    >>> neighbor_mean_blockwise(x, torch.tensor([[0, 1], [2, 2]])).compute().tolist()
    [[0.0], [0.0], [2.0]]
    """
    _stand_in(x)
    graph = RegulatorLists.of(edge_index, x.shape[0])

    def mean(block: np.ndarray) -> np.ndarray:
        if not np.isfinite(block).all():
            gene = np.argwhere(~np.isfinite(block))[0][0]
            raise ValueError(f"x must be finite; gene {gene} has an entry that is not; remove or impute it first")
        return graph.mean(torch.from_numpy(np.ascontiguousarray(block))).numpy()

    return dense_blocks(x).map_blocks(mean, dtype=x.dtype)


def moments_blockwise(x: da.Array, edge_index: Tensor) -> Moments:
    r"""What Eq. (1) needs of every gene, in one pass over blocks of cells.

    .. math:: \hat\tau_i^2 = \max\Bigl(0,\ \frac1S \sum_s (x_{is}-m_{is})^2 - \sigma_i^2\Bigr)

    is the maximum-likelihood prior variance of :func:`regnet.prior_variance` where the noise of a gene is the same in all
    cells: ``(moments.squared_deviation - noise_var).clamp(min=0)``.

    Args:
        x: expression, Dask array of shape (genes, cells).
        edge_index: regulator -> target, shape (2, edges).

    Returns:
        :class:`regnet.blockwise.Moments`.

    Raises:
        TypeError, ValueError: see :func:`regnet.neighbor_mean`.

    References:
        Section 1 of the note (chapters 1 and 16 of the book).

    >>> x = da.from_array(np.array([[1.0, 3.0], [2.0, 6.0]]))
    >>> moments_blockwise(x, torch.tensor([[0], [1]])).squared_deviation
    tensor([nan, 5.], dtype=torch.float64)
    """
    m = neighbor_mean_blockwise(x, edge_index).astype(np.float64)
    dense = dense_blocks(x).astype(np.float64)
    parts = dense.mean(axis=1), dense.var(axis=1), m.mean(axis=1), ((dense - m) ** 2).mean(axis=1)
    mean, variance, neighbor_mean, squared_deviation = (torch.from_numpy(part) for part in dask.compute(*parts))
    squared_deviation[RegulatorLists.of(edge_index, x.shape[0]).in_degree() == 0] = torch.nan
    return Moments(mean, variance, neighbor_mean, squared_deviation)


def _stand_in(x: da.Array) -> Tensor:
    """One gene of the width and dtype of x, by which a layer can be checked before anything is read."""
    if not isinstance(x, da.Array) or x.ndim != 2 or x.dtype not in (np.float32, np.float64):
        got = f"{x.shape} of {x.dtype}" if isinstance(x, da.Array) else type(x).__name__
        raise TypeError(
            f"x must be a Dask array (genes, cells) of float32 or float64; got {got}; convert it with "
            "dask.array.from_array(...) or x.astype(...)"
        )
    if any(math.isnan(size) for size in x.shape):
        raise ValueError(f"x must know its shape; got {x.shape}; call x.compute_chunk_sizes() first")
    return torch.ones(1, x.shape[1], dtype=torch.float32 if x.dtype == np.float32 else torch.float64)


def dense_blocks(x: da.Array) -> da.Array:
    """A Dask array with all genes in every block, and NumPy blocks where they may have been scipy's sparse matrices.

    Args:
        x: Dask array of shape (genes, cells).

    Returns:
        The same numbers; nothing is computed yet.

    References:
        Chapter 16 of the book.

    >>> dense_blocks(da.from_array(np.ones((3, 4)), chunks=(3, 2))).chunks
    ((3,), (2, 2))
    """
    return _all_genes(x).map_blocks(_to_numpy, dtype=x.dtype, meta=np.empty((0, 0), dtype=x.dtype))


def _all_genes(x: da.Array) -> da.Array:
    """All genes in every block; where blocks held some genes of many cells, of as many cells as fit a block."""
    return x if x.numblocks[0] == 1 else x.rechunk({0: -1, 1: "auto"})


def _to_numpy(block: Block) -> np.ndarray:
    return block.toarray() if sparse.issparse(block) else np.asarray(block)


def _products(x: da.Array, weights: LayerWeights | ProjectedWeights) -> tuple[Tensor, Tensor]:
    """x [w_self, w_neighbor]^T, (genes, 2 hidden), and the length of every row of x, in one pass."""
    (x,) = dask.optimize(x)  # so that no more is read than is needed
    # Every block is read once and used by both; the squares alone need float64, lest they overflow.
    with damage_said():
        products, squares = dask.compute(
            _sum_over_blocks(_block_products, x, weights),
            _sum_over_blocks(_block_squares, x, extra=1, dtype=np.float64),
        )
    return torch.from_numpy(products[0]), torch.from_numpy(squares[0, :, 0]).sqrt().to(weights.w_self.dtype)


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


def _from_delta(
    x: da.Array, weights: LayerWeights | ProjectedWeights, lists: RegulatorLists, genes: Tensor
) -> tuple[Tensor, Tensor]:
    """W delta from delta itself for some genes, and which of them have none beyond rounding: a pass for these alone."""
    needed, number = torch.cat([genes, lists.regulators]).unique(return_inverse=True)
    renumbered = RegulatorLists(lists.offsets, number[len(genes) :])
    function = partial(_block_delta, own=number[: len(genes)], lists=renumbered)
    (rows,) = dask.optimize(_all_genes(x)[needed.numpy()])
    sums = torch.from_numpy(_sum_over_blocks(function, rows, weights, extra=3, dtype=np.float64).compute()[0])
    delta, x_length, m_length = sums[:, -3:].sqrt().to(weights.w_self.dtype).unbind(dim=1)
    return sums[:, :-3].to(weights.w_self.dtype), within_rounding(delta, x_length, m_length)


def _block_delta(
    block: Block, first_cell: np.ndarray, w_self: np.ndarray, w_neighbor: np.ndarray, own: Tensor, lists: RegulatorLists
) -> np.ndarray:
    """What a block adds to W delta and, in the last columns, to the squared lengths of delta, x and m."""
    rows = torch.from_numpy(_to_numpy(block).astype(np.float64))
    x, m = rows[own], lists.mean(rows)
    squares = torch.stack([part.square().sum(dim=1) for part in (x - m, x, m)], dim=1)
    both = torch.from_numpy(np.hstack([w_self, w_neighbor]).astype(np.float64))
    return torch.cat([(x - m) @ both, squares], dim=1).numpy()[None]


def _sum_over_blocks(
    function: Callable[..., np.ndarray],
    x: da.Array,
    weights: LayerWeights | ProjectedWeights | None = None,
    extra: int = 0,
    dtype: Any = None,
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
