"""The buttons that one setting, the repository's address, switches on; and a log without warnings of the kernel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from pages import ROOT, soup
from sphinx.errors import ConfigError

ADDRESS = "https://github.com/example/report"
NOTEBOOK, PLAIN = "book/08_reproducing", "book/glossary"


def build(folder: Path) -> str:
    """Two pages of the book, and one that is executed, as if the repository lay at `ADDRESS`; returns the log."""
    for name in ("_ext", "_static", "book"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "CITATION.cff", folder)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["repository"]["url"] = ADDRESS
    config["execute"]["exclude_patterns"] = [f"{NOTEBOOK}.ipynb"]
    (folder / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    title, cell = nbformat.v4.new_markdown_cell("# One cell"), nbformat.v4.new_code_cell("6 * 7")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[title, cell], metadata=kernel), folder / "book/index.ipynb")
    chapters = [{"file": f"{NOTEBOOK}.ipynb"}, {"file": f"{PLAIN}.md"}]
    toc = {"format": "jb-book", "root": "book/index.ipynb", "chapters": chapters}
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(folder)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    return outcome.stdout + outcome.stderr


def buttons(folder: Path, page: str) -> dict[str, str]:
    """The links of a page's header, by the words on them."""
    header = soup(folder / f"_build/html/{page}.html").find(class_="article-header-buttons")
    assert header is not None
    return {link.get_text(strip=True): str(link["href"]) for link in header.find_all("a", href=True)}


def test_every_button_has_the_right_link_and_the_kernel_does_not_warn(tmp_path: Path) -> None:
    log = build(tmp_path)
    notebook = buttons(tmp_path, NOTEBOOK)
    assert notebook == {
        "notebook (.ipynb)": f"../_sources/{NOTEBOOK}.ipynb",
        "MyST source (.md)": f"../_sources/{NOTEBOOK}.md",
        "Binder": f"https://mybinder.org/v2/gh/example/report/main?urlpath=lab/tree/{NOTEBOOK}.ipynb",
        "Colab": f"https://colab.research.google.com/github/example/report/blob/main/{NOTEBOOK}.ipynb",
        "Repository": ADDRESS,
        "Suggest edit": f"{ADDRESS}/edit/main/{NOTEBOOK}.md",
        "Open issue": f"{ADDRESS}/issues/new?title=Issue%20on%20page%20%2F{NOTEBOOK}.html"
        "&body=Your%20issue%20content%20here.",
    }
    for name in ("notebook (.ipynb)", "MyST source (.md)"):
        downloaded = (tmp_path / "_build/html/book" / notebook[name]).resolve()
        assert downloaded.read_bytes() == (ROOT / f"{NOTEBOOK}{downloaded.suffix}").read_bytes()
    plain = buttons(tmp_path, PLAIN)
    assert plain["Suggest edit"] == f"{ADDRESS}/edit/main/{PLAIN}.md"
    assert "Binder" not in plain and "Colab" not in plain
    assert "Executed notebook" in log and "IPKernelApp" not in log


@pytest.mark.parametrize(
    "address", ["example/report", "https://github.com/example", f"{ADDRESS}.git", "https://codeberg.org/a/b"]
)
def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "_ext")
    regnet_book = pytest.importorskip("regnet_book")
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        regnet_book.offer_repository(None, SimpleNamespace(html_theme_options={"repository_url": address}))
