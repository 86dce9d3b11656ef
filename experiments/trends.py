"""Train RegNet on every data set and on rewired copies of its graph, and record what chapters 7, 12 and 13 decide on.

    python experiments/trends.py                     everything; under three hours on two cores
    python experiments/trends.py --data mdc-string   one data set: its verdicts are printed, no result is written

Writes book/results/trends.json (provenance, and for every data set the trends of every layer, their contrasts and scores)
and book/results/weights.npz (the weights of the layers trained on counts). What is done is kept under _build/trends, by
version of the files that a training runs through: a run that was stopped goes on where it stopped. Commit first: the result
names its commit. float32, one thread a training. Stacking seeds with torch.func saves nothing here, as two thirds of an
epoch are dense products that already run at the processor's full rate; processes side by side do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one training a process

import numpy as np
import torch
from rich.progress import track
from scipy import stats
from torch_geometric.data import Data

import regnet
from regnet.graph import rewire
from regnet.intervals import Contrast, contrast, decide, effective_clusters, resample_regulators
from regnet.training import data_settings, split_edges
from regnet.trends import TRENDS, untrained_weights

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "book/results"
COUNTS = ("pbmc68k", "celltypist-trrust")
NETWORKS = [
    *("mesc-lofgof", "mesc-string", "mesc-non-specific", "mesc-specific"),
    *("mdc-string", "mdc-non-specific", "mdc-specific"),
    *("hhep-string", "hhep-non-specific", "hhep-specific"),
]
# Written down before the first training: smaller differences of a rank correlation, and of medians, count as none.
BOUNDS = {"in-degree": 0.10, "expression": 0.10, "TFs minus other genes": 0.03}
GRAPHS, LAYERS_EACH, RESAMPLES = 10, 40, 300  # of the untrained population; of regulators
ABLATIONS = ("all edges supervised", "standardised")


def seeds_of(name: str) -> int:
    return 30 if name in COUNTS else 10


@cache
def load(name: str) -> Data:
    return regnet.load_dataset(name, dtype=torch.float32)


@cache
def mean_expression(name: str) -> np.ndarray:
    return load(name).x.double().mean(dim=1).numpy()


def cell(name: str, condition: str, seed: int) -> tuple[dict, dict[str, np.ndarray]]:
    """One training: a record, and the weight and in-degree of every gene."""
    torch.set_num_threads(1)
    data, start = load(name).clone(), time.perf_counter()
    if condition == "rewired":
        data.edge_index = rewire(data.edge_index, seed)
    if condition == "standardised":
        data.x = (data.x - data.x.mean(dim=1, keepdim=True)) / data.x.std(dim=1, keepdim=True).clamp(min=1e-6)
    trained = regnet.pretrain(data, seed=seed, **({"disjoint_train_ratio": 0.0} if condition == ABLATIONS[0] else {}))
    table = regnet.shrinkage_table(trained.model.graphsage.layers[0].agg, data, trained.edge_index)
    arrays = {"w_eff": table["w_eff"].to_numpy(np.float32), "in_degree": table["in_degree"].to_numpy(np.int32)}
    record = {"data": name, "condition": condition, "seed": seed, "metrics": trained.metrics}
    record |= {"losses": trained.history["loss"][:3], "median": float(table["w_eff"].median())}
    record["trends"] = trends_of(name, **arrays)
    return record | {"seconds": time.perf_counter() - start}, arrays


def untrained(name: str, graph: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Untrained layers on the training graph of one seed: their trends, and the weights of a tenth of them."""
    torch.set_num_threads(1)
    data, start = load(name), time.perf_counter()
    edges = split_edges(data.edge_index, len(data.x), graph).train_edges
    layer = regnet.RegNet(data.x.size(1)).graphsage.layers[0].agg
    weights = untrained_weights(layer, data.x, edges, LAYERS_EACH, seed=graph).numpy()
    degree = regnet.in_degree(edges, len(data.x)).numpy().astype(np.int32)
    record = {"trends": [trends_of(name, row, degree) for row in weights], "seconds": time.perf_counter() - start}
    return record, {"w_eff": weights[:: LAYERS_EACH // 4], "in_degree": degree}


def trends_of(name: str, w_eff: np.ndarray, in_degree: np.ndarray, genes: np.ndarray | slice = slice(None)) -> list[float]:
    """The values of :func:`regnet.trends.trends`, for any choice of genes, without its tables."""
    data = load(name)
    columns = np.stack([w_eff, in_degree, mean_expression(name), data.is_tf.numpy()])[:, genes]
    columns = columns[:, ~np.isnan(columns[0])]
    weight, is_tf = columns[0], columns[3] > 0
    r = np.corrcoef(stats.rankdata(columns[:3], axis=1))

    def given(ab: float, ac: float, bc: float) -> float:
        return float((ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2)))

    difference = np.median(weight[is_tf]) - np.median(weight[~is_tf]) if is_tf.any() and not is_tf.all() else np.nan
    return [
        float(r[0, 1]),
        given(r[0, 1], r[0, 2], r[1, 2]),
        float(r[0, 2]),
        given(r[0, 2], r[0, 1], r[1, 2]),
        float(difference),
    ]


def finished(scratch: Path, name: str, condition: str, seed: int) -> dict:
    """One training or one population, or what an earlier run left of it."""
    record_file = scratch / name / f"{condition}-{seed}.json"
    if not record_file.is_file():
        record, arrays = untrained(name, seed) if condition == "untrained" else cell(name, condition, seed)
        record_file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(record_file.with_suffix(".npz"), **arrays)
        store(record_file, record)
    return json.loads(record_file.read_text(encoding="utf-8"))


def summarise(scratch: Path, name: str, num_seeds: int) -> dict:
    """Everything that the chapters say of one data set."""
    torch.set_num_threads(1)
    data, result = load(name), {"data": name, "seeds": num_seeds}
    edges = set(map(tuple, data.edge_index.T.tolist()))
    result |= {"genes": len(data.x), "cells": data.x.size(1), "edges": len(edges), "tfs": int(data.is_tf.sum())}
    result["regulators"] = len(data.edge_index[0].unique())
    result["sha256"] = {part: digest for part, digest in data_settings(data, 0).items() if part in ("expression", "edges")}
    result["edges_with_reverse"] = sum((target, source) in edges for source, target in edges)
    seeds = {"trained": range(num_seeds), "rewired": range(num_seeds), "untrained": range(GRAPHS)}
    records = {what: [finished(scratch, name, what, seed) for seed in those] for what, those in seeds.items()}
    values = {what: np.array([record["trends"] for record in records[what]]) for what in ("trained", "rewired")}
    values["untrained"] = np.concatenate([record["trends"] for record in records["untrained"]])
    result["per_layer"] = {what: dict(zip(TRENDS, rows.T.tolist(), strict=True)) for what, rows in values.items()}
    result["median"] = {what: [record["median"] for record in records[what]] for what in ("trained", "rewired")}
    kinds = ("auprc", "auprc_degree", "auprc_structure", "auprc_correlation", "positives", "best_epoch", "epochs")
    for what in ("trained", "rewired"):
        result[f"scores_{what}"] = {kind: [record["metrics"][kind] for record in records[what]] for kind in kinds}
    result["seconds"] = sum(record["seconds"] for part in records.values() for record in part)
    layers: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for what, those in seeds.items():
        stored = [np.load(scratch / name / f"{what}-{seed}.npz") for seed in those]
        layers[what] = [(w, each["in_degree"]) for each in stored for w in np.atleast_2d(each["w_eff"])]
    rng, draws = np.random.default_rng(0), {what: [] for what in layers}
    for _ in range(RESAMPLES):
        genes = resample_regulators(data.edge_index.numpy(), rng)
        for what, those in layers.items():
            draws[what].append(np.mean([trends_of(name, *layer, genes) for layer in those], axis=0))
    result["clusters"] = effective_clusters(data.edge_index.numpy())
    halves = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}
    for part, rows in halves.items():
        chosen = {what: all_rows[rows] for what, all_rows in values.items()}
        result.setdefault("contrasts", {})[part] = contrasts(chosen)
    result["contrasts"]["all, other genes"] = contrasts(values, draws, result["clusters"])
    return result


def contrasts(values: dict[str, np.ndarray], draws: dict[str, list[np.ndarray]] | None = None, clusters: float = 0) -> dict:
    """Is a trend there, learned, specific to the regulators? Each as estimate, standard error and degrees of freedom; trends
    that are undefined for a layer are left out.

    Over trainings alone the answer is about these genes; with draws of the genes of resampled regulators, about genes like
    them.
    """
    result: dict[str, dict] = {}
    for question, control in {"there": None, "learned": "untrained", "specific": "rewired"}.items():
        result[question] = {}
        for column, trend in enumerate(TRENDS):
            layers = [values[what][:, column] for what in ("trained", control) if what]
            if np.isnan(np.concatenate(layers)).any():  # as the difference of medians where no regulator has a weight
                continue
            over_genes = None
            if draws is not None:
                drawn = [np.array(draws[what])[:, column] for what in ("trained", control) if what]
                over_genes = drawn[0] - drawn[1] if control else drawn[0]
            result[question][trend] = contrast(layers, over_genes, clusters)._asdict()
    return result


def verdicts(result: dict, part: str = "all") -> dict:
    """The table of :func:`regnet.intervals.decide` for each of the three questions."""
    return {
        question: decide({trend: Contrast(**of[trend]) for trend in BOUNDS if trend in of}, BOUNDS)
        for question, of in result["contrasts"][part].items()
    }


def store(file: Path, record: object) -> None:
    """All of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".writing")
    unfinished.write_text(json.dumps(record) + "\n", encoding="utf-8")
    unfinished.replace(file)


def require_commit() -> None:
    """Ends the run where the result could not name its commit."""
    if changed := git("status", "--porcelain", "--", "regnet", "experiments"):
        sys.exit(f"commit these first, so that the result can name its commit:\n{changed}")


def kept_under(name: str, *files: Path) -> Path:
    """Where finished cells are kept, by version of the package and of some files."""
    files = (*files, *sorted((ROOT / "regnet").glob("*.py")))
    return ROOT / "_build" / name / hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def provenance(command: str, *more: str) -> dict:
    """The commit and the versions, also of more packages."""
    packages = ("torch", "torch-geometric", "numpy", "scipy", "scikit-learn", "celltypist", "scanpy", *more)
    return {
        "commit": git("rev-parse", "HEAD"),
        "command": command,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def cost(done: list[dict]) -> dict:
    """The number of trainings, and what they took."""
    return {
        "trainings": sum("metrics" in record for record in done),
        "core_minutes": sum(record["seconds"] for record in done) / 60,
    }


def git(*command: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True).stdout.strip()


def rounded(value: object) -> object:
    """Five significant digits, which is more than the book prints."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=regnet.dataset_names(), metavar="NAME", help="of `regnet datasets`")
    parser.add_argument("--seeds", type=int, help="trainings of each kind; else 30 for counts, 10 for others")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if arguments.seeds is not None and arguments.seeds < 4:
        parser.error("--seeds must be at least 4: two in each half")
    whole = arguments.data is None
    if whole:
        require_commit()
    names = arguments.data or [*COUNTS, *NETWORKS]
    num_seeds = {name: arguments.seeds or seeds_of(name) for name in names}
    scratch = kept_under("trends")
    jobs = [(name, "untrained", graph) for name in names for graph in range(GRAPHS)]
    jobs += [
        (name, what, seed)
        for seed in range(max(num_seeds.values()))  # what is done when it stops is as much of every data set
        for name in names
        for what in ("trained", "rewired")
        if seed < num_seeds[name]
    ]
    ablations = [(name, what, 0) for name in names for what in ABLATIONS] if whole else []
    with ProcessPoolExecutor(arguments.processes) as pool:
        running = [pool.submit(finished, scratch, *job) for job in jobs + ablations]
        done = [future.result() for future in track(running, description="trainings")]
        summaries = list(pool.map(summarise, [scratch] * len(names), names, num_seeds.values()))
    for summary in summaries:
        for question, table in verdicts(summary).items():
            print(f"\n{summary['data']}: {question}, on these genes\n{table.round(3).to_string()}")
    if not whole:
        return 0
    ablated = [record for record in done if record.get("condition") in ABLATIONS]
    result = {
        "provenance": provenance("python experiments/trends.py") | cost(done),
        "bounds": BOUNDS,
        "data": summaries,
        "first_losses": {name: finished(scratch, name, "trained", 0)["losses"] for name in names},
        "ablations": [
            {key: record[key] for key in ("data", "condition", "seed")} | {"auprc": record["metrics"]["auprc"]}
            for record in ablated
        ],
    }
    weights = {
        name: np.stack([np.load(scratch / name / f"trained-{seed}.npz")["w_eff"] for seed in range(num_seeds[name])])
        for name in COUNTS
    }
    np.savez_compressed(RESULTS / "weights.npz", **weights)
    store(RESULTS / "trends.json", rounded(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
