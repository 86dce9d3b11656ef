"""What a trained layer says about every gene, as a table and as the files the note names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from anndata.io import write_elem
from torch import Tensor
from torch.nn import Module
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv

from regnet import figures
from regnet.bayes_layer import PosteriorMeanAggregator
from regnet.checks import some
from regnet.convolution import along_edges
from regnet.engine import output_on_graph, sensitivities_on_graph
from regnet.graph import in_degree
from regnet.io import names_of
from regnet.layers import Layer
from regnet.training import Pretrained
from regnet.trends import compare_trends, untrained_weights
from regnet.writing import explain_write_errors, write_files

SHRINKAGE_FILES = ("shrinkage.csv", "shrinkage_vs_degree.png", "shrinkage_hist.png", "shrinkage_vs_expr.png")
REPORT_FILES = (
    *("regnet_pretrained.pth", "metrics.json", "settings.json", "train_edges.csv", "training_curve.png"),
    *SHRINKAGE_FILES,
)


def shrinkage_table(layer: Layer, data: Data, edge_index: Tensor | None = None) -> pd.DataFrame:
    """Effective weight of every gene beside what the note relates it to.

    Args:
        layer: see :func:`regnet.sensitivities_on_graph`.
        data: ``x`` (genes, cells), a tensor or a Dask array; ``gene_names`` (else numbers), ``is_tf`` (else regulators).
        edge_index: the graph that the layer averages over, shape (2, edges); by default that of ``data``.

    Returns:
        A table with one row a gene, indexed by its name for ``adata.var.join(table)``, and the columns ``in_degree``,
        ``mean_expression`` (unit of ``x``), ``is_tf``, ``w_eff``, ``S_x``, ``S_m``; the last three NaN where undefined.

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
    to_targets = along_edges(layer, edge_index)[1]
    x = data.x.detach() if isinstance(data.x, Tensor) else data.x
    result, num_genes = sensitivities_on_graph(layer, x, edge_index), data.x.shape[0]
    is_tf = data.is_tf if "is_tf" in data else torch.bincount(to_targets[0], minlength=num_genes) > 0
    genes = data.gene_names if "gene_names" in data else [str(gene) for gene in range(num_genes)]
    return pd.DataFrame(
        {
            "in_degree": in_degree(to_targets, num_genes).cpu(),
            "mean_expression": _mean_expression(data),
            "is_tf": torch.as_tensor(is_tf, dtype=torch.bool).cpu(),
            "w_eff": result.weight.cpu(),
            "S_x": result.self_sensitivity.cpu(),
            "S_m": result.neighbor_sensitivity.cpu(),
        },
        index=pd.Index(genes, name="gene"),
    )


def layer_input(layers: Sequence[Module], data: Data) -> Data:
    """The data set whose ``x`` the last of a RegNet's layers reads, or one layer alone."""
    first, sides = layers[0], 1 if isinstance(layers[0], SAGEConv) else 2  # read side by side, as x and m are
    width = (
        first.mlp[0].in_features if isinstance(first, PosteriorMeanAggregator) else next(first.parameters()).size(1) // sides
    )
    genes, cells = data.x.shape
    if cells != width:
        transpose, give = "it seems to be cells x genes: transpose it", "give the cells that the model was trained on"
        fix = transpose if genes == width else give
        raise ValueError(f"the layer takes {width} cells, and the expression has {genes} genes x {cells} cells; {fix}")
    inner = copy(data).update({"expression": data.x})
    for layer in layers[:-1]:
        inner.x = output_on_graph(layer, inner.x, data.edge_index).relu()
    return inner


class Weights(NamedTuple):
    """The table of a layer, the weights of untrained layers of its shape (count, genes), and their trends."""

    table: pd.DataFrame
    controls: np.ndarray | None = None
    trends: pd.DataFrame | None = None


def weigh(layer: Module, data: Data, edge_index: Tensor | None = None, controls: int = 0, progress: bool = False) -> Weights:
    """:func:`regnet.shrinkage_table` of a layer beside so many untrained ones."""
    table = shrinkage_table(layer, data, edge_index)
    if not controls:
        return Weights(table)
    graph = data.edge_index if edge_index is None else edge_index
    untrained = untrained_weights(layer, data.x, graph, controls, progress=progress).cpu().numpy()
    return Weights(table, untrained, compare_trends(table, untrained))


def summary(weights: Weights, graph: str) -> list[str]:
    """Lines on the weights on a graph, on the genes without, and on the trends, each with its control."""
    weight, reasons = weights.table["w_eff"].dropna(), undefined_genes(weights.table)
    low, median, high = weight.quantile([0.25, 0.5, 0.75])
    what = f"median {median:.3f}, quartiles {low:.3f} to {high:.3f}, of " if len(weight) else ""
    lines = [f"weights on {graph}: {what}{_genes(len(weight))}"]
    why = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
    lines.append(f"undefined for {_genes(sum(reasons.values()))}" + (f": {why}" if why else ""))
    for trend, (value, low, high) in [] if weights.trends is None else weights.trends.iterrows():
        verdict = "within" if low <= value <= high else "beyond"
        line = f"{value:+.2f}   untrained {low:+.2f} to {high:+.2f}   {verdict}"
        lines.append(f"trend   {trend:<30}{'undefined' if np.isnan([value, low]).any() else line}")
    return lines


def first_layer(trained: Pretrained) -> Module:
    """The note's g."""
    return trained.model.graphsage.layers[0].get_submodule("agg")


def write_report(folder: str | Path, trained: Pretrained, data: Data, weights: Weights | None = None) -> None:
    """Write REPORT_FILES of a trained model, atomically; concurrent runs into one folder need ``output_lock``."""
    weights = weights or weigh(first_layer(trained), data, trained.edge_index)
    sources, targets = (weights.table.index.to_numpy()[genes] for genes in trained.edge_index.cpu())
    trends = weights.trends
    compared = {} if trends is None else {"trends": json.loads(trends.to_json(orient="index", double_precision=15))}
    files: dict[str, Any] = {
        "regnet_pretrained.pth": partial(torch.save, trained.model.state_dict()),
        "metrics.json": (json.dumps(trained.metrics | compared, indent=2) + "\n").encode(),
        "settings.json": (json.dumps(trained.settings, indent=2) + "\n").encode(),
        "train_edges.csv": pd.DataFrame({"TF": sources, "Target": targets}).to_csv(index=False).encode(),
        "training_curve.png": _picture(partial(figures.training_curve, trained.history)),
    }
    write_files(Path(folder), files | _shrinkage_files(weights))


def write_shrinkage(folder: str | Path, weights: Weights) -> None:
    """Write SHRINKAGE_FILES, the table and the note's three figures, as ``write_report`` does."""
    write_files(Path(folder), _shrinkage_files(weights))


def write_h5ad(
    place: Path,
    folder: Path,
    weights: Weights,
    data: Data,
    source: Path | None,
    about: dict[str, Any],
    gene_column: str | None = None,
) -> int:
    """Write the table by gene name into ``var`` of a copy of an ``.h5ad`` or of a new one; how many genes that lacks."""
    unfinished = folder / ".copy.unfinished"
    with explain_write_errors(place.parent):
        try:
            if source:
                shutil.copyfile(source, unfinished)
            else:
                x = data.x.detach().numpy() if isinstance(data.x, Tensor) else data.x
                obs = pd.DataFrame(index=data.cell_names) if "cell_names" in data else None
                AnnData(x.T, obs=obs, var=pd.DataFrame(index=data.gene_names)).write_h5ad(unfinished)
            with h5py.File(unfinished, "r+") as store:
                var, uns = store["var"], store.require_group("uns")
                names = names_of(var, gene_column)
                if not len(known := weights.table.index.intersection(names)):
                    raise ValueError(f"{source}: no name in var is a gene of the table; var has {some(names)}")
                for column, values in weights.table.reindex(names).items():
                    values = values.astype("boolean").array if values.dtype == object else values.to_numpy()
                    write_elem(var, column, values)
                columns = np.append(np.asarray(var.attrs.get("column-order", [])).astype(str), weights.table.columns)
                var.attrs["column-order"] = list(dict.fromkeys(columns.tolist()))
                trends = {} if weights.trends is None else {"trends": weights.trends.to_dict("index")}
                units = {"mean_expression": "unit of X", "S_x": "unit of the layer's output", "S_m": "as S_x"}
                write_elem(uns, "regnet", {"units": units} | about | trends)
            unfinished.replace(place)
        finally:
            unfinished.unlink(missing_ok=True)
    return len(weights.table) - len(known)


def undefined_genes(table: pd.DataFrame) -> dict[str, int]:
    """Reason -> how many genes have no weight for it; reasons that no gene has are left out."""
    undefined, orphan, equal = table["w_eff"].isna(), table["in_degree"] == 0, table["S_x"].isna()
    reasons = {
        "without regulators": undefined & orphan,
        "equal to the mean of the regulators": undefined & ~orphan & equal,
        "without response": undefined & ~orphan & ~equal,
    }
    return {reason: int(genes.sum()) for reason, genes in reasons.items() if genes.any()}


def _genes(count: int) -> str:
    return f"{count} gene" if count == 1 else f"{count} genes"


def _shrinkage_files(weights: Weights) -> dict[str, bytes]:
    drawn = (figures.shrinkage_vs_degree, figures.shrinkage_hist, figures.shrinkage_vs_expr)
    pictures = {f"{draw.__name__}.png": _picture(partial(draw, weights.table, controls=weights.controls)) for draw in drawn}
    return {"shrinkage.csv": weights.table.to_csv().encode()} | pictures


def _picture(draw: Callable[..., object]) -> bytes:
    with plt.rc_context():
        figures.use_style()
        figure, ax = plt.subplots()
        try:
            draw(ax=ax)
            figure.savefig(picture := BytesIO())
        finally:
            plt.close(figure)
    return picture.getvalue()


def _mean_expression(data: Data) -> np.ndarray:
    x = data.expression if "expression" in data else data.x  # of a layer that reads hidden units
    if isinstance(x, Tensor):
        return x.detach().mean(dim=1).cpu().numpy()
    from regnet.blockwise import dense_blocks

    mean: np.ndarray = dense_blocks(x).mean(axis=1).compute()
    return mean
