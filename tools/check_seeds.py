"""Execute the chapters that draw random numbers with another base seed: their verdicts must not depend on it.

    python tools/check_seeds.py             base seed 1000
    python tools/check_seeds.py 2000

A chapter that draws has one line `BASE_SEED = 0`, from which its random numbers follow, and an assert for every verdict
that a number decides; where an assert fails, so does this. The trained network is stored, and the same for every base
seed. What is decided over trainings is decided by the sweep of experiments/trends.py, in either half of its seeds.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import jupytext
import yaml
from build_notebooks import BOOK, execute, sources
from nbclient.exceptions import CellExecutionError

LINE = re.compile(r"(?m)^(BASE_SEED\b[^=\n]*= )0\b")


def not_at_hand() -> set[str]:
    """The chapters whose data must be downloaded, unless REGNET_DATA_DIR says that they are there."""
    if os.environ.get("REGNET_DATA_DIR"):
        return set()
    excluded = yaml.safe_load((BOOK.parent / "_config.yml").read_text(encoding="utf-8"))["execute"]["exclude_patterns"]
    return {Path(pattern).stem for pattern in excluded}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_seed", nargs="?", type=int, default=1000)
    base_seed = parser.parse_args().base_seed
    absent, checked, failed = not_at_hand(), [], []
    for source in sources():
        text = source.read_text(encoding="utf-8")
        if not LINE.search(text):
            cells = jupytext.reads(text, fmt="myst").cells
            if any("BASE_SEED" in cell.source for cell in cells if cell.cell_type == "code"):
                sys.exit(f"{source.name} names BASE_SEED but has no line BASE_SEED = 0")
            continue
        if source.stem in absent:
            print(f"skipped {source.stem}: its data are not at hand; set REGNET_DATA_DIR", flush=True)
            continue
        checked.append(source.stem)
        try:
            execute(jupytext.reads(LINE.sub(rf"\g<1>{base_seed}", text), fmt="myst"))
        except CellExecutionError as error:
            failed.append(source.stem)
            print(error, file=sys.stderr)
        print(f"{'FAILED' if source.stem in failed else 'holds '} {source.stem} with base seed {base_seed}", flush=True)
    if not checked:
        sys.exit("no chapter has the line BASE_SEED = 0")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
