"""The three diagnostic figures: what they draw, also from degenerate tables."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from regnet import figures

DRAW = [figures.shrinkage_vs_degree, figures.shrinkage_vs_expr, figures.shrinkage_hist]


@pytest.fixture(autouse=True)
def _close_figures():
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    mpl.rcParams.update({name: before[name] for name, value in mpl.rcParams.items() if value != before[name]})


def table(in_degree, weight, is_tf=False, expression=None):
    expression = np.linspace(0, 5, len(in_degree)) if expression is None else expression
    return pd.DataFrame({"in_degree": in_degree, "mean_expression": expression, "is_tf": is_tf, "w_eff": weight})


@pytest.fixture
def usual():
    draw = np.random.default_rng(0)
    in_degree = np.r_[0, 0, 0, draw.geometric(0.2, 97)]
    return table(in_degree, np.where(in_degree == 0, np.nan, draw.random(100)), draw.random(100) < 0.2)


def groups(axes):
    return [drawn for drawn in axes.collections if isinstance(drawn, PathCollection)]


def legend(axes):
    return " | ".join(text.get_text() for text in axes.get_legend().get_texts())


def trend_line(axes):
    (line,) = (line for line in axes.lines if line.get_label().startswith("trend"))
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_the_training_curve_marks_the_kept_epoch_beside_the_baselines():
    history = {"epoch": [0, 5, 10], "loss": [3.0, 2.0, 1.0], "val_auprc": [0.1, 0.4, 0.3]}
    axes = figures.training_curve(history, {"degree": 0.2})
    curve, kept, degree = axes.lines
    assert np.asarray(curve.get_xydata()).tolist() == [[0, 0.1], [5, 0.4], [10, 0.3]]
    assert np.asarray(kept.get_xydata()).tolist() == [[5, 0.4]] and set(degree.get_ydata()) == {0.2}
    assert legend(axes) == "RegNet | kept: epoch 5 | degree"


@pytest.mark.parametrize(("draw", "column"), [(DRAW[0], "in_degree"), (DRAW[1], "mean_expression")])
def test_every_gene_with_a_weight_is_one_point_at_its_place(draw, column, usual):
    got = np.concatenate([np.asarray(group.get_offsets()) for group in groups(draw(usual))])
    drawn = usual.dropna(subset="w_eff").sort_values("w_eff")
    got = got[np.argsort(got[:, 1])]
    np.testing.assert_allclose(got[:, 1], drawn["w_eff"], rtol=1e-12)
    spread = 0.081 if column == "in_degree" else 1e-12
    np.testing.assert_allclose(got[:, 0], drawn[column], rtol=np.expm1(spread), atol=1e-12)


@pytest.mark.parametrize("draw", DRAW[:2])
def test_transcription_factors_differ_in_colour_and_marker_and_are_counted(draw, usual):
    axes = draw(usual)
    drawn = usual.dropna(subset="w_eff")
    assert f"transcription factors ({drawn['is_tf'].sum()})" in legend(axes)
    assert f"other genes ({(~drawn['is_tf']).sum()})" in legend(axes)
    assert len({tuple(group.get_facecolor()[0]) for group in groups(axes)}) == 2
    assert len({len(group.get_paths()[0].vertices) for group in groups(axes)}) == 2


@pytest.mark.parametrize("draw", DRAW)
def test_genes_without_a_weight_are_counted_by_reason(draw, usual):
    usual.loc[3, "w_eff"] = np.nan  # has regulators, equals their mean
    text = legend(draw(usual))
    assert "3 genes of in-degree 0" in text
    assert "1 gene equal to the mean" in text
    assert "not drawn" not in legend(draw(usual.dropna(subset="w_eff")))


def test_axes_name_their_quantities_and_the_degree_axis_is_logarithmic(usual):
    degree, expression, hist = (draw(usual) for draw in DRAW)
    assert degree.get_xscale() == "log" and expression.get_xscale() == "linear"
    assert "in-degree" in degree.get_xlabel() and "mean expression" in expression.get_xlabel()
    for axes in (degree, expression):
        assert "effective weight" in axes.get_ylabel() and axes.get_ylim() == (0, 1)
    assert "effective weight" in hist.get_xlabel() and hist.get_xlim() == (0, 1) and hist.get_ylabel() == "genes"


def test_the_histogram_counts_every_gene_and_marks_median_and_quartiles():
    axes = figures.shrinkage_hist(table(np.ones(101, int), np.linspace(0, 1, 101)))
    assert sum(bar.get_height() for bar in axes.patches if bar.get_width() < 0.03) == 101
    assert "median 0.50" in legend(axes) and "quartiles 0.25 to 0.75" in legend(axes)
    assert any(line.get_xdata()[0] == pytest.approx(0.5) for line in axes.lines if len(line.get_xdata()))


def test_the_trend_against_expression_is_a_line_where_the_weights_are_and_ignores_an_outlying_gene():
    expression = np.linspace(0, 1, 300)
    rows = table(np.ones(300, int), 0.2 + 0.5 * expression, expression=expression)
    rows.loc[299, ["mean_expression", "w_eff"]] = 30.0, 0.0
    x, y = trend_line(figures.shrinkage_vs_expr(rows))
    assert x.max() < 1
    np.testing.assert_allclose(y, 0.2 + 0.5 * x, atol=1e-6)


def test_the_trend_against_degree_is_fitted_on_the_logarithm():
    degree = np.repeat([1, 2, 4, 8, 16, 32], 20)
    x, y = trend_line(figures.shrinkage_vs_degree(table(degree, 0.1 + 0.1 * np.log2(degree))))
    assert x.min() == pytest.approx(1) and x.max() == pytest.approx(32)
    np.testing.assert_allclose(y, 0.1 + 0.1 * np.log2(x), atol=1e-8)


ODD = {
    "one gene": table([1], [0.5]),
    "ties": table([1] * 60 + [2, 3, 4, 50], [0.5] * 64),
    "only factors": table([1, 2, 3, 4, 5], [0.0, 1.0, 0.0, 1.0, 0.5], True),
    "one expression": table([5, 5, 5, 5, 5], [0.1, 0.2, 0.3, 0.4, 0.5], expression=np.zeros(5)),
    "no regulators": table([0, 0], [np.nan, np.nan]),
    "no weight": table([3, 3], [np.nan, np.nan]),
    "wide": table([1, 2, 3, 4, 1000], [0.1, 0.2, 0.9, 0.3, 0.4], expression=[1e-30, 0.0, -2.0, 1e6, 3.0]),
}


@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_degenerate_tables_draw_without_a_warning(draw, odd):
    for controls in (None, np.full((2, len(odd)), np.nan), np.tile(odd["w_eff"], (2, 1))):
        axes = draw(odd, controls=controls)
        axes.figure.canvas.draw()
    assert all(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).all() for line in axes.lines)


@pytest.mark.parametrize("draw", DRAW)
def test_a_figure_draws_into_the_given_axes_and_changes_neither_the_style_nor_the_table(draw, usual):
    before, copy = dict(mpl.rcParams), usual.copy()
    _, ax = plt.subplots()
    assert draw(usual, ax) is ax
    assert draw(usual) is not ax
    assert dict(mpl.rcParams) == before
    pd.testing.assert_frame_equal(usual, copy)


@pytest.mark.parametrize("draw", DRAW)
def test_the_range_of_untrained_layers_is_that_of_their_trends_and_counts(draw, usual):
    usual["mean_expression"] = usual["in_degree"]
    rise = np.log(usual["in_degree"].clip(1)).to_numpy() if draw is DRAW[0] else usual["in_degree"].to_numpy() / 20
    controls = np.stack([0.21 + slope * rise for slope in (-0.02, 0.1, 0.05)])
    controls[0, 50] = np.nan  # a layer that does not respond to this gene
    axes = draw(usual, controls=np.where(usual["w_eff"].isna(), np.nan, controls))
    assert "range of 3 untrained layers" in legend(axes)
    (band,) = (drawn for drawn in axes.collections if "untrained" in drawn.get_label())
    path = band.get_paths()[0]
    x, y = np.asarray(path.vertices).T
    if draw is DRAW[2]:
        genes = controls[:, usual["w_eff"].notna()]
        counts = ((genes >= 0.2) & (genes < 0.225)).sum(axis=1)
        inside = [
            path.contains_point((0.2125, count)) for count in (0.5, min(counts) - 0.5, min(counts) + 0.5, max(counts) - 0.5)
        ]
        assert inside == [False, False, True, True] and not path.contains_point((0.2125, max(counts) + 0.5))
    else:
        rise = np.log(x) if draw is DRAW[0] else x / 20
        np.testing.assert_allclose(np.minimum(abs(y - 0.21 + 0.02 * rise), abs(y - 0.21 - 0.1 * rise)), 0, atol=1e-9)
