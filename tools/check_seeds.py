"""Execute the chapters that draw random numbers with another base seed: their verdicts must not depend on it.

    python tools/check_seeds.py             base seed 1000
    python tools/check_seeds.py 2000

A chapter has one line `BASE_SEED = 0`, from which all its random numbers follow, and an assert for every verdict that a
number decides; where an assert fails, so does this. Chapter 12 compares two base seeds itself, from its result file.
"""

from __future__ import annotations

import argparse
import sys

import jupytext
from build_notebooks import execute, sources
from nbclient.exceptions import CellExecutionError

LINE = "\nBASE_SEED = 0\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_seed", nargs="?", type=int, default=1000)
    base_seed = parser.parse_args().base_seed
    checked, failed = [], []
    for source in sources():
        text = source.read_text(encoding="utf-8")
        if LINE not in text:
            continue
        checked.append(source.stem)
        try:
            execute(jupytext.reads(text.replace(LINE, f"\nBASE_SEED = {base_seed}\n"), fmt="myst"))
        except CellExecutionError as error:
            failed.append(source.stem)
            print(error, file=sys.stderr)
        print(f"{'FAILED' if source.stem in failed else 'holds '} {source.stem} with base seed {base_seed}", flush=True)
    if not checked:
        sys.exit("no chapter has the line BASE_SEED = 0")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
