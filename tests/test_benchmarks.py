"""The benchmarks run, and none is timed on a wrong answer."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmarks(monkeypatch):
    """The scripts' folder on the path, as Python puts it there for a script."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.slow
def test_a_quick_run_measures_every_line_and_prints_it(tmp_path):
    command = [sys.executable, "benchmarks/run.py", "--quick", "--out", str(tmp_path / "quick.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = json.loads((tmp_path / "quick.json").read_text(encoding="utf-8"))["lines"]
    assert len(lines) > 15
    for line in lines:
        assert line["what"] in done.stdout
        assert line["measured"] or line["says"], "what was not measured says why"
        assert not line["measured"] or 0 <= line["measured"]["low"] <= line["measured"]["high"] < math.inf
    assert done.returncode == any(line["reached"] is False for line in lines), done.stderr
    assert str(ROOT) not in json.dumps(lines)


@pytest.mark.parametrize("name", ["engine", "note", "note, sparse mean", "two JVPs"])
def test_no_wrong_answer_is_timed(benchmarks, monkeypatch, name):
    import contenders

    problem = contenders.make_problem(60, 30, 300)
    contenders.check_agreement(problem)
    right = contenders.CONTENDERS[name]
    monkeypatch.setitem(contenders.CONTENDERS, name, lambda problem: right(problem) + 0.02)
    with pytest.raises(AssertionError):
        contenders.check_agreement(problem)


def test_a_target_is_reached_by_the_median(benchmarks):
    from timing import Line

    assert Line("", "", [9, 11, 12], at_least=10).reached
    assert not Line("", "", [9, 9, 12], at_least=10).reached
    assert not Line("", "", [1.1, 1.4, 1.5], at_most=1.3).reached
    assert Line("", "", [], at_most=1.3).reached is False  # not measured is not reached
    assert Line("", "", [1.0]).reached is None
