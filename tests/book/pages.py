"""The pages of the book, for the tests of the built HTML."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]


def listed_files() -> list[str]:
    """The sources that the table of contents names."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


@cache
def soup(path: Path) -> BeautifulSoup:
    """A page, parsed once for all tests that look into it."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
