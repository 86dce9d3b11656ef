"""The built HTML as files: links, sizes, and what the pages must hold."""

from __future__ import annotations

import functools
import inspect
import os
import re
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml
from pages import ROOT, listed_pages, soup

import regnet


@functools.cache
def targets(path: Path) -> frozenset[str]:
    """The anchors of a page."""
    return frozenset(str(tag["id"]) for tag in soup(path).find_all(id=True))


def test_every_link_within_the_book_resolves(built: Path) -> None:
    broken, checked = [], 0
    for path in sorted(built.rglob("*.html")):
        if "_static" in path.parts:
            continue
        for link in soup(path).find_all(["a", "link"], href=True):
            address, anchor = urldefrag(str(link["href"]))
            if urlsplit(address).scheme:
                continue
            checked += 1
            target = path.parent / unquote(urlsplit(address).path) if address else path
            if not target.is_file():
                broken.append(f"{path.relative_to(built)} -> {link['href']}: no such file")
            elif anchor and target.suffix == ".html" and unquote(anchor) not in targets(target.resolve()):
                broken.append(f"{path.relative_to(built)} -> {link['href']}: no such anchor")
    assert checked > 1000
    assert not broken, f"{len(broken)}: {broken[:10]}"


def test_the_book_is_small_enough_to_carry(built: Path) -> None:
    files = [path for path in built.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 60e6


@pytest.mark.parametrize("name", listed_pages())
def test_a_page_with_its_pictures_is_small(built: Path, name: str) -> None:
    path = built / name
    pictures = soup(path).find_all("img", src=True)
    sources = {
        (path.parent / unquote(str(picture["src"]))).resolve() for picture in pictures if "data:" not in picture["src"]
    }
    assert path.stat().st_size + sum(source.stat().st_size for source in sources) < 3e6


def test_every_public_function_links_to_chapters_and_they_link_back(built: Path) -> None:
    api = soup(built / "book/api.html")
    chapters = {path.name: path.read_text(encoding="utf-8") for path in (built / "book").glob("[0-9][0-9]_*.html")}
    for name in regnet.__all__:
        if inspect.isclass(getattr(regnet, name)):
            continue
        (entry,) = api.find_all("dt", id=f"regnet.{name}")
        linked = {str(link["href"]).split("#")[0] for link in entry.parent.find_all("a", href=True)} & set(chapters)
        assert linked, f"regnet.{name} names no chapter"
        assert any(f'api.html#regnet.{name}"' in chapters[chapter] for chapter in linked), f"none links to regnet.{name}"


@pytest.mark.parametrize(("name", "chapter"), [("graph.rewire", "07"), ("figures.shrinkage_vs_degree", "11")])
def test_functions_that_chapters_import_by_name_link_to_them_too(built: Path, name: str, chapter: str) -> None:
    api = soup(built / "book/api.html")
    (entry,) = api.find_all("dt", id=f"regnet.{name}")
    assert any(str(link["href"]).startswith(f"{chapter}_") for link in entry.parent.find_all("a", href=True))


@pytest.mark.parametrize("number", range(1, 6))
def test_the_api_links_to_every_equation_of_the_note(built: Path, number: int) -> None:
    api = (built / "book/api.html").read_text(encoding="utf-8")
    assert re.search(rf'href="0\d_\w+.html#eq-{number}"', api)


def test_the_reproducibility_page_reports_this_build(built: Path) -> None:
    page = soup(built / "book/reproducibility.html")
    tables = [
        [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
        for table in page.find_all("table")
    ]
    (machine,) = (dict(rows) for rows in tables if rows[0][0] == "This build")
    assert machine["torch"] == version("torch") and machine["Processor"] and machine["Instruction set that torch uses"]
    (chapters,) = (rows[1:] for rows in tables if rows[0][:2] == ["Chapter", "Seeds in its code"])
    assert len(chapters) == len(list((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))) + 1
    assert "BASE_SEED = 0" in next(seeds for chapter, seeds, _ in chapters if chapter.startswith("7. "))
    untimed = [chapter for chapter, _, seconds in chapters if not seconds.isdigit()]
    if os.environ.get("REGNET_REQUIRE_PAGES") == "1":  # a build for readers, which executes
        assert untimed == ["11. The published checkpoint"]  # whose data must be downloaded


def test_the_citation_on_the_landing_page_is_that_of_the_citation_file(built: Path) -> None:
    entry = soup(built / "book/index.html").find("div", class_="highlight-bibtex")
    assert entry is not None
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    for value in (citation["title"], citation["version"], citation["date-released"][:4], citation["authors"][0]["name"]):
        assert f"{{{value}}}" in entry.get_text()
