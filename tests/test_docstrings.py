"""What the API page promises of every function: shapes and units, errors, the source, and an example that runs."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

API = (Path(__file__).parents[1] / "book/api.md").read_text(encoding="utf-8")
FUNCTIONS = re.findall(r"autofunction:: regnet\.([\w.]+)", API)

# They look nothing up and check nothing: whatever they are given was checked before.
RAISE_NOTHING = {
    "blockwise.dense_blocks",
    "dataset_names",
    "datasets.index_edges",
    "datasets.match_names",
    "engine.from_products",
    "engine.message_direction",
    "figures.save_diagnostics",
    "figures.shrinkage_hist",
    "figures.shrinkage_vs_degree",
    "figures.shrinkage_vs_expr",
    "figures.trend_band",
    "figures.use_style",
    "graph.mean_over_regulators",
    "graph.pick_rows",
    "registry.list_datasets",
    "registry.networks",
    "report.undefined_genes",
    "training.evaluate",
    "training.fit_structure",
    "training.untrained",
}


def function(name):
    module, _, short = name.rpartition(".")
    return getattr(importlib.import_module(f"regnet.{module}" if module else "regnet"), short)


def sections(documentation):
    """Name of a section -> its text; what stands above them is under the empty name."""
    parts = re.split(r"^(Args|Returns|Raises|References):$", inspect.cleandoc(documentation), flags=re.M)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_the_api_says_what_it_takes_returns_raises_and_rests_on(name):
    documented = function(name)
    signature, found = inspect.signature(documented), sections(documented.__doc__)
    for parameter in signature.parameters:
        assert re.search(rf"^    {parameter}: \S", found["Args"], re.M), f"what {parameter} is"
    if signature.return_annotation != "None":
        assert found["Returns"].strip()
    assert ("Raises" in found) != (name in RAISE_NOTHING)
    assert re.search(r"note|book|:ref:|\(\d{4}\)", found["References"])
    assert ">>>" in documented.__doc__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_tensor_is_documented_with_its_shape(name):
    documented = function(name)
    found = sections(documented.__doc__)
    for parameter, value in inspect.signature(documented).parameters.items():
        if value.annotation == "Tensor" and parameter not in ("noise_var", "prior_var", "genes"):
            says = re.search(rf"^    {parameter}: (.+?)(?=^    \w+: |\Z)", found["Args"], re.M | re.S)[1]
            assert re.search(r"\([\w\s+]+,|\bshape\b", says), f"the shape of {parameter}"
