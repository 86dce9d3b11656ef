"""The closed form on a graph, against forward-mode differentiation on neighbour means that are formed."""

from __future__ import annotations

from copy import deepcopy

import dask.array
import pytest
import torch
from examples import close, dropping, layers, linear, mlp, refused
from torch import nn
from torch_geometric.nn import SAGEConv

from regnet.engine import effective_weight_on_graph, sensitivities_on_graph
from regnet.graph import neighbor_mean
from regnet.shrinkage import effective_weight


def oracle(layer, x, edge_index):
    """Form m, differentiate forward, and leave out genes without regulators."""
    result = effective_weight(layer, x, neighbor_mean(x, edge_index), "jvp")
    result[torch.bincount(edge_index[1], minlength=x.size(0)) == 0] = torch.nan
    return result


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_graph_level_closed_form_agrees_with_forward_mode(layer, dtype, tolerance, normal, random_graph):
    layer = deepcopy(layer).to(dtype)
    x, edge_index = normal(30, 4).to(dtype), random_graph(30, 120)
    got = effective_weight_on_graph(layer, x, edge_index)
    assert got.isnan().sum() >= 1 and got.dtype == dtype
    torch.testing.assert_close(got, oracle(layer, x, edge_index), rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize(("dtype", "tolerance", "smallest"), [(torch.float64, 1e-12, 1e-6), (torch.float32, 1e-5, 1e-3)])
def test_genes_almost_equal_to_their_mean_keep_their_digits(dtype, tolerance, smallest, normal):
    """x_i = mean + size * direction for sizes from 1 down: the result must not lose digits as delta shrinks.

    The oracle forms the mean, rounds it, and so loses as many digits in delta itself: it is given the exact delta
    of numbers that are representable, on one regulator, so that both see the same delta.
    """
    layer = mlp(cells=40, hidden=32, out=8).to(dtype)
    regulator = normal(1, 40).to(dtype)
    sizes = [1.0, 0.1, 0.05, 0.02, 0.011, 0.009, 1e-3]
    sizes = [size for size in sizes if size >= smallest] + [smallest]
    x = torch.cat([regulator, *(regulator + size * normal(1, 40).to(dtype) for size in sizes)])
    edge_index = torch.tensor([[0] * len(sizes), list(range(1, len(sizes) + 1))])
    got, expected = effective_weight_on_graph(layer, x, edge_index)[1:], oracle(layer, x, edge_index)[1:]
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


def test_genes_equal_to_their_mean_are_undefined_on_a_graph(normal):
    """Gene 3 is a copy; gene 4 equals its mean up to rounding, which in float32 is a difference."""
    x, edge_index = normal(6, 5), torch.tensor([[0, 0, 1, 2, 1], [3, 4, 4, 4, 5]])
    x[3], x[4] = x[0], x[:3].mean(dim=0)
    for dtype, undefined in ((torch.float64, [0, 1, 2, 3, 4]), (torch.float32, [0, 1, 2, 3])):
        result = sensitivities_on_graph(mlp(cells=5).to(dtype), x.to(dtype), edge_index)
        for values in (result.self_sensitivity, result.neighbor_sensitivity, result.weight):
            assert values.isnan().nonzero().flatten().tolist() == undefined


def test_repeated_edges_count_repeatedly_on_a_graph(normal):
    """Also for gene 3, which is almost equal to its mean and so is computed from delta itself."""
    x, layer = normal(6, 4), mlp()
    x[3] = (2 * x[0] + x[1]) / 3 + 1e-5 * normal(4)
    edge_index = torch.tensor([[0, 0, 1, 0, 0, 1, 2], [3, 3, 3, 4, 4, 4, 5]])
    got = effective_weight_on_graph(layer, x, edge_index)
    close(got[4:5], effective_weight(layer, x[4:5], ((2 * x[0] + x[1]) / 3)[None]))
    torch.testing.assert_close(got[3], oracle(layer, x, edge_index)[3], rtol=0, atol=1e-9)


def test_the_direction_of_the_edges_matters():
    """0 -> 1: gene 1 is shrunk toward gene 0, and gene 0 toward nothing."""
    layer = linear(torch.tensor([[0.25]]), torch.tensor([[0.75]]))
    got = sensitivities_on_graph(layer, torch.tensor([[1.0], [3.0]]), torch.tensor([[0], [1]]))
    assert got.weight.isnan().tolist() == [True, False] and got.weight[1] == 0.25
    assert got.self_sensitivity[1] == 0.5 and got.neighbor_sensitivity[1] == 1.5


@pytest.mark.parametrize(
    "layer", [mlp(activation=nn.Tanh), SAGEConv(4, 6, normalize=True).double()], ids=["Tanh", "SAGEConv normalize"]
)
def test_other_layers_go_through_forward_mode_on_a_graph(layer, normal, random_graph):
    x, edge_index = normal(12, 4).relu(), random_graph(12, 40)
    expected = oracle(layer, x, edge_index)
    assert expected[-1].isnan()
    close(effective_weight_on_graph(layer, x, edge_index), expected)
    close(effective_weight_on_graph(layer, x.to_sparse_csr(), edge_index), expected)


def test_dropout_has_no_effect_on_a_graph_even_behind_a_method(normal, random_graph):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = dropping()

        def forward(self, x, m):
            return self.layer(torch.cat([x, m], dim=1))

    pair, x, edge_index = Pair(), normal(9, 4), random_graph(9, 20)
    expected = effective_weight_on_graph(pair.layer.eval(), x, edge_index)
    pair.train()
    close(effective_weight_on_graph(pair.layer, x, edge_index), expected, rtol=0, atol=0)
    close(effective_weight_on_graph(pair.forward, x, edge_index), expected)
    assert all(module.training for module in pair.modules())


def test_unusable_graphs_are_refused(normal):
    x, edge_index = normal(3, 4), torch.tensor([[0], [1]])
    refused(lambda: effective_weight_on_graph(mlp(), x, edge_index[:, :0]), "edge_index is empty")
    refused(
        lambda: effective_weight_on_graph(mlp(), x, edge_index.double()), "edge_index must be an integer", error=TypeError
    )
    refused(lambda: effective_weight_on_graph(mlp(), x * torch.nan, edge_index), "x must be finite")
    refused(lambda: effective_weight_on_graph(mlp(5), x, edge_index), "takes 5 features", "got 4")
    refused(lambda: effective_weight_on_graph(mlp(), x.float(), edge_index), "float64 and x is", error=TypeError)


def test_a_gene_equal_to_its_regulator_has_no_weight_even_where_the_layer_hardly_sees_it(normal):
    """Rows of weights that sum to zero annihilate a constant gene: all that is left of it is rounding."""
    layer = torch.nn.Linear(20, 8, bias=False).double()
    layer.weight.data = torch.cat([half - half.mean(dim=1, keepdim=True) for half in (normal(8, 10), normal(8, 10))], dim=1)
    x = normal(4, 10)
    x[:2] = 0.1
    assert effective_weight_on_graph(layer, x, torch.tensor([[0, 2], [1, 3]]))[1].isnan()


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e20])
def test_the_weight_of_a_linear_layer_survives_any_scale_of_float32(scale, normal, random_graph):
    layer, x, edge_index = torch.nn.Linear(12, 5, bias=False), normal(9, 6).float().relu(), random_graph(9, 30)
    expected = effective_weight_on_graph(layer, x, edge_index)
    m = neighbor_mean(x, edge_index)
    close(effective_weight(layer, scale * x, scale * m), effective_weight(layer, x, m), rtol=1e-4, atol=1e-5)
    for matrix in (scale * x, (scale * x).to_sparse_csr()):
        close(effective_weight_on_graph(layer, matrix, edge_index), expected, rtol=1e-4, atol=1e-5)


# Sparse expression


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_csr_give_what_the_dense_matrix_gives(layer, dtype, tolerance, normal, random_graph):
    layer = deepcopy(layer).to(dtype)
    x, edge_index = normal(30, 4).to(dtype).relu(), random_graph(30, 60)
    x[3], x[7] = 0, x[edge_index[0, edge_index[1] == 7]].mean(dim=0)  # all zero, and recomputed from delta
    expected = effective_weight_on_graph(layer, x, edge_index)
    got = effective_weight_on_graph(layer, x.to_sparse_csr(), edge_index)
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance, equal_nan=True)


def test_sparse_expression_of_another_kind_or_not_finite_is_refused(normal, random_graph):
    x, edge_index = normal(12, 4), random_graph(12, 40)
    with pytest.raises(TypeError, match=r"dense or CSR; got torch.sparse_coo; convert it with x.to_sparse_csr"):
        effective_weight_on_graph(mlp(), x.to_sparse(), edge_index)
    x[5, 2] = torch.inf
    with pytest.raises(ValueError, match="x must be finite; got inf at gene 5, cell 2"):
        effective_weight_on_graph(mlp(), x.to_sparse_csr(), edge_index)


def test_an_all_zero_matrix_in_csr_is_undefined(random_graph):
    assert effective_weight_on_graph(mlp(), torch.zeros(9, 4).double().to_sparse_csr(), random_graph(9, 20)).isnan().all()


def test_messages_against_the_edges(normal, random_graph):
    """flow="target_to_source": the layer averages over targets, so the edges that it is called with are read backwards."""
    torch.manual_seed(0)
    forward, backward = SAGEConv(4, 3).double(), SAGEConv(4, 3, flow="target_to_source").double()
    backward.load_state_dict(forward.state_dict())
    x, edge_index = normal(12, 4), random_graph(12, 40)
    close(backward(x, edge_index.flip(0)), forward(x, edge_index))
    close(effective_weight_on_graph(backward, x, edge_index.flip(0)), effective_weight_on_graph(forward, x, edge_index))


# Large and awkward


@pytest.mark.parametrize(
    ("dtype", "bias", "out"),
    [
        (torch.float64, -1e6, [3, 1]),  # the third unit is off
        (torch.float32, -1e6, [3, 1]),
        (torch.float64, 1, [0, 0]),  # it has almost no output weight
        (torch.float64, 1, [1e-18, 1e-18]),
    ],
)
def test_a_unit_without_effect_cannot_hide_that_the_others_lost_their_digits(dtype, bias, out):
    """The third unit is the only one that sees a large delta."""
    layer = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).to(dtype)
    layer[0].weight.data = torch.tensor([[0.1, 0, 0.3, 0], [0.7, 0, 0.2, 0], [0, 1, 0, 1]], dtype=dtype)
    layer[0].bias.data = torch.tensor([1, 1, bias], dtype=dtype)
    layer[2].weight.data = torch.tensor([[1, 2, out[0]], [0.5, 1, out[1]]], dtype=dtype)
    x = torch.tensor([[1000, 1000], [1000 * (1 + 300 * torch.finfo(dtype).eps), 0]], dtype=dtype)
    edge_index = torch.tensor([[0], [1]])
    close(effective_weight_on_graph(layer, x, edge_index), oracle(layer, x, edge_index), rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-9, 1, 1e9])
def test_digits_are_kept_near_the_mean_whatever_the_scale_of_the_output(factor, normal):
    layer, x, edge_index = mlp(), normal(3, 4), torch.tensor([[0, 1], [2, 2]])
    layer[2].weight.data *= factor
    x[2] = x[:2].mean(dim=0) + 1e-8 * normal(4)
    close(effective_weight_on_graph(layer, x, edge_index), oracle(layer, x, edge_index), rtol=1e-10)


def test_more_genes_than_are_done_at_a_time(normal, random_graph, monkeypatch):
    """The last gene keeps its digits only if the scale of its own block is what the loss is measured by."""
    x, edge_index = normal(50, 4), random_graph(50, 200)
    edge_index = edge_index[:, (edge_index < 48).all(dim=0)]
    layer = linear(*(half - half.mean(dim=1, keepdim=True) for half in (normal(3, 4), normal(3, 4))))  # blind to constants
    x[:48] *= 1e-9
    x[48] = 1000
    x[49] = 1000 + 1e-9 * normal(4)
    edge_index = torch.cat([edge_index, torch.tensor([[48], [49]])], dim=1)
    expected = oracle(layer, x, edge_index)
    for genes_at_once in (7, 2048):
        monkeypatch.setattr("regnet.engine._GENES_AT_ONCE", genes_at_once)
        close(effective_weight_on_graph(layer, x, edge_index), expected, rtol=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1e4, 1e6])
def test_in_float32_genes_that_almost_equal_their_mean_agree_with_float64(shift, normal, random_graph):
    """Whatever the route: m and delta of such genes are formed in float64."""
    layer, x, edge_index = mlp(cells=6).float(), (shift + normal(40, 6)).float(), random_graph(40, 200)
    expected = effective_weight_on_graph(deepcopy(layer).double(), x.double(), edge_index)
    chunks = dask.array.from_array(x.numpy(), chunks=(-1, 4))
    for route, matrix in (
        (layer, x),
        (layer, x.to_sparse_csr()),
        (layer, chunks),
        (lambda x, m: layer(torch.cat([x, m], 1)), x),
    ):
        got = effective_weight_on_graph(route, matrix, edge_index).double()
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_unit_exactly_at_zero_is_off_whatever_the_number_of_regulators(dtype):
    """The unit x + m - 3 with 49 regulators of 1 and x = 2 is at 0 only where their mean is exactly 1."""
    layer = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).to(dtype)
    layer[0].weight.data = torch.tensor([[1.0, 1.0], [1.0, 3.0]], dtype=dtype)
    layer[0].bias.data = torch.tensor([-3.0, 0.0], dtype=dtype)
    layer[2].weight.data = torch.ones(1, 2, dtype=dtype)
    x = torch.ones(50, 1, dtype=dtype)
    x[49] = 2
    edge_index = torch.tensor([list(range(49)), [49] * 49])
    assert effective_weight_on_graph(layer, x, edge_index)[49].item() == 0.25
    assert effective_weight(layer, x, neighbor_mean(x, edge_index))[49].item() == 0.25


def test_views_and_gradients_are_taken_as_they_are_and_nothing_is_changed(normal, random_graph):
    layer, x, edge_index = mlp(), normal(20, 4), random_graph(20, 60)
    expected, before = effective_weight_on_graph(layer, x, edge_index), deepcopy((layer.state_dict(), x, edge_index))
    got = effective_weight_on_graph(layer, x.T.contiguous().T.requires_grad_(), edge_index.T.contiguous().T)
    close(got, expected)
    assert not got.requires_grad and torch.equal(x, before[1]) and torch.equal(edge_index, before[2])
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before[0].items())
