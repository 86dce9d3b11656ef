"""The benchmarks: every line of the table is there and well formed, and none is timed on a wrong answer."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import zarr

ROOT = Path(__file__).parents[1]
STORED = ROOT / "book/results/benchmarks.json"
TARGETS = [  # what, at least, at most
    ("the note's recipe over the engine", 10, None),
    ("the note's recipe over the engine", 3, None),
    ("the engine over its floor", None, 1.3),
    ("two JVPs over the engine", 6, None),
    ("peak memory beyond the input, in genes x 2*hidden values: engine", None, 4),
    ("blockwise peak memory, the large over the small", 0.83333, 1.2),
    ("blockwise peak memory, the whole process", None, 2),
    ("blockwise time per cell, the large over the small", 0.83333, 1.2),
    ("pretraining an epoch over a plain PyTorch loop", None, 1.3),
]
WITHOUT_TARGET = [
    "the note's recipe over the engine",
    *3 * ["the note's recipe with a sparse mean over the engine"],
    *3 * ["the engine over its floor"],
    *2 * ["two JVPs over the engine"],
    "peak memory beyond the input, in genes x 2*hidden values: note",
    "PyG's total_influence over the engine, per gene",
    "Captum's Saliency over the engine, per gene",
]


@pytest.fixture(scope="module")
def benchmarks():
    """The scripts' folder on the path, as Python puts it there for a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The result file of a quick run, and what it printed."""
    file = tmp_path_factory.mktemp("benchmarks") / "quick.json"
    command = [sys.executable, "benchmarks/run.py", "--quick", "--out", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(file.read_text(encoding="utf-8")), done


@pytest.fixture(scope="module")
def stored():
    return json.loads(STORED.read_text(encoding="utf-8"))


def well_formed(result):
    lines = result["lines"]
    with_target = [line for line in lines if line["reached"] is not None]
    assert sorted((line["what"], line["at_least"] or 0, line["at_most"] or 0) for line in with_target) == sorted(
        (what, at_least or 0, at_most or 0) for what, at_least, at_most in TARGETS
    )
    assert sorted(line["what"] for line in lines if line["reached"] is None) == sorted(WITHOUT_TARGET)
    for line in lines:
        assert line["measured"] or line["says"], "what was not measured says why"
        if line["measured"]:
            low, middle, high = (line["measured"][key] for key in ("low", "median", "high"))
            assert low <= middle <= high < math.inf
            assert [low, high] == [min(line["values"]), max(line["values"])]
    origin = result["provenance"]
    assert re.fullmatch("[0-9a-f]{40}", origin["commit"])
    assert origin["threads"] >= 1 and origin["processor"]
    text = json.dumps(result)
    assert socket.gethostname() not in text
    assert str(ROOT) not in text and str(Path.home()) not in text


def test_a_quick_run_has_every_line(quick):
    result, _ = quick
    well_formed(result)
    assert {"genes": 1000, "cells": 200, "edges": 20000, "dtype": "float32"}.items() <= result["timings"][-1].items()
    assert len(result["timings"]) == 3 + 4 + 4 + 4  # the engine's lines, its floor's, against genes, and against cells
    assert [entry["cells"] for entry in result["blockwise"]] == [500, 2500]
    assert result["machine"]["read_gb_per_s"] > 0 and result["machine"]["product_gflop_per_s"] > 0


def test_a_run_prints_its_table_and_fails_where_a_target_is_missed(quick):
    result, done = quick
    for line in result["lines"]:
        assert line["what"] in done.stdout
    assert done.returncode == any(line["reached"] is False for line in result["lines"])
    assert "neighbours" in done.stderr  # progress


def test_a_quick_run_cannot_become_the_books(benchmarks, monkeypatch, capsys):
    import run

    monkeypatch.setattr(sys, "argv", ["run.py", "--quick"])
    with pytest.raises(SystemExit):
        run.main()
    assert "--out" in capsys.readouterr().err


def test_the_stored_run_is_whole_and_of_committed_code(stored):
    """Whether a target was reached is for the chapter to say; a line that was not measured is no result."""
    well_formed(stored)
    assert all(line["values"] for line in stored["lines"])
    assert not stored["provenance"]["changed_since"]
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8").lower().splitlines()
    for name, version in stored["provenance"]["versions"].items():
        if name != "python":
            assert f"{name}=={version.split('+')[0]}" in locked


@pytest.mark.parametrize("name", ["engine", "note", "note, sparse mean", "two JVPs"])
def test_no_wrong_answer_is_timed(benchmarks, monkeypatch, name):
    import contenders

    problem = contenders.make_problem(60, 30, 300)
    contenders.check_agreement(problem)
    right = contenders.CONTENDERS[name]
    monkeypatch.setitem(contenders.CONTENDERS, name, lambda problem: right(problem) + 0.02)
    with pytest.raises(AssertionError):
        contenders.check_agreement(problem)


def test_the_floor_is_the_product_with_both_halves(benchmarks):
    import contenders

    problem = contenders.make_problem(6, 5, 9)
    x, first = problem.x, problem.layer.mlp[0].weight
    expected = torch.cat([x @ first[:, :5].T, x @ first[:, 5:].T], dim=1)
    torch.testing.assert_close(contenders.floor(problem)(), expected)


def test_a_target_is_reached_by_the_median(benchmarks):
    from timing import Line

    assert Line("", "", [9, 11, 12], at_least=10).reached
    assert not Line("", "", [9, 9, 12], at_least=10).reached
    assert not Line("", "", [1.1, 1.4, 1.5], at_most=1.3).reached
    assert not Line("", "", [0.7], at_least=1 / 1.2, at_most=1.2).reached
    assert Line("", "", [], at_most=1.3).reached is False  # not measured is not reached
    assert Line("", "", [1.0]).reached is None


def test_contenders_take_turns(benchmarks, monkeypatch):
    from timing import by_turns

    called = []
    calls = {name: lambda name=name: called.append(name) for name in "ab"}
    by_turns(calls, repeats=2, seconds=0)
    assert "".join(called) == "ab" + "ab" + "ab"  # to warm up, then once a repeat
    called.clear()
    monkeypatch.setattr("timeit.timeit", lambda call, number: call() or 1)  # every call takes a second
    assert by_turns(calls, repeats=1, seconds=3) == {"a": [1], "b": [1]}
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"  # there, and back, and there again


def test_missing_data_are_no_measurement(benchmarks, monkeypatch, tmp_path):
    import run

    monkeypatch.setenv("REGNET_DATA_DIR", str(tmp_path))
    bench = run.Bench(quick=False)
    bench.pretraining()
    (line,) = bench.lines
    assert line.reached is False and not line.values
    assert str(tmp_path) not in line.says  # goes into the book
    assert "REGNET_DATA_DIR" in line.says


def test_a_peak_counts_what_is_freed_again(benchmarks):
    from memory import reset_peak, status

    if not reset_peak():
        pytest.skip("this system keeps no peak that can be reset")
    before = status("VmRSS")
    del_me = torch.ones(25_000_000)
    del del_me
    assert 95e6 < status("VmHWM") - before < 130e6
    reset_peak()
    assert status("VmHWM") - before < 50e6


def test_a_matrix_on_disk_is_whole_or_not_there(benchmarks, tmp_path):
    from on_disk import write_matrix

    path = tmp_path / "folder/4x6.zarr"
    assert write_matrix(path, 4, 6, 2)
    matrix = zarr.open_array(path, mode="r")
    assert matrix.shape == (4, 6) and matrix.chunks == (4, 2) and matrix.dtype == "float32"
    assert not write_matrix(path, 4, 6, 2)  # kept
    assert write_matrix(path, 4, 8, 2)  # of another shape
    assert zarr.open_array(path, mode="r").shape == (4, 8)
    assert [entry.name for entry in path.parent.iterdir()] == ["4x6.zarr"]
