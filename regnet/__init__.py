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

if TYPE_CHECKING:
    from regnet.bayes import james_stein_weight, noise_variance, posterior_mean, posterior_weight, prior_variance
    from regnet.counts import recover_counts, split_counts
    from regnet.datasets import load_dataset, make_dataset
    from regnet.engine import effective_weight_on_graph, sensitivities_on_graph
    from regnet.graph import in_degree, neighbor_mean
    from regnet.intervals import bootstrap_interval, mean_interval, seed_gene_interval
    from regnet.model import RegNet
    from regnet.registry import dataset_names
    from regnet.report import shrinkage_table
    from regnet.secant import secant_weight
    from regnet.shrinkage import (
        KinkDistance,
        LocalAffine,
        Sensitivities,
        effective_weight,
        kink_distance,
        local_affine,
        sensitivities,
    )
    from regnet.training import Pretrained, pretrain

__all__ = [
    "KinkDistance",
    "LocalAffine",
    "Pretrained",
    "RegNet",
    "Sensitivities",
    "bootstrap_interval",
    "dataset_names",
    "effective_weight",
    "effective_weight_on_graph",
    "in_degree",
    "james_stein_weight",
    "kink_distance",
    "load_dataset",
    "local_affine",
    "make_dataset",
    "mean_interval",
    "neighbor_mean",
    "noise_variance",
    "posterior_mean",
    "posterior_weight",
    "pretrain",
    "prior_variance",
    "recover_counts",
    "secant_weight",
    "seed_gene_interval",
    "sensitivities",
    "sensitivities_on_graph",
    "shrinkage_table",
    "split_counts",
]

# Imported at first use: PyTorch alone takes seconds, and `regnet datasets` needs none of it.
_MODULES = {
    "KinkDistance": "shrinkage",
    "LocalAffine": "shrinkage",
    "Pretrained": "training",
    "RegNet": "model",
    "Sensitivities": "shrinkage",
    "bootstrap_interval": "intervals",
    "dataset_names": "registry",
    "effective_weight": "shrinkage",
    "effective_weight_on_graph": "engine",
    "in_degree": "graph",
    "james_stein_weight": "bayes",
    "kink_distance": "shrinkage",
    "load_dataset": "datasets",
    "local_affine": "shrinkage",
    "make_dataset": "datasets",
    "mean_interval": "intervals",
    "neighbor_mean": "graph",
    "noise_variance": "bayes",
    "posterior_mean": "bayes",
    "posterior_weight": "bayes",
    "pretrain": "training",
    "prior_variance": "bayes",
    "recover_counts": "counts",
    "secant_weight": "secant",
    "seed_gene_interval": "intervals",
    "sensitivities": "shrinkage",
    "sensitivities_on_graph": "engine",
    "shrinkage_table": "report",
    "split_counts": "counts",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"regnet.{_MODULES[name]}"), name)
    if name in _MODULES.values():
        return import_module(f"regnet.{name}")
    raise AttributeError(f"module 'regnet' has no attribute {name!r}")
