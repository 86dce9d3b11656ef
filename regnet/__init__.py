"""Does RegNet's first GraphSAGE layer shrink gene expression the way Bayes' rule would?

Equations (1)-(5) of the note "Bayesian Shrinkage in RegNet" and where they are implemented:

* Eq. (1): :func:`posterior_weight`, :func:`posterior_mean`
* Eq. (2): :func:`regnet.layers.read_layer` on a ``SAGEConv``
* Eqs. (3) and (5): :func:`sensitivities`, and for all genes of a graph :func:`sensitivities_on_graph` (``engine.py``)
* Eq. (4): :func:`effective_weight`, :func:`effective_weight_on_graph`

The neighbour mean is :func:`neighbor_mean`, in ``graph.py``; an interrupted training is resumed by :func:`pretrain`, in
``training.py``. Beyond the note: :func:`secant_weight`, and :func:`noise_variance` from the halves of :func:`split_counts`.
"""

import lazy_loader

# Names are imported at first use, because PyTorch alone takes seconds; the one list of them is `__init__.pyi`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
