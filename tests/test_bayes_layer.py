"""The layer that is Bayes' rule: its weight by every route, as a convolution, in RegNet, and Bayes' weight from counts."""

from __future__ import annotations

import pytest
import torch
from examples import close
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch_geometric.datasets import StochasticBlockModelDataset
from torch_geometric.nn import SAGEConv

import regnet
from regnet import PosteriorMeanAggregator, PosteriorMeanConv, RegNet, bayes_weight, neighbor_mean
from regnet.bayes_layer import Shrinkage
from regnet.checkpoint import load_layers
from regnet.counts import log_noise_variance
from regnet.engine import output_on_graph


@pytest.fixture
def graph(normal, random_graph):
    """Features, edges of which the last gene gets none, and weights with both ends of the interval."""
    torch.manual_seed(0)
    return normal(12, 5), random_graph(12, 40), torch.linspace(0, 1, 12, dtype=torch.float64)


def test_the_layer_is_its_formula(graph):
    x, edge_index, w = graph
    m = neighbor_mean(x, edge_index)
    layer = PosteriorMeanAggregator(5, 4, w).double()
    hidden = torch.stack([layer.mlp[0](w_i * x_i + (1 - w_i) * m_i) for w_i, x_i, m_i in zip(w, x, m, strict=True)])
    close(layer(x, m), layer.mlp[2](hidden.clamp(min=0)))
    close(regnet.posterior_mean(x, m, w), layer.shrinkage(x, m))


@pytest.mark.parametrize("kind", [PosteriorMeanAggregator, PosteriorMeanConv])
def test_w_eff_is_the_given_weight_by_every_route(kind, graph):
    x, edge_index, w = graph
    layer, m = kind(5, 16, w).double(), neighbor_mean(x, edge_index)
    expected = w.masked_fill(regnet.in_degree(edge_index, 12) == 0, torch.nan)
    assert expected.isnan().any()
    on_graph = {
        "engine": regnet.effective_weight_on_graph(layer, x, edge_index),
        "CSR": regnet.effective_weight_on_graph(layer, x.to_sparse_csr(), edge_index),
    }
    for weight in on_graph.values():
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-12, equal_nan=True)
    jacobians = []
    for method in ("exact", "jvp"):
        torch.testing.assert_close(regnet.effective_weight(layer, x, m, method), w, rtol=0, atol=1e-12)
    if kind is PosteriorMeanAggregator:
        for i in range(12):
            A, B = torch.func.jacrev(lambda x, m: layer(x, m), argnums=(0, 1))(x, m)
            jacobians.append((A[i, :, i] @ (x - m)[i], B[i, :, i] @ (x - m)[i]))
        brute = torch.stack([a.norm() / (a.norm() + b.norm()) for a, b in jacobians])
        torch.testing.assert_close(brute, w, rtol=0, atol=1e-12)
        torch.testing.assert_close(regnet.secant_weight(layer.shrinkage, x, m), w, rtol=0, atol=1e-12)


def test_blocks_of_a_matrix_on_disk_give_the_same(graph):
    da = pytest.importorskip("dask.array")
    x, edge_index, w = graph
    x[edge_index[1, 0]] = neighbor_mean(x, edge_index)[edge_index[1, 0]] + 1e-9  # of which delta is recomputed
    layer = PosteriorMeanAggregator(5, 4, w).double()
    blocks = regnet.sensitivities_on_graph(layer, da.from_array(x.numpy(), chunks=(12, 2)), edge_index)
    memory = regnet.sensitivities_on_graph(layer, x, edge_index)
    close(blocks.self_sensitivity, memory.self_sensitivity)
    close(blocks.neighbor_sensitivity, memory.neighbor_sensitivity)


def test_the_affine_map_and_the_kinks_of_the_layer(normal):
    layer, x, m = PosteriorMeanAggregator(5, 4, torch.tensor(0.3, dtype=torch.float64)).double(), normal(7, 5), normal(7, 5)
    A, B, b = regnet.local_affine(layer, x[0], m[0])
    close(A @ x[0] + B @ m[0] + b, layer(x, m)[0])
    close(B, A * 0.7 / 0.3)
    general = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 4)).double()
    general[0].weight.data = torch.cat([0.3 * layer.mlp[0].weight, 0.7 * layer.mlp[0].weight], dim=1).detach()
    general[0].bias, general[2] = layer.mlp[0].bias, layer.mlp[2]
    for mine, other in zip(regnet.kink_distance(layer, x, m), regnet.kink_distance(general, x, m), strict=True):
        close(mine, other)


def test_a_hook_or_a_subclass_is_not_read_as_the_layer(graph):
    x, edge_index, w = graph

    class Other(PosteriorMeanAggregator):
        def forward(self, x, m):
            return super().forward(m, x)

    other = Other(5, 4, w).double()
    weight = regnet.effective_weight_on_graph(other, x, edge_index)
    known = regnet.in_degree(edge_index, 12) > 0
    close(weight[known], 1 - w[known])  # differentiated, and not read


@pytest.mark.parametrize("bias", [False, True])
def test_the_convolution_is_one_of_pyg(bias, graph):
    x, edge_index, w = graph
    conv = PosteriorMeanConv(5, 3, w, bias=bias).double()
    mean = neighbor_mean(x, edge_index)
    known = regnet.in_degree(edge_index, 12) > 0
    expected = conv.lin(torch.where(known[:, None], regnet.posterior_mean(x, mean, w), x))
    close(conv(x, edge_index), expected)
    ones = torch.ones(edge_index.size(1)).double()
    adj_t = torch.sparse_coo_tensor(edge_index.flip(0), ones, (12, 12), check_invariants=True).coalesce()
    for adjacency in (
        adj_t,
        adj_t.to_sparse_csr(),
        adj_t.to_sparse_csc(),
        torch.sparse_coo_tensor(adj_t.indices(), ones, (12, 12), check_invariants=True),
    ):
        close(conv(x, adjacency), expected)
    assert repr(conv) == "PosteriorMeanConv(5, 3)"
    turned = PosteriorMeanConv(5, 3, w, bias=bias, flow="target_to_source").double()
    turned.load_state_dict(conv.state_dict())
    close(turned(x, edge_index.flip(0)), expected)
    close(
        regnet.effective_weight_on_graph(turned, x, edge_index.flip(0)),
        regnet.effective_weight_on_graph(conv, x, edge_index),
    )


def test_two_node_sets_of_a_bipartite_graph(normal):
    sources, targets, edge_index = normal(4, 5), normal(3, 5), torch.tensor([[0, 1, 3], [0, 0, 2]])
    conv = PosteriorMeanConv(5, 2, torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64)).double()
    out = conv((sources, targets), edge_index)
    close(out[0], conv.lin(0.2 * targets[0] + 0.4 * (sources[0] + sources[1])))
    close(out[1], conv.lin(targets[1]))  # no neighbour, no prior mean
    close(out, conv((sources, targets), edge_index, size=(4, 3)))
    with pytest.raises(ValueError, match="needs both"):
        conv((sources, None), edge_index)
    with pytest.raises(ValueError, match="weights of 3 nodes; got features of 4"):
        conv(sources, edge_index)


def test_lazy_channels_and_static_graphs(graph):
    x, edge_index, w = graph
    lazy = PosteriorMeanConv((-1, -1), 3, w).double()
    out = lazy(x, edge_index)
    assert lazy.lin.weight.shape == (3, 5)
    close(lazy(torch.stack([x, 2 * x]), edge_index)[0], out)
    close(
        regnet.effective_weight_on_graph(lazy, x, edge_index),
        regnet.effective_weight_on_graph(PosteriorMeanConv(5, 3, w).double(), x, edge_index),
    )
    with pytest.raises(ValueError, match="one number of features"):
        PosteriorMeanConv((5, 4), 3)
    with pytest.raises(ValueError, match="node_dim=-2; got 0"):
        PosteriorMeanConv(5, 3, w, node_dim=0)


@pytest.mark.parametrize("num_nodes", [None, 12])
def test_learned_weights_get_gradients_and_survive_a_state_dict(num_nodes, graph, tmp_path):
    x, edge_index, _ = graph
    conv = PosteriorMeanConv(5, 3, num_nodes=num_nodes).double()
    assert torch.autograd.gradcheck(
        lambda logit: torch.func.functional_call(conv, {"shrinkage.logit": logit}, (x, edge_index)),
        torch.zeros_like(conv.shrinkage.logit).normal_().requires_grad_(),
    )
    conv(x, edge_index).square().sum().backward()
    gradient = conv.shrinkage.logit.grad.clone()
    known = regnet.in_degree(edge_index, 12) > 0
    assert (gradient[known] if num_nodes else gradient).abs().min() > 0
    if num_nodes:
        assert not gradient[~known].any()
    conv.shrinkage.logit.data.normal_()
    torch.save(conv.state_dict(), tmp_path / "conv.pth")
    again = PosteriorMeanConv(5, 3, num_nodes=num_nodes).double()
    again.load_state_dict(torch.load(tmp_path / "conv.pth", weights_only=True))
    close(again(x, edge_index), conv(x, edge_index))
    close(regnet.effective_weight_on_graph(conv, x, edge_index)[known], conv.shrinkage.weight.expand(12)[known])
    conv.reset_parameters()
    assert not conv.shrinkage.logit.any() and (conv.lin.weight != again.lin.weight).all()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (1.5, r"in \[0, 1\].*got 1.5 to 1.5"),
        (torch.tensor([0.5, -0.1]), "got -0.1 to 0.5"),
        (torch.ones(2, 2), r"got shape \(2, 2\)"),
        ("counts", "'counts'"),
    ],
)
def test_weights_that_are_none_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        PosteriorMeanConv(5, 3, weight)


def test_nan_is_a_weight_of_one():
    close(Shrinkage(torch.tensor([torch.nan, 0.5])).weight, torch.tensor([1.0, 0.5]))


def test_a_node_classifier_learns_with_it_as_with_sageconv(tmp_path):
    """The example of chapter 15, on a graph that PyG generates."""
    torch.manual_seed(0)
    data = StochasticBlockModelDataset(str(tmp_path), [150, 150], [[0.05, 0.01], [0.01, 0.05]])[0]
    data.x = torch.randn(300, 8) + 0.5 * data.y[:, None]
    train, accuracy = torch.rand(300) < 0.3, {}
    for make in (SAGEConv, PosteriorMeanConv):
        torch.manual_seed(1)
        convs = nn.ModuleList([make(8, 16), make(16, 2)])
        optimizer = torch.optim.Adam(convs.parameters(), lr=0.01)
        for _ in range(100):
            optimizer.zero_grad()
            out = convs[1](convs[0](data.x, data.edge_index).relu(), data.edge_index)
            F.cross_entropy(out[train], data.y[train]).backward()
            optimizer.step()
        accuracy[make.__name__] = float((out.argmax(dim=1) == data.y)[~train].double().mean())
    assert min(accuracy.values()) > 0.85, accuracy
    assert convs[0].shrinkage.weight != 0.5


# In RegNet


def test_regnet_with_it_has_the_weight_before_and_after_training(tiny_data):
    w = torch.linspace(0.1, 0.9, 40, dtype=torch.float64)
    trained = regnet.pretrain(tiny_data, aggregator="posterior-mean", weight=w, max_epochs=6)
    table = regnet.shrinkage_table(trained.model.graphsage.layers[0].agg, tiny_data, trained.edge_index)
    known = (table["in_degree"] > 0).to_numpy()
    assert known.sum() > 20
    close(torch.tensor(table["w_eff"].to_numpy())[known], w[known])
    assert trained.settings["aggregator"] == "posterior-mean" and len(trained.settings["weight"]) == 64


def test_a_gene_without_regulators_keeps_its_own_expression(normal):
    model = RegNet(5, 8, 4, aggregator="posterior-mean", weight=0.25).double().eval()
    x, layer = normal(3, 5), model.graphsage.layers[0]
    out = layer(x, torch.tensor([[0], [1]]))
    close(out[0], layer.agg.mlp(x[0]))
    close(out[1], layer.agg.mlp(0.25 * x[1] + 0.75 * x[0]))
    assert RegNet(5, 8, 4).graphsage.layers[0].agg.mlp[0].weight.numel() == 2 * layer.agg.mlp[0].weight.numel()
    assert isinstance(model.graphsage.layers[1].agg, regnet.model.MLPAggregator)


def test_weights_of_the_counts_behind_x_use_the_training_edges_alone(tiny_data):
    torch.manual_seed(0)
    counts = torch.poisson(tiny_data.x.exp())
    tiny_data.x = torch.log1p(counts * 1e3 / counts.sum(dim=0).double())
    trained = regnet.pretrain(tiny_data, aggregator="posterior-mean", weight="counts", max_epochs=2)
    expected = bayes_weight(counts, trained.edge_index, 1e3 / counts.sum(dim=0).double())
    close(trained.model.graphsage.layers[0].agg.shrinkage.weight, expected.nan_to_num(nan=1.0))
    assert (expected > 0).sum() > 10 and trained.settings["weight"] == "counts"


def test_the_second_layer_is_read_from_what_the_first_one_gives(normal, tmp_path):
    model = RegNet(5, 8, 4, aggregator="posterior-mean", weight=0.25).eval()
    x, edge_index = normal(4, 5).float(), torch.tensor([[0, 3], [1, 1]])
    torch.testing.assert_close(
        output_on_graph(model.graphsage.layers[0].agg, x, edge_index), model.graphsage.layers[0](x, edge_index)
    )
    torch.save(model.state_dict(), tmp_path / "model.pth")
    layers, notices = load_layers(tmp_path / "model.pth", "graphsage.layers.1.agg")
    assert notices == [] and len(layers) == 2
    torch.testing.assert_close(layers[0](x, x), model.graphsage.layers[0].agg(x, x))
    model = RegNet(5, 8, 4, aggregator="posterior-mean", weight=torch.rand(4, dtype=torch.float64))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    assert "4 genes, which must come in the same order" in load_layers(tmp_path / "model.pth")[1][0]


def test_edges_train_the_learned_weights(tiny_data):
    trained = regnet.pretrain(tiny_data, aggregator="posterior-mean", weight="learned", max_epochs=8)
    weight = trained.model.graphsage.layers[0].agg.shrinkage.weight
    assert weight.shape == (40,)
    targets = regnet.in_degree(trained.edge_index, 40) > 0
    assert (weight[targets] != 0.5).all() and (weight[~targets] == 0.5).all()
    model = RegNet(12, aggregator="posterior-mean", weight="learned", num_genes=40).double()
    model.load_state_dict(trained.model.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregator": "gat"}, "aggregator must be"),
        ({"aggregator": "posterior-mean"}, "weight belongs to"),
        ({"weight": 0.5}, "weight belongs to"),
        ({"aggregator": "posterior-mean", "weight": "edges"}, 'weight must be "counts"'),
        ({"aggregator": "posterior-mean", "weight": torch.ones(39)}, r"one a gene \(40,\)"),
        ({"aggregator": "posterior-mean", "weight": "counts"}, "not log1p of whole counts"),
    ],
)
def test_what_cannot_be_such_a_layer_is_refused(options, message, tiny_data):
    with pytest.raises(ValueError, match=message):
        regnet.pretrain(tiny_data, max_epochs=1, **options)


# Bayes' weight


@pytest.fixture(scope="module")
def counted():
    """Rates of 300 genes in 400 cells from gamma laws, and the depth of the cells."""
    rng = torch.Generator().manual_seed(0)
    depth = 2000 * torch.rand(400, generator=rng).mul(1.2).exp()
    mean = torch.logspace(-4, -1.5, 300)[:, None]
    rates = mean * torch.distributions.Gamma(2.0, 2.0).sample((300, 400))
    return rates, depth


def test_the_noise_of_the_logarithm_is_that_of_repeated_counting(counted):
    torch.manual_seed(1)
    rates, depth = counted
    per_count = 1e4 / depth
    repeats = torch.stack([torch.log1p(per_count * torch.poisson(rates * depth)) for _ in range(60)]).double()
    truth = repeats.var(dim=0).mean(dim=1)
    modelled = log_noise_variance(torch.poisson(rates * depth), per_count)
    often = (rates * depth).sum(dim=1) > 100
    assert often.sum() > 150
    assert ((modelled / truth)[often] - 1).abs().mean() < 0.05
    constant = log_noise_variance(torch.poisson(rates * depth), per_count, laws=1, varying=False)
    assert ((constant / truth)[often] - 1).abs().mean() > 0.15


def test_the_noise_of_many_molecules_is_where_the_expansion_takes_over():
    per_count, mean = torch.full((2000,), 5.0), 60.0
    counts = torch.full((1, 2000), mean) + torch.tensor([-8.0, 8.0]).repeat(1000)  # variance 64: hardly more than Poisson
    draws = torch.log1p(5.0 * torch.tensor(stats.poisson.rvs(mean, size=200_000, random_state=0), dtype=torch.float64))
    assert abs(log_noise_variance(counts, per_count, laws=1).item() / draws.var().item() - 1) < 0.03


def test_beyond_the_grid_of_the_model_the_noise_goes_on_falling():
    counts = torch.full((1, 4000), 1e4) + torch.tensor([-100.0, 100.0]).repeat(2000)
    assert log_noise_variance(counts, torch.full((4000,), 5.0), laws=1).item() == pytest.approx(1e-4, rel=0.05)


def test_nothing_counted_is_nan():
    assert bayes_weight(torch.zeros(3, 2), torch.tensor([[0], [1]])).isnan().all()
    assert bayes_weight(torch.tensor([[3], [4]]), torch.tensor([[0], [1]])).isnan().tolist() == [True, False]


def test_bayes_weight_is_eq_1_of_the_model_and_the_residual(counted):
    torch.manual_seed(2)
    rates, depth = counted
    counts, edge_index = torch.poisson(rates * depth), torch.stack([torch.arange(299), torch.arange(1, 300)])
    counts[5] = counts[4] = 0
    x = torch.log1p(1e4 / depth.double() * counts)
    noise = log_noise_variance(counts, 1e4 / depth.double())
    excess = ((x - neighbor_mean(x, edge_index)) ** 2).mean(dim=1) - noise
    weight = bayes_weight(counts, edge_index, 1e4 / depth.double())
    assert weight.isnan().nonzero().flatten().tolist() == [0, 4, 5]  # no regulator; nothing counted
    known = ~weight.isnan()
    close(weight[known], (excess / (noise + excess)).clamp(min=0)[known])
    assert weight.dtype == torch.float64
    whole = counts.sum(dim=0)
    close(bayes_weight(counts, edge_index), bayes_weight(counts, edge_index, 1e4 / whole.double()))


def test_a_cell_without_counts_says_nothing(counted):
    torch.manual_seed(3)
    rates, depth = counted
    counts, edge_index = torch.poisson(rates * depth), torch.stack([torch.arange(299), torch.arange(1, 300)])
    counts[:, 0] = 0
    log = torch.log1p(1e4 / depth.double() * counts)
    molecules, per_count = regnet.recover_counts(log)
    assert per_count[0].isinf()
    assert bayes_weight(molecules, edge_index, per_count)[1:].isfinite().all()


@pytest.mark.parametrize(
    ("counts", "per_count", "message"),
    [
        (torch.tensor([[0.5, 1], [2, 3]]), None, "whole numbers"),
        (
            torch.tensor([[1, 1], [2, 3]]),
            torch.ones(3),
            r"per_count must be one positive number for each of 2 cells; .*\(3,\)",
        ),
        (torch.tensor([[1, 1], [2, 3]]), torch.tensor([0.0, 1.0]), "got 0 to 1"),
        (torch.tensor([1, 2]), None, r"\(genes, cells\)"),
    ],
)
def test_counts_that_are_none_are_refused(counts, per_count, message):
    with pytest.raises(ValueError, match=message):
        bayes_weight(counts, torch.tensor([[0], [1]]), per_count)


def test_bayes_weight_of_real_counts_predicts_the_best_weight_on_other_cells():
    data = regnet.load_dataset("pbmc68k", dtype=torch.float64)
    counts, per_count = regnet.recover_counts(data.x)
    first, second = regnet.split_counts(counts)
    x1, x2 = (torch.log1p(2 * per_count * half) for half in (first, second))
    m1 = neighbor_mean(x1, data.edge_index)
    weight = bayes_weight(first[:, ::2], data.edge_index, 2 * per_count[::2])
    d1, d2 = (x1 - m1)[:, 1::2], (x2 - m1)[:, 1::2]
    best = (d1 * d2).mean(dim=1) / (d1**2).mean(dim=1)
    known = ~weight.isnan() & ~best.isnan()
    assert stats.spearmanr(weight[known], best[known])[0] > 0.7
