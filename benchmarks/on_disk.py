"""A matrix on disk, and the weights of its genes computed blockwise in a fresh process.

python benchmarks/on_disk.py _build/benchmarks/20000x10000.zarr      prints {"seconds": ..., "peak": bytes}
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import zarr


def write_matrix(path: Path, genes: int, cells: int, cells_a_chunk: int) -> bool:
    """Log counts of genes x cells as a plain zarr array of float32; False where it was there already.

    Every chunk holds the same cells in another order: drawing all of them anew would take longer than the benchmark.
    """
    if path.exists() and zarr.open_array(path, mode="r").shape == (genes, cells):
        return False
    rng = np.random.default_rng(0)
    block = np.log1p(rng.poisson(rng.exponential(0.5, (genes, 1)), (genes, cells_a_chunk)).astype(np.float32))
    unfinished = path.with_suffix(".writing")
    shutil.rmtree(unfinished, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    array = zarr.create_array(unfinished, shape=(genes, cells), chunks=(genes, cells_a_chunk), dtype="float32")
    for start in range(0, cells, cells_a_chunk):
        array[:, start : start + cells_a_chunk] = rng.permutation(block, axis=1)
    shutil.rmtree(path, ignore_errors=True)
    unfinished.rename(path)
    return True


def main() -> None:
    import dask.array
    import torch
    from contenders import HIDDEN, make_edges
    from memory import status

    import regnet
    from regnet.model import MLPAggregator

    torch.manual_seed(0)
    x = dask.array.from_zarr(sys.argv[1])
    edge_index = make_edges(x.shape[0], 20 * x.shape[0])
    few = x[:, : min(200, x.shape[1])]  # warms up, and is checked
    layer = MLPAggregator(few.shape[1], HIDDEN)
    weight = torch.as_tensor(regnet.effective_weight_on_graph(layer, few, edge_index))
    in_memory = regnet.effective_weight_on_graph(layer, torch.as_tensor(few.compute()), edge_index)
    torch.testing.assert_close(weight, in_memory, rtol=0, atol=1e-4, equal_nan=True)

    layer = MLPAggregator(x.shape[1], HIDDEN)
    start = time.perf_counter()
    regnet.effective_weight_on_graph(layer, x, edge_index)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": status("VmHWM")}))


if __name__ == "__main__":
    main()
