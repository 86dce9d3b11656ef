"""The files around the package agree with each other."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

import regnet

ROOT = Path(__file__).parents[2]


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["book"], *extras["test"]]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonical(name): pin for name, pin in pinned.items()}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_environment_yml_leaves_the_versions_to_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"][1:] == ["pip", {"pip": ["-e .[book,test]"]}]


def test_the_lock_file_satisfies_pyproject() -> None:
    pins = locked()
    building = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    for line in [*requirements(), *building]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[canonical(requirement.name)]), line
    assert pins["torch"] == "2.13.0"
    assert pins["jupyter-book"].startswith("1.")


def test_what_is_installed_is_what_is_locked() -> None:
    for name in ("torch", "torch-geometric", "numpy", "scanpy"):
        assert version(name).split("+")[0] == locked()[name]


def test_citation_and_changelog_name_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version("regnet-shrinkage")
    assert f"[{version('regnet-shrinkage')}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_chapter_is_in_the_table_of_contents_with_its_suffix() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    notebooks = {f"book/{path.name}" for path in (ROOT / "book").glob("*.ipynb")}
    assert notebooks <= set(listed)
    assert all((ROOT / file).is_file() for file in listed), listed


def test_every_public_name_has_an_entry_in_the_api_page_and_a_docstring() -> None:
    page = (ROOT / "book/api.md").read_text(encoding="utf-8")
    for name in regnet.__all__:
        assert getattr(regnet, name).__doc__, name
        assert re.search(rf"^\.\. auto\w+:: regnet\.{name}$", page, re.M), name


def test_the_python_code_of_the_readme_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    assert ((names["w"] >= 0) & (names["w"] <= 1)).all()
