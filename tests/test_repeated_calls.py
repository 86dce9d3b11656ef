"""A hundred calls of the engine cost what the first ones did: no more memory, no more tensors, no more work."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter

import dask
import dask.array as da
import psutil
import pytest
import torch
from examples import mlp
from torch.utils._python_dispatch import TorchDispatchMode

from regnet import effective_weight_on_graph, sensitivities_on_graph

CALLS = 100


class Operators(TorchDispatchMode):
    """Counts what PyTorch is asked to do."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count[str(function)] += 1
        return function(*args, **(kwargs or {}))


def tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def resident():
    """Bytes that the process occupies."""
    return psutil.Process().memory_info().rss


@pytest.fixture(params=["dense", "csr", "weight", "blockwise"])
def call(request, normal, random_graph):
    """One call of the engine on 300 genes and 200 cells, each time from the same tensors."""
    layer, x, graph = mlp(cells=200, hidden=32, out=8).requires_grad_(False), normal(300, 200), random_graph(300, 900)
    x[x < 0.5] = 0
    if request.param == "dense":
        return lambda: sensitivities_on_graph(layer, x, graph)
    if request.param == "csr":
        return lambda: sensitivities_on_graph(layer, x.to_sparse_csr(), graph)
    if request.param == "weight":
        return lambda: effective_weight_on_graph(layer, x, graph)
    blocks = da.from_array(x.numpy(), chunks=(300, 50))

    def blockwise():
        with dask.config.set(scheduler="synchronous"):  # threads would add tensors of their own to the count
            return sensitivities_on_graph(layer, blocks, graph)

    return blockwise


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_every_call_asks_for_the_same_work(call):
    call()
    counts = []
    for _ in range(CALLS - 1):
        with Operators() as operators:
            call()
        counts.append(operators.count)
    assert counts[0], "an engine that asks PyTorch for nothing would pass"
    assert all(count == counts[0] for count in counts)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_hundred_calls_keep_no_memory(call):
    """Tensors are counted, because tracemalloc sees NumPy's arrays and Python's objects but not what tensors hold.

    Dask remembers sums of chunk sizes, up to a fixed number of them: 126 kB in the first 80 calls, 5 kB in the last.
    """
    for _ in range(20):
        call()
    before, pages = tensors(), resident()
    tracemalloc.start()
    try:
        call()
        gc.collect()
        start = tracemalloc.get_traced_memory()[0]
        for _ in range(CALLS - 21):
            call()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    assert tensors() == before
    assert grown < 250e3, f"{grown} bytes of Python objects"
    assert resident() - pages < 16e6, "the whole matrix is 0.5 MB: kept once a call, it would be 40 MB"
