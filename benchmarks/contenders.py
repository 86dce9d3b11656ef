"""What is timed against what: the same weights of the same layer, computed in four ways, and the product none can avoid."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import degree, scatter

import regnet
from regnet.model import MLPAggregator

HIDDEN = 128


class Problem(NamedTuple):
    layer: MLPAggregator
    x: Tensor
    edge_index: Tensor


def make_problem(genes: int, cells: int, edges: int, dtype: torch.dtype = torch.float32) -> Problem:
    """A layer as it is initialised, log counts of which most are zero, and random edges without self loops, in no order."""
    torch.manual_seed(0)
    layer = MLPAggregator(cells, HIDDEN).to(dtype).eval()
    rates = torch.empty(genes, 1).exponential_(2.0)
    return Problem(layer, torch.poisson(rates.expand(genes, cells)).log1p().to(dtype), make_edges(genes, edges))


def make_edges(genes: int, edges: int) -> Tensor:
    target = torch.randint(genes, (edges,))
    return torch.stack([(target + torch.randint(1, genes, (edges,))) % genes, target])


def engine(problem: Problem) -> Tensor:
    return regnet.effective_weight_on_graph(*problem)


def scatter_mean(x: Tensor, edge_index: Tensor) -> Tensor:
    """As GraphSAGE layers have it: the regulators of all edges are gathered, then averaged."""
    return scatter(x[edge_index[0]], edge_index[1], dim=0, dim_size=len(x), reduce="mean")


def sparse_mean(x: Tensor, edge_index: Tensor) -> Tensor:
    """The same mean as a sparse product, which gathers nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        share = 1 / degree(edge_index[1], len(x), x.dtype)[edge_index[1]]
        adjacency = torch.sparse_coo_tensor(edge_index.flip(0), share, (len(x), len(x)), check_invariants=False)
        return adjacency.to_sparse_csr() @ x


@torch.no_grad()
def note_recipe(problem: Problem, mean: Callable[[Tensor, Tensor], Tensor] = scatter_mean, eps: float = 1e-2) -> Tensor:
    """Eq. (5) as the note prints it in its section 8, from the edges on."""
    first_layer, x, edge_index = problem
    m = mean(x, edge_index)
    delta = x - m
    unit = delta / delta.norm(dim=1, keepdim=True).clamp(min=1e-9)
    out0 = first_layer(x, m)
    Sx = (first_layer(x + eps * unit, m) - out0).norm(dim=1) / eps
    Sm = (first_layer(x, m + eps * unit) - out0).norm(dim=1) / eps
    return Sx / (Sx + Sm)


@torch.no_grad()
def two_jvps(problem: Problem) -> Tensor:
    """Eq. (4) by forward-mode automatic differentiation, from the edges on."""
    g, x, edge_index = problem
    m = scatter_mean(x, edge_index)
    delta = x - m
    Sx = torch.func.jvp(lambda x: g(x, m), (x,), (delta,))[1].norm(dim=1)
    Sm = torch.func.jvp(lambda m: g(x, m), (m,), (delta,))[1].norm(dim=1)
    return Sx / (Sx + Sm)


CONTENDERS: dict[str, Callable[[Problem], Tensor]] = {
    "engine": engine,
    "note": note_recipe,
    "note, sparse mean": partial(note_recipe, mean=sparse_mean),
    "two JVPs": two_jvps,
}


def floor(problem: Problem) -> Callable[[], Tensor]:
    """The one dense product of the expression with both halves of W1."""
    W = torch.cat(problem.layer.mlp[0].weight.detach().chunk(2, dim=1))
    return lambda: problem.x @ W.T


def check_agreement(problem: Problem, genes: int = 1000) -> None:
    """Raise unless all contenders find the same weights; Eq. (5) only where its step meets no kink, and on some genes."""
    layer, x, edge_index = problem
    weights = {name: contender(problem) for name, contender in CONTENDERS.items()}
    shrunk = degree(edge_index[1], len(x)) > 0
    if not torch.equal(weights["engine"].isnan(), ~shrunk):
        raise AssertionError("the engine must leave the genes without regulators undefined, and no other")
    torch.testing.assert_close(weights["engine"][shrunk], weights["two JVPs"][shrunk], rtol=0, atol=1e-4)
    distances = regnet.kink_distance(layer, x[:genes], sparse_mean(x, edge_index)[:genes])
    smooth = shrunk[:genes] & (torch.minimum(*distances) > 1e-2)
    if not smooth.any():
        raise AssertionError("Eq. (5) meets a kink at every gene, so there is nothing to compare it at")
    for name in ("note", "note, sparse mean"):
        torch.testing.assert_close(weights["engine"][:genes][smooth], weights[name][:genes][smooth], rtol=0, atol=1e-2)
