"""Reading a layer's weights, and refusing layers that do something else."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch_geometric.nn import MLP, GCNConv, SAGEConv
from torch_geometric.utils import add_self_loops

from regnet.engine import effective_weight_on_graph
from regnet.graph import neighbor_mean
from regnet.layers import UnreadableLayerError, as_function, evaluation_mode, read_layer
from regnet.model import MLPAggregator, SAGELayer
from regnet.shrinkage import effective_weight, kink_distance, sensitivities


class Swapped(nn.Module):
    """The parts of the note's aggregator, used so that w becomes 1 - w."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))

    def forward(self, x, m):
        return self.mlp(torch.cat([m, x], dim=-1))


def make(kind, *arguments):
    torch.manual_seed(3)
    return kind(*arguments).double()


def with_own_bias():
    conv = SAGEConv(3, 4)
    conv.lin_r = nn.Linear(3, 4)
    return conv


@pytest.fixture
def pair(normal):
    return normal(7, 3), normal(7, 3)


# reading


@pytest.mark.parametrize(
    "layer",
    [
        make(MLPAggregator, 3, 5),
        make(nn.Linear, 6, 4),
        make(nn.Linear, 6, 4, False),
        make(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))),
        make(lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 1, bias=False))),
        make(lambda: nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.3)))),
        make(SAGEConv, 3, 4),
        make(lambda: SAGEConv((3, 3), 4, bias=False)),
        make(lambda: SAGEConv(3, 4, root_weight=False)),
        make(with_own_bias),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_weights_compute_what_the_layer_computes(layer, pair):
    x, m = pair
    with evaluation_mode(layer), torch.no_grad():
        weights = read_layer(layer, x)
        z = weights.pre_activation(x, m)
        out = weights.out(weights.mask(z) * z) + weights.bias_out
        torch.testing.assert_close(out, as_function(layer)(x, m), rtol=1e-10, atol=1e-13)
    assert weights.w_self.shape == weights.w_neighbor.shape
    assert not weights.w_self.requires_grad


def test_as_function_gives_a_sageconv_its_mean_as_the_only_neighbour(normal, random_graph):
    x, edge_index = normal(9, 3), random_graph(9, 30)
    conv, m = make(SAGEConv, 3, 2), neighbor_mean(x, edge_index)
    torch.testing.assert_close(as_function(conv)(x, m), conv(x, edge_index), rtol=1e-10, atol=1e-13)


# refusing


def test_a_class_of_ones_own_is_not_read_but_differentiated(pair, normal, random_graph):
    """What its forward does with its parts, nobody can tell from them."""
    layer = make(Swapped).eval()
    for call in (lambda layer, x, m: read_layer(layer, x), sensitivities, kink_distance):
        with pytest.raises(UnreadableLayerError, match=r"unsupported layer Swapped.*jvp"):
            call(layer, *pair)
    x, edge_index = normal(12, 3), random_graph(12, 30)
    regulated = torch.bincount(edge_index[1], minlength=12) > 0
    expected = effective_weight(layer, x, neighbor_mean(x, edge_index), "jvp")[regulated]
    torch.testing.assert_close(effective_weight_on_graph(layer, x, edge_index)[regulated], expected, rtol=1e-10, atol=1e-13)


class Shifted(nn.Linear):
    def forward(self, x):
        return super().forward(x).abs()


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


ADDED = {
    "a hook": lambda layer: layer.mlp[0].register_forward_hook(lambda module, inputs, output: output + 1),
    "a hook before": lambda layer: layer.register_forward_pre_hook(lambda module, inputs: inputs[::-1]),
    "a forward": lambda layer: setattr(layer, "forward", lambda x, m: layer.mlp(torch.cat([m, x], dim=1))),
    "a parametrization": lambda layer: nn.utils.parametrize.register_parametrization(layer.mlp[2], "weight", Double()),
    "another class": lambda layer: setattr(layer.mlp, "2", Shifted(4, 4).double()),
    "a part used twice": lambda layer: layer.mlp.append(layer.mlp[1]),
    "a layer within": lambda layer: setattr(layer, "mlp", nn.Sequential(MLPAggregator(3, 4).double())),
}


@pytest.mark.parametrize("add", ADDED.values(), ids=ADDED)
def test_a_known_class_with_something_added_is_not_taken_at_its_word(add, pair):
    x, _ = pair
    layer = MLPAggregator(3, 4).double()
    read_layer(layer, x)
    add(layer)
    with pytest.raises((UnreadableLayerError, TypeError)):
        read_layer(layer, x)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", [effective_weight, kink_distance, partial(effective_weight, method="jvp")])
def test_a_layer_whose_training_diverged_is_refused(value, call, pair):
    layer = MLPAggregator(3, 4).double()
    layer.mlp[0].weight.data[1, 2] = value
    with pytest.raises(ValueError, match=r"finite; mlp\.0\.weight"):
        call(layer, *pair)


@pytest.mark.parametrize(("hidden", "outputs"), [(0, 2), (3, 0)])
def test_a_layer_that_answers_nothing_leaves_all_undefined(hidden, outputs, normal):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, outputs)).double()
    assert effective_weight_on_graph(layer, normal(2, 3), torch.tensor([[0], [1]])).isnan().all()


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)), "Linear -> Tanh -> Linear"),
        (nn.Sequential(nn.Linear(6, 4), nn.ReLU()), "Linear -> ReLU"),
        (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), "BatchNorm1d"),
        (
            nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
            "Linear -> ReLU -> Linear -> ReLU",
        ),
        (nn.Sequential(), "Sequential"),
        (lambda x, m: x - m, "function"),
        (SAGEConv(3, 2, normalize=True), "SAGEConv"),
    ],
)
def test_other_kinds_are_refused_by_name(layer, kind):
    with pytest.raises(TypeError, match="jvp") as caught:
        read_layer(layer, torch.ones(2, 3))
    assert isinstance(caught.value, UnreadableLayerError)
    assert kind in str(caught.value)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 2), MLPAggregator(3, 2), SAGEConv(3, 2)], ids=lambda layer: type(layer).__name__
)
def test_a_layer_of_another_width_is_refused(layer, width):
    with pytest.raises(ValueError, match=rf"takes 3 features.*got {width}"):
        read_layer(layer, torch.zeros(1, width))


@pytest.mark.parametrize("width", [2, 3])
def test_a_layer_of_odd_width_is_refused(width):
    """Five inputs are no [x, m]."""
    with pytest.raises((ValueError, TypeError), match=r"features|method"):
        read_layer(nn.Linear(5, 2), torch.ones(1, width))


class WithLoops(SAGEConv):
    def forward(self, x, edge_index, size=None):
        return super().forward(x, add_self_loops(edge_index)[0], size)


HOOKED = SAGEConv(3, 2)
HOOKED.register_forward_hook(lambda module, inputs, output: 2 * output)


@pytest.mark.parametrize("method", ["exact", "jvp", "finite-difference"])
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        *[
            (layer, r"called with edges.*effective_weight_on_graph")
            for layer in (
                GCNConv(3, 2),
                SAGELayer(MLPAggregator(3, 2)),
                SAGEConv(3, 2, aggr="max"),
                SAGEConv(3, 2, project=True),
                WithLoops(3, 2),
                HOOKED,
            )
        ],
        (nn.LazyLinear(2), "lazy"),
        (MLP([3, 4, 2]), "batch"),
    ],
    ids=["GCNConv", "SAGELayer", "max", "project", "subclass", "hook", "lazy", "batch"],
)
def test_what_is_no_function_of_the_mean_is_refused_with_the_way_out(layer, words, method):
    with pytest.raises(TypeError, match=words):
        sensitivities(layer, torch.ones(4, 3), torch.zeros(4, 3), method)


def test_a_layer_that_mixes_genes_and_a_class_are_refused(pair):
    with pytest.raises(ValueError, match="every gene by itself"):
        effective_weight(lambda x, m: x + m - (x + m).mean(dim=0), *pair, method="jvp")
    with pytest.raises(UnreadableLayerError, match="got type"):
        as_function(SAGEConv)


def test_a_layer_that_ignores_the_mean_is_announced(pair):
    with pytest.warns(UserWarning, match="does not depend on m"):
        assert (effective_weight(lambda x, m: x.tanh(), *pair, method="jvp") == 1).all()
