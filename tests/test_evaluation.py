"""The split of known edges, and the test metrics beside their baselines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import pairs
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from regnet import RegNet
from regnet.evaluation import _correlation, evaluate, split_edges
from regnet.structure import pair_features

PARTS = [f"{part}_{kind}" for part in ("train", "val", "test") for kind in ("edges", "non_edges")]


def parts(split):
    return {name: pairs(getattr(split, name)) for name in PARTS}


@given(num_genes=st.integers(1, 12), data=st.data(), seed=st.integers(0, 50))
def test_any_graph_is_split_into_disjoint_parts_that_cover_every_pair_of_its_regulators(num_genes, data, seed):
    gene = st.integers(0, num_genes - 1)
    edges = data.draw(st.lists(st.tuples(gene, gene), min_size=1, max_size=20))
    split = split_edges(torch.tensor(edges).T, num_genes, seed)
    members = parts(split)
    everything = set().union(*members.values())
    assert sum(getattr(split, name).size(1) for name in PARTS) == len(everything), "no pair twice"
    regulators = {regulator for regulator, _ in edges}
    own = {(regulator, regulator) for regulator in regulators} - set(edges)
    assert everything == {(regulator, target) for regulator in regulators for target in range(num_genes)} - own
    assert {pair for name in PARTS if "non" not in name for pair in members[name]} == set(edges)
    unordered = {part: {frozenset(pair) for kind in ("edges", "non_edges") for pair in members[f"{part}_{kind}"]}
                 for part in ("train", "val", "test")}  # fmt: skip
    assert sum(map(len, unordered.values())) == len(set().union(*unordered.values())), "both orders of a pair in one part"


def test_mutual_edges_are_shared_out_between_their_two_regulators():
    """Every gene regulates every other: whoever splits a pair, each keeps near 60 % of its targets for training."""
    everything = (1 - torch.eye(40)).nonzero().T
    out_degree = torch.bincount(split_edges(everything, 40).train_edges[0])
    assert (out_degree - 0.6 * 39).abs().max() < 4 * (39 * 0.6 * 0.4) ** 0.5


def test_each_regulator_is_split_60_10_30(tiny_data):
    """But for the pairs with the three other regulators, which one of the two splits."""
    split = split_edges(tiny_data.edge_index, 40)
    for regulator in range(4):
        for kind in ("edges", "non_edges"):
            targets = [getattr(split, f"{part}_{kind}") for part in ("train", "val", "test")]
            sizes = [int((part[0] == regulator).sum()) for part in targets]
            others = sum(int(((part[0] == regulator) & (part[1] < 4)).sum()) for part in targets)
            assert abs(sizes[1] - 0.1 * sum(sizes)) <= 0.5 + 0.9 * others
            assert abs(sizes[2] - 0.3 * sum(sizes)) <= 0.5 + 0.7 * others


@pytest.mark.parametrize(("targets", "sizes"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (2, 0, 1)), (10, (6, 1, 3))])
def test_the_sizes_of_small_parts(targets, sizes):
    split = split_edges(torch.tensor([[0] * targets, list(range(1, targets + 1))]), 30)
    assert tuple(getattr(split, f"{part}_edges").size(1) for part in ("train", "val", "test")) == sizes


def test_the_split_depends_on_the_seed_and_on_neither_the_order_of_edges_nor_the_global_state(tiny_data):
    edge_index, state = tiny_data.edge_index, torch.get_rng_state()
    expected = split_edges(edge_index, 40, seed=4)
    for same in (edge_index.flip(1), torch.cat([edge_index, edge_index], dim=1)):
        assert parts(split_edges(same, 40, seed=4)) == parts(expected)
    assert parts(split_edges(edge_index, 40, seed=5)) != parts(expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_split_refuses_what_is_no_graph():
    with pytest.raises(ValueError, match="does not exist"):
        split_edges(torch.tensor([[0], [3]]), 3)


def test_the_metrics_recomputed(tiny_data):
    """Degree and structure are counted in the training graph alone, and the regression sees training pairs alone."""
    torch.manual_seed(0)
    x, split, model = tiny_data.x, split_edges(tiny_data.edge_index, 40), RegNet(12).double().eval()
    metrics = evaluate(model, x, split)
    tested = torch.cat([split.test_edges, split.test_non_edges], dim=1)
    labels = [1] * split.test_edges.size(1) + [0] * split.test_non_edges.size(1)
    graph = split.train_edges.T.tolist()
    in_training = torch.cat([split.train_edges, split.train_non_edges], dim=1)
    regression = LogisticRegression(class_weight="balanced", solver="newton-cholesky", tol=1e-10, max_iter=200).fit(
        pair_features(split.train_edges, 40, in_training), np.arange(in_training.size(1)) < split.train_edges.size(1)
    )
    with torch.no_grad():
        scores = {
            "": model(x, split.train_edges, tested).logits.tolist(),
            "_degree": [sum(r == a for r, _ in graph) * sum(t == b for _, t in graph) for a, b in tested.T.tolist()],
            "_structure": regression.decision_function(pair_features(split.train_edges, 40, tested)).tolist(),
            "_correlation": [abs(stats.pearsonr(x[a].numpy(), x[b].numpy()).statistic) for a, b in tested.T.tolist()],
        }
    for suffix, score in scores.items():
        assert metrics[f"auroc{suffix}"] == pytest.approx(roc_auc_score(labels, score), rel=1e-10)
        assert metrics[f"auprc{suffix}"] == pytest.approx(average_precision_score(labels, score), rel=1e-10)
    positive, negative = score[: sum(labels)], score[sum(labels) :]
    u = stats.mannwhitneyu(positive, negative).statistic
    assert metrics["auroc_correlation"] == pytest.approx(u / len(positive) / len(negative), rel=1e-10)
    assert metrics["positives"] == pytest.approx(np.mean(labels), rel=1e-10)
    for part in ("train", "val", "test"):
        assert metrics[f"{part}_edges"] == getattr(split, f"{part}_edges").size(1)


def test_the_correlation_of_many_cells_is_added_up_from_blocks():
    x = torch.randn(2, 2**23 + 99, generator=torch.Generator().manual_seed(0), dtype=torch.float64).add_(5)
    x[1, -50:] += 1000  # in the second block
    x[0, -50:] -= 1000
    torch.testing.assert_close(_correlation(x), torch.corrcoef(x), rtol=1e-10, atol=0)


def test_the_baselines_do_not_see_which_test_pairs_are_edges():
    """Edges of a random graph cannot be told: a baseline that is computed with test edges tells them almost perfectly."""
    generator = torch.Generator().manual_seed(0)
    edge_index = (torch.rand(60, 60, generator=generator) < 0.1).nonzero().T
    metrics = evaluate(RegNet(5).eval(), torch.randn(60, 5, generator=generator), split_edges(edge_index, 60))
    assert all(abs(metrics[f"auroc{name}"] - 0.5) < 0.1 for name in ("_degree", "_structure", "_correlation"))
