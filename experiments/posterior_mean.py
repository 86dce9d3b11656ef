"""What does it cost to be Bayes? RegNet with the note's first layer and with posterior means of different weights.

Every cell is one training, as `regnet.pretrain` does it in float32, to the end, on the split of its seed, so that the rows
are paired: the note's aggregator, and a posterior mean with Bayes' weights of the counts behind the training graph, with
one constant (their mean; one half where there are no counts), with Bayes' weights permuted across genes, with 1 (the gene
alone), with the complement that section 6 of the note prints, with weights that are learned with the edges, and with one
constant as low as the complement is on average. Thirty seeds on both sets of real counts, five on every network, of which
no counts are known. The rows of the note's aggregator are those of `experiments/trends.py`.

    python experiments/posterior_mean.py               # everything, into book/results/posterior_mean.json
    python experiments/posterior_mean.py --seeds 5

Finished cells are kept in _build, so that a run that was stopped goes on. Chapter 15 reads the result.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from scipy import stats

import regnet
from regnet.training import split_edges

sys.path.insert(0, str(Path(__file__).resolve().parent))
from trends import COUNTS, NETWORKS, RESULTS, cost, kept_under, load, provenance, require_commit, rounded, store

ROWS = ("mlp", "counts", "constant", "permuted", "one", "complement", "learned", "low")
WITHOUT_COUNTS = ("mlp", "constant", "one", "learned")


def seeds_of(name: str) -> int:
    return 30 if name in COUNTS else 5


def rows_of(name: str) -> list[str]:
    return [row for row in ROWS if name in COUNTS or row in WITHOUT_COUNTS]


def weight_of(row: str, bayes: torch.Tensor | None, seed: int) -> torch.Tensor | float | str:
    """What `regnet.pretrain` takes; Bayes' weights are those of the training graph, NaN for genes without regulators."""
    if row in ("one", "learned"):
        return 1.0 if row == "one" else row
    if bayes is None:
        return 0.5
    known = bayes[~bayes.isnan()]
    if row == "permuted":
        known = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
    rows = {"counts": known, "permuted": known, "constant": known.mean(), "complement": 1 - known, "low": 1 - known.mean()}
    weight = torch.full_like(bayes, torch.nan)
    weight[~bayes.isnan()] = rows[row]
    return weight


def bayes_weights(name: str, seed: int) -> torch.Tensor:
    data = load(name)
    graph = split_edges(data.edge_index, len(data.x), seed).train_edges
    counts, per_count = regnet.recover_counts(data.x.double())
    return regnet.bayes_weight(counts, graph, per_count)


def cell(name: str, row: str, seed: int) -> dict:
    """One training: its scores, and how its effective weights, or those it learned, follow Bayes'."""
    torch.set_num_threads(1)
    data, start = load(name), time.perf_counter()
    bayes = bayes_weights(name, seed) if name in COUNTS else None
    layer = {} if row == "mlp" else {"aggregator": "posterior-mean", "weight": weight_of(row, bayes, seed)}
    trained = regnet.pretrain(data, seed=seed, **layer)
    agg = trained.model.graphsage.layers[0].agg
    w_eff = regnet.effective_weight_on_graph(agg, data.x, trained.edge_index).double()
    known = ~w_eff.isnan()
    record: dict = {"data": name, "row": row, "seed": seed, "metrics": trained.metrics}
    record["median"] = w_eff[known].median().item()
    if row != "mlp":
        record["error"] = (w_eff - agg.shrinkage.weight.double().expand_as(w_eff))[known].abs().max().item()
    if bayes is not None and row in ("mlp", "learned"):
        record["with_bayes"] = float(stats.spearmanr(w_eff[known & ~bayes.isnan()], bayes[known & ~bayes.isnan()])[0])
    if row == "learned":
        record["quartiles"] = w_eff[known].quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    return record | {"seconds": time.perf_counter() - start}


def finished(scratch: Path, name: str, row: str, seed: int) -> dict:
    """One training, or what an earlier run left of it."""
    file = scratch / name / f"{row}-{seed}.json"
    if not file.is_file():
        store(file, cell(name, row, seed))
    return json.loads(file.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="the most trainings of a row; else 30 for counts, 5 for others")
    parser.add_argument("--stored", action="store_true", help="train nothing: the seeds of which every row is done")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    require_commit()
    most = arguments.seeds or 30
    scratch = kept_under("posterior_mean", Path(__file__))
    jobs = [
        (name, row, seed)
        for name in (*COUNTS, *NETWORKS)
        for seed in range(min(most, seeds_of(name)))
        for row in rows_of(name)
        if row != "mlp"
    ]
    jobs.sort(key=lambda job: job[2] / seeds_of(job[0]))  # what is done when it stops is as large a part of every row
    if not arguments.stored:
        with ProcessPoolExecutor(arguments.processes) as pool:
            running = [pool.submit(finished, scratch, *job) for job in jobs]
            for future in track(running, description="trainings"):
                future.result()
    note = {
        summary["data"]: summary["scores_trained"] for summary in json.loads((RESULTS / "trends.json").read_text())["data"]
    }
    data, done = [], []
    for name in (*COUNTS, *NETWORKS):
        whole = [{row: scratch / name / f"{row}-{seed}.json" for row in rows_of(name)[1:]} for seed in range(seeds_of(name))]
        whole = list(takewhile(lambda files: all(file.is_file() for file in files.values()), whole))
        rows = {"mlp": {kind: note[name][kind][: len(whole)] for kind in ("auprc", "best_epoch")}}
        for row in rows_of(name)[1:]:
            records = [json.loads(files[row].read_text()) for files in whole]
            done += records
            rows[row] = {kind: [record["metrics"][kind] for record in records] for kind in ("auprc", "best_epoch")}
            for kind in ("median", "error", "with_bayes", "quartiles"):
                rows[row] |= {kind: [record[kind] for record in records]} if kind in records[0] else {}
        data.append({"data": name, "seeds": len(whole), "rows": rows})
    result = {"provenance": provenance("python experiments/posterior_mean.py") | cost(done), "data": data}
    store(RESULTS / "posterior_mean.json", rounded(result))
    for of in data:
        print(of["data"], {row: round(float(np.mean(scores["auprc"])), 3) for row, scores in of["rows"].items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
