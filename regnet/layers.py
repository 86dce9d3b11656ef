"""What a layer :math:`h = g(x, m)` is, and the weights of the layers that can be read.

Exactly these are read, and for them Eqs. (3) and (4) are closed forms: ``Linear`` and ``Sequential(Linear, ReLU, Linear)``
on ``[x, m]``, RegNet's own ``MLPAggregator`` (the note's section 3), PyTorch Geometric's ``SAGEConv`` with mean aggregation
(Eq. (2)), and the two layers of :mod:`regnet.bayes_layer`: the classes themselves, without hooks. Others go through
automatic differentiation: convolutions in :mod:`regnet.convolution`, functions ``g(x, m)`` in :mod:`regnet.shrinkage`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import getclosurevars, isfunction, signature

import torch
from torch import Tensor
from torch.nn import Dropout, Identity, Linear, Module, ReLU, Sequential
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch_geometric.nn import Linear as PygLinear
from torch_geometric.nn import MessagePassing, SAGEConv
from torch_geometric.nn.aggr import MeanAggregation

from regnet.bayes_layer import PosteriorMeanAggregator, PosteriorMeanConv
from regnet.checks import check_device

Layer = Callable[[Tensor, Tensor], Tensor] | Module

_READ = (
    "Linear or Sequential(Linear, ReLU, Linear) on [x, m], RegNet's aggregators, a SAGEConv with mean aggregation, or a "
    "PosteriorMeanConv"
)


class UnreadableLayerError(TypeError):
    """The layer's class is not supported, or it is not a function of x and m."""


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


@dataclass(frozen=True)
class LayerWeights:
    r"""A layer that was read: :math:`h = W_2\,\mathrm{ReLU}(s_x W_x x + s_m W_m m + b) + b_2`, or without ReLU and W2.

    The shares are 1 but for a posterior mean, where they are :math:`w_i` and :math:`1 - w_i`, and a ``GCNConv``.
    """

    w_self: Tensor  # (hidden, features)
    w_neighbor: Tensor  # (hidden, features)
    bias: Tensor  # (hidden,)
    w_out: Tensor | None  # (outputs, hidden)
    bias_out: Tensor  # (outputs,)
    shares: Tensor  # of x and m, (2, genes) or (2, 1)

    def at(self, genes: Tensor | slice) -> LayerWeights:
        """The layer as it is for some genes."""
        return self if self.shares.size(1) == 1 else replace(self, shares=self.shares[:, genes])

    def pre_activation(self, x: Tensor, m: Tensor) -> Tensor:
        """W_self x + W_neighbor m + bias, (genes, hidden), from x and m (genes, features)."""
        return self.add(x @ self.w_self.T, m @ self.w_neighbor.T)

    def add(self, to_self: Tensor, to_neighbor: Tensor) -> Tensor:
        """The same from the two products, (genes, hidden) each."""
        own, rest = self.shares[..., None]
        z: Tensor = own * to_self + rest * to_neighbor + self.bias
        return z

    def mask(self, z: Tensor) -> Tensor:
        """1 for units that are active, 0 for the others; at the kink itself the slope is 0, as in autograd."""
        return torch.ones_like(z) if self.w_out is None else (z > 0).to(z.dtype)

    def out(self, hidden: Tensor) -> Tensor:
        """W2 applied to (..., hidden); its input where there is no W2."""
        return hidden if self.w_out is None else hidden @ self.w_out.T

    def double(self) -> LayerWeights:
        """The same in float64."""
        return replace(self, **{name: part.double() for name, part in vars(self).items() if part is not None})

    def scaled(self) -> LayerWeights:
        """The same function, largest absolute output weights in [1/2, 1) or 0; by powers of two, which round nothing."""
        if self.w_out is None or self.w_out.numel() == 0:
            return self
        largest, exponent = torch.frexp(self.w_out.abs().amax(dim=0))
        power = torch.ldexp((largest > 0).to(self.bias), exponent)
        w_out = self.w_out / torch.where(largest > 0, power, 1)
        w_self, w_neighbor = power[:, None] * self.w_self, power[:, None] * self.w_neighbor
        return replace(self, w_self=w_self, w_neighbor=w_neighbor, bias=power * self.bias, w_out=w_out)


def read_layer(layer: Layer, x: Tensor) -> LayerWeights:
    """The weights, detached, of a layer of a known kind (section 3 of the note; Hamilton et al. (2017) for ``SAGEConv``).

    Args:
        layer: one of the kinds at the top of :mod:`regnet.layers`.
        x: expression, shape (genes, features): the width, dtype and device of the layer's inputs.

    Raises:
        TypeError: another kind of layer, or weights of another dtype than ``x``.
        ValueError: weights of another width or device than ``x``, or not finite.

    >>> read_layer(torch.nn.Linear(4, 3), torch.zeros(1, 2)).w_self.shape
    torch.Size([3, 2])
    """
    as_function(layer := unwrapped(layer))  # raises for what is no g(x, m)
    check_parameters(layer, x)
    second, shares = None, torch.ones(2, 1, dtype=x.dtype, device=x.device)
    linear = (Linear.forward, PygLinear.forward)
    if (
        isinstance(layer, SAGEConv)
        and not layer.normalize
        and all(type(p).forward in linear for p in [*layer.children()][1:])
    ):
        bias = _bias(layer.lin_l) + (_bias(layer.lin_r) if layer.root_weight else 0)
        w_neighbor = layer.lin_l.weight.detach()
        w_self = layer.lin_r.weight.detach() if layer.root_weight else torch.zeros_like(w_neighbor)
    elif isinstance(layer, (PosteriorMeanAggregator, PosteriorMeanConv)):
        first, second = _linears(layer)
        bias, shares = _bias(first), layer.shrinkage.shares(x).detach()
        w_self = w_neighbor = first.weight.detach()
    else:
        first, second = _linears(layer)
        bias, (w_self, w_neighbor) = _bias(first), first.weight.detach().tensor_split(2, dim=1)
    w_out, bias_out = (None, torch.zeros_like(bias)) if second is None else (second.weight.detach(), _bias(second))
    widths = w_self.size(1), w_neighbor.size(1)
    if widths != (x.size(1), x.size(1)):
        raise ValueError(f"the layer takes {widths[0]} features of x and {widths[1]} of m; got {x.size(1)} of each")
    return LayerWeights(w_self, w_neighbor, bias, w_out, bias_out, shares)


def as_function(layer: Layer) -> Callable[[Tensor, Tensor], Tensor]:
    """The layer as ``g(x, m)``; a convolution that is one is called with each mean as the only neighbour of its gene."""
    layer = unwrapped(layer)
    name = type(layer).__name__
    if not callable(layer) or isinstance(layer, type):
        raise UnreadableLayerError(f"a layer must be a module or a function g(x, m); got {name}")
    if not isinstance(layer, Module):
        return layer
    if isinstance(layer, (Linear, Sequential)):
        return lambda x, m: layer(torch.cat([x, m], dim=-1))
    known = type(layer) in (SAGEConv, PosteriorMeanConv) and type(layer.aggr_module) is MeanAggregation
    if known and not getattr(layer, "project", False) and not has_hooks(layer):
        return lambda x, m: layer((m, x), torch.arange(x.size(0), device=x.device).expand(2, -1))
    if is_convolution(layer):
        raise UnreadableLayerError(
            f"{layer} is called with edges and is no function g(x, m) of the neighbour mean (only a SAGEConv with "
            "aggr='mean' and a PosteriorMeanConv are, without project, hooks or subclass): use "
            "effective_weight_on_graph(layer, x, edge_index)"
        )
    if "batch" in signature(layer.forward).parameters:
        raise UnreadableLayerError(f"{name} would take m for a batch: give lambda x, m: layer(torch.cat([x, m], dim=1))")
    return layer


def is_convolution(layer: Layer) -> bool:
    """Whether the layer is called with edges, and not with the neighbour mean."""
    if not isinstance(layer, Module):
        return False
    has_one = any(isinstance(module, MessagePassing) for module in layer.modules())
    return has_one or "edge_index" in signature(layer.forward).parameters


def unwrapped(layer: Layer) -> Layer:
    """What ``torch.compile`` or ``DataParallel`` was given, which computes the same unless the wrapper has hooks."""
    inner = getattr(layer, "_orig_mod", None) or (
        layer.module if isinstance(layer, (DataParallel, DistributedDataParallel)) else None
    )
    hooked = any(getattr(layer, hooks, None) for hooks in ("_forward_hooks", "_forward_pre_hooks"))
    return layer if inner is None or hooked else unwrapped(inner)


def check_parameters(layer: Layer, x: Tensor) -> None:
    """Raise unless the layer's weights, where it has any, are finite and of the dtype and device of ``x``."""
    for name, weight in layer.named_parameters() if isinstance(layer, Module) else ():
        if is_lazy(weight):
            raise TypeError(f"{layer} is lazy and has not seen data yet; call it once, or give it in_channels")
        check_device(weight, "the layer", x)
        if weight.numel() and not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            raise ValueError(
                f"the layer's weights must be finite; {name} has entries that are not: did its training diverge?"
            )
        if weight.is_floating_point() and weight.dtype != x.dtype:
            raise TypeError(
                f"the layer's weights are {weight.dtype} and x is {x.dtype}; convert one, e.g. layer.to(x.dtype)"
            )


@contextmanager
def evaluation_mode(layer: Layer) -> Iterator[None]:
    """Switch dropout and lower precision off for the duration, and put every submodule back as it was."""
    owners = [layer, getattr(layer, "__self__", None)]  # of a method such as layer.forward
    if isfunction(layer):  # such as lambda x, m: net(torch.cat([x, m], dim=1))
        names = getclosurevars(layer)
        owners += [*names.nonlocals.values(), *names.globals.values()]
    parts = [module for owner in owners if isinstance(owner, Module) for module in owner.modules()]
    training = [module for module in parts if module.training]
    for module in training:
        module.training = False
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for module in training:
            module.training = True


def _linears(layer: Layer) -> tuple[Linear, Linear | None]:
    """The Linear before the ReLU and, where there is a ReLU, the one behind it."""
    inner = {MLPAggregator: "mlp", PosteriorMeanAggregator: "mlp", PosteriorMeanConv: "lin"}.get(type(layer))
    parts = list(_chain(getattr(layer, inner) if inner else layer))
    kinds = [Linear if type(part) is PygLinear and inner == "lin" else type(part) for part in parts]
    if kinds not in ([Linear], [Linear, ReLU, Linear]) or has_hooks(layer):  # type: ignore[arg-type]
        raise UnreadableLayerError(
            f"unsupported layer {type(layer).__name__} ({' -> '.join(kind.__name__ for kind in kinds)}): "
            f'method="exact" reads {_READ}, without hooks or subclasses; use method="jvp", which takes any layer g(x, m)'
        )
    return parts[0], parts[2] if len(parts) == 3 else None  # type: ignore[return-value]


def _chain(layer: object) -> Iterator[object]:
    """The submodules of a (nested) Sequential in order, without Dropout and Identity; any other layer itself."""
    if type(layer) is Sequential:
        for part in layer:
            yield from _chain(part)
    elif type(layer) not in (Dropout, Identity):
        yield layer


def has_hooks(layer: Module) -> bool:
    """Whether anything but the forward of its classes decides what the layer computes."""
    return any(
        value if "forward" in name and name.endswith("_hooks") else callable(getattr(type(module), name, None))
        for module in layer.modules()
        for name, value in vars(module).items()
    )


def _bias(linear: Linear) -> Tensor:
    return linear.weight.new_zeros(linear.weight.size(0)) if linear.bias is None else linear.bias.detach()
