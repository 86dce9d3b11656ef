"""Measure what appendix B reports, as ratios of contenders that run by turns in one process or each in fresh ones.

    python benchmarks/run.py            everything, about a quarter of an hour; writes book/results/benchmarks.json
    python benchmarks/run.py --quick --out FILE      a twentieth of every size, once: the numbers mean nothing

Prints the table and ends with 1 where a target was not reached, or not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from statistics import median

import torch
from contenders import CONTENDERS, HIDDEN, check_agreement, floor, make_problem
from memory import fresh
from neighbours import SAYS, neighbours
from on_disk import write_matrix
from pretraining import seconds_an_epoch, slowdown
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from timing import Line, by_turns, ratios
from torch_geometric.nn import GATv2Conv, GraphConv, TransformerConv

import regnet

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "_build/benchmarks"
EDGES_A_GENE = 20
GIB = 2**30


class Bench:
    """The sizes, and what has been measured so far."""

    def __init__(self, quick: bool) -> None:
        self.part = 20 if quick else 1
        self.repeats = 1 if quick else 5
        self.seconds = 0.01 if quick else 0.5
        self.lines: list[Line] = []
        self.raw: dict[str, object] = {}

    def of(self, *sizes: int) -> list[int]:
        return [size // self.part for size in sizes]

    def add(self, what: str, at: str, values: list[float], **how: object) -> None:
        self.lines.append(Line(what, at, values, **how))

    def engine(self) -> None:
        """The engine beside the other ways to its weights, then beside its floor, without their gigabytes in between."""
        self.raw["timings"] = []
        sizes = [
            self.of(20_000, 2_000, 400_000),
            self.of(1_120, 421, 22_400),
            self.of(1_120, 421, 4_169),  # as many edges as the network of that size has, mESC lofgof
        ]
        at = [f"{genes:,} x {cells:,}, {edges / genes:.3g} edges a gene" for genes, cells, edges in sizes]
        for size, where, slower, jvps in zip(sizes, at, (10, 3, None), (6, None, None), strict=True):
            times = self._timed(*size, tuple(CONTENDERS), self.repeats)
            over = {name: ratios(seconds, times["engine"]) for name, seconds in times.items()}
            self.add("the note's recipe over the engine", where, over["note"], at_least=slower)
            self.add("the note's recipe with a sparse mean over the engine", where, over["note, sparse mean"])
            self.add("two JVPs over the engine", where, over["two JVPs"], at_least=jvps)
        for size, where, above_floor in zip(sizes, at, (1.3, None, None), strict=True):
            times = self._timed(*size, ("engine",), self.repeats)
            self.add("the engine over its floor", where, ratios(times["engine"], times["floor"]), at_most=above_floor)
        times = self._timed(*sizes[0], ("engine",), self.repeats, torch.float64)
        self.add("the engine over its floor", f"{at[0]}, float64", ratios(times["engine"], times["floor"]))

    def growth(self) -> None:
        """Cost against genes and against cells."""
        for genes in self.of(2_500, 5_000, 10_000, 20_000):
            (cells,) = self.of(2_000)
            self._timed(genes, cells, EDGES_A_GENE * genes, ("engine", "note"), min(3, self.repeats))
        for cells in self.of(250, 500, 1_000, 4_000):
            (genes,) = self.of(20_000)
            self._timed(genes, cells, EDGES_A_GENE * genes, ("engine", "note"), min(3, self.repeats))

    def _timed(
        self, genes: int, cells: int, edges: int, names: tuple[str, ...], repeats: int, dtype: torch.dtype = torch.float32
    ) -> dict[str, list[float]]:
        problem = make_problem(genes, cells, edges, dtype)
        check_agreement(problem)
        calls: dict[str, Callable[[], object]] = {name: lambda name=name: CONTENDERS[name](problem) for name in names}
        times = by_turns(calls | {"floor": floor(problem)}, repeats, self.seconds)
        sizes = {"genes": genes, "cells": cells, "edges": edges, "dtype": str(dtype).removeprefix("torch.")}
        self.raw["timings"].append(sizes | {"seconds": times})
        return times

    def machine(self) -> None:
        """What memory and arithmetic give at most, to be held beside what the floor makes of them."""
        genes, cells = self.of(20_000, 2_000)
        x, square = torch.rand(genes, cells), torch.rand(cells, cells)
        copy = torch.empty_like(x)
        times = by_turns(
            {"read": x.sum, "copy": lambda: copy.copy_(x), "product": lambda: square @ square}, self.repeats, self.seconds
        )
        seconds = {name: median(measured) for name, measured in times.items()}
        self.raw["machine"] = {
            "read_gb_per_s": x.nbytes / seconds["read"] / 1e9,
            "copy_gb_per_s": 2 * x.nbytes / seconds["copy"] / 1e9,
            "product_gflop_per_s": 2 * cells**3 / seconds["product"] / 1e9,
            "floor_flop_per_value": 2 * 2 * HIDDEN,
            "seconds": times,
        }

    def memory(self) -> None:
        """Peak memory beyond the input, each time in a fresh process."""
        genes, cells, edges = self.of(20_000, 2_000, 400_000)
        self.raw["peak_bytes_beyond_input"] = {}
        for name, limit in (("engine", 4), ("note", None)):
            peaks = [fresh("memory.py", name, genes, cells, edges)["beyond_input"] for _ in range(self.repeats)]
            self.raw["peak_bytes_beyond_input"][name] = peaks
            values = [] if None in peaks else [peak / (4 * genes * 2 * HIDDEN) for peak in peaks]
            says = "" if values else "this system keeps no peak that can be reset"
            what = f"peak memory beyond the input, in genes x 2*hidden values: {name}"
            self.add(what, f"{genes:,} x {cells:,}", values, at_most=limit, says=says)

    def blockwise(self) -> None:
        """Two matrices on disk, one five times the other, each time in a fresh process."""
        genes, chunk = self.of(20_000, 500)
        sizes = self.of(10_000, 50_000)
        paths = [SCRATCH / f"{genes}x{cells}.zarr" for cells in sizes]
        made: list[Path] = []
        runs: list[list[dict]] = [[], []]
        try:
            for path, cells in zip(paths, sizes, strict=True):
                if write_matrix(path, genes, cells, chunk):
                    made.append(path)
            for _ in range(min(3, self.repeats)):
                for path, measured in zip(paths, runs, strict=True):
                    measured.append(fresh("on_disk.py", path))
        finally:
            for path in made:
                shutil.rmtree(path)
        self.raw["blockwise"] = [
            {"genes": genes, "cells": cells, "cells_a_chunk": chunk, "runs": measured}
            for cells, measured in zip(sizes, runs, strict=True)
        ]
        at = f"{genes:,} x {sizes[1]:,} and x {sizes[0]:,}"
        peaks = [[run["peak"] for run in measured] for measured in runs]
        known = None not in chain(*peaks)
        says = "" if known else "this system keeps no peak"
        self._same("blockwise peak memory, the large over the small", at, *(peaks if known else ([], [])), says)
        highest = [max(pair) / GIB for pair in zip(*peaks, strict=True)] if known else []
        self.add("blockwise peak memory, the whole process", at, highest, at_most=2, unit="GiB", says=says)
        a_cell = [[run["seconds"] / cells for run in measured] for cells, measured in zip(sizes, runs, strict=True)]
        self._same("blockwise time per cell, the large over the small", at, *a_cell)

    def _same(self, what: str, at: str, small: list[float], large: list[float], says: str = "") -> None:
        self.add(what, at, ratios(large, small), at_least=1 / 1.2, at_most=1.2, says=says)

    def pretraining(self) -> None:
        """Seconds an epoch; a twentieth of a network is none, so the embedded data stand in where it is quick."""
        name = "mesc-lofgof" if self.part == 1 else "pbmc68k"
        what, at = "pretraining an epoch over a plain PyTorch loop", name
        try:
            data = regnet.load_dataset(name)
        except OSError as error:  # whose message may name a folder of this machine
            self.raw["pretraining"] = None
            print(error, file=sys.stderr)
            says = "the data were not at hand: set REGNET_DATA_DIR, or let them be downloaded"
            self.add(what, at, [], at_most=1.3, says=says)
            return
        few, many = (5, 25) if self.part == 1 else (1, 11)  # of fewer, the difference may be noise
        measured = seconds_an_epoch(data, few, many, self.repeats)
        self.raw["pretraining"] = {"network": name, "epochs": [few, many], "seconds_an_epoch": measured}
        self.add(what, at, slowdown(measured), at_most=1.3)

    def neighbours(self) -> None:
        """What other libraries compute on the same layer, per gene."""
        genes, cells, edges = self.of(1_120, 421, 4_169)
        problem = make_problem(genes, cells, edges)
        treated = neighbours(problem, sampled_genes=min(100, genes))
        calls: dict[str, Callable[[], object]] = {name: call for name, (call, _) in treated.items()}
        times = by_turns({"engine": lambda: CONTENDERS["engine"](problem)} | calls, self.repeats, self.seconds)
        counts = {"engine": genes} | {name: count for name, (_, count) in treated.items()}
        a_gene = {name: [seconds / counts[name] for seconds in measured] for name, measured in times.items()}
        self.raw["neighbours"] = [{"name": name, "says": SAYS[name], "seconds_a_gene": a_gene[name]} for name in SAYS]
        for name, library in (("total_influence", "PyG's"), ("Saliency", "Captum's")):
            what = f"{library} {name} over the engine, per gene"
            self.add(what, f"{genes:,} x {cells:,}", ratios(a_gene[name], a_gene["engine"]), says=SAYS[name])

    def convolutions(self) -> None:
        """Other convolutions, by derivatives, beside passes in which every edge has a source of its own."""
        genes, cells = self.of(2_000, 2_000)
        edge_index = torch.randint(genes, (2, EDGES_A_GENE * genes), generator=torch.Generator().manual_seed(0))
        x, (source, target) = torch.rand(genes, cells), edge_index
        expanded = torch.stack([torch.arange(len(source)), target])
        for kind in (GraphConv, GATv2Conv, TransformerConv):
            conv = kind(cells, HIDDEN).eval().requires_grad_(False)
            calls = {
                "pass": lambda conv=conv: conv((x[source], x), expanded),
                "weights": lambda conv=conv: regnet.sensitivities_on_graph(conv, x, edge_index),
            }
            times = by_turns(calls, self.repeats, self.seconds)
            what = f"{kind.__name__}: its weights over a pass through it on the expanded graph"
            self.add(what, f"{genes:,} x {cells:,}", ratios(times["weights"], times["pass"]), at_most=4)

    STEPS = (engine, growth, machine, memory, blockwise, convolutions, pretraining, neighbours)


def git(*command: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True).stdout.strip()


def provenance() -> dict:
    """Where the result comes from."""
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name")]
    except OSError:
        models = []
    libraries = ("torch", "torch-geometric", "numpy", "scipy", "dask", "zarr", "captum")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git("rev-parse", "HEAD"),
        "changed_since": bool(git("status", "--porcelain", "--", "regnet", "benchmarks")),
        "command": "python benchmarks/run.py",
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in libraries},
    }


def record(line: Line) -> dict:
    entry = {key: value for key, value in vars(line).items() if key != "values"}
    summary = {"median": median(line.values), "low": min(line.values), "high": max(line.values)} if line.values else None
    return entry | {"measured": summary, "values": line.values, "reached": line.reached}


def table(lines: list[Line]) -> Table:
    result = Table("what", "at", "measured", "must reach", "reached")
    for line in lines:
        measured = "not measured"
        if line.values:
            measured = f"{median(line.values):.3g} ({min(line.values):.3g} to {max(line.values):.3g}) {line.unit}".strip()
        must = [f"at least {line.at_least:.3g}"] if line.at_least is not None else []
        must += [f"at most {line.at_most:.3g}"] if line.at_most is not None else []
        reached = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[line.reached]
        result.add_row(line.what, line.at, measured, ", ".join(must), reached)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of every size, once; needs --out")
    parser.add_argument("--out", type=Path, default=ROOT / "book/results/benchmarks.json")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out == parser.get_default("out"):
        parser.error("--quick measures nothing that the book may show; say where to write it with --out")
    bench, origin = Bench(arguments.quick), provenance()
    columns = SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(Bench.STEPS))
        for step in Bench.STEPS:
            progress.update(task, description=step.__name__)
            step(bench)
            progress.advance(task)
    result = {"provenance": origin, "lines": [record(line) for line in bench.lines]} | bench.raw
    text = json.dumps(json.loads(json.dumps(result), parse_float=lambda digits: float(f"{float(digits):.5g}")), indent=1)
    unfinished = arguments.out.with_suffix(".writing")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(arguments.out)
    Console().print(table(bench.lines))
    for line in bench.lines:
        if line.says:
            Console().print(f"{line.what}: {line.says}", highlight=False)
    return int(any(line.reached is False for line in bench.lines))


if __name__ == "__main__":
    sys.exit(main())
