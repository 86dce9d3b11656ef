"""What a visitor tries first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def test_the_python_code_of_the_readme_runs() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    assert ((names["w"] >= 0) & (names["w"] <= 1)).all()
