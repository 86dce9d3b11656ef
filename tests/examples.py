"""Layers that several test files try, how close is close, and what a refusal is, in Python and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch_geometric.nn import SAGEConv

from regnet.model import MLPAggregator


def close(got, expected, rtol=1e-10, atol=1e-13):
    torch.testing.assert_close(got.detach(), expected.detach(), rtol=rtol, atol=atol, equal_nan=True)


def mlp(cells=4, hidden=16, out=5, seed=0, bias=True, activation=nn.ReLU):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2 * cells, hidden, bias=bias), activation(), nn.Linear(hidden, out, bias=bias)).double()


def linear(A, B):
    """h = A x + B m as one Linear on [x, m]."""
    layer = nn.Linear(A.size(1) * 2, A.size(0), bias=False).to(A.dtype)
    layer.weight.data = torch.cat([A, B], dim=1)
    return layer


def layers():
    torch.manual_seed(1)
    return [
        mlp(),
        mlp(bias=False),
        MLPAggregator(4, 7).double(),
        nn.Linear(8, 3).double(),
        SAGEConv(4, 6).double(),
        nn.Sequential(nn.Linear(8, 9), nn.Dropout(0.5), nn.ReLU(), nn.Linear(9, 1)).double(),
    ]


def dropping():
    """Dropout in the middle, in training mode."""
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.9), nn.Linear(32, 5)).double()


class Code:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pairs(edges):
    """The edges as a set of (regulator, target)."""
    return set(map(tuple, edges.T.tolist()))


def refused(function, *words, error=ValueError):
    """The function raises, in one line that has the words."""
    with pytest.raises(error) as caught:
        function()
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def assert_error(result, *words):
    """The command ended with 1 and one line that has the words, the last on the error stream."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    assert_last_line(result.stderr, *words)


def assert_last_line(text, *words):
    assert "Traceback" not in text
    assert [line for line in text.splitlines() if line.startswith("Error: ")] == text.splitlines()[-1:]
    for word in words:
        assert word in text.splitlines()[-1]
