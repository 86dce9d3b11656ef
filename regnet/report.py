"""What a trained layer says about every gene, as a table and as the files the note names."""

from __future__ import annotations

import json
from copy import copy
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import Data

from regnet import figures
from regnet.engine import output_on_graph, sensitivities_on_graph
from regnet.graph import in_degree
from regnet.layers import Layer
from regnet.model import MLPAggregator, RegNet, SAGELayer
from regnet.training import Pretrained
from regnet.writing import write_files

SHRINKAGE_FILES = ("shrinkage.csv", "shrinkage_vs_degree.png", "shrinkage_hist.png", "shrinkage_vs_expr.png")
REPORT_FILES = ("regnet_pretrained.pth", "metrics.json", "settings.json", "train_edges.csv", *SHRINKAGE_FILES)


def shrinkage_table(layer: Layer, data: Data, edge_index: Tensor | None = None) -> pd.DataFrame:
    """Effective weight of every gene beside what the note relates it to.

    Args:
        layer: see :func:`regnet.sensitivities_on_graph`.
        data: ``x`` (genes, cells), a tensor or a Dask array; ``gene_names`` (else numbers), ``is_tf`` (else regulators).
        edge_index: the graph that the layer averages over, shape (2, edges); by default that of ``data``.

    Returns:
        A table with one row a gene and the columns ``gene``, ``in_degree``, ``mean_expression`` (unit of ``x``),
        ``is_tf``, ``w_eff``, ``S_x``, ``S_m``; the last three NaN where undefined.

    Raises:
        TypeError, ValueError: see :func:`regnet.sensitivities_on_graph`.

    References:
        Section 8 of the note.

    >>> data = Data(x=torch.tensor([[1.0], [3.0]]), edge_index=torch.tensor([[0], [1]]), gene_names=["A", "B"],
    ...             is_tf=torch.tensor([True, False]))
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> shrinkage_table(layer, data)["w_eff"].tolist()
    [nan, 0.25]
    """
    edge_index = data.edge_index if edge_index is None else edge_index
    x = data.x.detach() if isinstance(data.x, Tensor) else data.x
    result, num_genes = sensitivities_on_graph(layer, x, edge_index), data.x.shape[0]
    is_tf = data.is_tf if "is_tf" in data else torch.bincount(edge_index[0], minlength=num_genes) > 0
    return pd.DataFrame(
        {
            "gene": data.gene_names if "gene_names" in data else [str(gene) for gene in range(num_genes)],
            "in_degree": in_degree(edge_index, num_genes).cpu(),
            "mean_expression": _mean_expression(data),
            "is_tf": torch.as_tensor(is_tf, dtype=torch.bool).cpu(),
            "w_eff": result.weight.cpu(),
            "S_x": result.self_sensitivity.cpu(),
            "S_m": result.neighbor_sensitivity.cpu(),
        }
    )


def model_table(model: RegNet, data: Data, layer: int = 0) -> pd.DataFrame:
    """:func:`regnet.shrinkage_table` of one layer of a model, whose input is the output of the layers before it.

    Args:
        model: the trained model, in evaluation mode and in the dtype of the data.
        data: see :func:`regnet.shrinkage_table`.
        layer: which GraphSAGE layer, counted from 0.

    Returns:
        The table; ``mean_expression`` is that of the data for every layer.

    Raises:
        ValueError: there is no such layer, or the model was trained on another number of cells.

    >>> data = Data(x=torch.rand(4, 3), edge_index=torch.tensor([[0, 0], [1, 2]]), gene_names=list("ABCD"),
    ...             is_tf=torch.tensor([True, False, False, False]))
    >>> model_table(RegNet(3).eval(), data, layer=1)["w_eff"].isna().tolist()
    [True, False, False, True]
    """
    layers, count = model.graphsage.layers, len(model.graphsage.layers)
    if not 0 <= layer < count:
        raise ValueError(f"layer must be from 0 to {count - 1}: the model has {count} GraphSAGE layers; got {layer}")
    first, (genes, cells) = _aggregator(model, 0), data.x.shape
    width = first.mlp[0].in_features // 2  # type: ignore[operator]
    if cells != width:
        transpose, give = "it seems to be cells x genes: transpose it", "give the cells that the model was trained on"
        fix = transpose if genes == width else give
        raise ValueError(f"the model takes {width} cells, and the expression has {genes} genes x {cells} cells; {fix}")
    if layer == 0:
        return shrinkage_table(first, data)
    with torch.no_grad():
        hidden = output_on_graph(first, data.x, data.edge_index)
        for between in layers[1:layer]:
            hidden = between(hidden.relu(), data.edge_index)
    inner = copy(data)
    inner.x = hidden.relu()
    return shrinkage_table(_aggregator(model, layer), inner).assign(mean_expression=_mean_expression(data))


def write_report(folder: str | Path, trained: Pretrained, data: Data) -> None:
    """Write REPORT_FILES of a trained model, atomically; concurrent runs into one folder need ``output_lock``."""
    table = shrinkage_table(_aggregator(trained.model, 0), data, trained.edge_index)
    sources, targets = (table["gene"].to_numpy()[genes] for genes in trained.edge_index.cpu())
    files: dict[str, Any] = {
        "regnet_pretrained.pth": partial(torch.save, trained.model.state_dict()),
        "metrics.json": (json.dumps(trained.metrics, indent=2) + "\n").encode(),
        "settings.json": (json.dumps(trained.settings, indent=2) + "\n").encode(),
        "train_edges.csv": pd.DataFrame({"TF": sources, "Target": targets}).to_csv(index=False).encode(),
    }
    write_files(Path(folder), files | _shrinkage_files(table))


def write_shrinkage(folder: str | Path, table: pd.DataFrame) -> None:
    """Write SHRINKAGE_FILES, the table and the note's three figures, as ``write_report`` does."""
    write_files(Path(folder), _shrinkage_files(table))


def undefined_genes(table: pd.DataFrame) -> dict[str, int]:
    """Reason -> how many genes have no weight for it; reasons that no gene has are left out."""
    undefined, orphan, equal = table["w_eff"].isna(), table["in_degree"] == 0, table["S_x"].isna()
    reasons = {
        "without regulators": undefined & orphan,
        "equal to the mean of the regulators": undefined & ~orphan & equal,
        "without response": undefined & ~orphan & ~equal,
    }
    return {reason: int(genes.sum()) for reason, genes in reasons.items() if genes.any()}


def _shrinkage_files(table: pd.DataFrame) -> dict[str, bytes]:
    files = {"shrinkage.csv": table.to_csv(index=False).encode()}
    with plt.rc_context():
        figures.use_style()
        for draw in (figures.shrinkage_vs_degree, figures.shrinkage_hist, figures.shrinkage_vs_expr):
            figure, ax = plt.subplots()
            try:
                draw(table, ax=ax)
                figure.savefig(picture := BytesIO())
            finally:
                plt.close(figure)
            files[f"{draw.__name__}.png"] = picture.getvalue()
    return files


def _aggregator(model: RegNet, layer: int) -> MLPAggregator:
    return cast(SAGELayer, model.graphsage.layers[layer]).agg


def _mean_expression(data: Data) -> np.ndarray:
    if isinstance(data.x, Tensor):
        return data.x.detach().mean(dim=1).cpu().numpy()
    from regnet.blockwise import dense_blocks

    mean: np.ndarray = dense_blocks(data.x).mean(axis=1).compute()
    return mean
