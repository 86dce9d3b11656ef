"""Pretraining on known edges: an honest split, the training, and the test metrics beside three baselines."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import signal
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from regnet.checks import check_edge_index, check_expression, check_gene_names
from regnet.graph import in_degree
from regnet.model import RegNet
from regnet.report import REPORT_FILES, alone, put_report, save, with_advice
from regnet.structure import pair_features

PLAIN = {"hidden_share": 0.0, "structural": False}
"""Options of :func:`regnet.pretrain` for the network as the note has it: no structural term, and every training edge both
carries messages and is asked for."""

OUTPUT_FILES = (*REPORT_FILES, "settings.json")
"""What :func:`regnet.pretrain` writes."""

_START_OVER = "start over with resume=False (--force on the command line)"


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
        TypeError, ValueError: see :func:`regnet.checks.check_edge_index`.

    References:
        Section 3 of the note; chapter 7 of the book.

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
    resume: bool = False,
) -> Pretrained:
    r"""Train RegNet to tell known edges from other pairs of genes.

    .. math:: L = \mathrm{BCE} + 10^{-2}\,\mathrm{KL} + 0.1\,\mathrm{MSE}_\mathrm{reconstruction}

    with Adam at :math:`10^{-3}` and the epoch with the best validation AUPRC kept. Every epoch hides some of the training
    edges, sends messages along the others, and learns to tell the hidden ones from as many random training non-edges: an
    edge that carried messages would give itself away. The score has a structural term, which starts as the logistic
    regression on :func:`regnet.structure.pair_features`.

    With an output folder the training survives being killed at any moment: at its start and after every epoch all that it
    needs is kept in ``out_dir/training/last.ckpt``, and with ``resume=True`` it goes on from there to exactly the result
    that it would have had without the break, given the same versions and number of threads. The file is removed once the
    outputs are written. While one run writes to a folder, a second one into it is refused.

    Args:
        data: ``x`` (genes, cells), ``edge_index`` (regulator -> target), and for ``out_dir`` also ``gene_names`` and
            ``is_tf``; see :func:`regnet.load_dataset`. The model computes in the dtype of ``x``.
        seed: of the split, the initial weights, dropout and the non-edges. The global random state is left alone.
        max_epochs: passes over the graph, those before a break included; a resumed training may be given more than before.
        hidden_share: share of the training edges that an epoch hides and asks for; with 0 all of them carry messages and
            all are asked for, as in the published model.
        structural: whether the score has the structural term; the published model has none.
        out_dir: where to write ``regnet_pretrained.pth``, ``metrics.json``, ``settings.json``, ``train_edges.csv``,
            ``shrinkage.csv`` and the note's three figures; files of these names are replaced. Nothing is written where it is
            None.
        progress: show a bar over the epochs, with the validation AUPRC, on the standard error stream.
        resume: go on with the training kept in ``out_dir``, or begin where none is kept. Without it, a training kept there
            is replaced by the new one as soon as that begins.

    Returns:
        :class:`Pretrained`.

    Raises:
        TypeError, ValueError: the expression, the edges or the names are not usable or not on the CPU, or the edges are too
            few to leave one each for validation and test; or a training is to be resumed without ``out_dir``, with another
            seed, other options or other data than before, with fewer epochs than it has done, or from a file that is none
            (all before any training); or training diverges, as on raw counts.
        BlockingIOError: another run is writing to the output folder.
        OSError: the output folder cannot be written to (found before any training where it can be), or its disk is full;
            earlier outputs stay as they were, and what was kept can be resumed.
        KeyboardInterrupt: stopped with Ctrl-C; what was kept can be resumed.
        SystemExit: stopped with SIGTERM, at the end of the epoch; what was kept can be resumed.
        RuntimeError: too little memory, of which PyTorch takes several matrices of genes x genes.

    References:
        Section 3 of the note; chapter 7 of the book shows the result.

    >>> data = Data(x=torch.rand(30, 5), edge_index=torch.tensor([[0] * 10, range(1, 11)]))
    >>> sorted(pretrain(data, max_epochs=1).metrics)[:3]
    ['auprc', 'auprc_correlation', 'auprc_degree']
    """
    for field in ("x", "edge_index"):
        if isinstance(data[field], Tensor) and not data[field].is_cpu:
            raise ValueError(
                f"{field} must be on the CPU, where the training runs; got {data[field].device}; use data.cpu()"
            )
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
    if resume and out_dir is None:
        raise ValueError("resume=True needs out_dir, the folder that keeps the training; got None")
    split = split_edges(data.edge_index, data.x.size(0), seed)
    for part in ("val", "test"):
        for kind in ("edges", "non_edges"):
            if getattr(split, f"{part}_{kind}").size(1) == 0:
                raise ValueError(
                    f"too little to split 60/10/30: the {part} part has no {kind.replace('_', '-')}; "
                    "at least one regulator needs 6 or more targets and 6 or more other genes"
                )
    settings = _settings(data, seed) | {"hidden_share": float(hidden_share), "structural": bool(structural)}
    with _kept_in(out_dir) as kept:
        goes_on = kept is not None and resume and kept.is_file()
        if kept is not None and goes_on:
            _check_kept(kept, settings, max_epochs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            task = EdgePrediction(_draw(data.x, structural), data.x.detach(), split, hidden_share)
            keep = Keep(kept, settings)
            _fit(task, keep, max_epochs, progress, goes_on)
        task.model.load_state_dict(keep.best["weights"])

        model = task.model.eval()
        metrics = evaluate(model, data.x.detach(), split) | {
            "seed": seed,
            "epochs": max_epochs,
            "best_epoch": keep.best["epoch"],
        }
        metrics["genes_without_regulators"] = int((in_degree(split.train_edges, data.x.size(0)) == 0).sum())
        if kept is not None:
            put_report(kept.parents[1], model, data, split.train_edges, metrics, settings | {"epochs": max_epochs})
            _unfinished(kept).unlink(missing_ok=True)
            kept.unlink()  # the last of all: while it is there, the training is not finished
    return Pretrained(model, split.train_edges, split, metrics)


def check_finished(out_dir: str | Path, data: Data, seed: int, max_epochs: int) -> None:
    """Raise unless the finished training in a folder is the one of these data, this seed and so many epochs.

    Args:
        out_dir: a folder with :data:`regnet.training.OUTPUT_FILES`.
        data: see :func:`regnet.pretrain`.
        seed: that of the training.
        max_epochs: those of the training.

    Raises:
        FileExistsError: it is another; the message says in what.
        ValueError: ``settings.json`` cannot be read.
    """
    path = Path(out_dir) / "settings.json"
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must be what regnet.pretrain wrote, and is not; {_START_OVER}") from error
    differences = _differences(before, _settings(data, seed) | {"epochs": max_epochs})
    if differences:
        raise FileExistsError(
            f"{out_dir} holds a finished training with {differences}, of which nothing is kept to go on from; "
            "give another --out, or replace it with --force"
        )


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

    References:
        Chapter 7 of the book.

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

    References:
        Chapters 7 and 12 of the book.

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


class EdgePrediction(L.LightningModule):  # type: ignore[misc]  # Lightning is not followed
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
            parts = {part: getattr(split, part) for part in ("train_edges", "train_non_edges", "val_edges", "val_non_edges")}
            features = pair_features(split.train_edges, x.size(0), torch.cat(list(parts.values()), dim=1))
            sizes = [pairs.size(1) for pairs in parts.values()]
            self.features = dict(zip(parts, features.split(sizes), strict=True))

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
        loss: Tensor = classification + 1e-2 * divergence + 0.1 * reconstruction
        self.log("loss", loss, batch_size=1)
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
        self.log("val_auprc", torch.tensor(score), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Keep(L.Callback):  # type: ignore[misc]
    """The weights of the best epoch and, where there is a path, after every epoch all that a training needs to go on.

    One file holds both, so that a kill cannot leave the weights of one epoch beside the state of another. It is there from
    the start: a training that replaces a finished one and is killed in its first epoch must not be taken for that one.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.best: dict[str, Any] = {"auprc": -math.inf}

    def on_train_start(self, trainer: L.Trainer, pl_module: EdgePrediction) -> None:
        if self.path is not None and trainer.global_step == 0:
            trainer.save_checkpoint(self.path, weights_only=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: EdgePrediction) -> None:
        auprc = float(trainer.callback_metrics["val_auprc"])
        if auprc > self.best["auprc"]:
            weights = {name: weight.clone() for name, weight in pl_module.model.state_dict().items()}
            self.best = {"auprc": auprc, "epoch": trainer.current_epoch, "weights": weights}
        if self.path is not None:
            trainer.save_checkpoint(self.path, weights_only=False)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: EdgePrediction, checkpoint: dict[str, Any]) -> None:
        checkpoint["regnet"] = {"settings": self.settings, "best": self.best, "random_state": torch.get_rng_state()}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: EdgePrediction, checkpoint: dict[str, Any]) -> None:
        self.best = checkpoint["regnet"]["best"]
        torch.set_rng_state(checkpoint["regnet"]["random_state"])


class WriteBeside(TorchCheckpointIO):  # type: ignore[misc]
    """Writes a file whole beside its place, then moves it there.

    Lightning's own writes in the folder of temporary files; where that is another disk the move is a copy, which a kill
    leaves half done.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        unfinished = _unfinished(Path(path))
        with with_advice(unfinished.parent):
            try:
                save(checkpoint, unfinished)
                unfinished.replace(path)
            except OSError:
                unfinished.unlink(missing_ok=True)
                raise


class ShowEpochs(L.Callback):  # type: ignore[misc]
    """One bar over all epochs: Lightning's own is over the batches of an epoch, of which there is one."""

    def __init__(self) -> None:
        columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, TextColumn("{task.fields[auprc]}"), console=Console(stderr=True))

    def on_train_start(self, trainer: L.Trainer, pl_module: EdgePrediction) -> None:
        self.epochs = self.bar.add_task("", total=trainer.max_epochs, completed=trainer.current_epoch, auprc="")
        self.bar.start()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: EdgePrediction) -> None:
        auprc = f"validation AUPRC {trainer.callback_metrics['val_auprc']:.3f}"
        self.bar.update(self.epochs, completed=trainer.current_epoch + 1, auprc=auprc)

    def on_train_end(self, trainer: L.Trainer, pl_module: EdgePrediction) -> None:
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: EdgePrediction, exception: BaseException) -> None:
        self.bar.stop()


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


def _settings(data: Data, seed: int) -> dict[str, Any]:
    """What a training must share with another to be its beginning."""
    return {"seed": int(seed), "expression": _digest(data.x), "edges": _digest(data.edge_index)}


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    return " and ".join(
        f"other {name}" if name in ("expression", "edges") else f"{name}={before.get(name)}, not {value}"
        for name, value in now.items()
        if before.get(name) != value
    )


def _digest(values: Tensor) -> str:
    values = values.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)} ".encode())
    digest.update(values.numpy().data)
    return digest.hexdigest()


@contextmanager
def _kept_in(out_dir: str | Path | None) -> Iterator[Path | None]:
    """The file that keeps the training, in a folder that is this run's alone; None where there is no folder."""
    if out_dir is None:
        yield None
        return
    kept = Path(out_dir) / "training" / "last.ckpt"
    with alone(out_dir):
        with with_advice(kept.parent):
            kept.parent.mkdir(exist_ok=True)
        try:
            yield kept
        finally:
            with suppress(OSError):  # the training is kept in it, or somebody's own files
                kept.parent.rmdir()


def _unfinished(path: Path) -> Path:
    return path.with_suffix(".unfinished")


def _check_kept(path: Path, settings: dict[str, Any], max_epochs: int) -> None:
    """Raise unless the file keeps a training of these settings that has not done more epochs."""
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        before, done = checkpoint["regnet"]["settings"], int(checkpoint["global_step"])  # one step an epoch
    except OSError:
        raise
    except Exception as error:  # torch raises all kinds on a file that is none of its own
        raise ValueError(f"{path} must be a training that regnet.pretrain kept, and is not; {_START_OVER}") from error
    differences = _differences(before, settings)
    if differences:
        raise ValueError(
            f"the training kept in {path.parent} must have the same settings to be resumed, and has "
            f"{differences}; give the same as then, or {_START_OVER}"
        )
    if max_epochs < done:
        raise ValueError(
            f"max_epochs (--epochs) must be at least {done}, the epochs that the training kept in {path.parent} has done; "
            f"got {max_epochs}; give more, or {_START_OVER}"
        )


def _fit(task: EdgePrediction, keep: Keep, max_epochs: int, progress: bool, resume: bool) -> None:
    # Lightning reports its environment and its tips through logging and warnings; none is about this training.
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
            warnings.filterwarnings("ignore", message="GPU available but not used")
            warnings.filterwarnings("ignore", message="The `srun` command is available")
            trainer = L.Trainer(
                accelerator="cpu",
                max_epochs=max_epochs,
                callbacks=[keep, ShowEpochs()] if progress else [keep],
                # One process, also as a job of a cluster. No folder, because Lightning goes on from what a job left there
                # (else in the current folder) when the cluster stopped it, whatever the settings of that job were.
                plugins=[WriteBeside(), LightningEnvironment()],
                default_root_dir=os.devnull,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            whole_graph = [torch.zeros(1)]  # the one batch of an epoch; the task holds the graph itself
            trainer.fit(task, whole_graph, whole_graph, ckpt_path=keep.path if resume else None, weights_only=True)
    except SIGTERMException:  # which leaves with status 0, as if all were done
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # which Lightning turns into an exit
            raise KeyboardInterrupt from None
        raise
    finally:
        logger.setLevel(level)
