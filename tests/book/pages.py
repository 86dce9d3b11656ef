"""The pages of the book, for the tests of the built HTML."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]


def listed_pages() -> list[str]:
    """Every page of the table of contents, as its HTML is called."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [f"{Path(file).with_suffix('')}.html" for file in files]


@cache
def soup(path: Path) -> BeautifulSoup:
    """A page, parsed once for all tests that look into it."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
