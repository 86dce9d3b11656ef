"""What a trained layer says about every gene, as a table and as the files the note names."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import Data

from regnet import figures
from regnet.graph import in_degree
from regnet.layers import Layer
from regnet.model import RegNet
from regnet.shrinkage import sensitivities_on_graph


def shrinkage_table(layer: Layer, data: Data, edge_index: Tensor | None = None) -> pd.DataFrame:
    """Effective weight of every gene beside what the note relates it to.

    Args:
        layer: see :func:`regnet.sensitivities_on_graph`.
        data: ``x`` (genes, cells), ``gene_names`` and ``is_tf``.
        edge_index: the graph that the layer averages over, regulator -> target, shape (2, edges); that of ``data`` where
            none is given.

    Returns:
        A table with one row a gene and the columns ``gene``, ``in_degree``, ``mean_expression`` (unit of ``x``),
        ``is_tf``, ``w_eff``, ``S_x``, ``S_m``; the last three NaN where undefined.

    Raises:
        TypeError, ValueError: see :func:`regnet.sensitivities_on_graph`.

    >>> data = Data(x=torch.tensor([[1.0], [3.0]]), edge_index=torch.tensor([[0], [1]]), gene_names=["A", "B"],
    ...             is_tf=torch.tensor([True, False]))
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> shrinkage_table(layer, data)["w_eff"].tolist()
    [nan, 0.25]
    """
    edge_index = data.edge_index if edge_index is None else edge_index
    x = data.x.detach()
    result = sensitivities_on_graph(layer, x, edge_index)
    return pd.DataFrame(
        {
            "gene": data.gene_names,
            "in_degree": in_degree(edge_index, x.size(0)).cpu(),
            "mean_expression": x.mean(dim=1).cpu(),
            "is_tf": torch.as_tensor(data.is_tf, dtype=torch.bool).cpu(),
            "w_eff": result.weight.cpu(),
            "S_x": result.self_sensitivity.cpu(),
            "S_m": result.neighbor_sensitivity.cpu(),
        }
    )


def write_report(out_dir: str | Path, model: RegNet, data: Data, edge_index: Tensor, metrics: dict[str, float]) -> None:
    """Write a trained model, its metrics, its shrinkage table and the note's three figures into a folder.

    Every file is first written whole beside its place and then moved there, so that none is ever half there.

    Args:
        out_dir: the folder; made where it does not exist.
        model: the trained model; its first GraphSAGE layer is reported.
        data: see :func:`regnet.shrinkage_table`; ``gene_names`` and ``is_tf`` may be missing.
        edge_index: the graph the model was trained on, shape (2, edges).
        metrics: what goes into ``metrics.json``.

    Raises:
        OSError: the folder cannot be made or written to; what was there stays as it was.

    >>> data = Data(x=torch.rand(4, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(folder, RegNet(3), data, torch.tensor([[0, 0], [1, 2]]), metrics={})
    ...     print(sorted(file.name for file in Path(folder).iterdir())[:2])
    ['metrics.json', 'regnet_pretrained.pth']
    """
    num_genes = data.x.size(0)
    named = Data(
        x=data.x,
        gene_names=data.gene_names if "gene_names" in data else [str(gene) for gene in range(num_genes)],
        is_tf=data.is_tf if "is_tf" in data else torch.bincount(edge_index[0], minlength=num_genes) > 0,
    )
    first_layer: Layer = model.graphsage.layers[0].agg  # type: ignore[assignment]
    table = shrinkage_table(first_layer, named, edge_index)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".writing-") as scratch:
        unfinished = Path(scratch)
        torch.save(model.state_dict(), unfinished / "regnet_pretrained.pth")
        (unfinished / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        table.to_csv(unfinished / "shrinkage.csv", index=False)
        figures.save_diagnostics(table, unfinished)
        for file in unfinished.iterdir():
            file.replace(out_dir / file.name)
