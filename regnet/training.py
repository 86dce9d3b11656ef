"""Pretraining on known edges: an honest split, the training, and the test metrics beside three baselines."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from regnet.datasets import check_gene_names
from regnet.graph import check_edge_index, check_expression, in_degree
from regnet.model import RegNet
from regnet.report import write_report
from regnet.structure import pair_features

PLAIN = {"hidden_share": 0.0, "structural": False}
"""Options of :func:`regnet.pretrain` for the network as the note has it: no structural term, and every training edge both
carries messages and is asked for."""


@dataclass(frozen=True)
class EdgeSplit:
    """Pairs (regulator, target), shape (2, pairs) each: known edges and pairs that are not known edges."""

    train_edges: Tensor
    train_non_edges: Tensor
    val_edges: Tensor
    val_non_edges: Tensor
    test_edges: Tensor
    test_non_edges: Tensor


@dataclass(frozen=True)
class Pretrained:
    """A trained model and what is needed to judge it.

    Attributes:
        model: the epoch with the best validation AUPRC, in evaluation mode.
        edge_index: the message graph: the training edges only, shape (2, edges).
        split: every pair the model was trained, chosen and tested on.
        metrics: test AUROC and AUPRC of the model, of the degree and the structural baseline and of absolute Pearson
            correlation, with the share of positives, the sizes of the parts, the seed, the best epoch, and how many genes
            have no regulator in the message graph, so that their weight is undefined.
    """

    model: RegNet
    edge_index: Tensor
    split: EdgeSplit
    metrics: dict[str, float]


def split_edges(edge_index: Tensor, num_genes: int, seed: int = 0) -> EdgeSplit:
    """Split every regulator's targets, and its non-targets, 60 / 10 / 30 into training, validation and test.

    Non-edges come only from regulators that have targets: drawn from any gene, they would make a regulator's
    out-degree alone an almost perfect predictor. A regulator with a single target keeps it for training.

    Args:
        edge_index: known edges, regulator -> target, shape (2, edges); repeated edges count once.
        num_genes: number of genes.
        seed: of the shuffling.

    Returns:
        :class:`EdgeSplit`; its parts are disjoint.

    Raises:
        TypeError, ValueError: see :func:`regnet.graph.check_edge_index`.

    >>> split = split_edges(torch.tensor([[0] * 10, range(1, 11)]), num_genes=21)
    >>> split.train_edges.size(1), split.val_edges.size(1), split.test_edges.size(1)
    (6, 1, 3)
    """
    check_edge_index(edge_index, num_genes)
    generator = torch.Generator().manual_seed(seed)
    known = torch.zeros(num_genes, num_genes, dtype=torch.bool)
    known[edge_index[0], edge_index[1]] = True
    parts: defaultdict[tuple[str, bool], list[Tensor]] = defaultdict(list)
    for regulator in edge_index[0].unique():
        for label in (True, False):
            targets = (known[regulator] == label).nonzero().squeeze(1)
            if not label:
                targets = targets[targets != regulator]
            targets = targets[torch.randperm(len(targets), generator=generator)]
            num_val, num_test = round(0.1 * len(targets)), round(0.3 * len(targets))
            sizes = [len(targets) - num_val - num_test, num_val, num_test]
            for part, members in zip(("train", "val", "test"), targets.split(sizes), strict=True):
                parts[part, label].append(torch.stack([regulator.expand_as(members), members]))
    joined = {key: torch.cat(pairs, dim=1) for key, pairs in parts.items()}
    return EdgeSplit(
        train_edges=joined["train", True],
        train_non_edges=joined["train", False],
        val_edges=joined["val", True],
        val_non_edges=joined["val", False],
        test_edges=joined["test", True],
        test_non_edges=joined["test", False],
    )


def pretrain(
    data: Data,
    *,
    seed: int = 0,
    max_epochs: int = 200,
    hidden_share: float = 0.3,
    structural: bool = True,
    out_dir: str | Path | None = None,
    progress: bool = False,
) -> Pretrained:
    r"""Train RegNet to tell known edges from other pairs of genes.

    .. math:: L = \mathrm{BCE} + 10^{-2}\,\mathrm{KL} + 0.1\,\mathrm{MSE}_\mathrm{reconstruction}

    with Adam at :math:`10^{-3}` and the epoch with the best validation AUPRC kept. Every epoch hides some of the training
    edges, sends messages along the others, and learns to tell the hidden ones from as many random training non-edges: an
    edge that carried messages would give itself away. The score has a structural term, which starts as the logistic
    regression on :func:`regnet.structure.pair_features`.

    Args:
        data: ``x`` (genes, cells), ``edge_index`` (regulator -> target), and for ``out_dir`` also ``gene_names`` and
            ``is_tf``; see :func:`regnet.load_dataset`. The model computes in the dtype of ``x``.
        seed: of the split, the initial weights, dropout and the non-edges. The global random state is left alone.
        max_epochs: passes over the graph.
        hidden_share: share of the training edges that an epoch hides and asks for; with 0 all of them carry messages and
            all are asked for, as in the published model.
        structural: whether the score has the structural term; the published model has none.
        out_dir: where to write ``regnet_pretrained.pth``, ``metrics.json``, ``shrinkage.csv`` and the note's three
            figures; files of these names are replaced. Nothing is written where it is None.
        progress: show a progress bar.

    Returns:
        :class:`Pretrained`.

    Raises:
        TypeError, ValueError: the expression, the edges or the names are not usable, or the edges are too few to leave
            one each for validation and test (all before any training); or training diverges, as on raw counts.
        OSError: the output folder cannot be written to (before any training).

    References:
        Section 3 of the note; chapter 7 of the book shows the result.

    >>> data = Data(x=torch.rand(30, 5), edge_index=torch.tensor([[0] * 10, range(1, 11)]))
    >>> sorted(pretrain(data, max_epochs=1).metrics)[:3]
    ['auprc', 'auprc_correlation', 'auprc_degree']
    """
    check_expression(data.x)
    check_edge_index(data.edge_index, data.x.size(0))
    for field in ("gene_names", "is_tf"):
        if field in data and len(data[field]) != data.x.size(0):
            raise ValueError(f"{field} must have one entry for each of the {data.x.size(0)} genes; got {len(data[field])}")
    if "gene_names" in data:
        check_gene_names(data.gene_names)
    if not isinstance(max_epochs, int) or max_epochs < 1:
        raise ValueError(f"max_epochs must be a whole number of at least 1; got {max_epochs}")
    if not 0 <= hidden_share < 1:
        raise ValueError(f"hidden_share must be at least 0 and below 1; got {hidden_share}")
    split = split_edges(data.edge_index, data.x.size(0), seed)
    for part in ("val", "test"):
        for kind in ("edges", "non_edges"):
            if getattr(split, f"{part}_{kind}").size(1) == 0:
                raise ValueError(
                    f"too little to split 60/10/30: the {part} part has no {kind.replace('_', '-')}; "
                    "at least one regulator needs 6 or more targets and 6 or more other genes"
                )
    if out_dir is not None:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir, prefix=".writing-"):
            pass  # a folder that cannot be written to is found now, not after the training

    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(seed)
        task = EdgePrediction(_draw(data.x, structural), data.x.detach(), split, hidden_share)
        keep_best = ModelCheckpoint(scratch, monitor="val_auprc", mode="max", save_weights_only=True)
        _fit(task, keep_best, max_epochs, progress)
        best = torch.load(keep_best.best_model_path, weights_only=True)
    task.load_state_dict(best["state_dict"])

    model = task.model.eval()
    metrics = evaluate(model, data.x.detach(), split) | {"seed": seed, "best_epoch": int(best["epoch"])}
    metrics["genes_without_regulators"] = int((in_degree(split.train_edges, data.x.size(0)) == 0).sum())
    result = Pretrained(model, split.train_edges, split, metrics)
    if out_dir is not None:
        write_report(out_dir, model, data, result.edge_index, metrics)
    return result


def untrained(x: Tensor, seed: int = 0) -> RegNet:
    """The model as :func:`regnet.pretrain` starts it: the control for whatever a trained one shows.

    Args:
        x: expression, shape (genes, cells); the weights are drawn in its dtype.
        seed: that of the training. The global random state is left alone.

    Returns:
        The model in evaluation mode, without the structural term.

    References:
        Adebayo et al. (2018); chapter 7 of the book.

    >>> untrained(torch.rand(30, 5)).graphsage.layers[0].agg(torch.rand(1, 5), torch.rand(1, 5)).shape
    torch.Size([1, 128])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _draw(x, structural=False).eval()


def evaluate(model: RegNet, x: Tensor, split: EdgeSplit) -> dict[str, float]:
    """Test metrics of a model beside three baselines that train no network: degree, structure and correlation.

    The degree baseline scores a pair by the regulator's out-degree times the target's in-degree, both in the training
    graph; structure, by the logistic regression on :func:`regnet.structure.pair_features`, fitted to the training pairs;
    correlation, by the absolute Pearson correlation of the two genes.

    Args:
        model: the model.
        x: expression, shape (genes, cells).
        split: from :func:`split_edges`.

    Returns:
        ``auroc`` and ``auprc``, both also with the suffixes ``_degree``, ``_structure`` and ``_correlation``, ``positives``
        (share of edges among the test pairs: the AUPRC of guessing) and the numbers of training, validation and test edges.

    >>> split = split_edges(torch.tensor([[0] * 10, range(1, 11)]), num_genes=30)
    >>> evaluate(RegNet(5).eval(), torch.rand(30, 5), split)["test_edges"]
    3
    """
    pairs = torch.cat([split.test_edges, split.test_non_edges], dim=1)
    labels = _labels(split.test_edges, split.test_non_edges)
    graph = split.train_edges
    out_degree = in_degree(graph.flip(0), x.size(0))
    # A constant gene correlates with nothing, nor does anything over a single cell.
    correlation = torch.corrcoef(x).nan_to_num() if x.size(1) > 1 else x.new_zeros(x.size(0), x.size(0))
    with torch.no_grad():
        scores = {
            "": model(x, graph, pairs).logits,
            "_degree": out_degree[pairs[0]] * in_degree(graph, x.size(0))[pairs[1]],
            "_structure": fit_structure(split, x.size(0)).decision_function(pair_features(graph, x.size(0), pairs)),
            "_correlation": correlation[pairs[0], pairs[1]].abs(),
        }
    metrics = {f"auroc{name}": float(roc_auc_score(labels, score)) for name, score in scores.items()}
    metrics |= {f"auprc{name}": float(average_precision_score(labels, score)) for name, score in scores.items()}
    metrics |= {f"{part}_edges": getattr(split, f"{part}_edges").size(1) for part in ("train", "val", "test")}
    return metrics | {"positives": float(labels.double().mean())}


def fit_structure(split: EdgeSplit, num_genes: int) -> LogisticRegression:
    """Logistic regression that tells training edges from training non-edges by the structural features of the pairs.

    Args:
        split: from :func:`split_edges`.
        num_genes: number of genes.

    Returns:
        The fitted regression; both classes weigh the same in it.

    >>> split = split_edges(torch.tensor([[0] * 10, range(1, 11)]), num_genes=30)
    >>> fit_structure(split, 30).coef_.shape
    (1, 5)
    """
    pairs = torch.cat([split.train_edges, split.train_non_edges], dim=1)
    # Newton's method to full precision: where another solver stops depends on the processor.
    regression = LogisticRegression(class_weight="balanced", solver="newton-cholesky", tol=1e-10, max_iter=200)
    return regression.fit(
        pair_features(split.train_edges, num_genes, pairs), _labels(split.train_edges, split.train_non_edges)
    )


class EdgePrediction(L.LightningModule):
    """One epoch is one step on the whole graph, with some of its edges hidden."""

    def __init__(self, model: RegNet, x: Tensor, split: EdgeSplit, hidden_share: float = 0.3) -> None:
        super().__init__()
        self.model = model
        self.x = x
        self.split = split
        self.hidden_share = hidden_share
        if model.structure is not None:
            regression = fit_structure(split, x.size(0))
            with torch.no_grad():
                model.structure.weight.copy_(torch.as_tensor(regression.coef_))
                model.structure.bias.copy_(torch.as_tensor(regression.intercept_))
            parts = ("train_edges", "train_non_edges", "val_edges", "val_non_edges")
            self.features = {part: pair_features(split.train_edges, x.size(0), getattr(split, part)) for part in parts}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        num_edges = self.split.train_edges.size(1)
        if self.hidden_share:
            shuffled = torch.randperm(num_edges)
            asked, carrying = shuffled.tensor_split([max(1, round(self.hidden_share * num_edges))])
        else:
            asked = carrying = torch.arange(num_edges)
        drawn = torch.randint(self.split.train_non_edges.size(1), (len(asked),))
        edges, non_edges = self.split.train_edges[:, asked], self.split.train_non_edges[:, drawn]
        features = None
        if self.model.structure is not None:  # those of the whole graph, from which each pair's own edge is left out
            features = torch.cat([self.features["train_edges"][asked], self.features["train_non_edges"][drawn]])
        out = self.model(self.x, self.split.train_edges[:, carrying], torch.cat([edges, non_edges], dim=1), features)
        classification = F.binary_cross_entropy_with_logits(out.logits, _labels(edges, non_edges).to(out.logits))
        divergence = -0.5 * (1 + out.logvar - out.mu**2 - out.logvar.exp()).mean()
        reconstruction = F.mse_loss(out.reconstruction, out.hidden)
        loss = classification + 1e-2 * divergence + 0.1 * reconstruction
        self.log("loss", loss, prog_bar=True, batch_size=1)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        edges, non_edges = self.split.val_edges, self.split.val_non_edges
        features = None
        if self.model.structure is not None:
            features = torch.cat([self.features["val_edges"], self.features["val_non_edges"]])
        logits = self.model(self.x, self.split.train_edges, torch.cat([edges, non_edges], dim=1), features).logits
        if not logits.isfinite().all():
            raise ValueError(
                f"training diverged in epoch {self.current_epoch}: x reaches {self.x.abs().max():.3g}; "
                "use log or standardised expression, of the order of 1 to 10"
            )
        score = average_precision_score(_labels(edges, non_edges), logits)
        self.log("val_auprc", torch.tensor(score), prog_bar=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def _draw(x: Tensor, structural: bool) -> RegNet:
    """Weights in the dtype of x: drawn in float32 and converted, they would differ between processors from the start."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(x.dtype)
    try:
        return RegNet(x.size(1), structural=structural)
    finally:
        torch.set_default_dtype(before)


def _labels(edges: Tensor, non_edges: Tensor) -> Tensor:
    return torch.cat([torch.ones(edges.size(1)), torch.zeros(non_edges.size(1))])


def _fit(task: EdgePrediction, keep_best: ModelCheckpoint, max_epochs: int, progress: bool) -> None:
    # Lightning reports its environment and its tips through logging and warnings; none is about this training.
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
            trainer = L.Trainer(
                accelerator="cpu",
                max_epochs=max_epochs,
                callbacks=[keep_best],
                logger=False,
                enable_progress_bar=progress,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            whole_graph = [torch.zeros(1)]  # the one batch of an epoch; the task holds the graph itself
            trainer.fit(task, train_dataloaders=whole_graph, val_dataloaders=whole_graph)
    finally:
        logger.setLevel(level)
