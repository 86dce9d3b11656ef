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
from torch.nn import functional as F
from torch.optim import Adam
from torch_geometric.data import Data

from regnet.bayes_layer import bayes_weight
from regnet.checks import check_edge_index, check_expression, check_memory
from regnet.counts import recover_counts
from regnet.evaluation import EdgeSplit, evaluate, labels_of, split_edges
from regnet.graph import in_degree
from regnet.model import RegNet
from regnet.writing import write_files

VALIDATE_EVERY = 5
"""Epochs between two looks at the validation pairs, which cost as much as a third of an epoch."""
_HISTORY = ("epoch", "loss", "val_auprc")


@dataclass(frozen=True)
class Pretrained:
    """A trained model and what is needed to judge it.

    Attributes:
        model: the epoch with the best validation AUPRC, in evaluation mode.
        edge_index: the graph that messages pass along: the training edges only, shape (2, edges).
        split: every pair the model was trained, chosen and tested on.
        metrics: those of :func:`regnet.training.evaluate`, the seed, the epochs, the best one (from 0), and how many genes
            have no regulator in the training graph, so that their weight is undefined.
        settings: seed, options, and checksums of the expression and the edges.
        history: epoch, loss and validation AUPRC of every look at the validation pairs.
    """

    model: RegNet
    edge_index: Tensor
    split: EdgeSplit
    metrics: dict[str, float]
    settings: dict[str, Any]
    history: dict[str, list[float]]


def pretrain(
    data: Data,
    *,
    seed: int = 0,
    max_epochs: int = 2000,
    patience: int = 100,
    disjoint_train_ratio: float = 0.3,
    aggregator: str = "mlp",
    weight: Tensor | float | str | None = None,
    accelerator: str = "cpu",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Pretrained:
    r"""Train RegNet to tell known edges from other pairs of genes, until the validation AUPRC has stopped rising.

    .. math:: L = \mathrm{BCE} + 10^{-2}\,\mathrm{KL} + 0.1\,\mathrm{MSE}_\mathrm{reconstruction}

    with Adam at :math:`10^{-3}` (learned weights of genes: 0.03). Every epoch draws supervision edges from the training
    edges, passes messages along the others, and tells the former from as many random non-edges. Every fifth epoch looks at
    the validation pairs; the first with the highest AUPRC is kept.

    Args:
        data: ``x`` (genes, cells) and ``edge_index`` (regulator -> target); the model computes in the dtype of ``x``.
        seed: of the split, the weights, dropout and the non-edges; the global random state is left alone.
        max_epochs: the most passes over the graph; a resumed training may be given more.
        patience: epochs without a higher validation AUPRC after which the training stops.
        disjoint_train_ratio: share of the training edges that an epoch supervises and passes no messages along; with 0 all
            are supervised and pass messages.
        aggregator: of the first layer: ``"mlp"``, the note's, or ``"posterior-mean"``, a
            :class:`regnet.PosteriorMeanAggregator`.
        weight: with ``"posterior-mean"``: one number, one a gene (genes,), ``"learned"`` with the edges, or ``"counts"``:
            :func:`regnet.bayes_weight` of the counts behind ``x`` on the training edges.
        accelerator: ``"cpu"``, which is reproducible, ``"gpu"``, or ``"auto"`` for a GPU where there is one.
        checkpoint: a file that keeps all that is needed to go on; remove it once the result is safe.
        resume: go on from ``checkpoint``, on the CPU to exactly the result of an uninterrupted training (same versions and
            number of threads), or begin where there is none. Without it, the file is replaced.
        progress: show a bar over the epochs on the standard error stream.

    Returns:
        :class:`Pretrained`, on the CPU.

    Raises:
        TypeError, ValueError: data that cannot be used, or too few to split; a checkpoint that is damaged, of other settings
            or of more epochs; no GPU where "gpu" is given; or training diverges, as on raw counts.
        OSError: the checkpoint cannot be written; the one before it stays.
        MemoryError: the data and what the training keeps beside them do not fit.

    References:
        Section 3 of the note.

    >>> data = Data(x=torch.rand(30, 5), edge_index=torch.tensor([[0] * 10, range(1, 11)]))
    >>> sorted(pretrain(data, max_epochs=1).metrics)[:3]
    ['auprc', 'auprc_correlation', 'auprc_degree']
    """
    device = _device(accelerator)
    split = _check_and_split(data, seed, max_epochs, patience, disjoint_train_ratio)
    layer: dict[str, Any] = {"aggregator": aggregator}
    if not isinstance(weight, Tensor | float | int | str | None):
        weight = torch.as_tensor(weight)
    if weight is not None:
        layer |= {"weight": _weight(weight, data, split.train_edges), "num_genes": len(data.x)}
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint, the file that keeps the training; got None")
    x, path = data.x.detach().to(device), Path(checkpoint) if checkpoint else None
    settings = data_settings(data, seed, aggregator, weight)
    settings |= {"disjoint_train_ratio": float(disjoint_train_ratio), "patience": patience}
    on_device = EdgeSplit(**{part: pairs.to(device) for part, pairs in vars(split).items()})
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        model = _draw(data.x.detach(), **layer).to(device)
        optimizer = _optimizer(model)
        history: dict[str, list[float]] = {column: [] for column in _HISTORY}
        state: dict[str, Any] = {"epochs": 0, "best": _snapshot(-math.inf, 0, model), "history": history}
        if path and resume and path.is_file():
            state = _restore(path, settings, model, optimizer, max_epochs)
        elif path:
            _keep(path, settings, state, model, optimizer)
        with _bar(progress) as bar:
            shown = bar.add_task("", total=max_epochs, completed=state["epochs"], auprc="")
            for epoch in range(state["epochs"], max_epochs):
                if epoch - state["best"]["epoch"] > patience:
                    break
                loss = _loss(model.train(), x, on_device, disjoint_train_ratio)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()  # frees their memory
                state["epochs"] = epoch + 1
                if epoch % VALIDATE_EVERY:
                    continue
                auprc = _validation_auprc(model.eval(), x, on_device)
                if math.isnan(auprc):
                    if path:  # going on would diverge again
                        path.unlink()
                    raise ValueError(
                        f"training diverged by epoch {epoch}: x reaches {x.abs().max():.3g}; "
                        "use log or standardised expression, of the order of 1 to 10"
                    )
                for column, value in zip(state["history"], (epoch, loss.item(), auprc), strict=True):
                    state["history"][column].append(value)
                if auprc > state["best"]["auprc"]:
                    state["best"] = _snapshot(auprc, epoch, model)
                if path:
                    _keep(path, settings, state, model, optimizer)
                bar.update(shown, completed=epoch + 1, auprc=f"validation AUPRC {auprc:.3f}")
    model.load_state_dict(state["best"]["weights"])
    metrics = evaluate(model.cpu().eval(), data.x.detach(), split)
    metrics |= {"seed": seed, "epochs": state["epochs"], "best_epoch": state["best"]["epoch"]}
    metrics["genes_without_regulators"] = int((in_degree(split.train_edges, len(x)) == 0).sum())
    return Pretrained(model, split.train_edges, split, metrics, settings | {"max_epochs": max_epochs}, state["history"])


def untrained(x: Tensor, seed: int = 0) -> RegNet:
    """The model as :func:`regnet.pretrain` starts it: the control for whatever a trained one shows.

    Args:
        x: expression, shape (genes, cells); the weights are drawn in its dtype.
        seed: that of the training. The global random state is left alone.

    Returns:
        The model in evaluation mode.

    References:
        Adebayo et al. (2018).

    >>> untrained(torch.rand(30, 5)).graphsage.layers[0].agg(torch.rand(1, 5), torch.rand(1, 5)).shape
    torch.Size([1, 128])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _draw(x).eval()


def _loss(model: RegNet, x: Tensor, split: EdgeSplit, share: float) -> Tensor:
    """The loss of an epoch, on supervision edges and non-edges that it draws."""
    num_edges = split.train_edges.size(1)
    supervision = messages = torch.arange(num_edges)
    if share:
        supervision, messages = torch.randperm(num_edges).tensor_split([max(1, round(share * num_edges))])
    drawn = torch.randint(split.train_non_edges.size(1), (len(supervision),))
    edges, non_edges = split.train_edges[:, supervision], split.train_non_edges[:, drawn]
    out = model(x, split.train_edges[:, messages], torch.cat([edges, non_edges], dim=1))
    classification = F.binary_cross_entropy_with_logits(out.logits, labels_of(edges, non_edges).to(out.logits))
    divergence = -0.5 * (1 + out.logvar - out.mu**2 - out.logvar.exp()).mean()
    loss: Tensor = classification + 1e-2 * divergence + 0.1 * F.mse_loss(out.reconstruction, out.hidden)
    return loss


@torch.no_grad()
def _validation_auprc(model: RegNet, x: Tensor, split: EdgeSplit) -> float:
    """NaN where a score is not finite."""
    logits = model(x, split.train_edges, torch.cat([split.val_edges, split.val_non_edges], dim=1)).logits.cpu()
    if not logits.isfinite().all():
        return math.nan
    return float(average_precision_score(labels_of(split.val_edges, split.val_non_edges), logits))


def _device(accelerator: str) -> torch.device:
    if accelerator not in ("cpu", "gpu", "auto"):
        raise ValueError(f'accelerator must be "cpu", "gpu" or "auto"; got {accelerator!r}')
    found = torch.accelerator.current_accelerator(check_available=True) if accelerator != "cpu" else None
    if accelerator == "gpu" and found is None:
        raise ValueError('accelerator="gpu" finds no GPU that this PyTorch can use; use "cpu", or a PyTorch built for yours')
    return torch.device("cpu") if found is None else torch.device(found.type, 0)


def _draw(x: Tensor, **layer: Any) -> RegNet:
    """Weights in the dtype of x: drawn in float32 and converted, they would differ between processors from the start."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(x.dtype)
    try:
        return RegNet(x.size(1), **layer).to(x.dtype)
    finally:
        torch.set_default_dtype(before)


def _optimizer(model: RegNet) -> Adam:
    """Learned weights of genes may move from one half to an end within the epochs that a training takes."""
    named = dict(model.named_parameters())
    logits = [named.pop(name) for name in [*named] if name.endswith("shrinkage.logit")]
    groups = [{"params": [*named.values()]}] + [{"params": logits, "lr": 3e-2}] * bool(logits)
    return Adam(groups, lr=1e-3)


def _weight(weight: Tensor | float | str, data: Data, graph: Tensor) -> Tensor | float | str:
    """What :class:`regnet.bayes_layer.PosteriorMeanAggregator` takes."""
    if isinstance(weight, str) and weight == "counts":
        counts, per_count = recover_counts(data.x.detach().double())
        return bayes_weight(counts, graph, per_count)
    if isinstance(weight, str) and weight != "learned":
        raise ValueError(f'weight must be "counts", "learned", one number or one a gene; got {weight!r}')
    if isinstance(weight, Tensor) and weight.shape not in ((), (len(data.x),)):
        raise ValueError(f"weight must be one number or one a gene ({len(data.x)},); got shape {tuple(weight.shape)}")
    return weight


def _snapshot(auprc: float, epoch: int, model: RegNet) -> dict[str, Any]:
    return {"auprc": auprc, "epoch": epoch, "weights": copy.deepcopy(model.state_dict())}


def _bar(progress: bool) -> Progress:
    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[auprc]}"), console=Console(stderr=True), disable=not progress)


def data_settings(
    data: Data, seed: int, aggregator: str = "mlp", weight: Tensor | float | str | None = None
) -> dict[str, Any]:
    """The seed, checksums of the data, and the kind of the first layer."""
    kind = {} if weight is None else {"weight": _digest(weight) if isinstance(weight, Tensor) else weight}
    sums = {"expression": _digest(data.x), "edges": _digest(data.edge_index)}
    return {"seed": int(seed), **sums, "aggregator": aggregator} | kind


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


def _keep(path: Path, settings: dict[str, Any], state: dict[str, Any], model: RegNet, optimizer: Adam) -> None:
    """One file, so that a kill cannot leave the weights of one epoch beside the state of another."""
    kept = {"settings": settings, "weights": model.state_dict(), "optimizer": optimizer.state_dict()} | state
    kept["random_state"] = torch.get_rng_state()
    write_files(path.parent, {path.name: partial(torch.save, kept)})  # not as bytes first, which may be gigabytes


def _restore(path: Path, settings: dict[str, Any], model: RegNet, optimizer: Adam, max_epochs: int) -> dict[str, Any]:
    """Model, optimizer and random state as they were; the number of epochs done, the best of them, and the history."""
    over = "start over with resume=False (--force on the command line)"
    try:
        kept = torch.load(path, weights_only=True, map_location="cpu")
        done, other = int(kept["epochs"]), differences(dict(kept["settings"]), settings)
        auprc, epoch, weights = (kept["best"][name] for name in ("auprc", "epoch", "weights"))
        best = {"auprc": float(auprc), "epoch": int(epoch), "weights": weights}
        history = {column: [float(value) for value in kept["history"][column]] for column in _HISTORY}
        if not other:
            for state in (weights, kept["weights"]):
                model.load_state_dict(state)
            optimizer.load_state_dict(optimizer.state_dict() | {"state": kept["optimizer"]["state"]})
            moments = [(m["exp_avg"].shape, m["exp_avg_sq"].shape, m["step"].dim()) for m in optimizer.state.values()]
            weights_of = [weight for group in optimizer.param_groups for weight in group["params"]]
            expected = [(weight.shape, weight.shape, 0) for weight in weights_of if done]
            if moments != expected or not float(auprc) <= 1 or len({len(column) for column in history.values()}) > 1:
                raise ValueError("the optimizer or the history is incomplete, or the best score no share")
            torch.set_rng_state(kept["random_state"])
    except OSError:
        raise
    except Exception as error:  # PyTorch raises all kinds on a file that is none of its own
        raise ValueError(f"{path} must be a training that regnet.pretrain kept, and is not; {over}") from error
    if other:
        raise ValueError(f"the training kept in {path} has {other}; resume it with the settings and data it had, or {over}")
    if max_epochs < done:
        raise ValueError(f"max_epochs (--epochs) must be at least {done}, those kept in {path}; got {max_epochs}; or {over}")
    return {"epochs": done, "best": best, "history": history}


def _check_and_split(data: Data, seed: int, max_epochs: int, patience: int, ratio: float) -> EdgeSplit:
    for field in ("x", "edge_index"):
        if isinstance(data[field], Tensor) and not data[field].is_cpu:
            device = data[field].device
            raise ValueError(f'{field} must be on the CPU, also for accelerator="gpu"; got {device}; use data.cpu()')
    check_expression(data.x)
    check_edge_index(data.edge_index, len(data.x))
    check_memory(data.x)
    for name, value in {"max_epochs": max_epochs, "patience": patience}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {value}")
    if not 0 <= ratio < 1:
        raise ValueError(f"disjoint_train_ratio must be at least 0 and below 1; got {ratio}")
    split = split_edges(data.edge_index, len(data.x), seed)
    for part in ("val_edges", "val_non_edges", "test_edges", "test_non_edges"):
        if getattr(split, part).size(1) == 0:
            raise ValueError(
                f"too little to split 60/10/30: no {part}; at least one regulator needs 6 or more targets and 6 or more "
                "other genes"
            )
    return split
