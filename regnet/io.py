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

from regnet.checks import check_gene_names, some

_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".h5ad", ".zarr")
# Headers of the tools people use, the best first, as `_key` spells them.
_REGULATOR = """sourcegenesymbol tfgenesymbol tfsymbol regulatorgenename regulatorgene regulatorygene tfgene tfname tf
transcriptionfactor regulatorname regulator reg sourcegene source gene1 from""".split()  # noqa: SIM905
_TARGET = """targetgenesymbol targetsymbol targetgenename targetgene targetname target regulatedgene regulatedname tg gene2
to""".split()  # noqa: SIM905
_GENE = ["genesymbol", "genename", "geneshortname", "hgncsymbol", "symbol", "gene"]  # the target, beside a regulator
_WEIGHT = """weight edgeweight importance importancetf2g tf2gimportance mor combinedconfidences coefmean coef score rhotf2g
tf2grho confidence""".split()  # noqa: SIM905
_ROLES = {"regulator": "source", "target": "target"}
_SAY = "regulator= and target= (--regulator-col and --target-col)"
_LONGEST_LINE = 2**26  # characters; two million cells have a shorter header, a gigabyte in a small gzip file has not
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
    ([['SPI1', 'LYZ']], ['1 of 2 pairs have Label 0 and are no edges'])
    """
    is_file = isinstance(path, str | Path)
    where = path if is_file else "edges"
    header, body, notices = _melt_celloracle(*(_read_table(Path(path), str) if is_file else _from_python(path)))
    asked = {"regulator": regulator, "target": target, "weight": weight}
    named = {role: _named(where, header, name) for role, name in asked.items() if name is not None}
    columns, guessed = _roles(header, named)
    if len(columns) < 2:
        raise ValueError(
            f"{where}: expected two columns, regulator and target, separated by a tab, a comma or a semicolon; "
            f"got the line {' '.join(header)!r}"
        )
    is_header = not (is_file and guessed and not named and _is_edge(header, body, columns, guessed, genes))
    if not named.keys() & _ROLES:
        _check_no_matrix(where, header, body)
    if not is_header:
        body = pd.concat([pd.DataFrame([header]), body], ignore_index=True)
        header = [str(number) for number in range(1, len(header) + 1)]
        columns, guessed = _roles(header, {})
    if guessed:
        read = " and ".join(f"the {role} is read from column {header[columns[role]]!r}" for role in guessed)
        notices.append(f"{read}, which no header names; if that is wrong, say {_SAY}")
    table = pd.DataFrame({name: _text(body[columns[role]]) for role, name in _ROLES.items()})
    if (nameless := (table == "").any(axis=1)).any():
        line = " ".join(map(str, body[nameless].iloc[0]))
        raise ValueError(f"{where}: expected the names of a regulator and a target in every line; got {line!r}")
    keep, weights, more = _strengths(where, header, body, columns, named.get("weight"), is_header)
    if weights is not None:
        table["weight"] = weights
    elif min_weight is not None:
        raise ValueError(f"{where}: min_weight needs a column of weights; got the columns {some(header)}; name it, weight=")
    if min_weight is not None:
        low = keep & ~(table["weight"].abs() >= min_weight)
        keep &= ~low
        more += [f"{low.sum()} of {len(body)} pairs have an absolute weight below {min_weight} and are no edges"] * any(low)
    table, notices = table[keep].reset_index(drop=True), notices + more
    if table.empty:
        raise ValueError(f"{where}: expected at least one edge; got {len(body)} pairs; {'; '.join(notices)}".rstrip("; "))
    regulators, targets = table["source"].nunique(), table["target"].nunique()
    if not named.keys() & _ROLES and regulators >= 10 and regulators > 3 * targets:
        notices.append(f"{regulators} regulators of only {targets} targets: if the columns are swapped, say {_SAY}")
    return Network(table, notices)


def _key(name: str) -> str:
    """A header without what tools write differently: case, blanks, ``_ . - #`` and RegulonDB's numbers."""
    return re.sub(r"^\d+\)|[\s_.#-]", "", name.strip().casefold())


def _text(column: pd.Series) -> pd.Series:
    return column.astype(str).where(column.notna(), "").str.strip()


def _from_python(edges: Any) -> tuple[list[str], pd.DataFrame]:
    """As `_read_table`, of a data frame, whose index is a column without a name, or of pairs."""
    if not isinstance(edges, pd.DataFrame):
        try:
            edges = pd.DataFrame([(source, target) for source, target in edges], columns=["source", "target"])
        except (TypeError, ValueError):
            raise TypeError(
                "edges must be pairs (regulator, target) of gene names or a data frame with columns source and target; got "
                f"{type(edges).__name__} of another kind; give zip(regulators, targets)"
            ) from None
    body = edges.set_axis(range(1, edges.shape[1] + 1), axis=1).reset_index(drop=True)
    body.insert(0, 0, list(map(str, edges.index)))
    return ["", *map(str, edges.columns)], body


def _melt_celloracle(header: list[str], body: pd.DataFrame) -> tuple[list[str], pd.DataFrame, list[str]]:
    """CellOracle's peaks x transcription factors as edges to the gene of each peak; any other table as it is."""
    keys = [_key(name) for name in header]
    wide = [at for at, key in enumerate(keys) if key not in ("", "peakid", "geneshortname")]
    if not {"peakid", "geneshortname"} <= set(keys) or not wide or not all(_is_numeric(body[at]) for at in wide):
        return header, body, []
    peaks, factors = np.nonzero(body[wide].apply(pd.to_numeric, errors="coerce").fillna(0).to_numpy())
    genes = body[keys.index("geneshortname")].to_numpy()[peaks]
    edges = pd.DataFrame({0: np.array(header)[wide][factors], 1: genes}).drop_duplicates(ignore_index=True)
    return ["TF", "gene"], edges, [f"a network of CellOracle: its {len(wide)} columns of regulators are melted"]


def _named(where: Any, header: list[str], name: str) -> int:
    """Number of the column that is called so, exactly or else ignoring case."""
    names = [header, [column.strip().casefold() for column in header]]
    for columns, wanted in zip(names, (name, name.strip().casefold()), strict=True):
        if wanted in columns:
            return columns.index(wanted)
    raise ValueError(f"{where}: there is no column {name!r}; the columns are {some(header, 20)}")


def _roles(header: list[str], named: dict[str, int]) -> tuple[dict[str, int], list[str]]:
    """The columns of regulator and target: as named, by their headers, or the first ones left; and which are the last."""
    keys, columns = [_key(name) for name in header], dict(named)
    for role, known in (("regulator", _REGULATOR), ("target", _TARGET)):
        known = known + _GENE * (role == "target" and "regulator" in columns)
        free = {key: at for at, key in reversed(list(enumerate(keys))) if at not in columns.values()}
        columns |= {role: free[key] for key in known if key in free and role not in columns}
    guessed = [role for role in _ROLES if role not in columns]
    left = [at for at, key in enumerate(keys) if key not in ("", "label", *_WEIGHT) and at not in columns.values()]
    columns |= dict(zip(guessed, left, strict=False))
    return {role: columns[role] for role in _ROLES if role in columns}, guessed


def _is_edge(
    header: list[str], body: pd.DataFrame, columns: dict[str, int], guessed: list[str], genes: Sequence[str] | None
) -> bool:
    """Whether the first line is an edge: its names are known, a number is behind them, or nothing speaks for a header."""
    names = {header[columns[role]].strip().casefold() for role in guessed}
    known = {name.strip().casefold() for name in chain(genes or (), *(body[at].unique() for at in columns.values()))}
    numbers = pd.to_numeric(pd.Series(header), errors="coerce").notna()
    has_number = numbers.any() and not numbers[list(columns.values())].any()
    unknown = genes is None and len(guessed) == 2 and not {"label", *_WEIGHT} & {_key(name) for name in header}
    return names <= known or bool(has_number) or unknown


def _is_numeric(column: pd.Series) -> bool:
    """Whether there is a number, or TRUE or FALSE, wherever something is."""
    number = pd.to_numeric(column, errors="coerce").notna() | column.isin(["TRUE", "FALSE", "True", "False"])
    return bool(number.any() and (number | column.isna() | column.isin(["", "NA"])).all())


def _check_no_matrix(where: Any, header: list[str], body: pd.DataFrame) -> None:
    """Raise for a table of nothing but numbers beside the names of its rows."""
    rows_are_named = not _is_numeric(body[0]) or set(header[1:]) <= set(map(str, body[0]))
    if len(header) > 2 and rows_are_named and all(_is_numeric(body[at]) for at in range(1, len(header))):
        raise ValueError(
            f"{where}: expected edges, one pair a line; got a matrix of {len(body)} x {len(header) - 1} numbers; melt it, with "
            'pandas.read_csv(file, index_col=0).rename_axis("source").melt(var_name="target", value_name="weight", '
            'ignore_index=False).reset_index() where its rows are the regulators, with "source" and "target" exchanged where '
            f"its columns are; or, if it is no matrix, say {_SAY}"
        )


def _strengths(
    where: Any, header: list[str], body: pd.DataFrame, columns: dict[str, int], weight: int | None, is_header: bool
) -> tuple[pd.Series, pd.Series | None, list[str]]:
    """Which pairs are edges by their label and their weight; the weights, where there are any; and notices."""
    keys = [_key(name) for name in header]
    others = [at for at, key in enumerate(keys) if key and at not in columns.values()]
    label = next((at for at in others if keys[at] == "label"), None)
    if weight is None:
        known = (at for key in _WEIGHT for at in others if keys[at] == key)
        weight = next((at for at in known if pd.to_numeric(body[at], errors="coerce").notna().any()), None)
    keep, weights, notices = pd.Series(True, body.index), None, []
    if label is None and weight is None and len(others) == 1 and _is_numeric(body[others[0]]):
        if pd.to_numeric(body[others[0]], errors="coerce").isin([0, 1]).all():
            label = others[0]
        elif not is_header:
            weight = others[0]
            notices.append(f"the weight is read from column {header[weight]!r}, which no header names")
    for at in (at for at in (label, weight) if at is not None):
        numbers = pd.to_numeric(body[at], errors="coerce").astype(float)
        if (wrong := ~(numbers.isin([0, 1]) if at == label else np.isfinite(numbers))).any():
            what = "a Label of 1 (an edge) or 0 (none)" if at == label else f"a finite number as {header[at]}"
            line = " ".join(map(str, body[wrong].iloc[0]))
            raise ValueError(
                f"{where}: expected {what}; got {str(body.loc[wrong, at].iloc[0])!r} in the line {line!r}; "
                "fix it, or rename a column that is none"
            )
        if (numbers == 0).any():
            notices.append(f"{(numbers == 0).sum()} of {len(body)} pairs have {header[at]} 0 and are no edges")
        keep &= numbers != 0
        weights = numbers if at == weight else None
    return keep, weights, notices


def read_names(path: str | Path) -> list[str]:
    r"""Names of genes, such as the transcription factors, each once.

    They are one a line, or in a column that is called like a regulator (``TF``) or a gene (``symbol``), ignoring case. Raises
    ``ValueError`` for a damaged file, one without names, and several columns none of which is called so.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "tfs.csv"
    ...     _ = file.write_text(",TF\n0,SPI1\n1,NA\n")
    ...     read_names(file)
    ['SPI1', 'NA']
    """
    header, body = _read_table(Path(path), str)
    keys = [_key(name) for name in header]
    column = next((keys.index(key) for key in _REGULATOR + _GENE if key in keys), None)
    if column is None and len(keys) > 1:
        raise ValueError(
            f"{path}: expected names of genes, one a line or in a column TF; got the columns {some(header)}; "
            "keep one column, or call the one with the names TF"
        )
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
    """Text without NUL characters, as UTF-16 and spreadsheets have them: pandas ends a field there without a word.

    A line that would fill the memory, as a small gzip file can hold, is refused before it does.
    """

    _length = 0  # of the line that is being read

    def read(self, size: int | None = -1) -> str:
        text = super().read(size)
        if "\0" in text:
            raise UnicodeError("a NUL character")
        end = text.rfind("\n") + 1
        self._length = len(text) - end + (0 if end else self._length)
        if self._length > _LONGEST_LINE:
            raise csv.Error(f"a line of more than {_LONGEST_LINE} characters")
        return text

    def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
        line = super().readline(_LONGEST_LINE)
        if len(line) == _LONGEST_LINE:
            raise csv.Error(f"a line of at least {_LONGEST_LINE} characters")
        return line


def _is_header(comment: str, line: str, separator: str) -> bool:
    """Whether a line that starts with # is the header of the next one, and not a remark."""
    names, entries = csv.reader([comment.lstrip("#"), line], delimiter=separator)
    return 1 < len(names) == len(entries) and (separator == "\t" or not any(" " in name.strip() for name in names))


def _read_table(path: Path, dtype: Any) -> tuple[list[str], pd.DataFrame]:
    """The fields of the header, and the lines below it with columns that are numbered.

    Blank lines are left out, and so are lines above that start with #, but for a header of as many fields as the next line.
    """
    with path.open("rb") as start:
        is_gzip = start.read(2) == b"\x1f\x8b"  # by its content: a suffix may be wrong
    try:
        with _Text(gzip.open(path) if is_gzip else path.open("rb"), encoding="utf-8-sig") as file:
            lines = ((number, line) for number, line in enumerate(file) if line.strip())
            comment, (start, first) = None, next(lines, (0, ""))
            while first.startswith("#"):
                comment, (start, first) = (start, first), next(lines, (0, ""))
            separator = max("\t,;", key=first.count)
            if comment and _is_header(comment[1], first, separator):
                lines, (start, first) = chain([(start, first)], lines), comment
            rows = csv.reader(chain([first.lstrip("#")], (line for _, line in lines)), delimiter=separator)
            header, second = next(rows), next(rows, [])
            if len(second) == len(header) + 1:
                header = ["", *header]  # R's write.table names no column for the row names
            file.seek(0)
            for _ in range(start):
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
