r"""A layer that is Bayes' rule: :math:`g(x, m) = \varphi\bigl(m + w_i (x - m)\bigr)`, so that its effective weight is w.

With :math:`J` the Jacobian of :math:`\varphi`, :math:`A_i = w_i J` and :math:`B_i = (1 - w_i) J`: by Eqs. (3) and (4)
:math:`w_i^{\mathrm{eff}} = w_i` for every gene with :math:`J \delta_i \ne 0`, whatever :math:`\varphi` is.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter, ReLU, Sequential
from torch_geometric.nn import Linear as PygLinear
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import degree, is_sparse, to_edge_index

from regnet.bayes import posterior_weight, prior_variance
from regnet.checks import check_edge_index
from regnet.counts import log_expression, log_noise_variance
from regnet.graph import in_degree, neighbor_mean

Weight = Tensor | float | Literal["learned"]


class Shrinkage(Module):
    """:math:`m + w (x - m)`, Eq. (1), with one weight for all nodes or one a node, given or learned."""

    logit: Parameter | None
    given: Tensor | None

    def __init__(self, weight: Weight, num_nodes: int | None = None) -> None:
        super().__init__()
        if learned := isinstance(weight, str):
            if weight != "learned":
                raise ValueError(f'weight must be "learned", a number or a tensor; got {weight!r}')
            given = None
        else:
            floating = isinstance(weight, Tensor) and weight.is_floating_point()
            precise = weight.dtype if floating else torch.get_default_dtype()  # type: ignore[union-attr]
            given = torch.as_tensor(weight, dtype=precise).detach().nan_to_num(nan=1.0)
            if given.dim() > 1 or not bool(((given >= 0) & (given <= 1)).all()):
                got = f"shape {tuple(given.shape)}" if given.dim() > 1 else f"{given.min():.4g} to {given.max():.4g}"
                raise ValueError(f"weight must be in [0, 1], one number or one a node (nodes,), NaN for 1; got {got}")
        self.register_buffer("given", given)
        self.logit = Parameter(torch.zeros([] if num_nodes is None else num_nodes)) if learned else None

    def reset_parameters(self) -> None:
        """Learned weights go back to one half."""
        if self.logit is not None:
            torch.nn.init.zeros_(self.logit)

    @property
    def weight(self) -> Tensor:
        """In [0, 1], shape () or (nodes,)."""
        weight = self.given if self.logit is None else self.logit.sigmoid()
        assert weight is not None
        return weight

    def shares(self, x: Tensor) -> Tensor:
        """What the nodes and the means of their neighbours count for, w and 1 - w, (2, nodes or 1), in the dtype of x."""
        weight = self.weight.to(x.dtype).reshape(-1)
        if self.weight.dim() and len(weight) != x.size(-2):
            raise ValueError(f"the layer has weights of {len(weight)} nodes; got features of {x.size(-2)}")
        return torch.stack([weight, 1 - weight])

    def forward(self, x: Tensor, m: Tensor, has_neighbors: Tensor | None = None) -> Tensor:
        """Without neighbours there is no prior mean, and x stays as it is."""
        own, rest = self.shares(x)[..., None]
        shrunk = own * x + rest * m
        return shrunk if has_neighbors is None else torch.where(has_neighbors[:, None], shrunk, x)


class PosteriorMeanAggregator(Module):
    r"""RegNet's aggregator with a posterior mean inside: :math:`h = W_2\,\mathrm{ReLU}(W_1 (m + w_i (x - m)) + b_1) + b_2`.

    Its effective weight, Eq. (4), is :math:`w_i` for every gene. The first matrix has half the parameters of
    :class:`regnet.layers.MLPAggregator`, which reads :math:`[x, m]`.

    Args:
        in_channels: features of a gene.
        out_channels: width of the output and of the hidden units.
        weight: :math:`w_i` in [0, 1], one number or one a gene, for example from :func:`regnet.bayes_weight`; NaN, where
            there is no weight, becomes 1. Or ``"learned"``: the sigmoid of a parameter that begins at 0.
        num_genes: with ``"learned"``, one weight for each of so many genes; by default one for all.

    Shapes: x and m (genes, in_channels) -> (genes, out_channels).

    Raises:
        ValueError: weights outside [0, 1], or of another number of genes than the features.

    >>> _ = torch.manual_seed(0)
    >>> layer = PosteriorMeanAggregator(5, 3, weight=torch.tensor([0.25, 1.0]))
    >>> from regnet import effective_weight
    >>> effective_weight(layer, torch.rand(2, 5), torch.rand(2, 5)).round(decimals=4)
    tensor([0.2500, 1.0000])
    """

    def __init__(self, in_channels: int, out_channels: int, weight: Weight, num_genes: int | None = None) -> None:
        super().__init__()
        self.shrinkage = Shrinkage(weight, num_genes)
        self.mlp = Sequential(Linear(in_channels, out_channels), ReLU(), Linear(out_channels, out_channels))

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        h: Tensor = self.mlp(self.shrinkage(x, m))
        return h


class PosteriorMeanConv(MessagePassing):  # type: ignore[misc]
    r"""A graph convolution of the posterior mean of every node, its neighbours' mean being the prior mean.

    .. math:: \mathbf{h}_i = \boldsymbol{\Theta}\bigl(w_i\,\mathbf{x}_i + (1 - w_i)
        \tfrac{1}{|\mathcal{N}(i)|}\textstyle\sum_{j \in \mathcal{N}(i)} \mathbf{x}_j\bigr) + \mathbf{b}

    Its effective weight is :math:`w_i`; a node without neighbours keeps its own features (:math:`w_i = 1`). With one matrix
    where ``SAGEConv`` has two it has half the parameters. Edge weights, also those of a sparse adjacency, are not used, and
    TorchScript is not supported.

    Args:
        in_channels: size of the features, of both node sets in a bipartite graph; -1 to take it from the first call.
        out_channels: size of the output.
        weight: :math:`w_i` in [0, 1]: one number or one a (target) node; NaN becomes 1. Or ``"learned"``, from one half on.
        num_nodes: with ``"learned"``, one weight for each of so many nodes, which then must be the same in every graph; by
            default one weight for all nodes, of any graph.
        bias: whether to add :math:`\mathbf{b}`.
        **kwargs: of ``torch_geometric.nn.MessagePassing``, such as ``flow``.

    Shapes:
        - **input:** node features :math:`(|\mathcal{V}|, F_{in})` or
          :math:`((|\mathcal{V}_s|, F_{in}), (|\mathcal{V}_t|, F_{in}))` if bipartite,
          edge indices :math:`(2, |\mathcal{E}|)`
        - **output:** :math:`(|\mathcal{V}|, F_{out})` or :math:`(|\mathcal{V}_t|, F_{out})` if bipartite

    >>> from regnet import effective_weight_on_graph
    >>> conv = PosteriorMeanConv(5, 3, weight=0.25)
    >>> x, edge_index = torch.rand(4, 5), torch.tensor([[0, 1], [2, 2]])
    >>> conv(x, edge_index).shape, effective_weight_on_graph(conv, x, edge_index)
    (torch.Size([4, 3]), tensor([   nan,    nan, 0.2500,    nan]))
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        weight: Weight = "learned",
        num_nodes: int | None = None,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(aggr="mean", **kwargs)
        if self.node_dim != -2:
            raise ValueError(f"nodes must be the dimension before the features, node_dim=-2; got {self.node_dim}")
        if isinstance(in_channels, tuple):
            if len(set(in_channels)) > 1:
                raise ValueError(f"source and target nodes must have one number of features, to be mixed; got {in_channels}")
            in_channels = in_channels[0]
        self.in_channels, self.out_channels = in_channels, out_channels
        self.shrinkage = Shrinkage(weight, num_nodes)
        self.lin = PygLinear(in_channels, out_channels, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the parameters anew; given weights stay."""
        super().reset_parameters()
        self.shrinkage.reset_parameters()
        self.lin.reset_parameters()

    def forward(self, x: Tensor | tuple[Tensor, Tensor], edge_index: Any, size: tuple[int, int] | None = None) -> Tensor:
        pair = (x, x) if isinstance(x, Tensor) else x
        if pair[1] is None:
            raise ValueError("x must be one tensor or (x_source, x_target); a posterior mean needs both, got None")
        if isinstance(edge_index, Tensor) and is_sparse(edge_index):
            edge_index = edge_index.to_sparse_csr()  # rows in order and no entry twice, whatever its layout was
        m = self.propagate(edge_index, x=pair, size=size)
        targets = edge_index[1 if self.flow == "source_to_target" else 0] if not is_sparse(edge_index) else None
        if targets is None:  # rows of a transposed adjacency
            targets = to_edge_index(edge_index)[0][0] if isinstance(edge_index, Tensor) else edge_index.storage.row()
        has_neighbors = degree(targets, pair[1].size(self.node_dim)) > 0
        h: Tensor = self.lin(self.shrinkage(pair[1], m, has_neighbors))
        return h

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels})"


def bayes_weight(counts: Tensor, edge_index: Tensor, per_count: Tensor | None = None) -> Tensor:
    r"""Bayes' weight of every gene, Eq. (1), from molecule counts, with the neighbour mean as the prior mean.

    .. math:: w_i = \frac{\tau_i^2}{\sigma_i^2 + \tau_i^2}, \qquad
        \tau_i^2 = \max\Bigl(0,\ \frac1S\sum_s (x_{is} - m_{is})^2 - \sigma_i^2\Bigr), \qquad
        x_{is} = \log(1 + u_s c_{is})

    The noise variance :math:`\sigma_i^2` of the logarithm is that of a Poisson count whose rate follows a gamma
    distribution over cells, one for the shallower and one for the deeper half of the cells, fitted to the mean and the
    variance of the counts of the gene (chapter 13).

    Args:
        counts: :math:`c_{is}`, molecules, shape (genes, cells).
        edge_index: regulator -> target, shape (2, edges); in a training its message graph, without the edges to predict.
        per_count: :math:`u_s`, what a molecule of a cell is worth, shape (cells,); by default 10,000 over the cell's count.
            From log-normalised expression, ``counts, per_count = regnet.recover_counts(x)``.

    Returns:
        Shape (genes,), float64, in [0, 1]; NaN for genes without regulators, which have no prior mean, and for genes of
        which nothing was counted, whose noise is unknown. In a layer NaN becomes 1.

    Raises:
        TypeError, ValueError: see :func:`regnet.split_counts` for ``counts``, :func:`regnet.in_degree` for ``edge_index``;
            or ``per_count`` is not one positive number a cell.

    References:
        Section 1 of the note; Robbins (1956).

    >>> counts = torch.tensor([[3, 9, 1, 8], [0, 1, 0, 2], [9, 4, 12, 6]])
    >>> bayes_weight(counts, torch.tensor([[2, 2], [0, 1]])).round(decimals=2)
    tensor([0.0000, 0.8900,    nan], dtype=torch.float64)
    """
    check_edge_index(edge_index, len(counts))
    counts, edge_index = counts.cpu(), edge_index.cpu()
    noise_var = log_noise_variance(counts, per_count)
    x = log_expression(counts, per_count)
    m = neighbor_mean(x, edge_index)
    prior_var = prior_variance(x, m, noise_var)
    known = (in_degree(edge_index, len(x)) > 0) & (noise_var > 0)
    weight = posterior_weight(noise_var, prior_var.where(known, 1.0))
    return weight.where(known, torch.nan)
