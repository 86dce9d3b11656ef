"""The command line as a new user meets it, and what `import regnet` costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from examples import assert_error
from scipy.sparse import csr_matrix
from torch_geometric.nn import SAGEConv

import regnet
from regnet.data import dataset_names, load_dataset
from regnet.report import REPORT_FILES, SHRINKAGE_FILES

AWKWARD = ["NA", "nan", "TRUE", "007", "1-Mar", "HLA DRA", 'beta"2', "ß-catenin", "a,b"]
PROGRAM = [sys.executable, "-c", "from regnet.cli import app; app()"]


@pytest.fixture
def files(tiny_data, tmp_path):
    """The tiny data as files with awkward names: x.csv.gz, x.h5ad and edges.tsv; returns their folder and the names."""
    folder = tmp_path / "my files"
    folder.mkdir()
    genes = AWKWARD + tiny_data.gene_names[len(AWKWARD) :]
    cells = [f"cell {k}" for k in range(12)]
    pd.DataFrame(tiny_data.x.numpy(), index=genes, columns=cells).to_csv(folder / "x.csv.gz")
    sparse = csr_matrix(tiny_data.x.numpy().T)
    table = anndata.AnnData(sparse, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))
    table.write_h5ad(folder / "x.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what AnnData will write one day
        table.write_zarr(folder / "x.zarr")
    edges = [(genes[source], genes[target], 1) for source, target in tiny_data.edge_index.T.tolist()]
    pd.DataFrame(edges, columns=["source", "Target", "Label"]).to_csv(folder / "edges.tsv", sep="\t", index=False)
    return folder, genes


@pytest.fixture
def trained(tiny_data, tmp_path):
    """A model of the tiny data's width in a file, in float64."""
    torch.manual_seed(0)
    model = regnet.RegNet(12, hidden_channels=8, latent_channels=4).double().eval()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    return tmp_path / "model.pth", model


def words(text):
    """Without the line breaks of an 80-column terminal."""
    return " ".join(text.split())


# datasets


def test_datasets_lists_every_name_one_a_line_uncut(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("REGNET_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "empty")
    lines = run("datasets").stdout.splitlines()
    assert lines[0].split() == ["name", "genes", "x", "cells", "edges", "from", "where", "it", "is"]
    assert [line.split()[0] for line in lines[1:]] == dataset_names()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    monkeypatch.setenv("COLUMNS", "40")
    assert run("datasets").stdout.splitlines() == lines
    assert re.fullmatch(r"pbmc68k +765 x 350 +1025 +10x Genomics +part of scanpy *", lines[1])
    assert re.fullmatch(r"celltypist-trrust +1054 x 559 +2658 +CellTypist/TRRUST +download, 0\.3 MB *", lines[2])
    assert re.fullmatch(r"mesc-lofgof +1120 x 421 +4169 +BEELINE/GENELink +download, 3\.5 MB *", lines[3])


def test_datasets_downloads_nothing_and_imports_nothing_heavy(tmp_path):
    heavy = ["torch", "pandas", "matplotlib", "scanpy", "sklearn", "dask", "anndata"]
    code = f"""
import socket, sys
socket.socket.connect = None
from typer.testing import CliRunner
from regnet.cli import app
assert CliRunner().invoke(app, ["datasets"]).exit_code == 0
print([name for name in {heavy} if name in sys.modules])"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("REGNET_DATA_DIR", None)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


# pretrain


def test_pretrain_writes_where_it_says_and_shows_the_metrics(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    result = run("pretrain", "tiny", "--epochs", "2", "--seed", "3")
    assert result.exit_code == 0, result.output
    out = tmp_path / "pretrain_outputs" / "tiny" / "pretrain"
    assert "written to pretrain_outputs/tiny/pretrain" in words(result.stdout)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["seed"] == 3
    for name in ("auroc", "auprc", "auroc_degree", "auprc_degree", "auroc_correlation", "auprc_correlation"):
        assert f"{metrics[name]:.3f}" in result.stdout
    assert {file.name for file in out.iterdir()} == set(REPORT_FILES)
    rows = [line for line in result.stdout.splitlines() if "AUROC" in line or "AUPRC" in line]
    assert [f"{metrics['auroc']:.3f}" in rows[0], f"{metrics['auprc_degree']:.3f}" in rows[1]] == [True, True]
    assert "kept epoch 0 of 2" in result.stdout and "--epochs ended the training before" in words(result.stderr)
    assert "|Pearson| ┃" in result.stdout and "epoch" in result.stderr, "no column is cut; the progress bar"


@pytest.mark.parametrize("expression", ["x.csv.gz", "x.h5ad", "x.zarr"])
def test_pretrain_on_ones_own_files_gives_what_the_function_gives(run, files, tiny_data, tmp_path, expression):
    folder, genes = files
    result = run("pretrain", "--expression", folder / expression, "--edges", folder / "edges.tsv", "--epochs", "2")
    assert result.exit_code == 0, result.output
    out = tmp_path / "pretrain_outputs" / "x" / "pretrain"
    tiny_data.x = tiny_data.x.float()
    metrics = json.loads((out / "metrics.json").read_text())
    trends = metrics.pop("trends")
    assert metrics == regnet.pretrain(tiny_data, max_epochs=2).metrics
    assert trends.pop("TFs minus other genes")["value"] is None, "no regulator is regulated"
    for trend, numbers in trends.items():
        line = f"trend {trend} {numbers['value']:+.2f} untrained {numbers['low']:+.2f} to {numbers['high']:+.2f} "
        assert line + ("within" if numbers["low"] <= numbers["value"] <= numbers["high"] else "beyond") in words(
            result.stdout
        )
    assert f"weights on the {len(pd.read_csv(out / 'train_edges.csv'))} training edges: median" in words(result.stdout)
    table = pd.read_csv(out / "shrinkage.csv", keep_default_na=False)
    assert table["gene"].tolist() == genes
    assert table["is_tf"].tolist() == [gene < 4 for gene in range(40)], "the regulators"


def test_a_list_of_tfs_and_another_network_are_used(run, files, tmp_path):
    (tmp_path / "tfs.txt").write_text("G1\ng5\nNOT_THERE\n")
    (tmp_path / "edges.csv").write_text("".join(f"G1,G{target}\n" for target in range(10, 25)) + "G1,UNKNOWN\n")
    result = run("pretrain", "tiny", "--edges", "edges.csv", "--tfs", "tfs.txt", "--epochs", "1", "--out", "o")
    assert result.exit_code == 0, result.output
    table = pd.read_csv("o/shrinkage.csv")
    assert table.loc[table["is_tf"], "gene"].tolist() == ["G1", "G5"]
    assert set(pd.read_csv("o/train_edges.csv")["TF"]) == {"G1"}
    for notice in (
        "Notice: names of the edges that are no genes (1): UNKNOWN",
        "Notice: edges dropped with these names: 1 of 16",
        "Notice: names of the transcription factors that match a gene only ignoring case (1): g5",
        "Notice: names of the transcription factors that are no genes (1): NOT_THERE",
    ):
        assert notice in words(result.stderr)


def test_outputs_are_not_replaced_without_force(run, tiny_data, tmp_path):
    arguments = ["pretrain", "tiny", "--epochs", "1", "--out", "o"]
    assert run(*arguments).exit_code == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "o").iterdir()}
    assert_error(run(*arguments, "--seed", "1"), "o holds regnet_pretrained.pth of an earlier run", "--force")
    finished = run(*arguments, "--resume")
    assert finished.exit_code == 0 and "already finished: o" in finished.stdout
    for field, word in (("x", "other expression"), ("edge_index", "other edges")):
        whole = tiny_data[field]
        tiny_data[field] = whole[:, :-1]
        assert_error(run(*arguments, "--resume"), f"o holds a finished training with {word};", "give another --out")
        tiny_data[field] = whole
    for field, other in (("gene_names", [f"h{k}" for k in range(40)]), ("is_tf", ~tiny_data.is_tf)):
        before_it, tiny_data[field] = tiny_data[field], other
        assert_error(run(*arguments, "--resume"), "o holds a finished training on other names;")
        tiny_data[field] = before_it
    (tmp_path / "o" / "settings.json").write_text("[")
    assert_error(run(*arguments, "--resume"), "o holds a finished training with seed=None, not 0")
    (tmp_path / "o" / "settings.json").write_bytes(before["settings.json"])
    longer = run(*arguments[:3], "2", *arguments[4:], "--resume")
    assert_error(longer, "o holds a finished training with max_epochs=1, not 2;", "give another --out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "o").iterdir()} == before
    assert run(*arguments, "--seed", "1", "--force").exit_code == 0
    assert json.loads((tmp_path / "o" / "metrics.json").read_text())["seed"] == 1


def test_an_output_folder_with_a_part_of_the_outputs_is_not_filled_up_unasked(run, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "shrinkage.csv").write_text("mine")
    for option in ([], ["--resume"]):
        assert_error(run("pretrain", "tiny", "--epochs", "1", "--out", "o", *option), "o holds shrinkage.csv", "--force")
    assert (tmp_path / "o" / "shrinkage.csv").read_text() == "mine"


def test_an_interrupted_training_goes_on_or_starts_over_only_as_told(run, tmp_path):
    kept = tmp_path / "o" / "training" / "last.ckpt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"of no use")
    arguments = ["pretrain", "tiny", "--epochs", "1", "--out", "o"]
    assert_error(run(*arguments), "o holds an interrupted training; go on with --resume or start over with --force")
    assert_error(run(*arguments, "--resume"), "last.ckpt must be a training that regnet.pretrain kept", "--force")
    assert kept.read_bytes() == b"of no use", "refusals lose nothing"
    assert run(*arguments, "--force").exit_code == 0
    assert {file.name for file in (tmp_path / "o").iterdir()} == set(REPORT_FILES)


def test_a_training_that_diverges_leaves_nothing_that_forces_force(run, tiny_data, tmp_path):
    tiny_data.x *= 1e30
    for _ in range(2):
        assert_error(
            run("pretrain", "tiny", "--epochs", "5", "--out", "a/o"), "diverged by epoch", "use log or standardised"
        )
    assert not (tmp_path / "a").exists()


def test_input_errors_come_before_any_training(run, files, tmp_path, monkeypatch):
    monkeypatch.setattr("regnet.training._loss", lambda *_: pytest.fail("it trained"))
    (tmp_path / "other.csv").write_text("TF,Target\nX,Y\n")
    for expression, network, word in [
        (files[0] / "x.csv.gz", tmp_path / "none.csv", "No such file"),
        (tmp_path / "none.h5ad", files[0] / "edges.tsv", "none.h5ad"),
        (files[0] / "x.csv.gz", tmp_path / "other.csv", "no edge is between two genes"),
    ]:
        assert_error(run("pretrain", "--expression", expression, "--edges", network, "--out", "o"), word)
        assert not (tmp_path / "o").exists()


def test_an_error_is_shown_as_it_is_written(run, monkeypatch):
    """Square brackets and colons are no markup: paths and shapes contain them."""
    text = "x must be [genes, cells]; see [/some/a], [red]plain[/red], odd [/] end and :x:"
    monkeypatch.setattr("regnet.data.load_dataset", lambda *_, **__: load_dataset(text))
    assert_error(run("pretrain", "tiny"), f"unknown data set '{text}'")


# shrinkage


@pytest.mark.parametrize("expression", ["x.csv.gz", "x.h5ad", "x.zarr"])
@pytest.mark.parametrize("layer", [0, 1])
def test_shrinkage_weighs_a_layer_of_a_model_on_ones_own_files(run, files, trained, tiny_data, expression, layer):
    folder, genes = files
    path, model = trained
    data = ["--expression", folder / expression, "--edges", folder / "edges.tsv"]
    result = run("shrinkage", *data, "--checkpoint", path, "--layer-name", f"graphsage.layers.{layer}.agg")
    assert result.exit_code == 0, result.output
    table = pd.read_csv("shrinkage_outputs/x/shrinkage.csv", keep_default_na=False, na_values={"w_eff": [""]})
    x, graph = tiny_data.x, tiny_data.edge_index
    if layer:
        with torch.no_grad():
            x = model.graphsage.layers[0](x, graph).relu()
    expected = regnet.effective_weight(model.graphsage.layers[layer].agg, x, regnet.neighbor_mean(x, graph), method="jvp")
    has = torch.bincount(graph[1], minlength=40) > 0
    np.testing.assert_allclose(table["w_eff"][has.numpy()], expected[has], rtol=1e-8)
    assert table["gene"].tolist() == genes
    np.testing.assert_allclose(table["mean_expression"], tiny_data.x.mean(dim=1), rtol=1e-12)
    low, median, high = table["w_eff"].quantile([0.25, 0.5, 0.75])
    orphans = int((~has).sum())
    for line in (
        "genes 40",
        f"edges {graph.size(1)} used of {graph.size(1)} in the file",
        f"weights on all {graph.size(1)} edges: median {median:.3f}, quartiles {low:.3f} to {high:.3f}, of",
        f"undefined for {orphans} genes: {orphans} without regulators",
        "written to shrinkage_outputs/x",
    ):
        assert line in words(result.stdout)
    assert ("100% Completed" in result.stderr) == (expression != "x.csv.gz"), "a bar where a matrix stays on disk"


@pytest.mark.parametrize("expression", ["x.csv.gz", "x.h5ad", "x.zarr"])
def test_shrinkage_into_an_h5ad_fills_var_and_keeps_the_rest(run, files, trained, expression):
    folder, genes = files
    with h5py.File(folder / "x.h5ad", "r+") as store:  # as other programs write it
        store["uns/odd"] = [1, 2]
        store["uns/odd"].attrs["encoding-type"] = "unheard of"
        store["var"].attrs["encoding-version"] = "0.1.0"
        store["var/w_eff"] = np.arange(40)
    before = (folder / "x.h5ad").read_bytes()
    data = ["--expression", folder / expression, "--edges", folder / "edges.tsv", "--checkpoint", trained[0]]
    assert run("shrinkage", *data, "--out", "s").exit_code == 0
    expected = pd.read_csv("s/shrinkage.csv", index_col="gene", keep_default_na=False, na_values={"w_eff": [""]})
    command = ["shrinkage", *data, "--controls", "3", "--out"]
    result = run(*command, "o/y.h5ad")
    assert result.exit_code == 0 and "written to o/y.h5ad" in result.stdout, result.output
    assert [path.name for path in Path("o").iterdir()] == ["y.h5ad"]
    with h5py.File("o/y.h5ad", "r+") as store:
        assert ("odd" in store["uns"]) == (expression == "x.h5ad")
        store["uns"].pop("odd", None)
    written = anndata.read_h5ad("o/y.h5ad")
    assert written.var_names.tolist() == genes and written.obs_names[0] == "cell 0"
    pd.testing.assert_series_equal(written.var["w_eff"], expected["w_eff"], check_names=False, rtol=1e-12)
    assert written.var.columns.tolist() == expected.columns.tolist() and written.var["is_tf"].dtype == bool
    about = written.uns["regnet"]
    assert (about["graph"], about["edges"], about["units"]["mean_expression"]) == ("edges.tsv", 58, "unit of X")
    assert f"{about['trends']['in-degree']['value']:+.2f} untrained" in words(result.stdout)
    assert (folder / "x.h5ad").read_bytes() == before
    assert_error(run(*command, "o/y.h5ad"), "o holds y.h5ad of an earlier run", "--force")
    if expression == "x.h5ad":
        assert run(*command, folder / "x.h5ad", "--force").exit_code == 0
        with h5py.File(folder / "x.h5ad") as store:
            assert "odd" in store["uns"] and np.nanmax(store["var/w_eff"]) == pytest.approx(expected["w_eff"].max())


def test_matrix_names_and_columns_are_chosen_as_asked(run, files, trained):
    folder, genes = files
    arguments = ["shrinkage", "--checkpoint", trained[0], "--controls", 0, "--force"]
    plain = [*arguments, "--expression", folder / "x.h5ad", "--edges", folder / "edges.tsv", "--out", "plain"]
    assert run(*plain).exit_code == 0
    adata = anndata.read_h5ad(folder / "x.h5ad")
    adata.layers["log"], adata.var["symbol"] = adata.X, genes
    adata.raw = adata.copy()
    adata.X, adata.var_names = -adata.X.toarray(), [f"ENSG{gene:011d}" for gene in range(len(genes))]
    adata.T.write_h5ad(folder / "turned.h5ad")
    adata.write_h5ad(folder / "x.h5ad")
    edges = pd.read_csv(folder / "edges.tsv", sep="\t", keep_default_na=False)
    edges = edges.rename(columns={"source": "b", "Target": "a"})[["a", "b", "Label"]]
    weak = pd.DataFrame({"a": [genes[0]], "b": [genes[1]], "Label": [0]})
    pd.concat([edges, weak]).rename(columns={"Label": "weight"}).to_csv(folder / "edges.tsv", sep="\t", index=False)
    network = ["--edges", folder / "edges.tsv", "--regulator-col", "b", "--target-col", "a", "--min-weight", 0.5]
    file = ["--expression", folder / "x.h5ad"]
    for how in (["--layer", "log", "--gene-column", "symbol"], ["--raw"]):
        done = run(*arguments, *file, *how, *network, "--out", "chosen")
        assert done.exit_code == 0, done.stderr
        assert Path("chosen/shrinkage.csv").read_bytes() == Path("plain/shrinkage.csv").read_bytes()
    done = run(*arguments, *file, "--gene-column", "symbol", *network, "--out", "chosen.h5ad")
    assert "X has negative values" in done.stderr and "layers: log; raw: yes" in done.stderr
    var = anndata.read_h5ad("chosen.h5ad").var
    table = pd.read_csv("plain/shrinkage.csv", keep_default_na=False, na_values={"w_eff": ""}).set_index("gene")
    assert var["w_eff"].notna().sum() == table["w_eff"].notna().sum() > 20 and [*var["symbol"]] == genes
    turned = ["--expression", folder / "turned.h5ad", "--transpose", "--gene-column", "symbol"]
    assert run(*arguments, *turned, *network, "--out", "turned").exit_code == 0
    refused = run(*arguments, *turned, *network, "--out", "turned.h5ad")
    assert refused.exit_code == 1 and "--transpose" in refused.stderr and not Path("turned.h5ad").exists()


def test_an_h5ad_is_written_whole_or_not_at_all(run, files, trained, tmp_path, monkeypatch):
    folder, _ = files
    before = (folder / "x.h5ad").read_bytes()
    data = [
        "--expression",
        folder / "x.h5ad",
        "--edges",
        folder / "edges.tsv",
        "--checkpoint",
        trained[0],
        "--controls",
        "0",
    ]
    (tmp_path / "taken").write_text("mine")
    assert_error(run("shrinkage", *data, "--out", "taken/y.h5ad"), "cannot write to taken")
    monkeypatch.setattr("regnet.report.write_elem", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for out in ("a/y.h5ad", folder / "x.h5ad"):
        assert_error(run("shrinkage", *data, "--force", "--out", out), "No space left on device", "make room there")
    assert (folder / "x.h5ad").read_bytes() == before and not (tmp_path / "a").exists()
    assert {path.name for path in folder.iterdir()} == {"x.csv.gz", "x.h5ad", "x.zarr", "edges.tsv"}


def test_a_layer_of_another_model_is_found_by_name(run, tmp_path):
    torch.manual_seed(0)
    torch.save({"state_dict": {f"conv.{k}": v for k, v in SAGEConv(12, 3).state_dict().items()}}, "other.pth")
    command = ["shrinkage", "tiny", "--checkpoint", "other.pth", "--out", "o"]
    assert_error(
        run(*command), "expected one layer called 'graphsage.layers.0.agg' (--layer-name); it holds 'state_dict.conv'"
    )
    result = run(*command, "--layer-name", "conv")
    assert result.exit_code == 0 and "Notice: 'state_dict.conv' is taken for SAGEConv(12, 3, aggr=mean)" in words(
        result.stderr
    )
    assert pd.read_csv("o/shrinkage.csv")["w_eff"].notna().sum() == 29


def test_shrinkage_says_why_genes_are_undefined(run, tmp_path):
    (tmp_path / "x.csv").write_text("g,c1\nA,1\nB,1\nC,3\n")
    (tmp_path / "e.csv").write_text("A,B\nB,C\nA,gone\n")
    torch.manual_seed(0)
    model = regnet.RegNet(1, 8, 2)
    torch.save(model.state_dict(), tmp_path / "m.pth")
    arguments = ["shrinkage", "--expression", "x.csv", "--edges", "e.csv", "--checkpoint", "m.pth", "--out", "o"]
    result = run(*arguments)
    assert "edges 2 used of 3 in the file" in words(result.stdout)
    assert "undefined for 2 genes: 1 without regulators; 1 equal to the mean of the regulators" in words(result.stdout)
    assert "of 1 gene\n" in result.stdout
    model.graphsage.layers[0].agg.mlp[2].weight.data.zero_()
    torch.save(model.state_dict(), tmp_path / "m.pth")
    result = run(*arguments, "--force")
    assert "1 without response" in words(result.stdout) and "median" not in result.stdout


def test_shrinkage_of_pretrains_own_files_gives_pretrains_table(run, files, tmp_path):
    folder, _ = files
    data = ["--expression", folder / "x.csv.gz"]
    assert run("pretrain", *data, "--edges", folder / "edges.tsv", "--epochs", "2", "--out", "p").exit_code == 0
    result = run("shrinkage", *data, "--edges", "p/train_edges.csv", "--checkpoint", "p/regnet_pretrained.pth", "--out", "s")
    assert result.exit_code == 0 and result.stderr == "", result.output
    assert (tmp_path / "s" / "shrinkage.csv").read_bytes() == (tmp_path / "p" / "shrinkage.csv").read_bytes()
    assert {file.name for file in (tmp_path / "s").iterdir()} == set(SHRINKAGE_FILES)


def test_shrinkage_works_on_the_published_checkpoint(run, real_file):
    result = run(
        "shrinkage",
        *("--expression", real_file("mESC/expression.csv.gz")),
        *("--edges", real_file("published-checkpoint/message_graph.csv")),
        *("--checkpoint", real_file("published-checkpoint/regnet_pretrained.pth")),
    )
    assert result.exit_code == 0, result.output
    assert "genes 1120 edges 10906 used of 10906 in the file weights on all 10906 edges: median 0.401" in words(
        result.stdout
    )


def test_what_does_not_fit_a_checkpoint_is_said(run, trained, tiny_data, tmp_path):
    model = ["--checkpoint", trained[0], "--out", "o"]
    assert_error(run("shrinkage", "tiny", *model, "--layer-name", "other"), "one layer called 'other'")
    assert_error(run("shrinkage", "tiny", "--checkpoint", "none.pth"), "none.pth: there is no such file")
    tiny_data.x = tiny_data.x[:, 1:]
    assert_error(run("shrinkage", "tiny", *model), "takes 12 cells, and the expression has 40 genes x 11 cells")
    assert not (tmp_path / "o").exists()


def test_shrinkage_finds_a_folder_that_cannot_be_written_to_before_the_work(run, trained, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("mine")
    monkeypatch.setattr("regnet.report.weigh", lambda *_, **__: pytest.fail("the work was done first"))
    assert_error(run("shrinkage", "tiny", "--checkpoint", trained[0], "--out", "taken"), "cannot write to taken")
    assert (tmp_path / "taken").read_text() == "mine"


# all commands


def test_too_little_memory_is_one_line_and_other_errors_of_torch_are_not_hidden(run, monkeypatch):
    monkeypatch.setattr("regnet.data.load_dataset", lambda *_, **__: torch.empty(10**15))
    assert_error(run("pretrain", "tiny"), "too little memory: can't allocate memory", "4000000000000000 bytes")
    monkeypatch.setattr("regnet.data.load_dataset", lambda *_, **__: torch.ones(2) @ torch.ones(3))
    assert isinstance(run("pretrain", "tiny").exception, RuntimeError)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")  # noqa: PTH110
@pytest.mark.parametrize("arguments", [["datasets"], ["--help"], ["--version"], ["pretrain", "--help"]])
def test_a_full_device_is_one_line_and_a_closed_pipe_none(arguments):
    read, write = os.pipe()
    os.close(read)
    for device, line in ((os.open("/dev/full", os.O_WRONLY), "Error: [Errno 28] No space left on device\n"), (write, "")):
        result = subprocess.run([*PROGRAM, *arguments], stdout=device, stderr=subprocess.PIPE, text=True)
        os.close(device)
        assert result.returncode == 1 and result.stderr == line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_training_takes_no_more_memory_than_it_says(tmp_path):
    """A sparse matrix of 1,000 genes x 40,000 cells on disk, 160 MB in memory."""
    genes, cells = 1000, 40_000
    for name, size in (("small", 40), ("large", cells)):  # the small one loads the libraries before the peak is measured
        sparse = scipy.sparse.random(size, genes, density=0.01, format="csr", dtype=np.float32, rng=0)
        obs, var = pd.DataFrame(index=map("c{}".format, range(size))), pd.DataFrame(index=map("G{}".format, range(genes)))
        anndata.AnnData(sparse, obs=obs, var=var).write_h5ad(tmp_path / f"{name}.h5ad")
    (tmp_path / "e.csv").write_text("".join(f"G0,G{target}\n" for target in range(1, 100)))
    code = """
import re
from pathlib import Path
from regnet.cli import app
def train(name):
    app(f"pretrain --expression {name}.h5ad --edges e.csv --epochs 2".split(), standalone_mode=False)
def peak():  # of this process alone; ru_maxrss begins with what the one that started it had
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
train("small")
before = peak()
train("large")
print(peak() - before)"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 1024 * int(result.stdout.split()[-1]) < 4 * (genes * cells + 8 * 256 * cells + 4 * genes**2)


def test_the_version_is_that_of_the_distribution(run, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", {"regnet-shrinkage": "1.2.3"}.get)
    assert run("--version").stdout == "regnet 1.2.3\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["pretrain"], "give either NAME"),
        (["pretrain", "tiny", "--expression", "x.csv", "--edges", "e.csv"], "give either NAME"),
        (["pretrain", "x.csv", "--edges", "e.csv"], "use --expression x.csv"),
        (["pretrain", "--expression", "x.csv"], "--expression needs --edges"),
        (["pretrain", "tiny", "--tfs", "t.csv"], "--tfs needs --edges"),
        (["pretrain", "tiny", "--layer", "log"], "--layer needs --expression"),
        (["pretrain", "tiny", "--regulator-col", "TF"], "--regulator-col needs --edges"),
        (["pretrain", "tiny", "--resume", "--force"], "give one of them"),
        (["pretrain", "tiny", "--epochs", "0"], "epochs"),
        (["pretrain", "tiny", "--seed", "x"], "seed"),
        (["shrinkage", "tiny"], "--checkpoint"),
        (["shrinkage", "--checkpoint", "m.pth"], "give either NAME"),
        (["shrinkage", "tiny", "--checkpoint", "m.pth", "--controls", "-1"], "controls"),
        (["fly"], "fly"),
    ],
)
def test_wrong_arguments_are_usage_errors(run, arguments, word):
    result = run(*arguments)
    assert result.exit_code == 2 and word in words(result.output.replace("│", " "))


@pytest.mark.parametrize("command", [[], ["datasets"], ["pretrain"], ["shrinkage"]])
def test_help_fits_a_screen_and_has_an_example(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(*command, "--help").stdout.splitlines()
    assert len(lines) <= 36 and max(map(len, lines)) <= 80
    assert any(line.strip().startswith("Example: regnet") for line in lines) and not any("…" in line for line in lines)
    assert not any("<bool>" in line or "--no-" in line for line in lines if "--force" in line or "--resume" in line)
    if not command:
        assert {"datasets", "pretrain", "shrinkage", "--install-completion"} <= set(" ".join(lines).split())


def test_importing_regnet_pulls_in_neither_training_nor_figures():
    heavy = ["matplotlib", "scanpy", "sklearn", "pooch", "typer"]
    code = f"import sys, regnet; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there_and_a_wrong_one_is_not():
    for name in regnet.__all__:
        assert getattr(regnet, name) is not None
    assert len(set(regnet.__all__)) == len(regnet.__all__)
    with pytest.raises(AttributeError, match="No regnet attribute shrink"):
        _ = regnet.shrink


# A layer that is Bayes' rule


def test_pretrain_with_weights_of_a_file_writes_them_as_w_eff(run, tmp_path):
    weights = pd.Series(np.linspace(0.1, 0.9, 39), index=[f"G{gene}" for gene in range(39)], name="weight")
    weights.to_csv(tmp_path / "weights.csv", index_label="gene")
    options = ("--aggregator", "posterior-mean", "--weights", "weights.csv", "--epochs", 6, "--controls", 3)
    result = run("pretrain", "tiny", "--out", "out", *options)
    assert result.exit_code == 0, result.output
    assert "1 of 40 genes have no weight in weights.csv and keep their own expression" in result.stderr
    table = pd.read_csv(tmp_path / "out/shrinkage.csv", index_col=0)
    known = table["w_eff"].dropna().index.intersection(weights.index)
    assert len(known) > 20
    np.testing.assert_allclose(table["w_eff"][known], weights[known], rtol=1e-6)
    again = run("shrinkage", "tiny", "--checkpoint", "out/regnet_pretrained.pth", "--controls", 0)
    assert again.exit_code == 0, again.output
    all_edges = pd.read_csv(tmp_path / "shrinkage_outputs/tiny/shrinkage.csv", index_col=0)["w_eff"]
    np.testing.assert_allclose(all_edges[known], weights[known], rtol=1e-6)
    assert "already finished" in run("pretrain", "tiny", "--out", "out", *options, "--resume").output
    other = run("pretrain", "tiny", "--out", "out", "--epochs", 6, "--resume")
    assert other.exit_code == 1 and "aggregator=posterior-mean, not mlp" in other.stderr


def test_pretrain_learns_weights_which_shrinkage_reads(run, tiny_data, tmp_path):
    options = ("--aggregator", "posterior-mean", "--weights", "learned", "--epochs", 6, "--controls", 0)
    assert run("pretrain", "tiny", "--out", "out", *options).exit_code == 0
    result = run("shrinkage", "tiny", "--checkpoint", "out/regnet_pretrained.pth", "--controls", 0)
    assert result.exit_code == 0, result.output
    files = "out/shrinkage.csv", "shrinkage_outputs/tiny/shrinkage.csv"
    before, after = (pd.read_csv(tmp_path / name, index_col=0)["w_eff"] for name in files)
    assert "trained on another expression" not in result.stderr
    tiny_data.x = tiny_data.x.flip(1)
    again = run("shrinkage", "tiny", "--checkpoint", "out/regnet_pretrained.pth", "--controls", 0, "--force")
    assert "Notice: the layer was trained on another expression" in again.stderr
    known = before.notna()
    np.testing.assert_allclose(before[known], after[known], rtol=1e-6)
    assert before[known].nunique() > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--aggregator", "gat"], "mlp or posterior-mean; got gat"),
        (["--aggregator", "posterior-mean"], "need each other"),
        (["--weights", "learned"], "need each other"),
        (["--aggregator", "posterior-mean", "--weights", "counts"], "not log1p of whole counts"),
        (["--aggregator", "posterior-mean", "--weights", "no.csv"], "no.csv"),
        (["--aggregator", "posterior-mean", "--weights", "other.csv"], "none of its genes with a weight is one of the 40"),
        (["--aggregator", "posterior-mean", "--weights", "text.csv"], "expected a number in column 'weight'; got 'high'"),
        (["--aggregator", "posterior-mean", "--weights", "twice.csv"], "expected each gene once; got more lines of G1"),
        (["--aggregator", "posterior-mean", "--weights", "wide.csv"], "a column weight or w_eff; got gene, a, b"),
        (["--aggregator", "posterior-mean", "--weights", "large.csv"], "weight must be in [0, 1]"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_before_training(options, message, run, write, tmp_path):
    contents = {
        "other": "gene,weight\nX,0.5\n",
        "text": "gene,weight\nG1,high\n",
        "twice": "gene,weight\nG1,0.5\nG1,0.6\n",
        "wide": "gene,a,b\nG1,0.5,0.6\n",
        "large": "gene,weight\nG1,1.5\n",
    }
    for name, content in contents.items():
        write(f"{name}.csv", content)
    result = run("pretrain", "tiny", *options)
    assert result.exit_code != 0
    assert message in " ".join(result.output.split()).replace("│ ", "")
    assert not (tmp_path / "pretrain_outputs/tiny/pretrain/regnet_pretrained.pth").exists()
