"""Repeated calls of the engine cost what the first ones did: no more tensors, no more work."""

from __future__ import annotations

import gc
from collections import Counter

import dask
import dask.array as da
import pytest
import torch
from examples import mlp
from torch.utils._python_dispatch import TorchDispatchMode

from regnet import sensitivities_on_graph


class Operators(TorchDispatchMode):
    """Counts what PyTorch is asked to do."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count[str(function)] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["dense", "csr", "blockwise"])
def test_every_call_asks_for_the_same_work_and_keeps_no_tensor(kind, normal, random_graph):
    layer, x, graph = mlp(cells=200, hidden=32, out=8).requires_grad_(False), normal(300, 200), random_graph(300, 900)
    x[x < 0.5] = 0
    x = {"dense": lambda: x, "csr": x.to_sparse_csr, "blockwise": lambda: da.from_array(x.numpy(), chunks=(300, 50))}[kind]()
    work, kept = [], []
    for _ in range(20):
        with Operators() as operators, dask.config.set(scheduler="synchronous"):
            sensitivities_on_graph(layer, x, graph)
        gc.collect()
        work.append(operators.count)
        kept.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
    assert work[1] and all(count == work[1] for count in work[1:])
    assert kept[-1] == kept[1]
