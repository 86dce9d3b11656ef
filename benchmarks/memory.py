"""Peak memory of one call in a fresh process, beyond its input.

    python benchmarks/memory.py engine 20000 2000 400000        prints {"beyond_input": bytes}

The kernel's own mark is read, so that every library counts. The mark is reset once the input lies there, the code is loaded
and what building the input left behind is given back to the system: a call cannot reuse memory that would not be counted.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path


def status(name: str) -> int | None:
    """Bytes in a field of /proc/self/status; None on systems that have none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def reset_peak() -> bool:
    """Give free memory back and set the peak to what is used now; False where the kernel cannot."""
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
        if trim:
            trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, TypeError):
        return False
    return True


def fresh(script: str, *arguments: object) -> dict:
    """What a script of this folder prints, run in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    from contenders import CONTENDERS, make_problem

    contender, sizes = CONTENDERS[sys.argv[1]], map(int, sys.argv[2:])
    problem = make_problem(*sizes)
    contender(make_problem(50, 20, 100))
    before = status("VmRSS") if reset_peak() else None
    result = contender(problem)
    assert result.shape == (len(problem.x),)
    print(json.dumps({"beyond_input": before and status("VmHWM") - before}))


if __name__ == "__main__":
    main()
