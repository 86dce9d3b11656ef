"""The table of weights and the files the note names."""

from __future__ import annotations

import json

import anndata
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv

from regnet import RegNet, effective_weight, neighbor_mean, sensitivities, shrinkage_table
from regnet.model import MLPAggregator
from regnet.report import (
    REPORT_FILES,
    SHRINKAGE_FILES,
    layer_input,
    weigh,
    write_h5ad,
    write_report,
    write_shrinkage,
)
from regnet.training import Pretrained, split_edges

COLUMNS = ["in_degree", "mean_expression", "is_tf", "w_eff", "S_x", "S_m"]


@pytest.fixture
def model(tiny_data):
    torch.manual_seed(0)
    return RegNet(12, hidden_channels=8, latent_channels=4).double().eval()


def test_the_table_says_what_each_column_is_called(model, tiny_data):
    layer = model.graphsage.layers[0].agg
    table = shrinkage_table(layer, tiny_data)
    assert list(table.columns) == COLUMNS
    assert table.index.name == "gene" and table.index.tolist() == tiny_data.gene_names
    assert table["in_degree"].tolist() == [int((tiny_data.edge_index[1] == gene).sum()) for gene in range(40)]
    np.testing.assert_allclose(table["mean_expression"], tiny_data.x.numpy().mean(axis=1), rtol=1e-10)
    assert table["is_tf"].tolist() == tiny_data.is_tf.tolist()
    m = neighbor_mean(tiny_data.x, tiny_data.edge_index)
    has = (table["in_degree"] > 0).to_numpy()
    s = sensitivities(layer, tiny_data.x, m, "jvp")
    for column, values in (("w_eff", s.weight), ("S_x", s.self_sensitivity), ("S_m", s.neighbor_sensitivity)):
        np.testing.assert_allclose(table.loc[has, column], values.detach().numpy()[has], rtol=1e-9)
    np.testing.assert_allclose(table["w_eff"], table["S_x"] / (table["S_x"] + table["S_m"]), rtol=1e-10)


def test_a_table_joins_var_by_gene_name(model, tiny_data):
    table = shrinkage_table(model.graphsage.layers[0].agg, tiny_data)
    adata = anndata.AnnData(tiny_data.x.numpy().T, var=pd.DataFrame({"id": range(40)}, index=tiny_data.gene_names))[:, ::-1]
    var = adata.var.join(table)
    assert var["w_eff"].notna().sum() == table["w_eff"].notna().sum() > 0
    assert var["mean_expression"].tolist() == tiny_data.x.mean(dim=1).tolist()[::-1]


def test_another_graph_replaces_that_of_the_data(model, tiny_data):
    layer, one_edge = model.graphsage.layers[0].agg, torch.tensor([[5], [6]])
    table = shrinkage_table(layer, tiny_data, one_edge)
    assert table["in_degree"].sum() == 1 and table["w_eff"].notna().sum() == 1
    assert table.loc["G6", "w_eff"] == pytest.approx(
        effective_weight(layer, tiny_data.x[6:7], tiny_data.x[5:6]).item(), rel=1e-10
    )


HISTORY = {"epoch": [0, 5, 10], "loss": [3.0, 2.0, 1.0], "val_auprc": [0.1, 0.4, 0.3]}


@pytest.fixture
def trained(model, tiny_data):
    return Pretrained(
        model, tiny_data.edge_index, split_edges(tiny_data.edge_index, 40), {"auroc": 0.75, "seed": 3}, {"seed": 3}, HISTORY
    )


def test_the_report_is_complete_and_leaves_other_files_alone(trained, tiny_data, tmp_path):
    out = tmp_path / "deep" / "folder"
    out.mkdir(parents=True)
    (out / "metrics.json").write_text("old")
    (out / "notes.txt").write_text("mine")
    tiny_data.gene_names[0] = "a, b"
    write_report(out, trained, tiny_data)
    assert {file.name for file in out.iterdir()} == set(REPORT_FILES) | {"notes.txt"}
    assert json.loads((out / "metrics.json").read_text()) == trained.metrics
    assert json.loads((out / "settings.json").read_text()) == trained.settings
    table = shrinkage_table(trained.model.graphsage.layers[0].agg, tiny_data)
    pd.testing.assert_frame_equal(pd.read_csv(out / "shrinkage.csv", index_col="gene"), table, check_exact=False, rtol=1e-12)
    weights = torch.load(out / "regnet_pretrained.pth", weights_only=True)
    assert all(torch.equal(weights[name], values) for name, values in trained.model.state_dict().items())
    edges, names = pd.read_csv(out / "train_edges.csv"), tiny_data.gene_names
    assert list(edges.columns) == ["TF", "Target"]
    assert edges.to_numpy().tolist() == [[names[a], names[b]] for a, b in tiny_data.edge_index.T.tolist()]
    for name in (*SHRINKAGE_FILES[1:], "training_curve.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300 and len(picture.convert("L").getcolors(256) or []) > 5


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("sparse", [False, True])
def test_any_layer_is_weighed_in_memory_and_on_disk_alike(tiny_data, layer, sparse):
    model = RegNet(12, hidden_channels=8, latent_channels=4, num_layers=3).double().eval()
    layers = [of_one.agg.mlp for of_one in model.graphsage.layers[: layer + 1]]
    table = shrinkage_table(layers[-1], layer_input(layers, tiny_data))
    seen = []
    model.graphsage.layers[layer].register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    with torch.no_grad():
        model.graphsage(tiny_data.x, tiny_data.edge_index)
    hidden, graph = seen[0]
    expected = sensitivities(model.graphsage.layers[layer].agg, hidden, neighbor_mean(hidden, graph), "jvp")
    has = (table["in_degree"] > 0).to_numpy()
    np.testing.assert_allclose(table.loc[has, "S_m"], expected.neighbor_sensitivity[has], rtol=1e-9)
    np.testing.assert_allclose(table["mean_expression"], tiny_data.x.mean(dim=1), rtol=1e-12)

    on_disk = tiny_data.clone()
    on_disk.x = da.from_array(tiny_data.x.numpy(), chunks=(40, 5))
    if sparse:
        on_disk.x = on_disk.x.map_blocks(csr_matrix, meta=csr_matrix((0, 0), dtype=np.float64))
    on_disk = shrinkage_table(layers[-1], layer_input(layers, on_disk))
    pd.testing.assert_frame_equal(on_disk, table, check_exact=False, rtol=1e-9)


@pytest.mark.parametrize("layer", [MLPAggregator(12, 8), SAGEConv(12, 3)])
def test_another_number_of_cells_is_refused_with_both_numbers(layer, tiny_data):
    assert torch.equal(layer_input([layer], tiny_data).x, tiny_data.x)
    tiny_data.x = tiny_data.x[:, :11]
    with pytest.raises(ValueError, match="takes 12 cells, and the expression has 40 genes x 11 cells; give the cells"):
        layer_input([layer], tiny_data)
    tiny_data.x = tiny_data.x[:12]
    with pytest.raises(ValueError, match="cells x genes: transpose it"):
        layer_input([layer], tiny_data)


def test_the_files_of_a_table_are_all_written_or_none(model, tiny_data, tmp_path, monkeypatch):
    weights = weigh(model.graphsage.layers[0].agg, tiny_data, controls=3)
    write_shrinkage(tmp_path / "o", weights)
    assert {file.name for file in (tmp_path / "o").iterdir()} == set(SHRINKAGE_FILES)
    monkeypatch.setattr("regnet.figures.shrinkage_hist", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_shrinkage(tmp_path / "p", weights)
    assert not (tmp_path / "p").exists()


def test_names_and_tfs_may_be_missing(model, tiny_data):
    table = shrinkage_table(model.graphsage.layers[0].agg, Data(x=tiny_data.x, edge_index=tiny_data.edge_index))
    assert table.index.tolist() == [str(gene) for gene in range(40)]
    assert table.index[table["is_tf"]].tolist() == ["0", "1", "2", "3"]


def test_columns_go_into_var_by_gene_name(model, tiny_data, tmp_path):
    """As where ``raw`` has genes that ``var`` lacks, or the other way."""
    names = [*tiny_data.gene_names[:4:-1], "other"]
    anndata.AnnData(np.zeros((2, 36)), var=pd.DataFrame({"id": range(36)}, index=names)).write_h5ad(tmp_path / "x.h5ad")
    weights = weigh(model.graphsage.layers[0].agg, tiny_data)
    assert write_h5ad(tmp_path / "y.h5ad", tmp_path, weights, tiny_data, tmp_path / "x.h5ad", {}) == 5
    var = anndata.read_h5ad(tmp_path / "y.h5ad").var
    expected = pd.DataFrame({"id": range(36)}, index=names).join(weights.table.astype({"is_tf": "boolean"}))
    pd.testing.assert_frame_equal(var, expected)
    weights = weights._replace(table=weights.table.add_prefix("no ", axis=0))
    with pytest.raises(ValueError, match=r"no name in var is a gene of the table; var has G39, G38"):
        write_h5ad(tmp_path / "y.h5ad", tmp_path, weights, tiny_data, tmp_path / "x.h5ad", {})
