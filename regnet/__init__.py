"""Does RegNet's first GraphSAGE layer shrink gene expression the way Bayes' rule would?

Equations (1)-(5) of the note "Bayesian Shrinkage in RegNet" and where they are implemented:

* Eq. (1): :func:`posterior_weight`, :func:`posterior_mean`
* Eq. (2): :func:`regnet.layers.read_layer` on a ``SAGEConv``
* Eqs. (3) and (5): :func:`sensitivities`
* Eq. (4): :func:`effective_weight`, :func:`effective_weight_on_graph`

Beyond the note: :func:`secant_weight`, and :func:`noise_variance` from the halves of :func:`split_counts`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from regnet.bayes import james_stein_weight, noise_variance, posterior_mean, posterior_weight, prior_variance
from regnet.counts import recover_counts, split_counts
from regnet.graph import in_degree, neighbor_mean
from regnet.model import RegNet
from regnet.secant import secant_weight
from regnet.shrinkage import (
    KinkDistance,
    LocalAffine,
    Sensitivities,
    effective_weight,
    effective_weight_on_graph,
    kink_distance,
    local_affine,
    sensitivities,
    sensitivities_on_graph,
)

if TYPE_CHECKING:
    from regnet.datasets import dataset_names, load_dataset, make_dataset
    from regnet.report import shrinkage_table
    from regnet.training import Pretrained, pretrain

__all__ = [
    "KinkDistance",
    "LocalAffine",
    "Pretrained",
    "RegNet",
    "Sensitivities",
    "dataset_names",
    "effective_weight",
    "effective_weight_on_graph",
    "in_degree",
    "james_stein_weight",
    "kink_distance",
    "load_dataset",
    "local_affine",
    "make_dataset",
    "neighbor_mean",
    "noise_variance",
    "posterior_mean",
    "posterior_weight",
    "pretrain",
    "prior_variance",
    "recover_counts",
    "secant_weight",
    "sensitivities",
    "sensitivities_on_graph",
    "shrinkage_table",
    "split_counts",
]

# Data sets, training and figures pull in pandas, Lightning and matplotlib: imported at first use.
_LAZY = {
    "Pretrained": "training",
    "dataset_names": "datasets",
    "load_dataset": "datasets",
    "make_dataset": "datasets",
    "pretrain": "training",
    "shrinkage_table": "report",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(f"regnet.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'regnet' has no attribute {name!r}")
