"""Recovering counts and splitting them, judged by closed forms of the Poisson and binomial distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regnet import load_dataset, noise_variance, recover_counts, split_counts


def normalise(counts, total=1e4):
    """log1p of counts scaled to a common total, as scanpy does it."""
    return torch.log1p(counts * (total / counts.sum(dim=0, keepdim=True)))


@given(st.integers(0, 2**32 - 1))
def test_normalised_counts_come_back(seed):
    generator = np.random.default_rng(seed)
    counts = torch.from_numpy(generator.poisson(generator.gamma(0.5, 2, size=(60, 1)), size=(60, 7)))
    counts[generator.integers(60, size=7), range(7)] = 1  # the smallest positive count of every cell
    found = recover_counts(normalise(counts.double()))
    assert torch.equal(found.counts, counts)
    torch.testing.assert_close(found.per_count, 1e4 / counts.sum(dim=0).double(), rtol=1e-9, atol=0)


def test_float32_is_precise_enough():
    counts = torch.from_numpy(np.random.default_rng(0).poisson(2.0, size=(500, 20)))
    assert torch.equal(recover_counts(normalise(counts.double()).float()).counts, counts)


def test_a_cell_in_which_nothing_was_seen_has_no_counts():
    found = recover_counts(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert found.counts.tolist() == [[0, 1], [0, 0]]
    assert found.per_count[0] == math.inf


def test_a_cell_whose_smallest_count_is_two_shows_unless_all_are_even():
    with pytest.raises(ValueError, match=r"gene 1 of cell 0 would be 1\.5 molecules \(1 entries"):
        recover_counts(torch.log1p(torch.tensor([[2.0], [3.0], [4.0]])))
    assert recover_counts(torch.log1p(torch.tensor([[2.0], [4.0]]))).counts.tolist() == [[1], [2]]


def test_expression_that_is_no_logarithm_of_counts_is_refused(normal):
    with pytest.raises(ValueError, match="not negative"):
        recover_counts(normal(4, 3))
    with pytest.raises(ValueError, match="no whole number"):
        recover_counts(normal(40, 3).abs())
    with pytest.raises(ValueError, match="finite"):
        recover_counts(torch.tensor([[math.nan]]))


@pytest.mark.parametrize(
    "x",
    [
        torch.tensor([[800.0], [1.0]], dtype=torch.float64),  # expm1 overflows
        torch.tensor([[1e-7], [80.0]]),  # more molecules than float32 can count
        torch.tensor([[1e-30], [5.0]], dtype=torch.float64),
        torch.log1p(0.3 * torch.tensor([[1.0], [2_000_000.0], [2_000_001.0]], dtype=torch.float64)).float() * 3,
    ],
)
def test_counts_that_the_precision_cannot_tell_apart_are_refused(x):
    with pytest.raises(ValueError, match="molecules"):
        recover_counts(x)


def test_no_gene_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one gene"):
        recover_counts(torch.zeros(0, 3))


def test_the_blood_cells_hold_whole_counts():
    x = load_dataset("pbmc68k", dtype=torch.float64).x
    counts, per_count = recover_counts(x)
    assert counts.min() == 0
    exact = (x.expm1() / per_count - counts).abs().max()
    assert exact < 0.15  # stored with few digits, but nowhere near half a molecule
    assert ((counts > 0) == (x > 0)).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_the_parts_add_up(seed, fraction):
    counts = torch.from_numpy(np.random.default_rng(seed).poisson(3.0, size=(5, 4)))
    first, second = split_counts(counts, fraction, seed=seed)
    assert torch.equal(first + second, counts)
    assert first.min() >= 0 and second.min() >= 0
    assert first.dtype == second.dtype == counts.dtype


@pytest.mark.parametrize("fraction", [0.5, 0.2])
def test_poisson_counts_split_into_independent_poisson_counts(fraction):
    """Means f mu and (1 - f) mu, variance equal to the mean, no correlation: each within 4 standard errors."""
    mu, size = 3.0, 200_000
    counts = torch.from_numpy(np.random.default_rng(1).poisson(mu, size=size))
    first, second = (part.double().numpy() for part in split_counts(counts, fraction, seed=2))
    for part, mean in ((first, fraction * mu), (second, (1 - fraction) * mu)):
        assert abs(part.mean() - mean) < 4 * math.sqrt(mean / size)
        # The variance of a Poisson sample variance is (mean + 2 mean^2) / n.
        assert abs(part.var(ddof=1) - mean) < 4 * math.sqrt((mean + 2 * mean**2) / size)
        expected = stats.poisson.pmf(range(4), mean)
        observed = np.array([(part == k).mean() for k in range(4)])
        assert (np.abs(observed - expected) < 4 * np.sqrt(expected * (1 - expected) / size)).all()
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(size)


def joint_table(first, second, means):
    """Chi-square statistic of the table of both parts (0, 1, 2, more) against products of Poisson probabilities."""
    share = stats.poisson.pmf(np.arange(3), means[:, None])
    share = np.concatenate([share, 1 - share.sum(axis=1, keepdims=True)], axis=1)
    classes = (share[:, :, None] * share[:, None, :]).reshape(-1, 16)
    off = np.bincount(4 * np.minimum(first, 3) + np.minimum(second, 3), minlength=16) - classes.sum(axis=0)
    covariance = np.diag(classes.sum(axis=0)) - classes.T @ classes  # the probabilities differ from entry to entry
    return off @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ off


@pytest.mark.parametrize("kind", ["poisson", "negative binomial", "a count dealt whole"])
def test_a_table_of_both_parts_tells_poisson_counts_from_others(kind):
    """Means that differ from entry to entry, as those of genes and cells do; 16 classes, hence 15 degrees of freedom."""
    draw = np.random.default_rng(5)
    means = draw.gamma(1, 2, size=100_000)
    r = 5.0
    counts = draw.negative_binomial(r, r / (r + means)) if kind == "negative binomial" else draw.poisson(means)
    first, second = (part.numpy() for part in split_counts(torch.from_numpy(counts), seed=6))
    if kind == "a count dealt whole":
        first, second = first + second, 0 * second
    p_value = stats.chi2.sf(joint_table(first, second, means / 2), 15)
    assert p_value > 1e-3 if kind == "poisson" else p_value < 1e-6


def test_overdispersed_counts_leave_correlated_parts():
    """With a negative binomial count of mean mu and size r the halves have covariance f (1 - f) mu^2 / r."""
    mu, r, size = 3.0, 2.0, 200_000
    counts = torch.from_numpy(np.random.default_rng(1).negative_binomial(r, r / (r + mu), size=size))
    first, second = (part.double().numpy() for part in split_counts(counts))
    assert np.cov(first, second)[0, 1] == pytest.approx(0.25 * mu**2 / r, rel=0.05)


def test_a_seed_gives_one_split():
    counts = torch.full((50, 3), 9)
    first, again, other = (split_counts(counts, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("counts", "fraction", "message"),
    [
        (torch.tensor([1, -1]), 0.5, "got -1"),
        (torch.tensor([1.5]), 0.5, "recover_counts first"),
        (torch.tensor([math.nan]), 0.5, "got nan"),
        (torch.tensor([math.inf]), 0.5, "got inf"),
        (torch.tensor([1]), 0.0, "fraction"),
        (torch.tensor([1]), 1.0, "fraction"),
        (torch.tensor([1]), math.nan, "fraction"),
        (torch.tensor([1e19], dtype=torch.float64), 0.5, r"got 1e\+19"),
    ],
)
def test_what_cannot_be_split_is_refused(counts, fraction, message):
    with pytest.raises(ValueError, match=message):
        split_counts(counts, fraction)


@pytest.mark.parametrize(
    ("counts", "got"),
    [([1, 2], "list"), (torch.tensor([True]), "torch.bool"), (torch.tensor([1j]), "torch.complex64")],
)
def test_what_is_no_number_is_refused(counts, got):
    with pytest.raises(TypeError, match=f"got .*{got}"):
        split_counts(counts)


def test_the_parts_carry_no_gradient():
    parts = split_counts(torch.tensor([3.0], requires_grad=True))
    assert not any(part.requires_grad for part in parts)


# noise_variance


def test_noise_variance_is_half_the_mean_square_of_the_difference(normal):
    x1, x2 = normal(6, 9), normal(6, 9)
    torch.testing.assert_close(noise_variance(x1, x2), ((x1 - x2) ** 2).sum(dim=1) / 18, rtol=1e-12, atol=0)
    assert noise_variance(x1, x1).eq(0).all()
    torch.testing.assert_close(noise_variance(x1 + 5, x2 + 5), noise_variance(x1, x2), rtol=1e-12, atol=0)
    torch.testing.assert_close(noise_variance(3 * x1, 3 * x2), 9 * noise_variance(x1, x2), rtol=1e-12, atol=0)


def test_noise_variance_recovers_the_truth_whatever_the_expression(normal):
    """(x1 - x2)^2 / 2 is sigma^2 times a chi-square with one degree of freedom: the standard error is sigma^2 sqrt(2/S)."""
    cells, truth = 40_000, torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    theta = 10 * normal(3, cells)
    x1, x2 = (theta + truth.sqrt()[:, None] * normal(3, cells) for _ in range(2))
    assert ((noise_variance(x1, x2) - truth).abs() < 4 * truth * math.sqrt(2 / cells)).all()


def test_noise_variance_of_split_poisson_counts_is_their_mean():
    """On the scale of counts the noise of a half is Poisson: variance mu / 2."""
    mu, cells = 4.0, 100_000
    counts = torch.from_numpy(np.random.default_rng(0).poisson(mu, size=(1, cells)))
    first, second = (part.double() for part in split_counts(counts))
    difference = first - second  # Skellam with variance mu and fourth moment 3 mu^2 + mu
    standard_error = math.sqrt((3 * mu**2 + mu - mu**2) / cells) / 2
    assert abs(noise_variance(first, second).item() - mu / 2) < 4 * standard_error
    assert difference.abs().max() > 0


@pytest.mark.parametrize(
    ("x1", "x2", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), ValueError, r"\(2, 3\) of torch.float32 and \(2, 4\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3).double(), ValueError, "one dtype"),
        (torch.zeros(2, 0), torch.zeros(2, 0), ValueError, "at least one cell"),
        (torch.zeros(2, 3), torch.full((2, 3), math.nan), ValueError, "x2 must be finite"),
        (torch.zeros(2, 3).int(), torch.zeros(2, 3).int(), TypeError, "x1 must be"),
    ],
)
def test_noise_variance_refuses_what_are_no_two_measurements(x1, x2, error, message):
    with pytest.raises(error, match=message):
        noise_variance(x1, x2)
