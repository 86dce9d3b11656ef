"""Train RegNet on every benchmark network and record what chapter 12 reports.

    python experiments/benchmark_networks.py            all networks, seeds and recipes; about an hour on two cores
    python experiments/benchmark_networks.py --networks mdc-specific      only train these, and write no result

Writes book/results/benchmark_networks.json: its provenance, one record for each training, and for every network and base
seed the trends with intervals. What is done is kept under _build/benchmark_networks, by version of the package and of this
script: a run that was stopped goes on where it stopped. Commit both first: the result names the commit it came from.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one training a process

import numpy as np
import pandas as pd
import pooch
import torch
from scipy import stats
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch_geometric.data import Data

import regnet
import regnet.data
from regnet.graph import rewire
from regnet.structure import pair_features
from regnet.training import PLAIN, split_edges, untrained

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "book/results/benchmark_networks.json"
NETWORKS = [
    *("mesc-lofgof", "mesc-string", "mesc-non-specific", "mesc-specific"),
    *("mdc-string", "mdc-non-specific", "mdc-specific"),
]
NUM_SEEDS = 5
# The training of this package, which starts from the structure, and the plain one, which starts from nothing.
RECIPES = {"full": {"max_epochs": 60}, "plain": {"max_epochs": 100, **PLAIN}}
RUNS = [("full", 0), ("full", 1000), ("plain", 0)]  # recipe and base seed
SUMMARIES = [("full", (0,)), ("full", (1000,)), ("full", (0, 1000)), ("plain", (0,))]  # recipe and base seeds, pooled
COLUMNS = ["w_eff", "in_degree", "mean_expression", "is_tf"]
TRENDS = ("in_degree", "in_degree_given_expression", "expression", "expression_given_in_degree", "tf")
CONDITIONS = ("trained", "untrained", "rewired")


def trends(table: pd.DataFrame) -> dict[str, float]:
    """Spearman correlations of the effective weight with the note's variables, and the difference of medians for TFs."""
    return dict(zip(TRENDS, _trends(table[COLUMNS].to_numpy(float).T), strict=True))


def _trends(columns: np.ndarray) -> list[float]:
    """The values of :func:`trends` from the rows weight, in-degree, mean expression, is_tf."""
    columns = columns[:, ~np.isnan(columns[0])]
    weight, is_tf = columns[0], columns[3] > 0
    r = np.corrcoef(stats.rankdata(columns[:3], axis=1))
    return [
        r[0, 1],
        _partial(r[0, 1], r[0, 2], r[1, 2]),
        r[0, 2],
        _partial(r[0, 2], r[0, 1], r[1, 2]),
        np.median(weight[is_tf]) - np.median(weight[~is_tf]),
    ]


def _partial(r_ab: float, r_ac: float, r_bc: float) -> float:
    return float((r_ab - r_ac * r_bc) / np.sqrt((1 - r_ac**2) * (1 - r_bc**2)))


def run(network: str, seed: int, recipe: str = "full") -> tuple[dict, dict[str, pd.DataFrame]]:
    """One training and its two controls: a record, and a table of genes for every condition."""
    data = regnet.load_dataset(network, dtype=torch.float64)
    trained = regnet.pretrain(data, seed=seed, **RECIPES[recipe])
    shuffled = data.clone()
    shuffled.edge_index = rewire(data.edge_index, seed)
    rewired = regnet.pretrain(shuffled, seed=seed, **RECIPES[recipe])
    tables = {
        "trained": table_of(trained.model, data, trained.edge_index),
        "untrained": table_of(untrained(data.x, seed), data, trained.edge_index),
        "rewired": table_of(rewired.model, data, rewired.edge_index),
    }
    weights = {condition: table["w_eff"].dropna() for condition, table in tables.items()}
    record = {
        "network": network,
        "seed": seed,
        "recipe": recipe,
        "metrics": trained.metrics,
        "metrics_rewired": rewired.metrics,
        "trends": {condition: trends(table) for condition, table in tables.items()},
        "median": {condition: float(weight.median()) for condition, weight in weights.items()},
        "genes": {condition: len(weight) for condition, weight in weights.items()},
    }
    return record, tables


def table_of(model: regnet.RegNet, data: Data, edge_index: Tensor) -> pd.DataFrame:
    return regnet.shrinkage_table(model.graphsage.layers[0].agg, data, edge_index)


def intervals(tables: list[dict[str, pd.DataFrame]], resamples: int = 1000) -> dict:
    """Means over seeds of every trend, and of its differences from the controls, with 95 % intervals over genes and seeds.

    The bootstrap over genes draws the same genes for all seeds and conditions. Networks and cells stay fixed.
    """
    rng = np.random.default_rng(0)
    num_genes = len(tables[0]["trained"])
    columns = [[of_seed[condition][COLUMNS].to_numpy(float).T for condition in CONDITIONS] for of_seed in tables]

    def contrasts(genes: np.ndarray) -> np.ndarray:
        measured = np.array(
            [[_trends(part[:, genes]) for part in of_seed] for of_seed in columns]
        )  # seeds x conditions x trends
        return np.concatenate([measured, measured[:, :1] - measured[:, 1:]], axis=1)

    measured = contrasts(np.arange(num_genes))
    draws = [contrasts(rng.integers(num_genes, size=num_genes)).mean(axis=0) for _ in range(resamples)]
    low, high = regnet.seed_gene_interval(measured, draws)
    estimate = measured.mean(axis=0)
    names = (*CONDITIONS, "minus_untrained", "minus_rewired")
    return {
        trend: {
            name: {
                "estimate": estimate[row, column],
                "low": low[row, column],
                "high": high[row, column],
            }
            for row, name in enumerate(names)
        }
        for column, trend in enumerate(TRENDS)
    }


def describe(network: str) -> dict:
    """Sizes of a network, and the mean test AUPRC of each structural feature alone."""
    torch.set_num_threads(1)
    data = regnet.load_dataset(network)
    num_genes = data.x.size(0)
    edges = set(zip(*data.edge_index.tolist(), strict=True))
    alone = []
    for seed in range(NUM_SEEDS):
        split = split_edges(data.edge_index, num_genes, seed)
        features = pair_features(split.train_edges, num_genes, torch.cat([split.test_edges, split.test_non_edges], dim=1))
        labels = torch.arange(len(features)) < split.test_edges.size(1)
        alone.append([average_precision_score(labels, feature) for feature in features.T])
    names = ("out_degree", "in_degree", "degree_product", "reverse_edge", "paths")
    return {
        "network": network,
        "genes": num_genes,
        "cells": data.x.size(1),
        "tfs": int(data.is_tf.sum()),
        "regulators": len(data.edge_index[0].unique()),
        "edges": len(edges),
        "edges_with_reverse": sum((target, source) in edges for source, target in edges),
        "auprc_alone": dict(zip(names, np.mean(alone, axis=0).tolist(), strict=True)),
    }


def git(*command: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True).stdout.strip()


def finished(scratch: Path, network: str, seed: int, recipe: str) -> dict:
    """Run one training, or read what an earlier run left of it."""
    torch.set_num_threads(1)
    folder = scratch / recipe / network
    record_file, tables_file = folder / f"{seed}.json", folder / f"{seed}.csv.gz"
    if not record_file.exists():
        record, tables = run(network, seed, recipe)
        folder.mkdir(parents=True, exist_ok=True)
        pd.concat(tables, names=["condition"]).to_csv(tables_file)
        unfinished = record_file.with_suffix(".writing")
        unfinished.write_text(json.dumps(record), encoding="utf-8")
        unfinished.replace(record_file)
    return json.loads(record_file.read_text(encoding="utf-8"))


def network_intervals(scratch: Path, network: str, recipe: str, base_seeds: tuple[int, ...]) -> dict:
    """:func:`intervals` of one network from the stored tables of its seeds."""
    tables = []
    for seed in (base_seed + k for base_seed in base_seeds for k in range(NUM_SEEDS)):
        table = pd.read_csv(scratch / recipe / network / f"{seed}.csv.gz")
        tables.append({condition: part.reset_index(drop=True) for condition, part in table.groupby("condition")})
    return {"network": network, "base_seeds": list(base_seeds), "recipe": recipe, "trends": intervals(tables)}


def provenance(networks: list[str]) -> dict:
    """Where the result comes from."""
    folders = {"mesc": "mESC", "mdc": "mDC"}
    files = set()
    for network in networks:
        cells, kind = network.split("-", 1)
        files |= {f"{folders[cells]}/{file}" for file in ("expression.csv.gz", f"{kind}/network.csv", f"{kind}/tfs.csv")}
    return {
        "commit": git("rev-parse", "HEAD"),
        "command": "python experiments/benchmark_networks.py",
        "seeds_each": NUM_SEEDS,
        "recipes": RECIPES,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "torch-geometric", "numpy", "scipy", "scikit-learn")},
        "sha256": {file: pooch.file_hash(str(regnet.data.fetch(file)), alg="sha256") for file in sorted(files)},
    }


def rounded(value: object) -> object:
    """Six significant digits, which is more than the book prints."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    changed = git("status", "--porcelain", "--", "regnet", "experiments")
    if changed:
        print(f"commit these first, so that the result can name its commit:\n{changed}", file=sys.stderr)
        return 1
    origin = provenance(arguments.networks)
    versions = [git("rev-parse", "--short", f"HEAD:{folder}") for folder in ("regnet", "experiments")]
    scratch = ROOT / "_build/benchmark_networks" / "-".join(versions)
    jobs = [
        (network, base_seed + k, recipe)
        for recipe, base_seed in RUNS
        for k in range(NUM_SEEDS)
        for network in arguments.networks
    ]
    with ProcessPoolExecutor(arguments.processes) as pool:
        running = [pool.submit(finished, scratch, *job) for job in jobs]
        for done, future in enumerate(as_completed(running), start=1):
            record = future.result()
            print(f"{done}/{len(jobs)} {record['network']} seed {record['seed']}, {record['recipe']}", flush=True)
        if arguments.networks != NETWORKS:
            print("trained, but nothing written: the result file holds all networks")
            return 0
        groups = [(scratch, network, recipe, bases) for recipe, bases in SUMMARIES for network in arguments.networks]
        networks = list(pool.map(describe, arguments.networks))
        summaries = list(pool.map(network_intervals, *zip(*groups, strict=True)))
    result = {
        "provenance": origin,
        "networks": networks,
        "trainings": [future.result() for future in running],
        "intervals": summaries,
    }
    RESULT.parent.mkdir(exist_ok=True)
    unfinished = RESULT.with_suffix(".writing")
    unfinished.write_text(json.dumps(rounded(result), indent=1) + "\n", encoding="utf-8")
    unfinished.replace(RESULT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
