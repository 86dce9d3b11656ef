"""Tables of text as other programs write them: separators, comments above the header, gzip, and odd headers."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

_LONGEST_LINE = 2**26  # characters: more than the header of two million cells


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
    """Whether a line that starts with # is the header of the next one, and not a remark."""
    names, entries = csv.reader([comment.lstrip("#"), line], delimiter=separator)
    return 1 < len(names) == len(entries) and (separator == "\t" or not any(" " in name.strip() for name in names))


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
