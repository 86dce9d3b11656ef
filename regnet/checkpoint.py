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
        The model in evaluation mode, on the CPU, in the dtype of the weights, from whose names and shapes its widths, its
        number of layers and whether it has the structural term are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no checkpoint, one that holds code (which is not run), or weights that are not those of a RegNet: names
            are missing or unknown, or the shapes or dtypes do not fit together.

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
        with warnings.catch_warnings(action="ignore"):  # about kinds of pickle that are refused anyway
            weights = torch.load(path, weights_only=True, map_location="cpu")
    except UnpicklingError:
        what = "it is damaged, or holds code or other objects, which are not loaded; save model.state_dict()"
        raise ValueError(f"{path}: expected a checkpoint of weights alone; {what}") from None
    except Exception as error:  # a damaged file can fail anywhere in PyTorch's reader
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: expected a PyTorch checkpoint; it is damaged or of another kind ({reason})") from None
    if not isinstance(weights, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        holds = some([str(key) for key in weights]) if isinstance(weights, dict) else type(weights).__name__
        raise ValueError(f"{path}: expected the state dict of a RegNet, names and tensors; it holds {holds}")
    for name in (_FIRST_LAYER, _LATENT):
        if name not in weights or weights[name].dim() != 2:
            holds = some([str(key) for key in weights]) or "nothing"
            raise ValueError(f"{path}: expected the state dict of a RegNet, with a matrix {name}; it holds {holds}")
    kinds = {str(v.dtype) if v.layout == torch.strided and not v.is_meta else "no dense numbers" for v in weights.values()}
    if kinds not in ({"torch.float32"}, {"torch.float64"}):
        got = " and ".join(sorted(kinds))
        raise ValueError(f"{path}: expected dense weights that are all float32 or all float64; got {got}")
    hidden, doubled = weights[_FIRST_LAYER].shape
    layers = [name for name in map(str, weights) if re.fullmatch(r"graphsage\.layers\.\d+\.agg\.mlp\.0\.weight", name)]
    structural = "structure.weight" in weights
    try:
        with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced at once
            model = RegNet(doubled // 2, hidden, len(weights[_LATENT]), len(layers), structural=structural)
        model.load_state_dict(weights, strict=True, assign=True)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: expected the weights of a RegNet; {' '.join(str(error).split())}") from None
    return model.eval()
