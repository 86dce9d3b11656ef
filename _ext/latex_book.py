"""Shape the PDF: what LaTeX needs and Sphinx does not do by itself. The HTML passes through none of this.

Settings that LaTeX can read are in ``_config.yml``; here are the five things that need the document's tree:
the landing page becomes an unnumbered chapter before the first part, the captions of the table of contents
become parts, inputs that the HTML folds away (``hide-input``; not ``hide-cell``, the solutions) are left out,
every table gets columns that fit the page, and numbered formulas keep their numbers.
"""

import re
from collections import Counter
from typing import Any

from bs4 import BeautifulSoup, Tag
from docutils import nodes
from docutils_table import table
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.builders.latex.nodes import thebibliography
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.texescape import escape

LINE = 92  # digits of a table's font that fit beside each other on the page
GAP = 2.5  # digits that the space between two columns takes
WHOLE = 16  # rows up to which a table is kept on one page


def data_frame(html: str) -> nodes.table:
    """The one plain table of a pandas output."""
    found = BeautifulSoup(html, "html.parser").table
    header, *rest = unmerged(found)
    if len(found.thead.find_all("tr")) == 2 and not any(map(all, zip(header, rest[0], strict=True))):
        header = [name or index for name, index in zip(header, rest.pop(0), strict=True)]  # names of the index have a row
    return table(header, rest)


def unmerged(found: Tag) -> list[list[str]]:
    """The rows of a table; a cell over several rows or columns has its text in the first, and the others are empty."""
    rows: list[list[str]] = []
    taken: Counter[int] = Counter()  # by column, how many of the next rows a cell above reaches into
    for line in found.find_all("tr"):
        row: list[str] = []
        cells = iter(line.find_all(["td", "th"]))
        while True:
            if taken[len(row)]:
                taken[len(row)] -= 1
                row.append("")
            elif cell := next(cells, None):
                for text in [cell.get_text(strip=True)] + [""] * (int(cell.get("colspan", 1)) - 1):
                    taken[len(row)] = int(cell.get("rowspan", 1)) - 1
                    row.append(text)
            else:
                break
        rows.append(row)
    return rows


def raw(latex: str) -> nodes.raw:
    return nodes.raw("", latex, format="latex")


def is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?%?|nan|", text) is not None


def printed(cell: nodes.Element) -> str:
    """The text of a cell, with about as many letters in a formula as print."""
    texts = [(text.astext(), isinstance(text.parent, nodes.math)) for text in cell.findall(nodes.Text)]
    return "".join(re.sub(r"\\[A-Za-z]+\s*|[{}^_\\]", "", text) + "ab" if is_math else text for text, is_math in texts)


def width(text: str) -> float:
    """About the width of the text, in digits."""
    return sum(0.6 if letter in " ,.;:'()[]|fijlrtI-" else 1 for letter in text)


def unbroken(cell: str) -> float:
    """The width that a cell needs in order to look well: numbers stay on their line, words take two lines."""
    longest_word = max(map(width, cell.split()), default=0)
    return width(cell) if any(map(str.isdigit, cell)) else max(longest_word, width(cell) / 2 + 2)


def column_spec(found: nodes.table) -> str:
    """Columns as wide as their content where all fit side by side, else shares of the line by what they hold."""
    rows = [list(row.children) for row in found.findall(nodes.row)]
    columns = [[printed(cell) for cell in column] for column in zip(*rows, strict=True)]
    head = sum(len(part.children) for part in found.findall(nodes.thead))
    numeric = [any(column[head:]) and all(map(is_number, column[head:])) for column in columns]
    longest = [max(map(width, column)) + GAP for column in columns]
    if max(longest) < 60 and sum(longest) <= LINE and all(len(cell.children) <= 1 for row in rows for cell in row):
        return "{" + "".join("r" if right else "l" for right in numeric) + "}"
    # Its wish to each column that wishes no more than its share; the rest by the root of what they hold.
    wish = [max(map(unbroken, column)) + GAP for column in columns]
    given: dict[int, float] = {}
    while len(given) < len(columns):
        left, free = LINE - sum(given.values()), [place for place in range(len(columns)) if place not in given]
        roots = {place: sum(map(width, columns[place])) ** 0.5 for place in free}
        modest = {place: wish[place] for place in free if wish[place] <= left / len(free)}
        given |= modest or {place: left * root / sum(roots.values()) for place, root in roots.items()}
    shares = [round(1000 * given[place] / sum(given.values())) for place in range(len(columns))]
    sides = [r"\raggedleft" if right else r"\raggedright" for right in numeric]
    parts = [rf">{{{side}\arraybackslash}}\X{{{share}}}{{1000}}" for side, share in zip(sides, shares, strict=True)]
    return "{" + "".join(parts) + "}"


class Book(SphinxPostTransform):
    """Before references are resolved, so that the moved sections still get theirs."""

    default_priority = 6  # after MyST-NB has chosen between the forms of an output (4)
    builders = ("latex",)

    def run(self, **kwargs: Any) -> None:
        self.leave_out_folded_inputs()
        self.free_tags()
        self.fit_tables()
        self.make_parts()

    def leave_out_folded_inputs(self) -> None:
        for part in list(self.document.findall(nodes.container)):
            if "cell_input" in part["classes"] and "tag_hide-input" in part.parent["classes"]:
                part.parent.remove(part)

    def free_tags(self) -> None:
        """Sphinx wraps each formula in "split", in which LaTeX takes no tag."""
        for formula in self.document.findall(nodes.math_block):
            found = re.search(r"\s*(\\tag\{[^}]*\})", formula.astext())
            if found:
                split = rf"\begin{{split}}{formula.astext().replace(found[0], '')}\end{{split}}"
                formula.children = [nodes.Text(rf"\begin{{equation*}}{split}{found[1]}\end{{equation*}}")]
                formula["nowrap"] = True

    def fit_tables(self) -> None:
        for output in list(self.document.findall(nodes.raw)):
            if output["format"] == "html" and "<table" in output.astext():
                output.replace_self(data_frame(output.astext()))
        for found in list(self.document.findall(nodes.table)):
            if len(list(found.findall(nodes.row))) > WHOLE or len(found.astext()) > 700:
                found["classes"].append("longtable")  # breaks over pages and repeats its head
            found.parent.insert(found.parent.index(found), addnodes.tabular_col_spec(spec=column_spec(found)))

    def make_parts(self) -> None:
        top = next(self.document.findall(nodes.section))
        title, *rest = top.children
        trees = [node for node in rest if "toctree-wrapper" in node.get("classes", [])]
        page = [node for node in rest if node not in trees]
        overview = nodes.section("", nodes.title("", "Overview"), *page, ids=top["ids"], docname=self.config.root_doc)
        top["ids"], top.children = [], [title]
        top += [raw(r"\setcounter{secnumdepth}{-1}"), overview]
        for part, tree in zip(self.config.external_site_map.root.subtrees, trees, strict=True):
            depth = 1 if part.numbered else -1
            letters = r"\appendix" if part.style == "alphaupper" else ""
            caption = escape(part.caption, "xelatex")
            top += [raw(rf"\part{{{caption}}}{letters}\setcounter{{secnumdepth}}{{{depth}}}"), tree]


class BibliographyInPlace(SphinxPostTransform):
    """Sphinx puts all sources at the end; the book has a section for them, which would be left empty."""

    default_priority = 751  # right after Sphinx has collected them (750)
    builders = ("latex",)

    def run(self, **kwargs: Any) -> None:
        for sources in list(self.document.findall(thebibliography)):
            for section in self.document.findall(nodes.section):
                if "bibliography" in section["ids"]:
                    sources.parent.remove(sources)
                    section += sources
                    break


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(Book)
    app.add_post_transform(BibliographyInPlace)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
