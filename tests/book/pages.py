"""The pages of the book, as files and in a browser, for the tests of the built HTML."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
WIDE, TABLET, PHONE = {"width": 1400, "height": 900}, {"width": 1100, "height": 900}, {"width": 390, "height": 844}
CHAPTER, CLAIMS = "book/05_finite_differences.html", "book/claims.html"


def listed_files() -> list[str]:
    """The sources that the table of contents names."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


@cache
def soup(path: Path) -> BeautifulSoup:
    """A page, parsed once for all tests that look into it."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def open_page(page: Page, url: str) -> None:
    page.goto(url, wait_until="load")
    page.wait_for_function("() => !window.MathJax || (MathJax.startup && MathJax.startup.promise)")
    page.evaluate("async () => { if (window.MathJax) await MathJax.startup.promise; await document.fonts.ready; }")
    # Pictures load when they are scrolled to.
    page.evaluate("""async () => { for (const e of document.images) e.loading = 'eager';
        await Promise.all([...document.images].map(e => e.decode().catch(() => null))); }""")
