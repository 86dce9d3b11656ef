"""The same weights from matrices on disk, block by block, on threads and on a cluster."""

from __future__ import annotations

import warnings

import anndata
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from examples import close, mlp
from scipy import sparse
from torch import nn
from torch_geometric.nn import SAGEConv

import regnet
from regnet.blockwise import (
    damage_said,
    dense_blocks,
    effective_weight_blockwise,
    first_layer_blockwise,
    moments_blockwise,
    neighbor_mean_blockwise,
    open_expression,
    sensitivities_blockwise,
)
from regnet.layers import as_function

CELLS = 23


@pytest.fixture
def problem(normal, random_graph):
    """x (genes x cells) with a silent gene, one equal to its mean, and one almost equal to it; and its graph."""
    x, edge_index = normal(40, CELLS).relu(), random_graph(40, 120)
    silent, equal, almost = 7, 11, 13
    edge_index = edge_index[:, ~torch.isin(edge_index[1], torch.tensor([silent, equal, almost]))]
    edge_index = edge_index[:, ~torch.isin(edge_index[0], torch.tensor([silent, equal, almost]))]
    more = torch.tensor([[20, 20, 21, 22, 20, 23], [silent, equal, equal, equal, almost, almost]])
    x[silent] = x[20] = 0
    x[equal] = (x[20] + x[21] + x[22]) / 3
    x[almost] = (x[20] + x[23]) / 2 + 1e-7 * normal(CELLS)
    return x, torch.cat([edge_index, more], dim=1)


CHUNKS = [(-1, 5), (-1, CELLS), (-1, 1), (13, 4), ((1, 39), (20, 2, 1))]


def lazily(x, chunks=(-1, 5), stored=np.asarray):
    return da.from_array(x.numpy(), chunks=chunks).map_blocks(stored, dtype=x.numpy().dtype)


LAYERS = [
    mlp(CELLS),
    nn.Linear(2 * CELLS, 3).double(),
    SAGEConv(CELLS, 6).double(),
    SAGEConv(CELLS, 6, project=True).double(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=["mlp", "linear", "SAGEConv", "projecting SAGEConv"])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_blocks_give_what_the_whole_matrix_gives(layer, chunks, problem):
    x, edge_index = problem
    got = sensitivities_blockwise(layer, lazily(x, chunks), edge_index)
    expected = regnet.sensitivities_on_graph(layer, x, edge_index)
    close(got.self_sensitivity, expected.self_sensitivity, rtol=1e-9)
    close(got.neighbor_sensitivity, expected.neighbor_sensitivity, rtol=1e-9)
    assert got.weight[[7, 11]].isnan().all() and not got.weight[13].isnan()
    close(effective_weight_blockwise(layer, lazily(x, chunks), edge_index), expected.weight, rtol=1e-9)


@pytest.mark.parametrize("stored", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array], ids=lambda kind: kind.__name__)
def test_sparse_blocks(stored, problem):
    x, edge_index = problem
    layer = mlp(CELLS)
    expected = regnet.effective_weight_on_graph(layer, x, edge_index)
    close(effective_weight_blockwise(layer, lazily(x, (-1, 5), stored), edge_index), expected, rtol=1e-9)
    m = neighbor_mean_blockwise(lazily(x, (-1, 5), stored), edge_index).compute()
    close(torch.from_numpy(m), regnet.neighbor_mean(x, edge_index))


def test_float32(problem):
    x, edge_index = problem
    layer, x = mlp(CELLS).float(), x.float()
    got = effective_weight_blockwise(layer, lazily(x), edge_index)
    assert got.dtype == torch.float32
    expected = regnet.effective_weight_on_graph(layer, x, edge_index)
    apart = torch.arange(40) != 13  # equal to its mean in float32
    torch.testing.assert_close(got[apart], expected[apart], rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_any_scale_of_float32(scale, problem):
    x, edge_index = problem
    layer = nn.Linear(2 * CELLS, 3, bias=False)
    expected = regnet.effective_weight_on_graph(layer, x.float(), edge_index)
    got = effective_weight_blockwise(layer, lazily((scale * x).float()), edge_index)
    apart = torch.arange(40) != 13
    torch.testing.assert_close(got[apart], expected[apart], rtol=0, atol=1e-4, equal_nan=True)


def test_each_block_is_read_once(problem):
    """One pass; genes that almost equal their mean cost a second one."""
    x, edge_index = problem
    read = []

    def reading(block, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return block

    lazy = lazily(x).map_blocks(reading, dtype=x.numpy().dtype, meta=np.empty((0, 0)))
    clean = edge_index[:, ~torch.isin(edge_index[1], torch.tensor([11, 13]))]
    with dask.config.set(scheduler="synchronous"):
        loud = mlp(CELLS)
        loud[0].bias.data[0], loud[2].weight.data[:, 0] = -1e6, 100  # a unit that is off makes no gene doubtful
        for layer in (mlp(CELLS), loud):
            effective_weight_blockwise(layer, lazy, clean)
            assert sorted(read) == [(0, block) for block in range(5)]
            read.clear()
        effective_weight_blockwise(mlp(CELLS), lazy, edge_index)
        assert sorted(read) == sorted(2 * [(0, block) for block in range(5)])
        read.clear()
        moments_blockwise(lazy, edge_index)
        assert sorted(read) == [(0, block) for block in range(5)]


def test_of_some_genes_only_those_are_read(problem):
    class Stored:
        """What counts the values that are read from it."""

        def __init__(self, values):
            self.values, self.shape, self.ndim, self.dtype, self.read = values, values.shape, 2, values.dtype, 0

        def __getitem__(self, index):
            part = self.values[index]
            self.read += part.size
            return part

    x, edge_index = problem
    stored = Stored(x.numpy())
    some = da.from_array(stored, chunks=(-1, 5))[:20]
    edge_index = edge_index[:, (edge_index < 20).all(dim=0) & (edge_index[1] != 11) & (edge_index[1] != 13)]
    got = effective_weight_blockwise(mlp(CELLS), some, edge_index)
    close(got, regnet.effective_weight_on_graph(mlp(CELLS), x[:20], edge_index))
    assert stored.read == 20 * CELLS


def test_the_output_of_the_first_layer(problem):
    x, edge_index = problem
    for layer in LAYERS[:3]:
        expected = as_function(layer)(x, regnet.neighbor_mean(x, edge_index)).detach()
        close(first_layer_blockwise(layer, lazily(x), edge_index), expected)
    with pytest.raises(TypeError, match="projects its neighbours"):
        first_layer_blockwise(LAYERS[3], lazily(x), edge_index)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_moments_and_the_prior_variance_that_follows_from_them(chunks, problem):
    x, edge_index = problem
    m = regnet.neighbor_mean(x, edge_index)
    moments = moments_blockwise(lazily(x, chunks), edge_index)
    close(moments.mean, x.mean(dim=1))
    close(moments.variance, x.var(dim=1, correction=0))
    close(moments.neighbor_mean, m.mean(dim=1))
    regulated = regnet.in_degree(edge_index, 40) > 0
    assert moments.squared_deviation.isnan().tolist() == (~regulated).tolist()
    close(moments.squared_deviation[regulated], ((x - m) ** 2).mean(dim=1)[regulated])
    prior = (moments.squared_deviation - 0.5).clamp(min=0)
    close(prior[regulated], regnet.prior_variance(x, m, 0.5)[regulated])


def test_neighbour_means_stay_lazy(problem):
    x, edge_index = problem
    m = neighbor_mean_blockwise(lazily(x), edge_index)
    assert isinstance(m, da.Array) and m.chunks == ((40,), (5, 5, 5, 5, 3))
    close(torch.from_numpy(m.compute()), regnet.neighbor_mean(x, edge_index))


# Files


@pytest.fixture
def table(problem):
    x, edge_index = problem
    names = [f"G{gene}" for gene in range(40)]
    cells = pd.DataFrame(index=[f"c{cell}" for cell in range(CELLS)])
    return anndata.AnnData(x.T.numpy(), obs=cells, var=pd.DataFrame(index=names)), x, edge_index


def write(table, path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Writing zarr v2")
        table.write_zarr(path) if path.suffix == ".zarr" else table.write_h5ad(path)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("stored", [np.asarray, sparse.csr_matrix, sparse.csc_matrix], ids=lambda kind: kind.__name__)
def test_cells_times_genes_on_disk_are_transposed(suffix, stored, table, tmp_path):
    table, x, edge_index = table
    table.X = stored(table.X)
    write(table, tmp_path / f"cells{suffix}")
    lazy = open_expression(tmp_path / f"cells{suffix}")
    assert lazy.x.shape == (40, CELLS) and lazy.gene_names == [f"G{gene}" for gene in range(40)]
    expected = regnet.effective_weight_on_graph(LAYERS[0], x, edge_index)
    close(effective_weight_blockwise(LAYERS[0], lazy.x, edge_index), expected, rtol=1e-9)


def test_a_plain_array_in_zarr_is_genes_times_cells(problem, tmp_path):
    x, edge_index = problem
    zarr.save(tmp_path / "x.zarr", x.numpy())
    lazy = open_expression(str(tmp_path / "x.zarr"))
    assert lazy.gene_names[:2] == ["0", "1"]
    expected = regnet.effective_weight_on_graph(LAYERS[0], x, edge_index)
    close(effective_weight_blockwise(LAYERS[0], lazy.x, edge_index), expected, rtol=1e-9)


def test_files_that_cannot_be_opened(tmp_path, table):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.h5ad"):
        open_expression(tmp_path / "nothing.h5ad")
    with pytest.raises(ValueError, match=r"must end in \.h5ad or \.zarr"):
        open_expression(tmp_path / "x.csv")
    (tmp_path / "bad.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n and then nothing")
    with pytest.raises(ValueError, match=r"bad\.h5ad cannot be read as \.h5ad"):
        open_expression(tmp_path / "bad.h5ad")
    empty = table[0].copy()
    empty.X = None
    write(empty, tmp_path / "empty.h5ad")
    with pytest.raises(ValueError, match=r"cannot be read as \.h5ad.*X"):
        open_expression(tmp_path / "empty.h5ad")


# Bad input


def test_unusable_input_is_refused_before_anything_is_read(problem):
    x, edge_index = problem

    def fail(block):
        raise AssertionError("read")

    lazy = lazily(x).map_blocks(fail, dtype=np.float64, meta=np.empty((0, 0)))
    with pytest.raises(TypeError, match=r"must be a Dask array \(genes, cells\).*got Tensor"):
        effective_weight_blockwise(LAYERS[0], x, edge_index)
    with pytest.raises(TypeError, match=r"got \(40, 23\) of int64.*astype"):
        effective_weight_blockwise(LAYERS[0], lazy.astype(int), edge_index)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        effective_weight_blockwise(LAYERS[0], lazy[lazy[:, 0] > 0], edge_index)
    with pytest.raises(TypeError, match=r"float64 and x is torch\.float32"):
        effective_weight_blockwise(LAYERS[0], lazy.astype(np.float32), edge_index)
    with pytest.raises(ValueError, match="takes 22 features"):
        effective_weight_blockwise(mlp(22), lazy, edge_index)
    with pytest.raises(ValueError, match="does not exist"):
        effective_weight_blockwise(LAYERS[0], lazy, torch.tensor([[0], [40]]))
    with pytest.raises(TypeError, match=r"supported are a SAGEConv with mean aggregation.*in memory"):
        effective_weight_blockwise(lambda x, m: x - m, lazy, edge_index)


@pytest.mark.parametrize("stored", [np.asarray, sparse.csr_matrix], ids=lambda kind: kind.__name__)
def test_an_entry_that_is_not_finite_is_named(stored, problem):
    x, edge_index = problem
    x[5, 17] = torch.nan
    with pytest.raises(ValueError, match=r"got nan at cell 17, row 5 of its block"):
        effective_weight_blockwise(LAYERS[0], lazily(x, (-1, 5), stored), edge_index)


def test_moments_refuse_what_is_not_finite(problem):
    x, edge_index = problem
    x[5, 17] = torch.inf
    for function in (lambda *problem: neighbor_mean_blockwise(*problem).compute(), moments_blockwise):
        with pytest.raises(ValueError, match="x must be finite; gene 5"):
            function(lazily(x), edge_index)


def test_blocks_of_genes_are_not_turned_into_one_block_of_everything(monkeypatch):
    x = da.zeros((300, 400), chunks=(50, 400))
    with dask.config.set({"array.chunk-size": "100kB"}):
        assert max(dense_blocks(x).chunks[1]) < 100


# On a cluster


def test_two_workers_of_a_cluster(problem, tmp_path):
    from distributed import Client, LocalCluster

    x, edge_index = problem
    zarr.save(tmp_path / "x.zarr", x.numpy())
    expected = regnet.sensitivities_on_graph(LAYERS[0], x, edge_index)
    moments = moments_blockwise(lazily(x), edge_index)
    lazy = open_expression(tmp_path / "x.zarr").x.rechunk((-1, 5))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path) as cluster,
        Client(cluster) as client,
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        got = sensitivities_blockwise(LAYERS[0], lazy, edge_index)
        there = moments_blockwise(lazy, edge_index)
        assert sum(client.run(lambda dask_worker: dask_worker.state.executed_count).values()) > 5
    close(got.weight, expected.weight, rtol=1e-9)
    for here, away in zip(moments, there, strict=True):
        close(away, here)


def test_too_little_memory_is_not_called_damage():
    with pytest.raises(MemoryError, match="smaller chunks"), damage_said():
        torch.empty(2**60)
