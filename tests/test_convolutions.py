"""Convolutions of PyTorch Geometric against the Jacobian of the layer itself on the user's graph, by reverse mode."""

from __future__ import annotations

import copy

import dask.array
import pytest
import torch
import torch_geometric.nn as pyg
from examples import close, refused
from torch import nn
from torch_geometric.data import HeteroData
from torch_geometric.utils import add_self_loops

import regnet.convolution
from regnet.engine import effective_weight_on_graph, sensitivities_on_graph
from regnet.graph import neighbor_mean
from regnet.layers import UnreadableLayerError

GENES, F, D = 7, 4, 3  # features of a gene and of an edge
STAR = torch.tensor([[1, 2, 3, 4, 1], [0, 0, 0, 0, 0]])  # 1 -> 0 twice
GRAPH = torch.tensor([[0, 1, 2, 2, 3, 5, 4, 4, 0, 1], [1, 0, 0, 4, 4, 4, 3, 3, 3, 5]])  # 4 -> 3 twice; gene 6 has none


def edge_mlp():
    return nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, F * 5))


class Twice(pyg.MeanAggregation):
    def forward(self, *args, **options):
        return 2 * super().forward(*args, **options)


def with_part(layer, **parts):
    """The layer with other parts or methods."""
    for name, part in parts.items():
        setattr(layer, name, part)
    return layer


CONVOLUTIONS = {
    "SAGEConv of another mean": lambda: pyg.SAGEConv(F, 5, aggr=Twice()),
    "SAGEConv of tanh": lambda: with_part(pyg.SAGEConv(F, 5), lin_l=nn.Sequential(nn.Linear(F, 5), nn.Tanh())),
    "SAGEConv of another message": lambda: with_part(pyg.SAGEConv(F, 5), message=lambda x_j: 3 * x_j),
    "SAGEConv max": lambda: pyg.SAGEConv(F, 5, aggr="max"),
    "SAGEConv list": lambda: pyg.SAGEConv(F, 5, aggr=["mean", "max", "sum"]),
    "SAGEConv project": lambda: pyg.SAGEConv(F, 5, project=True),
    "SAGEConv lstm": lambda: pyg.SAGEConv(F, 5, aggr="lstm"),
    "GraphConv": lambda: pyg.GraphConv(F, 5),
    "GATConv": lambda: pyg.GATConv(F, 5, heads=2, add_self_loops=False),
    "GATConv with self loops": lambda: pyg.GATConv(F, 5, heads=2),
    "GATv2Conv": lambda: pyg.GATv2Conv(F, 5, heads=2, add_self_loops=False),
    "GATv2Conv with self loops": lambda: pyg.GATv2Conv(F, 5, heads=2, concat=False),
    "TransformerConv": lambda: pyg.TransformerConv(F, 5, heads=2),
    "LEConv": lambda: pyg.LEConv(F, 5),
    "GENConv": lambda: pyg.GENConv(F, 5),
    "GINConv": lambda: pyg.GINConv(nn.Sequential(nn.Linear(F, 6), nn.Tanh(), nn.Linear(6, 5)), eps=0.3),
    "EdgeConv": lambda: pyg.EdgeConv(nn.Linear(2 * F, 5)),
    "FeaStConv": lambda: pyg.FeaStConv(F, 5, heads=2),
    "ResGatedGraphConv": lambda: pyg.ResGatedGraphConv(F, 5),
    "GraphConv against the edges": lambda: pyg.GraphConv(F, 5, flow="target_to_source"),
    "GCNConv": lambda: pyg.GCNConv(F, 5),
    "GCNConv improved": lambda: pyg.GCNConv(F, 5, improved=True),
    "GCNConv without loops": lambda: pyg.GCNConv(F, 5, add_self_loops=False),
    "GCNConv without norm": lambda: pyg.GCNConv(F, 5, normalize=False),
    "GCNConv against the edges": lambda: pyg.GCNConv(F, 5, flow="target_to_source"),
}
WITH_EDGES = {
    "GraphConv": (lambda: pyg.GraphConv(F, 5), "edge_weight"),
    "LEConv": (lambda: pyg.LEConv(F, 5), "edge_weight"),
    "GCNConv": (lambda: pyg.GCNConv(F, 5), "edge_weight"),
    "GATConv": (lambda: pyg.GATConv(F, 5, edge_dim=D), "edge_attr"),
    "GATConv against the edges": (lambda: pyg.GATConv(F, 5, edge_dim=D, flow="target_to_source"), "edge_attr"),
    "GATv2Conv": (lambda: pyg.GATv2Conv(F, 5, edge_dim=D, fill_value="max"), "edge_attr"),
    "TransformerConv": (lambda: pyg.TransformerConv(F, 5, edge_dim=D), "edge_attr"),
    "GENConv": (lambda: pyg.GENConv(F, 5, edge_dim=D), "edge_attr"),
    "GINEConv": (lambda: pyg.GINEConv(nn.Linear(F, 5), edge_dim=D), "edge_attr"),
    "NNConv": (lambda: pyg.NNConv(F, 5, edge_mlp()), "edge_attr"),
}


def made(make):
    torch.manual_seed(5)
    return make().double().eval()


def by_jacobian(layer, x, edge_index, **edge_features):
    """S_x and S_m of every gene that is not its own regulator, from the layer's output on the graph itself."""
    averaged = edge_index.flip(0) if layer.flow == "target_to_source" else edge_index
    delta = x - neighbor_mean(x, averaged)
    S = x.new_full((2, len(x)), torch.nan)
    for gene in averaged[1].unique().tolist():
        J = torch.autograd.functional.jacobian(lambda x: layer(x, edge_index, **edge_features)[gene], x)  # noqa: B023
        regulators = averaged[0][averaged[1] == gene].unique()
        S[0, gene] = (J[:, gene] @ delta[gene]).norm()
        S[1, gene] = (J[:, regulators].sum(dim=1) @ delta[gene]).norm()
    return S


def agrees(layer, x, edge_index, **edge_features):
    got = sensitivities_on_graph(layer, x, edge_index, **edge_features)
    S_x, S_m = by_jacobian(layer, x, edge_index, **edge_features)
    close(got.self_sensitivity, S_x, rtol=1e-10, atol=1e-11)
    close(got.neighbor_sensitivity, S_m, rtol=1e-10, atol=1e-11)
    assert len(edge_index.T) < 10 or S_m.nan_to_num().max() > 1e-3


@pytest.mark.parametrize("edge_index", [STAR, GRAPH], ids=["star", "graph"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_every_convolution_answers_as_its_jacobian(kind, edge_index, normal):
    sort = edge_index[1].argsort(stable=True) if "lstm" in kind else slice(None)
    agrees(made(CONVOLUTIONS[kind]), normal(GENES, F), edge_index[:, sort])


@pytest.mark.parametrize("edge_index", [STAR, GRAPH], ids=["star", "graph"])
@pytest.mark.parametrize("kind", WITH_EDGES)
def test_edge_weights_and_attributes_are_passed_on(kind, edge_index, normal):
    make, name = WITH_EDGES[kind]
    features = normal(edge_index.size(1), D)
    x, layer = normal(GENES, F), made(make)
    values = features[:, 0].abs() if name == "edge_weight" else features
    agrees(layer, x, edge_index, **{name: values})
    other = effective_weight_on_graph(layer, x, edge_index, **{name: 3 * values})
    assert not torch.allclose(other, effective_weight_on_graph(layer, x, edge_index, **{name: values}), equal_nan=True)


@pytest.mark.parametrize("at_once", [1, 3 * F])
def test_blocks_of_targets_change_nothing(at_once, normal, monkeypatch):
    x, layer = normal(GENES, F), made(CONVOLUTIONS["GATv2Conv with self loops"])
    whole = sensitivities_on_graph(layer, x, GRAPH)
    monkeypatch.setattr(regnet.convolution, "_NUMBERS_AT_ONCE", at_once)
    pieces = sensitivities_on_graph(layer, x, GRAPH)
    close(pieces.self_sensitivity, whole.self_sensitivity)
    close(pieces.neighbor_sensitivity, whole.neighbor_sensitivity)


def test_a_gcn_shrinks_by_degrees_alone_whatever_the_data(normal, random_graph):
    edge_index = random_graph(12, 40)
    d = 1 + torch.bincount(edge_index[1], minlength=12).double()
    ratio = torch.zeros(12).double().index_add(0, edge_index[1], (d[edge_index[1]] / d[edge_index[0]]).sqrt())
    expected = torch.where(d > 1, 1 / (1 + ratio), torch.nan)
    for cells in (3, 30):
        layer, x = made(lambda cells=cells: pyg.GCNConv(cells, 8)), normal(12, cells)
        for kind in (x, x.to_sparse_csr(), dask.array.from_array(x.numpy(), chunks=(12, 2))):
            close(effective_weight_on_graph(layer, kind, edge_index), expected)


def test_self_loops_of_the_user_are_regulators_and_those_of_the_layer_are_the_gene(normal):
    x, edge_index = normal(3, F), torch.tensor([[0, 1, 1], [1, 1, 2]])  # gene 1 regulates itself
    conv = made(lambda: pyg.GraphConv(F, 5))
    own, others = conv.lin_root.weight, conv.lin_rel.weight
    delta = x[1] - (x[0] + x[1]) / 2
    got = sensitivities_on_graph(conv, x, edge_index)
    close(got.self_sensitivity[1], (own @ delta).norm())
    close(got.neighbor_sensitivity[1], (2 * others @ delta).norm())
    gat = made(CONVOLUTIONS["GATv2Conv with self loops"])
    without = torch.tensor([[0, 1], [1, 2]])  # the layer puts its own loop in the place of the user's
    close(effective_weight_on_graph(gat, x, edge_index), effective_weight_on_graph(gat, x, without))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, where it imports what compiles
def test_what_wraps_a_layer_changes_nothing(normal):
    x = normal(GENES, F)
    for layer in (made(lambda: pyg.SAGEConv(F, 5)), made(CONVOLUTIONS["GATConv"])):
        expected = effective_weight_on_graph(layer, x, GRAPH)
        for wrapped in (torch.compile(layer), nn.DataParallel(layer)):
            close(effective_weight_on_graph(wrapped, x, GRAPH), expected)
    hook = wrapped.register_forward_hook(lambda module, inputs, output: output.tanh())  # but a hook of the wrapper's own
    by_wrapper = effective_weight_on_graph(wrapped, x, GRAPH)
    hook.remove()
    layer.register_forward_hook(lambda module, inputs, output: output.tanh())
    close(by_wrapper, effective_weight_on_graph(layer, x, GRAPH))


def test_a_layer_in_training_is_measured_without_its_dropout_and_left_in_training(normal):
    layer = made(lambda: pyg.GATConv(F, 5, dropout=0.6)).train()
    x = normal(GENES, F)
    weight = effective_weight_on_graph(layer, x, GRAPH)
    assert layer.training
    close(weight, effective_weight_on_graph(layer.eval(), x, GRAPH))


class OwnLoops(pyg.SAGEConv):
    def forward(self, x, edge_index, size=None):
        genes = (x if torch.is_tensor(x) else x[1]).size(0)
        return super().forward(x, add_self_loops(edge_index, num_nodes=genes)[0], size)


class Doubling(pyg.SAGEConv):
    """A subclass whose messages are those of a pair: right, and not taken for its parent."""

    def message(self, x_j):
        return 2 * x_j


class Noisy(pyg.SAGEConv):
    def forward(self, x, edge_index, size=None):
        out = super().forward(x, edge_index, size)
        return out + torch.rand_like(out)


class SourceDegrees(pyg.SAGEConv):
    """Divides by how many targets a regulator has."""

    def forward(self, x, edge_index, size=None):
        pair = (x, x) if torch.is_tensor(x) else x
        count = torch.bincount(edge_index[0], minlength=len(pair[0])).clamp(min=1).to(pair[0])
        return super().forward((pair[0] / count[:, None], pair[1]), edge_index, size)


class Detached(pyg.SAGEConv):
    def forward(self, x, edge_index, size=None):
        return super().forward(x, edge_index, size).numpy()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = pyg.SAGEConv(F, 5), pyg.GATConv(5, 2)

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


def hooked(hook, kind="forward"):
    layer = pyg.SAGEConv(F, F)
    getattr(layer, f"register_{kind}_hook")(hook)
    return layer


def followed_by(norm):
    return pyg.Sequential("x, edge_index", [(pyg.SAGEConv(F, 5), "x, edge_index -> x"), norm])


def test_a_subclass_and_a_hook_that_keep_to_pairs_are_measured_as_they_are(normal):
    x = normal(GENES, F)
    agrees(made(lambda: Doubling(F, 5)), x, GRAPH)
    agrees(made(lambda: hooked(lambda module, inputs, output: output.tanh())), x, GRAPH)
    agrees(made(lambda: hooked(lambda module, inputs, output: 3 * output, "message_forward")), x, GRAPH)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PyTorch's, which keeps it for old models
def test_a_hook_that_sets_a_weight_leaves_it_as_it_was(normal):
    for make in (lambda: pyg.SAGEConv(F, 5), lambda: nn.Linear(2 * F, 5)):
        layer = made(make)
        inner = getattr(layer, "lin_l", layer)
        nn.utils.weight_norm(inner)
        before = inner.weight.detach().clone()
        assert effective_weight_on_graph(layer, normal(GENES, F), GRAPH).isfinite().any()
        close(copy.deepcopy(inner).weight, before)  # not a tensor of the differentiation


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OwnLoops(F, 5), ("OwnLoops", "self loops that it adds without")),
        (lambda: SourceDegrees(F, 5), ("SourceDegrees", "degrees of regulators")),
        (lambda: Noisy(F, 5), ("Noisy", "at every call")),
        (lambda: Detached(F, 5), ("Detached", "must return (genes, outputs)", "ndarray")),
        (lambda: hooked(lambda module, inputs, output: output + 3 * inputs[0]), ("SAGEConv", "pair")),
        (lambda: type("MyGCN", (pyg.GCNConv,), {})(F, 5), ("MyGCN", "pair")),
        (lambda: pyg.GCNConv(F, 5, aggr="max"), ("GCNConv", "pair")),
        (lambda: with_part(pyg.GCNConv(F, 5), message=lambda x_j, edge_weight: x_j), ("GCNConv", "pair")),
        (lambda: followed_by(pyg.GraphNorm(5)), ("Sequential", "normalisation over genes")),
        (lambda: pyg.SAGEConv(F, 5, aggr=["mean", "mul"]), ("SAGEConv", "'mul'")),
        (lambda: hooked(lambda module, inputs, output: output.log()), ("SAGEConv", "NaN")),
        (lambda: pyg.ChebConv(F, 5, K=2), ("ChebConv", "pair")),
        (lambda: pyg.RGCNConv(F, 5, 2), ("RGCNConv", "cannot be called as layer(x, edge_index)", "AssertionError")),
        (lambda: pyg.HeteroConv({("a", "to", "a"): pyg.SAGEConv(F, 5)}), ("HeteroConv", "(SAGEConv)")),
        (lambda: pyg.GATConv((F, 3), 5), ("GATConv",)),
        (Network, ("Network", "its edge", "first (SAGEConv), second (GATConv)")),
        (lambda: pyg.GATConv(-1, 5), ("GATConv", "lazy")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_layer_that_cannot_be_measured_is_refused_with_the_reason(make, words, normal):
    torch.manual_seed(5)
    layer = make().double().eval()
    refused(lambda: effective_weight_on_graph(layer, normal(GENES, F), GRAPH), *words, error=TypeError)


@pytest.mark.parametrize("factor", [1, 1e12], ids=["bias", "large gene"])
def test_neither_a_bias_nor_a_large_gene_hides_that_a_response_owes_to_other_genes(factor, normal):
    """Outputs agree to rounding: beside a bias all responses are small, and beside a large gene those of the others."""
    x, layer = 1e-6 * normal(GENES, F), made(Network).float()
    x[-1] *= factor
    refused(lambda: effective_weight_on_graph(layer, x.float(), GRAPH), "depend on more than", error=TypeError)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(5, track_running_stats=False), pyg.GraphNorm(5), pyg.PairNorm()])
def test_a_graph_of_two_equal_halves_does_not_hide_a_norm_over_genes(norm, normal):
    ring = torch.stack([torch.arange(8), (torch.arange(8) + 1) % 4 + torch.arange(8) // 4 * 4])
    x = normal(4, F).repeat(2, 1)
    refused(lambda: effective_weight_on_graph(followed_by(norm).double(), x, ring), "over genes", error=TypeError)


def test_data_that_a_layer_changes_in_place_stay_as_they_are(normal):
    class Activated(pyg.GraphConv):
        inplace = False

        def forward(self, x, edge_index):
            x = [nn.functional.relu(part, inplace=self.inplace) for part in (x if isinstance(x, tuple) else (x, x))]
            return super().forward(tuple(x), edge_index)

    x, layer = normal(GENES, F), made(lambda: Activated(F, 5))
    before, expected = x.clone(), effective_weight_on_graph(layer, x, GRAPH)
    layer.inplace = True
    close(effective_weight_on_graph(layer, x, GRAPH), expected)
    close(x, before)


def test_modules_of_several_edge_types_are_refused_with_their_convolutions(normal):
    data = HeteroData()
    data["gene"].x, data["gene", "to", "gene"].edge_index = normal(GENES, F), GRAPH
    layer = pyg.to_hetero(made(Network), data.metadata()).double().eval()
    refused(
        lambda: effective_weight_on_graph(layer, data["gene"].x, GRAPH), "first.gene__to__gene (SAGEConv)", error=TypeError
    )


def test_what_does_not_go_together_is_refused(normal):
    x, weight = normal(GENES, F), torch.ones(GRAPH.size(1)).double()
    conv = made(CONVOLUTIONS["GraphConv"])
    for layer in (pyg.SAGEConv(F, 5).double(), nn.Linear(2 * F, 5).double(), lambda x, m: x + m):
        refused(
            lambda layer=layer: effective_weight_on_graph(layer, x, GRAPH, edge_weight=weight),
            "edge_weight",
            error=TypeError,
        )
    refused(lambda: effective_weight_on_graph(conv, x, GRAPH, edge_weight=weight[1:]), "edge_weight", "10 edges")
    refused(lambda: effective_weight_on_graph(conv, dask.array.from_array(x.numpy()), GRAPH), "Dask", error=TypeError)
    gcn = made(CONVOLUTIONS["GCNConv"])
    refused(lambda: effective_weight_on_graph(gcn, x, GRAPH, edge_weight=-3 * weight), "positive")
    refused(lambda: effective_weight_on_graph(gcn, x, GRAPH, edge_weight=weight.long()), "floating point", "torch.int64")
    refused(lambda: effective_weight_on_graph(gcn, x, GRAPH, edge_attr=weight), "takes no edge_attr", error=TypeError)
    refused(lambda: effective_weight_on_graph(conv, x, GRAPH, edge_weight=weight / 0), "edge_weight must be finite")
    cached = pyg.GCNConv(F, 5, cached=True).double()
    cached(x, STAR)
    refused(lambda: effective_weight_on_graph(cached, x, GRAPH), "cached", error=UnreadableLayerError)
