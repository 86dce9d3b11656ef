"""The note's trends of the weight, and what untrained layers of the same shape show of them (Adebayo et al., 2018)."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import Module

from regnet.engine import _from_products, _open
from regnet.layers import LayerWeights, evaluation_mode, read_layer

TRENDS = {
    "in_degree": "trend with in-degree",
    "in_degree_given_expression": "trend with in-degree, given expression",
    "expression": "trend with expression",
    "expression_given_in_degree": "trend with expression, given in-degree",
    "tf": "median of TFs minus other genes",
}
_BYTES_AT_ONCE = 2**28


def trends(table: pd.DataFrame) -> dict[str, float]:
    """Spearman correlations of the weight, plain and partial, and the difference of medians; NaN where undefined."""
    table = table.dropna(subset="w_eff")
    r = table[["w_eff", "in_degree", "mean_expression"]].corr(method="spearman").to_numpy()
    median = table.groupby("is_tf")["w_eff"].median().reindex([True, False])
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (
            r[0, 1],
            _partial(*r[[0, 0, 1], [1, 2, 2]]),
            r[0, 2],
            _partial(*r[[0, 0, 1], [2, 1, 2]]),
            -median.diff()[False],
        )
    return dict(zip(TRENDS, map(float, values), strict=True))


def compare_trends(table: pd.DataFrame, controls: np.ndarray) -> pd.DataFrame:
    """The trends of a layer, one a row, and the lowest and highest of untrained layers, from weights (count, genes)."""
    untrained = pd.DataFrame([trends(table.assign(w_eff=weights)) for weights in controls])
    return pd.DataFrame({"value": pd.Series(trends(table)), "low": untrained.min(), "high": untrained.max()})


def untrained_weights(
    layer: Module, x: Tensor, edge_index: Tensor, count: int = 100, seed: int = 0, *, progress: bool = False
) -> Tensor:
    """Effective weights of untrained layers of one shape: the control for whatever a trained one shows.

    Their parameters are drawn by ``reset_parameters``, on the CPU. As many layers as fit 256 MB share one product with
    the data, on Dask one pass over it.

    Args:
        layer: one that :mod:`regnet.layers` reads, trained or not; it is left alone, and so is the global random state.
        x: expression, and ``edge_index``, the graph: see :func:`regnet.sensitivities_on_graph`.
        count: how many layers.
        seed: of their parameters.
        progress: show a bar on the standard error stream, if that is a terminal.

    Returns:
        Shape (count, genes); NaN where undefined.

    Raises:
        TypeError, ValueError: see :func:`regnet.sensitivities_on_graph`; a layer that is not read is a ``TypeError``.

    References:
        Adebayo et al. (2018).

    >>> layer = torch.nn.Linear(2, 1)
    >>> untrained_weights(layer, torch.tensor([[1.0], [3.0]]), torch.tensor([[0], [1]]), count=3).shape
    torch.Size([3, 2])
    """
    matrix, graph = _open(layer, x, edge_index)
    with torch.no_grad(), evaluation_mode(layer):
        hidden = len(read_layer(layer, matrix.like).bias)
        size = 2 * hidden * (x.shape[0] + x.shape[1]) * matrix.like.element_size()
        console, weights = Console(stderr=True), []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = torch.arange(count).split(max(1, _BYTES_AT_ONCE // size))
            for part in track(parts, "untrained layers", console=console, transient=True, disable=not progress):
                drawn = [read_layer(_redrawn(layer), matrix.like).scaled() for _ in part]
                both = (torch.cat([getattr(w, name) for w in drawn]) for name in ("w_self", "w_neighbor", "bias"))
                products, row_lengths = matrix.products(LayerWeights(*both, None, drawn[0].bias_out))
                for w, of_one in zip(drawn, products.unflatten(1, (2, len(part), hidden)).unbind(dim=2), strict=True):
                    weights.append(_from_products(w, of_one.flatten(1), row_lengths, graph, matrix).weight)
    return torch.stack(weights)


def _redrawn(layer: Module) -> Module:
    """A copy with new parameters; drawn on the CPU, whose random state alone is kept."""
    device = next(layer.parameters()).device
    fresh = copy.deepcopy(layer).cpu()
    for module in fresh.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return fresh.to(device)


def _partial(r_ab: float, r_ac: float, r_bc: float) -> float:
    """The correlation of a and b, given c."""
    return (r_ab - r_ac * r_bc) / np.sqrt((1 - r_ac**2) * (1 - r_bc**2))
