"""The structural features of a pair, judged by counting on a graph from which the pair's own edge was really removed."""

from __future__ import annotations

import networkx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regnet.structure import pair_features


@st.composite
def graphs(draw):
    num_genes = draw(st.integers(2, 7))
    edge = st.tuples(st.integers(0, num_genes - 1), st.integers(0, num_genes - 1))
    edges = draw(st.lists(edge, min_size=1, max_size=20, unique=True))
    pair = draw(edge)
    return num_genes, edges, pair


@given(graphs())
def test_features_count_in_the_graph_without_the_pairs_own_edge(case):
    num_genes, edges, (i, j) = case
    graph = networkx.DiGraph([edge for edge in edges if edge != (i, j)])
    graph.add_nodes_from(range(num_genes))
    paths = sum(graph.has_edge(r, j) for k in graph.successors(i) for r in graph.predecessors(k))
    outgoing, incoming = (torch.tensor(float(d)).log1p() for d in (graph.out_degree(i), graph.in_degree(j)))
    expected = torch.tensor([outgoing, incoming, outgoing * incoming, torch.tensor(float(paths)).log1p()])
    found = pair_features(torch.tensor(edges).T, num_genes, torch.tensor([[i], [j]]))
    torch.testing.assert_close(found[0], expected.double(), rtol=1e-6, atol=0)


def test_many_pairs_at_once_are_the_pairs_one_by_one(random_graph):
    edge_index = random_graph(30, 120)
    pairs = torch.cat([edge_index[:, :20], edge_index[:, :20].flip(0)], dim=1)
    together = pair_features(edge_index, 30, pairs)
    alone = torch.cat([pair_features(edge_index, 30, pairs[:, [k]]) for k in range(40)])
    assert together.shape == (40, 4)
    assert torch.equal(together, alone)


def test_repeated_edges_and_the_order_of_edges_do_not_matter(random_graph):
    edge_index = random_graph(20, 50)
    pairs = torch.randint(20, (2, 30), generator=torch.Generator().manual_seed(0))
    expected = pair_features(edge_index, 20, pairs)
    assert torch.equal(pair_features(torch.cat([edge_index, edge_index], dim=1), 20, pairs), expected)
    assert torch.equal(pair_features(edge_index.flip(1), 20, pairs), expected)
    assert torch.equal(pair_features(edge_index.int(), 20, pairs.int()), expected)


def test_pairs_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"edge 0 \(-1 -> 2\) names a gene"):
        pair_features(torch.tensor([[0], [1]]), 3, torch.tensor([[-1], [2]]))
    with pytest.raises(ValueError, match="edge_index is empty"):
        pair_features(torch.zeros(2, 0, dtype=torch.long), 3, torch.tensor([[0], [1]]))
