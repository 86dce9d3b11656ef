"""`make reproduce` varies what it says, and sees a difference of one character."""

from __future__ import annotations

import runpy
from pathlib import Path

import nbformat
import pytest
import torch

REPRODUCE = runpy.run_path(str(Path(__file__).parents[1] / "tools/reproduce.py"))
POINTS = REPRODUCE["POINTS"]


def test_the_matrix_has_every_value_and_two_points_that_differ_in_all():
    values = {name: {getattr(point, name) for point in POINTS.values()} for name in POINTS["plain"]._fields}
    assert values["instructions"] == {"default", "avx2", "avx512"} and values["threads"] == {1, 2}
    assert values["locale"] == {"C", "de_DE.UTF-8"} and values["same_sums"] == values["elsewhere"] == {False, True}
    assert len(values["time_zone"]) > 3 and len(values["hash_seed"]) == len(POINTS)
    assert {(point.instructions, point.threads) for point in POINTS.values()} == {
        (instructions, threads) for instructions in values["instructions"] for threads in values["threads"]
    }
    assert all(one != other for one, other in zip(POINTS["plain"], POINTS["rich"], strict=True))


@pytest.mark.parametrize(
    ("has", "asked", "takes"),
    [("AVX512", "avx2", "avx2"), ("AVX2", "avx512", "avx2"), ("DEFAULT", "avx2", "default"), ("SVE256", "avx2", "default")],
)
def test_no_more_is_asked_of_a_processor_than_it_has(has, asked, takes, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: has)
    assert REPRODUCE["available"](asked) == takes


SEES = """
import locale, os, time
locale.setlocale(locale.LC_ALL, "")
names = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "OMP_NUM_THREADS", "PYTHONHASHSEED")
print("a copy" in os.getcwd())
print(*(os.environ[name] for name in names), locale.str(0.5), time.tzname[0])
"""


@pytest.mark.parametrize("difference", ["", "x"])
def test_a_notebook_runs_at_the_point_and_one_character_makes_the_difference(difference, tmp_path, monkeypatch):
    """The expected line is written by hand; the German locale has a decimal comma."""
    point = POINTS["plain"]._replace(time_zone="Asia/Kathmandu", locale="de_DE.UTF-8")
    try:
        REPRODUCE["check_locale"](point.locale)
    except SystemExit as end:
        pytest.skip(str(end))
    if not Path("/usr/share/zoneinfo/Asia/Kathmandu").is_file():
        pytest.skip("the system has no time zones: install tzdata")
    monkeypatch.setitem(REPRODUCE["run"].__globals__, "ROOT", tmp_path)
    output = nbformat.v4.new_output("stream", name="stdout", text=f"True\ndefault COMPATIBLE 1 0 0,5 +0545{difference}\n")
    cell = nbformat.v4.new_code_cell(SEES.strip(), execution_count=1, outputs=[output])
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    nbformat.write(notebook, tmp_path / "small.ipynb")
    assert REPRODUCE["run"](point, [tmp_path / "small.ipynb"]) is not bool(difference)
