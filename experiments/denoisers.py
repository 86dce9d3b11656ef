"""Hold Bayes' rule against what people use to denoise counts: the table of chapter 15.

    python experiments/denoisers.py        both sets of counts, five splits each, and two simulations; about four minutes

Writes book/results/denoisers.json. Commit first: the result names its commit. MAGIC runs from its own package, which is the
extra `peers`; ebnm, SAVER and netSmooth exist for R only and are written anew here, from their papers.

The molecules are halved by a fair coin, and the cells are halved: the second half of the molecules of the *test* cells is
predicted from the first. Every rule is offered the graph and the first half of the molecules of all genes in all cells.
What is estimated per gene is estimated in the other cells, the *training* cells; only MAGIC, which has no training, works on
all cells at once. Two rules also see the second half of the training cells, to choose by the squared error that they make
there: the best linear weight, and netSmooth its alpha. Nothing sees the second half of the test cells.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy import special

import regnet
from regnet.counts import log_noise_variance

sys.path.insert(0, str(Path(__file__).resolve().parent))
from trends import COUNTS, RESULTS, provenance, require_commit, rounded, store

SPLITS, RARE = 5, 0.25
ALPHAS = np.arange(1, 10) / 10  # those among which netSmooth chooses by default


class Problem(NamedTuple):
    """Two halves of the molecules of one set of cells. A count is Poisson with mean rate * depth."""

    first: np.ndarray  # (genes, cells)
    second: np.ndarray
    depth: np.ndarray  # (cells,)
    edges: torch.Tensor
    judged: np.ndarray  # the genes with a regulator
    rare: np.ndarray  # of the judged ones, the quarter with the fewest molecules
    train: np.ndarray  # cells
    test: np.ndarray
    seed: int

    @property
    def x(self) -> np.ndarray:
        """Log expression in the first half, all genes: what the layer sees."""
        return np.log1p(self.first / self.depth)

    @property
    def target(self) -> np.ndarray:
        """Log expression in the second half, judged genes."""
        return np.log1p(self.second[self.judged] / self.depth)


def split(counts: torch.Tensor, per_count: torch.Tensor, edges: torch.Tensor, seed: int) -> Problem:
    """The halves of chapter 13: the same molecules and the same cells for the same seed."""
    first, second = (half.numpy().astype(float) for half in regnet.split_counts(counts, seed=seed))
    judged = regnet.in_degree(edges, len(counts)).numpy() > 0
    train, test = np.array_split(np.random.default_rng([0, seed]).permutation(counts.size(1)), 2)
    total = counts.sum(dim=1).numpy()[judged]
    rare = total <= np.quantile(total, RARE)
    return Problem(first, second, 0.5 / per_count.numpy(), edges, judged, rare, train, test, seed)


# ---------------------------------------------------------------- the noise variance, as in chapter 13


def noise_variance(p: Problem) -> np.ndarray:
    """Of log expression, per judged gene, from the training cells."""
    counts = torch.from_numpy(p.first[p.judged][:, p.train])
    return log_noise_variance(counts, torch.from_numpy(1 / p.depth[p.train])).numpy()


def regulators_mean(p: Problem) -> np.ndarray:
    return regnet.neighbor_mean(torch.from_numpy(p.x), p.edges).numpy()[p.judged]


def posterior_mean(p: Problem, m: np.ndarray, fitted: int = 0) -> np.ndarray:
    """Eq. (1): the prior variance is what x - m has beyond the noise in the training cells, m having fitted parameters."""
    noise, d = noise_variance(p), p.x[p.judged] - m
    prior = ((d[:, p.train] ** 2).sum(axis=1) / (len(p.train) - fitted) - noise).clip(1e-9)
    weight = regnet.posterior_weight(torch.from_numpy(noise), torch.from_numpy(prior)).numpy()
    return (m + weight[:, None] * d)[:, p.test]


# ---------------------------------------------------------------- the rules: each returns (judged genes, test cells)


def nothing(p: Problem) -> np.ndarray:
    return p.x[p.judged][:, p.test]


def own_mean(p: Problem) -> np.ndarray:
    x = p.x[p.judged]
    return posterior_mean(p, np.broadcast_to(x[:, p.train].mean(axis=1, keepdims=True), x.shape), fitted=1)


def bayes(p: Problem) -> np.ndarray:
    return posterior_mean(p, regulators_mean(p))


def best_linear(p: Problem) -> np.ndarray:
    """The weight with the smallest squared error in the training cells, from both of their halves."""
    m = regulators_mean(p)
    d1, d2 = p.x[p.judged] - m, p.target - m
    weight = (d1 * d2)[:, p.train].sum(axis=1) / (d1**2)[:, p.train].sum(axis=1).clip(1e-9)
    return (m + weight[:, None] * d1)[:, p.test]


def fay_herriot(p: Problem) -> np.ndarray:
    """Prior mean a + b m, least squares per gene in the training cells."""
    x, m = p.x[p.judged], regulators_mean(p)
    m = m - m[:, p.train].mean(axis=1, keepdims=True)
    center = x[:, p.train].mean(axis=1, keepdims=True)
    slope = ((x - center) * m)[:, p.train].sum(axis=1) / (m**2)[:, p.train].sum(axis=1).clip(1e-9)
    return posterior_mean(p, center + slope[:, None] * m, fitted=2)


class PointNormal(NamedTuple):
    """A prior per row: theta = mode with probability spike, and normal around the mode with this variance otherwise."""

    spike: np.ndarray
    mode: np.ndarray
    variance: np.ndarray

    def slab(self, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Posterior probability that theta is not the mode."""
        wide, square = noise + self.variance, (x - self.mode) ** 2
        odds = np.log(self.spike.clip(1e-12)) - np.log((1 - self.spike).clip(1e-12)) + (np.log(wide / noise)) / 2
        return special.expit(square / 2 * (1 / noise - 1 / wide) - odds)

    def mean(self, x: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return self.mode + self.slab(x, noise) * self.variance / (noise + self.variance) * (x - self.mode)


def fit_point_normal(x: np.ndarray, noise: np.ndarray, spike: float | None = None, steps: int = 400) -> PointNormal:
    """Maximum likelihood for every row of x by EM, with a scoring step for the variance. spike: keep it at this value."""
    mode = x.mean(axis=1, keepdims=True)
    start = 2 * np.maximum(x.var(axis=1, keepdims=True) - np.mean(noise, axis=1, keepdims=True), 1e-3 * np.mean(noise))
    prior = PointNormal(np.full_like(mode, 0.5 if spike is None else spike), mode, start)
    for _ in range(steps):
        slab, wide = prior.slab(x, noise), noise + prior.variance
        precision = (1 - slab) / noise + slab / wide
        mode = (precision * x).sum(axis=1, keepdims=True) / precision.sum(axis=1, keepdims=True)
        weight = slab / wide**2
        variance = (weight * ((x - mode) ** 2 - noise)).sum(axis=1, keepdims=True) / weight.sum(axis=1, keepdims=True)
        share = 1 - slab.mean(axis=1, keepdims=True) if spike is None else prior.spike
        prior = PointNormal(share, mode, variance.clip(1e-12))
    return prior


def point_normal(p: Problem) -> np.ndarray:
    """ebnm's problem: a gene's cells are the means, the prior is fitted in the training cells, its mode too."""
    x, noise = p.x[p.judged], noise_variance(p).clip(1e-9)[:, None]
    return fit_point_normal(x[:, p.train], noise).mean(x[:, p.test], noise)


def expected_log(shape: np.ndarray, rate: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Mean of log(1 + c / depth) where c is Poisson with mean lambda * depth, and lambda Gamma(shape, rate): an exact sum.

    Where more than 50 molecules are expected, the second-order expansion around their mean.
    """
    shape, rate, depth = (part.ravel() for part in np.broadcast_arrays(shape, rate, depth))
    mean = shape / rate
    level = 1 + mean
    result = np.log(level) - (mean / depth + mean / rate) / (2 * level**2)
    few = mean * depth <= 50
    shape, share, depth = shape[few], depth[few] / (rate[few] + depth[few]), depth[few]
    mass, total, left, number = np.exp(shape * np.log1p(-share)), np.zeros(few.sum()), np.ones(few.sum()), 0
    active = np.arange(len(total))
    while len(active):
        total[active] += mass * np.log1p(number / depth[active])
        left[active] -= mass
        mass = mass * (number + shape[active]) / (number + 1) * share[active]
        number += 1
        going = (left[active] > 1e-9) & ((mass > 1e-13) | (number < 100))
        active, mass = active[going], mass[going]
    result[few] = total
    return result


def gamma_prior(counts: np.ndarray, depth: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SAVER's prior around a mean: constant coefficient of variation, Fano factor or variance, whichever is likeliest.

    Returns the kind of law and its parameter, both per gene, by maximum likelihood on a grid of coefficients of variation.
    """
    best, law, found = np.full(len(counts), -np.inf), np.zeros(len(counts), int), np.ones(len(counts))
    constant = bool((mean == mean[:, :1]).all())  # then the three are one
    for kind in (1,) if constant else range(3):
        for squared in np.geomspace(1e-3, 1e2, 51):
            value = squared * mean.mean(axis=1, keepdims=True) ** kind
            shape, rate = gamma_law(kind, mean, value)
            likelihood = special.gammaln(counts + shape) - special.gammaln(shape) + shape * np.log(rate / (rate + depth))
            likelihood = (likelihood + counts * np.log(depth / (rate + depth))).sum(axis=1)
            better = likelihood > best
            best[better], law[better], found[better] = likelihood[better], kind, value[better, 0]
    return law, found


def gamma_law(kind: int | np.ndarray, mean: np.ndarray, value: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape and rate of the gamma law of this mean whose variance is value * mean ** (2, 1 or 0)."""
    variance = value * mean ** (2 - kind)
    return mean**2 / variance, mean / variance


def gamma_poisson(p: Problem, mean: np.ndarray, plug_in: bool = False) -> np.ndarray:
    """SAVER: the posterior of a rate is gamma with shape + count and rate + depth; its prediction on the log scale."""
    counts = p.first[p.judged]
    kind, value = (part[:, None] for part in gamma_prior(counts[:, p.train], p.depth[p.train], mean[:, p.train]))
    shape, rate = gamma_law(kind, mean[:, p.test], value)
    shape, rate = shape + counts[:, p.test], rate + p.depth[p.test]
    if plug_in:
        return np.log1p(shape / rate)
    return expected_log(shape, rate, p.depth[p.test]).reshape(shape.shape)


def gene_rate(p: Problem) -> np.ndarray:
    rate = p.first[p.judged][:, p.train].sum(axis=1, keepdims=True) / p.depth[p.train].sum()
    return np.broadcast_to(rate.clip(1e-6), (len(rate), len(p.depth)))


def saver_mean(p: Problem) -> np.ndarray:
    """Around the gene's mean: what SAVER itself does with `null.model`."""
    return gamma_poisson(p, gene_rate(p))


def ridge_poisson(y: np.ndarray, depth: np.ndarray, design: np.ndarray, penalty: float, steps: int = 6) -> np.ndarray:
    """Coefficients, per gene, of a log-linear Poisson rate, by Newton's method; the intercept is not penalised."""
    ridge = penalty * np.eye(design.shape[2])
    ridge[0, 0] = 1e-6
    b = np.zeros((len(y), design.shape[2], 1))
    b[:, 0, 0] = np.log((y.sum(axis=1) / depth.sum()).clip(1e-6))
    for _ in range(steps):
        mean = depth * np.exp((design @ b)[:, :, 0].clip(-15, 8))
        slope = design.transpose(0, 2, 1) @ (y - mean)[:, :, None] - ridge @ b
        curvature = design.transpose(0, 2, 1) @ (mean[:, :, None] * design) + ridge
        step = np.linalg.solve(curvature, slope)
        b = b + step / np.maximum(1, np.abs(step).max(axis=1, keepdims=True))
    return b


def saver_regression(p: Problem, components: int = 10, penalties: tuple = (30.0, 3.0), folds: int = 5) -> np.ndarray:
    """Around a Poisson regression on the other genes, whose penalty is chosen per gene by five folds of the training cells.

    SAVER has a lasso on all other genes. Here it is a ridge on their first principal components, each without the gene's
    own part, and the null model is among the choices: the lasso of a thousand genes takes hours.
    """
    x, y = p.x, p.first[p.judged]
    spread = x[:, p.train].std(axis=1, keepdims=True)
    z = (x - x[:, p.train].mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, np.inf)
    loading = np.linalg.svd(z[:, p.train], full_matrices=False)[0][:, :components]
    score = (z.T @ loading)[None] - z[p.judged][:, :, None] * loading[p.judged][:, None, :]
    score /= score[:, p.train].std(axis=1, keepdims=True).clip(1e-9)
    design = np.concatenate([np.ones((*y.shape, 1)), score.clip(-4, 4)], axis=2)

    def rate(penalty: float, learn: np.ndarray, of: np.ndarray) -> np.ndarray:
        if np.isinf(penalty):
            mean = y[:, learn].sum(axis=1, keepdims=True) / p.depth[learn].sum()
            return np.broadcast_to(mean.clip(1e-6), (len(y), len(of)))
        b = ridge_poisson(y[:, learn], p.depth[learn], design[:, learn], penalty)
        return np.exp((design[:, of] @ b)[:, :, 0].clip(np.log(1e-6), 8))

    choices, loss = (np.inf, *penalties), np.zeros((1 + len(penalties), len(y)))
    for out in np.array_split(p.train, folds):
        learn = np.setdiff1d(p.train, out)
        for k, penalty in enumerate(choices):
            mean = rate(penalty, learn, out) * p.depth[out]
            loss[k] += (mean - y[:, out] * np.log(mean)).sum(axis=1)
    everywhere = np.arange(len(p.depth))
    fitted = np.stack([rate(penalty, p.train, everywhere) for penalty in choices])
    return gamma_poisson(p, fitted[loss.argmin(axis=0), np.arange(len(y))])


def diffusion(edges: np.ndarray, num_genes: int, alpha: float) -> np.ndarray:
    """netSmooth's kernel (1 - alpha) (I - alpha A)^-1: A is the undirected graph, rows divided by the degree.

    Genes without an edge are no part of netSmooth's network, and keep their expression.
    """
    graph = np.zeros((num_genes, num_genes))
    graph[edges[1], edges[0]] = graph[edges[0], edges[1]] = 1
    alone = graph.sum(axis=1) == 0
    graph[alone, alone] = 1
    return (1 - alpha) * np.linalg.inv(np.eye(num_genes) - alpha * graph / graph.sum(axis=1, keepdims=True))


def net_smooth(p: Problem, alphas: np.ndarray = ALPHAS) -> np.ndarray:
    """On log expression, with the alpha of the smallest squared error in the training cells."""
    smoothed = [(diffusion(p.edges.numpy(), len(p.first), alpha) @ p.x)[p.judged] for alpha in alphas]
    errors = [((each - p.target)[:, p.train] ** 2).mean() for each in smoothed]
    return smoothed[int(np.argmin(errors))][:, p.test]


def magic_impute(p: Problem, cells: np.ndarray | None = None) -> np.ndarray:
    """MAGIC at its defaults, on log expression of all genes that are seen, in all cells."""
    import magic

    cells = np.arange(len(p.depth)) if cells is None else cells
    seen, result = p.first[:, cells].any(axis=1), np.zeros((len(p.first), len(p.depth)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smoothed = magic.MAGIC(random_state=p.seed, verbose=0).fit_transform(p.x[seen][:, cells].T)
    result[np.ix_(seen, cells)] = smoothed.T
    return result[p.judged][:, p.test]


RULES: dict[str, Callable[[Problem], np.ndarray]] = {
    "nothing": nothing,
    "Bayes, own mean": own_mean,
    "Bayes, regulators' mean": bayes,
    "best linear weight, regulators' mean": best_linear,
    "Fay-Herriot, a + b regulators' mean": fay_herriot,
    "point-normal (ebnm)": point_normal,
    "gamma-Poisson (SAVER), own mean": saver_mean,
    "gamma-Poisson (SAVER), other genes": saver_regression,
    "diffusion on the graph (netSmooth)": net_smooth,
    "diffusion between cells (MAGIC)": magic_impute,
}
VARIANTS: dict[str, Callable[[Problem], np.ndarray]] = {
    "SAVER, own mean, log of the posterior mean": lambda p: gamma_poisson(p, gene_rate(p), plug_in=True),
    "netSmooth, alpha 0.5": lambda p: net_smooth(p, np.array([0.5])),
    "MAGIC on the test cells alone": lambda p: magic_impute(p, p.test),
}
FAST = tuple(name for name in RULES if "other genes" not in name and "MAGIC" not in name)


def judge(p: Problem, predicted: np.ndarray) -> tuple[float, float]:
    """Mean squared error in the test cells, and the bias of rare genes relative to their mean."""
    target = p.target[:, p.test]
    bias = (predicted - target)[p.rare].sum() / target[p.rare].sum()
    return float(((predicted - target) ** 2).mean()), float(bias)


def run(p: Problem, rules: dict[str, Callable[[Problem], np.ndarray]]) -> dict[str, dict[str, float]]:
    """Error, bias and processor seconds of every rule."""
    result = {}
    for name, rule in rules.items():
        start = time.process_time()
        predicted = rule(p)
        seconds = time.process_time() - start
        error, bias = judge(p, predicted)
        result[name] = {"error": error, "bias": bias, "seconds": seconds}
    return result


# ---------------------------------------------------------------- the run


@cache
def load(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    data = regnet.load_dataset(name, dtype=torch.float64)
    return *regnet.recover_counts(data.x), data.edge_index


def cell(name: str, seed: int, rules: dict[str, Callable[[Problem], np.ndarray]]) -> dict[str, dict[str, float]]:
    """One split of one set of counts: error relative to doing nothing, bias, and time relative to Bayes' rule."""
    torch.set_num_threads(1)
    found = run(split(*load(name), seed), rules)
    nothing, unit = found["nothing"]["error"], found["Bayes, regulators' mean"]["seconds"]
    return {
        rule: {"error": one["error"] / nothing, "bias": one["bias"], "time": one["seconds"] / unit, "absolute": one["error"]}
        for rule, one in found.items()
    }


def simulate(law: str, seed: int = 0, genes: int = 300, cells: int = 400) -> tuple[Problem, np.ndarray, Callable]:
    """Counts whose rates are known, those rates, and the rule that knows their law (or the best rule without its numbers).

    law "own": rates vary independently around the gene's mean, which is what a gamma-Poisson rule assumes. law
    "regulators": log expression is that of the regulators and noise, which is what the note assumes.
    """
    rng = np.random.default_rng([seed, 1])
    regulators = np.array([rng.choice(30, 3, replace=False) for _ in range(30, genes)])
    edges = torch.from_numpy(np.stack([regulators.ravel(), np.repeat(np.arange(30, genes), 3)]))
    depth = rng.lognormal(np.log(0.2), 0.4, cells)
    shape, mean = rng.uniform(0.5, 4, (genes, 1)), rng.lognormal(0.5, 1, (genes, 1))
    if law == "own":
        rate = rng.gamma(shape, mean / shape, (genes, cells))
    else:
        level = rng.normal(3, 1, (genes, cells))
        level[30:] = level[regulators].mean(axis=1) + rng.normal(0, 0.5, (genes - 30, cells))
        rate = np.expm1(level.clip(0.05))
    first, second = rng.poisson(rate * depth).astype(float), rng.poisson(rate * depth).astype(float)
    judged = np.arange(genes) >= 30
    total = (first + second).sum(axis=1)[judged]
    train, test = np.array_split(rng.permutation(cells), 2)
    p = Problem(first, second, depth, edges, judged, total <= np.quantile(total, RARE), train, test, seed)

    def knowing(p: Problem) -> np.ndarray:
        at = np.ix_(p.judged, p.test)
        given = (shape + p.first)[at], (shape / mean + p.depth)[at]
        return expected_log(*given, p.depth[p.test]).reshape(given[0].shape)

    return p, rate, knowing if law == "own" else fay_herriot


def check_judge(law: str, rules: dict[str, Callable[[Problem], np.ndarray]], seed: int = 0) -> dict[str, dict[str, float]]:
    """Per rule the error that the judge sees, from the second half, and the error against what that half is expected to be.

    They differ by the noise of the second half, the same for all rules.
    """
    p, rate, knowing = simulate(law, seed)
    rates, sharp = rate[np.ix_(p.judged, p.test)], 1e8  # a gamma law without width is a Poisson count of known rate
    truth = expected_log(np.full_like(rates, sharp), sharp / rates, p.depth[p.test]).reshape(rates.shape)
    result = {}
    for name, rule in (rules | ({"knowing the law": knowing} if law == "own" else {})).items():
        predicted = rule(p)
        result[name] = {"judged": judge(p, predicted)[0], "truth": float(((predicted - truth) ** 2).mean())}
    return result


def main() -> int:
    require_commit()
    import magic  # noqa: F401  before a clock runs

    rules, data = RULES | VARIANTS, {}
    for name in COUNTS:
        run(split(*load(name), SPLITS), {"nothing": nothing, "Bayes, own mean": own_mean, "MAGIC": magic_impute})  # warm
        found = [cell(name, seed, rules) for seed in range(SPLITS)]
        p = split(*load(name), 0)
        data[name] = {
            "genes": int(p.judged.sum()),
            "rare_genes": int(p.rare.sum()),
            "training_cells": len(p.train),
            "test_cells": len(p.test),
            "rules": {rule: {what: [one[rule][what] for one in found] for what in found[0][rule]} for rule in rules},
        }
        for rule, values in data[name]["rules"].items():
            print(f"{name}  {rule:45s}" + "".join(f"{what} {np.mean(of):8.3f}  " for what, of in values.items()), flush=True)
    result = {
        "provenance": provenance("python experiments/denoisers.py", "magic-impute", "graphtools", "scprep")
        | {"splits": SPLITS, "processor_seconds": time.process_time()},
        "rules": list(RULES),
        "data": data,
        "simulations": {law: check_judge(law, RULES) for law in ("own", "regulators")},
    }
    store(RESULTS / "denoisers.json", rounded(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
