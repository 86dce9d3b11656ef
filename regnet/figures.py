"""The note's three diagnostic figures, the curve of a training, and the one style of every figure in the book."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy import stats
from sklearn.preprocessing import SplineTransformer

COLORS = {
    "self": "#0072B2",
    "neighbor": "#D55E00",
    "tf": "#CC79A7",
    "other": "#56B4E9",
    "truth": "#000000",
    "trend": "#000000",
    "good": "#009E73",
    "muted": "#7F7F7F",
}

_STYLE = {
    "figure.figsize": (6.4, 4.0),
    "figure.dpi": 220,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=[COLORS[name] for name in ("self", "neighbor", "good", "tf", "other", "muted")]),
    "image.cmap": "viridis",
    "lines.linewidth": 1.8,
}
_UNTRAINED: dict[str, Any] = {"color": COLORS["muted"], "alpha": 0.65, "linewidth": 0, "zorder": 3.2}


def use_style() -> None:
    """Set matplotlib's defaults to the book's style: white background, one palette, text as large as the page's.

    The colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
    """
    plt.rcParams.update(_STYLE)


def shrinkage_vs_degree(table: pd.DataFrame, ax: Axes | None = None, controls: np.ndarray | None = None) -> Axes:
    """Weight against in-degree on a logarithmic axis, with a trend and its 95 % band.

    Genes of one in-degree are spread sideways by up to 8 %, so that they can be told apart. On a reversed graph the
    in-degree is the number of a gene's targets, which the layer then averages.

    Args:
        table: from :func:`regnet.shrinkage_table`.
        ax: axes to draw in, which are returned; by default those of a new figure.
        controls: weights of untrained layers, shape (count, genes), of whose trends the range is drawn.

    References:
        Section 8 of the note.

    >>> table = pd.DataFrame({"in_degree": [1, 2], "is_tf": [True, False], "w_eff": [0.3, 0.6]})
    >>> shrinkage_vs_degree(table).get_xscale()
    'log'
    """
    return _scatter_with_trend(table, "in_degree", "in-degree (number of genes averaged)", ax, controls, log=True)


def shrinkage_vs_expr(table: pd.DataFrame, ax: Axes | None = None, controls: np.ndarray | None = None) -> Axes:
    """Weight against mean expression, in the unit of ``x``, as :func:`shrinkage_vs_degree` draws it.

    >>> weights = {"in_degree": [1, 2], "mean_expression": [0.1, 2.0], "is_tf": [True, False], "w_eff": [0.3, 0.6]}
    >>> shrinkage_vs_expr(pd.DataFrame(weights)).get_xlabel()
    'mean expression (unit of x)'
    """
    return _scatter_with_trend(table, "mean_expression", "mean expression (unit of x)", ax, controls, log=False)


def shrinkage_hist(table: pd.DataFrame, ax: Axes | None = None, controls: np.ndarray | None = None) -> Axes:
    """Distribution of the weight, with its median and quartiles; arguments as in :func:`shrinkage_vs_degree`.

    >>> shrinkage_hist(pd.DataFrame({"in_degree": [1, 2], "w_eff": [0.3, 0.6]})).get_xlim()
    (np.float64(0.0), np.float64(1.0))
    """
    with plt.rc_context(_STYLE):
        ax = ax or plt.subplots()[1]
        weights = table["w_eff"].dropna()
        if controls is not None:
            counts, edges = zip(*(np.histogram(control, bins=40, range=(0, 1)) for control in controls), strict=True)
            low, high = (np.pad(end(counts, axis=0), (0, 1), "edge") for end in (np.min, np.max))
            ax.fill_between(
                edges[0], low, high, step="post", label=f"range of {len(controls)} untrained layers", **_UNTRAINED
            )
        ax.hist(weights, bins=40, range=(0, 1), color=COLORS["other"], edgecolor="white", linewidth=0.4)
        if len(weights):
            low, median, high = weights.quantile([0.25, 0.5, 0.75])
            ax.axvline(median, color=COLORS["trend"], linewidth=2.4, zorder=4, label=f"median {median:.2f}")
            for quartile, label in ((low, f"quartiles {low:.2f} to {high:.2f}"), (high, None)):
                ax.axvline(quartile, color=COLORS["trend"], linestyle=":", zorder=4, label=label)
        _label_undefined(ax, table)
        ax.set(xlim=(0, 1), xlabel=r"effective weight $w^{\mathrm{eff}}$", ylabel="genes")
        columns = 2 if len(weights) else 1  # the reasons alone are too long for two columns
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
    return ax


def training_curve(
    history: Mapping[str, Sequence[float]], baselines: Mapping[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """Validation AUPRC against the epoch, with the epoch that is kept.

    Args:
        history: that of :func:`regnet.pretrain`.
        baselines: validation AUPRC of what trains no network, by name.
        ax: axes to draw in, which are returned; by default those of a new figure.

    >>> training_curve({"epoch": [0, 5], "loss": [1.2, 1.0], "val_auprc": [0.1, 0.2]}).get_xlabel()
    'epoch'
    """
    with plt.rc_context(_STYLE):
        ax = ax or plt.subplots()[1]
        epochs, auprc = history["epoch"], history["val_auprc"]
        best = int(np.argmax(auprc))
        ax.plot(epochs, auprc, color=COLORS["self"], label="RegNet")
        ax.plot(epochs[best], auprc[best], "o", color=COLORS["truth"], label=f"kept: epoch {epochs[best]:.0f}")
        for (name, value), style in zip((baselines or {}).items(), ("--", ":", "-."), strict=False):
            ax.axhline(value, color=COLORS["muted"], linestyle=style, label=name)
        ax.set(xlabel="epoch", ylabel="validation AUPRC", ylim=(0, None))
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax


def _scatter_with_trend(
    table: pd.DataFrame, column: str, label: str, ax: Axes | None, controls: np.ndarray | None, log: bool
) -> Axes:
    with plt.rc_context(_STYLE):
        ax = ax or plt.subplots()[1]
        drawn = table.dropna(subset="w_eff")
        at = np.log(drawn[column]) if log else drawn[column]
        for is_tf, marker, name in ((False, "o", "other genes"), (True, "^", "transcription factors")):
            group = drawn["is_tf"] == is_tf
            x = drawn.loc[group, column]
            if log:
                x = x * np.exp(np.random.default_rng(0).uniform(-0.08, 0.08, len(x)))
            edge = COLORS["truth"] if is_tf else "none"
            face = COLORS["tf"] if is_tf else COLORS["other"]
            many = group.sum() > 200
            ax.scatter(
                x,
                drawn.loc[group, "w_eff"],
                s=(9 if many else 34) if is_tf else 14,
                marker=marker,
                color=face,
                edgecolor="none" if many else edge,  # hundreds of edges would be a black cloud
                linewidth=0.6,
                alpha=0.9 if is_tf and not many else 0.6,
                label=f"{name} ({group.sum()})",
                zorder=2 if 2 * group.sum() > len(drawn) else 3,  # the smaller group on top
            )
        inside = at.between(*at.quantile([0.01, 0.99]))  # an outlying gene must not bend the trend
        if at[inside].nunique() > 3:  # a spline of four parameters
            grid, middle, low, high = trend_band(at[inside].to_numpy(), drawn.loc[inside, "w_eff"].to_numpy())
            grid = np.exp(grid) if log else grid
            for end in (low, high):  # dotted, because the range of untrained layers is shaded
                ax.plot(grid, end, ":", color=COLORS["trend"], linewidth=1.2, zorder=6)
            ax.plot(grid, middle, color="white", linewidth=5, zorder=3.5)  # outline over the points
            ax.plot(grid, middle, color=COLORS["trend"], linewidth=2.4, label="trend (dotted: 95 %)", zorder=6)
        if controls is not None:
            _draw_range(ax, at[inside], controls[:, table["w_eff"].notna()][:, inside], log)
        if log:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(FixedLocator([1, 2, 3, 4, 6, 8, 10, 15, 20, 30, 50, 100, 200, 500, 1000]))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
            if len(drawn):
                ax.set_xlim(drawn[column].min() * 0.85, drawn[column].max() * 1.18)
        _label_undefined(ax, table)
        ax.set(ylim=(0, 1), xlabel=label, ylabel=r"effective weight $w^{\mathrm{eff}}$")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def _draw_range(ax: Axes, at: pd.Series, controls: np.ndarray, log: bool) -> None:
    """Between the lowest and the highest trend of untrained layers, from the genes to which all of them respond."""
    defined = ~np.isnan(controls).any(axis=0)
    if at[defined].nunique() > 3:
        bands = [trend_band(at[defined].to_numpy(), control[defined]) for control in controls]
        grid, middles = bands[0][0], [middle for _, middle, _, _ in bands]
        grid, low, high = np.exp(grid) if log else grid, np.min(middles, axis=0), np.max(middles, axis=0)
        ax.fill_between(grid, low, high, label=f"range of {len(controls)} untrained layers", **_UNTRAINED)


def trend_band(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Grid over ``x``, quadratic spline of ``y`` on it, and its pointwise 95 % band (HC3, MacKinnon and White 1985)."""
    grid = np.linspace(x.min(), x.max(), 60)
    spline = SplineTransformer(n_knots=3, degree=2).fit(x[:, None])
    basis, on_grid = spline.transform(x[:, None]), spline.transform(grid[:, None])
    solve = np.linalg.pinv(basis, rcond=1e-10)
    leverage = (basis * solve.T).sum(axis=1)
    free = 1 - leverage > 1e-8
    # A gene of leverage 1 has no residual: its deviation could be the whole range of a weight. Hence not statsmodels' HC3.
    spread = np.where(free, y - basis @ (solve @ y), 1) / np.where(free, 1 - leverage, 1)
    freedom = max(1, len(x) - np.linalg.matrix_rank(basis))
    half_width = stats.t.ppf(0.975, freedom) * np.sqrt((((on_grid @ solve) * spread) ** 2).sum(axis=1))
    middle = on_grid @ (solve @ y)
    return grid, middle, middle - half_width, middle + half_width


def _label_undefined(ax: Axes, table: pd.DataFrame) -> None:
    """Count the genes without a weight in the legend."""
    undefined = table["w_eff"].isna()
    unregulated = (undefined & (table["in_degree"] == 0)).sum()
    reasons = {"of in-degree 0": unregulated, "equal to the mean,\nor without response": undefined.sum() - unregulated}
    for reason, count in reasons.items():
        if count:
            ax.plot([], [], " ", label=f"not drawn: {count} {'gene' if count == 1 else 'genes'} {reason}")
