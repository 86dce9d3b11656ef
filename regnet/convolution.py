r"""Eq. (3) for any convolution of PyTorch Geometric, by forward-mode automatic differentiation of the layer itself.

A convolution that can be called on a pair of node sets, ``conv((x_source, x_target), edge_index)``, tells a gene from its
regulators by itself. Every edge gets a source node of its own, so that the regulators of every gene can move along that
gene's :math:`\delta`: the response to a move of ``x_target`` is :math:`A\delta`, to one of ``x_source`` :math:`B\delta`.
Self loops that the layer adds move with ``x_target``.
"""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import GCNConv, Linear, MessagePassing
from torch_geometric.nn.aggr import MulAggregation, SumAggregation
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import add_self_loops, remove_self_loops

from regnet.checks import check_device, some
from regnet.layers import LayerWeights, UnreadableLayerError, check_parameters, has_hooks, unwrapped
from regnet.shrinkage import Sensitivities, lengths, norms, same, same_by_row

_NUMBERS_AT_ONCE = 2**21
"""Edges x features of a block of targets; the layer and its derivative keep some ten arrays of that size."""

Features = dict[str, Tensor]
"""Further arguments of a layer, such as ``edge_weight`` or ``edge_attr``, one row an edge."""


def is_gcn(layer: Any) -> bool:
    """Whether the layer is PyTorch Geometric's ``GCNConv`` itself, which takes no pair but has a closed form."""
    known = type(layer) is GCNConv and type(layer.lin) is Linear and type(layer.aggr_module) is SumAggregation
    return known and not has_hooks(layer)


def along_edges(layer: Any, edge_index: Tensor) -> tuple[Any, Tensor]:
    """The layer and the graph such that its messages go from row 0 to row 1, reversed where its flow is."""
    layer = unwrapped(layer)
    if getattr(layer, "flow", "") != "target_to_source":
        return layer, edge_index
    turned = copy(layer)
    turned.flow = "source_to_target"
    return turned, edge_index.flip(0)


def check_edge_features(features: Features, x: Tensor, edge_index: Tensor) -> None:
    """Raise unless each has one row an edge, on the device of x."""
    for name, values in features.items():
        if not isinstance(values, Tensor) or values.dim() == 0 or len(values) != edge_index.size(1):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{name} must be a tensor with one row for each of {edge_index.size(1)} edges; got {got}")
        check_device(values, name, x)
        if not values.isfinite().all():
            raise ValueError(f"{name} must be finite; got {values[~values.isfinite()][0].item()}; remove those edges first")


def read_gcn(layer: GCNConv, x: Tensor) -> LayerWeights:
    r"""The layer :math:`\Theta x + \Theta m`, whose two responses along delta are :math:`\Theta\delta`."""
    check_parameters(layer, x)
    theta = layer.lin.weight.detach()
    if theta.size(1) != x.size(1):
        raise ValueError(f"the layer takes {theta.size(1)} features; x has {x.size(1)}")
    none = theta.new_zeros(len(theta))
    return LayerWeights(theta, theta, none, None, none, theta.new_ones(2, 1))


def gcn_shares(layer: GCNConv, edge_index: Tensor, num_genes: int, edge_weight: Tensor | None = None) -> Tensor:
    r"""What a ``GCNConv`` multiplies the responses :math:`\Theta\delta` to a gene and its regulators by, (2, genes).

    .. math:: h_i = \Theta \Bigl(\frac{x_i}{d_i} + \sum_{j \in \Gamma(i)} \frac{x_j}{\sqrt{d_j d_i}}\Bigr) + b, \quad
        w_i^{\mathrm{eff}} = \Bigl(1 + \sum_{j \in \Gamma(i)} \sqrt{d_i / d_j}\Bigr)^{-1}, \quad d_i = 1 + |\Gamma(i)|

    The weight depends on degrees alone: the graph decides it before any data are seen (Kipf and Welling (2017)).
    """
    if layer.cached and layer._cached_edge_index is not None:
        raise UnreadableLayerError("this GCNConv uses the graph that it has cached, not the one given; set cached=False")
    if edge_weight is not None and (edge_weight.dim() != 1 or not edge_weight.is_floating_point()):
        got = f"{edge_weight.dtype} of shape {tuple(edge_weight.shape)}"
        raise ValueError(f"a GCNConv takes edge_weight as floating point numbers of shape (edges,); got {got}")
    weight, loops, dtype = edge_weight, layer.normalize and layer.add_self_loops, layer.lin.weight.dtype
    if layer.normalize:
        edge_index, weight = gcn_norm(edge_index, weight, num_genes, layer.improved, layer.add_self_loops, dtype=dtype)
    elif weight is None:
        weight = edge_index.new_ones(edge_index.size(1), dtype=dtype)
    if not weight.isfinite().all():
        raise ValueError("a GCNConv needs edge weights whose sum is positive at every gene; some are not")
    own = (edge_index[0] == edge_index[1]) & bool(loops)
    shares = [weight.new_zeros(num_genes).index_add(0, edge_index[1], weight * side).abs() for side in (own, ~own)]
    return torch.stack(shares)


def through_layer(
    layer: Any, x: Tensor, edge_index: Tensor, delta: Tensor, undefined: Tensor, features: Features
) -> Sensitivities:
    """Eq. (3) of a convolution in evaluation mode, in blocks of targets."""
    check_parameters(layer := unwrapped(layer), x)
    if any(isinstance(part, MulAggregation) for part in layer.modules()):
        raise UnreadableLayerError(f"{type(layer).__name__} has aggr='mul', of which PyTorch has no forward-mode derivative")
    conv, edges, of_edges, added = _with_its_loops(layer, edge_index, features, len(x))
    conv, edges = along_edges(conv, edges)
    order = edges[1].argsort(stable=True)
    source, (genes, target) = edges[0, order], edges[1, order].unique_consecutive(return_inverse=True)
    rowptr = torch.searchsorted(target, torch.arange(len(genes) + 1, device=x.device))
    # Two blocks at least: an output that owes anything to other genes, as behind a GraphNorm, differs from the real one.
    edges_at_once = max(1, min(_NUMBERS_AT_ONCE // max(1, x.size(1)), len(order) // 2))
    sizes = (rowptr[:-1] // edges_at_once).unique_consecutive(return_counts=True)[1]
    parts, probes = [], []
    probe = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(x)
    try:
        for rows in torch.arange(len(genes), device=x.device).split(sizes.tolist()):
            block = slice(int(rowptr[rows[0]]), int(rowptr[rows[-1] + 1]))
            here, own = genes[rows], added[order[block], None]
            points, move, along = (x[source[block]], x[here]), delta[here], delta[genes[target[block]]]
            expanded = torch.stack([torch.arange(len(own), device=x.device), target[block] - rows[0]])
            kept = {name: values[order[block]] for name, values in of_edges.items()}

            def respond(*pair: Tensor) -> Tensor:
                return _output(conv, pair, expanded, kept)  # noqa: B023

            if own.any():
                toward_x = torch.func.jvp(respond, points, (along * own, move))[1]
                along = along * ~own
            else:
                toward_x = torch.func.jvp(partial(respond, points[0]), points[1:], (move,))[1]
            toward_m = torch.func.jvp(lambda moved: respond(moved, points[1]), points[:1], (along,))[1]  # noqa: B023
            probes.append(torch.func.jvp(respond, points, (probe[source[block]], probe[here])))
            parts.append(norms(toward_x, toward_m, undefined[here]))
        # Also the derivative, in a random direction: in the output a bias or one large gene would hide a difference.
        real, slope, *_ = torch.func.jvp(lambda moved: _output(layer, moved, edge_index, features), (x,), (probe,))
        if not (slope := slope[genes]).isfinite().all():
            raise ValueError("its derivative has NaN or infinite entries")
        outs, slopes = map(torch.cat, zip(*probes, strict=True))
        if not (same(outs, real[genes], real) and same_by_row(slopes, slope, lengths(slope))):
            raise UnreadableLayerError("")
        if has_hooks(layer):
            _output(layer, x, edge_index, features)  # so that none leaves the layer a tensor of jvp
    except Exception as error:  # whatever somebody's own layer raises
        raise UnreadableLayerError(_refusal(layer, x, edge_index, features, error)) from error
    both = (torch.cat(part) for part in zip(*(vars(part).values() for part in parts), strict=True))
    return Sensitivities(*(S.new_full((len(x),), torch.nan).index_put((genes,), S) for S in both))


def _with_its_loops(
    layer: Any, edge_index: Tensor, features: Features, num_genes: int
) -> tuple[Any, Tensor, Features, Tensor]:
    """A layer that adds no self loops and the edges with those that it would add; and which edges these are."""
    if not getattr(layer, "add_self_loops", False):
        return layer, edge_index, features, torch.zeros_like(edge_index[0], dtype=torch.bool)
    conv = copy(layer)
    conv.add_self_loops = False
    edges, attr = remove_self_loops(edge_index, features.get("edge_attr"))
    fill_value = getattr(layer, "fill_value", None)
    edges, attr = add_self_loops(edges, attr, fill_value=fill_value, num_nodes=num_genes)
    return conv, edges, features if attr is None else features | {"edge_attr": attr}, edges[0] == edges[1]


def _output(layer: Any, x: Any, edge_index: Tensor, features: Features) -> Tensor:
    own = x.clone() if isinstance(x, Tensor) else tuple(part.clone() for part in x)  # the layer may change it in place
    out = layer(own, edge_index, **features)
    if not isinstance(out, Tensor) or out.dim() != 2:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise TypeError(f"it must return (genes, outputs); got {got}")
    if not out.isfinite().all():
        raise ValueError("its output has NaN or infinite entries")
    return out


def _refusal(layer: Any, x: Tensor, edge_index: Tensor, features: Features, error: Exception) -> str:
    """Which assumption a layer fails, in words about it."""
    steps = (
        (
            x,
            f"cannot be called as layer({', '.join(['x', 'edge_index', *(f'{name}=...' for name in features)])})",
            "gives another output at every call, even in evaluation mode: nothing may be random there",
        ),
        (
            (x, x),
            "cannot be called on a pair, layer((x_source, x_target), edge_index), which tells a gene from its regulators",
            "computes something else from a pair (x, x) than from x, as with hooks or self loops of its own",
        ),
    )
    what = (
        "lets a message depend on more than its two genes and its edge: on degrees of regulators, on self loops that it "
        "adds without an attribute add_self_loops, or on a normalisation over genes"
    )
    if isinstance(error, NotImplementedError):
        what = "uses an operation without forward-mode differentiation"
    for argument, failure, difference in steps:
        try:
            out = _output(layer, argument, edge_index, features)
            real = _output(layer, x, edge_index, features)
        except Exception as fresh:
            what, error = failure, fresh
            break
        if not same(out, real, real):
            what, error = difference, UnreadableLayerError("")
            break
    convs = [f"{path} ({type(part).__name__})" for path, part in layer.named_modules() if isinstance(part, MessagePassing)]
    inner = "" if isinstance(layer, MessagePassing) or not convs else f"; give one of its convolutions: {some(convs)}"
    reason = "" if isinstance(error, UnreadableLayerError) else f" ({' '.join(str(error).split()) or type(error).__name__})"
    return f"{type(layer).__name__} {what}{reason}{inner}"
