"""Readers for your own files: every expression file becomes an AnnData, every network a table of sources and targets."""

from __future__ import annotations

import csv
import gzip
import io
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

from regnet.checks import check_gene_names, check_memory, some

_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".h5ad", ".zarr")
_REGULATOR = {"gene1", "tf", "source", "regulator", "tf_gene", "from"}
_TARGET = {"gene2", "target", "target_gene", "to"}
# What is written above the names of genes: below it a header has cells, whatever these are called.
_ABOVE_GENES = {"", "gene", "genes", "gene_name", "gene_id", "geneid", "gene_symbol", "symbol", "name", "id", "index"}


class Network(NamedTuple):
    """The edges of a file: columns ``source`` (the regulator) and ``target``; and what to know about how they were read."""

    table: pd.DataFrame
    notices: list[str]


def read_expression(path: str | Path) -> anndata.AnnData:
    r"""Read an expression matrix.

    Args:
        path: a table of genes x cells, ``.csv``, ``.tsv`` or ``.txt``, with ``.gz`` or without: cells in the header, genes
            in the first column, tabs, commas or semicolons between. Or AnnData's ``.h5ad`` or ``.zarr`` (cells x genes), or
            a plain array in ``.zarr`` (genes x cells, which are numbered); the matrices of these stay on disk.

    Returns:
        ``AnnData`` (cells x genes) with the names of cells and genes; in float64 from a table, else a Dask array. Names are
        text, whatever they look like: ``NA``, ``007`` and ``1-Mar`` are genes.

    Raises:
        OSError: there is no such file.
        ValueError: an unknown suffix; a damaged or empty file; no header; an entry that is no finite number; a gene
            without a name of its own. Damage inside a matrix on disk shows in its use.

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
    if not path.name.lower().endswith(_SUFFIXES):
        raise ValueError(
            f"{path}: expected an expression file that ends in one of {', '.join(_SUFFIXES)}; convert or rename it"
        )
    x, cells, genes = (_open_matrix if path.suffix.lower() in (".h5ad", ".zarr") else _read_matrix)(path)
    try:
        check_gene_names(genes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cells may share a name
            return anndata.AnnData(x, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


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

    check_memory(data.x)
    x = np.empty(data.x.shape, data.x.dtype)
    with explain_read_errors():
        dense_blocks(data.x).store(x, lock=False)  # block by block: only one copy is ever whole
    return copy(data).update({"x": torch.from_numpy(x)})


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


def _read_matrix(path: Path) -> tuple[Any, list[str], list[str]]:
    """Cells x genes and the names of both."""
    header, values = _read_table(path, {0: str})
    cells, genes = header[1:], values.pop(0).str.strip().tolist()
    if not genes or not cells:
        raise ValueError(
            f"{path}: expected genes in rows and cells in columns, separated by tabs, commas or semicolons; "
            f"got {len(genes)} genes and {len(cells)} cells below the header {' '.join(header)[:80]!r}"
        )
    numbers = pd.to_numeric(pd.Series(cells), errors="coerce")
    are_values = numbers.notna().all() and (numbers.duplicated().any() or (numbers % 1 != 0).any())
    if are_values and header[0].strip().casefold() not in _ABOVE_GENES:
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
        entry = text.get(column + 1, values[column + 1])[row]
        fix = "write decimal points" if "," in str(entry) else "impute it, or drop the gene or the cell"
        end = "; or does the line end with a separator?" if entry == "" and column == len(cells) - 1 else ""
        raise ValueError(
            f"{path}: the value of gene {genes[row]!r} in column {cells[column]!r} must be a finite number; "
            f"got {str(entry)!r}; {fix}{end}"
        )
    return x.T, cells, genes


def _open_matrix(path: Path) -> tuple[Any, list[str], list[str]]:
    """The matrix X of an AnnData on disk, or a plain array, and the names of both axes; nothing else is read."""
    import dask.array as da  # a table needs none of these, which take seconds to import
    import h5py
    import zarr
    from scipy import sparse

    path.stat()  # raises FileNotFoundError
    try:
        with h5py.File(path) if path.suffix.lower() == ".h5ad" else nullcontext(zarr.open(path, mode="r")) as store:
            if isinstance(store, zarr.Array):
                if store.ndim != 2:
                    raise ValueError(f"it is an array of {store.ndim} dimensions, and not genes x cells")
                x = da.from_zarr(store).T
                names = [[str(number) for number in range(size)] for size in x.shape]
            else:
                x = anndata.experimental.read_elem_lazy(store["X"])
                indices = (store[axis][store[axis].attrs["_index"]] for axis in ("obs", "var"))
                names = [[str(name) for name in anndata.io.read_elem(index)] for index in indices]
        if x.dtype.kind not in "biuf":
            raise ValueError(f"its entries are {x.dtype}, and not real numbers")
    except Exception as error:  # HDF5, Zarr and AnnData each have errors of their own for a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} cannot be read as {path.suffix}: {reason}; write it again or check the download"
        ) from error
    return x.map_blocks(_whole, meta=x._meta) if sparse.issparse(x._meta) else x, names[0], names[1]


def _whole(block: Any) -> Any:
    """A sparse block as it was stored; indices beyond its shape, as in a damaged file, would crash the whole process."""
    try:
        block.check_format(full_check=True)
    except ValueError as error:
        raise RuntimeError(str(error)) from None
    return block
