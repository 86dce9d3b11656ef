"""Readers for your own files: every expression file becomes an AnnData, every network a table of sources and targets."""

from __future__ import annotations

import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import torch
from torch_geometric.data import Data

from regnet.checks import check_gene_names, other_matrices, some

_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".h5ad", ".zarr", ".h5")
_REGULATOR = {"gene1", "tf", "source", "regulator", "tf_gene", "from"}
_TARGET = {"gene2", "target", "target_gene", "to"}
# What is written above the names of genes: below it a header has cells, whatever these are called.
_ABOVE_GENES = {"", "gene", "genes", "gene_name", "gene_id", "geneid", "gene_symbol", "symbol", "name", "id", "index"}
# Columns of a table that describe genes are no cells, and rows in which HTSeq and STAR count other reads are no genes.
_ANNOTATION = (
    r"chr(om(osome(_name)?)?)?|seqnames|start|end|strand|width|(gene_|effective_)?length|(gene_)?(biotype|description)|gene_type|"
    r"entrez(_?id|gene|_gene_id)?|gene_?(name|id|symbol)|symbol|hgnc_(symbol|id)|ensembl(_gene)?(_id)?|transcript_id(\(s\))?"
)
_COUNTER = "(__|n_)?(no_?feature|ambiguous|too_low_aqual|not_aligned|alignment_not_unique|unmapped|multimapping)"
_Named = tuple[Any, list[str], list[str]]  # cells x genes, cells, genes


class Network(NamedTuple):
    """The edges of a file: columns ``source`` (the regulator) and ``target``; and what to know about how they were read."""

    table: pd.DataFrame
    notices: list[str]


def read_expression(
    path: str | Path, *, layer: str | None = None, raw: bool = False, gene_column: str | None = None, transpose: bool = False
) -> anndata.AnnData:
    r"""Read an expression matrix.

    Args:
        path: a table of genes x cells, ``.csv``, ``.tsv`` or ``.txt``, with ``.gz`` or without: cells in the header, genes
            in the first column, tabs, commas or semicolons between. Or AnnData's ``.h5ad`` or ``.zarr`` (cells x genes), or
            a plain array in ``.zarr`` (genes x cells, which are numbered); the matrices of these stay on disk. Or the genes
            of 10x Genomics, an ``.h5`` or a folder with ``matrix.mtx``, read by scanpy.
        layer: the layer of an AnnData to read instead of ``X``.
        raw: whether to read its ``raw`` instead.
        gene_column: the column of ``var`` or of the table that names the genes.
        transpose: whether the file has cells where genes are expected; the column is then one of ``obs``.

    Returns:
        ``AnnData`` (cells x genes) with the names of cells and genes, which are text whatever they look like: ``NA``,
        ``007`` and ``1-Mar`` are genes. A table is in float64; columns and rows of it that are neither (``Length``,
        ``__no_feature``) are left out with a ``UserWarning``, which also tells of an ``X`` with negative values where
        there are other matrices. What stays on disk is a Dask array.

    Raises:
        OSError: there is no such file.
        ValueError: an unknown suffix; a damaged or empty file, or one with links to others; no header; an entry that is no
            finite number; a gene without a name of its own; no such matrix or column. Damage inside a matrix on disk shows
            in its use.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "expression.tsv"
    ...     _ = file.write_text("gene\tcell 1\tcell 2\nNA\t0.5\t1\n")
    ...     read_expression(file).to_df()
             NA
    cell 1  0.5
    cell 2  1.0
    """
    path = Path(path)
    if not path.name.lower().endswith(_SUFFIXES) and not path.is_dir():
        raise ValueError(
            f"{path}: expected a folder with matrix.mtx or an expression file that ends in one of {', '.join(_SUFFIXES)}; "
            "convert or rename it (.loom: anndata.io.read_loom, with the package loompy, and write_h5ad)"
        )
    is_table = not path.is_dir() and path.suffix.lower() not in (".h5ad", ".zarr", ".h5")
    try:
        x, cells, genes = (_read_matrix if is_table else _open_matrix)(path, layer, raw, gene_column, transpose)
        check_gene_names(genes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cells may share a name
            return anndata.AnnData(x, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))
    except ValueError as error:
        reason = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
        other = '; or take others, as gene_column="gene_ids" (--gene-column gene_ids) of 10x' * ("gene names" in reason)
        raise ValueError(reason + other * (not is_table)) from error.__cause__


def read_network(path: str | Path, *, genes: Sequence[str] | None = None) -> Network:
    r"""Read edges, regulator -> target.

    Args:
        path: a table separated by tabs, commas or semicolons, with ``.gz`` or without. The regulator's column is called
            ``Gene1``, ``TF``, ``source``, ``regulator``, ``TF_gene`` or ``from``, the target's ``Gene2``, ``target``,
            ``Target_gene`` or ``to``, ignoring case; else they are the first two. A column ``Label`` holds 1 for an edge and
            0 for a pair that is none.
        genes: names of the genes of the expression, used to decide whether the first line is an edge or a header.

    Returns:
        The table, with columns ``source`` and ``target``, for :func:`regnet.make_dataset`, and notices on how it was read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged or empty file, a line without two names, or a label other than 0 and 1.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "edges.csv"
    ...     _ = file.write_text("TF,Target,Label\nSPI1,LYZ,1\nSPI1,CD4,0\n")
    ...     table, notices = read_network(file)
    >>> table.to_numpy().tolist(), notices
    ([['SPI1', 'LYZ']], ['1 of 2 pairs have Label 0 and are no edges'])
    """
    path = Path(path)
    header, body = _read_table(path, str)
    lower = [name.strip().casefold() for name in header]
    columns = [next((at for at, name in enumerate(lower) if name in role), -1) for role in (_REGULATOR, _TARGET)]
    if not (named := min(columns) >= 0):
        columns = [at for at, name in enumerate(lower) if name not in ("", "label")][:2]
    if len(columns) < 2:
        raise ValueError(
            f"{path}: expected two columns, regulator and target, separated by a tab, a comma or a semicolon; "
            f"got the line {' '.join(header)!r}"
        )
    if not named and (genes is None or {lower[column] for column in columns} <= {gene.casefold() for gene in genes}):
        body, lower = pd.concat([pd.DataFrame([header]), body], ignore_index=True), []
    table = body[columns].set_axis(["source", "target"], axis=1).apply(lambda names: names.str.strip())
    if (nameless := (table == "").any(axis=1)).any():
        line = " ".join(body[nameless].iloc[0])
        raise ValueError(f"{path}: expected the names of a regulator and a target in every line; got {line!r}")
    if "label" in lower:
        label = body[lower.index("label")]
        is_edge = pd.to_numeric(label, errors="coerce")
        if len(wrong := label[~is_edge.isin([0, 1])]):
            raise ValueError(
                f"{path}: expected a Label of 1 (an edge) or 0 (none); got {wrong.iloc[0]!r}; rename a column that is none"
            )
        table = table[is_edge == 1].reset_index(drop=True)
    if table.empty:
        raise ValueError(f"{path}: expected at least one edge; got {len(body)} pairs, none of them with Label 1")
    none = len(body) - len(table)
    return Network(table, [f"{none} of {len(body)} pairs have Label 0 and are no edges"] if none else [])


def read_names(path: str | Path) -> list[str]:
    r"""Names of genes, such as the transcription factors, each once.

    They are in a column ``TF`` or ``gene``, ignoring case; or else in the first column, without a header. Raises
    ``ValueError`` for a damaged file and one without names.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "tfs.csv"
    ...     _ = file.write_text(",TF\n0,SPI1\n1,NA\n")
    ...     read_names(file)
    ['SPI1', 'NA']
    """
    header, body = _read_table(Path(path), str)
    lower = [name.strip().casefold() for name in header]
    column = next((lower.index(name) for name in ("tf", "gene") if name in lower), None)
    entries = [header[0], *body[0]] if column is None else body[column]
    names = list(dict.fromkeys(name.strip() for name in entries if name.strip()))
    if not names:
        raise ValueError(f"{path}: expected names of genes, one a line or in a column TF; got none")
    return names


def dataset_name(path: str | Path) -> str:
    """Name of an expression file without its folder and suffix."""
    name = Path(path).name
    return next((name[: -len(suffix)] for suffix in _SUFFIXES if name.lower().endswith(suffix)), name)


def to_memory(data: Data) -> Data:
    """The data set, or where its ``x`` is a Dask array a copy in which it is a tensor."""
    if isinstance(data.x, torch.Tensor):
        return data
    from regnet.blockwise import dense_blocks, explain_read_errors  # a table needs no Dask

    with explain_read_errors():
        x = torch.from_numpy(np.ascontiguousarray(dense_blocks(data.x).compute()))
    return copy(data).update({"x": x})


class _Text(io.TextIOWrapper):
    """Text without NUL characters, as UTF-16 and spreadsheets have them: pandas ends a field there without a word."""

    def read(self, size: int | None = -1) -> str:
        text = super().read(size)
        if "\0" in text:
            raise UnicodeError("a NUL character")
        return text


def _read_table(path: Path, dtype: Any) -> tuple[list[str], pd.DataFrame]:
    """The fields of the first line, and the lines below it with columns that are numbered; blank lines are left out."""
    with path.open("rb") as start:
        is_gzip = start.read(2) == b"\x1f\x8b"  # by its content: a suffix may be wrong
    try:
        with _Text(gzip.open(path) if is_gzip else path.open("rb"), encoding="utf-8-sig") as file:
            lines = (line for line in file if line.strip())
            first = next(lines, "")
            separator = max("\t,;", key=first.count)
            rows = csv.reader(chain([first], lines), delimiter=separator)
            header, second = next(rows), next(rows, [])
            if len(second) == len(header) + 1:
                header = ["", *header]  # R's write.table names no column for the row names
            file.seek(0)
            # na_filter=False: NA is a gene; round_trip: a number as it is written, to the last digit.
            options = {"dtype": dtype, "na_filter": False, "low_memory": False, "float_precision": "round_trip"}
            body = pd.read_csv(file, sep=separator, header=0, names=range(len(header)), **options)
        if not isinstance(body.index, pd.RangeIndex):  # pandas takes fields beyond the header for an index
            raise csv.Error(f"expected {len(header)} fields, saw {len(second)}")
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path}: expected a table; the file is empty") from None
    except (csv.Error, pd.errors.ParserError, UnicodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a table in UTF-8, plain or gzip, with fields separated by tabs, commas or semicolons, as "
            f"many in every line, and quotation marks in pairs; got something else ({str(error).strip()}); "
            "download it again, or save it as CSV in UTF-8"
        ) from None
    if all(kind.kind == "O" for kind in body.dtypes):  # only then may lines hold nothing but separators
        body = body[(body != "").any(axis=1)].reset_index(drop=True)
    return header, body


def _read_matrix(path: Path, layer: str | None, raw: bool, gene_column: str | None, transpose: bool) -> _Named:
    """The matrix of a table, and the names of both axes; with a notice on what is neither a cell nor a gene."""
    if raw or layer is not None:
        _choose({}, layer, raw)
    header, values = _read_table(path, {0: str})
    lower, at = [name.strip().casefold() for name in header], 0
    other = {n for n, name in enumerate(lower) if re.fullmatch(_COUNTER if transpose else _ANNOTATION, name)}
    if gene_column is not None:
        at = header.index(_column(gene_column, [] if transpose else header))
        values = _read_table(path, {at: str})[1]
        other |= {0} if lower[0] in _ABOVE_GENES or values[0].dtype.kind not in "biuf" else set()
    values[at] = values[at].str.strip()
    counts = values[at].str.casefold().str.fullmatch(_COUNTER).astype(bool) & (not transpose)
    if left_out := [header[n] for n in sorted(other - {at})] + values[at][counts].tolist():
        warnings.warn(f"{path}: left out, as no cells and no genes: {some(left_out)}", stacklevel=3)
        values = values[~counts].drop(columns=other - {at}).reset_index(drop=True)
    genes, cells = values.pop(at).tolist(), [header[n] for n in values]
    if not genes or not cells:
        raise ValueError(
            f"{path}: expected genes in rows and cells in columns, separated by tabs, commas or semicolons; "
            f"got {len(genes)} genes and {len(cells)} cells below the header {' '.join(header)[:80]!r}"
        )
    numbers = pd.to_numeric(pd.Series(cells), errors="coerce")
    are_values = numbers.notna().all() and (numbers.duplicated().any() or (numbers % 1 != 0).any())
    if are_values and lower[at] not in _ABOVE_GENES:
        raise ValueError(
            f"{path}: expected a header with the names of the cells; got what look like values of a gene, {some(header)}; "
            "write a header above them, or, if they are names of cells, call the first field gene"
        )
    # Columns that pandas could not read as numbers, where 1_000 and TRUE are none.
    text = values.select_dtypes(exclude="number").astype(str)
    values[text.columns] = text.where(text.apply(pd.to_numeric, errors="coerce").notna()).astype(np.float64)
    x = values.to_numpy(np.float64)
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        entry = text.get(values.columns[column], values.iloc[:, column])[row]
        fix = "write decimal points" if "," in str(entry) else "impute it, or drop the gene or the cell"
        end = "; or does the line end with a separator?" if entry == "" and column == len(cells) - 1 else ""
        raise ValueError(
            f"{path}: the value of {'cell' if transpose else 'gene'} {genes[row]!r} in column {cells[column]!r} must be a "
            f"finite number; got {str(entry)!r}; {fix}{end}"
        )
    return (x, genes, [name.strip() for name in cells]) if transpose else (x.T, cells, genes)


def _open_matrix(path: Path, layer: str | None, raw: bool, gene_column: str | None, transpose: bool) -> _Named:
    """A matrix of AnnData or 10x Genomics, or a plain array, and the names of both axes; nothing else is read."""
    import dask.array as da  # a table needs none of these, which take seconds to import
    import h5py
    import zarr
    from scipy import sparse

    path.stat()  # raises FileNotFoundError
    suffix, others = path.suffix.lower(), ""
    try:
        with warnings.catch_warnings(), nullcontext() if path.is_dir() else h5py.File(path) as file:
            warnings.simplefilter("ignore")  # on old formats, and names that are there twice
            store = zarr.open(path, mode="r") if suffix == ".zarr" else file
            if isinstance(store, h5py.File | zarr.Group) and (suffix != ".h5" or "obs" in store):
                obs, (key, others) = _own(store, "obs", False), _choose(store, layer, raw)
                var, part = _own(store, key[:-1] + "var" if raw else "var", False), _own(store, key)
                # What AnnData before 0.8 wrote has no such attribute, and only the whole of it can be read.
                read = anndata.experimental.read_elem_lazy if "encoding-type" in part.attrs else anndata.io.read_elem
                x, axes = read(part), [obs, var]
            elif raw or layer is not None:
                _choose({}, layer, raw)
            elif isinstance(store, zarr.Array):
                if store.ndim != 2:
                    raise ValueError(f"it is an array of {store.ndim} dimensions, and not genes x cells")
                x = da.from_zarr(store).T
                axes = [pd.DataFrame(index=range(size)) for size in x.shape]
            else:
                import scanpy

                for name in file or ():
                    _own(file, name)
                adata = scanpy.read_10x_h5(path) if file else scanpy.read_10x_mtx(path, make_unique=False)
                x, axes = adata.X, [adata.obs, adata.var]
            columns = (gene_column, None) if transpose else (None, gene_column)
            names = [_names(axis, column) for axis, column in zip(axes, columns, strict=True)]
        if x.dtype.kind not in "biuf":
            raise ValueError(f"its entries are {x.dtype}, and not real numbers")
        if sparse.issparse(x._meta if (is_lazy := hasattr(x, "dask")) else x):
            x = x.map_blocks(_whole, meta=x._meta) if is_lazy else _whole(x)
        # Of a matrix on disk the first block alone: all of it may take hours.
        scaled = others and ((x.blocks[0, 0].compute() if is_lazy else x) < 0).sum()
    except _NotThereError:
        raise
    except Exception as error:  # HDF5, Zarr and AnnData each have errors of their own for a damaged file
        kind = "a directory of 10x Genomics" if path.is_dir() and suffix != ".zarr" else path.suffix
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as {kind}: {reason}; write it again or check the download") from error
    if scaled:
        warnings.warn(f"{path}: X has negative values, as scaled data have; {others}", stacklevel=3)
    return (x.T, *names[::-1]) if transpose else (x, *names)


class _NotThereError(ValueError):
    """What was asked for is not in the file, which may be in order."""


def _choose(store: Any, layer: str | None, raw: bool) -> tuple[str, str]:
    """Where the matrix is that was asked for, and if that is X, in words, which others there are."""
    layers = list(_own(store, "layers", False)) if "layers" in store else []
    raws = [key for key in ("raw/X", "raw.X") if key in store]  # before AnnData 0.7 with a dot
    key = (raws or ["raw/X"])[0] if raw else "X" if layer is None else f"layers/{layer}"
    others = f"{other_matrices(layers, bool(raws))} layer=NAME (--layer NAME) or raw=True (--raw)"
    is_named = layer is None or (layer in layers and not raw)
    if key not in store or not is_named:
        wanted = " in ".join([f"layer {layer!r}"] * (layer is not None) + ["raw"] * raw)
        raise _NotThereError(f"{f'there is no {wanted}' if wanted else 'X is empty'}; {others}")
    return key, others if key == "X" and (layers or raws) else ""


def _column(name: str, columns: Sequence[str]) -> str:
    """The name, if it is one of the columns."""
    if name not in columns:
        raise _NotThereError(f"there is no gene_column (--gene-column) {name!r}; columns: {some(columns, 20) or 'none'}")
    return name


def _names(axis: Any, column: str | None) -> list[str]:
    """The index, or a column, of obs or var, in memory or on disk, as any version of AnnData wrote it."""
    if not hasattr(axis, "keys"):  # records, before AnnData 0.7
        axis = pd.DataFrame(anndata.io.read_elem(axis))
        axis = axis.set_index(axis.columns[0])
    if isinstance(axis, pd.DataFrame):
        values = axis.index if column is None else axis[_column(column, list(axis))]
    else:
        index = np.asarray(axis.attrs["_index"]).astype(str).item()
        others = [name for name in axis if name not in (index, "__categories")]
        part = _own(axis, index if column is None else _column(column, others))
        values = anndata.io.read_elem(part)
        if "categories" in part.attrs:  # AnnData 0.7
            values = pd.Categorical.from_codes(values, anndata.io.read_elem(_own(axis, f"__categories/{column}")))
    decoded = [name.decode() if isinstance(name, bytes) else name for name in np.atleast_1d(values)]
    return ["" if pd.isna(name) else str(name) for name in decoded]


def _own(part: Any, key: str, whole: bool = True) -> Any:
    """A part of a store; of HDF5 only without links to other files, the bytes of which would pass for expression."""
    import h5py

    for name in key.split("/"):
        link = isinstance(part, h5py.Group) and part.get(name, getlink=True)
        part = None if isinstance(link, h5py.SoftLink | h5py.ExternalLink) else part[name]
        if part is None or (isinstance(part, h5py.Dataset) and (part.external or part.is_virtual)):
            raise _NotThereError(f"{key} is a link, maybe to another file, and is not followed; copy the data into this one")
    for name in part if whole and isinstance(part, h5py.Group) else ():
        _own(part, name)
    return part


def _whole(block: Any) -> Any:
    """A sparse block as it was stored; indices beyond its shape, as in a damaged file, would crash the whole process."""
    try:
        block.check_format(full_check=True)
    except ValueError as error:
        raise RuntimeError(str(error)) from None
    return block
