"""The secant weight: exact for shrinkage rules of any weight, equal to Eq. (4) where the layer is affine, and its limits."""

from __future__ import annotations

import pytest
import torch
from examples import close, linear, mlp
from torch import nn
from torch_geometric.nn import SAGEConv

from regnet import effective_weight, secant_weight


def full(count, value):
    return torch.full((count,), value, dtype=torch.float64)


def length(delta):
    return delta.norm(dim=1, keepdim=True)


def rule(weight, Q=None, shift=0.0):
    """g(x, m) = Q (m + w(|x - m|) (x - m)) + shift."""

    def g(x, m):
        estimate = m + weight(length(x - m)) * (x - m)
        return (estimate if Q is None else estimate @ Q.T) + shift

    return g


# Weights that do not change, grow smoothly, jump, saturate at both ends, and fall with the length of delta.
WEIGHTS = {
    "none": lambda r: 0 * r,
    "all": lambda r: 1 + 0 * r,
    "constant": lambda r: 0.3 + 0 * r,
    "James-Stein": lambda r: torch.where(r > 0, 1 - 0.1 / r**2, 0),  # needs a value at m = x, where the formula has none
    "positive part": lambda r: (1 - 6 / r**2).clamp(min=0),
    "soft threshold": lambda r: (1 - 1.5 / r).clamp(min=0),
    "hard threshold": lambda r: (r > 2.5).to(r.dtype),
    "smooth": lambda r: r**2 / (1 + r**2),
    "redescending": lambda r: 1 / (1 + r**2),
    "oscillating": lambda r: torch.sin(7 * r) ** 2,
}


# The family for which it is the weight


@pytest.mark.parametrize("name", WEIGHTS)
def test_it_is_the_weight_of_any_rule_that_depends_on_the_length_of_delta(name, pair, normal):
    x, m = pair
    expected = WEIGHTS[name](length(x - m)).squeeze(1)
    assert ((expected >= 0) & (expected <= 1)).all()
    for Q, shift in ((None, 0.0), (normal(6, 4), 0.0), (normal(2, 4), 3.0)):
        close(secant_weight(rule(WEIGHTS[name], Q, shift), x, m), expected)


@pytest.mark.parametrize(("w", "expected"), [(1.5, 0.75), (3.0, 0.6), (-0.5, 0.25), (-2.0, 0.4)])
def test_weights_outside_0_and_1_are_folded_back(w, expected, pair):
    """|w| / (|w| + |1 - w|): the lengths have no sign, so an overshoot looks like a weight."""
    close(secant_weight(rule(lambda r: w + 0 * r), *pair), full(11, expected))


def test_a_rule_without_a_value_at_m_equal_to_x_has_none(pair):
    """James-Stein as printed is inf * 0 at g(m, m) and g(x, x), which the secants need."""
    assert secant_weight(rule(lambda r: 1 - 0.1 / r**2), *pair).isnan().all()


# Beside the effective weight


@pytest.mark.parametrize(
    "layer", [nn.Linear(8, 3), nn.Sequential(nn.Linear(8, 9), nn.Dropout(0.5), nn.Linear(9, 3)), SAGEConv(4, 6)]
)
def test_an_affine_layer_has_the_same_weight_both_ways(layer, pair):
    method = "jvp" if isinstance(layer, nn.Sequential) else "exact"
    close(secant_weight(layer.double(), *pair), effective_weight(layer.double(), *pair, method), rtol=1e-10)


def test_it_differs_from_the_effective_weight_where_a_kink_lies_between(pair):
    """h = soft threshold: slope 1 at x whatever the weight, so w_eff = 1 while the weight is 1 - T / |delta|."""
    layer = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    layer[0].weight.data = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.0, 1.0], [0.0, -1.0]]).double()
    layer[0].bias.data = torch.tensor([-1.0, -1.0, 0.0, 0.0]).double()
    layer[2].weight.data = torch.tensor([[1.0, -1.0, 1.0, -1.0]]).double()
    x, m = torch.tensor([[7.0], [-1.0], [3.5]]).double(), torch.tensor([[3.0], [1.0], [3.0]]).double()
    close(secant_weight(layer, x, m), torch.tensor([0.75, 0.5, 0.0]).double())
    assert effective_weight(layer, x, m).tolist() == [1.0, 1.0, 0.0]
    assert (secant_weight(mlp(), *pair) - effective_weight(mlp(), *pair)).abs().max() > 1e-3


# Precision and scale


@pytest.mark.parametrize("scale", [1e-30, 1e-150, 1e30, 1e150])
def test_very_small_and_very_large_expression(scale, pair, normal):
    layer = linear(0.3 * (Q := normal(6, 4)), 0.7 * Q)
    close(secant_weight(layer, scale * pair[0], scale * pair[1]), full(11, 0.3))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_single_precision(scale, pair, normal):
    x, m = (scale * values.float() for values in pair)
    Q = normal(6, 4).float()
    got = secant_weight(linear(0.3 * Q, 0.7 * Q), x, m)
    assert got.dtype == torch.float32
    close(got, torch.full((11,), 0.3), rtol=1e-5)
    close(secant_weight(mlp().float(), *(v.float() for v in pair)), secant_weight(mlp(), *pair).float(), rtol=1e-4)


# Layers


def test_three_passes_and_no_derivative(pair):
    x, m = pair
    asked = []

    def g(a, b):
        assert not torch.is_grad_enabled()
        asked.append((a, b))
        return a.round() + b  # has no useful derivative

    secant_weight(g, x, m)
    wanted = [(x, m), (m, m), (x, x)]
    assert len(asked) == 3
    assert all(any(torch.equal(a, c) and torch.equal(b, d) for a, b in asked) for c, d in wanted)
