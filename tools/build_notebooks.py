"""Rebuild the executed notebooks from their MyST sources: book/NN_x.md -> book/NN_x.ipynb, one way.

    python tools/build_notebooks.py                              every chapter
    python tools/build_notebooks.py book/04_directional_sensitivity.md

A notebook is written only after all its cells ran, and nothing that changes from run to run (timing, random cell ids,
versions of the kernel, shading that no eye can see) is stored, so that a second run leaves no difference.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import sys
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image, ImageChops
from traitlets.config import Config

BOOK = Path(__file__).resolve().parent.parent / "book"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sources() -> list[Path]:
    """The chapters that are notebooks: MyST files that name a kernel in their header."""
    return [
        path for path in sorted(BOOK.glob("*.md")) if "kernelspec:" in path.read_text(encoding="utf-8").split("\n---\n")[0]
    ]


def build(source: Path) -> bool:
    """Execute one chapter; True where its notebook changed on disk."""
    target = source.with_suffix(".ipynb")
    notebook = jupytext.read(source)
    before = target.read_text(encoding="utf-8") if target.exists() else None
    name_cells(notebook)
    execute(notebook)
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    nbformat.validate(notebook)
    if before is not None:
        keep_pictures(notebook, nbformat.reads(before, as_version=4))
    text = nbformat.writes(notebook) + "\n"
    if source.stem == "index":
        save_key_figure(notebook)
    if text == before:
        return False
    unfinished = target.with_suffix(".ipynb.writing")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(target)
    return True


def execute(notebook: nbformat.NotebookNode) -> None:
    """Run all cells where the chapters lie; the first that fails raises."""
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        config=Config(KernelManager={"transport_encryption": "auto"}),  # else the kernel warns that it has none
        record_timing=False,
        coalesce_streams=True,  # else the split of printed text depends on timing
        resources={"metadata": {"path": str(BOOK)}},
    )
    client.execute()


def save_key_figure(notebook: nbformat.NotebookNode) -> None:
    """Write the picture of the landing page to a file of its own, which the README shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    picture = next(output.data["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    (BOOK / "key_figure.png").write_bytes(base64.b64decode(picture))


def keep_pictures(notebook: nbformat.NotebookNode, before: nbformat.NotebookNode) -> None:
    """Keep the stored file of a picture that has not visibly changed: a last digit may shift the shading of an edge."""
    stored = {cell.id: cell.get("outputs", []) for cell in before.cells}
    for cell in notebook.cells:
        for new, old in zip(cell.get("outputs", []), stored.get(cell.id, []), strict=False):
            pictures = [output.get("data", {}).get("image/png") for output in (new, old)]
            if all(pictures) and look_alike(*pictures):
                new.data["image/png"] = pictures[1]


def look_alike(first: str, second: str, tolerance: int = 2) -> bool:
    """Whether two pictures have one size and no pixel that differs by more than ``tolerance`` of 255 levels."""
    one, other = (Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB") for picture in (first, second))
    if one.size != other.size:
        return False
    return bool(max(high for _, high in ImageChops.difference(one, other).getextrema()) <= tolerance)


def name_cells(notebook: nbformat.NotebookNode) -> None:
    """Give every cell an id made from its own text, so that editing one cell leaves the ids of the others alone."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        cell["id"] = f"{digest}-{seen[digest]}"
        seen[digest] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", type=Path, help="MyST sources; all chapters by default")
    for source in parser.parse_args().chapters or sources():
        changed = build(source.resolve())
        print(f"{'changed  ' if changed else 'unchanged'} {source.with_suffix('.ipynb').name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
