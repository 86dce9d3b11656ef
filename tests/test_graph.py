"""Edges, in-degrees, neighbour means and rewiring."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch
from examples import close
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.nn import SAGEConv

from regnet.checks import check_edge_index, check_expression
from regnet.graph import in_degree, mean_over_regulators, neighbor_mean, rewire


def dense_mean(x, edge_index):
    """Abar x with the matrix written out: the slow, obvious route."""
    adjacency = torch.zeros(x.size(0), x.size(0), dtype=x.dtype)
    for regulator, target in edge_index.T.tolist():
        adjacency[target, regulator] += 1
    return adjacency / adjacency.sum(dim=1, keepdim=True).clamp(min=1) @ x


def sage_mean(x, edge_index):
    """The mean that PyG's SAGEConv takes: its identity lin_l and nothing else."""
    conv = SAGEConv(x.size(1), x.size(1), root_weight=False, bias=False).to(x.dtype)
    torch.nn.init.eye_(conv.lin_l.weight)
    with torch.no_grad():
        return conv(x, edge_index)


def test_the_mean_is_that_of_pyg_where_edges_are_repeated_too(normal, random_graph):
    x, edge_index = normal(15, 6), random_graph(15, 60)
    edge_index = torch.cat([edge_index, edge_index[:, :9]], dim=1)
    torch.testing.assert_close(neighbor_mean(x, edge_index), sage_mean(x, edge_index), rtol=1e-10, atol=1e-14)


def test_int32_edges_do_as_int64(normal, random_graph):
    x, edge_index = normal(6, 2), random_graph(6, 12)
    assert torch.equal(neighbor_mean(x, edge_index.int()), neighbor_mean(x, edge_index))
    assert torch.equal(in_degree(edge_index.int(), 6), in_degree(edge_index, 6))


@given(
    genes=st.integers(1, 6),
    cells=st.integers(0, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    data=st.data(),
)
def test_mean_of_any_shape(genes, cells, dtype, data):
    gene = st.integers(0, genes - 1)
    edges = data.draw(st.lists(st.tuples(gene, gene), min_size=1, max_size=12))
    edge_index = torch.tensor(edges).T
    x = torch.arange(genes * cells, dtype=dtype).reshape(genes, cells) ** 2 - 3
    m = neighbor_mean(x, edge_index)
    assert m.shape == x.shape and m.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(m, dense_mean(x, edge_index), rtol=tolerance, atol=600 * tolerance)
    count = in_degree(edge_index, genes)
    assert count.dtype == torch.int64 and count.tolist() == [
        sum(target == gene for _, target in edges) for gene in range(genes)
    ]
    assert (m[count == 0] == 0).all()


def test_mean_is_differentiable_in_every_way(normal, random_graph):
    x, edge_index = normal(5, 2).requires_grad_(), random_graph(5, 8)
    assert torch.autograd.gradcheck(lambda x: mean_over_regulators(x, edge_index), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: mean_over_regulators(x, edge_index) ** 2, x)
    rows = torch.func.jacrev(lambda x: mean_over_regulators(x, edge_index))(x)
    close(rows, torch.func.jacfwd(lambda x: mean_over_regulators(x, edge_index))(x))
    close(torch.einsum("icjd,jd->ic", rows, x), mean_over_regulators(x, edge_index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 3, 49, 98])
def test_the_mean_of_equal_numbers_is_that_number(count, dtype):
    """Multiplied by a rounded 1/49 it would be another, and a unit that is exactly at 0 would be on."""
    x = torch.full((count + 1, 2), 0.7, dtype=dtype)
    x[:, 1] = 3
    m = neighbor_mean(x, torch.tensor([list(range(count)), [count] * count]))[count]
    assert m[1] == 3 and (dtype == torch.float64 or m[0] == x[0, 0])


def test_in_float32_the_mean_is_summed_in_float64(normal):
    x = (1e6 + normal(40, 3)).float()
    edge_index = torch.tensor([list(range(39)), [39] * 39])
    assert torch.equal(neighbor_mean(x, edge_index)[39], x[:39].double().mean(dim=0).float())


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.zeros(2, 2, dtype=torch.int64), TypeError, ["float32 or float64", "torch.int64", "torch.as_tensor"]),
        ([[1.0]], TypeError, ["float32 or float64", "list"]),
        (torch.zeros(3), ValueError, ["(genes, cells)", "(3,)"]),
        (torch.zeros(1, 2, 3), ValueError, ["(genes, cells)", "(1, 2, 3)"]),
        (torch.eye(2).to_sparse(), TypeError, ["dense", "torch.sparse_coo", "counts.to_dense()"]),
        (
            torch.tensor([[0.0, 1.0], [float("nan"), float("nan")]]),
            ValueError,
            ["finite", "nan", "gene 1, cell 0", "2 such entries"],
        ),
        (torch.tensor([[0.0, float("inf")]]), ValueError, ["finite", "inf", "gene 0, cell 1", "1 such entry "]),
        (torch.tensor([[0.0, -float("inf")]]), ValueError, ["finite", "-inf", "gene 0, cell 1"]),
    ],
)
def test_unusable_expression_is_refused(x, error, words):
    with pytest.raises(error) as caught:
        check_expression(x, "counts")
    assert str(caught.value).startswith("counts must be")
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(error):
        neighbor_mean(x, torch.tensor([[0], [0]]))


@pytest.mark.parametrize(
    ("edge_index", "error", "words"),
    [
        (torch.tensor([[0.0], [1.0]]), TypeError, ["integer", "torch.float32"]),
        ([[0], [1]], TypeError, ["integer", "list"]),
        (torch.tensor([0, 1]), ValueError, ["(2, edges)", "(2,)"]),
        (torch.tensor([[0, 1, 2]]), ValueError, ["(2, edges)", "(1, 3)", "regulators in row 0"]),
        (torch.tensor([[0, 1]] * 3), ValueError, ["(2, edges)", "(3, 2)", "transpose it, edge_index.T"]),
        (torch.empty(2, 0, dtype=torch.long), ValueError, ["empty", "no gene has a regulator"]),
        (torch.tensor([[0, 3], [1, 1]]), ValueError, ["edge 1 (3 -> 1)", "does not exist", "3 genes, numbered 0 to 2"]),
        (torch.tensor([[0], [-1]]), ValueError, ["edge 0 (0 -> -1)", "does not exist"]),
    ],
)
def test_unusable_edges_are_refused(edge_index, error, words):
    for call in (
        lambda: check_edge_index(edge_index, 3),
        lambda: in_degree(edge_index, 3),
        lambda: neighbor_mean(torch.zeros(3, 2), edge_index),
    ):
        with pytest.raises(error) as caught:
            call()
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rewire_keeps_degrees_and_makes_a_simple_graph(random_graph, seed):
    edge_index = random_graph(20, 70)
    rewired, narrow = rewire(edge_index, seed), rewire(edge_index.int(), seed)
    assert torch.equal(narrow.long(), rewired) and (narrow.dtype, rewired.dtype) == (torch.int32, torch.int64)
    assert torch.equal(rewired[0], edge_index[0])
    assert Counter(rewired[1].tolist()) == Counter(edge_index[1].tolist())
    assert len(set(map(tuple, rewired.T.tolist()))) == 70
    assert (rewired[0] != rewired[1]).all()
    kept = set(map(tuple, rewired.T.tolist())) & set(map(tuple, edge_index.T.tolist()))
    assert len(kept) < 0.5 * 70  # a density of 0.19 would keep about 13


def test_rewire_is_reproducible_and_leaves_its_input_and_the_global_state(random_graph):
    edge_index = random_graph(15, 40)
    before, state = edge_index.clone(), torch.get_rng_state()
    assert torch.equal(rewire(edge_index), rewire(edge_index, 0, 10))
    assert not torch.equal(rewire(edge_index), rewire(edge_index, 0, 11))
    first = rewire(edge_index, seed=5)
    assert torch.equal(first, rewire(edge_index, seed=5))
    assert not torch.equal(first, rewire(edge_index, seed=6))
    assert torch.equal(edge_index, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_rewire_keeps_a_graph_that_has_only_one_realisation():
    star = torch.tensor([[0, 0, 0], [1, 2, 3]])
    assert torch.equal(rewire(star), star)
    assert torch.equal(rewire(star, swaps_per_edge=0), star)


def test_rewire_reaches_every_graph_with_its_degrees():
    edge_index = torch.tensor([[0, 1, 2], [3, 4, 5]])
    assert {tuple(rewire(edge_index, seed)[1].tolist()) for seed in range(60)} == set(permutations((3, 4, 5)))


def test_rewire_refuses_what_is_no_graph():
    with pytest.raises(ValueError, match="empty"):
        rewire(torch.empty(2, 0, dtype=torch.long))
    with pytest.raises(TypeError, match="integer"):
        rewire(torch.tensor([[0.0], [1.0]]))
