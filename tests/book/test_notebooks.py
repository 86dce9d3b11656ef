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
from matplotlib.colors import rgb_to_hsv, to_rgb
from PIL import Image

from regnet.figures import COLORS

BOOK = Path(__file__).parents[2] / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
SOURCES = sorted(BOOK.glob("*.md"))
BUILD_NOTEBOOKS = runpy.run_path(str(BOOK.parent / "tools/build_notebooks.py"))


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def outputs(path: Path) -> list[nbformat.NotebookNode]:
    return [output for cell in code_cells(path) for output in cell.outputs]


def test_every_notebook_source_has_a_twin() -> None:
    with_kernel = {path.stem for path in SOURCES if "kernelspec:" in path.read_text(encoding="utf-8").split("\n---\n")[0]}
    assert with_kernel == {path.stem for path in NOTEBOOKS}
    assert len(with_kernel) >= 11  # the landing page, nine chapters with code and the reproducibility page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_twins_hold_the_same_cells(path: Path) -> None:
    source = jupytext.read(path.with_suffix(".md"))
    assert [(cell.cell_type, cell.source) for cell in read(path).cells] == [
        (cell.cell_type, cell.source) for cell in source.cells
    ], "run `make notebooks`"
    for ours, theirs in zip(read(path).cells, source.cells, strict=True):
        assert ours.metadata == theirs.metadata, "run `make notebooks`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_was_executed_in_order(path: Path) -> None:
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_metadata_hold_nothing_that_changes_from_run_to_run(path: Path) -> None:
    notebook = read(path)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}, "a version of Python"
    assert all(set(cell.metadata) <= {"tags", "mystnb"} for cell in notebook.cells)
    named = read(path)
    BUILD_NOTEBOOKS["name_cells"](named)
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in named.cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_an_error_a_warning_or_a_vector_picture(path: Path) -> None:
    for output in outputs(path):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")
        assert "image/svg+xml" not in output.get("data", {})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_name_no_machine_and_no_memory_address(path: Path) -> None:
    for output in outputs(path):
        text = output.get("text", "") + "".join(
            value for kind, value in output.get("data", {}).items() if kind.startswith("text/")
        )
        assert not re.search(r"/(home|root|tmp|work|Users)/|site-packages|\bat 0x[0-9a-f]{6,}", text), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_printed_numbers_have_at_most_four_significant_digits(path: Path) -> None:
    for output in outputs(path):
        data = output.get("data", {})
        text = output.get("text", "") or data.get("text/plain", "")
        for number in re.findall(r"(?<![\w.])-?\d*\.\d+(?:e[+-]?\d+)?", text):
            digits = re.sub(r"e.*", "", number).replace("-", "").replace(".", "").lstrip("0")
            assert len(digits.rstrip("0")) <= 4, f"{number} in {text[:200]!r}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_has_a_caption_an_alternative_text_and_a_reference(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for cell in code_cells(path):
        if not any("image/png" in output.get("data", {}) for output in cell.outputs):
            continue
        settings = cell.metadata.get("mystnb", {})
        assert len(settings.get("figure", {}).get("caption", "")) > 20, cell.source[:80]
        assert len(settings.get("image", {}).get("alt", "")) > 20, cell.source[:80]
        assert f"`{settings['figure']['name']}`" in text, f"{settings['figure']['name']} is not referred to"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_take_their_colours_from_the_one_palette(path: Path) -> None:
    """Besides `regnet.figures.COLORS` and colour maps, only greys, and shades of the same hue for words."""
    hues = [rgb_to_hsv(to_rgb(color))[0] for color in COLORS.values()]
    for cell in code_cells(path):
        for color in re.findall(r"(?<=color=[\"'])[^\"']+|(?<=[\"'])(?:#\w{3,8}|tab:\w+|C\d)(?=[\"'])", cell.source):
            hue, saturation, _ = rgb_to_hsv(to_rgb(color)) if color != "none" else (0, 0, 0)
            assert saturation == 0 or min(abs(hue - known) for known in hues) < 0.02, f"{color}: take one of COLORS"


def test_the_readme_shows_the_picture_of_the_landing_page() -> None:
    pictures = [
        output.data["image/png"] for output in outputs(BOOK / "index.ipynb") if "image/png" in output.get("data", {})
    ]
    assert [base64.b64decode(picture) for picture in pictures] == [(BOOK / "key_figure.png").read_bytes()]
    assert "(book/key_figure.png)" in (BOOK.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", range(1, 6))
def test_every_equation_of_the_note_is_labelled_with_its_own_number(number: int) -> None:
    found = re.findall(rf"\(eq-{number}\)=\n\n?\$\$(?:(?!\$\$).)*\\tag\{{{number}\}}(?:(?!\$\$).)*\$\$", all_sources(), re.S)
    assert len(found) == 1


def test_every_number_in_the_prose_is_glued_by_its_own_page() -> None:
    for path in NOTEBOOKS:
        prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        used = set(re.findall(r"\{glue:\w+\}`([^`:]+)", prose))
        made = {output.get("metadata", {}).get("scrapbook", {}).get("name") for output in outputs(path)}
        assert used <= made, f"{path.name}: {sorted(used - made)}"


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if re.match(r"\d\d_", path.name)], ids=lambda path: path.stem)
def test_every_chapter_ends_with_exercises_whose_solutions_are_folded_and_were_executed(path: Path) -> None:
    cells = read(path).cells
    start = next(place for place, cell in enumerate(cells) if re.search(r"^## Exercises$", cell.source, re.M))
    questions = re.findall(
        r"^\*\*\d\.", "\n".join(cell.source for cell in cells[start:] if cell.cell_type == "markdown"), re.M
    )
    assert len(questions) >= 2
    solutions = [cell for cell in cells[start:] if cell.cell_type == "code"]
    assert len(solutions) == len(questions)
    assert cells[-1].cell_type == "code", "what gives the solution away belongs into the folded cell"
    for cell in solutions:
        assert cell.metadata.tags == ["hide-cell"]
        assert cell.metadata.mystnb.code_prompt_show == "Show the solution"
        assert cell.execution_count and cell.outputs


def test_sources_hold_one_sentence_a_line() -> None:
    for path in SOURCES:
        outside_code = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        for line in outside_code.splitlines():
            assert not re.search(r"[a-z)]\. [A-Z][a-z]+ [a-z]", line), f"{path.name}: {line}"


def test_the_chapters_that_draw_random_numbers_take_them_all_from_one_seed() -> None:
    """`make seeds` passes over a chapter without this line."""
    for number in (7, 13, 14, 15, 17):
        (path,) = BOOK.glob(f"{number:02d}_*.md")
        assert path.read_text(encoding="utf-8").count("\nBASE_SEED = 0\n") == 1, path.name


def all_sources() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)


def test_a_picture_is_stored_anew_only_when_it_visibly_changed() -> None:
    def picture(level: int) -> str:
        file = io.BytesIO()
        Image.new("RGB", (4, 3), (level, 0, 0)).save(file, "png")
        return base64.b64encode(file.getvalue()).decode()

    def notebook(level: int) -> nbformat.NotebookNode:
        output = nbformat.v4.new_output("display_data", {"image/png": picture(level)})
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("plt.show()", id="a", outputs=[output])])

    for level, kept in ((101, True), (140, False)):
        new = notebook(level)
        BUILD_NOTEBOOKS["keep_pictures"](new, notebook(100))
        assert (new.cells[0].outputs[0].data["image/png"] == picture(100)) is kept
