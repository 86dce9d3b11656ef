"""Rows of the page "Input that is wrong, and what happens" (book/E_bad_input.md) that concern no single module."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from examples import close, mlp, refused
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from regnet import (
    RegNet,
    effective_weight,
    effective_weight_on_graph,
    james_stein_weight,
    kink_distance,
    local_affine,
    neighbor_mean,
    noise_variance,
    posterior_mean,
    posterior_weight,
    prior_variance,
    secant_weight,
)
from regnet.checkpoint import load_layers
from regnet.graph import rewire

# Expression and edges in memory

LAYER = mlp()
PAIRS = [
    lambda x, m: posterior_mean(x, m, 0.5),
    lambda x, m: effective_weight(lambda x, m: x + m, x, m, "jvp"),
    lambda x, m: secant_weight(lambda x, m: x + m, x, m),
    lambda x, m: prior_variance(x, m, 1.0),
    noise_variance,
]


@pytest.mark.parametrize("function", PAIRS)
def test_what_are_no_two_matrices_of_one_shape_and_dtype_is_refused(function):
    x = torch.ones(2, 3)
    for dtype in (torch.float32, torch.float64):
        assert function(x.to(dtype), x.to(dtype)).shape[0] == 2
    for one, other in ((x, x[:, :2]), (x, x[:1]), (x[0], x[0]), (x[None], x[None]), (x, x.double())):
        refused(lambda one=one, other=other: function(one, other), "x", "m", "got", error=(TypeError, ValueError))
    for dtype in (torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64):
        refused(lambda dtype=dtype: function(x.to(dtype), x.to(dtype)), "float32 or float64", error=TypeError)
    for value in ([[1.0]], np.ones((1, 1)), pd.DataFrame([[1.0]]), 1.0, None, "x"):
        refused(lambda value=value: function(value, value), "float64; got", "torch.as_tensor", error=TypeError)


@pytest.mark.parametrize(
    ("x", "edges", "advice"),
    [
        (csr_matrix(np.eye(3)), None, "csr_matrix; convert it, e.g. torch.as_tensor(x.toarray(), dtype=torch.float32)"),
        (AnnData(np.eye(3)), None, "AnnData; convert it, e.g. torch.as_tensor(x.to_df().T.to_numpy(), dtype=torch.float32)"),
        (pd.DataFrame(np.eye(3)), None, "torch.as_tensor(x.to_numpy(), dtype=torch.float32)"),
        (None, csr_matrix(np.eye(3)), "torch_geometric.utils.from_scipy_sparse_matrix(edge_index)[0]"),
        (None, torch.eye(3).to_sparse(), "to_edge_index(edge_index)[0], with .flip(0) for an adj_t"),
        (None, torch.eye(2).long().to_sparse(), "sparse_coo; convert it, e.g. torch_geometric.utils.to_edge_index"),
        (None, type("SparseTensor", (), {})(), "SparseTensor; convert it, e.g. torch_geometric.utils.to_edge_index"),
        (None, pd.DataFrame([[0, 1]]), "torch.as_tensor(edge_index.to_numpy(), dtype=torch.long)"),
        (None, [[0], [1]], "torch.as_tensor(edge_index, dtype=torch.long)"),
    ],
)
def test_the_advice_on_other_kinds_of_matrices_works_for_them(x, edges, advice):
    x, edges = torch.eye(3) if x is None else x, torch.tensor([[0], [1]]) if edges is None else edges
    refused(lambda: effective_weight_on_graph(mlp(3), x, edges), advice, error=TypeError)


def test_two_devices_are_refused_by_name():
    layer, x, edges = mlp(2), torch.ones(3, 2).double(), torch.tensor([[0], [1]])
    elsewhere = x.to("meta")
    for function in PAIRS[:4]:
        refused(lambda function=function: function(x, elsewhere), "x on cpu and m on meta", "m.to(x.device)")
    for function in (effective_weight, kink_distance):
        refused(lambda function=function: function(layer, x, elsewhere), "x on cpu and m on meta")
    refused(lambda: local_affine(layer, x[0], elsewhere[0]), "x on cpu and m on meta")
    for graph in (lambda: neighbor_mean(x, edges.to("meta")), lambda: effective_weight_on_graph(layer, x, edges.to("meta"))):
        refused(graph, "x on cpu and edge_index on meta", "edge_index.to(x.device)")
    for method in ("exact", "jvp", "finite-difference"):
        refused(lambda method=method: effective_weight(mlp(2).to("meta"), x, -x, method), "x on cpu and the layer on meta")
    refused(lambda: secant_weight(mlp(2).to("meta"), x, -x), "x on cpu and the layer on meta")


@pytest.mark.parametrize(
    "call",
    [
        lambda x, m, edges: neighbor_mean(x, edges),
        lambda x, m, edges: rewire(edges),
        lambda x, m, edges: effective_weight_on_graph(LAYER, x, edges),
        lambda x, m, edges: posterior_weight(0.5, m.exp()),
        lambda x, m, edges: prior_variance(x, m, 0.2),
        lambda x, m, edges: prior_variance(x, m, m.exp()),
    ],
)
def test_a_default_device_other_than_that_of_the_data_changes_nothing(call, normal, random_graph):
    data = normal(9, 4), normal(9, 4), random_graph(9, 30)
    expected = call(*data)
    with torch.device("meta"):  # the default for new tensors, as a graphics card may be
        got = call(*data)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def test_no_gene_gives_no_weight(normal):
    x = normal(0, 4)
    assert effective_weight(mlp(), x, x).shape == secant_weight(mlp(), x, x).shape == (0,)
    assert posterior_mean(x, x, 0.5).shape == (0, 4) and prior_variance(x, x, 1.0).shape == (0,)
    refused(lambda: effective_weight_on_graph(mlp(), x, torch.tensor([[0], [0]])), "there are 0 genes")


def test_no_cell_is_refused_where_a_number_would_follow(normal):
    x = normal(3, 0)
    refused(lambda: prior_variance(x, x, 1.0), "at least one cell")
    refused(lambda: noise_variance(x, x), "at least one cell")
    refused(lambda: effective_weight(mlp(), x, x), "takes 4 features", "got 0")
    assert posterior_mean(x, x, 0.5).shape == (3, 0)


def test_one_cell_has_a_weight_but_no_james_stein():
    x, m = torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [1.0]])
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[0.25, 0.75]])
    weight = effective_weight(layer, x, m)
    assert weight[0] == 0.25 and weight[1].isnan()
    assert prior_variance(x, m, 1.0).tolist() == [3, 0], "(x - m)^2 less the noise"
    refused(lambda: james_stein_weight(x, m, 1.0), "more than 2 + fitted columns", "got 0 and 1")


@pytest.mark.parametrize(
    ("x", "edges", "undefined"),
    [
        ([[1.0, 2.0]], [[0], [0]], [True]),
        ([[1.0, 3.0], [2.5, 2.5], [2.5, 2.5], [0.0, 0.0]], [[0, 1, 0], [1, 2, 3]], [True, False, True, False]),
        ([[0.0, 0.0]] * 3, [[0, 1], [1, 2]], [True, True, True]),
        ([[1.0, 2.0], [3.0, 5.0]], [[0, 1], [0, 1]], [True, True]),
        ([[1.0, 2.0], [3.0, 5.0], [4.0, 1.0]], [[0], [1]], [True, False, True]),
    ],
    ids=["one gene", "constant genes", "zeros", "self loops", "isolated genes"],
)
def test_only_genes_that_equal_their_mean_or_have_none_are_undefined(x, edges, undefined):
    weight = effective_weight_on_graph(mlp(2), torch.tensor(x, dtype=torch.float64), torch.tensor(edges))
    assert weight.isnan().tolist() == undefined and ((weight >= 0) & (weight <= 1) | weight.isnan()).all()


@pytest.mark.parametrize("gene", [-1, 3, 2**31, 2**32, 2**62])
def test_a_gene_that_does_not_exist_is_named_however_large(gene):
    x, graph = torch.ones(3, 2), torch.tensor([[0], [1]])
    wrong = torch.tensor([[0, gene], [1, 1]])
    model = RegNet(2, hidden_channels=4, latent_channels=2).eval()
    for call in (
        lambda: neighbor_mean(x, wrong),
        lambda: effective_weight_on_graph(torch.nn.Linear(4, 1), x, wrong),
        lambda: model(x, wrong, graph),
        lambda: model(x, graph, wrong),
    ):
        refused(call, f"edge 1 ({gene} -> 1) names a gene that does not exist", "3 genes, numbered 0 to 2")


def test_a_model_or_another_method_leaves_the_width_to_pytorch(normal):
    x, edges = normal(3, 5), torch.tensor([[0], [1]])
    model = RegNet(4, hidden_channels=4, latent_channels=2).double().eval()
    for call in (
        lambda: model(x, edges, edges),
        lambda: effective_weight(mlp(), x, -x, "jvp"),
        lambda: effective_weight(mlp(), x, -x, "finite-difference"),
        lambda: secant_weight(mlp(), x, -x),
    ):
        refused(call, "shapes cannot be multiplied", error=RuntimeError)


# Scales


@pytest.mark.parametrize("layer", [mlp(bias=False), torch.nn.Linear(8, 3, bias=False).double()])
@given(power=st.integers(-30, 30), seed=st.integers(0, 99))
@example(power=30, seed=0)
@example(power=-30, seed=0)
def test_the_unit_of_expression_does_not_matter_without_biases(layer, power, seed):
    x, m = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    unit = 10.0**power
    for weight in (effective_weight, secant_weight):
        close(weight(layer, unit * x, unit * m), weight(layer, x, m))
    close(effective_weight(layer, unit * x, unit * m, "jvp"), effective_weight(layer, x, m))
    graph = torch.tensor([[0, 1, 1], [2, 2, 3]])
    close(effective_weight_on_graph(layer, unit * x, graph), effective_weight_on_graph(layer, x, graph), rtol=1e-8)
    close(posterior_weight(unit * x.abs(), unit * m.abs()), posterior_weight(x.abs(), m.abs()))
    close(posterior_mean(unit * x, unit * m, 0.3) / unit, posterior_mean(x, m, 0.3))
    close(james_stein_weight(unit * x, unit * m, 0.5 * unit**2), james_stein_weight(x, m, 0.5))
    close(prior_variance(unit * x, unit * m, 0.5 * unit**2) / unit**2, prior_variance(x, m, 0.5))


def test_with_biases_the_unit_decides_which_units_are_active(normal):
    x, m = normal(2, 30, 4)
    layer = mlp()
    unbiased = local_affine(layer, torch.zeros(4).double(), torch.zeros(4).double())
    tiny = effective_weight(layer, 1e-30 * x, 1e-30 * m)
    to_x, to_m = ((x - m) @ part.T for part in (unbiased.A, unbiased.B))
    close(tiny, to_x.norm(dim=1) / (to_x.norm(dim=1) + to_m.norm(dim=1)))  # only the biases say which units are active
    layer[0].bias.data.zero_()
    huge = effective_weight(mlp(), 1e30 * x, 1e30 * m)
    close(huge, effective_weight(layer, x, m))  # beside 1e30 no bias counts
    assert not torch.allclose(tiny, huge)


# Checkpoints


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: {3: torch.zeros(1)}, "it holds no layer"),
        (lambda w: [w], "it holds no layer"),
        (lambda w: {name: value.to("meta") for name, value in w.items()}, "no dense numbers"),
        (lambda w: {**w, "graphsage.layers.0.agg.mlp.0.bias": torch.zeros(8).to_sparse()}, "no dense numbers"),
    ],
)
def test_weights_without_plain_names_and_numbers_are_refused(tmp_path, change, words):
    torch.save(change(RegNet(4, hidden_channels=8, latent_channels=4).state_dict()), tmp_path / "m.pth")
    refused(lambda: load_layers(tmp_path / "m.pth"), "m.pth: expected", words)
