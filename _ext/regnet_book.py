"""What the book asks of Sphinx beyond Jupyter Book's settings: links, buttons, and the report of the build.

Loaded by `_config.yml`. One function a task; `setup` at the end says when each runs.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from docutils import nodes
from docutils_table import table
from jupyter_client.manager import KernelManager
from myst_nb.sphinx_ import NbMetadataCollector
from pybtex.database import Entry, parse_file
from pybtex.plugin import register_plugin
from pybtex.style.formatting.alpha import Style as AlphaStyle
from pybtex.style.labels import BaseLabelStyle
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ConfigError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.images import get_image_size

ROOT = Path(__file__).parents[1]
# Chapters, then appendices: 04_name.md is chapter 4 with the label chap-04, B_name.md appendix B with the label app-b.
CHAPTERS = sorted([*(ROOT / "book").glob("[0-9][0-9]_*.md"), *(ROOT / "book").glob("[A-Z]_*.md")])


# Buttons


def offer_repository(app: Sphinx, config: Config) -> None:
    """All buttons that need the repository's address, where `repository: url` in `_config.yml` gives one."""
    options = config.html_theme_options
    address = options.get("repository_url")
    if not address:
        return
    if not re.fullmatch(r"https://(github|gitlab)\.com/[\w.-]+/[\w.-]+(?<!\.git)", address):
        expected = "https://github.com/OWNER/NAME or https://gitlab.com/OWNER/NAME, without .git"
        raise ConfigError(f"repository: url in _config.yml must look like {expected}; got {address!r}")
    options |= {"use_repository_button": True, "use_edit_page_button": True, "use_issues_button": True}
    options["launch_buttons"] = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
    if address.startswith("https://github.com/"):  # Colab opens no other host's notebooks
        options["launch_buttons"]["colab_url"] = "https://colab.research.google.com"


def offer_source(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """The MyST source of a notebook, to download and to edit: the notebook itself is generated from it."""
    source = ROOT / f"{page}.md"
    if doctree is None or not source.is_file() or not context["sourcename"].endswith(".ipynb"):
        return
    copy = Path(app.outdir, "_sources", f"{page}.md")
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, copy)
    for button in (each for group in context["header_buttons"] for each in group.get("buttons", [])):
        if button.get("label") == "source-edit-button":
            button["url"] = button["url"].removesuffix(".ipynb") + ".md"
    (downloads,) = (group["buttons"] for group in context["header_buttons"] if group.get("label") == "download-buttons")
    downloads[0] |= {"text": "notebook (.ipynb)", "icon": "fas fa-code", "tooltip": "Download the executed notebook"}
    downloads.insert(
        1,
        {
            "type": "link",
            "url": context["pathto"](f"_sources/{page}.md", 1),
            "text": "MyST source (.md)",
            "icon": "fas fa-file",
            "tooltip": "Download the source in MyST Markdown",
            "label": "download-myst-button",
        },
    )


def leave_out_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Jupyter Book adds the scripts of sphinx-thebe twice, and the second declaration of their constants is an error."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in str(script.filename) + str(script.attributes.get("body", ""))
    ]


def name_for_screen_readers(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """A reference is an item of its list, and a fold is called by the words on it: the code, or the solution."""
    if "body" in context:
        body = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')
        context["body"] = body.replace(' aria-label="Toggle hidden content"', "")


# Figures


class HalveFigures(SphinxPostTransform):
    """A figure as large as its text asks for: it has two pixels for every one of the page, and is sharp on a fine screen."""

    default_priority = 10
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for image in self.document.findall(nodes.image):
            drawn = image["uri"].startswith("_build/jupyter_execute") and get_image_size(self.env.srcdir / image["uri"])
            if drawn and "width" not in image:
                image["width"] = f"{drawn[0] // 2}px"


# Kernels


def encrypt_kernels() -> None:
    """Let the kernels of the build encrypt what they send: those that do not warn in its log, each anew."""
    if hasattr(KernelManager, "transport_encryption"):  # not in the older versions of jupyter_client
        KernelManager.transport_encryption.default_value = "auto"


# Links from the API page to the equations and chapters


def link_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn `Eq. (3)`, `chapter 4` and `Robbins (1956)` into links, and say which chapters use the function."""
    text = re.sub(r"Eqs?\. \([1-5]\)(?:(?:-| and )\([1-5]\))*", _link_equations, "\n".join(lines))
    text = re.sub(r"\b[cC]hapters? (?:\d+(?:, | and )?)+", _link_chapters, text)
    for words, key in _sources().items():
        text = text.replace(words, f":cite:t:`{key}`")
    lines[:] = text.split("\n")
    module, _, short = name.rpartition(".")
    mention = rf"(?<![\w.]){re.escape(name)}\b|from {re.escape(module)} import (?:\([^)]*|[^\n]*)\b{short}\b"
    listed = [path for path in CHAPTERS if f"book/{path.stem}" in app.env.found_docs]
    links = [_link_chapter(path) for path in listed if re.search(mention, _text(path))]
    if what in ("function", "class") and links:
        lines += ["", f"**In the book:** {', '.join(links)}.", ""]


def _link_equations(found: re.Match[str]) -> str:
    return re.sub(r"(Eq\. )?\((\d)\)", r":ref:`\1(\2) <eq-\2>`", found[0])


def _link_chapters(found: re.Match[str]) -> str:
    return re.sub(r"\d+", lambda number: f":ref:`{number[0]} <chap-{int(number[0]):02d}>`", found[0])


def _number(chapter: Path) -> str:
    return chapter.stem.split("_")[0].lstrip("0") or "0"


def _link_chapter(chapter: Path) -> str:
    number = _number(chapter)
    if number.isdigit():
        return f":ref:`chapter {number} <chap-{int(number):02d}>`"
    return f":ref:`appendix {number} <app-{number.lower()}>`"


@cache
def _text(chapter: Path) -> str:
    return chapter.read_text("utf-8")


@cache
def _sources() -> dict[str, str]:
    """The keys of the bibliography, by author and year as docstrings cite them."""
    keys = {}
    for key, entry in parse_file(ROOT / "book/references.bib").entries.items():
        keys[f"{_authors(entry)} ({entry.fields['year']})"] = key
    return keys


def _authors(entry: Entry) -> str:
    persons = entry.persons.get("author", [])
    names = [" ".join(map(str, person.rich_prelast_names + person.rich_last_names)) for person in persons]
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


# The list of references


class AuthorYearLabels(BaseLabelStyle):  # type: ignore[misc]  # pybtex is not typed
    """The text cites author and year; so says the label in the list."""

    def format_labels(self, entries: list[Entry]) -> Iterator[str]:
        for entry in entries:
            yield f"{_authors(entry)}, {entry.fields['year']}"


class AuthorYearStyle(AlphaStyle):  # type: ignore[misc]  # pybtex is not typed
    default_label_style = "author_year_labels"


register_plugin("pybtex.style.labels", "author_year_labels", AuthorYearLabels)
register_plugin("pybtex.style.formatting", "author_year_labels", AuthorYearStyle)


# How to cite


class CiteThisDirective(SphinxDirective):
    """```{cite-this}```: a BibTeX entry made of `CITATION.cff`."""

    def run(self) -> list[nodes.Node]:
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
        fields = {
            "title": f"{{{citation['title']}}}",
            "author": " and ".join(f"{{{author['name']}}}" for author in citation["authors"]),
            "year": citation["date-released"][:4],
            "version": citation["version"],
            "url": self.config.html_theme_options.get("repository_url"),
        }
        lines = [f"  {name:<7} = {{{value}}}," for name, value in fields.items() if value]
        entry = "\n".join(["@software{regnet_shrinkage_report,", *lines, "}"])
        return [nodes.literal_block(entry, entry, language="bibtex")]


# The report of the build, on the reproducibility page


class BuildReport(nodes.General, nodes.Element):  # type: ignore[misc]  # docutils is not typed
    """Stands where the report will be, until every chapter has run."""


class BuildReportDirective(SphinxDirective):
    """```{build-report}```: on what this book was built, and how long each chapter ran."""

    def run(self) -> list[nodes.Node]:
        return [BuildReport()]


class WriteBuildReport(SphinxPostTransform):
    default_priority = 5  # before the PDF fits its tables (6) and references are resolved (10)

    def run(self, **kwargs: Any) -> None:
        for place in list(self.document.findall(BuildReport)):
            chapters = [_chapter_row(self.env, path) for path in [*CHAPTERS, ROOT / "book/reproducibility.md"]]
            place.replace_self(
                [
                    table(["This build", ""], _machine()),
                    table(["Chapter", "Seeds in its code", "Run time (s)"], [row for row in chapters if row]),
                ]
            )


def _machine() -> list[list[str]]:
    information = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", information.read_text("utf-8")) if information.is_file() else []
    packages = "torch torch_geometric numpy scipy pandas scikit-learn statsmodels matplotlib scanpy jupyter-book sphinx"
    return [
        ["Processor", models[0] if models else platform.processor() or platform.machine()],
        ["Cores", str(os.cpu_count())],
        ["Instruction set that torch uses", torch.backends.cpu.get_cpu_capability()],
        ["Threads of torch", str(torch.get_num_threads())],
        ["Operating system", platform.platform(terse=True)],
        ["Python", platform.python_version()],
        *([name, version(name)] for name in packages.split()),
    ]


def _chapter_row(env: BuildEnvironment, source: Path) -> list[str | nodes.Node] | None:
    page = f"book/{source.stem}"
    if page not in env.titles or not source.with_suffix(".ipynb").is_file():
        return None
    code = "\n".join(re.findall(r"```\{code-cell\}.*?```", _text(source), re.S))
    seeds = re.findall(r"\bBASE_SEED\b.* = .+|\bseeds?=(?:range\([\d, ]+\)|\d+)|(?:manual_seed|default_rng)\(\d+\)", code)
    if "results/" in code:
        seeds.append("those named in its stored results")
    executed = NbMetadataCollector.get_exec_data(env, page)
    runtime = f"{executed['runtime']:.0f}" if executed and executed["runtime"] is not None else "stored outputs"
    title = env.titles[page].astext()
    link = addnodes.pending_xref(
        "",
        nodes.inline(text=f"{_number(source)}. {title}" if source in CHAPTERS else title),
        refdomain="std",
        reftype="doc",
        reftarget=f"/{page}",
        refexplicit=True,
    )
    link["refdoc"] = env.docname
    return [link, ", ".join(dict.fromkeys(seeds)) or "none", runtime]


def setup(app: Sphinx) -> dict[str, bool]:
    encrypt_kernels()
    app.add_node(BuildReport)
    app.add_directive("build-report", BuildReportDirective)
    app.add_directive("cite-this", CiteThisDirective)
    app.add_post_transform(WriteBuildReport)
    app.add_post_transform(HalveFigures)
    app.connect("config-inited", offer_repository)
    app.connect("autodoc-process-docstring", link_docstring, priority=600)  # after napoleon
    app.connect("html-page-context", offer_source, priority=900)  # after the theme's buttons
    app.connect("html-page-context", leave_out_thebe, priority=900)
    app.connect("html-page-context", name_for_screen_readers, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
