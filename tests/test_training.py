"""The training: what it learns from, what it keeps, and how it goes on after an interruption."""

from __future__ import annotations

import itertools
import math
import random
import re

import dask.array
import numpy as np
import pytest
import torch
from examples import pairs
from sklearn.metrics import average_precision_score
from torch_geometric.data import Data

from regnet import pretrain, training
from regnet.evaluation import evaluate, split_edges
from regnet.io import to_memory

NO_HIDDEN = {"disjoint_train_ratio": 0.0}


@pytest.fixture(autouse=True)
def look_every_epoch(monkeypatch):
    """So that few epochs tell how looks, the kept epoch and interruptions go together; one test is of the real number."""
    monkeypatch.setattr(training, "VALIDATE_EVERY", 1)


def same_model(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def same(one, two):
    return same_model(one.model, two.model) and one.metrics == two.metrics


class StopError(Exception):
    """What a test stops a training with; what is kept is then as a kill would leave it."""


def train(data, path=None, *, scores=(), resume=False, stop=None, **options):
    """A training in which the validation gives these scores, and which stops where a function is called in an epoch."""
    start = epochs_kept(path) if resume else 0
    with pytest.MonkeyPatch.context() as patch:
        if scores:
            rest = iter(scores[start:])
            patch.setattr(training, "_validation_auprc", lambda *_: next(rest))
        if stop:
            place, last = stop
            original = getattr(training, place)
            epochs = itertools.count(start - (place == "_keep"))  # which runs once before the first epoch

            def stopping(*arguments):
                if next(epochs) == last:
                    raise StopError
                return original(*arguments)

            patch.setattr(training, place, stopping)
        return pretrain(data, checkpoint=path, resume=resume, **({"max_epochs": 6} | options))


def stopped(data, path, epoch, place="_validation_auprc", **options):
    with pytest.raises(StopError):
        train(data, path, stop=(place, epoch), **options)


def epochs_kept(path):
    return torch.load(path, weights_only=True)["epochs"] if path.is_file() else 0


RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


# what is learnt from what


def test_no_validation_or_test_edge_reaches_the_model_as_a_message(tiny_data, monkeypatch):
    """Watches every call of the network, in training, in validation and in the test."""
    seen, supervised = [], set()
    original = training.RegNet.forward

    def forward(self, x, edge_index, scored):
        seen.append(pairs(edge_index))
        if self.training:
            assert not pairs(edge_index) & pairs(scored), "a supervision edge that passes messages gives itself away"
            assert scored.size(1) == 2 * round(0.3 * split.train_edges.size(1)), "as many non-edges as supervision edges"
            supervised.update(pairs(scored))
        return original(self, x, edge_index, scored)

    monkeypatch.setattr(training.RegNet, "forward", forward)
    split = split_edges(tiny_data.edge_index, 40)
    result = pretrain(tiny_data, max_epochs=30)
    known = pairs(split.train_edges)
    assert pairs(result.edge_index) == known and pairs(result.split.test_edges) == pairs(split.test_edges)
    assert len(seen) == 61  # thirty epochs, each with its validation, and the test
    assert all(graph < known for graph in seen[:-1:2]) and all(graph == known for graph in seen[1::2])
    assert known <= supervised <= known | pairs(split.train_non_edges)


def test_without_hidden_edges_all_are_supervised_and_pass_messages(tiny_data, monkeypatch):
    calls = []
    original = training.RegNet.forward

    def forward(self, x, edge_index, scored):
        calls.append((pairs(edge_index), pairs(scored)))
        return original(self, x, edge_index, scored)

    monkeypatch.setattr(training.RegNet, "forward", forward)
    known = pairs(pretrain(tiny_data, max_epochs=2, disjoint_train_ratio=0.0).split.train_edges)
    for messages, scored in calls[:4:2]:  # training steps; between them is validation
        assert messages == known and known < scored


def test_the_loss_is_the_documented_sum(tiny_data):
    """BCE + 0.01 KL + 0.1 MSE, with KL from torch.distributions."""
    torch.manual_seed(0)
    split = split_edges(tiny_data.edge_index, 40)
    model = training.RegNet(12).double().eval()
    torch.manual_seed(1)
    loss = training._loss(model, tiny_data.x, split, 0.3)
    torch.manual_seed(1)
    shuffled = torch.randperm(split.train_edges.size(1))
    count = round(0.3 * len(shuffled))
    hidden, seen = split.train_edges[:, shuffled[:count]], split.train_edges[:, shuffled[count:]]
    drawn = split.train_non_edges[:, torch.randint(split.train_non_edges.size(1), (count,))]
    scored = torch.cat([hidden, drawn], dim=1)
    out = model(tiny_data.x, seen, scored)
    probability = out.logits.sigmoid()
    classification = -(probability[:count].log().sum() + (1 - probability[count:]).log().sum()) / (2 * count)
    posterior = torch.distributions.Normal(out.mu, (out.logvar / 2).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    reconstruction = ((out.reconstruction - out.hidden) ** 2).mean()
    torch.testing.assert_close(loss, classification + 0.01 * divergence + 0.1 * reconstruction, rtol=1e-10, atol=0)


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


# which epoch, which numbers


def test_the_epoch_with_the_best_validation_score_is_returned(tiny_data, monkeypatch):
    scores = []
    original = training._validation_auprc
    monkeypatch.setattr(training, "_validation_auprc", lambda *arguments: scores.append(original(*arguments)) or scores[-1])
    result = pretrain(tiny_data, seed=2, max_epochs=60)
    best = int(np.argmax(scores))
    assert len(scores) == 60 and len(set(scores)) > 3 and best != 59, "else the choice would not matter"
    assert result.metrics["best_epoch"] == best
    split = result.split
    scored = torch.cat([split.val_edges, split.val_non_edges], dim=1)
    with torch.no_grad():
        logits = result.model(tiny_data.x, result.edge_index, scored).logits
    labels = np.r_[np.ones(split.val_edges.size(1)), np.zeros(split.val_non_edges.size(1))]
    assert average_precision_score(labels, logits) == pytest.approx(max(scores), rel=1e-6)
    assert result.metrics == evaluate(result.model, tiny_data.x, split) | {
        "seed": 2,
        "epochs": 60,
        "best_epoch": best,
        "genes_without_regulators": 40 - len(set(split.train_edges[1].tolist())),
    }


def test_the_training_stops_when_the_score_has_not_risen_for_so_long(tiny_data, tmp_path):
    scores = [0.1, 0.3, 0.2, 0.3, 0.25, 0.2, 0.1, 0.9]
    result = train(tiny_data, scores=scores, max_epochs=8, patience=3)
    assert (result.metrics["best_epoch"], result.metrics["epochs"]) == (1, 5), "an equal score is no rise"
    assert result.history["epoch"] == [0, 1, 2, 3, 4] and result.history["val_auprc"] == scores[:5]
    assert result.history["loss"][0] != result.history["loss"][1]
    stopped(tiny_data, tmp_path / "c", 3, scores=scores, max_epochs=8, patience=3)
    resumed = train(tiny_data, tmp_path / "c", scores=scores, max_epochs=8, patience=3, resume=True)
    assert same(resumed, result) and resumed.history == result.history


def test_every_fifth_epoch_looks_at_the_validation_pairs(tiny_data, tmp_path, monkeypatch):
    monkeypatch.undo()
    assert (result := train(tiny_data, max_epochs=13)).history["epoch"] == [0, 5, 10]
    stopped(tiny_data, tmp_path / "c", 8, place="_loss", max_epochs=13)
    assert epochs_kept(tmp_path / "c") == 6
    assert same(train(tiny_data, tmp_path / "c", max_epochs=13, resume=True), result)


def test_a_gpu_is_used_where_there_is_one(tiny_data, monkeypatch):
    """Only the choice of the device is tested where there is none."""
    if not torch.accelerator.is_available():
        with pytest.raises(ValueError, match='accelerator="gpu" finds no GPU'):
            pretrain(tiny_data, accelerator="gpu")
        assert same(pretrain(tiny_data, max_epochs=2, accelerator="auto"), pretrain(tiny_data, max_epochs=2))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    assert {training._device(name) for name in ("gpu", "auto")} == {torch.device("cuda:0")}
    assert training._device("cpu") == torch.device("cpu")


def test_the_model_is_in_evaluation_mode_in_the_dtype_of_x(tiny_data):
    tiny_data.x = tiny_data.x.float()
    model = pretrain(tiny_data, max_epochs=1).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(module.training for module in model.modules())


def test_a_seed_gives_one_result_and_leaves_the_global_states_and_the_data_alone(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, edge_index = tiny_data.x.clone(), tiny_data.edge_index.clone()
    numpy_state, python_state = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = pretrain(tiny_data, max_epochs=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(first, pretrain(tiny_data, max_epochs=3))
    assert not same_model(first.model, pretrain(tiny_data, seed=1, max_epochs=3).model)
    assert np.array_equal(np.random.get_state()[1], numpy_state) and random.getstate() == python_state  # noqa: NPY002
    assert torch.equal(tiny_data.x, x) and torch.equal(tiny_data.edge_index, edge_index)
    assert list(tmp_path.iterdir()) == [], "nothing is written without a checkpoint"


def test_the_untrained_model_is_the_one_that_training_starts_from(tiny_data):
    """Adam's first step moves no weight by more than its learning rate."""
    state = torch.random.get_rng_state()
    start = training.untrained(tiny_data.x, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state) and not start.training
    after = pretrain(tiny_data, seed=5, max_epochs=1, **NO_HIDDEN).model
    moved = [(a - b).abs().max() for a, b in zip(after.parameters(), start.parameters(), strict=True)]
    assert 0.9e-3 < max(moved) < 1.001e-3
    assert next(training.untrained(tiny_data.x.float()).parameters()).dtype == torch.float32


# data and options


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"x": torch.zeros(40, 3, dtype=torch.long)}, {}, TypeError, "float32 or float64"),
        ({"x": torch.full((40, 3), torch.nan)}, {}, ValueError, "finite.*gene 0, cell 0"),
        ({"edge_index": torch.tensor([[0], [40]])}, {}, ValueError, r"edge 0 \(0 -> 40\).*does not exist"),
        ({"edge_index": torch.tensor([[0, 1], [2, 3]])}, {}, ValueError, "too little to split.*no val_edges"),
        ({"edge_index": torch.tensor([[0] * 39, range(1, 40)])}, {}, ValueError, "too little to split.*no val_non_edges"),
        ({"x": torch.zeros(40, 3, device="meta")}, {}, ValueError, r"x must be on the CPU, .*got meta; use data.cpu\(\)"),
        ({"edge_index": torch.ones(2, 9, device="meta").long()}, {}, ValueError, "edge_index must be on the CPU"),
        ({}, {"max_epochs": 0}, ValueError, "max_epochs must be a whole number of at least 1; got 0"),
        ({}, {"patience": 0.5}, ValueError, "patience must be a whole number of at least 1; got 0.5"),
        ({}, {"disjoint_train_ratio": 1.0}, ValueError, "disjoint_train_ratio must be at least 0 and below 1"),
        ({}, {"disjoint_train_ratio": float("nan")}, ValueError, "disjoint_train_ratio must be at least 0 and below 1"),
        ({}, {"accelerator": "cuda"}, ValueError, 'accelerator must be "cpu", "gpu" or "auto"; got \'cuda\''),
        ({}, {"resume": True}, ValueError, "resume=True needs checkpoint"),
    ],
)
def test_what_cannot_be_trained_is_refused_first(change, options, error, message, tiny_data, monkeypatch):
    monkeypatch.setattr(training, "_loss", lambda *_: pytest.fail("training began"))
    for name, value in change.items():
        tiny_data[name] = value
    with pytest.raises(error, match=message):
        pretrain(tiny_data, **options)


def test_what_cannot_fit_the_memory_is_said_first(tiny_data, monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 2000}.get)
    on_disk = Data(x=dask.array.from_array(tiny_data.x.numpy()))
    for use in (lambda: pretrain(tiny_data), lambda: to_memory(on_disk)):
        with pytest.raises(MemoryError, match=r"40 genes x 12 cells takes about 0.3 MB .* has 0.2 MB; keep fewer genes"):
            use()


def test_what_the_message_names_is_enough(tiny_data):
    """The smallest numbers the error names must train."""
    with pytest.raises(ValueError, match="too little") as caught:
        pretrain(Data(x=tiny_data.x, edge_index=torch.tensor([[0], [1]])), max_epochs=1)
    targets, others = (int(number) for number in re.findall(r"(\d+) or more", str(caught.value)))
    edge_index = torch.tensor([[0] * targets, list(range(1, targets + 1))])
    metrics = pretrain(Data(x=tiny_data.x[: 1 + targets + others], edge_index=edge_index), max_epochs=1).metrics
    assert metrics["val_edges"] >= 1 and metrics["test_edges"] >= 1


def test_one_cell_is_enough_and_constant_genes_correlate_with_nothing(tiny_data):
    tiny_data.x[5:20] = 3.0
    assert all(np.isfinite(value) for value in pretrain(tiny_data, max_epochs=1).metrics.values())
    tiny_data.x = tiny_data.x[:, :1].requires_grad_()
    assert pretrain(tiny_data, max_epochs=1).metrics["auroc_correlation"] == 0.5


# stopping and going on


@pytest.mark.parametrize("options", [{}, NO_HIDDEN])
def test_a_resumed_training_gives_exactly_the_result_of_an_uninterrupted_one(options, tiny_data, tmp_path):
    """The scores rise, so that the last epoch, which depends on all before it, is the best."""
    path, options = tmp_path / "last.ckpt", options | {"seed": 3, "scores": RISING}
    expected = train(tiny_data, **options)
    assert expected.metrics["best_epoch"] == 5
    for place, epoch in itertools.product(("_loss", "_validation_auprc", "_keep"), (0, 2, 5)):
        stopped(tiny_data, path, epoch, place, **options)
        assert epochs_kept(path) == epoch
        state = torch.get_rng_state()
        assert same(train(tiny_data, path, resume=True, **options), expected), (place, epoch)
        assert torch.equal(torch.get_rng_state(), state)
    path.unlink()
    for epoch in (1, 2, 2, 4):
        stopped(tiny_data, path, epoch, resume=True, **options)
    assert same(train(tiny_data, path, resume=True, **options), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"], "it stays until the caller has its outputs"


@pytest.mark.parametrize("scores", [[0.1, 0.9, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4, 0.9, 0.8], [0.5] * 6])
def test_the_best_epoch_may_lie_before_or_after_an_interruption(scores, tiny_data, tmp_path):
    expected = train(tiny_data, scores=scores)
    assert expected.metrics["best_epoch"] == scores.index(max(scores))
    stopped(tiny_data, tmp_path / "c", 3, scores=scores)
    assert same(train(tiny_data, tmp_path / "c", scores=scores, resume=True), expected)


def test_a_finished_training_may_go_on_for_longer(tiny_data, tmp_path):
    path = tmp_path / "last.ckpt"
    train(tiny_data, path, scores=RISING, max_epochs=4)
    assert same(train(tiny_data, path, scores=RISING, resume=True), train(tiny_data, scores=RISING))


def test_without_resume_a_kept_training_is_begun_again(tiny_data, tmp_path):
    path = tmp_path / "last.ckpt"
    stopped(tiny_data, path, 2, seed=0)
    stopped(tiny_data, path, 0, seed=1)
    with pytest.raises(ValueError, match="seed=1, not 0"):  # the old training must not be taken for the new one
        train(tiny_data, path, seed=0, resume=True)
    assert same(train(tiny_data, path, seed=1, resume=True), train(tiny_data, seed=1))


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"seed": 1}, "seed=0, not 1"),
        ({}, NO_HIDDEN | {"patience": 9}, "disjoint_train_ratio=0.3, not 0.0 and patience=100, not 9"),
        ({"x": lambda data: data.x.float()}, {}, "has other expression;"),
        ({"x": lambda data: data.x + torch.eye(40, 12).double() * 1e-12}, {}, "has other expression;"),
        ({"edge_index": lambda data: data.edge_index[:, :-1]}, {}, "has other edges;"),
        ({}, {"max_epochs": 2}, r"max_epochs \(--epochs\) must be at least 3, .*got 2"),
    ],
)
def test_a_training_of_other_settings_is_refused_and_kept(change, options, words, tiny_data, tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    stopped(tiny_data, path, 3)
    kept = path.read_bytes()
    for name, make in change.items():
        tiny_data[name] = make(tiny_data)
    monkeypatch.setattr(training, "_loss", lambda *_: pytest.fail("training began"))
    with pytest.raises(ValueError, match=f"{words}.*start over with resume=False"):
        train(tiny_data, path, resume=True, **options)
    assert path.read_bytes() == kept


def damages(whole, kept):
    """What may be in the file instead of what was kept."""
    yield from (b"", b"junk", *(whole[: len(whole) * part // 6] for part in range(1, 6)))
    yield from ([1], kept | {"random_state": torch.zeros(3)}, kept | {"best": kept["best"] | {"auprc": math.nan}})

    def with_one_wrong_entry(entries):
        for name, value in entries.items():
            yield {other: entries[other] for other in entries if other != name}
            yield from (entries | {name: wrong} for wrong in (None, "x", torch.zeros(3), *[3] * isinstance(value, dict)))
            if isinstance(value, dict) and name != "settings":
                for less in itertools.islice(with_one_wrong_entry(value), 17):
                    yield entries | {name: less}

    yield from with_one_wrong_entry(kept | {"optimizer": {"state": kept["optimizer"]["state"]}})


def test_a_damaged_checkpoint_is_refused_and_kept(tiny_data, tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    stopped(tiny_data, path, 2)
    monkeypatch.setattr(training, "_loss", lambda *_: pytest.fail("training began"))
    for damage in damages(path.read_bytes(), torch.load(path, weights_only=True)):
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            torch.save(damage, path)
        before = path.read_bytes()
        with pytest.raises(ValueError, match=r"last.ckpt must be a training that regnet.pretrain kept.*start over"):
            pretrain(tiny_data, checkpoint=path, resume=True)
        assert path.read_bytes() == before


def test_one_bar_over_all_epochs_goes_on_where_it_stopped(tiny_data, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "120")
    path = tmp_path / "last.ckpt"
    train(tiny_data)
    assert capfd.readouterr() == ("", "")
    stopped(tiny_data, path, 2, scores=RISING, progress=True)
    first = capfd.readouterr()
    assert first.out == "" and "2/6" in first.err and "validation AUPRC 0.200" in first.err
    train(tiny_data, path, scores=RISING, resume=True, progress=True)
    second = capfd.readouterr()
    assert second.out == "" and "6/6" in second.err and "validation AUPRC 0.600" in second.err
