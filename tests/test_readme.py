"""What a visitor tries first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.filterwarnings("ignore")  # of the libraries that a visitor's own program would import
@pytest.mark.parametrize("page", ["README.md", "book/use_it.md"])
def test_the_python_code_of_the_page_runs(page: str) -> None:
    text = (Path(__file__).parents[1] / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)), names)
    weights = names["w"] if page == "README.md" else names["weight"]
    assert ((weights >= 0) & (weights <= 1) | weights.isnan()).all() and weights.isfinite().any()
