"""Change the code in small ways and see whether the tests notice.

    python tools/check_mutants.py                     all mutants that mutmut makes of the modules named in pyproject.toml
    python tools/check_mutants.py --max-children 1    one at a time; by default, as many as there are cores
    python tools/check_mutants.py --faults            the errors in the table FAULTS instead

Prints a table and stores nothing outside _build. Ends with 1 where fewer than nine mutants in ten, or not every fault, are
noticed. A survivor is shown by `mutmut show NAME` in _build/mutants.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "_build/mutants"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
NOTICED = {"killed", "segfault", "suspicious"}  # suspicious: a status that pytest does not have, as after an abort

# A file of regnet/, what it holds once, what that becomes, and the test files that should notice. An error that got into a
# release belongs here.
FAULTS = (
    ("graph.py", "regulator, target = edge_index.cpu()", "target, regulator = edge_index.cpu()", "graph engine"),
    ("graph.py", "total / self.in_degree().clamp(min=1)", "total * self.in_degree().clamp(min=1).pow(-1.0)", "graph"),
    ("graph.py", ".mean(x.double()).to(x.dtype)", ".mean(x)", "graph"),
    ("bayes.py", "1 / (1 + noise / prior)", "1 / (1 + prior / noise)", "bayes"),
    ("shrinkage.py", "neighbor_sensitivity / self.self_", "self_sensitivity / self.neighbor_", "shrinkage"),
    ("shrinkage.py", "    delta = x - m\n", "    delta = (x - m).mean(dim=0).expand_as(x)\n", "shrinkage"),
    ("layers.py", "(z > 0).to(z.dtype)", "(z >= 0).to(z.dtype)", "layers shrinkage"),
    ("engine.py", "smallest[genes])", "smallest[: len(left)])", "engine"),
    ("convolution.py", 'getattr(layer, "flow", "") != "target_to_source"', "True", "engine blockwise"),
    ("convolution.py", "same_by_row(slopes, slope, lengths(slope))", "True", "convolutions"),
    ("engine.py", "largest = entries.amax() if entries.any() else", "largest =", "engine"),
    ("blockwise.py", "dense_blocks(x).astype(np.float64)", "dense_blocks(x)", "blockwise"),
    ("evaluation.py", "features = pair_features(split.train", "features = pair_features(split.test", "evaluation"),
    ("evaluation.py", "torch.arange(num_genes), edge_index[0].unique()", "(torch.arange(num_genes),) * 2", "evaluation"),
    ("training.py", "x, split.train_edges[:, messages]", "x, torch.cat([*vars(split).values()], 1)", "training"),
    ("training.py", "Pretrained(model, split.train_edges,", "Pretrained(model, split.test_edges,", "training"),
    ("training.py", "auprc > state", "auprc >= state", "training"),
)  # fmt: skip


def run(*command: str, capture: bool = True) -> subprocess.CompletedProcess[str]:
    """A Python module as a command in the copy."""
    command = (sys.executable, "-m", *command)
    return subprocess.run(command, cwd=WORK, env=ENVIRONMENT, capture_output=capture, text=True, check=False)


def copy() -> None:
    """What mutmut and the tests need, as it is now."""
    shutil.rmtree(WORK, ignore_errors=True)
    for part in ("regnet", "tests"):
        shutil.copytree(ROOT / part, WORK / part, ignore=shutil.ignore_patterns("__pycache__", "book"))
    shutil.copy(ROOT / "pyproject.toml", WORK)


def tests_fail(names: set[str]) -> bool:
    """Whether a test in one of the files fails."""
    done = run("pytest", "-qx", "-m", "not slow", *(f"tests/test_{name}.py" for name in sorted(names)))
    if done.returncode not in (0, 1):  # they did not run
        sys.exit(done.stdout + done.stderr)
    return done.returncode == 1


def plant_faults() -> bool:
    """Whether every fault makes a test fail."""
    copy()
    if tests_fail({name for *_, names in FAULTS for name in names.split()}):
        sys.exit("these tests fail on the code as it is: fix that first")
    missed = 0
    for file, was, becomes, names in FAULTS:
        path = WORK / "regnet" / file
        right = path.read_text(encoding="utf-8")
        if right.count(was) != 1:
            sys.exit(f"regnet/{file} must hold {was!r} once; change it in FAULTS")
        path.write_text(right.replace(was, becomes), encoding="utf-8")
        noticed = tests_fail(set(names.split()))
        path.write_text(right, encoding="utf-8")
        print(f"{'noticed' if noticed else 'MISSED '} regnet/{file}: {becomes.strip()}", flush=True)
        missed += not noticed
    return not missed


def mutate(max_children: int) -> bool:
    """Whether nine mutants in ten are noticed."""
    copy()
    run("mutmut", "run", "--max-children", str(max_children), capture=False)  # prints its progress
    outcomes = re.findall(r"^ *regnet\.(\w+)\.(\S+): (.+)$", run("mutmut", "results", "--all", "true").stdout, re.M)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    for module, name, outcome in outcomes:
        if outcome not in NOTICED:
            print(f"{outcome}: regnet.{module}.{name}")
    print(f"\n{'module':<12}{'mutants':>9}{'noticed':>9}{'timed out':>11}{'survived':>10}{'share':>8}")
    for module in [*(Path(path).stem for path in settings["only_mutate"]), "all"]:
        found = [outcome for name, _, outcome in outcomes if module in (name, "all")]
        noticed, late = sum(outcome in NOTICED for outcome in found), found.count("timeout")
        share = noticed / max(1, len(found))
        print(f"{module:<12}{len(found):>9}{noticed:>9}{late:>11}{len(found) - noticed - late:>10}{share:>8.1%}")
    return share >= 0.9  # of all, the last line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", action="store_true", help="plant the errors in the table FAULTS")
    parser.add_argument("--max-children", type=int, default=os.cpu_count() or 1, metavar="N", help="processes at a time")
    arguments = parser.parse_args()
    return int(not (plant_faults() if arguments.faults else mutate(arguments.max_children)))


if __name__ == "__main__":
    sys.exit(main())
