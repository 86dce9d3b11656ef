"""The stored result of the long sweep: one cell of it run again, and its trends and intervals on data without any."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

ROOT = Path(__file__).parents[1]
SWEEP = runpy.run_path(str(ROOT / "experiments/benchmark_networks.py"))


def close(found, stored):
    """Equal up to the digits that are stored and what 60 epochs make of another processor's last digit."""
    assert found.keys() == stored.keys()
    for key, value in stored.items():
        if isinstance(value, dict):
            close(found[key], value)
        else:
            assert found[key] == (pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value), key


@pytest.mark.slow
def test_one_cell_of_the_stored_sweep_comes_out_again(real_file):
    real_file("mDC/specific/network.csv")
    result = json.loads((ROOT / "book/results/benchmark_networks.json").read_text(encoding="utf-8"))
    (stored,) = (t for t in result["trainings"] if (t["network"], t["seed"], t["recipe"]) == ("mdc-specific", 0, "full"))
    record, _ = SWEEP["run"]("mdc-specific", 0, "full")
    for metrics in ("metrics", "metrics_rewired"):
        assert record[metrics].pop("epochs") == SWEEP["RECIPES"]["full"]["max_epochs"]  # which the stored run does not name
    close(record, stored)
    (network,) = (network for network in result["networks"] if network["network"] == "mdc-specific")
    close(SWEEP["describe"]("mdc-specific"), network)


def test_trends_and_intervals_of_independent_weights():
    """The mean of three correlations has the standard error sqrt(1 / 299 / 3) over genes alone."""
    rng = np.random.default_rng(0)
    genes = {"in_degree": rng.integers(1, 30, 300), "mean_expression": rng.random(300), "is_tf": rng.random(300) < 0.3}
    tables = [
        {condition: pd.DataFrame(genes | {"w_eff": rng.random(300)}) for condition in ("trained", "untrained", "rewired")}
        for _ in range(3)
    ]
    found = SWEEP["trends"](table := tables[0]["trained"])
    assert found["in_degree"] == pytest.approx(stats.spearmanr(table["w_eff"], table["in_degree"]).statistic)
    # A partial correlation is the correlation of the residuals of two regressions.
    ranks = table[["w_eff", "in_degree", "mean_expression"]].rank()
    residuals = [ranks[name] - np.polyval(np.polyfit(ranks["mean_expression"], ranks[name], 1), ranks["mean_expression"])
                 for name in ("w_eff", "in_degree")]  # fmt: skip
    assert found["in_degree_given_expression"] == pytest.approx(np.corrcoef(*residuals)[0, 1])
    result = SWEEP["intervals"](tables, resamples=200)
    for trend in SWEEP["TRENDS"]:
        mean = np.mean([SWEEP["trends"](of_seed["trained"])[trend] for of_seed in tables])
        assert result[trend]["trained"]["estimate"] == pytest.approx(mean, rel=1e-12)
    width = result["expression"]["trained"]["high"] - result["expression"]["trained"]["low"]
    assert width / 2 > 1.96 * 0.8 * math.sqrt(1 / 299 / 3)
