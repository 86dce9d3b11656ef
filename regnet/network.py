"""Networks as the tools of the field write them, and the tables of text in which networks and expression are written."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from regnet.checks import some

# Headers of the tools people use, the best first, as `header_key` spells them; a gene is the target beside a regulator.
_KINDS = ("genesymbol", "symbol", "genename", "name", "gene", "", "id", "geneid", "ensembl", "ensemblid")
_GENE = ["genesymbol", "genename", "geneshortname", "hgncsymbol", "symbol", "gene", "geneid", "ensembl", "ensemblid"]
_HEADERS = {
    role: [word + kind for words in groups for kind in _KINDS for word in words.split()]
    for role, groups in {
        "regulator": ("tf transcriptionfactor regulatory regulator reg", "gene1 source src", "from parent hub motif"),
        "target": ("target regulated tg", "gene2", "to tgt child dorc"),
    }.items()
} | {
    "label": ["label", "isdirected"],
    "weight": """
    weight edgeweight importance importancetf2g tf2gimportance mor combinedconfidence coefmean coef estimate score
    combinedscore confidence rhotf2g rho corr correlation corval mi value probability
    """.split(),  # noqa: SIM905
}
HEADERS_OF_NAMES = _HEADERS["regulator"] + _GENE
_OFTEN_WORDS = {"confidence", "score", "value"}  # as weights they are numbers
_NO_WEIGHT = "p|[pq]val(ue)?|p(val(ue)?)?adj|adjp(val(ue)?)?|fdr|.*(extended|inhibit|repress).*"
_LONGEST_LINE = 2**26  # characters: more than the header of two million cells
_SAY = "regulator= and target= (--regulator-col and --target-col), or write a header"


class Network(NamedTuple):
    """The edges of a file: columns ``source`` (the regulator) and ``target``; and what to know about how they were read."""

    table: pd.DataFrame
    notices: list[str]


def read_network(
    path: Any,
    *,
    regulator: str | None = None,
    target: str | None = None,
    weight: str | None = None,
    min_weight: float | None = None,
    genes: Iterable[str] | None = None,
) -> Network:
    """Read edges, regulator -> target.

    The columns are known by the headers of BEELINE, GRNBoost2, GENIE3, SCENIC+, CellOracle, decoupler, OmniPath, RegulonDB,
    Inferelator and their like, in any order, ignoring case; beside a regulator, ``gene`` is the target. What no header names
    is read from the first columns left, of known genes where there are some, with a notice. Pairs with 0 as ``Label``,
    ``is_directed``, weight, or in the last of three columns where that holds only 0 and 1, are no edges.

    Args:
        path: a table separated by tabs, commas or semicolons, with ``.gz`` or without; or a data frame; or pairs of names.
        regulator, target, weight: names of the columns, where they are called otherwise.
        min_weight: the least absolute weight of an edge: a negative weight is repression, and an edge.
        genes: names of the genes of the expression, to tell an edge from a header, and names of genes from other text.

    Returns:
        The table of ``source``, ``target`` and, where there are weights, ``weight``; and notices on how it was read.

    Raises:
        OSError, TypeError: there is no such file; neither a path nor a data frame nor pairs.
        ValueError: a damaged or empty file, a matrix, a line without two names or with more, a label other than 0 and 1, a
            weight that is no finite number, an unknown column, or ``min_weight`` without weights.

    >>> table, notices = read_network(pd.DataFrame({"Target": ["LYZ", "CD4"], "TF": ["SPI1", "SPI1"], "Label": [1, 0]}))
    >>> table.to_numpy().tolist(), notices
    ([['SPI1', 'LYZ']], ["1 of 2 pairs have 0 in column 'Label' and are no edges"])
    """
    is_file = isinstance(path, str | Path)
    where, known = path if is_file else "edges", _spelled([] if genes is None else genes)
    header, body, notices = _melt_celloracle(*(read_table(Path(path), str) if is_file else _from_python(path)))
    asked = {"regulator": regulator, "target": target, "weight": weight}
    named = {role: _named(where, header, name) for role, name in asked.items() if name is not None}
    columns, guessed = _roles(where, header, body, named, known)
    if regulator is None and target is None:
        _check_no_matrix(where, header, body)
    if not {"regulator", "target"} <= columns.keys():
        two = "two columns, regulator and target, separated by a tab, a comma or a semicolon"
        raise ValueError(f"{where}: expected {two}; got the line {' '.join(header)!r}")
    if is_file and known and named and _spelled(header[at] for at in named.values()) <= known:
        raise ValueError(
            f"{where}: expected the headers of columns; got the genes {some([header[at] for at in named.values()])}"
        )
    if is_file and not named and _is_edge(header, body, columns, guessed, known):
        body = pd.concat([pd.DataFrame([header]), body], ignore_index=True)
        header = [str(number) for number in range(1, len(header) + 1)]
        columns, guessed = _roles(where, header, body, {}, known)
    if guessed:
        read = ", ".join(f"the {role} is read from column {header[columns[role]]!r}" for role in guessed)
        notices.append(f"{read}, since no header says so; if that is wrong, say {_SAY}")
    table = body[[columns["regulator"], columns["target"]]].set_axis(["source", "target"], axis=1)
    table = table.astype(str).where(table.notna(), "").apply(lambda names: names.str.strip())
    if (nameless := (table == "").any(axis=1)).any():
        line = " ".join(map(str, body[nameless].iloc[0]))
        raise ValueError(f"{where}: expected the names of a regulator and a target in every line; got {line!r}")
    for role in [role for role in ("label", "weight") if role in columns]:
        entries, name = body[columns[role]], header[columns[role]]
        table[role] = _numbers(entries)
        if (wrong := ~(table[role].isin([0, 1]) if role == "label" else np.isfinite(table[role]))).any():
            what = f"{name} of 1 (an edge) or 0 (none)" if role == "label" else f"a finite number as {name}"
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


def _from_python(edges: Any) -> tuple[list[str], pd.DataFrame]:
    """As `read_table`, of pairs, or of a data frame, whose index is a column without a name."""
    if not isinstance(edges, pd.DataFrame):
        try:
            edges = pd.DataFrame([(source, target) for source, target in edges], columns=["source", "target"])
        except (TypeError, ValueError):
            got = f"got {type(edges).__name__} of another kind; give zip(regulators, targets)"
            raise TypeError(f"edges must be pairs (regulator, target) of gene names or a data frame; {got}") from None
    body = edges.set_axis(range(1, edges.shape[1] + 1), axis=1).reset_index(drop=True)
    body.insert(0, 0, edges.index.map(str))
    return ["", *map(str, edges.columns)], body


def _melt_celloracle(header: list[str], body: pd.DataFrame) -> tuple[list[str], pd.DataFrame, list[str]]:
    """CellOracle's peaks x transcription factors as edges to the gene of each peak; any other table as it is."""
    keys = {header_key(name): at for at, name in enumerate(header)}
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
    where: Any, header: list[str], body: pd.DataFrame, named: dict[str, int], genes: set[str]
) -> tuple[dict[str, int], list[str]]:
    """Role -> column, as named, by its header, or else one of the first left; and the roles of the last kind."""
    columns = dict(named)
    for role, known in _HEADERS.items():
        left = {header_key(header[at]): at for at in reversed(range(len(header))) if at not in columns.values()}
        left = {key: at for key, at in left.items() if key not in _OFTEN_WORDS or _numbers(body[at]).notna().any()}
        known = known + _GENE if role == "target" and "regulator" in columns else known
        if role not in columns and (key := next((key for key in known if key in left), "")):
            columns[role] = left[key]
    guessed = [role for role in ("regulator", "target") if role not in columns]
    first = [at for at, name in enumerate(header) if header_key(name) and at not in columns.values()]
    of_genes = [at for at in first if guessed and genes & _spelled([header[at], *body[at].unique()])]
    if guessed and len(of_genes) >= len(guessed):
        if more := [header[at] for at in of_genes[len(guessed) :] if not _is_numeric(body[at])]:
            raise ValueError(f"{where}: expected two names of genes a line; column {more[0]!r} has others; say {_SAY}")
        first = of_genes + [at for at in first if at not in of_genes]
    columns |= dict(zip(guessed, first, strict=False))
    if not {"label", "weight"} & columns.keys() and len(last := first[len(guessed) :]) == 1:
        numbers = _numbers(body[last[0]])
        is_weight = numbers.isin([0, 1]).all() or (len(guessed) == 2 and numbers.notna().all())
        if is_weight and not re.fullmatch(_NO_WEIGHT, header_key(header[last[0]])):
            columns["weight"] = last[0]
            guessed.append("weight")
    return columns, guessed


def _is_edge(header: list[str], body: pd.DataFrame, columns: dict[str, int], guessed: list[str], genes: set[str]) -> bool:
    """Whether the first line is an edge: its names are known, a number is behind them, or nothing speaks for a header."""
    ends = [columns["regulator"], columns["target"]]
    names = _spelled(header[columns[role]] for role in guessed if role != "weight")
    known = genes | _spelled(chain(*(body[end].unique() for end in ends)))
    numbers = _numbers(pd.Series(header)).notna()
    has_number, unknown = numbers.any() and not numbers[ends].any(), not genes and set(guessed) == {*columns}
    return bool(names and (names <= known or has_number or unknown))


def _spelled(names: Iterable[Any]) -> set[str]:
    """Names without case, blanks and the versions of Ensembl identifiers."""
    return {without_version(str(name).strip()) for name in names}


def without_version(name: str) -> str:
    """A name without case and, of an Ensembl identifier, without its version."""
    return re.sub(r"^(ens[a-z]*\d{6,})\.\d+$", r"\1", name.casefold())


def _numbers(column: pd.Series) -> pd.Series:
    """The numbers of a column, 1 and 0 for TRUE and FALSE, and NaN for other text."""
    truth = {"TRUE": "1", "True": "1", "true": "1", "FALSE": "0", "False": "0", "false": "0"}
    return pd.to_numeric(column.replace(truth), errors="coerce").astype(float)


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
            f"{where}: expected edges, one pair a line; got a matrix of {len(body)} x {len(header) - 1}; melt it: "
            'pandas.read_csv(file, index_col=0).rename_axis("source").melt(ignore_index=False, var_name="target", '
            'value_name="weight").reset_index(), with "source" and "target" exchanged where columns are regulators; '
            f"if it is no matrix, say {_SAY}"
        )


def header_key(name: str) -> str:
    """A header without case, blanks, marks, plural, the numbers of RegulonDB and pandas' ``Unnamed: 0``."""
    return re.sub(r"(?<=\w\w)\(?s\)?$|^\d+\)|^unnamed: \d+$|[\s_.#%()-]", "", name.strip().casefold())


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
    """Whether a line that starts with # is the header of the next one, and neither a remark nor an edge left out."""
    names, entries = csv.reader([comment.lstrip("#"), line], delimiter=separator)
    return 1 < len(names) == len(entries) and _has_header(names) and not _has_header(entries)


def _has_header(fields: list[str]) -> bool:
    """Whether one of the fields is the header of a column of names."""
    return any(header_key(field) in (*chain(*_HEADERS.values()), *_GENE, "cell", "index") for field in fields)


def read_table(path: Path, dtype: Any) -> tuple[list[str], pd.DataFrame]:
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
                if separator == "," and _has_header(header[:1]) and not second[0].isdigit() and second[-1]:
                    raise csv.Error("one field more than in the header; write points for decimals, 0.5")
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
    return [name.strip() for name in header], body
