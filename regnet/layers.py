r"""What is inside a layer :math:`h = g(x, m)`: its weights, where they can be read.

Three kinds are read, and for them :mod:`regnet.shrinkage` is exact:

* Linear -> ReLU -> Linear on ``[x, m]``, the aggregator of the note's section 3, as a module
  ``g(x, m)`` or as a ``torch.nn.Sequential`` that takes the concatenation,
* one Linear on ``[x, m]``, likewise,
* PyTorch Geometric's ``SAGEConv`` with mean aggregation, the layer of the note's Eq. (2), with or without a bias and a
  root weight. One that projects the neighbours before it averages them is no function of ``m``: it has its own kind of
  weights, :class:`regnet.layers.ProjectedWeights`, and is exact on a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor
from torch.nn import Dropout, Identity, Linear, Module, ReLU, Sequential
from torch.nn.parameter import is_lazy
from torch_geometric.nn import SAGEConv
from torch_geometric.nn.aggr import MeanAggregation

from regnet.checks import check_device

Layer = Callable[[Tensor, Tensor], Tensor] | Module


_TAKEN = (
    'supported are a SAGEConv with mean aggregation, Linear-ReLU-Linear or Linear on [x, m], and, by method="jvp", '
    "any module or function g(x, m)"
)


class UnreadableLayerError(TypeError):
    """The layer is none of the kinds whose weights can be read."""


@dataclass(frozen=True)
class LayerWeights:
    """h = W2 relu(W_self x + W_neighbor m + bias) + bias_out, or the same without relu and W2.

    Attributes:
        w_self: shape (hidden, features).
        w_neighbor: same shape.
        bias: shape (hidden,).
        w_out: W2, shape (outputs, hidden), or None.
        bias_out: shape (outputs,).
    """

    w_self: Tensor
    w_neighbor: Tensor
    bias: Tensor
    w_out: Tensor | None
    bias_out: Tensor

    def pre_activation(self, x: Tensor, m: Tensor) -> Tensor:
        """W_self x + W_neighbor m + bias, (genes, hidden), from x and m (genes, features)."""
        return x @ self.w_self.T + m @ self.w_neighbor.T + self.bias

    def mask(self, z: Tensor) -> Tensor:
        """Which units pass their input on; at the kink itself autograd, too, takes the slope 0."""
        return torch.ones_like(z, dtype=torch.bool) if self.w_out is None else z > 0

    def out(self, hidden: Tensor, dim: int = 1) -> Tensor:
        """W2 applied along a dimension of length hidden; what came in where there is no W2."""
        if self.w_out is None:
            return hidden
        return hidden @ self.w_out.T if dim == 1 else self.w_out @ hidden

    def values(self, products: Tensor) -> Tensor:
        """What has to be averaged over regulators, from the products of x with both weights, (genes, 2 hidden)."""
        return products

    def gate(self, own: Tensor, mean: Tensor) -> Tensor:
        """What units pass on, 1 or 0, (genes, hidden), from a gene's own values and their mean over its regulators."""
        hidden = self.bias.size(0)
        z = (own[:, :hidden] + mean[:, hidden:]).add_(self.bias)
        return torch.ones_like(z) if self.w_out is None else z.clamp_(min=0).sign_()

    def pass_on(self, gate: Tensor, products: Tensor) -> Tensor:
        """What the units pass on of products with both weights, (genes, 2 hidden)."""
        return products if self.w_out is None else (products.unflatten(1, (2, -1)) * gate[:, None]).flatten(1)

    def push(self, passed: Tensor) -> Tensor:
        """A delta and B delta, (genes, 2, outputs), from what the units pass on of [w_self, w_neighbor] delta."""
        passed = passed.unflatten(1, (2, -1))
        return passed if self.w_out is None else passed @ self.w_out.T

    def heard(self) -> Tensor:
        """The most that the output hears of what the units pass on, (2 hidden,)."""
        return _largest(self.w_out).repeat(2) if self.w_out is not None else torch.ones_like(self.bias).repeat(2)

    def __call__(self, x: Tensor, m: Tensor) -> Tensor:
        z = self.pre_activation(x, m)
        return self.out(self.mask(z) * z) + self.bias_out


@dataclass(frozen=True)
class ProjectedWeights:
    r"""A ``SAGEConv`` with ``project=True``, h = W_self x + W_out mean_j relu(W_neighbor x_j + bias) + bias_out.

    Moving every regulator along :math:`\delta_i` moves their mean along it, and a unit of the projection passes on the
    share of it that the regulators with an active unit make up.

    Attributes:
        w_self: shape (outputs, features).
        w_neighbor: shape (features, features).
        bias: shape (features,).
        w_out: shape (outputs, features).
    """

    w_self: Tensor
    w_neighbor: Tensor
    bias: Tensor
    w_out: Tensor

    def values(self, products: Tensor) -> Tensor:
        """The products of x with both weights and which units of the projection are active, (genes, any)."""
        active = products[:, -self.bias.size(0) :] + self.bias > 0
        return torch.cat([products, active.to(products.dtype)], dim=1)

    def gate(self, own: Tensor, mean: Tensor) -> Tensor:
        """The share of each gene's regulators whose unit is active, (genes, features)."""
        return mean[:, -self.bias.size(0) :]

    def pass_on(self, gate: Tensor, products: Tensor) -> Tensor:
        """What the units pass on of products with both weights; the root weight has no units."""
        own, of_neighbors = products.tensor_split([self.w_self.size(0)], dim=1)
        return torch.cat([own, gate * of_neighbors], dim=1)

    def push(self, passed: Tensor) -> Tensor:
        """A delta and B delta, (genes, 2, outputs), from what the units pass on of [w_self, w_neighbor] delta."""
        toward_x, of_neighbors = passed.tensor_split([self.w_self.size(0)], dim=1)
        return torch.stack([toward_x, of_neighbors @ self.w_out.T], dim=1)

    def heard(self) -> Tensor:
        """The most that the output hears of what is passed on, (outputs + features,); of the root weight's part, all."""
        return torch.cat([self.w_out.new_ones(self.w_self.size(0)), _largest(self.w_out)])


class MLPAggregator(Module):
    r"""The note's :math:`g`: :math:`h = W_2\,\mathrm{ReLU}(W_1 [x, m] + b_1) + b_2` (its section 3).

    Shapes: x and m (genes, in_channels) -> (genes, out_channels).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mlp = Sequential(Linear(2 * in_channels, out_channels), ReLU(), Linear(out_channels, out_channels))

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        h: Tensor = self.mlp(torch.cat([x, m], dim=-1))
        return h


def as_function(layer: Layer) -> Callable[[Tensor, Tensor], Tensor]:
    r"""The layer as ``g(x, m)``.

    A ``Linear`` or ``Sequential`` gets the concatenation ``[x, m]``; a ``SAGEConv`` gets each mean as
    the only neighbour of its gene; anything else is taken to be ``g(x, m)`` already.

    Args:
        layer: the layer.

    Returns:
        A callable of two (genes, features) tensors.

    Raises:
        UnreadableLayerError: a layer that is no function of ``x`` and ``m``: another graph layer, a ``SAGEConv`` that
            aggregates otherwise than by the mean or projects before it, or a lazy module that has not seen data yet.

    References:
        Section 3 of the note (chapter 3 of the book).

    >>> as_function(SAGEConv(3, 2))(torch.ones(5, 3), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    if not callable(layer):
        raise UnreadableLayerError(f"a layer must be a module or a function g(x, m); got {type(layer).__name__}")
    _refuse_other_calls(layer)
    if isinstance(layer, (Linear, Sequential)):
        return lambda x, m: layer(torch.cat([x, m], dim=-1))
    if isinstance(layer, SAGEConv):
        _check_mean(layer)
        if layer.project:
            raise UnreadableLayerError(
                "a SAGEConv that projects its neighbours is no function g(x, m) of their mean; "
                "use effective_weight_on_graph, which treats it exactly"
            )
        return lambda x, m: layer((m, x), torch.arange(x.size(0), device=x.device).expand(2, -1))
    return layer


def read_layer(layer: Layer, x: Tensor) -> LayerWeights:
    """The layer's weights, checked against its output at random points unless its class says what it computes.

    Those are a ``Linear``, a ``Sequential`` and RegNet's own aggregator, without hooks.

    Args:
        layer: one of the kinds at the top of this module, but none that projects.
        x: expression, shape (genes, features), dense or in sparse rows: the width, dtype, device and scale of the layer's
            inputs.

    Returns:
        The weights, detached.

    Raises:
        UnreadableLayerError: another kind of layer, or one that does more than its parts say; a ``TypeError``.
        TypeError: the weights have another dtype than ``x``.
        ValueError: the weights have another width than ``x``.

    References:
        Section 3 of the note (chapter 3 of the book).

    >>> read_layer(torch.nn.Linear(4, 3), torch.zeros(1, 2)).w_self.shape
    torch.Size([3, 2])
    """
    g = as_function(layer)
    check_parameters(layer, x)
    weights = _read_sage(layer) if isinstance(layer, SAGEConv) else _read_modules(layer)
    try:
        _check_width(weights, x)
    except ValueError:
        # A module of its own kind may well take x and m one after the other: then it is a function like any other.
        if isinstance(layer, (Linear, Sequential, SAGEConv)) or not _takes_width(g, x):
            raise
        raise UnreadableLayerError(
            f'{type(layer).__name__} does not put [x, m] into its Linear; use method="jvp", which takes any layer g(x, m)'
        ) from None
    if not _is_known(layer) and not _agrees(weights, g, x):
        raise UnreadableLayerError(
            f'{type(layer).__name__} has the parts of a layer that method="exact" knows, but its output is not '
            'W2 relu(W1 [x, m] + b1) + b2; use method="jvp", which takes any layer g(x, m)'
        )
    return weights


def read_layer_on_graph(layer: Layer, x: Tensor) -> LayerWeights | ProjectedWeights:
    """The layer's weights for use on a graph, where a ``SAGEConv`` that projects can be read, too.

    Args:
        layer: one of the kinds at the top of this module.
        x: expression, shape (genes, features).

    Returns:
        The weights, detached.

    Raises:
        TypeError, ValueError: see :func:`regnet.layers.read_layer`; or the layer projects and normalises.

    References:
        Chapter 16 of the book.

    >>> read_layer_on_graph(SAGEConv(2, 3, project=True), torch.zeros(1, 2)).w_neighbor.shape
    torch.Size([2, 2])
    """
    if not (isinstance(layer, SAGEConv) and layer.project):
        return read_layer(layer, x)
    _refuse_other_calls(layer)
    _check_mean(layer)
    if layer.normalize:
        raise TypeError(
            f"a SAGEConv with project=True and normalize=True is not supported; got {layer}; set layer.normalize = False "
            "for the weight before the normalisation"
        )
    check_parameters(layer, x)
    weights = ProjectedWeights(_root(layer), layer.lin.weight.detach(), _bias(layer.lin), layer.lin_l.weight.detach())
    _check_width(weights, x)
    return weights


def check_parameters(layer: Layer, x: Tensor) -> None:
    """Raise unless the layer's weights, where it has any, are finite and of the dtype and device of ``x``.

    Args:
        layer: any layer.
        x: expression, shape (genes, features).

    Raises:
        TypeError: another dtype; the message names both.
        ValueError: a weight is NaN or infinite; the message names the parameter. Or it is on another device.

    >>> check_parameters(torch.nn.Linear(4, 3), torch.zeros(1, 2))
    """
    for name, weight in layer.named_parameters() if isinstance(layer, Module) else ():
        check_device(weight, "the layer", x)
        if weight.numel() and not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            raise ValueError(
                f"the layer's weights must be finite; {name} has entries that are not: did its training diverge?"
            )
        if weight.is_floating_point() and weight.dtype != x.dtype:
            raise TypeError(
                f"the layer's weights are {weight.dtype} and x is {x.dtype}; convert one, e.g. layer.to(x.dtype)"
            )


def _refuse_other_calls(layer: Layer) -> None:
    """Raise for layers that cannot be called as g(x, m), before PyTorch fails on them with a message of its own."""
    if not isinstance(layer, Module):
        return
    if any(is_lazy(parameter) for parameter in layer.parameters()):
        raise UnreadableLayerError(f"{layer} is lazy and has not seen data yet; call it once, or give it in_channels")
    if not isinstance(layer, SAGEConv) and "edge_index" in signature(layer.forward).parameters:
        raise UnreadableLayerError(
            f"{type(layer).__name__} takes edge_index, not the neighbour mean, and only a SAGEConv is read in that form; "
            "pass a function g(x, m), e.g. model.graphsage.layers[0].agg of a RegNet"
        )


def _check_mean(conv: SAGEConv) -> None:
    if not isinstance(conv.aggr_module, MeanAggregation):
        raise UnreadableLayerError(f"a SAGEConv must have aggr='mean' to have a neighbour mean; got {conv}; {_TAKEN}")


def _check_width(weights: LayerWeights | ProjectedWeights, x: Tensor) -> None:
    widths = weights.w_self.size(1), weights.w_neighbor.size(1)
    if widths != (x.size(1), x.size(1)):
        raise ValueError(f"the layer takes {widths[0]} features of x and {widths[1]} of m; got {x.size(1)} of each")


def _takes_width(g: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> bool:
    probe = torch.zeros(2, x.size(1), dtype=x.dtype, device=x.device)
    try:
        g(probe, probe)
    except RuntimeError:
        return False
    return True


def _is_known(layer: Layer) -> bool:
    """Whether the classes of the layer and its parts say what it computes, with nothing hooked on that changes it.

    A module that is used twice is read as one part, and computes twice.
    """
    if type(layer) is MLPAggregator and list(layer.children()) != [layer.mlp]:
        return False
    modules = [module for _, module in layer.named_modules(remove_duplicate=False)] if isinstance(layer, Module) else []
    return (
        type(layer) in (MLPAggregator, Sequential, Linear)
        and all(type(module) in (Sequential, Linear, ReLU, Dropout, Identity) for module in modules[1:])
        and len(modules) == len(set(modules))
        and not any("forward" in vars(module) or module._forward_pre_hooks or module._forward_hooks for module in modules)
    )


def _largest(w_out: Tensor) -> Tensor:
    """The largest entry of every column, by absolute value."""
    return w_out.abs().amax(dim=0) if w_out.numel() else w_out.new_zeros(w_out.size(1))


def _agrees(weights: LayerWeights, g: Callable[[Tensor, Tensor], Tensor], like: Tensor) -> bool:
    """Whether the weights say what the layer does, up to the rounding of the largest terms in its sums.

    Genes of the data would not do: two silent genes, or genes equal to their mean, hide what else a layer does.
    """
    some = like[:: max(1, like.size(0) // 64)] if like.layout == torch.strided else like.values()
    largest_entry = some.abs().max() if some.numel() else 0
    scale = largest_entry if largest_entry else 1
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(2, 8, like.size(1), generator=generator, dtype=like.dtype).to(like.device)
    x, m = (scale * probes).unbind()
    expected, got = g(x, m), weights(x, m)
    if expected.shape != got.shape:
        return False
    # The terms of a sum of products are no larger than the product of the lengths.
    x_length, m_length = scale * probes.norm(dim=2, keepdim=True)
    largest = x_length * weights.w_self.norm(dim=1) + m_length * weights.w_neighbor.norm(dim=1) + weights.bias.abs()
    if weights.w_out is not None:
        largest = largest.norm(dim=1, keepdim=True) * weights.w_out.norm(dim=1)
    tolerance = 100 * torch.finfo(x.dtype).eps * (largest + weights.bias_out.abs())
    return bool(((expected - got).abs() <= tolerance).all())


def _read_modules(layer: Layer) -> LayerWeights:
    modules = list(layer.modules()) if isinstance(layer, Module) else []
    parts = [module for module in modules if not list(module.children()) and not isinstance(module, (Dropout, Identity))]
    match parts:
        case [Linear() as only]:
            w_out, bias_out, first = None, torch.zeros_like(_bias(only)), only
        case [Linear() as first, ReLU(), Linear() as second]:
            w_out, bias_out = second.weight.detach(), _bias(second)
        case _:
            kind = " -> ".join(type(part).__name__ for part in parts) or type(layer).__name__
            raise UnreadableLayerError(
                'method="exact" needs Linear-ReLU-Linear or Linear on [x, m], or a SAGEConv with mean aggregation; '
                f'got {kind}; use method="jvp", which takes any layer g(x, m)'
            )
    w_self, w_neighbor = first.weight.detach().tensor_split(2, dim=1)
    return LayerWeights(w_self, w_neighbor, _bias(first), w_out, bias_out)


def _read_sage(conv: SAGEConv) -> LayerWeights:
    if conv.normalize:
        raise UnreadableLayerError(
            f'method="exact" reads a SAGEConv without normalisation; got {conv} with normalize=True; use method="jvp"'
        )
    bias = _bias(conv.lin_l)
    return LayerWeights(_root(conv), conv.lin_l.weight.detach(), bias, None, torch.zeros_like(bias))


def _root(conv: SAGEConv) -> Tensor:
    """The weight on the gene itself; zeros where the layer has none."""
    if conv.root_weight:
        weight: Tensor = conv.lin_r.weight
        return weight.detach()
    width = conv.lin.weight.size(1) if conv.project else conv.lin_l.weight.size(1)
    zeros: Tensor = conv.lin_l.weight.new_zeros(conv.lin_l.weight.size(0), width)
    return zeros


def _bias(linear: Linear) -> Tensor:
    return linear.weight.new_zeros(linear.weight.size(0)) if linear.bias is None else linear.bias.detach()


@contextmanager
def evaluation_mode(layer: Layer) -> Iterator[None]:
    """Switch dropout off for the duration, and put every submodule back as it was."""
    owner = layer if isinstance(layer, Module) else getattr(layer, "__self__", None)  # of a method such as layer.forward
    training = [module for module in owner.modules() if module.training] if isinstance(owner, Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
