"""The note's trends of the weight, and what untrained layers of the same shape show of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import Module

from regnet.checks import some
from regnet.engine import _from_products, _open, effective_weight_on_graph
from regnet.layers import UnreadableLayerError, read_layer

TRENDS = ("in-degree", "in-degree, given expression", "expression", "expression, given in-degree", "TFs minus other genes")
_BYTES_AT_ONCE = 2**26


def trends(table: pd.DataFrame) -> dict[str, float]:
    """Spearman correlations of the weight, plain and partial, and the difference of medians; NaN where undefined."""
    table = table.dropna(subset="w_eff")
    w = table["w_eff"]
    if w.max() - w.min() <= 1e3 * np.finfo(w.dtype).eps * w.max():  # ranks of rounding are no trend
        table = table.assign(w_eff=w.median())
    r = table[["w_eff", "in_degree", "mean_expression"]].corr(method="spearman").to_numpy()
    plain, given, between = r[0, 1:], r[0, :0:-1], r[1, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        partial = (plain - given * between) / np.sqrt((1 - given**2) * (1 - between**2))
    medians = table.groupby("is_tf")["w_eff"].median().reindex([False, True])
    values = plain[0], partial[0], plain[1], partial[1], medians.diff()[True]
    return dict(zip(TRENDS, map(float, values), strict=True))


def compare_trends(table: pd.DataFrame, controls: np.ndarray) -> pd.DataFrame:
    """The trends of a layer, one a row, and the lowest and highest of untrained layers, from weights (count, genes)."""
    untrained = pd.DataFrame([trends(table.assign(w_eff=weights)) for weights in controls])
    return pd.DataFrame({"value": pd.Series(trends(table)), "low": untrained.min(), "high": untrained.max()})


@torch.no_grad()
def untrained_weights(
    layer: Module, x: Tensor, edge_index: Tensor, count: int = 100, seed: int = 0, *, progress: bool = False
) -> Tensor:
    """Effective weights (count, genes) of layers of the shape of one, drawn by ``reset_parameters``.

    Where it can be read, as many layers as fit 64 MB share one product with the data, on Dask one pass over it;
    ``progress`` shows a bar in a terminal. The layer and the global random state are left alone. Adebayo et al. (2018).

    >>> untrained_weights(torch.nn.Linear(2, 1), torch.tensor([[1.0], [3.0]]), torch.tensor([[0], [1]]), count=3).shape
    torch.Size([3, 2])
    """
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    hide = not (progress and (console := Console(stderr=True)).is_terminal)
    bar = partial(track, description="untrained layers", console=None if hide else console, transient=True, disable=hide)
    (matrix, graph), weights = _open(layer, x, edge_index), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            hidden = len(read_layer(layer, matrix.like).bias)
        except UnreadableLayerError:
            return torch.stack([effective_weight_on_graph(_redrawn(layer), x, edge_index) for _ in bar(range(count))])
        at_once = max(1, _BYTES_AT_ONCE // (2 * hidden * sum(x.shape) * matrix.like.element_size()))
        for part in bar(torch.arange(count).split(at_once)):
            drawn = [read_layer(_redrawn(layer), matrix.like).scaled() for _ in part]
            w_self, w_neighbor = (torch.cat([getattr(w, name) for w in drawn]) for name in ("w_self", "w_neighbor"))
            products, row_lengths = matrix.products(replace(drawn[0], w_self=w_self, w_neighbor=w_neighbor))
            for w, own in zip(drawn, products.unflatten(1, (2, len(part), hidden)).unbind(dim=2), strict=True):
                weights.append(_from_products(w, own.flatten(1), row_lengths, graph, matrix).weight)
    return torch.stack(weights)


def _redrawn(layer: Module) -> Module:
    """A copy with new parameters, drawn on the CPU, whose random state is put back."""
    if not isinstance(layer, Module) or not (trained := list(layer.parameters())):
        raise UnreadableLayerError(f"{type(layer).__name__} has no parameters, so that there is no untrained one")
    fresh = copy.deepcopy(layer).cpu()
    for parameter in fresh.parameters():
        parameter.fill_(torch.nan)
    for module in fresh.modules():
        getattr(module, "reset_parameters", lambda: None)()
    if kept := [name for name, parameter in fresh.named_parameters() if parameter.isnan().any()]:
        raise UnreadableLayerError(f"an untrained {type(layer).__name__} needs reset_parameters to draw {some(kept)} anew")
    return fresh.to(trained[0].device)
