"""Change the code in small ways and see whether the tests notice: mutants by mutmut, and faults planted by hand.

    python tools/check_mutants.py              a quarter of an hour; writes book/results/mutants.json
    python tools/check_mutants.py --faults     only the planted faults, two minutes; writes nothing

A mutant is one change of one expression in the three modules that hold the note's equations. Ends with 1 where fewer than
nine in ten are noticed, where one that is not noticed has no reason in tests/survivors.toml, or a planted fault slips by.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "_build/mutants"
RESULT = ROOT / "book/results/mutants.json"
REASONS = ROOT / "tests/survivors.toml"
MODULES = ("graph", "bayes", "shrinkage")
NOTICED = {"killed", "segfault", "suspicious"}
"""What mutmut says of a mutant that fails a test, or breaks down (suspicious: a status that pytest does not have, as after
an abort); one that seems to hang is counted apart."""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class Fault(NamedTuple):
    """An error that somebody could make, and the tests that should notice it."""

    what: str
    file: str
    was: str
    becomes: str
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        "the direction of the edges is swapped",
        "regnet/graph.py",
        "regulator, target = edge_index.long()",
        "target, regulator = edge_index.long()",
        ("tests/test_graph.py",),
    ),
    Fault(
        "the same in the engine",
        "regnet/graph.py",
        "regulator, target = edge_index.cpu().numpy()",
        "target, regulator = edge_index.cpu().numpy()",
        ("tests/test_engine.py",),
    ),
    Fault(
        "w and 1 - w are swapped in Eq. (1)",
        "regnet/bayes.py",
        "weight = 1 / (1 + noise / prior)",
        "weight = 1 / (1 + prior / noise)",
        ("tests/test_bayes.py",),
    ),
    Fault(
        "w and 1 - w are swapped in Eq. (4)",
        "regnet/shrinkage.py",
        "1 / (1 + self.neighbor_sensitivity / self.self_sensitivity)",
        "1 / (1 + self.self_sensitivity / self.neighbor_sensitivity)",
        ("tests/test_shrinkage.py",),
    ),
    Fault(
        "a unit at its kink counts as active",
        "regnet/layers.py",
        "else z > 0",
        "else z >= 0",
        ("tests/test_shrinkage.py", "tests/test_layers.py"),
    ),
    Fault(
        "the same in the engine",
        "regnet/layers.py",
        "else z.clamp_(min=0).sign_()",
        "else (z >= 0).to(z)",
        ("tests/test_engine.py",),
    ),
    Fault(
        "one delta for all genes, their mean",
        "regnet/shrinkage.py",
        "    delta = x - m\n",
        "    delta = (x - m).mean(dim=0).expand_as(x)\n",
        ("tests/test_shrinkage.py",),
    ),
    Fault(
        "test edges carry messages",
        "regnet/training.py",
        "out = self.model(self.x, self.split.train_edges[:, carrying],",
        "out = self.model(self.x, torch.cat([self.split.train_edges[:, carrying], self.split.test_edges], dim=1),",
        ("tests/test_training.py",),
    ),
    Fault(
        "test edges are in the graph that is returned",
        "regnet/training.py",
        "return Pretrained(model, split.train_edges, split, metrics)",
        "return Pretrained(model, torch.cat([split.train_edges, split.test_edges], dim=1), split, metrics)",
        ("tests/test_training.py",),
    ),
    Fault(
        "negatives are drawn from regulators without targets",
        "regnet/training.py",
        "for regulator in edge_index[0].unique():",
        "for regulator in torch.arange(num_genes):",
        ("tests/test_training.py",),
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", action="store_true", help="only the planted faults")
    only_faults = parser.parse_args().faults
    check_that_all_is_well()
    faults = [plant(fault) for fault in FAULTS]
    slipped = sum(not fault["failing"] for fault in faults)
    if only_faults:
        return int(bool(slipped))
    counts, survivors = mutate()
    unexplained = explain(survivors)
    total, survived = sum(sum(count.values()) for count in counts.values()), len(survivors)
    result = {
        "commit": git("rev-parse", "HEAD"),
        "changed_since": bool(git("status", "--porcelain", "--", "regnet", "tests")),
        "sha256": {module: digest(module) for module in MODULES},
        "mutants": counts,
        "survivors": survivors,
        "faults": faults,
    }
    unfinished = RESULT.with_suffix(".writing")
    unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(RESULT)
    print(f"{survived} of {total} mutants were not noticed; {unexplained} of them have no reason in {REASONS.name}")
    return int(bool(slipped or unexplained or survived > 0.1 * total))


def digest(module: str) -> str:
    return hashlib.sha256((ROOT / f"regnet/{module}.py").read_bytes()).hexdigest()


def check_that_all_is_well() -> None:
    """End where a fault cannot be planted, or a test fails on the code as it is: it would seem to notice every fault."""
    copy_to(WORK)
    for fault in FAULTS:
        if (WORK / fault.file).read_text(encoding="utf-8").count(fault.was) != 1:
            sys.exit(f"{fault.file} must hold {fault.was!r} once, for the fault to be planted there; change it in FAULTS")
    failing = run_tests(sorted({test for fault in FAULTS for test in fault.tests}))
    if failing:
        sys.exit(f"these tests fail on the code as it is: {', '.join(failing)}; mend that first")


def run_tests(tests: Iterable[str]) -> list[str]:
    """Names of the tests that fail on the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", *tests]
    done = subprocess.run(command, cwd=WORK, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # neither all passed nor some failed: they did not run
        sys.exit(done.stdout + done.stderr)
    return sorted({name.split("[")[0] for name in re.findall(r"^FAILED \S+?::(\S+)", done.stdout, re.M)})


def plant(fault: Fault) -> dict[str, Any]:
    """Run the tests on a copy with the fault; a record with the names of those that fail."""
    copy_to(WORK)
    file = WORK / fault.file
    file.write_text(file.read_text(encoding="utf-8").replace(fault.was, fault.becomes), encoding="utf-8")
    failing = run_tests(fault.tests)
    print(f"{'noticed' if failing else 'SLIPPED'}: {fault.what} ({len(failing)} tests)", flush=True)
    return {
        "what": fault.what,
        "file": fault.file,
        "was": fault.was.strip(),
        "becomes": fault.becomes.strip(),
        "failing": failing,
    }


def mutate() -> tuple[dict[str, dict[str, int]], list[dict[str, str]]]:
    """How many mutants of each module were noticed, hung and survived, and those that survived."""
    copy_to(WORK)
    subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", "1"], cwd=WORK, env=ENVIRONMENT, check=False)
    counts, survivors = {}, []
    outcomes = mutmut("results", "--all", "true")
    for module in MODULES:
        counts[module] = {"noticed": 0, "hung": 0, "survived": 0}
        for name, outcome in re.findall(rf"^ *(regnet\.{module}\.\S+): (.+)$", outcomes, re.M):
            if outcome in NOTICED or outcome == "timeout":
                counts[module]["hung" if outcome == "timeout" else "noticed"] += 1
                continue
            counts[module]["survived"] += 1
            difference = re.findall(r"^([-+])(?![-+]{2}) *(.*)$", mutmut("show", name), re.M)
            lines = {sign: " ".join(line for mark, line in difference if mark == sign) for sign in "-+"}
            function = re.sub(r"__mutmut_\d+$", "", name.removeprefix(f"regnet.{module}.")).removeprefix("x")
            function = function.removeprefix("_").replace("ǁ", ".").strip(".")
            survivors.append({"module": module, "function": function, "was": lines["-"], "becomes": lines["+"]})
    return counts, survivors


def explain(survivors: list[dict[str, str]]) -> int:
    """Add the reason to every survivor that has one; how many have none, which are printed."""
    reasons = {
        (group["module"], one["was"], one["becomes"]): group["why"]
        for group in tomllib.loads(REASONS.read_text(encoding="utf-8"))["reason"]
        for one in group["mutants"]
    }
    unexplained = 0
    for survivor in survivors:
        survivor["reason"] = reasons.get((survivor["module"], survivor["was"], survivor["becomes"]), "")
        if not survivor["reason"]:
            unexplained += 1
            print(
                f"no reason: {survivor['module']}.{survivor['function']}\n  - {survivor['was']}\n  + {survivor['becomes']}"
            )
    return unexplained


def copy_to(folder: Path) -> None:
    """What mutmut and the tests need, as it is now."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("regnet", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "book"))
    (folder / "book").mkdir()
    for file in ("pyproject.toml", "book/bad_input.md"):
        shutil.copy(ROOT / file, folder / file)


def mutmut(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *command], cwd=WORK, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return done.stdout


def git(*command: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
