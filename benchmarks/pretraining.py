"""regnet.pretrain against a plain PyTorch loop that trains the same model on the same pairs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from sklearn.metrics import average_precision_score
from timing import ratios
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

import regnet
from regnet.training import VALIDATE_EVERY, split_edges


def plain_loop(data: Data, epochs: int, seed: int = 0, ratio: float = 0.3) -> dict[str, Tensor]:
    """The best weights, by validation AUPRC; nothing but PyTorch between the split and them."""
    torch.manual_seed(seed)
    split = split_edges(data.edge_index, data.x.size(0), seed)
    model = regnet.RegNet(data.x.size(1))
    val_pairs = torch.cat([split.val_edges, split.val_non_edges], dim=1)
    val_labels = torch.arange(val_pairs.size(1)) < split.val_edges.size(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    num_edges, best = split.train_edges.size(1), -1.0
    count = max(1, round(ratio * num_edges))
    labels = (torch.arange(2 * count) < count).float()
    for epoch in range(epochs):
        model.train()
        shuffled = torch.randperm(num_edges)
        drawn = torch.randint(split.train_non_edges.size(1), (count,))
        pairs = torch.cat([split.train_edges[:, shuffled[:count]], split.train_non_edges[:, drawn]], dim=1)
        out = model(data.x, split.train_edges[:, shuffled[count:]], pairs)
        divergence = -0.5 * (1 + out.logvar - out.mu**2 - out.logvar.exp()).mean()
        reconstruction = F.mse_loss(out.reconstruction, out.hidden)
        loss = F.binary_cross_entropy_with_logits(out.logits, labels) + 1e-2 * divergence + 0.1 * reconstruction
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if epoch % VALIDATE_EVERY:
            continue
        model.eval()
        with torch.no_grad():
            logits = model(data.x, split.train_edges, val_pairs).logits
        score = average_precision_score(val_labels, logits)
        if score > best:
            best, weights = score, copy.deepcopy(model.state_dict())
    return weights


def seconds_an_epoch(data: Data, few: int, many: int, repeats: int) -> dict[str, list[float]]:
    """Of both, by turns: the difference of two trainings, so that what happens once a training does not count."""
    trainings: dict[str, Callable[[int], dict[str, Tensor]]] = {
        "regnet.pretrain": lambda epochs: regnet.pretrain(data, max_epochs=epochs).model.state_dict(),
        "plain loop": lambda epochs: plain_loop(data, epochs),
    }
    found, expected = (train(few) for train in trainings.values())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    measured: dict[str, list[float]] = {name: [] for name in trainings}
    for repeat in range(repeats):
        for name in trainings if repeat % 2 == 0 else reversed(trainings):
            elapsed = {}
            for epochs in (few, many):
                start = time.perf_counter()
                trainings[name](epochs)
                elapsed[epochs] = time.perf_counter() - start
            measured[name].append((elapsed[many] - elapsed[few]) / (many - few))
    return measured


def slowdown(measured: dict[str, list[float]]) -> list[float]:
    return ratios(measured["regnet.pretrain"], measured["plain loop"])
