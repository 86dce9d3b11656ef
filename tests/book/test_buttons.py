"""The buttons that one setting, the repository's address, switches on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pages import ROOT, soup

ADDRESS = "https://github.com/example/report"
NOTEBOOK, PLAIN = "book/08_reproducing", "book/glossary"


def build(folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    """Three pages of the book, from stored outputs, as if the repository lay at `address`."""
    for name in ("_ext", "_static", "book"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "CITATION.cff", folder)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["repository"]["url"] = address
    config["execute"]["execute_notebooks"] = "off"
    (folder / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    toc = {
        "format": "jb-book",
        "root": "book/index.ipynb",
        "chapters": [{"file": f"{NOTEBOOK}.ipynb"}, {"file": f"{PLAIN}.md"}],
    }
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def buttons(folder: Path, page: str) -> dict[str, str]:
    """The links of a page's header, by the words on them."""
    header = soup(folder / f"_build/html/{page}.html").find(class_="article-header-buttons")
    assert header is not None
    return {link.get_text(strip=True): str(link["href"]) for link in header.find_all("a", href=True)}


def test_every_button_of_a_repository_has_the_right_link(tmp_path: Path) -> None:
    outcome = build(tmp_path, ADDRESS)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
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
    assert f"url     = {{{ADDRESS}}}" in soup(tmp_path / "_build/html/book/index.html").get_text()


def test_without_an_address_only_the_downloads_are_left(tmp_path: Path) -> None:
    outcome = build(tmp_path, "")
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    assert set(buttons(tmp_path, NOTEBOOK)) == {"notebook (.ipynb)", "MyST source (.md)"}
    assert all("_sources/" in url for page in (NOTEBOOK, PLAIN) for url in buttons(tmp_path, page).values())


def test_gitlab_has_all_buttons_but_colab(tmp_path: Path) -> None:
    outcome = build(tmp_path, "https://gitlab.com/example/report")
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    links = buttons(tmp_path, NOTEBOOK)
    assert links["Binder"] == f"https://mybinder.org/v2/gl/example%2Freport/main?urlpath=lab/tree/{NOTEBOOK}.ipynb"
    assert links["Suggest edit"] == f"https://gitlab.com/example/report/-/edit/main/{NOTEBOOK}.md"
    assert "Colab" not in links


@pytest.mark.parametrize(
    "address", ["example/report", "https://github.com/example", f"{ADDRESS}.git", "https://codeberg.org/example/report"]
)
def test_an_address_that_is_none_is_refused_before_anything_is_built(tmp_path: Path, address: str) -> None:
    outcome = build(tmp_path, address)
    assert outcome.returncode != 0
    assert "https://github.com/OWNER/NAME" in outcome.stdout + outcome.stderr
    assert not (tmp_path / "_build/html/book/index.html").exists()
