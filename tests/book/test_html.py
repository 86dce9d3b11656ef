"""The built HTML as files: links, sizes, and what the pages must hold."""

from __future__ import annotations

import functools
import re
from importlib.metadata import version
from inspect import ismodule
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from pages import listed_files, soup

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
    assert sum(path.stat().st_size for path in built.rglob("*") if path.is_file()) < 60e6


def test_the_list_of_references_is_labelled_as_the_text_cites(built: Path) -> None:
    list_of_sources = soup(built / "book/10_references.html")
    cited = 0
    for path in sorted((built / "book").glob("*.html")):
        for link in soup(path).select("span.bibtex-citation a.reference, a.reference[href*='10_references.html#id']"):
            anchor = urldefrag(str(link["href"])).fragment
            (source,) = list_of_sources.find_all(class_="citation", id=anchor)
            label = re.sub(r"^\[|\].*", "", source.find(class_="label").get_text())
            assert label in (link.get_text(), f"{label[:-6]}, {link.get_text()}"), f"{path.name}: {link} leads to [{label}]"
            cited += 1
    assert cited > 100


def test_every_public_name_is_described_on_the_api_page(built: Path) -> None:
    api = soup(built / "book/api.html")
    for name in regnet.__all__:
        if ismodule(getattr(regnet, name)):  # whose names have entries of their own
            continue
        (entry,) = api.find_all("dt", id=f"regnet.{name}")
        assert entry.find_next_sibling("dd").get_text(strip=True), name


def test_the_api_page_begins_with_a_table_of_all_names_and_links_to_their_source(built: Path) -> None:
    api = soup(built / "book/api.html")
    rows = [row.find_all("td") for row in api.find("table").select("tbody tr")]
    entries = api.select("dl.function > dt, dl.class > dt")
    assert [name.a["href"] for name, _ in rows] == [f"#{entry['id']}" for entry in entries]
    assert all(name.get_text(strip=True) == entry["id"] for (name, _), entry in zip(rows, entries, strict=True))
    assert all(line.get_text(strip=True) for _, line in rows)
    for entry in entries:
        (source,) = entry.select("a:has(.viewcode-link)")
        assert str(source["href"]).startswith("../_modules/regnet/"), entry["id"]


def test_the_api_page_links_to_equations_and_chapters(built: Path) -> None:
    api = soup(built / "book/api.html")
    linked = {str(link["href"]) for link in api.find_all("a", href=True)}
    for number in range(1, 6):
        assert any(re.fullmatch(rf"0\d_\w+\.html#eq-{number}", address) for address in linked), number
    (entry,) = api.find_all("dt", id="regnet.sensitivities")
    assert entry.parent.find("a", href=re.compile("^04_")), "regnet.sensitivities names no chapter that uses it"


def test_the_landing_page_answers_in_one_picture_and_three_cards(built: Path) -> None:
    article = soup(built / "book/index.html").find("article")
    assert len(article.select_one("section").get_text(" ").split()) < 500
    assert len(article.find_all("img")) == 1 and not article.find("details")
    cards = {card.select_one(".sd-card-title").get_text(strip=True): card for card in article.select(".sd-card")}
    assert list(cards) == ["Read", "Use", "Check"]
    addresses = [str(card.find("a")["href"]) for card in cards.values()]
    assert re.fullmatch(r"0[01]_\w+\.html#chap-0[01]", addresses[0])
    assert addresses[1:] == ["use_it.html#use-it", "claims.html#claims"]
    assert re.search(r"\d+ rows: proved \d+", cards["Check"].get_text())


def test_the_reproducibility_page_reports_this_build(built: Path) -> None:
    found = soup(built / "book/reproducibility.html").select("table tr")
    rows = [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in found]
    assert ["torch", version("torch")] in rows
    chapters = {row[0]: row[1:] for row in rows if len(row) == 3 and re.match(r"(\d+|[A-Z])\. ", row[0])}
    assert len(chapters) == sum(bool(re.match(r"book/(\d\d|[A-Z])_.*ipynb", file)) for file in listed_files())
    assert "BASE_SEED = 0" in next(seeds for chapter, (seeds, _) in chapters.items() if chapter.startswith("14. "))
