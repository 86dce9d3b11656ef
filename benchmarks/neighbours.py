"""Two libraries' answers to neighbouring questions, timed on the same layer: neither is the effective weight."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import torch
from captum.attr import Saliency
from contenders import HIDDEN, Problem, sparse_mean
from torch_geometric.data import Data
from torch_geometric.utils import total_influence

import regnet
from regnet.model import MLPAggregator, SAGELayer

SAYS = {
    "total_influence": "Sums of absolute values in the layer's Jacobian, over a gene's own expression and over that of its "
    "regulators: how far any direction could move the output; w_eff asks for one, from the neighbour mean to the gene.",
    "Saliency": "The absolute gradient of one of the layer's outputs with respect to its inputs: one row of the two "
    "Jacobians A and B, before the direction is put into them and all outputs into one length.",
}


def neighbours(problem: Problem, sampled_genes: int) -> dict[str, tuple[Callable[[], object], int]]:
    """For each the call to time and the number of genes it treats, after a check of what it returns on one gene."""
    aggregator, x, edge_index = problem
    m = sparse_mean(x, edge_index)
    conv = SAGELayer(MLPAggregator(x.size(1), HIDDEN))
    conv.agg = aggregator
    graph = Data(x=x, edge_index=edge_index)

    def influence() -> torch.Tensor:
        torch.manual_seed(0)  # total_influence draws its genes from the global generator
        with contextlib.redirect_stderr(io.StringIO()):  # and shows a progress bar
            return total_influence(conv, graph, max_hops=1, num_samples=sampled_genes, average=False)[0]

    inputs = tuple(part.detach().clone().requires_grad_() for part in (x, m))

    def saliency() -> tuple[torch.Tensor, torch.Tensor]:
        return Saliency(aggregator).attribute(inputs, target=0)

    torch.manual_seed(0)
    gene = int(torch.randperm(len(x))[0])
    A, B, _ = regnet.local_affine(aggregator, x[gene], m[gene])
    torch.testing.assert_close(influence()[0, 0], A.abs().sum(), rtol=1e-3, atol=0)
    torch.testing.assert_close([part[gene] for part in saliency()], [A[0].abs(), B[0].abs()], rtol=1e-3, atol=1e-6)
    return {"total_influence": (influence, sampled_genes), "Saliency": (saliency, len(x))}
