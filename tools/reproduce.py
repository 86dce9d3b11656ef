"""Execute the notebooks under other settings of the machine and compare each text output with the stored one.

    python tools/reproduce.py                           every point of the matrix, about ten minutes each
    python tools/reproduce.py --points plain rich       the two that differ in everything
    python tools/reproduce.py --chapters book/07_practical_implications.ipynb

Ends with 1 where an output differs by a character.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
INSTRUCTIONS = ("default", "avx2", "avx512")
LOCALES = ROOT / "_build/locales"


class Point(NamedTuple):
    """Settings of one run."""

    instructions: str  # the widest that torch may use, of what the processor has
    same_sums: bool  # whether MKL is to add in an order that is the same on every processor
    threads: int
    locale: str
    time_zone: str
    hash_seed: int
    elsewhere: bool  # whether the notebooks run in a copy of the project in another folder


# Each combination of instructions and threads, along which the rest varies; `plain` and `rich` differ in everything.
POINTS = {
    "plain": Point("default", True, 1, "C", "UTC", 0, True),
    "avx2-1": Point("avx2", False, 1, "de_DE.UTF-8", "Asia/Kathmandu", 3, True),
    "avx512-1": Point("avx512", True, 1, "C", "America/St_Johns", 17, False),
    "default-2": Point("default", False, 2, "de_DE.UTF-8", "UTC", 101, False),
    "avx2-2": Point("avx2", True, 2, "C", "Australia/Lord_Howe", 2024, True),
    "rich": Point("avx512", False, 2, "de_DE.UTF-8", "Pacific/Chatham", 4711, False),
}


def environment(point: Point) -> dict[str, str]:
    """The variables that make the point; torch gets no more instructions than the processor has."""
    highest = torch.backends.cpu.get_cpu_capability().lower()
    widest = min(point.instructions, highest, key=INSTRUCTIONS.index) if highest in INSTRUCTIONS else "default"
    variables = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"} | {
        "ATEN_CPU_CAPABILITY": widest,
        "OMP_NUM_THREADS": str(point.threads),
        "LC_ALL": point.locale,
        "TZ": point.time_zone,
        "PYTHONHASHSEED": str(point.hash_seed),
    }
    if point.same_sums:
        variables["MKL_CBWR"] = "COMPATIBLE"
    if (LOCALES / point.locale).is_dir():
        variables["LOCPATH"] = str(LOCALES)
    return variables


def check_locale(name: str) -> None:
    """Make the locale under _build where the system has none of that name; end with what to install where that fails."""
    known = [sys.executable, "-c", "import locale; locale.setlocale(locale.LC_ALL, '')"]
    if subprocess.run(known, env=os.environ | {"LC_ALL": name}, capture_output=True, check=False).returncode == 0:
        return
    language, characters = name.split(".")
    LOCALES.mkdir(parents=True, exist_ok=True)
    try:
        make = ["localedef", "--no-archive", "-i", language, "-f", characters, str(LOCALES / name)]
        subprocess.run(make, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"the locale {name} cannot be made ({error}); on Debian or Ubuntu: apt-get install locales")


def run(point: Point, chapters: list[Path]) -> bool:
    """Whether every output is the stored one."""
    with tempfile.TemporaryDirectory() as elsewhere:
        if point.elsewhere:  # a notebook always starts in its own folder
            copy = Path(elsewhere) / "a copy"
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "_build"))
            chapters = [copy / chapter.relative_to(ROOT) for chapter in chapters]
        command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-cell-timeout=1200", *map(str, chapters)]
        return subprocess.run(command, cwd=chapters[0].parent, env=environment(point), check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", choices=POINTS, default=list(POINTS), metavar="NAME")
    parser.add_argument("--chapters", nargs="+", type=Path, default=sorted((ROOT / "book").glob("*.ipynb")), metavar="FILE")
    arguments = parser.parse_args()
    if "ATEN_CPU_CAPABILITY" in os.environ:
        sys.exit("unset ATEN_CPU_CAPABILITY: it would limit every point")
    for name in {POINTS[point].locale for point in arguments.points} - {"C"}:
        check_locale(name)
    chapters = [chapter.resolve(strict=True) for chapter in arguments.chapters]
    same = {}
    for name in arguments.points:
        print(f"\n{name}: {POINTS[name]}", flush=True)
        same[name] = run(POINTS[name], chapters)
    print("\n" + "\n".join(f"{'same   ' if equal else 'DIFFERS'} {name}" for name, equal in same.items()))
    return int(not all(same.values()))


if __name__ == "__main__":
    sys.exit(main())
