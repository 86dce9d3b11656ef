"""Pretraining on known edges: the loss, the loop, and the file that lets an interrupted training go on."""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import Linear
from torch.nn import functional as F
from torch.optim import Adam
from torch_geometric.data import Data

from regnet.checks import check_edge_index, check_expression, check_memory
from regnet.evaluation import EdgeSplit, evaluate, fit_structure, labels_of, split_edges
from regnet.graph import in_degree
from regnet.model import RegNet
from regnet.structure import pair_features
from regnet.writing import write_files

PLAIN = {"hidden_share": 0.0, "structural": False}
"""Options of :func:`regnet.pretrain` for the note's network: no structural term, and every training edge both passes
messages and is supervised."""


@dataclass(frozen=True)
class Pretrained:
    """A trained model and what is needed to judge it.

    Attributes:
        model: the epoch with the best validation AUPRC, in evaluation mode.
        edge_index: the graph that messages pass along: the training edges only, shape (2, edges).
        split: every pair the model was trained, chosen and tested on.
        metrics: those of :func:`regnet.training.evaluate`, the seed, the epochs, the best one (from 0), and how many genes
            have no regulator in the training graph, so that their weight is undefined.
        settings: seed, options, epochs, and checksums of the expression and the edges.
    """

    model: RegNet
    edge_index: Tensor
    split: EdgeSplit
    metrics: dict[str, float]
    settings: dict[str, Any]


def pretrain(
    data: Data,
    *,
    seed: int = 0,
    max_epochs: int = 200,
    hidden_share: float = 0.3,
    structural: bool = True,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Pretrained:
    r"""Train RegNet to tell known edges from other pairs of genes.

    .. math:: L = \mathrm{BCE} + 10^{-2}\,\mathrm{KL} + 0.1\,\mathrm{MSE}_\mathrm{reconstruction}

    with Adam at :math:`10^{-3}`, the first epoch with the best validation AUPRC kept. Every epoch draws supervision edges
    from the training edges, passes messages along the others, and tells the former from as many random non-edges.

    Args:
        data: ``x`` (genes, cells) and ``edge_index`` (regulator -> target); the model computes in the dtype of ``x``.
        seed: of the split, the weights, dropout and the non-edges; the global random state is left alone.
        max_epochs: passes over the graph, those before an interruption included; a resumed training may be given more.
        hidden_share: share of the training edges that an epoch supervises; with 0 all are supervised and pass messages.
        structural: add a term to the score that starts as the logistic regression on :func:`regnet.structure.pair_features`.
        checkpoint: a file that keeps, after every epoch, all that is needed to go on; remove it once the result is safe.
        resume: go on from ``checkpoint``, to exactly the result of an uninterrupted training (same versions and number of
            threads), or begin where there is none. Without it, the file is replaced.
        progress: show a bar over the epochs on the standard error stream.

    Returns:
        :class:`Pretrained`.

    Raises:
        TypeError, ValueError: data that cannot be used, are not on the CPU, or too few to split; a checkpoint that is
            damaged, of other settings or of more epochs; or training diverges, as on raw counts.
        OSError: the checkpoint cannot be written; the one before it stays.
        MemoryError: the data and what the training keeps beside them do not fit.

    References:
        Section 3 of the note.

    >>> data = Data(x=torch.rand(30, 5), edge_index=torch.tensor([[0] * 10, range(1, 11)]))
    >>> sorted(pretrain(data, max_epochs=1).metrics)[:3]
    ['auprc', 'auprc_correlation', 'auprc_degree']
    """
    split = _check_and_split(data, seed, max_epochs, hidden_share)
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint, the file that keeps the training; got None")
    x, path = data.x.detach(), Path(checkpoint) if checkpoint else None
    settings = data_settings(data, seed) | {"hidden_share": float(hidden_share), "structural": bool(structural)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _draw(x, structural)
        features = None if model.structure is None else _start_structure(model.structure, split, len(x))
        optimizer = Adam(model.parameters(), lr=1e-3)
        done, best = 0, _snapshot(-math.inf, 0, model)
        if path and resume and path.is_file():
            done, best = _restore(path, settings, model, optimizer, max_epochs)
        elif path:
            _keep(path, settings, done, model, optimizer, best)
        with _bar(progress) as bar:
            shown = bar.add_task("", total=max_epochs, completed=done, auprc="")
            for epoch in range(done, max_epochs):
                _loss(model.train(), x, split, hidden_share, features).backward()
                optimizer.step()
                optimizer.zero_grad()  # frees their memory
                auprc = _validation_auprc(model.eval(), x, split, features)
                if math.isnan(auprc):
                    if path:  # going on would diverge again
                        path.unlink()
                    raise ValueError(
                        f"training diverged in epoch {epoch}: x reaches {x.abs().max():.3g}; "
                        "use log or standardised expression, of the order of 1 to 10"
                    )
                if auprc > best["auprc"]:
                    best = _snapshot(auprc, epoch, model)
                if path:
                    _keep(path, settings, epoch + 1, model, optimizer, best)
                bar.update(shown, completed=epoch + 1, auprc=f"validation AUPRC {auprc:.3f}")
    model.load_state_dict(best["weights"])
    metrics = evaluate(model.eval(), x, split) | {"seed": seed, "epochs": max_epochs, "best_epoch": best["epoch"]}
    metrics["genes_without_regulators"] = int((in_degree(split.train_edges, len(x)) == 0).sum())
    return Pretrained(model, split.train_edges, split, metrics, settings | {"epochs": max_epochs})


def untrained(x: Tensor, seed: int = 0) -> RegNet:
    """The model as :func:`regnet.pretrain` starts it: the control for whatever a trained one shows.

    Args:
        x: expression, shape (genes, cells); the weights are drawn in its dtype.
        seed: that of the training. The global random state is left alone.

    Returns:
        The model in evaluation mode, without the structural term.

    References:
        Adebayo et al. (2018).

    >>> untrained(torch.rand(30, 5)).graphsage.layers[0].agg(torch.rand(1, 5), torch.rand(1, 5)).shape
    torch.Size([1, 128])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _draw(x, structural=False).eval()


def _loss(model: RegNet, x: Tensor, split: EdgeSplit, share: float, features: dict[str, Tensor] | None) -> Tensor:
    """The loss of an epoch, on supervision edges and non-edges that it draws."""
    num_edges = split.train_edges.size(1)
    supervision = messages = torch.arange(num_edges)
    if share:
        supervision, messages = torch.randperm(num_edges).tensor_split([max(1, round(share * num_edges))])
    drawn = torch.randint(split.train_non_edges.size(1), (len(supervision),))
    edges, non_edges = split.train_edges[:, supervision], split.train_non_edges[:, drawn]
    # The features are those of the whole training graph, in which a pair's own edge is left out.
    known = torch.cat([features["train_edges"][supervision], features["train_non_edges"][drawn]]) if features else None
    out = model(x, split.train_edges[:, messages], torch.cat([edges, non_edges], dim=1), known)
    classification = F.binary_cross_entropy_with_logits(out.logits, labels_of(edges, non_edges).to(out.logits))
    divergence = -0.5 * (1 + out.logvar - out.mu**2 - out.logvar.exp()).mean()
    loss: Tensor = classification + 1e-2 * divergence + 0.1 * F.mse_loss(out.reconstruction, out.hidden)
    return loss


@torch.no_grad()
def _validation_auprc(model: RegNet, x: Tensor, split: EdgeSplit, features: dict[str, Tensor] | None) -> float:
    """NaN where a score is not finite."""
    pairs = torch.cat([split.val_edges, split.val_non_edges], dim=1)
    known = torch.cat([features["val_edges"], features["val_non_edges"]]) if features else None
    logits = model(x, split.train_edges, pairs, known).logits
    if not logits.isfinite().all():
        return math.nan
    return float(average_precision_score(labels_of(split.val_edges, split.val_non_edges), logits))


def _start_structure(term: Linear, split: EdgeSplit, num_genes: int) -> dict[str, Tensor]:
    """Set the structural term to the logistic regression; the features of every part that is scored in training."""
    regression = fit_structure(split, num_genes)
    term.load_state_dict({"weight": torch.as_tensor(regression.coef_), "bias": torch.as_tensor(regression.intercept_)})
    parts = ("train_edges", "train_non_edges", "val_edges", "val_non_edges")
    return {part: pair_features(split.train_edges, num_genes, getattr(split, part)) for part in parts}


def _draw(x: Tensor, structural: bool) -> RegNet:
    """Weights in the dtype of x: drawn in float32 and converted, they would differ between processors from the start."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(x.dtype)
    try:
        return RegNet(x.size(1), structural=structural)
    finally:
        torch.set_default_dtype(before)


def _snapshot(auprc: float, epoch: int, model: RegNet) -> dict[str, Any]:
    return {"auprc": auprc, "epoch": epoch, "weights": copy.deepcopy(model.state_dict())}


def _bar(progress: bool) -> Progress:
    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[auprc]}"), console=Console(stderr=True), disable=not progress)


def data_settings(data: Data, seed: int) -> dict[str, Any]:
    """The seed and checksums of the data."""
    return {"seed": int(seed), "expression": _digest(data.x), "edges": _digest(data.edge_index)}


def _digest(values: Tensor) -> str:
    values = values.detach().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)} ".encode())
    digest.update(values.numpy().data)
    return digest.hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between the settings of two trainings, for a message; empty where nothing does."""
    return " and ".join(
        f"other {name}" if name in ("expression", "edges") else f"{name}={before.get(name)}, not {value}"
        for name, value in now.items()
        if before.get(name) != value
    )


def _keep(path: Path, settings: dict[str, Any], done: int, model: RegNet, optimizer: Adam, best: dict[str, Any]) -> None:
    """One file, so that a kill cannot leave the weights of one epoch beside the state of another."""
    kept = {"settings": settings, "epochs": done, "weights": model.state_dict(), "optimizer": optimizer.state_dict()}
    kept |= {"random_state": torch.get_rng_state(), "best": best}
    write_files(path.parent, {path.name: partial(torch.save, kept)})  # not as bytes first, which may be gigabytes


def _restore(path: Path, settings: dict[str, Any], model: RegNet, optimizer: Adam, max_epochs: int) -> tuple[int, Any]:
    """Model, optimizer and random state as they were; the number of epochs done and the best of them."""
    over = "start over with resume=False (--force on the command line)"
    try:
        kept = torch.load(path, weights_only=True, map_location="cpu")
        done, other = int(kept["epochs"]), differences(dict(kept["settings"]), settings)
        auprc, epoch, weights = (kept["best"][name] for name in ("auprc", "epoch", "weights"))
        best = {"auprc": float(auprc), "epoch": int(epoch), "weights": weights}
        if not other:
            for state in (weights, kept["weights"]):
                model.load_state_dict(state)
            optimizer.load_state_dict(optimizer.state_dict() | {"state": kept["optimizer"]["state"]})
            moments = [(m["exp_avg"].shape, m["exp_avg_sq"].shape, m["step"].dim()) for m in optimizer.state.values()]
            expected = [(weight.shape, weight.shape, 0) for weight in model.parameters() if done]
            if moments != expected or not float(auprc) <= 1:
                raise ValueError("the optimizer is incomplete, or the best score no share")
            torch.set_rng_state(kept["random_state"])
    except OSError:
        raise
    except Exception as error:  # PyTorch raises all kinds on a file that is none of its own
        raise ValueError(f"{path} must be a training that regnet.pretrain kept, and is not; {over}") from error
    if other:
        raise ValueError(f"the training kept in {path} has {other}; resume it with the settings and data it had, or {over}")
    if max_epochs < done:
        raise ValueError(f"max_epochs (--epochs) must be at least {done}, those kept in {path}; got {max_epochs}; or {over}")
    return done, best


def _check_and_split(data: Data, seed: int, max_epochs: int, hidden_share: float) -> EdgeSplit:
    for field in ("x", "edge_index"):
        if isinstance(data[field], Tensor) and not data[field].is_cpu:
            device = data[field].device
            raise ValueError(f"{field} must be on the CPU, where the training runs; got {device}; use data.cpu()")
    check_expression(data.x)
    check_edge_index(data.edge_index, len(data.x))
    check_memory(data.x)
    if not isinstance(max_epochs, int) or max_epochs < 1:
        raise ValueError(f"max_epochs must be a whole number of at least 1; got {max_epochs}")
    if not 0 <= hidden_share < 1:
        raise ValueError(f"hidden_share must be at least 0 and below 1; got {hidden_share}")
    split = split_edges(data.edge_index, len(data.x), seed)
    for part in ("val_edges", "val_non_edges", "test_edges", "test_non_edges"):
        if getattr(split, part).size(1) == 0:
            raise ValueError(
                f"too little to split 60/10/30: no {part}; at least one regulator needs 6 or more targets and 6 or more "
                "other genes"
            )
    return split
