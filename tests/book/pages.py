"""Where the book's pages are, for the tests of the built HTML."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build/html"
REQUIRED = os.environ.get("REGNET_REQUIRE_PAGES") == "1"


def listed_pages() -> list[str]:
    """Every page of the table of contents, as its HTML is called."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [f"{Path(file).with_suffix('')}.html" for file in files]


def cannot_test(reason: str) -> None:
    """Skip with the reason, or fail where the pages must be tested."""
    if REQUIRED:
        pytest.fail(f"REGNET_REQUIRE_PAGES=1, but {reason}")
    pytest.skip(reason)
