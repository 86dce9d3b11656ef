"""The stored result of the long sweep: where it comes from, and one cell of it run again."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

ROOT = Path(__file__).parents[1]
RESULT = json.loads((ROOT / "book/results/benchmark_networks.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sweep():
    spec = importlib.util.spec_from_file_location("benchmark_networks", ROOT / "experiments/benchmark_networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_result_says_where_it_comes_from(sweep):
    origin = RESULT["provenance"]
    assert re.fullmatch("[0-9a-f]{40}", origin["commit"])
    assert origin["recipes"] == sweep.RECIPES
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8").lower().splitlines()
    for name, version in origin["versions"].items():
        if name != "python":
            assert f"{name}=={version.split('+')[0]}" in locked
    registry = files("regnet").joinpath("registry.txt").read_text(encoding="utf-8")
    assert len(origin["sha256"]) == 2 + 2 * 7  # two expression files; edges and TFs of seven networks
    for file, digest in origin["sha256"].items():
        assert f"{file} sha256:{digest} " in registry


def test_every_training_is_there_once(sweep):
    found = sorted((t["recipe"], t["network"], t["seed"]) for t in RESULT["trainings"])
    assert found == sorted(
        (recipe, network, base + k)
        for recipe, base in sweep.RUNS
        for network in sweep.NETWORKS
        for k in range(sweep.NUM_SEEDS)
    )
    summaries = sorted((s["recipe"], s["network"], tuple(s["base_seeds"])) for s in RESULT["intervals"])
    assert summaries == sorted((recipe, network, bases) for recipe, bases in sweep.SUMMARIES for network in sweep.NETWORKS)


def test_the_middle_of_an_interval_is_the_mean_of_its_trainings(sweep):
    for summary in RESULT["intervals"]:
        seeds = [base + k for base in summary["base_seeds"] for k in range(sweep.NUM_SEEDS)]
        own = [
            t["trends"]
            for t in RESULT["trainings"]
            if (t["network"], t["recipe"]) == (summary["network"], summary["recipe"]) and t["seed"] in seeds
        ]
        assert len(own) == len(seeds)
        for trend, parts in summary["trends"].items():
            assert parts["trained"]["estimate"] == pytest.approx(
                np.mean([t["trained"][trend] for t in own]), rel=1e-4, abs=1e-6
            )
            differences = [t["trained"][trend] - t["rewired"][trend] for t in own]
            assert parts["minus_rewired"]["estimate"] == pytest.approx(np.mean(differences), rel=1e-4, abs=1e-6)


def close(found, stored, rel=1e-4):
    """Equal up to the digits that are stored and what 60 epochs make of another processor's last digit."""
    assert found.keys() == stored.keys()
    for key, value in stored.items():
        if isinstance(value, dict):
            close(found[key], value, rel)
        else:
            assert found[key] == pytest.approx(value, rel=rel, abs=1e-6), key


def test_one_cell_of_the_sweep_comes_out_again(sweep, real_file):
    real_file("mDC/specific/network.csv")
    (stored,) = (t for t in RESULT["trainings"] if (t["network"], t["seed"], t["recipe"]) == ("mdc-specific", 0, "full"))
    record, _ = sweep.run("mdc-specific", 0, "full")
    assert {record.pop(key) for key in ("network", "recipe")} == {stored.pop(key) for key in ("network", "recipe")}
    for metrics in ("metrics", "metrics_rewired"):
        assert record[metrics].pop("epochs") == sweep.RECIPES["full"]["max_epochs"]  # which the stored run does not name
    close(record, stored)


def test_a_network_is_described_again(sweep, real_file):
    real_file("mDC/specific/network.csv")
    (stored,) = (n for n in RESULT["networks"] if n["network"] == "mdc-specific")
    found = sweep.describe("mdc-specific")
    assert found.pop("network") == stored.pop("network")
    close(found, stored)


@pytest.fixture
def tables():
    """Weights without any trend, of 300 genes, three seeds and three conditions."""
    generator = np.random.default_rng(0)
    genes = {"in_degree": generator.integers(1, 30, 300), "mean_expression": generator.random(300)}
    genes["is_tf"] = generator.random(300) < 0.3

    def table():
        return pd.DataFrame(genes | {"w_eff": generator.random(300)})

    return [{condition: table() for condition in ("trained", "untrained", "rewired")} for _ in range(3)]


def test_intervals_cover_genes_and_seeds(sweep, tables):
    result = sweep.intervals(tables, resamples=300)
    for trend in sweep.TRENDS:
        measured = [sweep.trends(of_seed["trained"])[trend] for of_seed in tables]
        assert result[trend]["trained"]["estimate"] == pytest.approx(np.mean(measured), rel=1e-12)
        assert result[trend]["trained"]["low"] < np.mean(measured) < result[trend]["trained"]["high"]
        differences = [
            value - sweep.trends(of_seed["rewired"])[trend] for value, of_seed in zip(measured, tables, strict=True)
        ]
        assert result[trend]["minus_rewired"]["estimate"] == pytest.approx(np.mean(differences), rel=1e-12)
    # Independent weights: the mean of three correlations has the standard error sqrt(1 / 299 / 3) over genes alone.
    half_width = (result["expression"]["trained"]["high"] - result["expression"]["trained"]["low"]) / 2
    assert half_width > 1.96 * 0.8 * math.sqrt(1 / 299 / 3)


def test_an_interval_is_wider_where_the_seeds_differ(sweep, tables):
    for k, of_seed in enumerate(tables):  # a trend that falls, is absent, and rises
        of_seed["trained"]["w_eff"] += (k - 1) * of_seed["trained"]["mean_expression"]
    part = sweep.intervals(tables, resamples=100)["expression"]["trained"]
    measured = [sweep.trends(of_seed["trained"])["expression"] for of_seed in tables]
    over_seeds = stats.t.ppf(0.975, 2) * np.std(measured, ddof=1) / math.sqrt(3)
    assert (part["high"] - part["low"]) / 2 > 0.9 * over_seeds


def test_trends_are_those_of_scipy(sweep, tables):
    table = tables[0]["trained"]
    table.loc[:20, "w_eff"] = math.nan
    found, kept = sweep.trends(table), table.dropna()
    weight, expression = kept["w_eff"], kept["mean_expression"]
    assert found["in_degree"] == pytest.approx(stats.spearmanr(weight, kept["in_degree"]).statistic)
    assert found["expression"] == pytest.approx(stats.spearmanr(weight, expression).statistic)
    # A partial correlation is the correlation of the residuals of two regressions.
    ranks = kept[["w_eff", "in_degree", "mean_expression"]].rank()
    residuals = [ranks[c] - np.polyval(np.polyfit(ranks["mean_expression"], ranks[c], 1), ranks["mean_expression"])
                 for c in ("w_eff", "in_degree")]  # fmt: skip
    assert found["in_degree_given_expression"] == pytest.approx(np.corrcoef(*residuals)[0, 1])
    assert found["tf"] == pytest.approx(weight[kept["is_tf"]].median() - weight[~kept["is_tf"]].median())
