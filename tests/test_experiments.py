"""The stored result of the long sweep: one cell of it run again, and the parts that it is made of."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
SWEEP = runpy.run_path(str(ROOT / "experiments/trends.py"))
LAYERS = runpy.run_path(str(ROOT / "experiments/posterior_mean.py"))


@pytest.fixture(scope="module")
def result():
    return json.loads((ROOT / "book/results/trends.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_one_cell_of_the_stored_sweep_comes_out_again(real_file, result):
    """The first losses to the digits that are stored; the trends after hundreds of float32 epochs, which another processor
    rounds otherwise, within what the ten seeds vary."""
    real_file("mDC/specific/network.csv")
    record, _ = SWEEP["cell"]("mdc-specific", "trained", 0)
    np.testing.assert_allclose(record["losses"], result["first_losses"]["mdc-specific"], rtol=1e-3)
    (stored,) = (data for data in result["data"] if data["data"] == "mdc-specific")
    for trend, found in zip(SWEEP["TRENDS"], record["trends"], strict=True):
        layers = np.array(stored["per_layer"]["trained"][trend])
        assert abs(found - layers[0]) < 2 * layers.std(ddof=1), trend
    assert record["metrics"]["positives"] == pytest.approx(stored["scores_trained"]["positives"][0], rel=1e-4)


def test_the_stored_sweep_is_whole(result):
    assert [data["data"] for data in result["data"]] == [*SWEEP["COUNTS"], *SWEEP["NETWORKS"]]
    for data in result["data"]:
        layers = {what: {len(values) for values in trends.values()} for what, trends in data["per_layer"].items()}
        seeds = SWEEP["seeds_of"](data["data"])
        assert layers == {"trained": {seeds}, "rewired": {seeds}, "untrained": {400}}
    assert result["bounds"] == SWEEP["BOUNDS"]
    with np.load(ROOT / "book/results/weights.npz") as weights:
        assert {name: weights[name].shape for name in weights} == {"pbmc68k": (30, 765), "celltypist-trrust": (30, 1054)}


def test_a_stopped_sweep_goes_on_with_what_is_not_done(tmp_path, monkeypatch):
    done = []

    def cell(name, condition, seed):
        done.append(seed)
        return {"trends": [0.5], "seed": seed}, {"w_eff": np.array([0.5, np.nan], np.float32)}

    finished = SWEEP["finished"]
    monkeypatch.setitem(finished.__globals__, "cell", cell)
    first = finished(tmp_path, "mine", "trained", 3)
    (tmp_path / "mine/trained-4.writing").write_text("[")  # of a run that was killed
    assert finished(tmp_path, "mine", "trained", 4)["seed"] == 4
    assert finished(tmp_path, "mine", "trained", 3) == first and done == [3, 4]
    assert np.load(tmp_path / "mine/trained-3.npz")["w_eff"].tolist()[0] == 0.5


def test_contrasts_of_layers_without_any_trend_are_near_zero_and_a_shift_is_found():
    """A trend that only trained layers have is there, learned and specific, with the error that its spread makes."""
    rng = np.random.default_rng(0)
    values = {what: rng.normal(shift, 0.1, (size, 5)) for what, size, shift in
              (("trained", 30, 0.5), ("rewired", 30, 0.0), ("untrained", 400, 0.0))}  # fmt: skip
    draws = {what: list(rng.normal(0, 0.02, (200, 5))) for what in values}
    found = SWEEP["verdicts"]({"contrasts": {"all": SWEEP["contrasts"](values, draws, clusters=20)}})
    for question, table in found.items():
        assert (table["verdict"] == "present").all(), question
        np.testing.assert_allclose(table["estimate"], 0.5, atol=0.1)
    error = np.sqrt(0.02**2 * 2 + 0.1**2 / 30 * 2)
    values["trained"][0, 4] = np.nan  # no transcription factor has a weight in one layer
    assert list(SWEEP["verdicts"]({"contrasts": {"all": SWEEP["contrasts"](values)}})["there"].index) == [
        "in-degree",
        "expression",
    ]
    width = (found["specific"]["high"] - found["specific"]["low"]).to_numpy()
    np.testing.assert_allclose(width, 2 * 2.02 * error, rtol=0.25)


@pytest.fixture(scope="module")
def of_layers():
    return json.loads((ROOT / "book/results/posterior_mean.json").read_text(encoding="utf-8"))["data"]


@pytest.mark.slow
def test_one_cell_of_the_other_first_layers_comes_out_again(real_file, of_layers):
    """Within what the seeds vary, since another processor rounds hundreds of float32 epochs otherwise."""
    real_file("mDC/specific/network.csv")
    record = LAYERS["cell"]("mdc-specific", "constant", 0)
    (stored,) = (data["rows"]["constant"] for data in of_layers if data["data"] == "mdc-specific")
    assert abs(record["metrics"]["auprc"] - stored["auprc"][0]) < 0.03
    assert record["error"] < 1e-6 and record["median"] == pytest.approx(0.5)


def test_the_rows_of_the_first_layers_are_paired_and_the_notes_are_those_of_the_sweep(result, of_layers):
    assert [data["data"] for data in of_layers] == [data["data"] for data in result["data"]]
    for data, sweep in zip(of_layers, result["data"], strict=True):
        assert list(data["rows"]) == LAYERS["rows_of"](data["data"])
        assert {len(values) for scores in data["rows"].values() for values in scores.values()} == {data["seeds"]}
        assert data["rows"]["mlp"]["auprc"] == sweep["scores_trained"]["auprc"][: data["seeds"]]


def test_every_row_has_the_weights_that_it_names():
    bayes = np.array([np.nan, 0.2, 0.4, 0.9])
    weights = {row: LAYERS["weight_of"](row, torch.from_numpy(bayes), seed=3) for row in LAYERS["ROWS"] if row != "mlp"}
    assert (weights.pop("learned"), weights.pop("one")) == ("learned", 1.0)
    assert all(weight[0].isnan() for weight in weights.values())
    known = {row: weight[1:].tolist() for row, weight in weights.items()}
    assert known["counts"] == [0.2, 0.4, 0.9] == sorted(known["permuted"]) != known["permuted"]
    np.testing.assert_allclose(known["complement"], [0.8, 0.6, 0.1])
    np.testing.assert_allclose(known["constant"], 0.5)
    np.testing.assert_allclose(known["low"], 0.5)
    assert LAYERS["weight_of"]("constant", None, 0) == 0.5
