"""RegNet: its layers against PyG and torch, and the published checkpoint."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from examples import close
from torch import nn

import regnet.model
from regnet import RegNet
from regnet.graph import neighbor_mean
from regnet.model import GatedAttention, MLPAggregator


@pytest.fixture
def small(normal, random_graph):
    torch.manual_seed(0)
    model = RegNet(in_channels=5, hidden_channels=8, latent_channels=4).double().eval()
    return model, normal(10, 5), random_graph(10, 30), torch.tensor([[0, 3, 9], [1, 3, 2]])


def test_aggregator_is_the_notes_formula(normal):
    layer, x, m = MLPAggregator(3, 6).double(), normal(5, 3), normal(5, 3)
    (w1, b1), (w2, b2) = ((part.weight, part.bias) for part in (layer.mlp[0], layer.mlp[2]))
    expected = torch.stack(
        [w2 @ (w1[:, :3] @ x_i + w1[:, 3:] @ m_i + b1).clamp(min=0) + b2 for x_i, m_i in zip(x, m, strict=True)]
    )
    close(layer(x, m), expected)


def test_graphsage_is_relu_after_each_layer(small):
    model, x, edge_index, _ = small
    h = x
    for layer in model.graphsage.layers:
        h = layer.agg(h, neighbor_mean(h.detach(), edge_index)).clamp(min=0)
    close(model.graphsage(x, edge_index), h)
    assert (h == 0).any()


def test_a_layer_averages_its_hidden_units_and_not_the_cells(small, monkeypatch):
    model, x, edge_index, _ = small
    widths = []
    original = regnet.model.mean_over_regulators
    monkeypatch.setattr("regnet.model.mean_over_regulators", lambda y, e: widths.append(y.size(1)) or original(y, e))
    layer = model.graphsage.layers[0]
    close(layer(x, edge_index), layer.agg(x, neighbor_mean(x, edge_index)))
    assert widths == [8]


def test_attention_agrees_with_torch(normal):
    torch.manual_seed(2)
    layer, h = GatedAttention(6).double(), normal(9, 6)
    attended = nn.functional.scaled_dot_product_attention(layer.query(h), layer.key(h), layer.value(h))
    gate = layer.gate(torch.cat([h, attended], dim=1))
    close(layer(h), layer.out_proj(gate * attended + (1 - gate) * h))
    layer.gate[0].weight.data.zero_()
    layer.gate[0].bias.data.fill_(-1e3)  # a closed gate passes the input on
    close(layer(h), layer.out_proj(h))


def test_forward_is_the_chain_of_its_parts(small):
    model, x, edge_index, pairs = small
    out = model(x, edge_index, pairs)
    hidden = model.attention(model.graphsage(x, edge_index))
    mu, logvar = model.vae.encoder.fc_mu(hidden), model.vae.encoder.fc_logvar(hidden)
    for name, expected in (("hidden", hidden), ("mu", mu), ("logvar", logvar), ("reconstruction", model.vae.decoder(mu))):
        close(getattr(out, name), expected)
    for logit, (regulator, target) in zip(out.logits, pairs.T.tolist(), strict=True):
        close(logit[None], model.edge_classifier(torch.cat([mu[regulator], mu[target]])))
    flipped = model(x, edge_index, pairs.flip(0)).logits
    assert flipped[0] != out.logits[0] and flipped[1] == out.logits[1]


def test_chance_acts_in_training_mode_only(small):
    model, x, edge_index, pairs = small
    assert torch.equal(model(x, edge_index, pairs).logits, model(x, edge_index, pairs).logits)
    assert torch.equal(model(x, edge_index, pairs).reconstruction, model(x, edge_index, pairs).reconstruction)
    model.train()
    assert not torch.equal(model(x, edge_index, pairs).logits, model(x, edge_index, pairs).logits)
    model.graphsage.dropout.p = 0.0  # now only the draw from the latent normal is left
    one, two = model(x, edge_index, pairs), model(x, edge_index, pairs)
    assert torch.equal(one.logits, two.logits) and not torch.equal(one.reconstruction, two.reconstruction)


def test_the_latent_draw_has_the_mean_and_variance_it_should(small):
    """With an identity decoder the reconstruction is z: 1500 draws against mu and logvar."""
    model, x, edge_index, pairs = small
    model.train()
    model.graphsage.dropout.p = 0.0
    model.vae.decoder.decoder = nn.Identity()
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([model(x, edge_index, pairs).reconstruction for _ in range(1500)])
        out = model(x, edge_index, pairs)
    deviation = (out.logvar / 2).exp()
    assert ((draws.mean(dim=0) - out.mu).abs() < 5 * deviation / 1500**0.5).all()
    assert ((draws.std(dim=0) / deviation - 1).abs() < 5 / 3000**0.5).all()


def test_sizes_below_one_and_dropout_outside_its_range_are_refused():
    for name in ("in_channels", "hidden_channels", "latent_channels", "num_layers"):
        with pytest.raises(ValueError, match=rf"{name} must be at least 1; got 0"):
            RegNet(**({"in_channels": 3} | {name: 0}))
    for dropout in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\)"):
            RegNet(3, dropout=dropout)


# The published checkpoint (mESC lofgof)


@pytest.fixture
def published(real_file):
    state = torch.load(real_file("published-checkpoint/regnet_pretrained.pth"), map_location="cpu", weights_only=True)
    model = RegNet(in_channels=421)
    model.load_state_dict(state, strict=True)
    return model.eval(), state


def test_the_published_checkpoint_loads_strictly(published):
    model, state = published
    assert set(model.state_dict()) == set(state)
    for name, values in model.state_dict().items():
        assert torch.equal(values, state[name]), name
    broken = {name: values for name, values in state.items() if name != "attention.key.bias"}
    with pytest.raises(RuntimeError, match=r"attention\.key\.bias"):
        model.load_state_dict(broken, strict=True)


def test_the_published_embeddings_follow_at_m_zero_for_exactly_the_genes_that_are_no_tfs(published, real_file):
    model, _ = published
    expression = pd.read_csv(real_file("mESC/expression.csv.gz"), index_col=0)
    shipped = pd.read_csv(real_file("published-checkpoint/graphsage_embeddings.csv"), index_col=0)
    tfs = set(pd.read_csv(real_file("mESC/lofgof/tfs.csv"))["TF"].str.upper())
    expression.index, shipped.index = expression.index.str.upper(), shipped.index.str.upper()
    assert set(expression.index) == set(shipped.index) and len(shipped) == 1120
    h = torch.tensor(expression.loc[shipped.index].to_numpy(), dtype=torch.float32)
    with torch.no_grad():
        for layer in model.graphsage.layers:
            h = layer.agg(h, torch.zeros_like(h)).relu()
    deviation = (h - torch.tensor(shipped.to_numpy(), dtype=torch.float32)).abs().amax(dim=1)
    reproduced = {gene for gene, largest in zip(shipped.index, deviation.tolist(), strict=True) if largest < 1e-4}
    others = set(shipped.index) - tfs
    assert len(others) == 500
    assert reproduced == others
