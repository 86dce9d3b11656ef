"""Trained weights from a file, without being told the widths they were trained with."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from regnet.checks import some
from regnet.model import RegNet

_FIRST_LAYER = "graphsage.layers.0.agg.mlp.0.weight"
_LATENT = "vae.encoder.fc_mu.weight"


def load_checkpoint(path: str | Path) -> RegNet:
    """Load the weights that :func:`regnet.pretrain` writes, or the published ones.

    Args:
        path: a file with the state dict of a :class:`regnet.RegNet`.

    Returns:
        The model in evaluation mode, on the CPU, in the dtype of the weights; its widths, its number of layers and whether
        it has the structural term are read off the names and shapes of the weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no checkpoint, one that holds code (which is not run), or weights that are not those of a RegNet: names
            are missing or unknown, or the shapes or dtypes do not fit together.

    References:
        Chapter 11 of the book reads the published one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "regnet_pretrained.pth"
    ...     torch.save(RegNet(5, hidden_channels=8, latent_channels=4).state_dict(), file)
    ...     load_checkpoint(file).graphsage.layers[0].agg.mlp[0]
    Linear(in_features=10, out_features=8, bias=True)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; give a regnet_pretrained.pth that `regnet pretrain` wrote")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of pickle that are refused anyway
            weights = torch.load(path, weights_only=True, map_location="cpu")
    except UnpicklingError:
        raise ValueError(
            f"{path}: expected a checkpoint of weights alone; it is damaged, or holds code or other objects, "
            "which are not loaded; save model.state_dict() with torch.save"
        ) from None
    except Exception as error:  # a damaged file can fail anywhere in PyTorch's reader
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: expected a PyTorch checkpoint; it is damaged or of another kind ({reason})") from None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        holds = some([str(key) for key in weights]) if isinstance(weights, dict) else type(weights).__name__
        raise ValueError(f"{path}: expected the state dict of a RegNet, names and tensors; it holds {holds}")
    for name in (_FIRST_LAYER, _LATENT):
        if name not in weights or weights[name].dim() != 2:
            raise ValueError(
                f"{path}: expected the state dict of a RegNet, with a matrix {name}; "
                f"it holds {some([str(key) for key in weights]) or 'nothing'}"
            )
    empty = [name for name, value in weights.items() if value.is_meta or value.layout != torch.strided]
    if empty:
        raise ValueError(
            f"{path}: expected dense weights with numbers in them; {some(empty)} are sparse or on the meta device"
        )
    dtypes = {value.dtype for value in weights.values()}
    if dtypes not in ({torch.float32}, {torch.float64}):
        got = " and ".join(sorted(map(str, dtypes)))
        raise ValueError(f"{path}: expected weights that are all float32 or all float64; got {got}; convert the model first")

    hidden, doubled = weights[_FIRST_LAYER].shape
    try:
        with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced at once
            model = RegNet(
                in_channels=doubled // 2,
                hidden_channels=hidden,
                latent_channels=weights[_LATENT].size(0),
                num_layers=sum(bool(re.fullmatch(r"graphsage\.layers\.\d+\.agg\.mlp\.0\.weight", name)) for name in weights),
                structural="structure.weight" in weights,
            )
    except ValueError as error:
        raise ValueError(f"{path}: expected the weights of a RegNet; {error}") from None
    expected = model.state_dict()
    for problem, names in (("lacks", expected.keys() - weights.keys()), ("has unknown", weights.keys() - expected.keys())):
        if names:
            raise ValueError(f"{path}: expected the weights of a RegNet; it {problem} {some(sorted(map(str, names)))}")
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            raise ValueError(
                f"{path}: the widths do not fit together: {name} should be {tuple(value.shape)} beside "
                f"{_FIRST_LAYER} {(hidden, doubled)}; got {tuple(weights[name].shape)}"
            )
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()
