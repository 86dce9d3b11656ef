"""Layers from a file: ours, the published one and those of other models, and nothing that is not weights."""

from __future__ import annotations

import pickle
from contextlib import suppress

import pytest
import torch
from examples import Code
from torch import nn
from torch_geometric.nn import GATConv, SAGEConv

from regnet import RegNet
from regnet.checkpoint import load_layers


@pytest.fixture
def save(tmp_path):
    def to_file(content):
        torch.save(content, tmp_path / "m.pth")
        return tmp_path / "m.pth"

    return to_file


def test_code_is_refused_and_not_run(save, tmp_path):
    trap = tmp_path / "trap"
    for content in (Code(trap), {"one": {"weight": Code(trap)}}, {"graphsage.layers.0.agg.mlp.0.weight": Code(trap)}):
        with pytest.raises(ValueError, match="holds code or other objects, which are not loaded"):
            load_layers(save(content))
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Code(trap)))
    with pytest.raises(ValueError, match=r"plain\.pth"):
        load_layers(plain)
    assert not trap.exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth.*no such file"):
        load_layers(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError):
        load_layers(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken", b"gene,c1\nA,1\n"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "m.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.pth: expected a.* checkpoint") as caught:
        load_layers(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_refused(save):
    path = save(RegNet(3).state_dict())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="damaged"):
        load_layers(path)


def test_damage_anywhere_is_one_error_or_harmless(save):
    whole = save(RegNet(2, 2, 2).state_dict()).read_bytes()
    path = save({})
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(ValueError):
            load_layers(path)


class Model(nn.Module):
    """Another model, with layers of every kind."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([SAGEConv(4, 3), SAGEConv(4, 3, root_weight=False, bias=False)])
        self.one = nn.Linear(8, 3, bias=False)
        self.two = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))
        self.project, self.attention = SAGEConv(4, 3, project=True), GATConv(4, 3)
        self.three = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
        self.norm, self.odd = nn.BatchNorm1d(4), nn.Linear(7, 3)


@pytest.mark.parametrize("name", ["convs.0.", "convs.1", "one", "two"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"epoch": 3, "state_dict": w, "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}}, "lr": [1e-3]}},
        lambda w: {"model": {f"module.{key}": value for key, value in w.items()}},
        lambda w: w.update(again=w) or w,  # without an end
        lambda w: w | {"half": torch.ones(2).half(), "count": torch.tensor(3)},
    ],
)
def test_a_layer_comes_out_of_any_state_dict(save, name, wrap):
    model = Model()
    (layer,), notices = load_layers(save(wrap(model.state_dict())), name)
    expected = model.get_submodule(name := name.strip("."))
    assert str(layer) == str(expected) and not layer.training
    assert all(map(torch.equal, layer.state_dict().values(), expected.state_dict().values()))
    assert len(notices) == 1 and f"{name}' is taken for {type(expected).__name__}(" in notices[0]


def test_the_published_layer_is_read(real_file):
    for name, width in ((None, 2 * 421), ("graphsage.layers.1.agg", 2 * 128)):
        layers, notices = load_layers(real_file("published-checkpoint/regnet_pretrained.pth"), name)
        assert layers[-1][0].in_features == width and notices == []


def test_the_layers_of_a_part_of_a_regnet_are_those_of_its_whole(save):
    model = RegNet(4, 8, 4)
    part = {f"module.{key}": value for key, value in model.state_dict().items() if key.startswith("graphsage")}
    for count, name in [(1, None), (2, "graphsage.layers.1.agg"), (1, "layers.1.agg.mlp")]:
        found, notices = load_layers(save({"model": part}), name)
        expected = model.graphsage.layers[0 if name is None else 1].agg.parameters()
        assert all(map(torch.equal, found[-1].parameters(), expected)) and len(found) == count
        assert len(notices) == (name == "layers.1.agg.mlp")
    assert str(load_layers(save(model.graphsage.layers[0].agg.mlp.state_dict()), "")[0][0]).startswith("Sequential")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, ["one layer called 'graphsage.layers.0.agg'", "it holds 'attention.lin', 'convs.0', 'convs.1'"]),
        ("0", ["one layer called '0'", "it holds 'convs.0'"]),
        ("project", ["'project' is not supported: a SAGEConv with project=True"]),
        ("attention", ["'attention' is not supported: expected Linear", "att_src"]),
        ("three", ["'three' is not supported", 'Unexpected key(s) in state_dict: "4.weight", "4.bias"']),
        ("convs", ["'convs' is not supported", "got 0.lin_l.weight"]),
        ("odd", ["it must read [x, m], an even number of features; got 7"]),
        ("turned", ["'turned' is not supported", "size mismatch for bias"]),
        ("half", ["float32 or all float64; got torch.float16"]),
        ("norm", ["'norm' is not supported: expected Linear", "got weight, bias, running_mean"]),
        ("mixed", ["float32 or all float64; got torch.float16 and torch.float32"]),
        ("misfit", ["'misfit' is not supported", "size mismatch for 2.weight"]),
        ("graphsage.layers.1.agg", ["'graphsage.layers.1.agg' is not supported", "got nothing"]),
    ],
)
def test_what_is_no_layer_is_refused_and_those_there_are_listed(save, name, words):
    others = {"turned.weight": torch.ones(8, 3), "turned.bias": torch.ones(3), "half.weight": torch.ones(3, 8).half()}
    others |= {"mixed.weight": torch.ones(3, 8), "mixed.bias": torch.ones(3).half()}
    others |= {"misfit.0.weight": torch.ones(6, 8), "misfit.2.weight": torch.ones(3, 7)}
    others["graphsage.layers.1.agg.weight"] = torch.ones(3, 8)
    with pytest.raises(ValueError) as caught:
        load_layers(save(Model().state_dict() | others), name)
    for word in ["m.pth: ", *words]:
        assert word in str(caught.value)
