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

from regnet.checks import check_gene_names, check_memory, other_matrices, some

_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".h5ad", ".zarr", ".h5", ".loom")
# Headers of the tools people use, the best first, as `_key` spells them; a gene is the target beside a regulator.
_KNOWN = {
    "regulator": "sourcegenesymbol tfgenesymbol tfsymbol regulatorgenename regulatorgene regulatorygene tfgene tfname tf "
    "transcriptionfactor regulatorname regulator reg sourcegene source gene1 from",
    "target": "targetgenesymbol targetsymbol targetgenename targetgene targetname target regulatedname tg gene2 to",
    "label": "label",
    "weight": "weight edgeweight importance importancetf2g tf2gimportance mor combinedconfidences coefmean coef score "
    "confidence rhotf2g",
}
_GENE = " genesymbol genename geneshortname hgncsymbol symbol gene"
_SAY = "regulator= and target= (--regulator-col and --target-col), or write a header"
_LONGEST_LINE = 2**26  # characters: more than the header of two million cells
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
            of 10x Genomics, an ``.h5`` or a folder with ``matrix.mtx``, read by scanpy. Or ``.loom``, read by anndata if
            the package loompy is installed.
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
            "convert or rename it"
        )
    is_table = not path.is_dir() and path.suffix.lower() not in (".h5ad", ".zarr", ".h5", ".loom")
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


def read_network(
    path: Any,
    *,
    regulator: str | None = None,
    target: str | None = None,
    weight: str | None = None,
    min_weight: float | None = None,
    genes: Sequence[str] | None = None,
) -> Network:
    r"""Read edges, regulator -> target.

    The columns are known by the headers of BEELINE, GRNBoost2, GENIE3, SCENIC+, decoupler, OmniPath, RegulonDB, Inferelator
    and their like, in any order, ignoring case; a column ``gene`` is the target beside a regulator. What no header names is
    read from the first columns left, with a notice. Pairs with a ``Label`` or a weight of 0 are no edges, and so are those
    with 0 in the last of three columns where it holds only 0 and 1. The wide network of CellOracle is melted.

    Args:
        path: a table separated by tabs, commas or semicolons, with ``.gz`` or without; or a data frame; or pairs of names.
        regulator, target, weight: names of the columns, where they are called otherwise.
        min_weight: the least absolute weight of an edge: a negative weight is repression, and an edge.
        genes: names of the genes of the expression, used to decide whether the first line is an edge or a header.

    Returns:
        The table, with columns ``source``, ``target`` and, where there are weights, ``weight``, for
        :func:`regnet.make_dataset`; and notices on how it was read.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: neither a path nor a data frame nor pairs.
        ValueError: a damaged or empty file, a matrix, a line without two names, a label other than 0 and 1, a weight that is
            no finite number, an unknown column, or ``min_weight`` without weights.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "edges.csv"
    ...     _ = file.write_text("Target,TF,Label\nLYZ,SPI1,1\nCD4,SPI1,0\n")
    ...     table, notices = read_network(file)
    >>> table.to_numpy().tolist(), notices
    ([['SPI1', 'LYZ']], ["1 of 2 pairs have 0 in column 'Label' and are no edges"])
    """
    is_file = isinstance(path, str | Path)
    where = path if is_file else "edges"
    header, body, notices = _melt_celloracle(*(_read_table(Path(path), str) if is_file else _from_python(path)))
    asked = {"regulator": regulator, "target": target, "weight": weight}
    named = {role: _named(where, header, name) for role, name in asked.items() if name is not None}
    columns, guessed = _roles(header, body, named)
    if regulator is None and target is None:
        _check_no_matrix(where, header, body)
    if not {"regulator", "target"} <= columns.keys():
        raise ValueError(
            f"{where}: expected two columns, regulator and target, separated by a tab, a comma or a semicolon; "
            f"got the line {' '.join(header)!r}"
        )
    if is_file and not named and _is_edge(header, body, columns, guessed, genes):
        body = pd.concat([pd.DataFrame([header]), body], ignore_index=True)
        header = [str(number) for number in range(1, len(header) + 1)]
        columns, guessed = _roles(header, body, {}, is_header=False)
    if guessed:
        read = ", ".join(f"the {role} is read from column {header[columns[role]]!r}" for role in guessed)
        notices.append(f"{read}, since no header says so; if that is wrong, say {_SAY}")
    ends = {"source": body[columns["regulator"]], "target": body[columns["target"]]}
    table = pd.DataFrame({end: names.astype(str).where(names.notna(), "").str.strip() for end, names in ends.items()})
    if (nameless := (table == "").any(axis=1)).any():
        line = " ".join(map(str, body[nameless].iloc[0]))
        raise ValueError(f"{where}: expected the names of a regulator and a target in every line; got {line!r}")
    for role in [role for role in ("label", "weight") if role in columns]:
        entries, name = body[columns[role]], header[columns[role]]
        table[role] = _numbers(entries)
        if (wrong := ~(table[role].isin([0, 1]) if role == "label" else np.isfinite(table[role]))).any():
            what = "a Label of 1 (an edge) or 0 (none)" if role == "label" else f"a finite number as {name}"
            line = " ".join(map(str, body[wrong].iloc[0]))
            raise ValueError(f"{where}: expected {what}; got {entries[wrong].iloc[0]!r} in {line!r}; fix or rename it")
        if none := (table[role] == 0).sum():
            notices.append(f"{none} of {len(body)} pairs have 0 in column {name!r} and are no edges")
    table = table[(table.drop(columns=["source", "target"]) != 0).all(axis=1)].drop(columns="label", errors="ignore")
    if min_weight is not None:
        if "weight" not in table:
            raise ValueError(f"{where}: min_weight needs weights; none of the columns {some(header)} is known; say weight=")
        if low := (table["weight"].abs() < min_weight).sum():
            notices.append(f"{low} of {len(table)} edges have an absolute weight below {min_weight} and are left out")
        table = table[table["weight"].abs() >= min_weight]
    if table.empty:
        raise ValueError(f"{where}: expected at least one edge; got {len(body)} pairs{'; '.join(['', *notices])}")
    regulators, targets = table["source"].nunique(), table["target"].nunique()
    if regulator is None and target is None and regulators >= 10 and regulators > 3 * targets:
        notices.append(f"{regulators} regulators of only {targets} targets: if the columns are swapped, say {_SAY}")
    return Network(table.reset_index(drop=True), notices)


def _key(name: str) -> str:
    """A header without case, blanks and marks, the numbers of RegulonDB and pandas' ``Unnamed: 0``."""
    return re.sub(r"^\d+\)|^unnamed: \d+$|[\s_.#-]", "", name.strip().casefold())


def _from_python(edges: Any) -> tuple[list[str], pd.DataFrame]:
    """As `_read_table`, of pairs, or of a data frame, whose index is a column without a name."""
    if not isinstance(edges, pd.DataFrame):
        try:
            edges = pd.DataFrame([(source, target) for source, target in edges], columns=["source", "target"])
        except (TypeError, ValueError):
            raise TypeError(
                "edges must be pairs (regulator, target) of gene names or a data frame with columns source and target; got "
                f"{type(edges).__name__} of another kind; give zip(regulators, targets)"
            ) from None
    body = edges.set_axis(range(1, edges.shape[1] + 1), axis=1).reset_index(drop=True)
    body.insert(0, 0, edges.index.map(str))
    return ["", *map(str, edges.columns)], body


def _melt_celloracle(header: list[str], body: pd.DataFrame) -> tuple[list[str], pd.DataFrame, list[str]]:
    """CellOracle's peaks x transcription factors as edges to the gene of each peak; any other table as it is."""
    keys = {_key(name): at for at, name in enumerate(header)}
    wide = [at for key, at in keys.items() if key not in ("", "peakid", "geneshortname")]
    if not {"peakid", "geneshortname"} <= keys.keys() or not wide or not all(_is_numeric(body[at]) for at in wide):
        return header, body, []
    peaks, regulators = np.nonzero(body[wide].apply(_numbers).fillna(0).to_numpy())
    edges = pd.DataFrame({0: np.array(header)[wide][regulators], 1: body[keys["geneshortname"]].to_numpy()[peaks]})
    return ["TF", "gene"], edges.drop_duplicates(), [f"CellOracle's {len(wide)} columns of regulators are melted"]


def _named(where: Any, header: list[str], name: str) -> int:
    """Number of the column that is called so, exactly or else ignoring case."""
    for spell in (str, str.casefold):
        if spell(name) in (columns := list(map(spell, header))):
            return columns.index(spell(name))
    raise ValueError(f"{where}: there is no column {name!r}; the columns are {some(header, 20)}")


def _roles(
    header: list[str], body: pd.DataFrame, named: dict[str, int], *, is_header: bool = True
) -> tuple[dict[str, int], list[str]]:
    """Role -> column, as named, by its header, or else one of the first left; and the roles of the last kind."""
    columns = dict(named)
    for role, known in _KNOWN.items():
        left = {_key(name): at for at, name in enumerate(header) if at not in columns.values()}
        if "confidence" in left and not _numbers(body[left["confidence"]]).notna().any():
            del left["confidence"]  # letters are no weights
        known += _GENE if role == "target" and "regulator" in columns else ""
        if role not in columns and (key := next((key for key in known.split() if key in left), "")):
            columns[role] = left[key]
    guessed = [role for role in ("regulator", "target") if role not in columns]
    first = [at for at, name in enumerate(header) if _key(name) and at not in columns.values()]
    columns |= dict(zip(guessed, first, strict=False))
    if not {"label", "weight"} & columns.keys() and len(last := first[len(guessed) :]) == 1:
        numbers = _numbers(body[last[0]])
        if numbers.isin([0, 1]).all() or (not is_header and numbers.notna().all()):
            columns["weight"] = last[0]
            guessed.append("weight")
    return columns, guessed


def _is_edge(
    header: list[str], body: pd.DataFrame, columns: dict[str, int], guessed: list[str], genes: Sequence[str] | None
) -> bool:
    """Whether the first line is an edge: its names are known, a number is behind them, or nothing speaks for a header."""
    ends = [columns["regulator"], columns["target"]]
    names = {header[columns[role]].strip().casefold() for role in guessed if role != "weight"}
    known = {
        name.strip().casefold() for name in chain([] if genes is None else genes, *(body[end].unique() for end in ends))
    }
    numbers = _numbers(pd.Series(header)).notna()
    has_number, unknown = numbers.any() and not numbers[ends].any(), genes is None and set(guessed) == {*columns}
    return bool(names and (names <= known or has_number or unknown))


def _numbers(column: pd.Series) -> pd.Series:
    """The numbers of a column, 1 and 0 for TRUE and FALSE, and NaN for other text."""
    numbers = pd.to_numeric(column.replace({"TRUE": "1", "True": "1", "FALSE": "0", "False": "0"}), errors="coerce")
    return numbers.astype(float)


def _is_numeric(column: pd.Series) -> bool:
    """Whether there is a number wherever something is."""
    numbers = _numbers(column).notna()
    return bool(numbers.any() and (numbers | column.isin(["", "NA", np.nan])).all())


def _check_no_matrix(where: Any, header: list[str], body: pd.DataFrame) -> None:
    """Raise for a table of nothing but numbers beside the names of its rows."""
    if (
        len(header) > 2
        and all(_is_numeric(body[at]) for at in range(len(header) - 1, 0, -1))
        and (not _is_numeric(body[0]) or set(header[1:]) <= set(body[0]))
    ):
        raise ValueError(
            f"{where}: expected edges, one pair a line; got a matrix of {len(body)} x {len(header) - 1}; melt it, where "
            'rows are regulators with pandas.read_csv(file, index_col=0).rename_axis("source").melt(ignore_index=False, '
            'var_name="target", value_name="weight").reset_index(), where columns are with "source" and "target" exchanged; '
            f"if it is no matrix, say {_SAY}"
        )


def read_names(path: str | Path) -> list[str]:
    r"""Names of genes, such as the transcription factors, each once.

    They are in a column that is called like a regulator (``TF``) or a gene (``symbol``), ignoring case; or else one a line,
    without a header. Raises ``ValueError`` for a damaged file, one without names, and several columns of other names.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "tfs.csv"
    ...     _ = file.write_text(",TF\n0,SPI1\n1,NA\n")
    ...     read_names(file)
    ['SPI1', 'NA']
    """
    header, body = _read_table(Path(path), str)
    keys = [_key(name) for name in header]
    column = next((keys.index(key) for key in (_KNOWN["regulator"] + _GENE).split() if key in keys), None)
    if column is None and len(keys) == 2 and not keys[0]:
        column = 1  # behind the numbers of pandas and R
    entries = body[column] if column is not None else [] if len(keys) > 1 else [header[0], *body[0]]
    names = list(dict.fromkeys(name.strip() for name in entries if name.strip()))
    if not names:
        raise ValueError(
            f"{path}: expected names of genes, one a line or in a column TF; got {len(body)} lines of {some(header)}"
        )
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
    """Text without NUL characters, as UTF-16 and spreadsheets have them: pandas ends a field there without a word.

    It comes line by line, and is refused before one line, such as a small gzip file can hold, fills the memory.
    """

    def read(self, size: int | None = -1) -> str:
        text = super().readline(_LONGEST_LINE)
        if "\0" in text or len(text) == _LONGEST_LINE:
            raise UnicodeError("a NUL character" if "\0" in text else f"a line of {len(text)} characters")
        return text

    readline = read


def _is_header(comment: str, line: str, separator: str) -> bool:
    """Whether a line that starts with # is the header of the next one, and not a remark."""
    names, entries = csv.reader([comment.lstrip("#"), line], delimiter=separator)
    return 1 < len(names) == len(entries) and (separator == "\t" or not any(" " in name.strip() for name in names))


def _read_table(path: Path, dtype: Any) -> tuple[list[str], pd.DataFrame]:
    """The fields of the header, and the lines below it with columns that are numbered.

    Blank lines are left out, and so are lines above that start with #, but for a header of as many fields as the next line.
    """
    with path.open("rb") as head:
        is_gzip = head.read(2) == b"\x1f\x8b"  # by its content: a suffix may be wrong
    try:
        with _Text(gzip.open(path) if is_gzip else path.open("rb"), encoding="utf-8-sig") as file:
            lines = ((number, line) for number, line in enumerate(file) if line.strip())
            comment, above, (begin, first) = "", 0, next(lines, (0, ""))
            while first.startswith("#"):
                comment, above, (begin, first) = first, begin, next(lines, (0, ""))
            separator = max("\t,;", key=first.count)
            table = chain([first], (line for _, line in lines))
            if comment and _is_header(comment, first, separator):
                table, begin = chain([comment.lstrip("#")], table), above
            rows = csv.reader(table, delimiter=separator)
            header, second = next(rows), next(rows, [])
            if len(second) == len(header) + 1:
                header = ["", *header]  # R's write.table names no column for the row names
            file.seek(0)
            for _ in range(begin):
                file.readline()
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
            if isinstance(store, h5py.File | zarr.Group) and (suffix not in (".h5", ".loom") or "obs" in store):
                obs, (key, others) = _own(store, "obs", False), _choose(store, layer, raw)
                var, part = _own(store, key[:-1] + "var" if raw else "var", False), _own(store, key)
                # What AnnData before 0.8 wrote has no such attribute, and only the whole of it can be read.
                read = anndata.experimental.read_elem_lazy if "encoding-type" in part.attrs else anndata.io.read_elem
                x, axes = read(part), [obs, var]
            elif suffix != ".loom" and (raw or layer is not None):
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
                if suffix == ".loom":
                    _choose(dict(file or {}) | {"X": None, f"layers/{layer}": None}, layer, raw)
                    adata = anndata.io.read_loom(path, X_name=layer or "")
                else:
                    adata = scanpy.read_10x_h5(path) if file else scanpy.read_10x_mtx(path, make_unique=False)
                x, axes = adata.X, [adata.obs, adata.var]
            columns = (gene_column, None) if transpose else (None, gene_column)
            names = [names_of(axis, column) for axis, column in zip(axes, columns, strict=True)]
        if x.dtype.kind not in "biuf":
            raise ValueError(f"its entries are {x.dtype}, and not real numbers")
        if sparse.issparse(x._meta if (is_lazy := hasattr(x, "dask")) else x):
            x = x.map_blocks(_whole, meta=x._meta) if is_lazy else _whole(x)
        # Of a matrix on disk the first block alone: all of it may take hours.
        scaled = others and ((x.blocks[0, 0].compute() if is_lazy else x) < 0).sum()
    except _NotThereError:
        raise
    except ImportError as error:
        raise _NotThereError(f"{suffix} needs a package that is not installed ({error}): pip install loompy") from error
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


def names_of(axis: Any, column: str | None) -> list[str]:
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
