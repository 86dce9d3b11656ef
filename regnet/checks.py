"""Validation of what users give: each check names what was expected, what came, and how to fix it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from scipy.sparse import issparse
from torch import Tensor

_WHOLE = (torch.int32, torch.int64)
# How other kinds of matrices give their numbers, genes in rows: scipy.sparse, AnnData, pandas, Dask.
_NUMBERS = {"toarray": ".toarray()", "to_df": ".to_df().T.to_numpy()", "to_numpy": ".to_numpy()", "dask": ".compute()"}


def check_expression(x: Tensor, name: str = "x") -> None:
    """Raise unless ``x`` is a dense, finite matrix (genes, cells) of float32 or float64."""
    check_matrix(x, name)
    # The extremes are NaN or infinite where any entry is: one pass, and no copy of a matrix that may fill the memory.
    if x.numel() and not torch.stack(torch.aminmax(x.detach())).isfinite().all():
        check_finite(x, name)


def check_matrix(x: Tensor, name: str = "x", *, sparse: bool = False) -> None:
    """Raise unless ``x`` is a matrix (genes, cells) of float32 or float64; with ``sparse``, CSR will do as well."""
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be a torch.Tensor (genes, cells) of float32 or float64; {_got(x, name, 'float32')}")
    if x.layout != torch.strided and not (sparse and x.layout == torch.sparse_csr):
        fix = "to_sparse_csr() or to_dense()" if sparse else "to_dense()"
        raise TypeError(f"{name} must be dense{' or CSR' * sparse}; got {x.layout}; convert it with {name}.{fix}")
    if x.dim() != 2:
        raise ValueError(f"{name} must be (genes, cells); got shape {tuple(x.shape)}")


def check_memory(x: Any) -> None:
    """Raise unless this machine can train on ``x`` (genes, cells), a tensor or a Dask array."""
    genes, cells = x.shape
    # Beside x: weights of the first layer, 2 x 128 a cell, eight times (with gradients, moments, copies); and the attention.
    need = (genes * cells + 8 * 256 * cells + 4 * genes**2) * x.dtype.itemsize
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    if need > has:
        raise MemoryError(
            f"training on {genes} genes x {cells} cells takes about {need / 1e6:,.1f} MB of memory, and this machine has "
            f"{has / 1e6:,.1f} MB; keep fewer genes, such as the variable ones and the regulators, or fewer cells"
        )


def check_finite(x: Tensor, name: str = "x") -> None:
    """Raise where an entry, dense or CSR, is NaN or infinite, naming the first of them."""
    x = x.detach().to_dense()
    bad = ~torch.isfinite(x)
    if bad.any():
        gene, cell = bad.nonzero()[0].tolist()
        entries = "entry" if bad.sum() == 1 else "entries"
        raise ValueError(
            f"{name} must be finite; got {x[gene, cell].item()} at gene {gene}, cell {cell} "
            f"({int(bad.sum())} such {entries} in all); remove or impute it first"
        )


def check_pair(x: Tensor, m: Tensor) -> None:
    """Raise unless ``x`` and ``m`` are finite matrices of one shape (genes, cells), one dtype and one device."""
    if isinstance(x, Tensor) and isinstance(m, Tensor) and x.shape != m.shape:
        raise ValueError(f"x and m must both be (genes, cells); got x {tuple(x.shape)} and m {tuple(m.shape)}")
    check_device(m, "m", x)
    check_expression(x, "x")
    check_expression(m, "m")
    if x.dtype != m.dtype:
        raise TypeError(f"x and m must have one dtype; got x {x.dtype} and m {m.dtype}")


def check_device(other: Tensor, name: str, x: Tensor) -> None:
    """Raise where a tensor lies on another device than ``x``."""
    if isinstance(other, Tensor) and isinstance(x, Tensor) and other.device != x.device:
        raise ValueError(
            f"x and {name} must be on one device; got x on {x.device} and {name} on {other.device}; "
            f"move one, e.g. {name}.to(x.device)"
        )


def check_edge_index(edge_index: Tensor, num_genes: int, name: str = "edge_index") -> None:
    """Raise unless ``edge_index`` is a non-empty integer matrix (2, edges) of genes that exist."""
    if not isinstance(edge_index, Tensor) or edge_index.layout != torch.strided or edge_index.dtype not in _WHOLE:
        raise TypeError(f"{name} must be an integer torch.Tensor (2, edges); {_got(edge_index, name, 'long')}")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        fix = f"; transpose it, {name}.T" if edge_index.dim() == 2 and edge_index.size(1) == 2 else ""
        raise ValueError(
            f"{name} must be (2, edges), regulators in row 0 and targets in row 1; got shape {tuple(edge_index.shape)}{fix}"
        )
    if edge_index.size(1) == 0:
        raise ValueError(f"{name} is empty: no gene has a regulator, so there is nothing to shrink toward")
    lowest, highest = torch.aminmax(edge_index)
    if lowest < 0 or highest >= num_genes:
        outside = ((edge_index < 0) | (edge_index >= num_genes)).any(dim=0)
        edge = int(outside.nonzero()[0])
        source, target = edge_index[:, edge].tolist()
        raise ValueError(
            f"edge {edge} ({source} -> {target}) names a gene that does not exist: "
            f"there are {num_genes} genes, numbered 0 to {num_genes - 1}"
        )


def check_gene_names(names: Iterable[str]) -> None:
    """Raise unless every gene has a name of its own, on one line. Names that differ in case are different."""
    names = list(map(str, names))
    counts = Counter(names)
    if "" in counts:
        number = names.index("") + 1
        raise ValueError(f"every gene needs a name; gene {number} has none; name or drop it")
    if broken := [repr(name) for name in counts if "\r" in name or "\n" in name]:
        raise ValueError(f"gene names must not contain a line break; got {some(broken)}; rename them")
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"gene names must be unique; these occur more than once: {some(twice)}; merge or drop them")


def _got(value: Any, name: str, dtype: str) -> str:
    """What came in place of a dense tensor, and code that makes one of it."""
    kind = type(value).__name__
    if isinstance(value, Tensor):
        kind = f"a tensor of {value.dtype if value.layout == torch.strided else value.layout}"
    numbers = next((code for attribute, code in _NUMBERS.items() if hasattr(value, attribute)), "")
    fix = f"torch.as_tensor({name}{numbers}, dtype=torch.{dtype})"
    if dtype == "long" and "sparse" in kind.lower():
        fix = f"torch_geometric.utils.to_edge_index({name})[0], with .flip(0) for an adj_t"
    elif dtype == "long" and numbers == ".toarray()":
        fix = f"torch_geometric.utils.from_scipy_sparse_matrix({name})[0]"
    return f"got {kind}; convert it, e.g. {fix}"


def is_scaled(x: Any) -> bool:
    """Whether a matrix has negative values; of one on disk the first block alone is read: all of it may take hours."""
    return bool((_first_block(x) < 0).sum())


def is_counts(x: Any) -> bool:
    """Whether a matrix has nothing but whole numbers, some too large for logarithms of counts."""
    x = _first_block(x)
    x = x.data if issparse(x) else x
    return bool(20 < x.max() < 2**31) and not bool((x != x.round()).sum())


def _first_block(x: Any) -> Any:
    return x.blocks[0, 0].compute() if hasattr(x, "dask") else x


def other_matrices(layers: Sequence[str], raw: bool) -> str:
    """What an AnnData holds beside X, for a message."""
    return f"layers: {some(layers) or 'none'}; raw: {'yes' if raw else 'no'}; choose with"


def some(names: Sequence[str], show: int = 5) -> str:
    """The first few names and how many more there are, for a message."""
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return ", ".join(names[:show]) + more
