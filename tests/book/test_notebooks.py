"""The chapters and their executed twins."""

from __future__ import annotations

import base64
import io
import re
import runpy
from pathlib import Path

import jupytext
import nbformat
import pytest
from pages import ROOT, listed_files
from PIL import Image

BOOK = ROOT / "book"
SOURCES = sorted(BOOK.glob("*.md"))
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
TOOL = runpy.run_path(str(ROOT / "tools/build_notebooks.py"))
of_each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def test_every_source_with_code_has_a_twin_and_every_twin_is_a_chapter() -> None:
    with_kernel = {path.stem for path in SOURCES if "kernelspec:" in path.read_text(encoding="utf-8").split("\n---\n")[0]}
    assert with_kernel == {path.stem for path in NOTEBOOKS}
    assert {f"book/{path.name}" for path in NOTEBOOKS} <= set(listed_files())


@of_each_notebook
def test_twins_hold_the_same_cells(path: Path) -> None:
    source = jupytext.read(path.with_suffix(".md"))
    TOOL["name_cells"](source)
    ours, theirs = ([(cell.id, cell.source, cell.metadata) for cell in twin.cells] for twin in (read(path), source))
    assert ours == theirs, "run `make notebooks`"


@of_each_notebook
def test_every_cell_was_executed_in_order(path: Path) -> None:
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@of_each_notebook
def test_outputs_are_for_every_reader_and_the_same_on_every_machine(path: Path) -> None:
    for output in (output for cell in code_cells(path) for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr", output
        data = output.get("data", {})
        assert "image/svg+xml" not in data
        text = output.get("text", "") + "".join(value for kind, value in data.items() if kind.startswith("text/"))
        assert not re.search(r"/(home|root|tmp|work|Users)/|site-packages|\bat 0x[0-9a-f]{6,}", text), text
        printed = output.get("text", "") or data.get("text/plain", "")
        for number in re.findall(r"(?<![\w.])-?\d*\.\d+(?:e[+-]?\d+)?", printed):
            digits = re.sub(r"e.*|[-.]", "", number).lstrip("0").rstrip("0")
            assert len(digits) <= 4, f"{number} has more than four significant digits"


@of_each_notebook
def test_every_figure_has_a_caption_an_alternative_text_a_reference_and_an_opaque_background(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for cell in code_cells(path):
        for picture in (output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})):
            settings = cell.metadata.get("mystnb", {})
            assert len(settings.get("figure", {}).get("caption", "")) > 20, cell.source[:80]
            assert len(settings.get("image", {}).get("alt", "")) > 20, cell.source[:80]
            assert f"`{settings['figure']['name']}`" in text, f"{settings['figure']['name']} is not referred to"
            alpha = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGBA").getextrema()[3]
            assert alpha == (255, 255), "a reader in dark mode sees black on black"


def test_every_data_frame_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "_ext")
    latex_book = pytest.importorskip("latex_book")
    outputs = [output.get("data", {}) for path in NOTEBOOKS for cell in code_cells(path) for output in cell.outputs]
    frames = [html for html in (data.get("text/html", "") for data in outputs) if "<table" in html]
    assert any("rowspan" in html for html in frames)
    for html in frames:
        widths = {len(row.children) for row in latex_book.data_frame(html).findall(latex_book.nodes.row)}
        assert len(widths) == 1, html


@pytest.mark.parametrize("number", range(1, 6))
def test_every_equation_of_the_note_is_labelled_with_its_own_number(number: int) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    found = re.findall(rf"\(eq-{number}\)=\n\n?\$\$(?:(?!\$\$).)*\\tag\{{{number}\}}(?:(?!\$\$).)*\$\$", text, re.S)
    assert len(found) == 1
