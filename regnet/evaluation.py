"""A leakage-free split of known edges, and the scores on its test part beside three baselines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from regnet.checks import check_edge_index
from regnet.graph import in_degree
from regnet.model import RegNet
from regnet.structure import pair_features


@dataclass(frozen=True)
class EdgeSplit:
    """Pairs (regulator, target), shape (2, pairs) each: known edges and pairs that are not known edges."""

    train_edges: Tensor
    train_non_edges: Tensor
    val_edges: Tensor
    val_non_edges: Tensor
    test_edges: Tensor
    test_non_edges: Tensor


def split_edges(edge_index: Tensor, num_genes: int, seed: int = 0) -> EdgeSplit:
    """Split every regulator's targets, and its non-targets, 60 / 10 / 30 into training, validation and test.

    Both orders of a pair of genes are in one part: where most edges are listed both ways, a known reverse edge would give
    the other away. Non-edges come only from regulators that have targets: drawn from any gene, they would make a regulator's
    out-degree alone an almost perfect predictor. A regulator with a single target keeps it for training.

    Args:
        edge_index: known edges, regulator -> target, shape (2, edges); repeated edges count once.
        num_genes: number of genes.
        seed: of the shuffling.

    Returns:
        :class:`EdgeSplit`; its parts are disjoint.

    Raises:
        TypeError, ValueError: see :func:`regnet.in_degree`.

    >>> split = split_edges(torch.tensor([[0] * 10, range(1, 11)]), num_genes=21)
    >>> split.train_edges.size(1), split.val_edges.size(1), split.test_edges.size(1)
    (6, 1, 3)
    """
    check_edge_index(edge_index, num_genes)
    generator = torch.Generator().manual_seed(seed)
    known = torch.zeros(num_genes, num_genes, dtype=torch.bool)
    known[edge_index[0], edge_index[1]] = True
    part_of = torch.full((num_genes, num_genes), -1, dtype=torch.int8)
    genes, regulators = torch.arange(num_genes), edge_index[0].unique()
    regulates = torch.zeros(num_genes, dtype=torch.bool)
    regulates[regulators] = True
    for regulator in regulators:
        # Of two regulators without or with mutual edges, the one or the other by turns splits the pair.
        first = (genes <= regulator) == ((genes + regulator) % 2 == 0)
        to, back = known[regulator], known[:, regulator]
        for own in (to & (first | ~back), ~to & ~back & (first | ~regulates) & (genes != regulator)):
            shuffled = own.nonzero().squeeze(1)
            shuffled = shuffled[torch.randperm(len(shuffled), generator=generator)]
            num_val, num_test = round(0.1 * len(shuffled)), round(0.3 * len(shuffled))
            part = torch.zeros(len(shuffled), dtype=torch.int8)
            part[:num_val], part[num_val : num_val + num_test] = 1, 2
            part_of[regulator, shuffled] = part_of[shuffled, regulator] = part
    parts = {}
    for number, name in enumerate(("train", "val", "test")):
        pairs = part_of[regulators] == number
        for kind, these in (("edges", known[regulators]), ("non_edges", ~known[regulators])):
            row, target = (pairs & these).nonzero(as_tuple=True)
            parts[f"{name}_{kind}"] = torch.stack([regulators[row], target])
    return EdgeSplit(**parts)


def evaluate(model: RegNet, x: Tensor, split: EdgeSplit) -> dict[str, float]:
    """Test metrics of a model beside three baselines that train no network.

    Degree scores a pair by the regulator's out-degree times the target's in-degree, both in the training graph; structure by
    the logistic regression on :func:`regnet.structure.pair_features`, fitted to the training pairs; correlation by the
    absolute Pearson correlation of the two genes.

    Args:
        model: the model.
        x: expression, shape (genes, cells).
        split: from :func:`split_edges`.

    Returns:
        ``auroc`` and ``auprc``, both also with ``_degree``, ``_structure`` and ``_correlation``; ``positives``, the share of
        edges among the test pairs and the AUPRC of guessing; and the numbers of edges.

    >>> split = split_edges(torch.tensor([[0] * 10, range(1, 11)]), num_genes=30)
    >>> evaluate(RegNet(5).eval(), torch.rand(30, 5), split)["test_edges"]
    3
    """
    pairs = torch.cat([split.test_edges, split.test_non_edges], dim=1)
    labels, graph = labels_of(split.test_edges, split.test_non_edges), split.train_edges
    correlation = _correlation(x)
    with torch.no_grad():
        scores = {
            "": model(x, graph, pairs).logits,
            "_degree": in_degree(graph.flip(0), len(x))[pairs[0]] * in_degree(graph, len(x))[pairs[1]],
            "_structure": fit_structure(split, len(x)).decision_function(pair_features(graph, len(x), pairs)),
            "_correlation": correlation[pairs[0], pairs[1]].abs(),
        }
    metrics = {f"auroc{name}": float(roc_auc_score(labels, score)) for name, score in scores.items()}
    metrics |= {f"auprc{name}": float(average_precision_score(labels, score)) for name, score in scores.items()}
    metrics |= {f"{part}_edges": getattr(split, f"{part}_edges").size(1) for part in ("train", "val", "test")}
    return metrics | {"positives": float(labels.double().mean())}


def _correlation(x: Tensor) -> Tensor:
    """As ``torch.corrcoef``, without its copies of x, and 0 for a constant gene and for a single cell."""
    mean, covariance = x.mean(dim=1, keepdim=True), x.new_zeros(len(x), len(x))
    for block in x.split(2**24 // len(x) + 1, dim=1):
        centred = block - mean
        covariance += centred @ centred.T
    covariance /= x.size(1) - 1
    deviation = covariance.diag().sqrt()
    return (covariance / deviation[:, None] / deviation).clamp(-1, 1).nan_to_num()


def fit_structure(split: EdgeSplit, num_genes: int) -> LogisticRegression:
    """Logistic regression that tells training edges from training non-edges by their structural features."""
    features = pair_features(split.train_edges, num_genes, torch.cat([split.train_edges, split.train_non_edges], dim=1))
    # Newton's method to full precision: where another solver stops depends on the processor.
    regression = LogisticRegression(class_weight="balanced", solver="newton-cholesky", tol=1e-10, max_iter=200)
    return regression.fit(features, labels_of(split.train_edges, split.train_non_edges))


def labels_of(edges: Tensor, non_edges: Tensor) -> Tensor:
    """1 for each edge, then 0 for each non-edge."""
    return torch.arange(edges.size(1) + non_edges.size(1)).lt(edges.size(1)).float()
