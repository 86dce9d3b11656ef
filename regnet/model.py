"""RegNet: GraphSAGE with an MLP aggregator -> gated self-attention -> variational autoencoder -> edge classifier.

The parameter names are those of the published checkpoint, so ``load_state_dict(strict=True)`` takes it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regnet.bayes_layer import PosteriorMeanAggregator, Weight
from regnet.checks import check_edge_index
from regnet.graph import Adjacency, mean_over_regulators
from regnet.layers import MLPAggregator as MLPAggregator


class SAGELayer(nn.Module):
    r"""The aggregator on every gene and the mean of its regulators; a posterior mean leaves genes without regulators alone.

    As :math:`m W^\top = \bar A (x W^\top)`, the mean is taken over hidden units, which are far fewer than cells.

    Shapes: x (genes, in_channels), edge_index (2, edges) -> (genes, out_channels).
    """

    def __init__(self, agg: MLPAggregator | PosteriorMeanAggregator) -> None:
        super().__init__()
        self.agg = agg

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        weight, bias = self.agg.mlp[0].parameters()
        if isinstance(self.agg, PosteriorMeanAggregator):
            y, graph = F.linear(x, weight), Adjacency.of(edge_index, x.size(0))
            z = self.agg.shrinkage(y, graph.mean(y), graph.in_degree() > 0) + bias
        else:
            w_self, w_neighbor = weight.chunk(2, dim=1)
            z = F.linear(x, w_self, bias) + mean_over_regulators(F.linear(x, w_neighbor), edge_index)
        h: Tensor = self.agg.mlp[1:](z)
        return h


class GraphSAGE(nn.Module):
    """Layers with a ReLU, and dropout in training, after each.

    Shapes: x (genes, in_channels), edge_index (2, edges) -> (genes, hidden_channels).
    """

    def __init__(self, first: MLPAggregator | PosteriorMeanAggregator, width: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        others = (MLPAggregator(width, width) for _ in range(num_layers - 1))
        self.layers = nn.ModuleList(SAGELayer(agg) for agg in (first, *others))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.dropout(layer(x, edge_index).relu())
        return x


class GatedAttention(nn.Module):
    r"""Self-attention over all genes, mixed with its input by a learned gate.

    .. math:: a = \mathrm{softmax}(QK^\top/\sqrt{d})\,V, \quad \gamma = \mathrm{sigmoid}(W_\gamma [h, a]), \quad
        W_o\,(\gamma\,a + (1-\gamma)\,h)

    Shapes: (genes, channels) -> (genes, channels).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.gate = nn.Sequential(nn.Linear(2 * channels, channels), nn.Sigmoid())
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        scores = self.query(h) @ self.key(h).T / h.size(-1) ** 0.5
        attended = scores.softmax(dim=-1) @ self.value(h)
        gate = self.gate(torch.cat([h, attended], dim=-1))
        out: Tensor = self.out_proj(gate * attended + (1 - gate) * h)
        return out


class GaussianEncoder(nn.Module):
    """Mean and log-variance of the latent normal. Shapes: (genes, channels) -> twice (genes, latent_channels)."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.fc_mu = nn.Linear(channels, latent_channels)
        self.fc_logvar = nn.Linear(channels, latent_channels)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc_mu(h), self.fc_logvar(h)


class VAE(nn.Module):
    """Gaussian encoder, and decoder back from the latent space: (genes, latent_channels) -> (genes, channels)."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.encoder = GaussianEncoder(channels, latent_channels)
        layers = nn.Sequential(nn.Linear(latent_channels, channels), nn.ReLU(), nn.Linear(channels, channels))
        self.decoder = nn.Sequential(OrderedDict(decoder=layers))  # the name that the published checkpoint has


class RegNetOutput(NamedTuple):
    """Logits (pairs,), latent mean and log-variance (genes, latent_channels), and what the autoencoder reads and
    reconstructs (genes, hidden_channels)."""

    logits: Tensor
    mu: Tensor
    logvar: Tensor
    hidden: Tensor
    reconstruction: Tensor


class RegNet(nn.Module):
    """Scores how likely one gene regulates another from their expression and a known graph (section 3 of the note).

    Args:
        in_channels: features of a gene, i.e. the number of cells.
        hidden_channels: width of every hidden layer.
        latent_channels: width of the latent space.
        num_layers: GraphSAGE layers, as in Hamilton et al. (2017); ValueError where this or a width is below 1.
        dropout: probability in [0, 1) after each GraphSAGE layer, in training only.
        aggregator: of the first GraphSAGE layer: ``"mlp"``, the note's, or ``"posterior-mean"``, a
            :class:`regnet.PosteriorMeanAggregator`.
        weight: with ``"posterior-mean"``, its weight; ``"learned"`` needs ``num_genes``.
        num_genes: the number of learned weights.

    >>> model = RegNet(in_channels=5, hidden_channels=8, latent_channels=4)
    >>> x, edge_index = torch.randn(3, 5), torch.tensor([[0, 0], [1, 2]])
    >>> model(x, edge_index, pairs=torch.tensor([[0], [2]])).logits.shape
    torch.Size([1])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 128,
        latent_channels: int = 64,
        num_layers: int = 2,
        dropout: float = 0.2,
        aggregator: str = "mlp",
        weight: Weight | None = None,
        num_genes: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "hidden_channels": hidden_channels, "latent_channels": latent_channels}
        for name, size in (sizes | {"num_layers": num_layers}).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {size}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {dropout}")
        if aggregator not in ("mlp", "posterior-mean"):
            raise ValueError(f'aggregator must be "mlp" or "posterior-mean"; got {aggregator!r}')
        if (aggregator == "mlp") != (weight is None):
            raise ValueError(f'weight belongs to aggregator="posterior-mean", which needs it; got {aggregator!r}, {weight}')
        first: MLPAggregator | PosteriorMeanAggregator
        if weight is None:
            first = MLPAggregator(in_channels, hidden_channels)
        else:
            first = PosteriorMeanAggregator(in_channels, hidden_channels, weight, num_genes)
        self.graphsage = GraphSAGE(first, hidden_channels, num_layers, dropout)
        self.attention = GatedAttention(hidden_channels)
        self.vae = VAE(hidden_channels, latent_channels)
        self.edge_classifier = nn.Sequential(
            nn.Linear(2 * latent_channels, hidden_channels), nn.ReLU(), nn.Linear(hidden_channels, 1)
        )

    def forward(self, x: Tensor, edge_index: Tensor, pairs: Tensor) -> RegNetOutput:
        """Logits (pairs,), latent mean and log-variance, and what the autoencoder reads and reconstructs.

        In training mode the reconstruction starts from a random draw of the latent normal, otherwise from its mean.

        Args:
            x: expression, shape (genes, in_channels).
            edge_index: the known graph, shape (2, edges), see :func:`regnet.in_degree`; it may be empty.
            pairs: regulator and target to score, shape (2, pairs), checked in the same way.
        """
        for name, edges in (("edge_index", edge_index), ("pairs", pairs)):
            if edges.numel():  # an index below zero would count from the last gene
                check_edge_index(edges, x.size(0), name)
        hidden = self.attention(self.graphsage(x, edge_index))
        mu, logvar = self.vae.encoder(hidden)
        z = mu + torch.randn_like(mu) * (logvar / 2).exp() if self.training else mu
        # As W [mu_i, mu_j] = W_i mu_i + W_j mu_j, the products are taken a gene, of which there are fewer than pairs.
        weight, bias = self.edge_classifier[0].parameters()
        of_source, of_target = (F.linear(mu, part) for part in weight.chunk(2, dim=1))
        logits = self.edge_classifier[1:](of_source[pairs[0]] + of_target[pairs[1]] + bias).squeeze(-1)
        return RegNetOutput(logits, mu, logvar, hidden, self.vae.decoder(z))
