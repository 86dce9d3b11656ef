"""The built HTML, for the tests that read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import HTML, ROOT, cannot_test


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder with the HTML of the sources as they are now."""
    written = HTML / "objects.inv"  # by every build
    if not written.is_file():
        cannot_test("the book is not built: run make book")
    patterns = ("_*.yml", "book/*.*", "_ext/*.py", "_static/*", "regnet/*.py", "CITATION.cff", "CHANGELOG.md")
    sources = [source for pattern in patterns for source in ROOT.glob(pattern)]
    newer = [source.name for source in sources if source.stat().st_mtime > written.stat().st_mtime]
    if newer:
        cannot_test(f"{newer[0]} is newer than the built HTML: run make book")
    return HTML
