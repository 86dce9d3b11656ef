"""`make reproduce` sees a difference of one character."""

from __future__ import annotations

import runpy
from pathlib import Path

import nbformat
import pytest

REPRODUCE = runpy.run_path(str(Path(__file__).parents[1] / "tools/reproduce.py"))


@pytest.mark.slow
@pytest.mark.parametrize("difference", ["", "x"])
def test_a_notebook_runs_at_the_point_and_one_character_makes_the_difference(difference, tmp_path, monkeypatch):
    monkeypatch.setitem(REPRODUCE["run"].__globals__, "ROOT", tmp_path)
    code = "import os\nprint('a copy' in os.getcwd(), os.environ['MKL_CBWR'], os.environ['TZ'])"
    output = nbformat.v4.new_output("stream", name="stdout", text=f"True COMPATIBLE UTC\n{difference}")
    cell = nbformat.v4.new_code_cell(code, execution_count=1, outputs=[output])
    kernel = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), tmp_path / "small.ipynb")
    assert REPRODUCE["run"](REPRODUCE["POINTS"]["plain"], [tmp_path / "small.ipynb"]) is not bool(difference)
