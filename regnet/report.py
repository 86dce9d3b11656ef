"""What a trained layer says about every gene, as a table and as the files the note names."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

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

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where two runs into one folder are not told apart
    fcntl = None  # type: ignore[assignment]

_SCRATCH = ".writing-"

SHRINKAGE_FILES = ("shrinkage.csv", "shrinkage_vs_degree.png", "shrinkage_hist.png", "shrinkage_vs_expr.png")
"""What :func:`regnet.report.write_shrinkage` writes."""

REPORT_FILES = ("regnet_pretrained.pth", "metrics.json", "train_edges.csv", *SHRINKAGE_FILES)
"""What :func:`regnet.report.write_report` writes."""


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

    References:
        Section 8 of the note (chapter 8 of the book).

    >>> data = Data(x=torch.tensor([[1.0], [3.0]]), edge_index=torch.tensor([[0], [1]]), gene_names=["A", "B"],
    ...             is_tf=torch.tensor([True, False]))
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[0.25, 0.75]])
    >>> shrinkage_table(layer, data)["w_eff"].tolist()
    [nan, 0.25]
    """
    edge_index = data.edge_index if edge_index is None else edge_index
    result = sensitivities_on_graph(layer, data.x.detach() if isinstance(data.x, Tensor) else data.x, edge_index)
    return pd.DataFrame(
        {
            "gene": data.gene_names,
            "in_degree": in_degree(edge_index, data.x.shape[0]).cpu(),
            "mean_expression": _mean_expression(data),
            "is_tf": torch.as_tensor(data.is_tf, dtype=torch.bool).cpu(),
            "w_eff": result.weight.cpu(),
            "S_x": result.self_sensitivity.cpu(),
            "S_m": result.neighbor_sensitivity.cpu(),
        }
    )


def model_table(model: RegNet, data: Data, layer: int = 0) -> pd.DataFrame:
    """:func:`regnet.shrinkage_table` of one layer of a model: what the layers before it make of the data goes in.

    Args:
        model: the trained model, in evaluation mode and in the dtype of the data.
        data: ``x`` (genes, cells), a tensor or a Dask array, ``edge_index``, ``gene_names`` and ``is_tf``.
        layer: which GraphSAGE layer, counted from 0.

    Returns:
        The table; ``mean_expression`` is that of the data for every layer.

    Raises:
        ValueError: there is no such layer, or the model was trained on another number of cells.

    References:
        Chapter 15 of the book.

    >>> data = Data(x=torch.rand(4, 3), edge_index=torch.tensor([[0, 0], [1, 2]]), gene_names=list("ABCD"),
    ...             is_tf=torch.tensor([True, False, False, False]))
    >>> model_table(RegNet(3).eval(), data, layer=1)["w_eff"].isna().tolist()
    [True, False, False, True]
    """
    layers = model.graphsage.layers
    if not 0 <= layer < len(layers):
        raise ValueError(
            f"layer must be from 0 to {len(layers) - 1}: the model has {len(layers)} GraphSAGE layers; got {layer}"
        )
    first, (genes, cells) = _aggregator(model, 0), data.x.shape
    width = first.mlp[0].in_features // 2  # type: ignore[operator]
    if cells != width:
        mend = "give the cells that the model was trained on"
        if genes == width:
            mend = "it seems to be cells x genes: transpose it"
        raise ValueError(f"the model takes {width} cells, and the expression has {genes} genes x {cells} cells; {mend}")
    if layer == 0:
        return shrinkage_table(first, data)
    with torch.no_grad():
        hidden = output_on_graph(first, data.x, data.edge_index)
        for between in layers[1:layer]:
            hidden = between(hidden.relu(), data.edge_index)
    inner = Data(x=hidden.relu(), edge_index=data.edge_index, gene_names=data.gene_names, is_tf=data.is_tf)
    return shrinkage_table(_aggregator(model, layer), inner).assign(mean_expression=_mean_expression(data))


def write_report(out_dir: str | Path, model: RegNet, data: Data, edge_index: Tensor, metrics: dict[str, float]) -> None:
    """Write a trained model, its metrics, its graph, its shrinkage table and the note's three figures into a folder.

    ``train_edges.csv`` holds the graph by name, with the columns ``TF`` and ``Target``. Every file is first written whole
    beside its place and then moved there, so that none is ever half there; a kill may leave a folder ``.writing-*``, which
    the next run into the folder removes.

    Args:
        out_dir: the folder; made where it does not exist.
        model: the trained model; its first GraphSAGE layer is reported.
        data: see :func:`regnet.shrinkage_table`; ``gene_names`` and ``is_tf`` may be missing.
        edge_index: the graph the model was trained on, shape (2, edges).
        metrics: what goes into ``metrics.json``.

    Raises:
        BlockingIOError: another run is writing to the folder.
        OSError: the folder cannot be made or written to, or its disk is full; what was there stays as it was.

    References:
        Section 8 of the note (chapter 8 of the book).

    >>> data = Data(x=torch.rand(4, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(folder, RegNet(3), data, torch.tensor([[0, 0], [1, 2]]), metrics={})
    ...     print(sorted(file.name for file in Path(folder).iterdir())[:2])
    ['metrics.json', 'regnet_pretrained.pth']
    """
    with alone(out_dir):
        put_report(out_dir, model, data, edge_index, metrics)


def put_report(
    out_dir: str | Path,
    model: RegNet,
    data: Data,
    edge_index: Tensor,
    metrics: dict[str, float],
    settings: dict[str, Any] | None = None,
) -> None:
    """:func:`regnet.report.write_report` for a caller that has the folder alone, and may have settings to be kept."""
    num_genes = data.x.size(0)
    named = Data(
        x=data.x,
        gene_names=data.gene_names if "gene_names" in data else [str(gene) for gene in range(num_genes)],
        is_tf=data.is_tf if "is_tf" in data else torch.bincount(edge_index[0], minlength=num_genes) > 0,
    )
    table = shrinkage_table(_aggregator(model, 0), named, edge_index)
    names = np.array(named.gene_names)
    with _written_whole(out_dir) as unfinished:
        save(model.state_dict(), unfinished / "regnet_pretrained.pth")
        (unfinished / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        if settings is not None:
            (unfinished / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        train_edges = {"TF": names[edge_index[0].cpu()], "Target": names[edge_index[1].cpu()]}
        pd.DataFrame(train_edges).to_csv(unfinished / "train_edges.csv", index=False)
        _write_table(unfinished, table)


def write_shrinkage(out_dir: str | Path, table: pd.DataFrame) -> None:
    """Write ``shrinkage.csv`` and the note's three figures into a folder, as :func:`regnet.report.write_report` does.

    Args:
        out_dir: the folder; made where it does not exist.
        table: from :func:`regnet.shrinkage_table`.

    Raises:
        BlockingIOError: another run is writing to the folder.
        OSError: the folder cannot be made or written to, or its disk is full; what was there stays as it was.

    References:
        Section 8 of the note (chapter 8 of the book).

    >>> weights = {"gene": ["SPI1", "LYZ"], "in_degree": [0, 1], "mean_expression": [0.2, 1.0], "is_tf": [True, False],
    ...            "w_eff": [np.nan, 0.4], "S_x": [np.nan, 2.0], "S_m": [np.nan, 3.0]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_shrinkage(folder, pd.DataFrame(weights))
    ...     print(sorted(file.name for file in Path(folder).iterdir())[:2])
    ['shrinkage.csv', 'shrinkage_hist.png']
    """
    with alone(out_dir):
        put_shrinkage(out_dir, table)


def put_shrinkage(out_dir: str | Path, table: pd.DataFrame) -> None:
    """:func:`regnet.report.write_shrinkage` for a caller that has the folder alone already."""
    with _written_whole(out_dir) as unfinished:
        _write_table(unfinished, table)


def undefined_genes(table: pd.DataFrame) -> dict[str, int]:
    """How many genes have no weight, by reason.

    Args:
        table: from :func:`regnet.shrinkage_table`.

    Returns:
        Reason -> number of genes; reasons that no gene has are left out.

    References:
        Section 8 of the note (chapter 8 of the book).

    >>> weights = {"in_degree": [0, 1, 2, 2], "S_x": [np.nan, np.nan, 0, 1], "w_eff": [np.nan, np.nan, np.nan, 0.5]}
    >>> undefined_genes(pd.DataFrame(weights))
    {'have no regulators': 1, 'equal the mean of their regulators': 1, 'do not respond': 1}
    """
    undefined, orphan, equal = table["w_eff"].isna(), table["in_degree"] == 0, table["S_x"].isna()
    reasons = {
        "have no regulators": undefined & orphan,
        "equal the mean of their regulators": undefined & ~orphan & equal,
        "do not respond": undefined & ~orphan & ~equal,
    }
    return {reason: int(genes.sum()) for reason, genes in reasons.items() if genes.any()}


def _write_table(folder: Path, table: pd.DataFrame) -> None:
    table.to_csv(folder / "shrinkage.csv", index=False)
    figures.save_diagnostics(table, folder)


@contextmanager
def alone(out_dir: str | Path) -> Iterator[None]:
    """A folder that no other run writes to meanwhile; what killed runs left half written in it is removed.

    The lock is the kernel's, on the folder itself: it ends with the process and its forks, however they end, and is no file.
    Where there are no locks, nothing is removed either. A folder that was made for nothing is removed again.

    Args:
        out_dir: the folder; made where it does not exist.

    Raises:
        BlockingIOError: another run is writing to the folder.
        OSError: the folder cannot be made or written to.
    """
    out_dir = Path(out_dir)
    made = not out_dir.exists()
    with with_advice(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(out_dir, os.O_RDONLY) if fcntl else None
    try:
        locked = handle is not None and _lock(handle, out_dir)
        with with_advice(out_dir):
            for left in out_dir.glob(f"{_SCRATCH}*") if locked else ():  # else it may be that of a run that is alive
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(dir=out_dir, prefix=_SCRATCH):
                pass  # a folder that cannot be written to is found now, and not after the work
        yield
    finally:
        if made:
            with suppress(OSError):  # unless there is something in it now
                out_dir.rmdir()
        if handle is not None:
            os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    """Whether the folder is locked now; some network disks have no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"another run is writing to {folder}; wait until it has ended, or give another folder (--out)"
        ) from None
    except OSError:
        return False
    return True


@contextmanager
def with_advice(folder: Path) -> Iterator[None]:
    """Turn the failure of a write into a message that names the folder and says what can be done.

    Args:
        folder: where is written.

    Raises:
        OSError: of the same kind as the failure.
    """
    try:
        yield
    except OSError as error:
        failure = type(error)(
            f"cannot write to {folder} ({error.strerror or error}); make room there or make it writable, or give another "
            "folder (--out); earlier outputs are as they were"
        )
        failure.errno = error.errno
        raise failure from error


def save(content: Any, path: Path) -> None:
    """``torch.save``, whose own writer meets a full disk with a RuntimeError that does not say so.

    Args:
        content: what ``torch.save`` takes.
        path: the file.

    Raises:
        OSError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


@contextmanager
def _written_whole(out_dir: str | Path) -> Iterator[Path]:
    """A folder whose files are moved to ``out_dir`` at the end, if nothing failed."""
    out_dir = Path(out_dir)
    with with_advice(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir, prefix=_SCRATCH) as scratch:
            yield Path(scratch)
            files = sorted(Path(scratch).iterdir())
            for file in files:  # before the first is moved
                if (out_dir / file.name).is_dir():
                    raise IsADirectoryError(errno.EISDIR, f"{file.name} is a folder")
            for file in files:
                file.replace(out_dir / file.name)


def _aggregator(model: RegNet, layer: int) -> MLPAggregator:
    return cast(SAGELayer, model.graphsage.layers[layer]).agg


def _mean_expression(data: Data) -> np.ndarray:
    if isinstance(data.x, Tensor):
        return data.x.detach().mean(dim=1).cpu().numpy()
    from regnet.blockwise import dense_blocks

    mean: np.ndarray = dense_blocks(data.x).mean(axis=1).compute()
    return mean
