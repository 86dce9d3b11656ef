"""Readers for your own files: expression, edges and names of genes, as others write them."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from regnet.checks import check_gene_names, some
from regnet.data import TRANSPOSED, NameMatch, index_edges, match_names

if TYPE_CHECKING:
    from regnet.blockwise import LazyExpression

_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".h5ad", ".zarr")
_HEADERS = [
    ("gene1", "gene2"),
    ("tf", "target"),
    ("source", "target"),
    ("regulator", "target"),
    ("tf_gene", "target_gene"),
    ("from", "to"),
]
_ABOVE_GENES = {"", "gene", "genes", "gene_name", "gene_id", "geneid", "gene_symbol", "symbol", "name", "id", "index"}
"""What is written above the names of genes: below it a header has cells, whatever these are called."""
_MISSING = {"", "na", "nan", "n/a", "#n/a", "null", "none", "."}


class Expression(NamedTuple):
    """An expression matrix in memory."""

    x: np.ndarray[Any, np.dtype[np.float64]]
    """Shape (genes, cells)."""
    gene_names: list[str]
    """One name a row."""
    cell_names: list[str]
    """One name a column."""


class Edges(NamedTuple):
    """The edges of a file, by name."""

    pairs: list[tuple[str, str]]
    """(regulator, target), spelt as in the file."""
    notices: list[str]
    """What a reader should know about how they were read, one sentence each."""


class Network(NamedTuple):
    """A network whose names were found among the genes."""

    edge_index: Tensor
    """Regulator -> target, shape (2, edges)."""
    is_tf: Tensor
    """Shape (genes,)."""
    notices: list[str]
    """What was matched only ignoring case, and what was dropped, one sentence each."""


def read_expression(path: str | Path) -> Expression | LazyExpression:
    """Read an expression matrix.

    Args:
        path: a table of genes x cells, ``.csv``, ``.tsv`` or ``.txt``, with ``.gz`` or without: a header with the names of
            the cells, the names of the genes in the first column, separated by tabs, commas or semicolons, whichever the
            header has most of. Or ``.h5ad`` or ``.zarr``, which stay on disk: see ``regnet.blockwise.open_expression``.

    Returns:
        :class:`regnet.io.Expression` in float64; from ``.h5ad`` and ``.zarr`` a ``regnet.blockwise.LazyExpression``.
        Names are text, whatever they look like: ``NA``, ``007`` and ``1-Mar`` are genes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown suffix; a damaged or empty file; no header; rows of unequal length; an entry that is missing,
            not a number or not finite; a gene without a name or there twice. The message says where, and how to mend it.

    References:
        Chapter 16 of the book; :ref:`bad-input`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "expression.tsv"
    ...     _ = file.write_text("gene\\tcell 1\\tcell 2\\nNA\\t0.5\\t1\\n")
    ...     read_expression(file)
    Expression(x=array([[0.5, 1. ]]), gene_names=['NA'], cell_names=['cell 1', 'cell 2'])
    """
    path = Path(path)
    if not path.name.lower().endswith(_SUFFIXES):
        raise ValueError(
            f"{path}: expected an expression file that ends in one of {', '.join(_SUFFIXES)}; convert or rename it"
        )
    if path.suffix.lower() in (".h5ad", ".zarr"):
        from regnet.blockwise import open_expression  # here, so that who has a table need not wait for Dask

        lazy = open_expression(path)
        _check_names(path, lazy.gene_names)
        return lazy
    lines = _read_rows(path)
    _, header = next(lines)
    names: list[str] = []
    values: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    for number, row in lines:
        if not names and len(row) == len(header) + 1:
            header = ["", *header]  # R's write.table names no column for the row names
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {number}: expected {len(header)} fields as in the header, got {len(row)}; "
                "every line needs a gene and one value for each cell"
            )
        try:
            values.append(np.array([float(entry) for entry in row[1:]]))
        except ValueError:
            raise _bad_entry(path, number, header, row) from None
        if not np.isfinite(values[-1]).all() or "_" in "".join(row[1:]):  # see _number
            raise _bad_entry(path, number, header, row)
        names.append(row[0].strip())
    cells = header[1:]
    if not names or not cells:
        raise ValueError(
            f"{path}: expected genes in rows and cells in columns, separated by tabs, commas or semicolons; "
            f"got {len(names)} genes and {len(cells)} cells below the header {' '.join(header)[:80]!r}"
        )
    if header[0].strip().casefold() not in _ABOVE_GENES and _are_values(cells):
        raise ValueError(
            f"{path}: expected a header with the names of the cells; got what look like values of a gene, {some(header)}; "
            "write a header above them, or, if they are names of cells, call the first field gene"
        )
    _check_names(path, names)
    return Expression(np.stack(values), names, cells)


def read_edges(path: str | Path, genes: Sequence[str]) -> Edges:
    """Read edges, regulator -> target.

    Args:
        path: a table separated by tabs, commas or semicolons, with ``.gz`` or without. Its columns are ``Gene1`` and
            ``Gene2``, ``TF`` and ``Target``, ``source`` and ``target``, ``regulator`` and ``target``, ``TF_gene`` and
            ``Target_gene``, or ``from`` and ``to``, ignoring case; or else the first two. A column ``Label`` holds 1 for an
            edge and 0 for a pair that is none.
        genes: those of the expression. Where no columns have such names, the first line is a header unless both of its
            names are genes.

    Returns:
        :class:`regnet.io.Edges`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged or empty file, a line without two names, or a label other than 0 and 1.

    References:
        Chapter 16 of the book; :ref:`bad-input`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "edges.csv"
    ...     _ = file.write_text("TF,Target,Label\\nSPI1,LYZ,1\\nSPI1,CD4,0\\n")
    ...     read_edges(file, genes=["SPI1", "LYZ", "CD4"])
    Edges(pairs=[('SPI1', 'LYZ')], notices=['passed over 1 of 2 pairs, which have Label 0'])
    """
    path = Path(path)
    rows = list(_read_rows(path))
    first = rows[0][1]
    if len(rows) > 1 and len(rows[1][1]) == len(first) + 1:
        first = ["", *first]  # R's write.table names no column for the row names
    header = [name.strip().casefold() for name in first]
    named = next((pair for pair in _HEADERS if set(pair) <= set(header)), None)
    if named:
        columns = [header.index(name) for name in named]
    else:
        columns = [place for place, name in enumerate(header) if name not in ("", "label")][:2]
    if len(columns) < 2:
        raise ValueError(
            f"{path}: expected two columns, regulator and target, separated by a tab, a comma or a semicolon; "
            f"got the line {' '.join(first)!r}"
        )
    label = None
    if named or match_names([first[place].strip() for place in columns], genes).unknown:
        label = header.index("label") if "label" in header else None
        rows = rows[1:]
    pairs: list[tuple[str, str]] = []
    for number, row in rows:
        regulator, target = (row[place].strip() if place < len(row) else "" for place in columns)
        if not regulator or not target:
            raise ValueError(f"{path}, line {number}: expected the names of a regulator and a target; got {' '.join(row)!r}")
        if label is None or _is_edge(path, number, row[label] if label < len(row) else ""):
            pairs.append((regulator, target))
    if not pairs:
        raise ValueError(f"{path}: expected at least one edge; got {len(rows)} pairs, none of them with Label 1")
    notices = []
    if len(pairs) < len(rows):
        notices.append(f"passed over {len(rows) - len(pairs)} of {len(rows)} pairs, which have Label 0")
    return Edges(pairs, notices)


def read_names(path: str | Path) -> list[str]:
    """Read a list of genes, such as the transcription factors.

    Args:
        path: a table with a column ``TF`` or ``gene``, ignoring case; or else its first column, without a header: one name
            a line.

    Returns:
        The names as they are spelt, each once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged or empty file.

    References:
        Chapter 16 of the book; :ref:`bad-input`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "tfs.csv"
    ...     _ = file.write_text(",TF\\n0,SPI1\\n1,NA\\n")
    ...     read_names(file)
    ['SPI1', 'NA']
    """
    rows = [row for _, row in _read_rows(Path(path))]
    header = [name.strip().casefold() for name in rows[0]]
    column = next((header.index(name) for name in ("tf", "gene") if name in header), None)
    entries = [row[0] for row in rows] if column is None else [row[column] for row in rows[1:] if column < len(row)]
    names = list(dict.fromkeys(name.strip() for name in entries if name.strip()))
    if not names:
        raise ValueError(f"{path}: expected names of genes, one a line or in a column TF; got none")
    return names


def join_network(
    pairs: Sequence[tuple[str, str]], genes: Sequence[str], tfs: Sequence[str] | None = None, cells: Sequence[str] = ()
) -> Network:
    """Find the genes of a network in an expression matrix; edges of other genes are dropped, and counted in a notice.

    Args:
        pairs: (regulator, target), by name.
        genes: those of the expression.
        tfs: names of transcription factors; the regulators where none are given.
        cells: names of the cells: a matrix that was meant to be transposed has the genes there.

    Returns:
        :class:`regnet.io.Network`; names are joined by :func:`regnet.data.match_names`.

    Raises:
        ValueError: no edge is left, or no transcription factor; or transcription factors are among the targets and none
            among the regulators, as where the two columns are swapped.

    References:
        Chapter 16 of the book; :ref:`bad-input`.

    >>> network = join_network([("spi1", "LYZ"), ("SPI1", "GATA1")], genes=["SPI1", "LYZ"])
    >>> network.edge_index.tolist(), network.notices[0]
    ([[0], [1]], '1 name of the edges matches a gene only ignoring case: spi1')
    >>> network.notices[1]
    '1 name of the edges is no gene of the expression: GATA1; 1 of 2 edges is dropped'
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    match = match_names(names, genes)
    edge_index = index_edges(pairs, match)
    if not edge_index.size(1):
        if match_names(names, cells).rows:
            raise ValueError(TRANSPOSED)
        raise ValueError(
            f"no edge is between two genes of the expression: the edges name {some(names)}, the genes are {some(genes)}; "
            "use the same kind of names in both"
        )
    dropped = sum(source not in match.rows or target not in match.rows for source, target in pairs)
    are_dropped = f"{dropped} of {len(pairs)} edges {'is' if dropped == 1 else 'are'} dropped"
    notices = _notices("edges", match, f"; {are_dropped}")
    is_tf = torch.zeros(len(genes), dtype=torch.bool)
    if tfs is None:
        is_tf[edge_index[0]] = True
    else:
        match = match_names(tfs, genes)
        if not match.rows:
            raise ValueError(
                f"none of the transcription factors, {some(tfs)}, is a gene of the expression; "
                "use the same kind of names in both"
            )
        is_tf[list(match.rows.values())] = True
        regulators, targets = (is_tf[genes_of].any() for genes_of in edge_index)
        if targets and not regulators:
            raise ValueError(
                "no regulator of the edges is a transcription factor, but targets are: the columns seem to be swapped; "
                "name them regulator and target, or leave the transcription factors out if other genes regulate here"
            )
        notices += _notices("transcription factors", match, "")
    return Network(edge_index, is_tf, notices)


def read_data(path: str | Path) -> Data:
    """An expression file as a data set without a network.

    Args:
        path: see :func:`regnet.io.read_expression`.

    Returns:
        ``Data`` with ``x`` (genes, cells), a tensor in float64 or, from ``.h5ad`` and ``.zarr``, a Dask array; with
        ``gene_names``, ``cell_names`` and, after the file, ``name``.

    Raises:
        FileNotFoundError, ValueError: see :func:`regnet.io.read_expression`.

    References:
        Chapter 16 of the book; :ref:`bad-input`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "mine.csv"
    ...     _ = file.write_text("gene,cell\\nSPI1,2.5\\n")
    ...     read_data(file)
    Data(x=[1, 1], gene_names=[1], cell_names=[1], name='mine')
    """
    x, genes, cells = read_expression(path)
    return Data(
        x=torch.from_numpy(x) if isinstance(x, np.ndarray) else x,
        gene_names=genes,
        cell_names=cells,
        name=dataset_name(path),
    )


def to_memory(data: Data) -> Data:
    """A data set whose ``x`` is a tensor, where it was a Dask array.

    Args:
        data: ``x`` (genes, cells) and anything else, which stays as it is.

    Returns:
        ``data`` itself where ``x`` is a tensor; else a copy that shares all but ``x``.

    Raises:
        ValueError: the matrix on disk cannot be read, or holds an entry that is no number.

    References:
        Chapter 16 of the book.

    >>> to_memory(Data(x=torch.zeros(2, 3)))
    Data(x=[2, 3])
    """
    if isinstance(data.x, Tensor):
        return data
    from regnet.blockwise import damage_said, dense_blocks

    data = copy(data)
    with damage_said():
        data.x = torch.from_numpy(np.ascontiguousarray(dense_blocks(data.x).compute()))
    return data


def dataset_name(path: str | Path) -> str:
    """Name of an expression file without its folder and suffix.

    >>> dataset_name("some/where/blood.v2.csv.gz")
    'blood.v2'
    """
    name = Path(path).name
    return next((name[: -len(suffix)] for suffix in _SUFFIXES if name.lower().endswith(suffix)), name)


def add_network(data: Data, edges: str | Path, tfs: str | Path | None = None) -> tuple[Data, list[str]]:
    """A data set with the network of a file.

    Args:
        data: ``x`` and ``gene_names``; a network that is there is replaced, ``is_tf`` only where ``tfs`` is given.
        edges: see :func:`regnet.io.read_edges`.
        tfs: see :func:`regnet.io.read_names`; without it the regulators are the transcription factors, unless the data
            set says which genes are.

    Returns:
        The data set with ``edge_index``, ``is_tf`` and ``listed_edges``, how many edges the file has; and notices.

    Raises:
        FileNotFoundError, ValueError: see :func:`regnet.io.read_edges`, :func:`regnet.io.read_names` and
            :func:`regnet.io.join_network`; the message names the file.

    References:
        Chapter 16 of the book; :ref:`bad-input`.

    >>> import tempfile
    >>> data = Data(x=torch.rand(2, 3), gene_names=["SPI1", "LYZ"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "edges.csv"
    ...     _ = file.write_text("TF,Target\\nSPI1,LYZ\\n")
    ...     add_network(data, file)
    (Data(x=[2, 3], gene_names=[2], edge_index=[2, 1], is_tf=[2], listed_edges=1), [])
    """
    pairs, notices = read_edges(edges, data.gene_names)
    names = None if tfs is None else read_names(tfs)
    cells = data.cell_names if "cell_names" in data else ()
    try:
        network = join_network(pairs, data.gene_names, names, cells)
    except ValueError as error:
        raise ValueError(f"{edges}: {error}") from None
    data = copy(data)
    data.edge_index = network.edge_index
    if tfs is not None or "is_tf" not in data:
        data.is_tf = network.is_tf
    data.listed_edges = len(pairs)
    return data, notices + network.notices


def _notices(of: str, match: NameMatch, consequence: str) -> list[str]:
    def names(found: list[str], one: str, many: str) -> str:
        return f"{len(found)} name of the {of} {one}" if len(found) == 1 else f"{len(found)} names of the {of} {many}"

    notices = []
    if match.folded:
        which = names(match.folded, "matches a gene only ignoring case", "match a gene only ignoring case")
        notices.append(f"{which}: {some(match.folded)}")
    if match.unknown:
        which = names(match.unknown, "is no gene of the expression", "are no genes of the expression")
        notices.append(f"{which}: {some(match.unknown)}{consequence}")
    if match.ambiguous:
        which = names(match.ambiguous, "could be several genes, ignoring case", "could be several genes, ignoring case")
        notices.append(f"{which}: {some(match.ambiguous)}{consequence}")
    return notices


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number of the line and its fields, for every line that is not blank; at least one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file{', but a folder' * path.is_dir()}; check the path")
    got_one = False
    try:
        with path.open("rb") as start:
            is_gzip = start.read(2) == b"\x1f\x8b"  # by its content: a suffix may be wrong
        with (gzip.open if is_gzip else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
            lines = _lines_of_text(file)
            above, header = next(((number, line) for number, line in enumerate(lines) if line.strip()), (0, ""))
            reader = csv.reader(chain([header], lines), delimiter=max("\t,;", key=header.count), strict=True)
            before = 0
            for row in reader:
                if reader.line_num > before + 1:
                    raise csv.Error("a line ends inside the quotes")
                before = reader.line_num
                if any(field.strip() for field in row):
                    got_one = True
                    yield above + before, row
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {above + reader.line_num}: expected quotation marks in pairs around a field, and fields "
            f"separated by tabs, commas or semicolons; got something else ({error}); close the mark, "
            "write a row in one line, or change the separator"
        ) from None
    except (UnicodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected text (UTF-8), plain or gzip; it is damaged or of another kind ({error}); "
            "download it again, or save it as CSV in UTF-8"
        ) from None
    if not got_one:
        raise ValueError(f"{path}: expected a table; the file is empty")


def _lines_of_text(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise UnicodeError("a NUL character, as in UTF-16 and in spreadsheets")
        yield line


def _number(entry: str) -> float:
    """What an entry of a table says; Python reads 1_000 as a thousand, which no table means."""
    if "_" in entry:
        raise ValueError
    return float(entry)


def _are_values(names: list[str]) -> bool:
    """Whether names of cells can only be numbers of a first line without a header; 0, 1, 2, ... are names of pandas."""
    try:
        values = [_number(name) for name in names]
    except ValueError:
        return False
    return len(set(values)) < len(values) or not all(value.is_integer() for value in values)


def _check_names(path: Path, genes: list[str]) -> None:
    if "" in genes:
        raise ValueError(f"{path}: every gene needs a name; gene {genes.index('') + 1} has none")
    try:
        check_gene_names(genes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _is_edge(path: Path, number: int, label: str) -> bool:
    try:
        return {0.0: False, 1.0: True}[_number(label)]
    except (ValueError, KeyError):
        raise ValueError(
            f"{path}, line {number}: expected a Label of 1 (an edge) or 0 (none); got {label!r}; "
            "rename the column if it is no label"
        ) from None


def _bad_entry(path: Path, number: int, header: list[str], row: list[str]) -> ValueError:
    """What is wrong with the first entry of a row that is no finite number."""
    for number_of_cell, (cell, entry) in enumerate(zip(header[1:], row[1:], strict=True)):
        where = f"{path}, line {number}: the value of gene {row[0]!r} in column {cell!r}"
        if entry.strip().casefold() in _MISSING:
            hint = "; or does the line end with a separator?" if number_of_cell == len(header) - 2 else ""
            return ValueError(f"{where} is missing (got {entry!r}); impute it, or drop the gene or the cell{hint}")
        try:
            if not isfinite(_number(entry)):
                return ValueError(f"{where} must be finite; got {entry!r}; impute it, or drop the gene or the cell")
        except ValueError:
            comma = " (a decimal comma?); write decimal points" if "," in entry else "; only the first column may be text"
            return ValueError(f"{where} must be a number; got {entry!r}{comma}")
    raise AssertionError("every entry is a finite number")
