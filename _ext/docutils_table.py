"""A table of the document's tree, from rows of text."""

from __future__ import annotations

from typing import TypeAlias

from docutils import nodes

Cell: TypeAlias = str | nodes.Node


def table(header: list[Cell], rows: list[list[Cell]]) -> nodes.table:
    """A table with one row of headings and columns as wide as what they hold."""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=1) for _ in header]
    group += nodes.thead("", _row(header))
    group += nodes.tbody("", *map(_row, rows))
    return nodes.table("", group, classes=["colwidths-auto"])


def _row(cells: list[Cell]) -> nodes.row:
    return nodes.row("", *map(_entry, cells))


def _entry(cell: Cell) -> nodes.entry:
    if not cell:
        return nodes.entry("")
    return nodes.entry("", nodes.paragraph("", "", nodes.Text(cell) if isinstance(cell, str) else cell))
