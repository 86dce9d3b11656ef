"""The command line and what `import regnet` costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

import regnet
from regnet.cli import app
from regnet.datasets import dataset_names


@pytest.fixture
def run(monkeypatch, tiny_data, tmp_path):
    """Runs the command in an empty folder, on tiny data under the name `tiny`."""
    real = regnet.load_dataset
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("regnet.datasets.load_dataset", lambda name: tiny_data if name == "tiny" else real(name))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def words(text):
    """Without the line breaks of an 80-column terminal."""
    return " ".join(text.split())


def test_datasets_lists_every_name_one_a_line(run):
    result = run("datasets")
    assert result.exit_code == 0
    assert result.stdout.split("\n")[:-1] == dataset_names()


def test_pretrain_writes_where_it_says_and_shows_the_metrics(run, tmp_path):
    result = run("pretrain", "tiny", "--epochs", "2", "--seed", "3")
    assert result.exit_code == 0, result.output
    out = tmp_path / "pretrain_outputs" / "tiny" / "pretrain"
    assert "written to pretrain_outputs/tiny/pretrain" in words(result.stdout)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["seed"] == 3
    for name in ("auroc", "auprc", "auroc_degree", "auprc_degree", "auroc_correlation", "auprc_correlation"):
        assert f"{metrics[name]:.3f}" in result.stdout
    assert len(pd.read_csv(out / "shrinkage.csv")) == 40
    rows = [line for line in result.stdout.splitlines() if "AUROC" in line or "AUPRC" in line]
    assert [f"{metrics['auroc']:.3f}" in rows[0], f"{metrics['auprc_degree']:.3f}" in rows[1]] == [True, True]


def test_pretrain_gives_what_the_function_gives(run, tiny_data, tmp_path):
    assert run("pretrain", "tiny", "--epochs", "2", "--out", "here").exit_code == 0
    assert json.loads((tmp_path / "here" / "metrics.json").read_text()) == regnet.pretrain(tiny_data, max_epochs=2).metrics


def test_an_unknown_data_set_is_one_line_and_no_traceback(run, tmp_path):
    result = run("pretrain", "nonsense")
    assert result.exit_code == 1
    assert "Error: unknown data set 'nonsense'; known are pbmc68k" in words(result.stderr)
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_a_file_is_an_error(run, tmp_path):
    (tmp_path / "taken").write_text("mine")
    result = run("pretrain", "tiny", "--epochs", "1", "--out", "taken")
    assert result.exit_code == 1 and "taken" in result.stderr
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("text", ["x must be [genes, cells]; see [/some/a] or W1 [x, m]", "[red]plain[/red]", "odd [/] end"])
def test_an_error_is_shown_as_it_is_written(run, monkeypatch, text):
    """Square brackets are no markup: paths and shapes contain them."""

    def fail(name):
        raise ValueError(text)

    monkeypatch.setattr("regnet.datasets.load_dataset", fail)
    result = run("pretrain", "tiny")
    assert result.exit_code == 1
    assert f"Error: {text}" in words(result.stderr)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["pretrain"], "Missing argument"),
        (["pretrain", "tiny", "--epochs", "0"], "epochs"),
        (["pretrain", "tiny", "--seed", "x"], "seed"),
        (["fly"], "fly"),
    ],
)
def test_wrong_arguments_are_usage_errors(run, arguments, word):
    result = run(*arguments)
    assert result.exit_code == 2 and word in result.output


def test_help_shows_the_commands_and_an_example(run):
    assert {"datasets", "pretrain"} <= set(run("--help").stdout.split())
    assert "regnet pretrain pbmc68k" in words(run("pretrain", "--help").stdout)


def test_importing_regnet_pulls_in_neither_training_nor_figures():
    heavy = ["lightning", "matplotlib", "scanpy", "sklearn", "pooch", "typer"]
    code = f"import sys, regnet; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there_and_a_wrong_one_is_not():
    for name in regnet.__all__:
        assert getattr(regnet, name) is not None
    assert len(set(regnet.__all__)) == len(regnet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'shrink'"):
        _ = regnet.shrink
