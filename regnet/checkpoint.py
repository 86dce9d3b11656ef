"""Trained layers from a file, by the names of their weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter, ReLU, Sequential
from torch_geometric.nn import SAGEConv

from regnet.bayes_layer import PosteriorMeanAggregator
from regnet.checks import some


def _read(path: Path) -> Any:
    """What ``torch.load`` reads, without running code."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; give a regnet_pretrained.pth that `regnet pretrain` wrote")
    try:
        with warnings.catch_warnings(action="ignore"):  # about kinds of pickle that are refused anyway
            return torch.load(path, weights_only=True, map_location="cpu")
    except UnpicklingError:
        what = "it is damaged, or holds code or other objects, which are not loaded; save model.state_dict()"
        raise ValueError(f"{path}: expected a checkpoint of weights alone; {what}") from None
    except Exception as error:  # a damaged file can fail anywhere in PyTorch's reader
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: expected a PyTorch checkpoint; it is damaged or of another kind ({reason})") from None


def load_layers(path: str | Path, name: str | None = None) -> tuple[list[Module], list[str]]:
    """Load a layer out of any state dict, which may be nested in others, by what the names of its weights begin with.

    Args:
        path: a file that ``torch.save`` wrote.
        name: of a ``Linear``, a ``Sequential(Linear, ReLU, Linear)``, also as ``mlp`` in the layer, a
            ``PosteriorMeanAggregator``, or PyTorch Geometric's ``SAGEConv``; what is before it, such as ``module.``, may be
            left out. By default ``graphsage.layers.0.agg``.

    Returns:
        The layer, last in a list of the layers of a RegNet before it, and notices on what a state dict does not say.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no checkpoint, one that holds code (which is not run), or no such layer; the message lists those it has.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"epoch": 3, "model": {"module.conv.lin_l.weight": torch.ones(2, 5)}}, f"{folder}/m.pth")
    ...     load_layers(f"{folder}/m.pth", "conv")[0]
    [SAGEConv(5, 2, aggr=mean)]
    """
    path, start = Path(path), "graphsage.layers.0.agg." if name is None else f"{name.strip('.')}." if name else ""
    weights = dict(_tensors(_read(path)))
    starts = {key[:end] for key in weights for end in [0, *(dot.end() for dot in re.finditer(r"\.", key))]}
    found = [start] if start in starts else [longer for longer in starts if longer.endswith(f".{start}")]
    if len(found) != 1:
        kept: list[str] = []  # without the layers inside of others
        for other in sorted(found or starts):
            with suppress(ValueError, RuntimeError):
                if not other.startswith(tuple(kept)) and _build(weights, other):
                    kept.append(other)
        holds = some([repr(other.rstrip(".")) for other in kept], 9) or "no layer"
        raise ValueError(f"{path}: expected one layer called {start.rstrip('.')!r} (--layer-name); it holds {holds}")
    own = re.fullmatch(r"(.*graphsage\.layers\.)(\d+)(\.agg\.)", found[0])
    chain = [f"{own[1]}{number}{own[3]}" for number in range(int(own[2]) + 1)] if own else found
    skipped = ("num_batches_tracked", "shrinkage.given")  # counts, and weights of genes, which are converted
    own_weights = [w for key, w in weights.items() if key.startswith(tuple(chain)) and not key.endswith(skipped)]
    kinds = {str(w.dtype) if w.layout == torch.strided and not w.is_meta else "no dense numbers" for w in own_weights}
    if kinds not in ({"torch.float32"}, {"torch.float64"}):
        got = " and ".join(sorted(kinds))
        raise ValueError(f"{path}: expected dense weights that are all float32 or all float64; got {got}")
    try:
        layers = [_build(weights, start).eval() for start in chain]
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {found[0].rstrip('.')!r} is not supported: {' '.join(str(error).split())}") from None
    taken = f"{found[0].rstrip('.')!r} is taken for {' '.join(str(layers[0]).split())}"
    notices = [] if own else [f"{taken}, which the names of its weights do not tell"]
    shrinkages = [layer.shrinkage.weight for layer in layers if isinstance(layer, PosteriorMeanAggregator)]
    if any(weight.dim() for weight in shrinkages):
        notices.append(f"the layer has one weight for each of {len(shrinkages[0])} genes, which must come in the same order")
    return layers, notices


def _tensors(content: Any, before: str = "", depth: int = 4) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of what is in a state dict, and in those that it is in."""
    for key, value in content.items() if isinstance(content, Mapping) and depth else ():
        yield from (
            [(f"{before}{key}", value)] if isinstance(value, Tensor) else _tensors(value, f"{before}{key}.", depth - 1)
        )


def _build(weights: dict[str, Tensor], start: str) -> Module:
    """The layer of a known kind that has the weights whose names begin so, and no others."""
    parts = {key[len(start) :].removeprefix("mlp."): weight for key, weight in weights.items() if key.startswith(start)}
    given, logit = (parts.pop(f"shrinkage.{name}", None) for name in ("given", "logit"))
    sizes = {key.removesuffix(".weight"): weight.shape[::-1] for key, weight in parts.items() if weight.dim() == 2}
    if {"lin", "lin_l"} <= sizes.keys():
        raise ValueError("a SAGEConv with project=True is no function of the neighbour mean")
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced at once
        if "lin_l" in sizes:
            layer: Module = SAGEConv(*sizes["lin_l"], root_weight="lin_r" in sizes, bias="lin_l.bias" in parts)
        elif {"0", "2"} <= sizes.keys():
            first = Linear(sizes["0"][0], sizes["0"][1], bias="0.bias" in parts)
            layer = Sequential(first, ReLU(), Linear(first.out_features, sizes["2"][1], bias="2.bias" in parts))
        elif "weight" in sizes:
            layer = Linear(sizes["weight"][0], sizes["weight"][1], bias="bias" in parts)
        else:
            raise ValueError(f"expected Linear, Linear -> ReLU -> Linear or SAGEConv; got {some(list(parts)) or 'nothing'}")
    layer.load_state_dict(parts, assign=True)
    if given is not None or logit is not None:
        posterior = PosteriorMeanAggregator(1, 1, "learned" if given is None else given.to(parts["0.weight"].dtype))
        posterior.add_module("mlp", layer)
        if logit is not None:
            posterior.shrinkage.logit = Parameter(logit)
        return posterior
    if not isinstance(layer, SAGEConv) and (width := next(layer.parameters()).size(1)) % 2:
        raise ValueError(f"it must read [x, m], an even number of features; got {width}")
    return layer
