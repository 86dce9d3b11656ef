"""The same weights from matrices on disk, block by block, on threads and on a cluster."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from examples import close, mlp
from scipy import sparse
from torch import nn
from torch_geometric.nn import SAGEConv

import regnet
from regnet import effective_weight_on_graph, sensitivities_on_graph
from regnet.blockwise import dense_blocks, explain_read_errors, moments_blockwise, neighbor_mean_blockwise
from regnet.engine import output_on_graph
from regnet.layers import as_function

CELLS = 23


@pytest.fixture
def problem(normal, random_graph):
    """x (genes x cells) with an all-zero gene, one equal to its mean, and one almost equal to it; and its graph."""
    x, edge_index = normal(40, CELLS).relu(), random_graph(40, 120)
    zero, equal, almost = 7, 11, 13
    edge_index = edge_index[:, ~torch.isin(edge_index[1], torch.tensor([zero, equal, almost]))]
    edge_index = edge_index[:, ~torch.isin(edge_index[0], torch.tensor([zero, equal, almost]))]
    more = torch.tensor([[20, 20, 21, 22, 20, 23], [zero, equal, equal, equal, almost, almost]])
    x[zero] = x[20] = 0
    x[equal] = (x[20] + x[21] + x[22]) / 3
    x[almost] = (x[20] + x[23]) / 2 + 1e-7 * normal(CELLS)
    return x, torch.cat([edge_index, more], dim=1)


CHUNKS = [(-1, 5), (-1, CELLS), (-1, 1), (13, 4), ((1, 39), (20, 2, 1))]


def lazily(x, chunks=(-1, 5), stored=np.asarray):
    return da.from_array(x.numpy(), chunks=chunks).map_blocks(stored, dtype=x.numpy().dtype)


LAYERS = [mlp(CELLS), nn.Linear(2 * CELLS, 3).double(), SAGEConv(CELLS, 6).double()]


@pytest.mark.parametrize("layer", LAYERS, ids=["mlp", "linear", "SAGEConv"])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_blocks_give_what_the_whole_matrix_gives(layer, chunks, problem):
    x, edge_index = problem
    got = sensitivities_on_graph(layer, lazily(x, chunks), edge_index)
    expected = regnet.sensitivities_on_graph(layer, x, edge_index)
    close(got.self_sensitivity, expected.self_sensitivity, rtol=1e-9)
    close(got.neighbor_sensitivity, expected.neighbor_sensitivity, rtol=1e-9)
    assert got.weight[[7, 11]].isnan().all() and not got.weight[13].isnan()
    close(effective_weight_on_graph(layer, lazily(x, chunks), edge_index), expected.weight, rtol=1e-9)


@pytest.mark.parametrize("stored", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array], ids=lambda kind: kind.__name__)
def test_sparse_blocks(stored, problem):
    x, edge_index = problem
    layer = mlp(CELLS)
    expected = regnet.effective_weight_on_graph(layer, x, edge_index)
    close(effective_weight_on_graph(layer, lazily(x, (-1, 5), stored), edge_index), expected, rtol=1e-9)
    m = neighbor_mean_blockwise(lazily(x, (-1, 5), stored), edge_index).compute()
    close(torch.from_numpy(m), regnet.neighbor_mean(x, edge_index))


@pytest.mark.parametrize(
    ("scale", "layer"), [(1, mlp(CELLS)), *((s, nn.Linear(2 * CELLS, 3, False)) for s in (1e-25, 1e25))]
)
def test_any_scale_of_float32(scale, layer, problem):
    x, edge_index = problem
    expected = regnet.effective_weight_on_graph(layer.float(), x.float(), edge_index)
    got = effective_weight_on_graph(layer, lazily((scale * x).float()), edge_index)
    assert got.dtype == torch.float32
    apart = ~torch.isin(torch.arange(40), torch.tensor([11, 13]))  # float32 rounds their delta away, or makes one
    torch.testing.assert_close(got[apart], expected[apart], rtol=0, atol=1e-5, equal_nan=True)


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
        large = mlp(CELLS)
        large[0].bias.data[0], large[2].weight.data[:, 0] = -1e6, 100  # a unit that is off costs no gene its digits
        for layer in (mlp(CELLS), large):
            effective_weight_on_graph(layer, lazy, clean)
            assert sorted(read) == [(0, block) for block in range(5)]
            read.clear()
        effective_weight_on_graph(mlp(CELLS), lazy, edge_index)
        assert sorted(read) == sorted(2 * [(0, block) for block in range(5)])
        read.clear()
        moments_blockwise(lazy, edge_index)
        assert sorted(read) == [(0, block) for block in range(5)]


def test_the_output_of_the_first_layer(problem):
    x, edge_index = problem
    for layer in LAYERS:
        expected = as_function(layer)(x, regnet.neighbor_mean(x, edge_index)).detach()
        close(output_on_graph(layer, lazily(x), edge_index), expected)
    against = SAGEConv(CELLS, 6, flow="target_to_source").double()
    close(output_on_graph(against, lazily(x), edge_index), against(x, edge_index))


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


def test_moments_of_float32_are_those_of_float64(problem):
    x, edge_index = problem
    x = (1e4 + x).float()
    got, expected = moments_blockwise(lazily(x), edge_index), moments_blockwise(lazily(x.double()), edge_index)
    for one, other in zip(got, expected, strict=True):
        close(one, other)


def test_neighbour_means_stay_lazy(problem):
    x, edge_index = problem
    m = neighbor_mean_blockwise(lazily(x), edge_index)
    assert isinstance(m, da.Array) and m.chunks == ((40,), (5, 5, 5, 5, 3))
    close(torch.from_numpy(m.compute()), regnet.neighbor_mean(x, edge_index))


# Bad input


def test_unusable_input_is_refused_before_anything_is_read(problem):
    x, edge_index = problem

    def fail(block):
        raise AssertionError("read")

    lazy = lazily(x).map_blocks(fail, dtype=np.float64, meta=np.empty((0, 0)))
    with pytest.raises(TypeError, match=r"must be a Dask array \(genes, cells\).*got Tensor"):
        moments_blockwise(x, edge_index)
    with pytest.raises(TypeError, match=r"got \(40, 23\) of int64.*astype"):
        effective_weight_on_graph(LAYERS[0], lazy.astype(int), edge_index)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        effective_weight_on_graph(LAYERS[0], lazy[lazy[:, 0] > 0], edge_index)
    with pytest.raises(TypeError, match=r"float64 and x is torch\.float32"):
        effective_weight_on_graph(LAYERS[0], lazy.astype(np.float32), edge_index)
    with pytest.raises(ValueError, match="takes 22 features"):
        effective_weight_on_graph(mlp(22), lazy, edge_index)
    with pytest.raises(ValueError, match="does not exist"):
        effective_weight_on_graph(LAYERS[0], lazy, torch.tensor([[0], [40]]))
    with pytest.raises(TypeError, match=r"function has no closed form.*Dask"):
        effective_weight_on_graph(lambda x, m: x - m, lazy, edge_index)


@pytest.mark.parametrize("stored", [np.asarray, sparse.csr_matrix], ids=lambda kind: kind.__name__)
def test_an_entry_that_is_not_finite_is_named(stored, problem):
    x, edge_index = problem
    x[5, 17] = torch.nan
    with pytest.raises(ValueError, match=r"got nan at cell 17, row 5 of its block"):
        effective_weight_on_graph(LAYERS[0], lazily(x, (-1, 5), stored), edge_index)


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


@pytest.mark.slow
def test_two_workers_of_a_cluster(problem, tmp_path):
    from distributed import Client, LocalCluster

    x, edge_index = problem
    zarr.save(tmp_path / "x.zarr", x.numpy())
    expected = regnet.sensitivities_on_graph(LAYERS[0], x, edge_index)
    moments = moments_blockwise(lazily(x), edge_index)
    lazy = da.from_zarr(tmp_path / "x.zarr").rechunk((-1, 5))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path) as cluster,
        Client(cluster) as client,
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        got = sensitivities_on_graph(LAYERS[0], lazy, edge_index)
        there = moments_blockwise(lazy, edge_index)
        assert sum(client.run(lambda dask_worker: dask_worker.state.executed_count).values()) > 5
    close(got.weight, expected.weight, rtol=1e-9)
    for here, away in zip(moments, there, strict=True):
        close(away, here)


def test_too_little_memory_is_not_called_damage():
    with pytest.raises(MemoryError, match="smaller chunks"), explain_read_errors():
        torch.empty(2**60)
