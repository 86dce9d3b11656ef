"""The rules of the comparison of denoisers, its judge, and one cell of its stored result."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

ROOT = Path(__file__).parents[1]
D = runpy.run_path(str(ROOT / "experiments/denoisers.py"))


@pytest.fixture(scope="module")
def result():
    return json.loads((ROOT / "book/results/denoisers.json").read_text(encoding="utf-8"))


def test_one_cell_of_the_stored_result_comes_out_again(result):
    """Without the two slow rules; in float64 another processor changes the last digits only. Times are not compared."""
    found, stored = (
        D["cell"]("pbmc68k", 0, {name: D["RULES"][name] for name in D["FAST"]}),
        result["data"]["pbmc68k"]["rules"],
    )
    for name, values in found.items():
        assert values["error"] == pytest.approx(stored[name]["error"][0], rel=1e-3), name
        assert values["bias"] == pytest.approx(stored[name]["bias"][0], abs=1e-3), name


def test_the_stored_result_is_whole(result):
    assert result["rules"] == list(D["RULES"]) and list(result["data"]) == list(D["COUNTS"])
    for data in result["data"].values():
        assert list(data["rules"]) == [*D["RULES"], *D["VARIANTS"]]
        for values in data["rules"].values():
            assert {what: len(of) for what, of in values.items()} == dict.fromkeys(("error", "bias", "time", "absolute"), 5)


@pytest.mark.parametrize("law", ["own", "regulators"])
def test_the_judge_ranks_rules_as_the_truth_does(law):
    """The judged error is the error against the truth and the noise of the second half, the same for all rules."""
    found = D["check_judge"](law, {name: D["RULES"][name] for name in D["FAST"]})
    judged, truth = (np.array([one[what] for one in found.values()]) for what in ("judged", "truth"))
    entries = 270 * 200
    # The noise times the difference of two rules, over entries: its standard error is below sqrt(4 * noise * truth / n).
    tolerance = 4 * np.sqrt(4 * 0.6 * truth.max() / entries)
    np.testing.assert_allclose(judged - truth, np.median(judged - truth), atol=tolerance)
    far = np.abs(np.subtract.outer(truth, truth)) > tolerance
    assert (np.sign(np.subtract.outer(truth, truth)) == np.sign(np.subtract.outer(judged, judged)))[far].all()
    names = list(found)
    best = names[int(judged.argmin())]
    if law == "own":
        assert best == "knowing the law" and names[int(np.argsort(judged)[1])] == "gamma-Poisson (SAVER), own mean"
    else:  # where the note's model holds, its rule beats the gene's own mean
        assert judged[names.index("Bayes, regulators' mean")] < judged[names.index("Bayes, own mean")]
        assert judged[names.index("Fay-Herriot, a + b regulators' mean")] < judged[names.index("Bayes, own mean")]


def test_the_best_linear_weight_has_the_smallest_error_in_the_training_cells():
    p, *_ = D["simulate"]("regulators", seed=3)
    p = p._replace(test=p.train)
    best = D["judge"](p, D["best_linear"](p))[0]
    m, x = D["regulators_mean"](p)[:, p.train], D["nothing"](p)
    assert best <= D["judge"](p, D["bayes"](p))[0]
    assert all(best <= D["judge"](p, m + weight * (x - m))[0] for weight in (0.0, 0.3, 0.6, 1.0))


class R:
    """R's generator after set.seed, for the published example: Mersenne Twister, normal numbers by inversion."""

    def __init__(self, seed: int) -> None:
        state = []
        for _ in range(50 + 625):
            seed = (69069 * seed + 1) % 2**32
            state.append(seed)
        self.bits = np.random.MT19937()
        self.bits.state = {"bit_generator": "MT19937", "state": {"key": np.array(state[51:], np.uint32), "pos": 624}}

    def uniform(self, n: int) -> np.ndarray:
        return np.array([self.bits.random_raw() for _ in range(n)]) * 2.3283064365386963e-10

    def normal(self, n: int) -> np.ndarray:
        u = self.uniform(2 * n).reshape(n, 2)
        return stats.norm.ppf((np.floor(134217728 * u[:, 0]) + u[:, 1]) / 134217728)


def test_point_normal_reproduces_the_published_errors_of_ebnm():
    """The example of ebnm's own introduction: 400 means, root mean squared errors of three estimates."""
    r = R(1)
    theta = 2 + (r.uniform(400) < 0.2) * r.normal(400)
    x, noise = (theta + r.normal(400) / 3)[None], np.array([[1 / 9]])
    fits = [D["fit_point_normal"](x, noise, spike).mean(x, noise) for spike in (0.0, None)]
    errors = [np.sqrt(((estimate - theta) ** 2).mean()) for estimate in (x, *fits)]
    assert np.round(errors, 4).tolist() == [0.3599, 0.2868, 0.2100]


def test_point_normal_recovers_its_prior_and_its_likelihood_is_the_largest():
    rng = np.random.default_rng(0)
    spike, variance, n = 0.6, 4.0, 20_000
    noise = rng.uniform(0.5, 1.5, (1, n))
    x = 1 + (rng.random(n) > spike) * rng.normal(0, variance**0.5, n) + rng.normal(0, noise**0.5)
    prior = D["fit_point_normal"](x, noise)
    # a slab of 8,000 means; that it must be told from the spike costs a factor of a few
    np.testing.assert_allclose([v.item() for v in prior], [spike, 1, variance], atol=0, rtol=5 * np.sqrt(2 / 8000))

    def loss(parameters):
        share, mode, tau2 = special.expit(parameters[0]), parameters[1], np.exp(parameters[2])
        slab = (1 - share) * stats.norm.pdf(x, mode, np.sqrt(noise + tau2))
        return -np.log(share * stats.norm.pdf(x, mode, np.sqrt(noise)) + slab).sum()

    found = [special.logit(prior.spike.item()), prior.mode.item(), np.log(prior.variance.item())]
    assert loss(found) <= optimize.minimize(loss, [0, 0, 0], method="Nelder-Mead").fun + 1e-3


def test_point_normal_posterior_mean_is_that_of_the_integral():
    prior = D["PointNormal"](*(np.array([[v]]) for v in (0.3, 1.0, 2.0)))
    x, noise = 2.2, 0.7

    def density(theta):
        return 0.7 * stats.norm.pdf(theta, 1, 2**0.5) * stats.norm.pdf(x, theta, noise**0.5)

    spike = 0.3 * stats.norm.pdf(x, 1, noise**0.5)
    mass = integrate.quad(density, -20, 20)[0]
    mean = integrate.quad(lambda theta: theta * density(theta), -20, 20)[0]
    assert prior.mean(np.array([[x]]), np.array([[noise]])).item() == pytest.approx(
        (spike + mean) / (spike + mass), rel=1e-8
    )


def test_expected_log_is_the_integral_and_its_expansion_is_close():
    for shape, rate, depth in ((0.4, 0.2, 0.3), (3.0, 1.0, 2.0), (9.0, 0.1, 0.4)):
        number = np.arange(20_000)
        mass = stats.nbinom.pmf(number, shape, rate / (rate + depth))
        exact = (mass * np.log1p(number / depth)).sum()
        assert D["expected_log"](*map(np.array, (shape, rate, depth))).item() == pytest.approx(exact, abs=1e-7)
    shape, rate, depth = 80.0, 1.0, 1.0  # more than 50 molecules: expanded
    exact = (stats.nbinom.pmf(number, shape, 0.5) * np.log1p(number / depth)).sum()
    assert D["expected_log"](*map(np.array, (shape, rate, depth))).item() == pytest.approx(exact, rel=1e-4)


def test_gamma_poisson_posterior_lies_between_the_count_and_the_prior_mean():
    """SAVER's posterior mean, (shape + count) / (rate + depth), and its limits: no prior variance, and a flat prior."""
    mean, count, depth = np.array([[2.0]]), 9, 0.5
    for kind in range(3):
        for value, limit in ((1e-9, 2.0), (1.0, None), (1e9, count / depth)):
            shape, rate = D["gamma_law"](kind, mean, value)
            assert shape / rate == pytest.approx(2.0) and shape / rate**2 == pytest.approx(value * 2.0 ** (2 - kind))
            posterior = ((shape + count) / (rate + depth)).item()
            weight = (depth / (rate + depth)).item()
            assert posterior == pytest.approx((1 - weight) * 2.0 + weight * count / depth)
            assert limit is None or posterior == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_gamma_prior_finds_law_and_parameter(kind):
    rng = np.random.default_rng(kind)
    mean, value = rng.lognormal(1, 0.8, (1, 4000)), 0.5
    shape, rate = D["gamma_law"](kind, mean, value)
    law, found = D["gamma_prior"](rng.poisson(rng.gamma(shape, 1 / rate)).astype(float), np.ones(4000), mean)
    assert law.item() == kind and found.item() == pytest.approx(value, rel=0.3)  # the grid has steps of a quarter


def test_diffusion_is_an_average_and_a_random_walk_that_restarts():
    """netSmooth's kernel: rows sum to one, it nears the identity, and the walk's iteration leads to it."""
    rng = np.random.default_rng(0)
    edges, alpha = np.array([[0, 0, 1, 2], [1, 2, 3, 3]]), 0.4
    kernel, f0 = D["diffusion"](edges, 6, alpha), rng.normal(size=(6, 3))
    np.testing.assert_allclose(kernel.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(kernel[4:], np.eye(6)[4:], atol=1e-12)  # no edge, no smoothing
    assert kernel.min() > -1e-12
    np.testing.assert_allclose(D["diffusion"](edges, 6, 1e-9), np.eye(6), atol=1e-8)
    graph = np.zeros((6, 6))
    graph[edges[0], edges[1]] = graph[edges[1], edges[0]] = 1
    graph[4, 4] = graph[5, 5] = 1
    walk, f = graph / graph.sum(axis=1, keepdims=True), f0
    for _ in range(100):
        f = alpha * walk @ f + (1 - alpha) * f0
    np.testing.assert_allclose(kernel @ f0, f, rtol=1e-10)
    degree = graph.sum(axis=1)  # a symmetric graph in detailed balance: degree-weighted totals stay
    np.testing.assert_allclose(degree @ (kernel @ f0), degree @ f0, rtol=1e-10)


def test_poisson_regression_finds_its_coefficients():
    rng = np.random.default_rng(0)
    design, b = np.concatenate([np.ones((1, 5000, 1)), rng.normal(size=(1, 5000, 2))], axis=2), np.array([0.5, 0.4, -0.3])
    depth = rng.uniform(0.5, 2, 5000)
    y = rng.poisson(depth * np.exp(design @ b)).astype(float)
    found = D["ridge_poisson"](y, depth, design, 1e-6, steps=12)
    np.testing.assert_allclose(found[0, :, 0], b, atol=4 / np.sqrt(y.sum()))
    assert abs(D["ridge_poisson"](y, depth, design, 1e9)[0, 1:]).max() < 1e-4
