"""Recovering counts and splitting them, judged by closed forms of the Poisson and binomial distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regnet import load_dataset, recover_counts, split_counts


def normalise(counts, total=1e4):
    """log1p of counts scaled to a common total, as scanpy does it."""
    return torch.log1p(counts * (total / counts.sum(dim=0, keepdim=True)))


@given(st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.float64]))
def test_normalised_counts_come_back(seed, dtype):
    generator = np.random.default_rng(seed)
    counts = torch.from_numpy(generator.poisson(generator.gamma(0.5, 2, size=(60, 1)), size=(60, 7)))
    counts[generator.integers(60, size=7), range(7)] = 1  # the smallest positive count of every cell
    found = recover_counts(normalise(counts.double()).to(dtype))
    assert torch.equal(found.counts, counts)
    torch.testing.assert_close(
        found.per_count, (1e4 / counts.sum(dim=0).double()).to(dtype), rtol=1e3 * torch.finfo(dtype).eps, atol=0
    )


def test_a_cell_without_counts_has_no_size_factor():
    found = recover_counts(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert found.counts.tolist() == [[0, 1], [0, 0]]
    assert found.per_count[0] == math.inf


def test_a_smallest_count_of_two_is_detected_unless_all_are_even():
    with pytest.raises(ValueError, match=r"at gene 1, cell 0 would be 1\.5 molecules \(1 such"):
        recover_counts(torch.log1p(torch.tensor([[2.0], [3.0], [4.0]])))
    assert recover_counts(torch.log1p(torch.tensor([[2.0], [4.0]]))).counts.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    "x",
    [
        torch.tensor([[1.0], [-0.5]]),
        torch.tensor([[-1.0], [-2.0]]),
        torch.tensor([[0.3], [0.45]]),
        torch.tensor([[800.0], [1.0]], dtype=torch.float64),  # expm1 overflows
        torch.tensor([[1e-7], [80.0]]),  # more molecules than float32 can count
        torch.tensor([[1e-30], [5.0]], dtype=torch.float64),
    ],
)
def test_expression_that_is_not_the_logarithm_of_counts_is_refused(x):
    with pytest.raises(ValueError, match=r"not log1p of whole counts .* molecules"):
        recover_counts(x)


def test_the_blood_cells_hold_whole_counts():
    x = load_dataset("pbmc68k", dtype=torch.float64).x
    counts, per_count = recover_counts(x)
    exact = (x.expm1() / per_count - counts).abs().max()
    assert exact < 0.15  # stored with few digits, but nowhere near half a molecule
    assert ((counts > 0) == (x > 0)).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99), st.sampled_from([torch.int64, torch.int32, torch.float64]))
def test_the_parts_are_counts_that_add_up(seed, fraction, dtype):
    counts = torch.from_numpy(np.random.default_rng(seed).poisson(3.0, size=(5, 4))).to(dtype)
    first, second = split_counts(counts, fraction, seed=seed)
    assert torch.equal(first + second, counts)
    assert first.min() >= 0 and second.min() >= 0
    assert first.dtype == second.dtype == dtype


def test_a_seed_gives_one_split_without_a_gradient():
    counts = torch.full((50, 3), 9.0, requires_grad=True)
    first, again, other = (split_counts(counts, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not any(part.requires_grad for part in split_counts(counts))


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


@pytest.mark.parametrize(
    ("counts", "fraction", "message"),
    [
        (torch.tensor([1, -1]), 0.5, "got -1"),
        (torch.tensor([1.5]), 0.5, "recover_counts first"),
        (torch.tensor([math.nan]), 0.5, "got nan"),
        (torch.tensor([1e19], dtype=torch.float64), 0.5, r"got 1e\+19"),
        (torch.tensor([1]), 0.0, "fraction"),
        (torch.tensor([1]), 1.0, "fraction"),
    ],
)
def test_what_cannot_be_split_is_refused(counts, fraction, message):
    with pytest.raises(ValueError, match=message):
        split_counts(counts, fraction)
