"""Named data sets, and a reader for your own expression and edges.

A data set is a :class:`torch_geometric.data.Data` with ``x`` (genes x cells), ``edge_index`` (regulator -> target),
``gene_names``, ``is_tf`` and ``name``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import torch
from torch_geometric.data import Data

from regnet.graph import check_expression

# The genes of pbmc68k that the list of human transcription factors names (Lambert et al. 2018).
PBMC68K_TFS = """
BBX EGR1 FLI1 FOS GATA2 GATA3 HES1 HES4 HHEX HMGA1 IRF1 IRF7 IRF8 JUNB KLF3 KLF6 LYL1 NFE2 POU2AF1 SOX4 SP100 SP110 SP140
SPI1 SPIB TSC22D1 ZNF22 ZNF428 ZNF511 ZNF524 ZNF600 ZNF706 ZNF710
""".split()  # noqa: SIM905

_REGISTRY = files("regnet") / "registry.txt"


def dataset_names() -> list[str]:
    """Names that :func:`load_dataset` takes.

    >>> dataset_names()[:3]
    ['pbmc68k', 'mesc-lofgof', 'mesc-non-specific']
    """
    return ["pbmc68k", *_networks()]


def load_dataset(name: str, *, dtype: torch.dtype = torch.float32) -> Data:
    r"""Load a data set by name.

    ``pbmc68k`` is part of scanpy and needs no download: log counts of 765 genes in one random half of 700 blood cells; its
    graph links a transcription factor to the genes that correlate with it in the *other* half (Pearson correlation
    above zero, one-sided test, 5 % false discovery rate by Benjamini and Hochberg). The other names are benchmark
    networks; their files are downloaded once and checked by SHA-256, or read from the folder that the environment
    variable ``REGNET_DATA_DIR`` names.

    Args:
        name: one of :func:`dataset_names`.
        dtype: floating-point type of ``x``.

    Returns:
        ``Data`` with ``x`` (genes, cells) in log units, ``edge_index`` (2, edges), ``gene_names`` (list),
        ``is_tf`` (genes,) and ``name``.

    Raises:
        ValueError: unknown name; or a file's checksum is wrong, in which case nothing is kept.
        FileNotFoundError: ``REGNET_DATA_DIR`` is set and lacks a file.

    References:
        Zheng et al. (2017) for the cells and Lambert et al. (2018) for the regulators of ``pbmc68k``;
        Pratapa et al. (2020) and Chen and Liu (2022) for the others.

    >>> load_dataset("pbmc68k")  # doctest: +ELLIPSIS
    Data(x=[765, 350], edge_index=[2, ...], gene_names=[765], is_tf=[765], name='pbmc68k')
    """
    if name not in dataset_names():
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(dataset_names())}")
    if name == "pbmc68k":
        return _load_pbmc68k(dtype)
    cells, kind = _networks()[name]
    expression = pd.read_csv(fetch(f"{cells}/expression.csv.gz"), index_col=0)
    edges = pd.read_csv(fetch(f"{cells}/{kind}/network.csv"))
    tfs = pd.read_csv(fetch(f"{cells}/{kind}/tfs.csv"))["TF"]
    return make_dataset(expression, zip(edges["Gene1"], edges["Gene2"], strict=True), tfs, name=name, dtype=dtype)


def make_dataset(
    expression: pd.DataFrame,
    edges: Iterable[tuple[str, str]],
    tfs: Iterable[str] | None = None,
    *,
    name: str = "custom",
    dtype: torch.dtype = torch.float32,
) -> Data:
    """Build a data set from your own expression matrix and regulatory edges.

    Args:
        expression: genes in rows (the index names them), cells in columns, any finite values.
        edges: pairs (regulator, target) of gene names; a repeated pair counts once.
        tfs: names of transcription factors; genes not in ``expression`` are passed over. The regulators of ``edges``
            where none are given.
        name: what the data set is called in outputs.
        dtype: floating-point type of ``x``.

    Returns:
        ``Data``, see :func:`load_dataset`. Names are joined ignoring case.

    Raises:
        TypeError: the expression is not numeric.
        ValueError: a gene is there twice, an entry is not finite, there is no edge, or an edge names a gene that does not
            exist; the message names it.

    >>> expression = pd.DataFrame([[0.0, 1.0], [2.0, 0.5]], index=["SPI1", "LYZ"])
    >>> make_dataset(expression, [("spi1", "lyz")]).edge_index.tolist()
    [[0], [1]]
    """
    genes = [str(gene) for gene in expression.index]
    check_gene_names(genes)
    keys = [gene.upper() for gene in genes]
    try:
        values = expression.to_numpy(dtype=np.float64, copy=True)
    except (TypeError, ValueError) as error:
        raise TypeError(f"expression must be numeric, genes in rows and cells in columns ({error})") from None
    x = torch.from_numpy(values).to(dtype)
    check_expression(x, "expression")

    index = {key: row for row, key in enumerate(keys)}
    pairs = list(dict.fromkeys((str(source).upper(), str(target).upper()) for source, target in edges))
    if not pairs:
        raise ValueError("the edge list is empty: give at least one pair (regulator, target)")
    unknown = list(dict.fromkeys(gene for pair in pairs for gene in pair if gene not in index))
    if unknown:
        raise ValueError(
            f"the edges name genes that the expression lacks: {_some(unknown)}; drop these edges or check the names"
        )
    edge_index = torch.tensor([[index[source], index[target]] for source, target in pairs]).T.contiguous()

    is_tf = torch.zeros(len(genes), dtype=torch.bool)
    if tfs is None:
        is_tf[edge_index[0]] = True
    else:
        is_tf[[index[str(tf).upper()] for tf in tfs if str(tf).upper() in index]] = True
    return Data(x=x, edge_index=edge_index, gene_names=genes, is_tf=is_tf, name=name)


def check_gene_names(names: Iterable[str]) -> None:
    """Raise unless gene names are unique, ignoring case.

    Args:
        names: one for each gene.

    Raises:
        ValueError: a name occurs twice; the message names it.

    >>> check_gene_names(["SPI1", "spi1"])
    Traceback (most recent call last):
        ...
    ValueError: gene names must be unique, ignoring case; SPI1 occur more than once: merge or drop them
    """
    twice = [name for name, count in Counter(str(name).upper() for name in names).items() if count > 1]
    if twice:
        raise ValueError(
            f"gene names must be unique, ignoring case; {_some(twice)} occur more than once: merge or drop them"
        )


def fetch(file: str) -> Path:
    """Local path of a registered file: from ``REGNET_DATA_DIR`` where that is set, else downloaded once by pooch.

    Args:
        file: its name in the registry, e.g. ``"published-checkpoint/regnet_pretrained.pth"``.

    Returns:
        Path of a file whose SHA-256 is the registered one.

    Raises:
        ValueError: the file is not registered or its checksum is wrong.
        FileNotFoundError: ``REGNET_DATA_DIR`` is set and lacks the file.

    >>> fetch("mESC/nothing.csv")
    Traceback (most recent call last):
        ...
    ValueError: 'mESC/nothing.csv' is not a registered file; see regnet/registry.txt
    """
    source = _pooch()
    if file not in source.registry:
        raise ValueError(f"{file!r} is not a registered file; see regnet/registry.txt")
    folder = os.environ.get("REGNET_DATA_DIR")
    if not folder:
        return Path(source.fetch(file))
    path = Path(folder) / file
    if not path.is_file():
        raise FileNotFoundError(
            f"REGNET_DATA_DIR is {folder}, which has no {file}; put it there, or unset the variable to download it"
        )
    expected = source.registry[file].removeprefix("sha256:")
    got = pooch.file_hash(str(path), alg="sha256")
    if got != expected:
        raise ValueError(f"{path} has the SHA-256 {got}, expected {expected}: it is damaged or another version; replace it")
    return path


def _networks() -> dict[str, tuple[str, str]]:
    """Name of a benchmark data set -> folder of its cells, folder of its network."""
    folders = [file.split("/")[:2] for file in _pooch().registry if file.endswith("/network.csv")]
    return {f"{cells}-{kind}".lower(): (cells, kind) for cells, kind in folders}


def _pooch() -> pooch.Pooch:
    source = pooch.create(path=pooch.os_cache("regnet"), base_url="", registry=None)
    with _REGISTRY.open() as lines:
        source.load_registry(lines)
    return source


def _load_pbmc68k(dtype: torch.dtype) -> Data:
    import scanpy  # here because it takes seconds to import

    raw = scanpy.datasets.pbmc68k_reduced().raw.to_adata()
    expression = raw.to_df().T.astype(np.float64)
    shuffled = np.random.default_rng(0).permutation(expression.shape[1])
    for_graph, for_data = np.array_split(shuffled, 2)
    edges = _correlated_targets(expression.iloc[:, np.sort(for_graph)], PBMC68K_TFS)
    return make_dataset(expression.iloc[:, np.sort(for_data)], edges, PBMC68K_TFS, name="pbmc68k", dtype=dtype)


def _correlated_targets(expression: pd.DataFrame, tfs: list[str], level: float = 0.05) -> list[tuple[str, str]]:
    """Pairs (TF, gene) with a positive Pearson correlation at a false discovery rate of ``level``."""
    from scipy.stats import pearsonr
    from statsmodels.stats.multitest import multipletests

    expression = expression[expression.std(axis=1) > 0]
    tfs = [tf for tf in tfs if tf in expression.index]
    pairs = [(tf, gene) for tf in tfs for gene in expression.index if gene != tf]
    p_values = []
    for tf in tfs:
        p = pearsonr(expression.drop(index=tf), expression.loc[[tf]], axis=1, alternative="greater").pvalue
        p_values.extend(p)
    keep = multipletests(p_values, alpha=level, method="fdr_bh")[0]
    return [pair for pair, kept in zip(pairs, keep, strict=True) if kept]


def _some(names: list[str], show: int = 5) -> str:
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return ", ".join(names[:show]) + more
