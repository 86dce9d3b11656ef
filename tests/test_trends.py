"""The trends of the weight, and the untrained layers that they are compared with."""

from __future__ import annotations

import runpy
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
from examples import close, layers
from scipy import stats
from torch import nn
from torch.nn.utils import parametrizations
from torch_geometric.data import Data
from torch_geometric.nn import GATv2Conv

from regnet import effective_weight_on_graph
from regnet.report import Weights, summary, weigh
from regnet.trends import TRENDS, compare_trends, trends, untrained_weights


@pytest.fixture
def table():
    draw = np.random.default_rng(0)
    genes = {"in_degree": draw.integers(1, 9, 60), "mean_expression": draw.random(60), "is_tf": draw.random(60) < 0.3}
    return pd.DataFrame(genes | {"w_eff": np.where(np.arange(60) < 5, np.nan, draw.random(60)), "S_x": 1.0})


def test_the_trends_are_rank_correlations_and_correlations_of_residuals(table):
    """By scipy and by regressions; the sweep, which has its own without tables, finds the same."""
    found = trends(table)
    used = table.dropna()
    ranks = used[["w_eff", "in_degree", "mean_expression"]].rank()
    residuals = {name: ranks[name] - np.polyval(np.polyfit(ranks[given], ranks[name], 1), ranks[given])
                 for name, given in (("in_degree", "mean_expression"), ("mean_expression", "in_degree"))}  # fmt: skip
    for name, column in (("in-degree", "in_degree"), ("expression", "mean_expression")):
        assert found[name] == pytest.approx(stats.spearmanr(used["w_eff"], used[column]).statistic, rel=1e-10)
        (given,) = {"in_degree", "mean_expression"} - {column}
        of_w = ranks["w_eff"] - np.polyval(np.polyfit(ranks[given], ranks["w_eff"], 1), ranks[given])
        (partial,) = (value for trend, value in found.items() if trend.startswith(f"{name}, given"))
        assert partial == pytest.approx(np.corrcoef(of_w, residuals[column])[0, 1], rel=1e-10)
    weight = used.groupby("is_tf")["w_eff"].median()
    assert found["TFs minus other genes"] == pytest.approx(weight[True] - weight[False], rel=1e-12)
    sweep = runpy.run_path(str(Path(__file__).parents[1] / "experiments/trends.py"))["trends_of"]
    x = torch.from_numpy(table["mean_expression"].to_numpy())[:, None]
    data = Data(x=x, is_tf=torch.from_numpy(table["is_tf"].to_numpy()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sweep.__globals__, "load", lambda _: data)
        np.testing.assert_allclose(sweep("", table["w_eff"], table["in_degree"]), list(found.values()), rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "defined"),
    [
        ({"is_tf": False}, TRENDS[:4]),
        ({"in_degree": 3}, ("expression", "TFs minus other genes")),
        ({"w_eff": 0.5}, ("TFs minus other genes",)),
        ({"w_eff": np.nan}, ()),
        ({"w_eff": 0.5 + 1e-14 * np.random.default_rng(1).random(60)}, ("TFs minus other genes",)),
    ],
)
def test_a_trend_without_variation_is_undefined_without_a_warning(table, change, defined):
    table = table.assign(**change)
    assert tuple(name for name, value in trends(table).items() if not np.isnan(value)) == defined
    lines = summary(Weights(table, None, compare_trends(table, table["w_eff"].to_numpy()[None])), "all edges")[2:]
    assert [line.endswith("undefined") for line in lines] == [trend not in defined for trend in TRENDS]


def test_a_value_outside_the_range_of_the_untrained_is_beyond(table):
    up = table["in_degree"].rank(method="first").to_numpy() / 100
    for control, verdict in ((1 - up, "beyond"), (up, "within")):
        compared = compare_trends(table.assign(w_eff=up), np.stack([control, 1 - up]))
        value, low, high = compared.loc["in-degree"]
        assert -low == pytest.approx(value) and high == pytest.approx(value if control is up else -value)
        lines = summary(Weights(table, None, compared), "all edges")
        assert [line.split()[-1] for line in lines if "trend   in-degree  " in line] == [verdict]


@pytest.mark.parametrize("layer", layers(), ids=str)
@pytest.mark.parametrize("together", [1, 2, 100])
def test_untrained_weights_are_those_of_layers_made_anew(layer, together, normal, random_graph, monkeypatch):
    x, graph = normal(30, 4), random_graph(30, 60)
    state, before = torch.get_rng_state(), [parameter.clone() for parameter in layer.parameters()]
    size = 2 * len(next(layer.parameters())) * 34 * 8
    monkeypatch.setattr("regnet.trends._BYTES_AT_ONCE", together * size)
    found = untrained_weights(layer, x, graph, count=5, seed=3)
    close(untrained_weights(layer, da.from_array(x.numpy(), chunks=(30, 3)), graph, count=5, seed=3), found)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, layer.parameters(), before))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for weights in found:
            for module in layer.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            close(weights, effective_weight_on_graph(layer, x, graph))
    assert len(found.unique(dim=0)) == 5


class Shrink(nn.Module):
    """No ``reset_parameters``."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1).double())

    def forward(self, x, m):
        return self.w * x + m


@pytest.mark.parametrize(
    ("layer", "count", "words"),
    [
        (lambda x, m: x + m, 2, "function has no parameters"),
        (Shrink(), 2, "an untrained Shrink needs reset_parameters to draw w anew"),
        (parametrizations.weight_norm(nn.Linear(4, 1).double()), 2, "parametrizations.weight.original0"),
        (nn.Linear(4, 1).double(), 0, "count must be at least 1; got 0"),
    ],
)
def test_what_has_no_controls_is_refused(layer, count, words, normal, random_graph):
    with pytest.raises((TypeError, ValueError), match=words):
        untrained_weights(layer, normal(5, 2), random_graph(5, 4), count)


def test_a_convolution_has_controls_and_its_table_follows_its_flow(normal, random_graph):
    data = Data(x=normal(9, 4), edge_index=random_graph(9, 20))
    layer = GATv2Conv(4, 3, flow="target_to_source").double()
    weights = weigh(layer, data, controls=3)
    assert len(np.unique(weights.controls, axis=0)) == 3 and not weights.trends.isna().all(axis=None)
    same = weigh(layer, data, controls=3).controls
    np.testing.assert_array_equal(weights.controls, same)
    assert weights.table["in_degree"].tolist() == torch.bincount(data.edge_index[0], minlength=9).tolist()
    assert weights.table["w_eff"].isna().tolist() == (weights.table["in_degree"] == 0).tolist()


def test_the_controls_are_on_the_graph_of_the_table(tiny_data):
    layer, graph = nn.Linear(24, 3).double(), tiny_data.edge_index[:, :7]
    weights = weigh(layer, Data(x=tiny_data.x, edge_index=tiny_data.edge_index), graph, controls=4)
    assert np.array_equal(np.isnan(weights.controls), np.isnan(np.tile(weights.table["w_eff"], (4, 1))))
