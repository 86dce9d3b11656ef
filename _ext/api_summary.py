"""The table at the top of the API page: every public name that the page describes, with a link and its first line."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils_table import table
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective


class ApiSummary(nodes.General, nodes.Element):  # type: ignore[misc]  # docutils is not typed
    """Stands where the table will be, until the page has been read."""


class ApiSummaryDirective(SphinxDirective):
    """```{api-summary}```: the functions and classes that the page documents, one row each."""

    def run(self) -> list[nodes.Node]:
        return [ApiSummary()]


class WriteApiSummary(SphinxTransform):
    default_priority = 10  # before references are collected, those in the copied lines included

    def apply(self, **kwargs: object) -> None:
        for place in list(self.document.findall(ApiSummary)):
            rows = [
                _row(entry) for entry in self.document.findall(addnodes.desc) if entry["objtype"] in ("function", "class")
            ]
            summary = table(["Name", "In one line"], rows)
            summary["classes"].append("stacked")  # on a phone
            place.replace_self(summary)


def _row(entry: addnodes.desc) -> list[str | nodes.Node]:
    signature, content = entry.children[0], entry.children[-1]
    name = f"{signature['module']}.{signature['fullname']}"
    link = nodes.reference("", "", nodes.literal(text=name), refid=signature["ids"][0], internal=True)
    line = next(content.findall(nodes.paragraph)).deepcopy()
    return [link, nodes.inline("", "", *line.children)]


def lead_back(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """From a source back to the API page: viewcode takes all names of a module as `regnet.X` where one of them is."""
    if page.startswith("_modules/regnet/"):
        known, module = app.env.domaindata["py"]["objects"], page.removeprefix("_modules/").replace("/", ".")
        context["body"] = re.sub(
            r'#regnet\.([\w.]+)"',
            lambda found: found[0] if f"regnet.{found[1]}" in known else f'#{module}.{found[1]}"',
            context["body"],
        )


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_node(ApiSummary)
    app.add_directive("api-summary", ApiSummaryDirective)
    app.add_transform(WriteApiSummary)
    app.connect("html-page-context", lead_back)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
