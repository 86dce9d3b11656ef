"""The built HTML, for the tests that read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import HTML, ROOT, cannot_test


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder with the HTML of the sources as they are now."""
    index = HTML / "index.html"
    if not index.is_file():
        cannot_test("the book is not built: run make book")
    sources = [*ROOT.glob("_*.yml"), *ROOT.glob("book/*.md"), *ROOT.glob("_ext/*.py"), *ROOT.glob("_static/*")]
    newer = [source.name for source in sources if source.stat().st_mtime > index.stat().st_mtime]
    if newer:
        cannot_test(f"{newer[0]} is newer than the built HTML: run make book")
    return HTML
