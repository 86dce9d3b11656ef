"""What the search page looks in: every section, function and term of the book with its anchor, and words in place of TeX.

Written as `sections.js` beside Sphinx's own index, and read by `_static/search.js`, from a server or from a folder.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx

NOT_SEARCHED = "script, style, a.headerlink, button, div.cell_input, div.cell_output pre, table.dataframe, .toctree-wrapper"
SYMBOLS = {"le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "in": "∈", "to": "→", "cdot": "·", "mid": "|"}
SYMBOLS |= {"approx": "≈", "sim": "~", "pm": "±", "infty": "∞", "lVert": "‖", "rVert": "‖", "|": "‖", "partial": "∂"}
FORMATTING = "left|right|[bB]igg?[lr]?|d?t?frac|limits|nolimits|displaystyle|quad|qquad|hspace|begin|end|nonumber"
FORMATTING += r"|math\w+|text\w*|operatorname\*?|hat|bar|widehat|tilde|boldsymbol|bm|underbrace|overline|sqrt"


def words(tex: str) -> str:
    """A formula as one would type it: `tau_i^2 / (sigma^2 + tau_i^2)`."""
    tex = re.sub(r"\\[()\[\]]|\\label\{[^}]*\}|\\(?:begin|end)\{[^}]*\}|&", " ", tex)
    tex = re.sub(r"\\tag\{([^}]*)\}", r"(\1)", tex)
    tex = re.sub(r"\\([A-Za-z]+|\|)", lambda found: SYMBOLS.get(found[1], found[0]), tex)
    tex = re.sub(r"\\[dt]?frac\s*(\w)\s*(\w)", r"\1/\2", tex)
    before = None
    while before != tex:  # from the inside to the outside
        before = tex
        tex = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"(\1)/(\2)", tex)
        tex = re.sub(r"(?<!frac)(?<!\})\{([^{}]*)\}", r"\1", tex)
    tex = re.sub(rf"\\(?:(?:{FORMATTING})(?![A-Za-z])|[^A-Za-z])", " ", tex)
    tex = re.sub(r"(?<=[A-Za-z0-9])\\(?=[A-Za-z])", " ", tex)
    return " ".join(re.sub(r"[\\{}]", "", tex).split())


def plain(part: Tag | None) -> str:
    """The text of a part on one line, without the spaces that its markup leaves before punctuation."""
    text = " ".join(part.get_text(" ").split()) if part else ""
    return re.sub(r" (?=[,.;:)\]])|(?<=[(\[]) ", "", text)


def sections(article: Tag) -> list[tuple[str, str, str]]:
    """Anchor, title and text of every section, function and term, each without those inside it."""
    found = []
    for part in reversed(article.select("section[id], dt[id]")):  # inner ones first
        content = part if part.name == "section" else part.find_next_sibling("dd")
        heading = part.find(re.compile("^h[1-6]$")) if part.name == "section" else part
        is_object = part.name == "dt" and "sig" in part.get("class", [])
        title = str(part["id"]) if is_object else " ".join(heading.get_text().split()) if heading else ""
        if heading is not None and heading is not part:
            heading.decompose()
        found.append((str(part["id"]), title, plain(content)))
        for done in {id(each): each for each in (part, content) if each is not None}.values():
            done.decompose()
    return found[::-1]


def write_sections(app: Sphinx, failed: Exception | None) -> None:
    if failed or app.builder.name != "html":
        return
    rows = []
    for page in [app.config.root_doc, *app.env.toctree_includes[app.config.root_doc]]:  # in the order of the contents
        path = Path(app.outdir, f"{page}.html")
        article = BeautifulSoup(path.read_text("utf-8"), "html.parser").select_one("article")
        if article is None:
            continue
        for useless in article.select(NOT_SEARCHED):
            useless.decompose()
        for formula in article.select(".math"):
            formula.replace_with(words(formula.get_text()))
        for code in article.select("pre, code"):
            code.string = code.get_text()
        keywords = defaultdict(list)
        for _, value, target, *_ in app.env.domaindata["index"]["entries"].get(page, []):
            place = article.find(id=target)
            section = place.find_parent("section") if place is not None and place.name != "dt" else None
            if section is not None:
                keywords[str(section["id"])].append(value)
        whole = sections(article)
        title = whole[0][1] if whole else page
        rows += [[f"{page}.html#{anchor}", title, name, " ".join(keywords[anchor]), text] for anchor, name, text in whole]
    Path(app.outdir, "sections.js").write_text(f"window.SECTIONS = {json.dumps(rows, ensure_ascii=False)};\n", "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", write_sections)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
