"""The stored result of `make mutants` is that of the modules as they are, and every survivor has its reason."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "book/results/mutants.json"
ALL = ("noticed", "hung", "survived")
CHECK_MUTANTS = runpy.run_path(str(ROOT / "tools/check_mutants.py"))


@pytest.fixture(scope="module")
def result():
    return json.loads(RESULT.read_text(encoding="utf-8"))


def test_nine_mutants_in_ten_were_noticed_in_committed_code(result):
    total, noticed = (sum(count[key] for count in result["mutants"].values() for key in keys) for keys in (ALL, ALL[:1]))
    assert list(result["mutants"]) == ["graph", "bayes", "shrinkage"]
    assert noticed >= 0.9 * total > 1000
    assert sum(count["survived"] for count in result["mutants"].values()) == len(result["survivors"])
    assert not result["changed_since"] and re.fullmatch("[0-9a-f]{40}", result["commit"])
    for module, digest in result["sha256"].items():
        assert digest == CHECK_MUTANTS["digest"](module), f"regnet/{module}.py has changed: run make mutants"


def test_every_survivor_has_a_reason_that_is_listed(result):
    reasons = tomllib.loads((ROOT / "tests/survivors.toml").read_text(encoding="utf-8"))["reason"]
    listed = {(group["module"], one["was"], one["becomes"]): group["why"] for group in reasons for one in group["mutants"]}
    found = {(one["module"], one["was"], one["becomes"]): one["reason"] for one in result["survivors"]}
    assert found == listed


def test_every_planted_fault_was_noticed_by_tests_that_are_there(result):
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py"))
    assert [fault["what"] for fault in result["faults"]] == [fault.what for fault in CHECK_MUTANTS["FAULTS"]]
    for fault in result["faults"]:
        assert fault["failing"], fault["what"]
        for name in fault["failing"]:
            assert f"def {name}(" in tests, "the test is gone: run make mutants"


@pytest.mark.parametrize("fault", CHECK_MUTANTS["FAULTS"], ids=lambda fault: fault.what)
def test_every_fault_can_still_be_planted(fault):
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.was) == 1
