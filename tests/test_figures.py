"""The three diagnostic figures: what is drawn, and that odd tables draw as well."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba

from regnet import figures

DRAW = [figures.shrinkage_vs_degree, figures.shrinkage_vs_expr, figures.shrinkage_hist]


@pytest.fixture(autouse=True)
def _close_figures():
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    changed = [name for name, value in mpl.rcParams.items() if value != before[name]]
    mpl.rcParams.update({name: before[name] for name in changed})


def table(in_degree, weight, is_tf=None, expression=None):
    in_degree = np.asarray(in_degree)
    size = len(in_degree)
    return pd.DataFrame(
        {
            "gene": [f"G{i}" for i in range(size)],
            "in_degree": in_degree,
            "mean_expression": np.linspace(0, 5, size) if expression is None else expression,
            "is_tf": np.zeros(size, dtype=bool) if is_tf is None else np.asarray(is_tf),
            "w_eff": np.asarray(weight, dtype=float),
            "S_x": np.asarray(weight, dtype=float),
            "S_m": 1 - np.asarray(weight, dtype=float),
        }
    )


@pytest.fixture
def usual():
    draw = np.random.default_rng(0)
    in_degree = np.r_[0, 0, 0, draw.geometric(0.2, 97)]
    return table(in_degree, np.where(in_degree == 0, np.nan, draw.random(100)), draw.random(100) < 0.2)


def points(axes):
    """(x, y) of every scattered gene."""
    scattered = [drawn.get_offsets() for drawn in axes.collections if isinstance(drawn, PathCollection)]
    return np.concatenate([np.asarray(offsets) for offsets in scattered])


def legend(axes):
    return " | ".join(text.get_text() for text in axes.get_legend().get_texts())


@pytest.mark.parametrize(("draw", "column"), [(DRAW[0], "in_degree"), (DRAW[1], "mean_expression")])
def test_every_defined_gene_is_one_point_at_its_place(draw, column, usual):
    axes = draw(usual)
    drawn = usual.dropna(subset="w_eff")
    got = points(axes)
    assert len(got) == len(drawn) == 97
    np.testing.assert_allclose(np.sort(got[:, 1]), np.sort(drawn["w_eff"]), rtol=1e-12)
    by_weight = drawn.sort_values("w_eff")[column].to_numpy()
    spread = 0.081 if column == "in_degree" else 1e-12
    np.testing.assert_allclose(got[np.argsort(got[:, 1]), 0], by_weight, rtol=np.expm1(spread), atol=1e-12)


@pytest.mark.parametrize("draw", DRAW[:2])
def test_tfs_differ_in_colour_and_marker_and_are_counted(draw, usual):
    axes = draw(usual)
    drawn = usual.dropna(subset="w_eff")
    assert f"transcription factors ({drawn['is_tf'].sum()})" in legend(axes)
    assert f"other genes ({(~drawn['is_tf']).sum()})" in legend(axes)
    groups = [drawn for drawn in axes.collections if isinstance(drawn, PathCollection)]
    assert len({tuple(group.get_facecolor()[0]) for group in groups}) == 2
    assert len({len(group.get_paths()[0].vertices) for group in groups}) == 2


@pytest.mark.parametrize("draw", DRAW)
def test_undefined_genes_are_counted_by_reason(draw, usual):
    usual.loc[3, "w_eff"] = np.nan  # has regulators, equals their mean
    text = legend(draw(usual))
    assert "3 genes of in-degree 0" in text
    assert "1 gene equal to the mean" in text
    assert "not drawn" not in legend(draw(usual.dropna(subset="w_eff")))


def test_axes_name_their_quantities_and_the_degree_axis_is_logarithmic(usual):
    degree, expression, hist = (draw(usual) for draw in DRAW)
    assert degree.get_xscale() == "log" and expression.get_xscale() == "linear"
    assert "in-degree" in degree.get_xlabel() and "mean expression" in expression.get_xlabel()
    assert degree.get_xlim()[0] > 0
    for axes in (degree, expression):
        assert "effective weight" in axes.get_ylabel() and axes.get_ylim() == (0, 1)
    assert "effective weight" in hist.get_xlabel() and hist.get_xlim() == (0, 1) and hist.get_ylabel() == "genes"


def test_the_histogram_counts_every_defined_gene_and_marks_median_and_quartiles():
    weights = np.linspace(0, 1, 101)
    axes = figures.shrinkage_hist(table(np.ones(101, int), weights))
    assert sum(bar.get_height() for bar in axes.patches if bar.get_width() < 0.03) == 101
    assert "median 0.50" in legend(axes) and "quartiles 0.25 to 0.75" in legend(axes)
    assert any(line.get_xdata()[0] == pytest.approx(0.5) for line in axes.lines if len(line.get_xdata()))


def trend_line(axes):
    (line,) = (line for line in axes.lines if line.get_label().startswith("trend"))
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_the_trend_follows_a_line_and_its_band_holds_the_line():
    expression = np.linspace(0, 4, 200)
    noise = np.random.default_rng(1).normal(0, 0.02, 200)
    axes = figures.shrinkage_vs_expr(table(np.ones(200, int), 0.2 + 0.15 * expression + noise, expression=expression))
    x, y = trend_line(axes)
    # a spline of 4 parameters on 200 genes; its variance at an end is at most 16 sigma^2 / 200
    assert np.abs(y - (0.2 + 0.15 * x)).max() < 5 * 0.02 * np.sqrt(16 / 200)


def test_one_far_gene_does_not_bend_the_trend():
    expression = np.linspace(0, 1, 300)
    rows = pd.DataFrame({"gene": range(300), "in_degree": 1, "mean_expression": expression, "is_tf": False,
                         "w_eff": 0.2 + 0.5 * expression})  # fmt: skip
    rows.loc[299, ["mean_expression", "w_eff"]] = 30.0, 0.0
    x, y = trend_line(figures.shrinkage_vs_expr(rows))
    assert x.max() < 1
    np.testing.assert_allclose(y, 0.2 + 0.5 * x, atol=1e-6)


def test_the_trend_against_degree_is_fitted_on_the_logarithm():
    degree = np.repeat([1, 2, 4, 8, 16, 32], 20)
    axes = figures.shrinkage_vs_degree(table(degree, 0.1 + 0.1 * np.log2(degree)))
    x, y = trend_line(axes)
    assert x.min() == pytest.approx(1) and x.max() == pytest.approx(32)
    np.testing.assert_allclose(y, 0.1 + 0.1 * np.log2(x), atol=1e-8)


@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize(
    "odd",
    [
        table([1], [0.5]),
        table([1, 1], [0.5, 0.5]),
        table([1, 2, 3], [0.1, 0.2, 0.3]),
        table([1, 2, 3, 4], [0.1, 0.2, 0.9, 0.3]),
        table([1] * 60 + [2, 3, 4, 50], [0.5] * 64),
        table([1, 2, 3, 4, 5], [0.0, 1.0, 0.0, 1.0, 0.5], [True] * 5),
        table([5, 5, 5, 5, 5], [0.1, 0.2, 0.3, 0.4, 0.5], expression=np.zeros(5)),
        table([0, 0], [np.nan, np.nan]),
        table([3, 3], [np.nan, np.nan]),
        table([1, 2, 3, 4, 1000], [0.1, 0.2, 0.9, 0.3, 0.4], expression=[1e-30, 0.0, -2.0, 1e6, 3.0]),
    ],
    ids=["one gene", "two", "three", "four", "ties", "all TFs", "one degree", "all orphans", "all equal", "wide"],
)
def test_odd_tables_draw_without_a_warning(draw, odd):
    axes = draw(odd)
    axes.figure.canvas.draw()
    for line in axes.lines:
        assert np.isfinite(np.asarray(line.get_ydata(), dtype=float)).all()


@pytest.mark.parametrize("draw", DRAW)
def test_it_draws_where_it_is_told_and_leaves_the_global_style_alone(draw, usual):
    before = dict(mpl.rcParams)
    _, ax = plt.subplots()
    assert draw(usual, ax) is ax
    assert draw(usual) is not ax
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("draw", DRAW)
def test_it_leaves_the_table_alone_and_draws_the_same_twice(draw, usual):
    copy = usual.copy()
    pictures = []
    for _ in range(2):
        figure = draw(usual).figure
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba()).copy())
    pd.testing.assert_frame_equal(usual, copy)
    assert np.array_equal(*pictures)
    assert pictures[0].std() > 1


def test_save_diagnostics_writes_the_notes_names_on_white_and_closes(usual, tmp_path):
    figures.save_diagnostics(usual, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "shrinkage_vs_degree.png",
        "shrinkage_hist.png",
        "shrinkage_vs_expr.png",
    }
    for file in tmp_path.iterdir():
        picture = plt.imread(file)
        assert picture.shape[:2] == (600, 960), "150 dots an inch"
        assert picture[0, 0, :3].tolist() == [1, 1, 1]
    assert plt.get_fignums() == []


def test_save_diagnostics_writes_each_figure_under_its_own_name(usual, tmp_path):
    plt.figure()  # another figure is current
    figures.save_diagnostics(usual, tmp_path)
    for draw in DRAW:
        own = tmp_path / "own.png"
        draw(usual).figure.savefig(own, dpi=150)
        assert np.array_equal(plt.imread(own), plt.imread(tmp_path / f"{draw.__name__}.png"))


def test_style_is_white_and_its_colours_differ():
    figures.use_style()
    assert to_rgba(plt.rcParams["figure.facecolor"]) == to_rgba(plt.rcParams["savefig.facecolor"]) == (1, 1, 1, 1)
    assert plt.rcParams["font.size"] >= 11
    hues = {name: to_rgba(color) for name, color in figures.COLORS.items() if name != "trend"}
    assert len(set(hues.values())) == len(hues)
