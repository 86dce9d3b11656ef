"""No code hides in data, in names or in our own calls: nothing is unpickled or evaluated, and nothing escapes its folder."""

from __future__ import annotations

import ast
import csv
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import anndata
import jupytext
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from regnet import RegNet, registry
from regnet.cli import app
from regnet.io import read_data
from regnet.report import REPORT_FILES, SHRINKAGE_FILES, write_report
from regnet.training import OUTPUT_FILES

ROOT = Path(__file__).parents[1]
FOLDERS = ("regnet", "tools", "_ext", "experiments", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.py"))
CHAPTERS = sorted(path for path in ROOT.glob("book/*.md") if "\nkernelspec:" in path.read_text(encoding="utf-8"))

# our own code

UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
BUILDERS = ("torch.jit.", "torch.export.", "torch.package.")
"""Calls that turn a file into code; so does Lightning's ``load_from_checkpoint``."""


def findings(source):
    """What ruff's security rules and the ones below, which it lacks, find in a Python source."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--output-format", "json", "--select", "S"]
    ignored = ["--ignore", "S101,S603,S607"]  # assert; programs called with a list of arguments; git, found by its name
    checked = subprocess.run([*command, *ignored, "-"], input=source, capture_output=True, text=True, check=False)
    return [finding["code"] for finding in json.loads(checked.stdout)] + own_findings(ast.parse(source))


def own_findings(tree):
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"import {name.name}" for name in node.names if name.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            found += [f"from {node.module} import {name.name}" for name in node.names if name.name != "UnpicklingError"]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            if name == "torch.load" and options.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if options.get("allow_pickle", "False") != "False":
                found.append("allow_pickle")
            if name.startswith(BUILDERS) or name.endswith(".load_from_checkpoint"):
                found.append(name)
            if name in ("compile", "builtins.compile"):
                found.append("compile")
            if name.startswith("subprocess.") and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
                found.append("a command in one string")
    return found


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from dill import loads",
        "import joblib",
        "import shelve",
        "import marshal",
        "import pandas as pd\npd.read_pickle(path)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.jit.load(path)",
        "import torch\ntorch.export.load(path)",
        "EdgePrediction.load_from_checkpoint(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "compile(text, 'a', 'exec')",
        "import os\nos.system('ls ' + folder)",
        "import os\nos.popen('ls')",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "import subprocess\nsubprocess.run(f'ls {folder}')",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import tempfile\ntempfile.mktemp()",
        "import requests\nrequests.get(address)",
        "import requests\nrequests.get(address, timeout=5, verify=False)",
        "import zipfile, tarfile\ntarfile.open(path).extractall()",
    ],
)
def test_each_rule_fires(planted):
    assert findings(planted)


def test_what_is_safe_is_not_reported():
    safe = """
import json, subprocess, torch, yaml
from pickle import UnpicklingError
assert torch.load(path, weights_only=True)
subprocess.run(["git", "status"], check=True)
yaml.safe_load(text)
model.eval()
re.compile("a")
json.loads(text)
"""
    assert findings(safe) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_code_unpickles_and_evaluates_nothing(path):
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_cells_of_the_book_unpickle_and_evaluate_nothing(path):
    cells = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    assert cells
    assert findings("\n".join(cells)) == []


def test_every_download_is_over_https_and_has_a_checksum():
    for file, digest, address, size in registry._rows():
        assert address.startswith("https://") and int(size) > 0
        assert digest.startswith("sha256:") and len(digest) == len("sha256:") + 64
        assert not Path(file).is_absolute() and ".." not in Path(file).parts


# data files


class Code:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trap(tmp_path):
    """A file that exists once the code in `Code(trap)` has run."""
    path = tmp_path / "trap"
    pickle.loads(pickle.dumps(Code(path)))
    assert path.is_file(), "the trap works"
    path.unlink()
    return path


@pytest.fixture
def annotated():
    return anndata.AnnData(np.ones((3, 2)), obs=pd.DataFrame(index=list("abc")), var=pd.DataFrame(index=["SPI1", "LYZ"]))


def test_code_in_a_zarr_file_is_not_run(annotated, trap, tmp_path):
    """Zarr's second format knows a codec that unpickles; behind another codec it passes for text."""
    folder = tmp_path / "x.zarr"
    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=2):
        warnings.simplefilter("ignore")
        annotated.write_zarr(folder)
    (folder / ".zmetadata").unlink(missing_ok=True)
    names = folder / "var" / "_index"
    entry = json.loads((names / ".zarray").read_text())
    entry |= {"dtype": "|O", "compressor": None, "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]}
    (names / ".zarray").write_text(json.dumps(entry))
    (names / "0").write_bytes(pickle.dumps(Code(trap)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="Pickle"):
            read_data(folder)
    assert not trap.exists()


def test_code_in_an_h5ad_file_is_not_run(annotated, trap, tmp_path):
    annotated.uns["trap"] = np.frombuffer(pickle.dumps(Code(trap)), dtype=np.uint8)
    annotated.obs["trap"] = [pickle.dumps(Code(trap), protocol=0).decode("ascii")] * 3
    annotated.write_h5ad(tmp_path / "x.h5ad")
    data = read_data(tmp_path / "x.h5ad")
    assert data.x.compute().shape == (2, 3) and not trap.exists()


def test_code_in_a_table_is_text(trap, tmp_path):
    code = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    (tmp_path / "x.csv").write_text(f'gene,c\nA,"{code}"\n')
    with pytest.raises(ValueError, match="must be a number"):
        read_data(tmp_path / "x.csv")
    (tmp_path / "y.csv").write_text(f'gene,c\n"{code}",1\n=cmd(),2\n')
    assert read_data(tmp_path / "y.csv").gene_names == [code, "=cmd()"]
    assert not trap.exists()


def test_code_in_a_kept_training_is_not_run(trap, tmp_path, own_files):
    (tmp_path / "o" / "training").mkdir(parents=True)
    torch.save({"regnet": Code(trap), "global_step": 1}, tmp_path / "o" / "training" / "last.ckpt")
    result = CliRunner().invoke(app, ["pretrain", *own_files, "--out", str(tmp_path / "o"), "--resume"])
    assert result.exit_code == 1 and "must be a training that regnet.pretrain kept" in result.stderr
    assert not trap.exists()


# names and paths

NAMES = [
    "../up", "../../up", "/nowhere/up", "..", ".", "a/b", "a\\b", "a\nb", "a\tb", "CON", "two words", "-rf", "--force",
    "[red]bold[/red]", "[/]", "$x_1$", "\\frac", "%s", "{0}", "=cmd()", "@SUM(1)", "\x1b[31m", "x" * 3000, "é", "\u202e",
    "'; drop", '"quoted"', "a,b", "~", "$HOME", "`ls`", "*", "<b>", "&amp;",
]  # fmt: skip


def tree(folder):
    """Everything below a folder: path -> content, or None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "out" not in path.relative_to(folder).parts
    }


@pytest.fixture
def awkward(tiny_data):
    tiny_data.gene_names = NAMES + [f"G{gene}" for gene in range(40 - len(NAMES))]
    tiny_data.name = "../../name"
    return tiny_data


@pytest.fixture
def own_files(awkward, tmp_path):
    """Options that name an expression and a network whose genes have awkward names."""
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    genes = [name.replace("\n", " ") for name in awkward.gene_names]  # the reader takes one line a gene
    pd.DataFrame(awkward.x.numpy(), index=genes).to_csv(folder / "x.csv")
    pairs = [(genes[source], genes[target]) for source, target in awkward.edge_index.T.tolist()]
    pd.DataFrame(pairs, columns=["TF", "Target"]).to_csv(folder / "e.csv", index=False)
    return ["--expression", str(folder / "x.csv"), "--edges", str(folder / "e.csv")]


def first_column(path):
    with path.open(encoding="utf-8", newline="") as lines:
        return [row[0] for row in csv.reader(lines)][1:]


def test_no_name_leads_out_of_the_output_folder(own_files, awkward, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "deep" / "er")
    before = tree(tmp_path)
    out = tmp_path / "deep" / "er" / "out"
    run = CliRunner().invoke
    result = run(app, ["pretrain", *own_files, "--epochs", "1", "--out", "out/p"])
    assert result.exit_code == 0, result.output
    checkpoint = str(out / "p" / "regnet_pretrained.pth")
    result = run(app, ["shrinkage", *own_files, "--checkpoint", checkpoint, "--out", "out/s"])
    assert result.exit_code == 0, result.output
    awkward.gene_names[-1] = "nul\0"
    write_report(out / "w", RegNet(12, 8, 4).double(), awkward, awkward.edge_index, {})
    assert tree(tmp_path) == before
    for folder, files in (("p", OUTPUT_FILES), ("s", SHRINKAGE_FILES), ("w", REPORT_FILES)):
        assert {path.name for path in (out / folder).iterdir()} == set(files)
        genes = first_column(out / folder / "shrinkage.csv")
        assert genes == (awkward.gene_names if folder == "w" else first_column(tmp_path / "deep" / "er" / "x.csv"))


@pytest.mark.parametrize("name", ["../up", "/nowhere/up", "..", "", "a/../../b", "-x", "[red]x[/red]", "$x$", "x" * 3000])
def test_a_name_that_is_no_data_set_writes_nothing(name, tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for options in ([], ["--force"], ["--resume"]):
        result = CliRunner().invoke(app, ["pretrain", *options, "--", name])
        assert result.exit_code in (1, 2) and "Traceback" not in result.output
        assert isinstance(result.exception, SystemExit)
    assert tree(tmp_path) == {"deep": None, os.path.join("deep", "er"): None}  # noqa: PTH118


@pytest.mark.parametrize("name", [".csv", "..csv", "...csv"])
@pytest.mark.parametrize("command", ["pretrain", "shrinkage"])
def test_a_file_after_which_no_folder_can_be_called_needs_an_output_folder(command, name, own_files, tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "er"
    monkeypatch.chdir(folder)
    (folder / "x.csv").rename(folder / name)
    torch.save(RegNet(12, 8, 4).state_dict(), folder / "m.pth")
    before = tree(tmp_path)
    own = ["--expression", name, "--edges", "e.csv"]
    own += ["--epochs", "1"] if command == "pretrain" else ["--checkpoint", "m.pth"]
    result = CliRunner().invoke(app, [command, *own])
    assert result.exit_code == 2 and "give --out" in " ".join(result.output.replace("│", " ").split())
    assert tree(tmp_path) == before
    assert CliRunner().invoke(app, [command, *own, "--out", "out"]).exit_code == 0
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["a..csv", "....csv", "-rf.csv", "[red].csv", "two words.csv", "a\nb.csv", "$x$.csv"])
def test_an_awkward_file_name_is_a_folder_below(name, own_files, tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "er"
    monkeypatch.chdir(folder)
    (folder / "x.csv").rename(folder / name)
    torch.save(RegNet(12, 8, 4).state_dict(), folder / "m.pth")
    before = tree(tmp_path)
    path = os.path.join("..", "er", name)  # noqa: PTH118
    result = CliRunner().invoke(app, ["shrinkage", "--expression", path, "--edges", "e.csv", "--checkpoint", "m.pth"])
    assert result.exit_code == 0, result.output
    after = {path: content for path, content in tree(tmp_path).items() if path not in before}
    below = Path("deep/er/shrinkage_outputs") / name.removesuffix(".csv")
    assert {path for path, content in after.items() if content is not None} == {
        str(below / file) for file in SHRINKAGE_FILES
    }


def test_a_link_in_the_output_folder_is_replaced_and_not_followed(awkward, tmp_path):
    (tmp_path / "mine.json").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").symlink_to(tmp_path / "mine.json")
    write_report(tmp_path / "out", RegNet(12, 8, 4).double(), awkward, awkward.edge_index, {})
    assert (tmp_path / "mine.json").read_text() == "mine" and not (tmp_path / "out" / "metrics.json").is_symlink()
