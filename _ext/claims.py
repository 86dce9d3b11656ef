"""The tables of verdicts: an anchor for every row, and a class for every verdict, which gives it its colour.

In a chapter, row 2 of the table under "Verdict" gets the label `verdict-06-2` and of that under "What this report asks"
`asked-06-2`; the page of all claims links to them, and its own rows are `claim-verdict-06-2` and `claim-asked-06-2`.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

LABELS = {"Verdict": "verdict", "What this report asks": "asked"}


class MarkClaims(SphinxTransform):
    default_priority = 200

    def apply(self, **kwargs: object) -> None:
        number = self.env.docname.rpartition("/")[2].split("_")[0].lower()
        for section in self.document.findall(nodes.section):
            label = LABELS.get(section[0].astext())
            for table in section.children if label else ():
                for place, row in enumerate(_body(table), 1):
                    self.mark(row, f"{label}-{number}-{place}")
        for table in self.document.findall(lambda node: isinstance(node, nodes.table) and "claims" in node["classes"]):
            for row in _body(table):
                (link,) = row[-1].findall(addnodes.pending_xref)
                self.mark(row, f"claim-{link['reftarget']}")

    def mark(self, row: nodes.row, label: str) -> None:
        target = nodes.target("", "", ids=[label], names=[label])
        self.document.note_explicit_target(target)
        next(row.findall(nodes.paragraph)).insert(0, target)
        verdict = next(iter(row[1].findall(nodes.strong)), None)
        if "verdict" in label and verdict is not None:
            row["classes"].append("verdict-" + re.sub(r"\W+", "-", verdict.astext()))


def _body(table: nodes.Node) -> list[nodes.row]:
    bodies = table.findall(nodes.tbody) if isinstance(table, nodes.table) else ()
    return [row for body in bodies for row in body.children]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(MarkClaims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
