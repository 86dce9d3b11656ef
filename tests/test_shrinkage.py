"""Eqs. (3) to (5) by closed forms, Jacobians, forward-mode differentiation and finite differences."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from examples import close, dropping, layers, linear, mlp, refused
from torch import nn
from torch_geometric.nn import SAGEConv

from regnet.layers import as_function
from regnet.model import MLPAggregator
from regnet.shrinkage import (
    effective_weight,
    kink_distance,
    lengths,
    local_affine,
    same,
    secant_weight,
    sensitivities,
)

jacobian = torch.autograd.functional.jacobian
METHODS = {method: partial(effective_weight, method=method) for method in ("exact", "jvp", "finite-difference")}
every_weight = pytest.mark.parametrize("weight", [*METHODS.values(), secant_weight], ids=[*METHODS, "secant"])


# Eq. (3): three routes to one number


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
def test_exact_is_forward_mode_and_finite_differences(layer, pair):
    x, m = pair
    exact = sensitivities(layer, x, m)
    jvp = sensitivities(layer, x, m, "jvp")
    close(exact.self_sensitivity, jvp.self_sensitivity)
    close(exact.neighbor_sensitivity, jvp.neighbor_sensitivity)
    assert ((exact.weight >= 0) & (exact.weight <= 1)).all()
    for central in (False, True):
        numeric = sensitivities(layer, x, m, "finite-difference", eps=1e-6, central=central)
        close(exact.self_sensitivity, numeric.self_sensitivity, rtol=1e-6)
        close(exact.neighbor_sensitivity, numeric.neighbor_sensitivity, rtol=1e-6)


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
def test_any_common_map_returns_the_weight_but_unequal_maps_do_not(w, pair, normal):
    Q, R = normal(6, 4), normal(6, 4)
    expected = torch.full((11,), w, dtype=torch.float64)
    for scale in (1.0, -1.0, 1e-8, 1e8):
        close(effective_weight(linear(scale * w * Q, scale * (1 - w) * Q), *pair), expected, atol=1e-16)
    assert (effective_weight(linear(0.3 * Q, 0.7 * R), *pair) - 0.3).abs().max() > 0.01


@every_weight
def test_signs_do_not_matter_and_swapping_the_two_branches_gives_the_complement(weight, pair, normal):
    A, B = normal(6, 4), normal(6, 4)
    expected = weight(linear(A, B), *pair)
    for signs in ((-1, 1), (1, -1), (-1, -1)):
        close(weight(linear(signs[0] * A, signs[1] * B), *pair), expected)
    close(weight(linear(B, A), *pair), 1 - expected)


@every_weight
@pytest.mark.parametrize("factor", [-1.0, 1e-6, 1e6])
def test_a_factor_a_constant_and_an_orthogonal_map_of_the_output_change_nothing(weight, factor, pair, normal):
    layer, rotation = mlp(), torch.linalg.qr(normal(5, 5))[0]
    expected, whole = weight(layer, *pair), layer[2].weight.data
    layer[2].weight.data, layer[2].bias.data = factor * rotation @ whole, factor * normal(5)
    close(weight(layer, *pair), expected)
    layer[2].weight.data = normal(5, 5) @ whole
    assert (weight(layer, *pair) - expected).abs().max() > 1e-3


@every_weight
def test_rotating_the_cells_and_permuting_the_genes_changes_nothing(weight, pair, normal, rng):
    x, m = pair
    layer, rotation, genes = mlp(), torch.linalg.qr(normal(4, 4))[0], torch.randperm(11, generator=rng)
    expected = weight(layer, x, m)
    close(weight(layer, x[genes], m[genes]), expected[genes])
    layer[0].weight.data = torch.cat([half @ rotation for half in layer[0].weight.data.tensor_split(2, dim=1)], dim=1)
    close(weight(layer, x @ rotation, m @ rotation), expected)


def test_the_mask_is_that_of_the_gene_and_counts_only_active_units():
    """One unit that opens at x > 2: below, no response; above, the response of its weights."""
    layer = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    layer[0].weight.data, layer[0].bias.data = torch.tensor([[3.0, 1.0]]).double(), torch.tensor([-6.0]).double()
    layer[2].weight.data = torch.tensor([[2.0]]).double()
    x, m = torch.tensor([[1.0], [2.0], [4.0]]).double(), torch.zeros(3, 1).double()
    s = sensitivities(layer, x, m)
    assert s.self_sensitivity.tolist() == [0, 0, 24] and s.neighbor_sensitivity.tolist() == [0, 0, 8]
    assert s.weight.isnan().tolist() == [True, True, False] and s.weight[2] == 0.75


@every_weight
def test_a_dead_half_puts_all_weight_on_the_other_and_two_leave_none(weight, pair, normal):
    A = normal(6, 4)
    assert (weight(linear(A, 0 * A), *pair) == 1).all() and (weight(linear(0 * A, A), *pair) == 0).all()
    assert weight(linear(0 * A, 0 * A), *pair).isnan().all()
    dead = mlp()
    dead[0].bias.data.fill_(-1e3)  # no unit is ever active
    assert weight(dead, *pair).isnan().all()


@every_weight
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_direction_the_result_is_nan(weight, dtype, normal):
    x = normal(4, 3).to(dtype)
    m = x.clone()
    m[1] = x[1] * (1 + torch.finfo(torch.float64).eps)  # equal up to the rounding of a mean
    m[2] += 1.0
    x[3] = m[3] = 0
    layer, undefined = MLPAggregator(3, 8).to(dtype), [True, True, False, True]
    assert weight(layer, x, m).isnan().tolist() == undefined
    both = sensitivities(layer, x, m)
    assert both.self_sensitivity.isnan().tolist() == both.neighbor_sensitivity.isnan().tolist() == undefined


def test_a_tiny_but_real_direction_is_not_undefined(normal):
    x = normal(5, 4)
    direction = normal(5, 4)
    layer = nn.Linear(8, 3).double()
    close(effective_weight(layer, x, x - 1e-7 * direction), effective_weight(layer, direction, 0 * direction), rtol=1e-6)


# Training mode and autograd


@every_weight
def test_dropout_has_no_effect_and_training_mode_is_restored(weight, pair):
    torch.manual_seed(0)
    layer = dropping()
    expected = weight(layer.eval(), *pair)
    layer.train()
    layer[1].eval()
    modes, state = [module.training for module in layer.modules()], torch.get_rng_state()
    assert torch.equal(weight(layer, *pair), expected)
    with pytest.raises((RuntimeError, ValueError)):
        weight(layer, *(values[:, :3] for values in pair))
    assert [module.training for module in layer.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("weight", [METHODS["jvp"], METHODS["finite-difference"], secant_weight])
def test_dropout_has_no_effect_inside_a_function_either(weight, pair):
    layer = dropping()
    expected = weight(layer.eval(), *pair)
    layer.train()
    close(weight(lambda x, m: layer(torch.cat([x, m], dim=1)), *pair), expected)
    assert all(module.training for module in layer.modules())


def test_lower_precision_around_a_call_has_no_effect(pair):
    layer, (x, m) = mlp().float(), (values.float() for values in pair)
    expected = effective_weight(layer, x, m)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(effective_weight(layer, x, m), expected)


def test_outputs_are_the_same_up_to_rounding_beside_the_largest_entry():
    out, rounding = torch.tensor([[1.0, -1000.0]]).double(), 1000 * 2.0**-26
    assert same(out, out + 0.9 * rounding, out) and not same(out, out + 1.1 * rounding, out)
    assert not same(out, out + 0.9 * rounding, out / 1000)
    nothing = out * torch.nan
    assert same(nothing, nothing, nothing) and not same(nothing, out, out)
    assert same(out[:0], out[:0], out[:0]) and not same(out, out[:, :1], out)


@pytest.mark.parametrize("bias", [0, 1e9])
@pytest.mark.parametrize("others", [lambda h: h.mean(dim=0), lambda h: h.std(dim=0), lambda h: h.flip(0)])
def test_a_layer_that_mixes_genes_is_refused_even_behind_a_bias(bias, others, pair):
    layer = mlp()

    def mixed(x, m):
        h = layer(torch.cat([x, m], dim=1))
        return h + others(h) + bias

    refused(lambda: effective_weight(mixed, *pair, "jvp"), "must treat every gene by itself")


def test_an_infinite_derivative_is_refused(pair):
    refused(lambda: effective_weight(lambda x, m: (x + m).relu().sqrt(), *pair, "jvp"), "NaN or infinite at gene")


def test_dropout_has_no_effect_on_slopes_and_kinks_either(pair):
    layer, (x, m) = dropping(), pair
    expected = local_affine(layer.eval(), x[0], m[0]), kink_distance(layer, x, m)
    got = local_affine(layer.train(), x[0], m[0]), kink_distance(layer, x, m)
    for one, other in zip(expected, got, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert all(module.training for module in layer.modules())


@every_weight
def test_no_gradient_is_kept_and_no_input_changed(weight, pair):
    x, m = (values.clone().requires_grad_() for values in pair)
    layer = mlp()
    assert not weight(layer, x, m).requires_grad
    assert layer[0].weight.grad is None and x.grad is None
    assert torch.equal(x, pair[0]) and torch.equal(m, pair[1])


# Eq. (5)


def test_eq_5_as_printed_steps_forward_along_the_unit_vector():
    """g = x^2 + 3 m: forward (x + eps) gives 2 x + eps, centred gives 2 x; both times |delta|, here 3 and 1/2."""

    def g(x, m):
        return x**2 + 3 * m

    x, m = torch.tensor([[2.0], [2.0]]).double(), torch.tensor([[5.0], [1.5]]).double()
    for options, eps in (({"eps": 0.5}, 0.5), ({}, 0.01)):
        forward = sensitivities(g, x, m, "finite-difference", **options)
        close(forward.self_sensitivity, torch.tensor([3 * (4 - eps), 0.5 * (4 + eps)], dtype=torch.float64))
        close(forward.neighbor_sensitivity, torch.tensor([9.0, 1.5]).double())
        assert torch.equal(effective_weight(g, x, m, "finite-difference", **options), forward.weight)
    centred = sensitivities(g, x, m, "finite-difference", eps=0.5, central=True)
    close(centred.self_sensitivity, torch.tensor([12.0, 2.0]).double())


@pytest.mark.parametrize("central", [False, True])
def test_a_step_that_is_lost_in_rounding_is_said_and_a_flat_layer_is_not(central, pair):
    x, m = (side.float() for side in pair)
    layer = nn.Linear(8, 5)
    layer.bias.data.fill_(1e8)
    for g in (layer, lambda x, m: torch.from_numpy(as_function(layer)(x, m).numpy())):  # which has no derivative
        with pytest.warns(UserWarning, match="step of eps=0.01 changes .* rounding for 11 genes, first gene 0"):
            assert (sensitivities(g, x, m, "finite-difference", central=central).self_sensitivity == 0).all()
    layer.weight.data.zero_()
    assert (sensitivities(layer, x, m, "finite-difference", central=central).self_sensitivity == 0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "magic"}, ["method", "finite-difference", "'magic'"]),
        ({"method": "finite-difference", "eps": 0.0}, ["eps must be positive", "0.0"]),
        ({"eps": -1.0}, ["eps must be positive", "-1.0"]),
        ({"eps": float("nan")}, ["eps must be positive", "nan"]),
        ({"eps": float("inf")}, ["eps must be positive and finite", "inf"]),
        ({"method": "jvp", "central": True}, ["central=True", "finite-difference", "'jvp'"]),
    ],
)
def test_unusable_options_are_refused(arguments, words, pair):
    with pytest.raises(ValueError) as caught:
        sensitivities(mlp(), *pair, **arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("function", [*METHODS.values(), secant_weight, kink_distance])
def test_unusable_input_is_refused(function, normal):
    x = normal(3, 4)
    refused(lambda: function(mlp(), x, x[:, :3]), "got x (3, 4) and m (3, 3)")
    refused(lambda: function(mlp(), x * torch.nan, x), "x must be finite; got nan at gene 0, cell 0")
    refused(lambda: function(mlp(), x, x.abs() * torch.inf), "m must be finite; got inf")
    refused(lambda: function(mlp(), x.long(), x.long()), "float32 or float64", error=TypeError)
    refused(lambda: function(mlp(), x, x.float()), "one dtype", error=TypeError)
    refused(lambda: function(mlp(), x.float(), -x.float()), "float64 and x is torch.float32", "layer.to", error=TypeError)


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


def test_a_unit_that_the_step_does_not_move_never_switches():
    """The second unit sees only the second cell, in which x and m agree, and lies at its kink."""
    layer = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    layer[0].weight.data = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]).double()
    layer[0].bias.data = torch.tensor([1.0, -2.0]).double()
    x, m = torch.tensor([[3.0, 1.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    for branch in kink_distance(layer, x, m):
        assert branch.tolist() == [torch.inf]


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
    refused(lambda: local_affine(mlp(), x, x[:3]), "(features,)", "(4,)", "(3,)")
    refused(lambda: local_affine(mlp(), x[None], x[None]), "(features,)")
    refused(lambda: local_affine(mlp(), x * torch.nan, x), "finite")


@pytest.mark.parametrize("weight", [METHODS["jvp"], METHODS["finite-difference"], secant_weight])
@pytest.mark.parametrize("output", [lambda x, m: (x - m).sum(dim=1), lambda x, m: (x - m)[:2], lambda x, m: (x - m)[None]])
def test_a_layer_must_return_one_row_a_gene(weight, output, normal):
    refused(lambda: weight(output, normal(4, 3), normal(4, 3)), "must return (genes, outputs), here (4, any)")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lengths_keep_their_digits_at_every_scale(dtype):
    """The squares of most of these numbers are subnormal, zero or infinite."""
    limits = torch.finfo(dtype)
    scales = 10.0 ** torch.arange(math.ceil(math.log10(limits.tiny)), math.log10(limits.max) - 1, dtype=torch.float64)
    rows = torch.tensor([[3.0, 4.0]], dtype=dtype) * scales.to(dtype)[:, None]
    for chosen in (rows, *rows[:, None]):  # all at once, and one after the other
        expected = chosen.double() / chosen.double().amax(dim=1, keepdim=True)
        expected = (expected.norm(dim=1) * chosen.double().amax(dim=1)).to(dtype)
        torch.testing.assert_close(lengths(chosen), expected, rtol=4 * limits.eps, atol=0)
    assert lengths(torch.zeros(2, 0)).tolist() == lengths(torch.zeros(2, 3)).tolist() == [0, 0]
