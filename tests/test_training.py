"""The split, the training, the test metrics and the files."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score
from torch_geometric.data import Data

from regnet import effective_weight_on_graph, pretrain, training
from regnet.structure import pair_features
from regnet.training import EdgePrediction, EdgeSplit, evaluate, split_edges

PARTS = [f"{part}_{kind}" for part in ("train", "val", "test") for kind in ("edges", "non_edges")]


def pairs(edges):
    return set(map(tuple, edges.T.tolist()))


def parts(split):
    return {name: pairs(getattr(split, name)) for name in PARTS}


# split_edges


def test_the_parts_are_disjoint_and_cover_every_pair_of_the_regulators(tiny_data):
    split = split_edges(tiny_data.edge_index, 40)
    members = parts(split)
    assert sum(getattr(split, name).size(1) for name in PARTS) == sum(map(len, members.values())), (
        "no pair twice within a part"
    )
    everything = set().union(*members.values())
    assert sum(map(len, members.values())) == len(everything), "no pair in two parts"
    assert everything == {(regulator, target) for regulator in range(4) for target in range(40) if regulator != target}
    known = pairs(tiny_data.edge_index)
    assert set().union(*(members[name] for name in PARTS if "non" not in name)) == known
    assert not set().union(*(members[name] for name in PARTS if "non" in name)) & known


def test_each_regulator_is_split_60_10_30(tiny_data):
    split = split_edges(tiny_data.edge_index, 40)
    for regulator in range(4):
        for kind in ("edges", "non_edges"):
            train, val, test = (
                int((getattr(split, f"{part}_{kind}")[0] == regulator).sum()) for part in ("train", "val", "test")
            )
            total = train + val + test
            assert abs(val - 0.1 * total) <= 0.5 and abs(test - 0.3 * total) <= 0.5


def test_negatives_come_only_from_regulators_with_targets(tiny_data):
    split = split_edges(tiny_data.edge_index, 40)
    for part in ("train", "val", "test"):
        assert set(getattr(split, f"{part}_non_edges")[0].tolist()) == {0, 1, 2, 3}
        non_edges = getattr(split, f"{part}_non_edges")
        assert (non_edges[0] != non_edges[1]).all()


@pytest.mark.parametrize(
    ("targets", "sizes"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (2, 0, 1)), (10, (6, 1, 3)), (20, (12, 2, 6))]
)
def test_the_sizes_of_small_parts(targets, sizes):
    split = split_edges(torch.tensor([[0] * targets, list(range(1, targets + 1))]), 30)
    assert tuple(getattr(split, f"{part}_edges").size(1) for part in ("train", "val", "test")) == sizes


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_edges(tiny_data):
    edge_index = tiny_data.edge_index
    shuffled = edge_index[:, torch.randperm(edge_index.size(1), generator=torch.Generator().manual_seed(1))]
    doubled = torch.cat([shuffled, shuffled], dim=1)
    expected = split_edges(edge_index, 40, seed=4)
    for same in (edge_index, shuffled, doubled):
        assert parts(split_edges(same, 40, seed=4)) == parts(expected)
    assert parts(split_edges(edge_index, 40, seed=5)) != parts(expected)


def test_the_split_leaves_the_global_state(tiny_data):
    state = torch.get_rng_state()
    split_edges(tiny_data.edge_index, 40)
    assert torch.equal(torch.get_rng_state(), state)


@given(num_genes=st.integers(1, 12), data=st.data(), seed=st.integers(0, 50))
def test_any_graph_is_split_into_disjoint_parts(num_genes, data, seed):
    gene = st.integers(0, num_genes - 1)
    edges = data.draw(st.lists(st.tuples(gene, gene), min_size=1, max_size=20))
    members = parts(split_edges(torch.tensor(edges).T, num_genes, seed))
    everything = set().union(*members.values())
    assert sum(map(len, members.values())) == len(everything)
    regulators = {regulator for regulator, _ in edges}
    own = {(regulator, regulator) for regulator in regulators} - set(edges)
    assert everything == {(regulator, target) for regulator in regulators for target in range(num_genes)} - own
    assert {pair for name in PARTS if "non" not in name for pair in members[name]} == set(edges)


def test_the_split_refuses_what_is_no_graph():
    with pytest.raises(ValueError, match="empty"):
        split_edges(torch.empty(2, 0, dtype=torch.long), 3)
    with pytest.raises(ValueError, match="does not exist"):
        split_edges(torch.tensor([[0], [3]]), 3)


# pretrain


@pytest.fixture(scope="module")
def trained():
    """One short training that several tests look at, with the validation score of every epoch."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(40, 12, dtype=torch.float64, generator=generator)
    edge_index = torch.tensor(
        [[r, t] for r in range(4) for t in (4 + torch.randperm(36, generator=generator)[: 12 + r]).tolist()]
    ).T
    data = Data(x=x, edge_index=edge_index)
    scores = []
    original = EdgePrediction.log

    def log(self, name, value, **options):
        if name == "val_auprc":
            scores.append(float(value))
        original(self, name, value, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EdgePrediction, "log", log)
        result = pretrain(data, seed=2, max_epochs=80)
    return data, result, scores


def test_the_message_graph_is_the_training_edges_and_no_others(trained):
    data, result, _ = trained
    expected = split_edges(data.edge_index, 40, seed=2)
    assert parts(result.split) == parts(expected)
    assert pairs(result.edge_index) == pairs(expected.train_edges)
    for part in ("val_edges", "test_edges", "val_non_edges", "test_non_edges"):
        assert not pairs(result.edge_index) & pairs(getattr(result.split, part))


def test_no_validation_or_test_edge_reaches_the_model_as_a_message(tiny_data, monkeypatch):
    """Watches every call of the network, in training, in validation and in the test."""
    seen, scored_in_training = [], set()
    original = training.RegNet.forward

    def forward(self, x, edge_index, scored, *features):
        seen.append(pairs(edge_index))
        if self.training:
            assert not pairs(edge_index) & pairs(scored), "an edge that carries messages gives itself away"
            scored_in_training.update(pairs(scored))
        return original(self, x, edge_index, scored, *features)

    monkeypatch.setattr(training.RegNet, "forward", forward)
    split = pretrain(tiny_data, max_epochs=30).split
    assert len(seen) == 61  # thirty epochs, each with its validation, and the test
    known = pairs(split.train_edges)
    assert all(graph < known for graph in seen[:-1:2]) and all(graph == known for graph in seen[1::2])
    assert scored_in_training <= pairs(split.train_edges) | pairs(split.train_non_edges)
    assert pairs(split.train_edges) <= scored_in_training


def test_training_is_balanced(tiny_data, monkeypatch):
    counts = []
    original = EdgePrediction.training_step

    def step(self, batch, batch_idx):
        forward = self.model.forward

        def spy(x, edge_index, scored, features):
            counts.append((edge_index.size(1), scored.size(1), len(features)))
            return forward(x, edge_index, scored, features)

        monkeypatch.setattr(self.model, "forward", spy)
        try:
            return original(self, batch, batch_idx)
        finally:
            monkeypatch.setattr(self.model, "forward", forward)

    monkeypatch.setattr(EdgePrediction, "training_step", step)
    split = pretrain(tiny_data, max_epochs=2).split
    positives = split.train_edges.size(1)
    hidden = round(0.3 * positives)
    assert counts == [(positives - hidden, 2 * hidden, 2 * hidden)] * 2


def test_the_loss_is_the_documented_sum(tiny_data):
    """BCE + 0.01 KL + 0.1 MSE, with KL from torch.distributions."""
    torch.manual_seed(0)
    split = split_edges(tiny_data.edge_index, 40)
    model = training.RegNet(12, structural=True).double().eval()
    task = EdgePrediction(model, tiny_data.x, split)
    logged = {}
    task.log = lambda name, value, **_: logged.update({name: value})
    torch.manual_seed(1)
    loss = task.training_step(torch.zeros(1), 0)
    torch.manual_seed(1)
    shuffled = torch.randperm(split.train_edges.size(1))
    count = round(0.3 * len(shuffled))
    hidden, seen = split.train_edges[:, shuffled[:count]], split.train_edges[:, shuffled[count:]]
    drawn = split.train_non_edges[:, torch.randint(split.train_non_edges.size(1), (count,))]
    scored = torch.cat([hidden, drawn], dim=1)
    out = model(tiny_data.x, seen, scored, pair_features(split.train_edges, 40, scored))
    probability = out.logits.sigmoid()
    classification = -(probability[:count].log().sum() + (1 - probability[count:]).log().sum()) / (2 * count)
    posterior = torch.distributions.Normal(out.mu, (out.logvar / 2).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    reconstruction = ((out.reconstruction - out.hidden) ** 2).mean()
    torch.testing.assert_close(loss, classification + 0.01 * divergence + 0.1 * reconstruction, rtol=1e-10, atol=0)
    assert logged["loss"] is loss
    (group,) = task.configure_optimizers().param_groups
    assert group["lr"] == 1e-3 and len(group["params"]) == len(list(model.parameters()))


def test_with_no_hidden_edges_all_carry_messages_and_all_are_asked_for(tiny_data, monkeypatch):
    calls = []
    original = training.RegNet.forward

    def forward(self, x, edge_index, scored, features=None):
        calls.append((pairs(edge_index), pairs(scored), features))
        return original(self, x, edge_index, scored, features)

    monkeypatch.setattr(training.RegNet, "forward", forward)
    result = pretrain(tiny_data, max_epochs=2, **training.PLAIN)
    known = pairs(result.split.train_edges)
    for messages, scored, features in calls[:4:2]:  # training steps; between them is validation
        assert messages == known and known < scored and features is None
    assert result.model.structure is None


def test_the_untrained_model_is_the_one_that_training_starts_from(tiny_data, monkeypatch):
    """Adam's first step moves no weight by more than its learning rate."""
    state = torch.random.get_rng_state()
    start = training.untrained(tiny_data.x, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state) and not start.training
    after = pretrain(tiny_data, seed=5, max_epochs=1, **training.PLAIN).model
    pairs_of_weights = list(zip(after.parameters(), start.parameters(), strict=True))
    assert all((a - b).abs().max() < 1.001e-3 for a, b in pairs_of_weights)
    assert any(not torch.equal(a, b) for a, b in pairs_of_weights)
    assert next(training.untrained(tiny_data.x.float()).parameters()).dtype == torch.float32


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_of_hidden_edges_that_leaves_none_is_refused(tiny_data, share):
    with pytest.raises(ValueError, match="hidden_share must be at least 0 and below 1"):
        pretrain(tiny_data, hidden_share=share)


def test_the_structural_term_starts_as_the_logistic_regression(tiny_data):
    """The regression is a stationary point of its own penalised loss, and the untrained model adds it to its score."""
    split = split_edges(tiny_data.edge_index, 40)
    model = training.RegNet(12, structural=True).double().eval()
    EdgePrediction(model, tiny_data.x, split)
    scored = torch.cat([split.train_edges, split.train_non_edges], dim=1)
    features = pair_features(split.train_edges, 40, scored)
    weight, bias = model.structure.weight[0].detach().requires_grad_(), model.structure.bias.detach().requires_grad_()
    labels = (torch.arange(scored.size(1)) < split.train_edges.size(1)).double()
    balance = scored.size(1) / 2 / torch.where(labels > 0, labels.sum(), (1 - labels).sum())
    loss = torch.nn.functional.binary_cross_entropy_with_logits(features @ weight + bias, labels, balance, reduction="sum")
    gradients = torch.autograd.grad(loss + weight.square().sum() / 2, (weight, bias))
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients)
    with torch.no_grad():
        with_term = model(tiny_data.x, split.train_edges, scored).logits
        model.structure = None
        without = model(tiny_data.x, split.train_edges, scored).logits
    torch.testing.assert_close(with_term - without, (features @ weight + bias).detach(), rtol=1e-9, atol=1e-9)


def test_the_epoch_with_the_best_validation_score_is_returned(trained):
    data, result, scores = trained
    assert len(scores) == 80
    assert len(set(scores)) > 3, "the scores must differ for the choice to mean anything"
    best = int(np.argmax(scores))
    assert best != 79, "the last epoch must not be the best, or keeping the last would pass"
    assert result.metrics["best_epoch"] == best
    split = result.split
    both = torch.cat([split.val_edges, split.val_non_edges], dim=1)
    with torch.no_grad():
        logits = result.model(data.x, result.edge_index, both).logits
    labels = np.r_[np.ones(split.val_edges.size(1)), np.zeros(split.val_non_edges.size(1))]
    assert average_precision_score(labels, logits) == pytest.approx(max(scores), rel=1e-6)


def test_the_model_is_in_evaluation_mode_in_the_dtype_of_x(trained, tiny_data):
    _, result, _ = trained
    assert not any(module.training for module in result.model.modules())
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.float64}
    tiny_data.x = tiny_data.x.float()
    single = pretrain(tiny_data, max_epochs=1).model
    assert {parameter.dtype for parameter in single.parameters()} == {torch.float32}


def same_model(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_a_seed_gives_one_result_whatever_the_global_state(tiny_data):
    torch.manual_seed(1)
    first = pretrain(tiny_data, seed=0, max_epochs=3)
    torch.manual_seed(2)
    torch.rand(17)
    second = pretrain(tiny_data, seed=0, max_epochs=3)
    assert same_model(first.model, second.model) and first.metrics == second.metrics
    other = pretrain(tiny_data, seed=1, max_epochs=3)
    assert not same_model(first.model, other.model)
    assert parts(first.split) != parts(other.split)


def test_the_global_states_and_the_data_are_left_alone(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, edge_index = tiny_data.x.clone(), tiny_data.edge_index.clone()
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    pretrain(tiny_data, max_epochs=2)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert random.getstate() == python_state
    assert torch.equal(tiny_data.x, x) and torch.equal(tiny_data.edge_index, edge_index)
    assert list(tmp_path.iterdir()) == [], "nothing is written without out_dir"


@pytest.mark.parametrize("seed", [0, 1])
def test_training_learns_what_can_be_learnt(seed):
    """Half of the genes follow the only regulator, and every degree is the same: expression alone tells them apart."""
    generator = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(61, 16, dtype=torch.float64, generator=generator)
    x[0] += 2 * torch.randn(16, dtype=torch.float64, generator=generator)
    x[1:31] += x[0]
    metrics = pretrain(Data(x=x, edge_index=torch.tensor([[0] * 30, list(range(1, 31))])), seed=seed, max_epochs=12).metrics
    assert (metrics["test_edges"], metrics["positives"], metrics["auroc_degree"]) == (9, 0.5, 0.5)
    guessing = ((9 + 9 + 1) / (12 * 9 * 9)) ** 0.5  # standard deviation of the AUROC of random scores
    assert metrics["auroc"] > 0.5 + 3 * guessing
    assert metrics["auroc_correlation"] > 0.5 + 3 * guessing


# metrics


def test_the_baselines_recomputed(trained):
    data, result, _ = trained
    split, metrics = result.split, result.metrics
    tested = [(*pair, 1) for pair in split.test_edges.T.tolist()] + [(*pair, 0) for pair in split.test_non_edges.T.tolist()]
    labels = [label for _, _, label in tested]
    graph = split.train_edges.T.tolist()
    degree = [sum(r == a for r, _ in graph) * sum(t == b for _, t in graph) for a, b, _ in tested]
    correlation = [abs(stats.pearsonr(data.x[a].numpy(), data.x[b].numpy()).statistic) for a, b, _ in tested]
    with torch.no_grad():
        logits = result.model(data.x, split.train_edges, torch.tensor([[a, b] for a, b, _ in tested]).T).logits.tolist()
    for suffix, score in (("", logits), ("_degree", degree), ("_correlation", correlation)):
        assert metrics[f"auroc{suffix}"] == pytest.approx(roc_auc_score(labels, score), rel=1e-10)
        assert metrics[f"auprc{suffix}"] == pytest.approx(average_precision_score(labels, score), rel=1e-10)
        positive = [s for s, label in zip(score, labels, strict=True) if label]
        negative = [s for s, label in zip(score, labels, strict=True) if not label]
        u = stats.mannwhitneyu(positive, negative).statistic
        assert metrics[f"auroc{suffix}"] == pytest.approx(u / len(positive) / len(negative), rel=1e-10)
    assert metrics["positives"] == pytest.approx(np.mean(labels), rel=1e-10)
    assert [metrics[f"{part}_edges"] for part in ("train", "val", "test")] == [
        getattr(split, f"{part}_edges").size(1) for part in ("train", "val", "test")
    ]
    assert metrics["seed"] == 2


def test_the_degree_baseline_by_hand():
    """Only training edges count; the pair (0, 3) scores 2 * 1, (0, 4) scores 2 * 0, (1, 3) scores 1 * 1."""
    one = torch.tensor([[0], [5]])
    split = EdgeSplit(
        train_edges=torch.tensor([[0, 0, 1], [2, 3, 2]]), train_non_edges=one, val_edges=one, val_non_edges=one,
        test_edges=torch.tensor([[0], [3]]), test_non_edges=torch.tensor([[0, 1], [4, 3]]),
    )  # fmt: skip
    metrics = evaluate(training.RegNet(4).eval(), torch.randn(6, 4), split)
    assert metrics["auroc_degree"] == metrics["auprc_degree"] == 1.0


def test_the_structural_baseline_sees_reverse_edges():
    """Every edge of this graph is known both ways: where one of the two is hidden, the other gives it away."""
    generator = torch.Generator().manual_seed(0)
    one_way = torch.rand(40, 40, generator=generator).triu(1) > 0.8
    edge_index = (one_way | one_way.T).nonzero().T
    metrics = evaluate(training.RegNet(3).eval(), torch.randn(40, 3, generator=generator), split_edges(edge_index, 40))
    assert metrics["auprc_structure"] > 0.6 > 0.4 > metrics["auprc_degree"]


def test_constant_genes_correlate_with_nothing(tiny_data):
    tiny_data.x[5:20] = 3.0
    metrics = pretrain(tiny_data, max_epochs=1).metrics
    assert all(np.isfinite(value) for value in metrics.values())


# files


def test_the_files_and_their_contents(tiny_data, tmp_path):
    out = tmp_path / "out"
    result = pretrain(tiny_data, max_epochs=2, out_dir=out)
    assert {file.name for file in out.iterdir()} == {
        "regnet_pretrained.pth", "metrics.json", "settings.json", "shrinkage.csv", "train_edges.csv",
        "shrinkage_vs_degree.png", "shrinkage_hist.png", "shrinkage_vs_expr.png",
    }  # fmt: skip
    settings = json.loads((out / "settings.json").read_text())
    assert settings.pop("expression") != settings.pop("edges"), "two checksums"
    assert settings == {"seed": 0, "hidden_share": 0.3, "structural": True, "epochs": 2}
    assert json.loads((out / "metrics.json").read_text()) == result.metrics
    again = training.RegNet(12, structural=True).double()
    again.load_state_dict(torch.load(out / "regnet_pretrained.pth", weights_only=True), strict=True)
    assert same_model(again, result.model)

    table = pd.read_csv(out / "shrinkage.csv")
    assert list(table.columns) == ["gene", "in_degree", "mean_expression", "is_tf", "w_eff", "S_x", "S_m"]
    assert table["gene"].tolist() == tiny_data.gene_names and table["is_tf"].tolist() == tiny_data.is_tf.tolist()
    in_training_graph = torch.bincount(result.split.train_edges[1], minlength=40)
    assert table["in_degree"].tolist() == in_training_graph.tolist()
    for column in ("w_eff", "S_x", "S_m"):
        assert (table[column].isna() == (table["in_degree"] == 0)).all()
    assert table["w_eff"].isna().any()
    weights = effective_weight_on_graph(result.model.graphsage.layers[0].agg, tiny_data.x, result.split.train_edges)
    np.testing.assert_allclose(table["w_eff"], weights.detach(), rtol=1e-9)


@pytest.fixture
def no_training(monkeypatch):
    def fail(*_):
        pytest.fail("training began")

    monkeypatch.setattr(training, "_fit", fail)


@pytest.mark.usefixtures("no_training")
def test_a_folder_that_cannot_be_made_fails_before_training(tiny_data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            pretrain(tiny_data, out_dir=out)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": torch.zeros(40, 3, dtype=torch.long)}, TypeError, ["float32 or float64"]),
        ({"x": torch.full((40, 3), torch.nan)}, ValueError, ["finite", "gene 0, cell 0"]),
        ({"edge_index": torch.empty(2, 0, dtype=torch.long)}, ValueError, ["edge_index is empty"]),
        ({"edge_index": torch.tensor([[0], [40]])}, ValueError, ["edge 0 (0 -> 40)", "does not exist"]),
        ({"edge_index": torch.tensor([[0, 1], [2, 3]])}, ValueError, ["too little to split", "no edges", "targets"]),
        ({"edge_index": torch.tensor([[0] * 39, range(1, 40)])}, ValueError, ["too little to split", "no non-edges"]),
        ({"gene_names": ["only", "two"]}, ValueError, ["gene_names", "40"]),
        ({"is_tf": torch.ones(3, dtype=torch.bool)}, ValueError, ["is_tf", "40"]),
    ],
)
def test_unusable_data_fail_before_training(change, error, words, tiny_data, tmp_path):
    for name, value in change.items():
        tiny_data[name] = value
    with pytest.raises(error) as caught:
        pretrain(tiny_data, out_dir=tmp_path / "out")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.usefixtures("no_training")
def test_no_epochs_are_refused(tiny_data):
    with pytest.raises(ValueError, match="max_epochs must be a whole number of at least 1; got 0"):
        pretrain(tiny_data, max_epochs=0)


def test_what_the_message_asks_for_is_enough(tiny_data):
    """The smallest numbers the error names must train."""
    with pytest.raises(ValueError, match="too little") as caught:
        pretrain(Data(x=tiny_data.x, edge_index=torch.tensor([[0], [1]])), max_epochs=1)
    targets, others = (int(number) for number in re.findall(r"(\d+) or more", str(caught.value)))
    x = tiny_data.x[: 1 + targets + others]
    metrics = pretrain(
        Data(x=x, edge_index=torch.tensor([[0] * targets, list(range(1, targets + 1))])), max_epochs=1
    ).metrics
    assert metrics["val_edges"] >= 1 and metrics["test_edges"] >= 1


def test_one_cell_is_enough(tiny_data):
    """Correlation is undefined there, and counts as none, without a warning."""
    tiny_data.x = tiny_data.x[:, :1]
    metrics = pretrain(tiny_data, max_epochs=1).metrics
    assert metrics["auroc_correlation"] == 0.5


@pytest.mark.usefixtures("no_training")
def test_a_folder_that_cannot_be_written_to_is_found_before_training(tiny_data, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only file system")

    monkeypatch.setattr("regnet.report.tempfile.TemporaryDirectory", refuse)
    with pytest.raises(PermissionError, match=r"cannot write to .* \(read-only file system\); make room there or make it"):
        pretrain(tiny_data, max_epochs=1, out_dir=tmp_path)


@pytest.mark.usefixtures("no_training")
def test_duplicate_gene_names_are_refused_before_training(tiny_data):
    data = tiny_data.clone()
    data.gene_names = ["A"] * data.num_nodes
    with pytest.raises(ValueError, match="unique"):
        pretrain(data, max_epochs=1)


def test_divergence_says_what_to_do(tiny_data):
    data = tiny_data.clone()
    data.x = data.x * 1e30
    with pytest.raises(ValueError, match=r"diverged in epoch \d+.*log or standardised"):
        pretrain(data, max_epochs=5)


def test_expression_that_requires_gradients_and_a_list_of_factors_are_taken(tiny_data, tmp_path):
    data = tiny_data.clone()
    data.x = data.x.clone().requires_grad_()
    data.is_tf = data.is_tf.tolist()
    pretrain(data, max_epochs=1, out_dir=tmp_path)
    assert (tmp_path / "shrinkage.csv").is_file()


def test_genes_without_regulators_are_counted(tiny_data):
    result = pretrain(tiny_data, max_epochs=1)
    targets = set(result.edge_index[1].tolist())
    assert result.metrics["genes_without_regulators"] == tiny_data.num_nodes - len(targets)


# stopping and going on


class StopError(Exception):
    """What a test stops a training with; what is kept on disk is then as a kill would leave it."""


def stop(*_):
    raise StopError


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(training, "put_report", lambda *_: None)


def stop_at(monkeypatch, cls, method, epoch):
    """Stop in a method that runs once an epoch, before it does anything."""
    original = getattr(cls, method)

    def stopping(self, *args):
        task = self if isinstance(self, EdgePrediction) else args[1]
        if task.current_epoch == epoch:
            raise StopError
        return original(self, *args)

    monkeypatch.setattr(cls, method, stopping)


def stopped(data, out, epoch, max_epochs=6, place=(EdgePrediction, "validation_step"), **options):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, *place, epoch)
        with pytest.raises(StopError):
            pretrain(data, max_epochs=max_epochs, out_dir=out, **options)


def same(one, two):
    return same_model(one.model, two.model) and one.metrics == two.metrics


PLACES = [(EdgePrediction, "training_step"), (EdgePrediction, "validation_step"), (training.Keep, "on_train_epoch_end")]


def validate_as(monkeypatch, scores):
    """Let the validation give these scores, so that the best epoch is where a test wants it."""
    original = EdgePrediction.log

    def log(self, name, value, **options):
        original(self, name, torch.tensor(scores[self.current_epoch]) if name == "val_auprc" else value, **options)

    monkeypatch.setattr(EdgePrediction, "log", log)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("options", [{}, training.PLAIN])
def test_a_resumed_training_gives_exactly_the_result_of_one_without_a_break(options, tiny_data, tmp_path, monkeypatch):
    """The scores rise, so that the last epoch, which depends on all before it, is the best."""
    validate_as(monkeypatch, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    options = options | {"seed": 3}
    expected = pretrain(tiny_data, max_epochs=6, **options)
    assert expected.metrics["best_epoch"] == 5
    for place in PLACES:
        for epoch in (0, 2, 5):
            stopped(tiny_data, tmp_path, epoch, place=place, **options)
            assert torch.load(tmp_path / "training" / "last.ckpt", weights_only=True)["global_step"] == epoch
            resumed = pretrain(tiny_data, max_epochs=6, out_dir=tmp_path, resume=True, **options)
            assert same(resumed, expected), (place, epoch)
            assert list(tmp_path.iterdir()) == [], "the kept training is removed at the end"
    for epoch in (1, 2, 2, 4):
        stopped(tiny_data, tmp_path, epoch, resume=True, **options)
    assert same(pretrain(tiny_data, max_epochs=6, out_dir=tmp_path, resume=True, **options), expected)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("scores", [[0.1, 0.9, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4, 0.9, 0.8]])
def test_the_best_epoch_may_lie_before_or_after_a_break(scores, tiny_data, tmp_path, monkeypatch):
    validate_as(monkeypatch, scores)
    expected = pretrain(tiny_data, max_epochs=6)
    assert expected.metrics["best_epoch"] == int(np.argmax(scores))
    stopped(tiny_data, tmp_path, 3)
    assert same(pretrain(tiny_data, max_epochs=6, out_dir=tmp_path, resume=True), expected)


@pytest.mark.usefixtures("no_report")
def test_a_resumed_training_may_go_on_for_longer(tiny_data, tmp_path, monkeypatch):
    """Also one that had done all it was asked for, and was killed before its report."""
    validate_as(monkeypatch, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    expected = pretrain(tiny_data, max_epochs=6)
    stopped(tiny_data, tmp_path, 3, max_epochs=4)
    assert same(pretrain(tiny_data, max_epochs=6, out_dir=tmp_path, resume=True), expected)
    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", stop)
        with pytest.raises(StopError):
            pretrain(tiny_data, max_epochs=4, out_dir=tmp_path)
    assert same(pretrain(tiny_data, max_epochs=6, out_dir=tmp_path, resume=True), expected)


@pytest.mark.usefixtures("no_report")
def test_no_epoch_is_repeated_or_left_out(tiny_data, tmp_path, monkeypatch):
    epochs = []
    original = EdgePrediction.training_step

    def step(self, *args):
        epochs.append(self.current_epoch)
        return original(self, *args)

    monkeypatch.setattr(EdgePrediction, "training_step", step)
    stopped(tiny_data, tmp_path, 3, max_epochs=5, place=(training.Keep, "on_train_epoch_end"))
    assert epochs == [0, 1, 2, 3]
    pretrain(tiny_data, max_epochs=5, out_dir=tmp_path, resume=True)
    assert epochs == [0, 1, 2, 3, 3, 4], "the epoch that was not kept is done again, and no other"


@pytest.mark.usefixtures("no_report")
def test_a_kill_while_the_state_is_written_leaves_the_one_before(tiny_data, tmp_path, monkeypatch):
    expected = pretrain(tiny_data, max_epochs=6)
    original = training.save

    def half(checkpoint, path):
        if checkpoint["global_step"] == 5:
            path.write_bytes(b"half of a file")
            raise StopError
        original(checkpoint, path)

    with monkeypatch.context() as patch:
        patch.setattr(training, "save", half)
        with pytest.raises(StopError):
            pretrain(tiny_data, max_epochs=6, out_dir=tmp_path)
    assert torch.load(tmp_path / "training" / "last.ckpt", weights_only=True)["epoch"] == 3
    assert same(pretrain(tiny_data, max_epochs=6, out_dir=tmp_path, resume=True), expected)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, torch
from torch_geometric.data import Data
from regnet import pretrain
torch.set_num_threads(1)
pretrain(Data(**torch.load(sys.argv[1], weights_only=True)), max_epochs=100_000, out_dir=sys.argv[2])
"""


@pytest.mark.usefixtures("no_report")
def test_a_process_killed_in_the_middle_is_resumed(tiny_data, tmp_path):
    torch.save({"x": tiny_data.x, "edge_index": tiny_data.edge_index}, tmp_path / "data.pt")
    out = tmp_path / "out"
    kept = out / "training" / "last.ckpt"
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "data.pt", out]) as process:
        try:
            deadline = time.monotonic() + 60
            while not kept.is_file() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.05)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    epochs = torch.load(kept, weights_only=True)["epoch"] + 3
    resumed = pretrain(tiny_data, max_epochs=epochs, out_dir=out, resume=True)
    assert same(resumed, pretrain(tiny_data, max_epochs=epochs))


def test_a_kill_before_the_report_costs_no_training(tiny_data, tmp_path, monkeypatch):
    expected = pretrain(tiny_data, max_epochs=4)
    with monkeypatch.context() as patch:
        patch.setattr(training, "put_report", stop)
        with pytest.raises(StopError):
            pretrain(tiny_data, max_epochs=4, out_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(EdgePrediction, "training_step", stop)
        resumed = pretrain(tiny_data, max_epochs=4, out_dir=tmp_path, resume=True, progress=True)
    assert same(resumed, expected)
    assert json.loads((tmp_path / "metrics.json").read_text()) == expected.metrics
    assert not (tmp_path / "training").exists()


@pytest.mark.usefixtures("no_report")
def test_a_moved_folder_is_resumed_and_other_files_in_it_stay(tiny_data, tmp_path):
    expected = pretrain(tiny_data, max_epochs=5)
    stopped(tiny_data, tmp_path / "here", 2, max_epochs=5)
    (tmp_path / "here" / "training" / "notes.txt").write_text("mine")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert same(pretrain(tiny_data, max_epochs=5, out_dir=str(tmp_path / "there"), resume=True), expected)
    assert [file.name for file in (tmp_path / "there" / "training").iterdir()] == ["notes.txt"]


def in_a_job(monkeypatch, tasks):
    for name, value in {"SLURM_NTASKS": tasks, "SLURM_JOB_NAME": "job.sh", "SLURM_JOB_ID": "1", "SLURM_NODEID": "0"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("no_report")
def test_what_a_cluster_left_in_the_current_folder_is_not_gone_on_from(tiny_data, tmp_path, monkeypatch):
    expected = pretrain(tiny_data, max_epochs=4)
    stopped(tiny_data, tmp_path / "other", 3, seed=1)
    shutil.copy(tmp_path / "other" / "training" / "last.ckpt", tmp_path / "hpc_ckpt_1.ckpt")
    monkeypatch.chdir(tmp_path)
    in_a_job(monkeypatch, "1")
    assert same(pretrain(tiny_data, max_epochs=4), expected)


@pytest.mark.parametrize("tasks", ["1", "4"])
def test_a_job_of_a_cluster_is_one_process_and_keeps_its_signals(tiny_data, monkeypatch, tasks):
    expected = pretrain(tiny_data, max_epochs=2)
    in_a_job(monkeypatch, tasks)
    before, seen = signal.getsignal(signal.SIGUSR1), []
    original = EdgePrediction.training_step

    def step(*arguments):
        seen.append(signal.getsignal(signal.SIGUSR1))
        return original(*arguments)

    monkeypatch.setattr(EdgePrediction, "training_step", step)
    assert same(pretrain(tiny_data, max_epochs=2), expected)
    assert set(seen) == {before}


def test_a_graphics_card_that_is_not_used_is_no_warning(tiny_data, monkeypatch):
    expected = pretrain(tiny_data, max_epochs=2)
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", staticmethod(lambda: True))
    assert same(pretrain(tiny_data, max_epochs=2), expected)


@pytest.mark.parametrize("field", ["x", "edge_index"])
def test_data_on_another_device_are_refused(tiny_data, field):
    tiny_data[field] = tiny_data[field].to("meta")
    with pytest.raises(ValueError, match=rf"{field} must be on the CPU, .*got meta; use data.cpu\(\)"):
        pretrain(tiny_data)


@pytest.mark.usefixtures("no_report")
def test_the_global_random_state_is_left_alone_by_a_resumed_training(tiny_data, tmp_path):
    stopped(tiny_data, tmp_path, 2, max_epochs=4)
    state = torch.get_rng_state()
    pretrain(tiny_data, max_epochs=4, out_dir=tmp_path, resume=True)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("no_report")
def test_without_resume_a_kept_training_is_begun_again(tiny_data, tmp_path):
    expected = {seed: pretrain(tiny_data, max_epochs=4, seed=seed) for seed in (0, 1)}
    stopped(tiny_data, tmp_path, 2, seed=0)
    assert same(pretrain(tiny_data, max_epochs=4, seed=1, out_dir=tmp_path), expected[1])
    stopped(tiny_data, tmp_path, 2, seed=0)
    stopped(tiny_data, tmp_path, 0, seed=1)
    with pytest.raises(ValueError, match="seed=1, not 0"):  # the old training must not be taken for the new one
        pretrain(tiny_data, max_epochs=4, seed=0, out_dir=tmp_path, resume=True)
    assert same(pretrain(tiny_data, max_epochs=4, seed=1, out_dir=tmp_path, resume=True), expected[1])


def with_changed(data, **fields):
    data = data.clone()
    for name, value in fields.items():
        data[name] = value
    return data


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"seed": 1}, ["seed=0, not 1"]),
        ({}, {"hidden_share": 0.2}, ["hidden_share=0.3, not 0.2"]),
        ({}, training.PLAIN, ["hidden_share=0.3, not 0.0 and structural=True, not False"]),
        ({"x": lambda data: data.x.float()}, {}, ["has other expression;"]),
        ({"x": lambda data: data.x + torch.eye(40, 12).double() * 1e-12}, {}, ["has other expression;"]),
        ({"edge_index": lambda data: data.edge_index[:, :-1]}, {}, ["has other edges;"]),
        ({}, {"max_epochs": 2}, ["max_epochs (--epochs) must be at least 3", "got 2"]),
    ],
)
def test_a_training_of_other_settings_is_refused_and_kept(change, options, words, tiny_data, tmp_path, no_training_after):
    kept = no_training_after(lambda: stopped(tiny_data, tmp_path, 3))
    data = with_changed(tiny_data, **{name: make(tiny_data) for name, make in change.items()})
    with pytest.raises(ValueError, match="start over with resume=False") as caught:
        pretrain(data, **({"max_epochs": 8} | options), out_dir=tmp_path, resume=True)
    for word in [*words, str(tmp_path / "training")]:
        assert word in str(caught.value)
    assert (tmp_path / "training" / "last.ckpt").read_bytes() == kept


@pytest.fixture
def no_training_after(monkeypatch, tmp_path):
    """Run something, then fail at any training; returns what was kept."""

    def run(function):
        function()
        monkeypatch.setattr(training, "_fit", lambda *_: pytest.fail("training began"))
        return (tmp_path / "training" / "last.ckpt").read_bytes()

    return run


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 and no more", {"epoch": 3}, [1]])
def test_a_file_that_keeps_no_training_is_refused(content, tiny_data, tmp_path):
    kept = tmp_path / "training" / "last.ckpt"
    kept.parent.mkdir()
    if isinstance(content, bytes):
        kept.write_bytes(content)
    else:
        torch.save(content, kept)
    before = kept.read_bytes()
    with pytest.raises(ValueError, match=r"last.ckpt must be a training that regnet.pretrain kept.*start over"):
        pretrain(tiny_data, out_dir=tmp_path, resume=True)
    assert kept.read_bytes() == before


@pytest.mark.usefixtures("no_training")
def test_resume_needs_a_folder(tiny_data):
    with pytest.raises(ValueError, match="resume=True needs out_dir"):
        pretrain(tiny_data, resume=True)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("resume", [False, True])
def test_a_file_in_place_of_the_folder_is_found_before_training(resume, tiny_data, tmp_path):
    (tmp_path / "training").write_text("in the way")
    with pytest.raises(OSError, match="training"):
        pretrain(tiny_data, out_dir=tmp_path, resume=resume)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_stops_the_training_and_reaches_the_caller(number, error, tiny_data, tmp_path, monkeypatch):
    expected = pretrain(tiny_data, max_epochs=5)
    received = []

    def handler(*arguments):
        received.append(arguments)
        signal.default_int_handler(*arguments) if number == signal.SIGINT else None

    original = EdgePrediction.validation_step

    def step(self, *args):
        original(self, *args)
        if self.current_epoch == 2:
            signal.raise_signal(number)

    before = signal.signal(number, handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(EdgePrediction, "validation_step", step)
            with pytest.raises(error) as caught:
                pretrain(tiny_data, max_epochs=5, out_dir=tmp_path)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert len(received) == 1
    assert error is KeyboardInterrupt or caught.value.code == 143, "0 would mean that all is done"
    assert [file.name for file in tmp_path.iterdir()] == ["training"]
    assert same(pretrain(tiny_data, max_epochs=5, out_dir=tmp_path, resume=True), expected)


@pytest.mark.usefixtures("no_report")
def test_one_bar_over_all_epochs_goes_on_where_it_stopped(tiny_data, tmp_path, monkeypatch, capfd):
    scores, added = [], []
    original, add_task = EdgePrediction.log, training.Progress.add_task

    def log(self, name, value, **options):
        if name == "val_auprc":
            scores.append(f"{float(value):.3f}")
        original(self, name, value, **options)

    def spy(self, *args, **fields):
        added.append((fields["completed"], fields["total"]))
        return add_task(self, *args, **fields)

    monkeypatch.setattr(EdgePrediction, "log", log)
    monkeypatch.setattr(training.Progress, "add_task", spy)
    monkeypatch.setenv("COLUMNS", "120")
    pretrain(tiny_data, max_epochs=3)
    assert capfd.readouterr() == ("", "")
    stopped(tiny_data, tmp_path, 2, max_epochs=5, progress=True)
    first = capfd.readouterr()
    assert first.out == "" and "2/5" in first.err and scores[-2] in first.err
    pretrain(tiny_data, max_epochs=5, out_dir=tmp_path, resume=True, progress=True)
    second = capfd.readouterr()
    assert second.out == "" and "5/5" in second.err and f"validation AUPRC {scores[-1]}" in second.err
    assert added == [(0, 5), (2, 5)]


def test_the_structural_features_are_those_of_each_part(tiny_data):
    split = split_edges(tiny_data.edge_index, 40)
    task = EdgePrediction(training.RegNet(12, structural=True).double(), tiny_data.x, split)
    for part in ("train_edges", "train_non_edges", "val_edges", "val_non_edges"):
        assert torch.equal(task.features[part], pair_features(split.train_edges, 40, getattr(split, part)))
