"""No code hides in data, in names or in our own calls: nothing is unpickled or evaluated, and nothing escapes its folder.

What ruff's rules S find in Python files (eval, exec, pickle, shells, unsafe YAML, slow downloads) fails `make lint`.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from examples import Code
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

from regnet import RegNet
from regnet.cli import app
from regnet.io import read_expression

ROOT = Path(__file__).parents[1]
PATTERNS = ("regnet/*.py", "tools/*.py", "_ext/*.py", "experiments/*.py", "benchmarks/*.py", "book/*.md")
SOURCES = [path for pattern in PATTERNS for path in ROOT.glob(pattern)]

# What ruff does not know, and does not see in the cells of the book.
FORBIDDEN = re.compile(
    r"""^\s*(import|from)\ +(pickle|cloudpickle|dill|joblib|shelve|marshal)\b(?!\ import\ UnpicklingError$)
    | torch\.load\((?!.*weights_only=True) | allow_pickle=True | read_pickle\( | load_from_checkpoint\(
    | torch\.(jit|export|package)\. | (?<![.\w])(eval|exec|compile)\( | shell=True | os\.(system|popen)\( | yaml\.load\(""",
    re.M | re.X,
)


def test_what_is_forbidden():
    forbidden = "from dill import loads", "m = torch.load(f)", "np.load(f, allow_pickle=True)", "A.load_from_checkpoint(f)"
    allowed = "from pickle import UnpicklingError", "torch.load(f, weights_only=True)", "model.eval(); re.compile('a')"
    assert all(map(FORBIDDEN.search, forbidden)) and not any(map(FORBIDDEN.search, allowed))


def test_our_code_and_the_cells_of_the_book_unpickle_and_evaluate_nothing():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        code = text if path.suffix == ".py" else "\n".join(re.findall(r"```\{code-cell\}.*?```", text, re.S))
        assert not (found := FORBIDDEN.search(code)), f"{path.name}: {found[0]}"


# Data files


@pytest.fixture
def trap(tmp_path):
    """A file that exists once the code in `Code(trap)` has run."""
    pickle.loads(pickle.dumps(Code(tmp_path / "trap")))
    (tmp_path / "trap").unlink()  # the trap works
    return tmp_path / "trap"


@pytest.fixture
def shrink(tmp_path, monkeypatch):
    """`regnet shrinkage` on an expression file of the genes SPI1 and LYZ in three cells, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("e.csv").write_text("source,target\nSPI1,LYZ\n")
    torch.save(RegNet(3, 8, 4).state_dict(), "m.pth")
    options = ["--edges", "e.csv", "--checkpoint", "m.pth", "--out", "out", "--force"]
    return lambda file: CliRunner().invoke(app, ["shrinkage", "--expression", str(file), *options])


def annotated():
    return anndata.AnnData(np.ones((3, 2)), obs=pd.DataFrame(index=list("abc")), var=pd.DataFrame(index=["SPI1", "LYZ"]))


@pytest.mark.filterwarnings("ignore")
def test_code_in_a_zarr_file_is_not_run(trap, shrink):
    """Zarr's second format knows a codec that unpickles; behind another codec it passes for text."""
    with anndata.settings.override(zarr_write_format=2):
        annotated().write_zarr("x.zarr")
    Path("x.zarr/.zmetadata").unlink(missing_ok=True)
    names = Path("x.zarr/var/_index")
    codecs = {"compressor": None, "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]}
    (names / ".zarray").write_text(json.dumps(json.loads((names / ".zarray").read_text()) | {"dtype": "|O"} | codecs))
    (names / "0").write_bytes(pickle.dumps(Code(trap)))
    result = shrink("x.zarr")
    assert result.exit_code == 1 and "Pickle" in result.stderr and not trap.exists()


def test_code_in_an_h5ad_file_is_not_run(trap, shrink):
    table = annotated()
    table.uns["trap"] = np.frombuffer(pickle.dumps(Code(trap)), dtype=np.uint8)
    table.obs["trap"] = [pickle.dumps(Code(trap), protocol=0).decode("ascii")] * 3
    table.write_h5ad("x.h5ad")
    assert shrink("x.h5ad").exit_code == 0 and not trap.exists()


REDIRECT = {
    "external": lambda file, name, secret, old: file.__setitem__(name, h5py.ExternalLink(secret, name)),
    "soft": lambda file, name, secret, old: file.update({name: h5py.SoftLink("/a"), "a": h5py.ExternalLink(secret, name)}),
    "storage": lambda file, name, secret, old: file.create_dataset(name, *old, external=[(secret, 0, h5py.h5f.UNLIMITED)]),
}


@pytest.mark.parametrize("name", ["X/data", "raw", "var/_index", "obs", "layers", "layers/z/indices", "matrix/data"])
@pytest.mark.parametrize("link", ["external", "soft", "storage", "virtual"])
def test_an_hdf5_file_opens_no_other_file(tmp_path, name, link):
    """Of AnnData or, without obs, of 10x: what is there is replaced by the same of another file."""
    table, path = annotated(), tmp_path / ("x.h5" if "matrix" in name else "x.h5ad")
    table.X = table.layers["z"] = csr_matrix(table.X)
    table.raw = table
    table.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        if "matrix" in name:
            del file["obs"]
            file.move("X", "matrix")
        if link in ("storage", "virtual") and isinstance(file[name], h5py.Group):
            name = {"raw": "raw/X/data", "obs": "obs/_index", "layers": "layers/z/data"}[name]
        old = getattr(file[name], "shape", None), getattr(file[name], "dtype", None)
        (tmp_path / "secret").write_bytes(path.read_bytes())
        del file[name]
        if link == "virtual":
            layout = h5py.VirtualLayout(*old)
            layout[:] = h5py.VirtualSource(tmp_path / "secret", name, *old[:1])
            file.create_virtual_dataset(name, layout)
        else:
            REDIRECT[link](file, name, str(tmp_path / "secret"), old)
    with pytest.raises(ValueError, match=r"x\.h5(ad)?: \S+ is a link, maybe to another file"):
        read_expression(path, layer="z" if "z" in name else None, raw="raw" in name)


def test_code_in_a_table_is_text(trap, shrink):
    code = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    Path("x.csv").write_text(f'gene,a,b,c\nSPI1,"{code}",1,1\nLYZ,1,1,1\n')
    assert shrink("x.csv").exit_code == 1
    Path("y.csv").write_text(f'gene,a,b,c\n"{code}",1,2,3\n=cmd(),2,3,4\nSPI1,1,1,1\nLYZ,1,1,1\n')
    assert shrink("y.csv").exit_code == 0
    assert pd.read_csv("out/shrinkage.csv")["gene"].tolist() == [code, "=cmd()", "SPI1", "LYZ"]
    assert not trap.exists()


def test_code_in_an_interrupted_training_is_not_run(trap, tmp_path, own_files):
    (tmp_path / "o/training").mkdir(parents=True)
    torch.save({"regnet": Code(trap), "global_step": 1}, tmp_path / "o/training/last.ckpt")
    result = CliRunner().invoke(app, ["pretrain", *own_files, "--out", str(tmp_path / "o"), "--resume"])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit) and not trap.exists()


# Names and paths

NAMES = [
    "../up", "../../up", "/nowhere/up", "..", ".", "a/b", "a\\b", "a\tb", "CON", "two words", "-rf", "--force",
    "[red]b[/red]", "$x_1$", "\\frac", "%s", "{0}", "=cmd()", "\x1b[31m", "x" * 3000, "\u202e", '"quoted"', "a,b", "`ls`",
]  # fmt: skip


def tree(folder):
    """Everything below a folder but in `out`: path -> content, or None for a folder."""
    paths = (path for path in folder.rglob("*") if "out" not in path.relative_to(folder).parts)
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def own_files(tiny_data, tmp_path, monkeypatch):
    """Options that name an expression and a network whose genes have awkward names, in the current folder."""
    (tmp_path / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/er")
    genes = NAMES + tiny_data.gene_names[len(NAMES) :]
    pd.DataFrame(tiny_data.x.numpy(), index=genes).to_csv("x.csv")
    pairs = [(genes[source], genes[target]) for source, target in tiny_data.edge_index.T.tolist()]
    pd.DataFrame(pairs, columns=["source", "target"]).to_csv("e.csv", index=False)
    torch.save(RegNet(12, 8, 4).state_dict(), "m.pth")
    return ["--expression", "x.csv", "--edges", "e.csv"]


@pytest.mark.parametrize("command", [["pretrain", "--epochs", "1"], ["shrinkage", "--checkpoint", "m.pth"]])
def test_no_gene_leads_out_of_the_output_folder(command, own_files, tmp_path):
    before = tree(tmp_path)
    result = CliRunner().invoke(app, [*command, *own_files, "--out", "out"])
    assert result.exit_code == 0, result.output
    assert tree(tmp_path) == before and all(path.is_file() for path in Path("out").iterdir())
    assert pd.read_csv("out/shrinkage.csv", keep_default_na=False)["gene"].tolist()[: len(NAMES)] == NAMES


@pytest.mark.parametrize("name", ["../up", "/nowhere/up", "..", "", "a/../../b", "-x", "[red]x[/red]", "x" * 3000])
def test_a_name_that_is_no_data_set_writes_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["pretrain", "--force", "--", name])
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit) and tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["-rf.csv", "[red].csv", "a\nb.csv", "$x$.csv", "..csv", "...csv"])
def test_an_awkward_file_name_is_a_folder_below_or_needs_one(name, own_files, tmp_path):
    Path("x.csv").rename(name)
    before = tree(tmp_path)
    options = ["--expression", os.path.join("..", "er", name), "--edges", "e.csv", "--checkpoint", "m.pth"]  # noqa: PTH118
    result = CliRunner().invoke(app, ["shrinkage", *options])
    written = {Path(path).parent for path in tree(tmp_path).keys() - before.keys() if Path(tmp_path, path).is_file()}
    if name.startswith(".."):
        assert result.exit_code == 2 and "--out" in result.output and not written
    else:
        assert result.exit_code == 0 and written == {Path("deep/er/shrinkage_outputs", name.removesuffix(".csv"))}


@pytest.mark.parametrize(
    "arguments",
    [
        ["pretrain", "\x1b[2J.csv"],
        ["pretrain", "pbmc68k", "\x1b[2J.csv"],
        ["pretrain", "--expression", "\x1b[2J.csv", "--edges", "e.csv"],
        ["shrinkage", "--expression", "x.csv", "--edges", "odd.csv", "--checkpoint", "m.pth", "--out", "out"],
        ["shrinkage", "--expression", "x.csv", "--edges", "e.csv", "--checkpoint", "m.pth", "--out", "out\x1b[2J"],
    ],
)
def test_no_name_reaches_the_terminal_as_a_command(arguments, own_files):
    Path("odd.csv").write_text("CON,a/b\nCON,\x1b[2J\n")
    output = CliRunner().invoke(app, arguments).output
    assert "\\x1b[2J" in output and "\x1b" not in output


def test_a_link_in_the_output_folder_is_replaced_and_not_followed(own_files):
    Path("mine").write_text("mine")
    Path("out").mkdir()
    Path("out/shrinkage.csv").symlink_to(Path("mine").resolve())
    command = ["shrinkage", "--checkpoint", "m.pth", "--out", "out", "--force"]
    assert CliRunner().invoke(app, command + own_files).exit_code == 0
    assert Path("mine").read_text() == "mine" and not Path("out/shrinkage.csv").is_symlink()
