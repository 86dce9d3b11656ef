"""Eqs. (3) to (5) by closed forms, Jacobians, forward-mode differentiation and finite differences."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch_geometric.nn import SAGEConv

from regnet.graph import neighbor_mean
from regnet.layers import as_function
from regnet.model import MLPAggregator
from regnet.shrinkage import (
    effective_weight,
    effective_weight_on_graph,
    kink_distance,
    local_affine,
    sensitivities,
    sensitivities_on_graph,
)

jacobian = torch.autograd.functional.jacobian


def close(got, expected, rtol=1e-10, atol=1e-13):
    torch.testing.assert_close(got.detach(), expected.detach(), rtol=rtol, atol=atol, equal_nan=True)


def mlp(cells=4, hidden=16, out=5, seed=0, bias=True):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2 * cells, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, out, bias=bias)).double()


def linear(A, B):
    """h = A x + B m as one Linear on [x, m]."""
    layer = nn.Linear(A.size(1) * 2, A.size(0), bias=False).to(A.dtype)
    layer.weight.data = torch.cat([A, B], dim=1)
    return layer


def layers():
    torch.manual_seed(1)
    return [
        mlp(),
        mlp(bias=False),
        MLPAggregator(4, 7).double(),
        nn.Linear(8, 3).double(),
        SAGEConv(4, 6).double(),
        nn.Sequential(nn.Linear(8, 9), nn.Dropout(0.5), nn.ReLU(), nn.Linear(9, 1)).double(),
    ]


@pytest.fixture
def pair(normal):
    return normal(11, 4), normal(11, 4)


# Eq. (3): three routes to one number


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
def test_exact_is_the_norm_of_the_jacobians_along_delta(layer, pair):
    x, m = pair
    got = sensitivities(layer, x, m)
    layer.eval()
    g = as_function(layer)
    for gene in range(x.size(0)):
        delta = x[gene] - m[gene]
        A = jacobian(lambda v, gene=gene: g(v[None], m[gene : gene + 1])[0], x[gene])
        B = jacobian(lambda v, gene=gene: g(x[gene : gene + 1], v[None])[0], m[gene])
        close(got.self_sensitivity[gene], (A @ delta).norm())
        close(got.neighbor_sensitivity[gene], (B @ delta).norm())


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
def test_exact_is_forward_mode_and_finite_differences(layer, pair):
    x, m = pair
    exact = sensitivities(layer, x, m)
    jvp = sensitivities(layer, x, m, "jvp")
    close(exact.self_sensitivity, jvp.self_sensitivity)
    close(exact.neighbor_sensitivity, jvp.neighbor_sensitivity)
    for central in (False, True):
        numeric = sensitivities(layer, x, m, "finite-difference", eps=1e-6, central=central)
        close(exact.self_sensitivity, numeric.self_sensitivity, rtol=1e-6)
        close(exact.neighbor_sensitivity, numeric.neighbor_sensitivity, rtol=1e-6)


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
def test_float32_agrees_with_forward_mode(layer, pair):
    x, m = (values.float() for values in pair)
    layer = deepcopy(layer).float()
    got, expected = sensitivities(layer, x, m), sensitivities(layer, x, m, "jvp")
    assert got.weight.dtype == torch.float32
    close(got.weight, expected.weight, rtol=1e-5, atol=1e-6)
    close(got.self_sensitivity, expected.self_sensitivity, rtol=1e-5, atol=1e-6)


def test_methods_other_than_exact_take_any_layer(pair):
    """James-Stein: w_eff is (2 - w) / (3 - 2 w) in closed form, whatever the weight w."""
    x, m = pair
    c = 0.5

    def rule(x, m):
        delta = x - m
        return m + (1 - c / (delta**2).sum(dim=1, keepdim=True)) * delta

    w = 1 - c / ((x - m) ** 2).sum(dim=1)
    assert ((w > 0) & (w < 1)).all()
    result = sensitivities(rule, x, m, "jvp")
    length = (x - m).norm(dim=1)
    close(result.self_sensitivity, (2 - w) * length)
    close(result.neighbor_sensitivity, (1 - w) * length)
    close(result.weight, (2 - w) / (3 - 2 * w))
    close(sensitivities(rule, x, m, "finite-difference", eps=1e-5, central=True).weight, result.weight, rtol=1e-7)
    with pytest.raises(TypeError, match="jvp"):
        sensitivities(rule, x, m)


# Eq. (4): closed forms, limits, invariances


@pytest.mark.parametrize("w", [0.0, 1e-12, 0.3, 0.5, 1 - 1e-12, 1.0])
def test_an_orthogonal_shrinker_returns_its_weight(w, pair, normal):
    Q = torch.linalg.qr(normal(4, 4))[0]
    for scale in (1.0, -1.0, 1e-8, 1e8):
        close(
            effective_weight(linear(scale * w * Q, scale * (1 - w) * Q), *pair),
            torch.full((11,), w, dtype=torch.float64),
            rtol=1e-10,
            atol=1e-16,
        )


def test_any_common_map_returns_the_weight_but_unequal_maps_do_not(pair, normal):
    Q, R = normal(6, 4), normal(6, 4)
    close(effective_weight(linear(0.3 * Q, 0.7 * Q), *pair), torch.full((11,), 0.3, dtype=torch.float64))
    assert (effective_weight(linear(0.3 * Q, 0.7 * R), *pair) - 0.3).abs().max() > 0.01


def test_sign_blindness(pair, normal):
    A, B = normal(6, 4), normal(6, 4)
    expected = effective_weight(linear(A, B), *pair)
    for signs in ((-1, 1), (1, -1), (-1, -1)):
        close(effective_weight(linear(signs[0] * A, signs[1] * B), *pair), expected)


def test_swapping_the_two_branches_gives_the_complement(pair, normal):
    A, B = normal(6, 4), normal(6, 4)
    close(effective_weight(linear(A, B), *pair), 1 - effective_weight(linear(B, A), *pair))


def test_an_orthogonal_output_map_changes_nothing(pair, normal):
    layer = mlp(out=5)
    before = sensitivities(layer, *pair)
    Q = torch.linalg.qr(normal(5, 5))[0]
    layer[2].weight.data = Q @ layer[2].weight.data
    after = sensitivities(layer, *pair)
    close(after.self_sensitivity, before.self_sensitivity)
    close(after.neighbor_sensitivity, before.neighbor_sensitivity)


def test_scaling_the_output_scales_the_sensitivities_and_not_the_weight(pair):
    layer = mlp()
    before = sensitivities(layer, *pair)
    layer[2].weight.data *= 1e5
    after = sensitivities(layer, *pair)
    close(after.self_sensitivity, 1e5 * before.self_sensitivity)
    close(after.weight, before.weight)


@pytest.mark.parametrize("c", [1e-6, 3.0, 1e6])
def test_without_biases_the_unit_of_expression_does_not_matter(c, pair):
    x, m = pair
    layer = mlp(bias=False)
    before, after = sensitivities(layer, x, m), sensitivities(layer, c * x, c * m)
    close(after.self_sensitivity, c * before.self_sensitivity, atol=1e-16)
    close(after.weight, before.weight)


def test_gene_order_and_cell_order_do_not_matter(pair, rng):
    x, m = pair
    layer = mlp()
    expected = effective_weight(layer, x, m)
    genes, cells = torch.randperm(11, generator=rng), torch.randperm(4, generator=rng)
    close(effective_weight(layer, x[genes], m[genes]), expected[genes])
    layer[0].weight.data = layer[0].weight.data[:, torch.cat([cells, cells + 4])]
    close(effective_weight(layer, x[:, cells], m[:, cells]), expected)


def test_the_mask_is_that_of_the_gene_and_counts_only_active_units():
    """One unit that opens at x > 2: below, no answer; above, the answer of its weights."""
    layer = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    layer[0].weight.data, layer[0].bias.data = torch.tensor([[3.0, 1.0]]).double(), torch.tensor([-6.0]).double()
    layer[2].weight.data = torch.tensor([[2.0]]).double()
    x, m = torch.tensor([[1.0], [2.0], [4.0]]).double(), torch.zeros(3, 1).double()
    s = sensitivities(layer, x, m)
    assert s.self_sensitivity.tolist() == [0, 0, 24] and s.neighbor_sensitivity.tolist() == [0, 0, 8]
    assert s.weight.isnan().tolist() == [True, True, False] and s.weight[2] == 0.75


def test_a_dead_half_puts_all_weight_on_the_other(pair, normal):
    A = normal(6, 4)
    assert torch.equal(effective_weight(linear(A, 0 * A), *pair), torch.ones(11).double())
    assert torch.equal(effective_weight(linear(0 * A, A), *pair), torch.zeros(11).double())
    assert effective_weight(linear(0 * A, 0 * A), *pair).isnan().all()


@pytest.mark.parametrize("method", ["exact", "jvp", "finite-difference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_direction_the_result_is_nan(method, dtype, normal):
    x = normal(4, 3).to(dtype)
    m = x.clone()
    m[1] = x[1] * (1 + torch.finfo(dtype).eps)  # equal up to the rounding of a mean
    m[2] += 1.0
    x[3] = m[3] = 0
    s = sensitivities(MLPAggregator(3, 8).to(dtype), x, m, method)
    for values in (s.self_sensitivity, s.neighbor_sensitivity, s.weight):
        assert values.isnan().tolist() == [True, True, False, True]


def test_a_tiny_but_real_direction_is_not_undefined(normal):
    x = normal(5, 4)
    direction = normal(5, 4)
    layer = nn.Linear(8, 3).double()
    close(effective_weight(layer, x, x - 1e-7 * direction), effective_weight(layer, direction, 0 * direction), rtol=1e-6)


@given(
    genes=st.integers(0, 5),
    cells=st.integers(1, 4),
    hidden=st.integers(1, 6),
    out=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
    degenerate=st.sampled_from(["none", "zero rows", "constant rows", "equal rows", "huge"]),
)
def test_any_shape_agrees_with_forward_mode(genes, cells, hidden, out, dtype, seed, degenerate):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(genes, cells, dtype=dtype, generator=generator)
    m = torch.randn(genes, cells, dtype=dtype, generator=generator)
    if degenerate == "zero rows":
        m[::2] = 0
        x[1::2] = 0
    elif degenerate == "constant rows":
        x[:] = 1
        m[:] = 2
    elif degenerate == "equal rows":
        m[::2] = x[::2]
    elif degenerate == "huge":
        x, m = 1e6 * x, 1e6 * m
    layer = mlp(cells, hidden, out, seed).to(dtype)
    got, expected = sensitivities(layer, x, m), sensitivities(layer, x, m, "jvp")
    assert got.weight.shape == (genes,) and got.weight.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    size = float((x.norm() + m.norm()).clamp(min=1))
    close(got.self_sensitivity, expected.self_sensitivity, rtol=tolerance, atol=tolerance * size)
    close(got.neighbor_sensitivity, expected.neighbor_sensitivity, rtol=tolerance, atol=tolerance * size)
    defined = got.weight[~got.weight.isnan()]
    assert ((defined >= 0) & (defined <= 1)).all()


# Training mode and autograd


class Dropping(nn.Module):
    """Dropout in the middle; counts its modes."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.9), nn.Linear(32, 5)).double()

    def forward(self, x, m):
        return self.mlp(torch.cat([x, m], dim=-1))


@pytest.mark.parametrize("method", ["exact", "jvp", "finite-difference"])
def test_dropout_has_no_effect_and_training_mode_is_restored(method, pair):
    torch.manual_seed(0)
    layer = Dropping()
    expected = effective_weight(layer.eval(), *pair, method)
    layer.train()
    layer.mlp[1].eval()
    modes = [module.training for module in layer.modules()]
    state = torch.get_rng_state()
    assert torch.equal(effective_weight(layer, *pair, method), expected)
    assert [module.training for module in layer.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_training_mode_is_restored_after_an_error(pair):
    layer = Dropping()
    layer.mlp.append(nn.Tanh())
    with pytest.raises(TypeError, match="jvp"):
        sensitivities(layer, *pair)
    assert all(module.training for module in layer.modules())


def test_results_carry_no_gradient_and_weights_none_either(pair):
    layer = mlp()
    for method in ("exact", "jvp", "finite-difference"):
        assert not effective_weight(layer, *pair, method).requires_grad
    assert layer[0].weight.grad is None


# Eq. (5)


def test_eq_5_as_printed_steps_forward_along_the_unit_vector():
    """g = x^2 + 3 m: forward (x + eps) gives 2 x + eps, centred gives 2 x; both times |delta|."""

    def g(x, m):
        return x**2 + 3 * m

    x, m = torch.tensor([[2.0]]).double(), torch.tensor([[5.0]]).double()  # delta = -3, unit -1
    forward = sensitivities(g, x, m, "finite-difference", eps=0.5)
    close(forward.self_sensitivity, torch.tensor([3 * (4 - 0.5)]).double())
    close(forward.neighbor_sensitivity, torch.tensor([9.0]).double())
    centred = sensitivities(g, x, m, "finite-difference", eps=0.5, central=True)
    close(centred.self_sensitivity, torch.tensor([12.0]).double())
    assert effective_weight(g, x, m, "finite-difference", 0.5).item() == forward.weight.item()


def test_the_notes_snippet(pair):
    """Section 8, as printed."""
    x, m = pair
    first_layer = MLPAggregator(4, 128).double()
    delta = x - m
    unit = delta / delta.norm(dim=1, keepdim=True).clamp(min=1e-9)
    eps = 1e-2
    out0 = first_layer(x, m)
    Sx = (first_layer(x + eps * unit, m) - out0).norm(dim=1) / eps
    Sm = (first_layer(x, m + eps * unit) - out0).norm(dim=1) / eps
    result = sensitivities(first_layer, x, m, "finite-difference")
    close(result.weight, Sx / (Sx + Sm))
    close(result.self_sensitivity, Sx * delta.norm(dim=1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "magic"}, ["method", "finite-difference", "'magic'"]),
        ({"method": "finite-difference", "eps": 0.0}, ["eps must be positive", "0.0"]),
        ({"eps": -1.0}, ["eps must be positive", "-1.0"]),
        ({"eps": float("nan")}, ["eps must be positive", "nan"]),
        ({"method": "jvp", "central": True}, ["central=True", "finite-difference", "'jvp'"]),
    ],
)
def test_unusable_options_are_refused(arguments, words, pair):
    with pytest.raises(ValueError) as caught:
        sensitivities(mlp(), *pair, **arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("function", [sensitivities, effective_weight, kink_distance])
def test_unusable_input_is_refused(function, normal):
    x = normal(3, 4)
    with pytest.raises(ValueError, match=r"got x \(3, 4\) and m \(3, 3\)"):
        function(mlp(), x, x[:, :3])
    with pytest.raises(ValueError, match="x must be finite; got nan at gene 0, cell 0"):
        function(mlp(), x * torch.nan, x)
    with pytest.raises(ValueError, match="m must be finite; got inf"):
        function(mlp(), x, x.abs() * torch.inf)
    with pytest.raises(TypeError, match="float32 or float64"):
        function(mlp(), x.long(), x.long())
    with pytest.raises(TypeError, match="one dtype"):
        function(mlp(), x, x.float())
    with pytest.raises(TypeError, match=r"float64 and x is torch\.float32"):
        function(mlp(), x.float(), -x.float())
    with pytest.raises(ValueError, match=r"takes 5 features.*got 4"):
        function(mlp(5), x, -x)


# Kinks


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("branch", ["self", "neighbor"])
def test_eq_5_is_exact_up_to_the_kink_and_not_beyond(seed, branch, normal):
    """One gene after the other, each with its own largest step."""
    layer, x, m = mlp(hidden=24, seed=seed), 3 * normal(12, 4), 3 * normal(12, 4)
    distance = getattr(kink_distance(layer, x, m), f"{branch}_branch")
    assert (distance > 0).all() and distance.isfinite().sum() >= 10
    name = f"{branch}_sensitivity"
    for gene in distance.isfinite().nonzero().squeeze(1).tolist():
        x_i, m_i = x[gene : gene + 1], m[gene : gene + 1]
        delta = x_i - m_i
        unit = delta / delta.norm()
        step = distance[gene].item()

        def error(eps, x_i=x_i, m_i=m_i, unit=unit, delta=delta):
            """Eq. (5) before its norm against A delta (or B delta): the norm could hide a difference."""
            affine = local_affine(layer, x_i[0], m_i[0])
            move = eps * unit
            g = as_function(layer)
            moved = g(x_i + move, m_i) if branch == "self" else g(x_i, m_i + move)
            tangent = (affine.A if branch == "self" else affine.B) @ unit[0]
            return ((moved - g(x_i, m_i))[0] / eps - tangent).norm().item() / tangent.norm().item()

        assert error(0.999 * step) < 1e-11
        assert error(1.001 * step) > 1e-7
        below = getattr(sensitivities(layer, x_i, m_i, "finite-difference", eps=0.999 * step), name)
        close(below, getattr(sensitivities(layer, x_i, m_i), name), rtol=1e-10)


def test_kink_distance_by_hand():
    """Units x - 1 and 5 - 2 m, x = 3, m = 0, delta = 3: x moves up and switches none; m switches at 2.5."""
    layer = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    layer[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, -2.0]]).double()
    layer[0].bias.data = torch.tensor([-1.0, 5.0]).double()
    x, m = torch.tensor([[3.0], [-3.0]]).double(), torch.zeros(2, 1).double()
    got = kink_distance(layer, x, m)
    assert got.self_branch.tolist() == [torch.inf, torch.inf]
    assert got.neighbor_branch.tolist() == [2.5, torch.inf]
    got = kink_distance(layer, torch.tensor([[0.0]]).double(), torch.tensor([[-4.0]]).double())
    assert got.self_branch.tolist() == [1.0] and got.neighbor_branch.tolist() == [6.5]


def test_kink_distance_of_linear_layers_and_of_no_direction(normal):
    x, m = normal(3, 4), normal(3, 4)
    m[1] = x[1]
    for layer in (nn.Linear(8, 3).double(), SAGEConv(4, 3).double()):
        for branch in kink_distance(layer, x, m):
            assert branch.isnan().tolist() == [False, True, False]
            assert branch[[0, 2]].isinf().all()
    for branch in kink_distance(mlp(), x, m):
        assert branch.isnan().tolist() == [False, True, False]
    with pytest.raises(TypeError, match="jvp"):
        kink_distance(lambda x, m: x, x, m)


def test_kink_distance_has_the_unit_of_x(normal):
    x, m = normal(6, 4), normal(6, 4)
    layer = mlp(bias=False)
    for got, expected in zip(kink_distance(layer, 7 * x, 7 * m), kink_distance(layer, x, m), strict=True):
        close(got, 7 * expected)


# The local affine map


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
def test_local_affine_is_the_jacobian_and_reproduces_the_output(layer, pair):
    x, m = pair
    layer.eval()
    g = as_function(layer)
    for x_i, m_i in zip(x, m, strict=True):
        A, B, b = local_affine(layer, x_i, m_i)
        close(A, jacobian(lambda v, m_i=m_i: g(v[None], m_i[None])[0], x_i))
        close(B, jacobian(lambda v, x_i=x_i: g(x_i[None], v[None])[0], m_i))
        close(A @ x_i + B @ m_i + b, g(x_i[None], m_i[None])[0])


def test_local_affine_refuses(normal):
    x = normal(4)
    with pytest.raises(ValueError, match=r"\(features,\).*\(4,\).*\(3,\)"):
        local_affine(mlp(), x, x[:3])
    with pytest.raises(ValueError, match=r"\(features,\)"):
        local_affine(mlp(), x[None], x[None])
    with pytest.raises(ValueError, match="finite"):
        local_affine(mlp(), x * torch.nan, x)
    with pytest.raises(TypeError, match="jvp"):
        local_affine(lambda x, m: x, x, x)


# On a graph


def oracle(layer, x, edge_index):
    """Form m, differentiate forward, and leave out genes without regulators."""
    result = effective_weight(layer, x, neighbor_mean(x, edge_index), "jvp")
    result[torch.bincount(edge_index[1], minlength=x.size(0)) == 0] = torch.nan
    return result


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_graph_level_closed_form_agrees_with_forward_mode(layer, dtype, tolerance, normal, random_graph):
    layer = deepcopy(layer).to(dtype)
    x, edge_index = normal(30, 4).to(dtype), random_graph(30, 120)
    got = effective_weight_on_graph(layer, x, edge_index)
    assert got.isnan().sum() >= 1 and got.dtype == dtype
    torch.testing.assert_close(got, oracle(layer, x, edge_index), rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize(("dtype", "tolerance", "smallest"), [(torch.float64, 1e-12, 1e-6), (torch.float32, 1e-5, 1e-3)])
def test_genes_almost_equal_to_their_mean_keep_their_digits(dtype, tolerance, smallest, normal):
    """x_i = mean + size * direction for sizes from 1 down: the result must not lose digits as delta shrinks.

    The oracle forms the mean, rounds it, and so loses as many digits in delta itself: it is given the exact delta
    of numbers that are representable, on one regulator, so that both see the same delta.
    """
    layer = mlp(cells=40, hidden=32, out=8).to(dtype)
    regulator = normal(1, 40).to(dtype)
    sizes = [1.0, 0.1, 0.05, 0.02, 0.011, 0.009, 1e-3]
    sizes = [size for size in sizes if size >= smallest] + [smallest]
    x = torch.cat([regulator, *(regulator + size * normal(1, 40).to(dtype) for size in sizes)])
    edge_index = torch.tensor([[0] * len(sizes), list(range(1, len(sizes) + 1))])
    got, expected = effective_weight_on_graph(layer, x, edge_index)[1:], oracle(layer, x, edge_index)[1:]
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_genes_equal_to_their_mean_are_undefined_on_a_graph(dtype, normal):
    x = normal(6, 5).to(dtype)
    x[3] = x[0]  # one regulator, copied
    x[4] = (x[0] + x[1] + x[2]) / 3  # three regulators, equal up to rounding
    edge_index = torch.tensor([[0, 0, 1, 2, 1], [3, 4, 4, 4, 5]])
    result = sensitivities_on_graph(mlp(cells=5).to(dtype), x, edge_index)
    for values in (result.self_sensitivity, result.neighbor_sensitivity, result.weight):
        assert values.isnan().tolist() == [True, True, True, True, True, False]


def test_repeated_edges_count_repeatedly_on_a_graph(normal):
    x = normal(6, 4)
    repeated = torch.tensor([[0, 0, 1, 2], [4, 4, 4, 5]])
    layer = mlp()
    got = effective_weight_on_graph(layer, x, repeated)
    m = ((2 * x[0] + x[1]) / 3)[None]
    close(got[4:5], effective_weight(layer, x[4:5], m))
    conv = SAGEConv(4, 3).double()
    A, B = conv.lin_r.weight, conv.lin_l.weight
    delta = x[4] - m[0]
    close(effective_weight_on_graph(conv, x, repeated)[4], (A @ delta).norm() / ((A @ delta).norm() + (B @ delta).norm()))


def test_repeated_edges_count_repeatedly_for_genes_almost_equal_to_their_mean(normal):
    """The genes that are computed a second time, from delta itself, average in the same way."""
    x = normal(4, 4)
    x[3] = (2 * x[0] + x[1]) / 3 + 1e-5 * normal(4)
    layer, edge_index = mlp(), torch.tensor([[0, 0, 1], [3, 3, 3]])
    torch.testing.assert_close(
        effective_weight_on_graph(layer, x, edge_index)[3], oracle(layer, x, edge_index)[3], rtol=0, atol=1e-9
    )


def test_edge_order_and_gene_order_on_a_graph(normal, random_graph, rng):
    layer, x, edge_index = mlp(), normal(14, 4), random_graph(14, 50)
    expected = effective_weight_on_graph(layer, x, edge_index)
    close(effective_weight_on_graph(layer, x, edge_index[:, torch.randperm(50, generator=rng)]), expected)
    order = torch.randperm(14, generator=rng)
    close(effective_weight_on_graph(layer, x[order], order.argsort()[edge_index]), expected[order])


def test_the_direction_of_the_edges_matters():
    """0 -> 1: gene 1 is shrunk toward gene 0, and gene 0 toward nothing."""
    layer = linear(torch.tensor([[0.25]]), torch.tensor([[0.75]]))
    got = sensitivities_on_graph(layer, torch.tensor([[1.0], [3.0]]), torch.tensor([[0], [1]]))
    assert got.weight.isnan().tolist() == [True, False] and got.weight[1] == 0.25
    assert got.self_sensitivity[1] == 0.5 and got.neighbor_sensitivity[1] == 1.5


def test_each_gene_has_its_own_delta_on_a_graph(normal, random_graph):
    """A layer whose weight depends on the direction: a delta shared between genes would show."""
    layer, x, edge_index = linear(normal(3, 4), normal(3, 4)), normal(20, 4), random_graph(20, 80)
    got = effective_weight_on_graph(layer, x, edge_index)
    A, B = layer.weight.detach().tensor_split(2, dim=1)
    for gene in (~got.isnan()).nonzero().squeeze(1).tolist():
        delta = x[gene] - x[edge_index[0, edge_index[1] == gene]].mean(dim=0)
        close(got[gene], (A @ delta).norm() / ((A @ delta).norm() + (B @ delta).norm()))
    assert got[~got.isnan()].std() > 0.01


def test_other_layers_go_through_forward_mode_on_a_graph(normal, random_graph):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 2)).double()
    x, edge_index = normal(12, 4), random_graph(12, 40)
    close(effective_weight_on_graph(layer, x, edge_index), oracle(layer, x, edge_index))
    assert effective_weight_on_graph(layer, x, edge_index)[-1].isnan()


@pytest.mark.parametrize("aggregation", ["max", "sum"])
def test_a_sageconv_that_takes_no_mean_is_refused_on_a_graph(aggregation, normal, random_graph):
    """Its answer does not depend on the neighbour mean: a weight computed at that mean would be another layer's."""
    with pytest.raises(TypeError, match=r"aggr=.mean"):
        effective_weight_on_graph(SAGEConv(4, 3, aggr=aggregation).double(), normal(9, 4), random_graph(9, 20))


def test_dropout_has_no_effect_on_a_graph(normal, random_graph):
    layer, x, edge_index = Dropping(), normal(9, 4), random_graph(9, 20)
    expected = effective_weight_on_graph(layer.eval(), x, edge_index)
    layer.train()
    close(effective_weight_on_graph(layer, x, edge_index), expected, rtol=0, atol=0)
    assert all(module.training for module in layer.modules())


def test_one_gene_and_one_cell():
    layer = mlp(cells=1)
    one = torch.tensor([[2.0]]).double()
    assert effective_weight_on_graph(layer, one, torch.tensor([[0], [0]])).isnan().all()  # its own regulator: no delta
    x = torch.tensor([[1.0], [4.0]]).double()
    edge_index = torch.tensor([[0], [1]])
    close(effective_weight_on_graph(layer, x, edge_index), oracle(layer, x, edge_index))


@given(
    genes=st.integers(1, 6),
    cells=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    values=st.sampled_from(["random", "integers", "constant", "zero"]),
    seed=st.integers(0, 500),
    data=st.data(),
)
def test_any_graph_agrees_with_forward_mode(genes, cells, dtype, values, seed, data):
    """Well-scaled or exactly representable rows, so that delta is either zero or has all its digits."""
    gene = st.integers(0, genes - 1)
    edge_index = torch.tensor(data.draw(st.lists(st.tuples(gene, gene), min_size=1, max_size=4))).T
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(genes, cells, dtype=dtype, generator=generator)
    if values == "integers":
        x = (3 * x).round()
    elif values == "constant":
        x = torch.full_like(x, 2.0)
    elif values == "zero":
        x = torch.zeros_like(x)
    layer = mlp(cells, 7, 3, seed).to(dtype)
    got = effective_weight_on_graph(layer, x, edge_index)
    expected = oracle(layer, x, edge_index)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4 if dtype == torch.float32 else 1e-11, equal_nan=True)
    if values in ("constant", "zero"):
        assert got.isnan().all()


def test_unusable_graphs_are_refused(normal):
    x = normal(3, 4)
    with pytest.raises(ValueError, match="edge_index is empty"):
        effective_weight_on_graph(mlp(), x, torch.empty(2, 0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"edge 0 \(0 -> 3\).*does not exist"):
        effective_weight_on_graph(mlp(), x, torch.tensor([[0], [3]]))
    with pytest.raises(TypeError, match="edge_index must be an integer"):
        effective_weight_on_graph(mlp(), x, torch.tensor([[0.0], [1.0]]))
    with pytest.raises(ValueError, match="x must be finite"):
        effective_weight_on_graph(mlp(), x * torch.nan, torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match=r"takes 5 features.*got 4"):
        effective_weight_on_graph(mlp(5), x, torch.tensor([[0], [1]]))
    with pytest.raises(TypeError, match="float64 and x is"):
        effective_weight_on_graph(mlp(), x.float(), torch.tensor([[0], [1]]))


@pytest.mark.parametrize("method", ["jvp", "finite-difference"])
@pytest.mark.parametrize("output", [lambda x, m: (x - m).sum(dim=1), lambda x, m: (x - m)[:2], lambda x, m: (x - m)[None]])
def test_a_layer_must_return_one_row_a_gene(method, output, normal):
    with pytest.raises(ValueError, match=r"must return \(genes, outputs\)"):
        sensitivities(output, normal(4, 3), normal(4, 3), method)


@pytest.mark.parametrize("method", ["exact", "jvp", "finite-difference"])
def test_a_layer_of_another_dtype_is_refused_by_every_method(method, normal):
    with pytest.raises(TypeError, match=r"float32.*float64.*layer\.to"):
        sensitivities(torch.nn.Linear(6, 2), normal(4, 3), normal(4, 3), method)


def test_wide_data_take_int32_edges(normal, random_graph):
    layer, x, edge_index = torch.nn.Linear(64, 5).double(), normal(8, 32), random_graph(8, 20)
    expected = effective_weight_on_graph(layer, x, edge_index)
    close(effective_weight_on_graph(layer, x, edge_index.int()), expected, rtol=0, atol=0)


def test_a_gene_equal_to_its_regulator_has_no_weight_even_where_the_layer_hardly_sees_it(normal):
    """Rows of weights that sum to zero annihilate a constant gene: all that is left of it is rounding."""
    layer = torch.nn.Linear(20, 8, bias=False).double()
    layer.weight.data = torch.cat([half - half.mean(dim=1, keepdim=True) for half in (normal(8, 10), normal(8, 10))], dim=1)
    x = normal(4, 10)
    x[:2] = 0.1
    assert effective_weight_on_graph(layer, x, torch.tensor([[0, 2], [1, 3]]))[1].isnan()


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e20])
def test_the_weight_of_a_linear_layer_survives_any_scale_of_float32(scale, normal, random_graph):
    layer, x, edge_index = torch.nn.Linear(12, 5, bias=False), normal(9, 6).float(), random_graph(9, 30)
    expected = effective_weight_on_graph(layer, x, edge_index)
    got = effective_weight_on_graph(layer, scale * x, edge_index)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    m = neighbor_mean(x, edge_index)
    torch.testing.assert_close(
        effective_weight(layer, scale * x, scale * m), effective_weight(layer, x, m), rtol=1e-4, atol=1e-5, equal_nan=True
    )


def test_undefined_genes_are_counted(normal):
    x = normal(5, 3)
    m = normal(5, 3)
    m[:2] = x[:2]
    assert sensitivities(torch.nn.Linear(6, 2).double(), x, m).num_undefined == 2
