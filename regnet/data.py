"""Named data sets, and a reader for your own expression and edges.

A data set is a :class:`torch_geometric.data.Data` with ``x`` (genes x cells), ``edge_index`` (regulator -> target),
``gene_names``, ``is_tf`` and ``name``.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pooch
import torch
from torch_geometric.data import Data

from regnet.checks import check_expression, check_gene_names, some

# The genes of pbmc68k that the list of human transcription factors names (Lambert et al. 2018).
PBMC68K_TFS = """
BBX EGR1 FLI1 FOS GATA2 GATA3 HES1 HES4 HHEX HMGA1 IRF1 IRF7 IRF8 JUNB KLF3 KLF6 LYL1 NFE2 POU2AF1 SOX4 SP100 SP110 SP140
SPI1 SPIB TSC22D1 ZNF22 ZNF428 ZNF511 ZNF524 ZNF600 ZNF706 ZNF710
""".split()  # noqa: SIM905

TRANSPOSED = (
    "the edges name columns of the expression, which should be its cells: "
    "it must have genes in rows and cells in columns; transpose it"
)
"""What to say where names of genes are found among the cells."""


def load_dataset(name: str, *, dtype: torch.dtype = torch.float32) -> Data:
    r"""Load a data set by name.

    ``pbmc68k`` is part of scanpy and needs no download: log counts of 765 genes in one random half of 700 blood cells; its
    graph links a transcription factor to the genes that correlate with it in the *other* half (Pearson correlation
    above zero, one-sided test, 5 % false discovery rate by Benjamini and Hochberg). The other names are benchmark
    networks; their files are downloaded once and checked by SHA-256, or read from the folder that the environment
    variable ``REGNET_DATA_DIR`` names.

    Args:
        name: one of :func:`regnet.dataset_names`.
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
    table, edges, tfs = (pd.read_csv(fetch(file)) for file in networks()[name])
    expression = table.set_index(table.columns[0])
    return make_dataset(expression, zip(edges["Gene1"], edges["Gene2"], strict=True), tfs["TF"], name=name, dtype=dtype)


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
        ``Data``, see :func:`load_dataset`. Names are joined by :func:`regnet.data.match_names`.

    Raises:
        TypeError: the expression is not of real numbers, or the edges are not pairs.
        ValueError: a gene is there twice, an entry is not finite, there is no edge, or an edge names a gene that does not
            exist or could be several; the message names it.

    References:
        Chapter 8 of the book.

    >>> expression = pd.DataFrame([[0.0, 1.0], [2.0, 0.5]], index=["SPI1", "LYZ"])
    >>> make_dataset(expression, [("spi1", "lyz")]).edge_index.tolist()
    [[0], [1]]
    """
    genes = [str(gene) for gene in expression.index]
    check_gene_names(genes)
    unreal = [str(dtype) for dtype in expression.dtypes if dtype.kind in "cMm"]
    if unreal:
        raise TypeError(f"expression must be numeric, genes in rows and cells in columns; got a column of {unreal[0]}")
    try:
        values = expression.to_numpy(dtype=np.float64, copy=True)
    except (TypeError, ValueError) as error:
        raise TypeError(f"expression must be numeric, genes in rows and cells in columns ({error})") from None
    x = torch.from_numpy(values).to(dtype)
    check_expression(x, "expression")

    try:
        pairs = [(str(source), str(target)) for source, target in edges]
    except (TypeError, ValueError):
        raise TypeError(
            "edges must be pairs (regulator, target) of gene names; got entries of another kind; "
            'give zip(table["regulator"], table["target"]) where they are columns of a table'
        ) from None
    if not pairs:
        raise ValueError("the edge list is empty: give at least one pair (regulator, target)")
    match = match_names((name for pair in pairs for name in pair), genes)
    if match.unknown:
        if not match.rows and match_names(match.unknown, [str(cell) for cell in expression.columns]).rows:
            raise ValueError(TRANSPOSED)
        raise ValueError(
            f"the edges name genes that the expression lacks: {some(match.unknown)}; drop these edges or check the names"
        )
    if match.ambiguous:
        raise ValueError(
            f"the edges name {some(match.ambiguous)}, which several genes are called, ignoring case; "
            "write these names as the expression does"
        )
    edge_index = index_edges(pairs, match)
    is_tf = torch.zeros(len(genes), dtype=torch.bool)
    is_tf[edge_index[0] if tfs is None else list(match_names(tfs, genes).rows.values())] = True
    return Data(x=x, edge_index=edge_index, gene_names=genes, is_tf=is_tf, name=name)


class NameMatch(NamedTuple):
    """What :func:`regnet.data.match_names` returns; each name once, in the order it first came."""

    rows: dict[str, int]
    """Name -> row of the gene it stands for."""
    folded: list[str]
    """Names among ``rows`` that match their gene only ignoring case."""
    unknown: list[str]
    """Names of no gene."""
    ambiguous: list[str]
    """Names that match no gene exactly and several ignoring case."""


def match_names(names: Iterable[str], genes: Sequence[str]) -> NameMatch:
    """Find the genes that names stand for: exactly first, then ignoring case.

    Args:
        names: as a network or a list of transcription factors spells them.
        genes: as the expression spells them, without exact duplicates.

    Returns:
        :class:`regnet.data.NameMatch`.

    References:
        Chapter 8 of the book.

    >>> match_names(["LYZ", "spi1", "CD4", "cd4", "GATA1"], ["Spi1", "LYZ", "Cd4", "cd4"])
    NameMatch(rows={'LYZ': 1, 'spi1': 0, 'cd4': 3}, folded=['spi1'], unknown=['GATA1'], ambiguous=['CD4'])
    """
    exact = {gene: row for row, gene in enumerate(genes)}
    by_fold: defaultdict[str, list[int]] = defaultdict(list)
    for row, gene in enumerate(genes):
        by_fold[gene.casefold()].append(row)
    match = NameMatch({}, [], [], [])
    for name in dict.fromkeys(map(str, names)):
        alike = by_fold.get(name.casefold(), [])
        if name in exact:
            match.rows[name] = exact[name]
        elif len(alike) == 1:
            match.rows[name] = alike[0]
            match.folded.append(name)
        else:
            (match.ambiguous if alike else match.unknown).append(name)
    return match


def index_edges(pairs: Iterable[tuple[str, str]], match: NameMatch) -> torch.Tensor:
    """Edges between rows from pairs of names; a repeated edge counts once, and one whose names do not match not at all.

    Args:
        pairs: (regulator, target).
        match: of their names.

    Returns:
        ``edge_index``, shape (2, edges), in the order the edges first came.

    References:
        Chapter 8 of the book.

    >>> match = match_names(["spi1", "SPI1", "LYZ"], genes=["Spi1", "LYZ"])
    >>> index_edges([("spi1", "LYZ"), ("SPI1", "LYZ"), ("GATA1", "LYZ")], match)
    tensor([[0],
            [1]])
    """
    rows = match.rows
    edges = {(rows[source], rows[target]): None for source, target in pairs if source in rows and target in rows}
    return torch.tensor(list(edges), dtype=torch.int64).reshape(-1, 2).T.contiguous()


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


_REGISTRY = files("regnet") / "registry.txt"
_TIMEOUT = 30
"""Seconds without a byte after which a server is given up."""


class DatasetInfo(NamedTuple):
    """One line of ``regnet datasets``."""

    name: str
    """What :func:`regnet.load_dataset` takes."""
    shape: str
    """Genes x cells, where the files are at hand."""
    edges: str
    """How many, where the files are at hand."""
    origin: str
    """Where it comes from."""
    place: str
    """Where it is, or how much is to be downloaded."""


def dataset_names() -> list[str]:
    """Names that :func:`regnet.load_dataset` takes.

    Returns:
        ``pbmc68k``, then the benchmark networks, cells and kind of network joined by a hyphen.

    References:
        The reproducibility page of the book.

    >>> dataset_names()[:3]
    ['pbmc68k', 'mesc-lofgof', 'mesc-non-specific']
    """
    return ["pbmc68k", *networks()]


def list_datasets() -> list[DatasetInfo]:
    """What is known of every data set without loading or downloading it.

    Returns:
        One :class:`regnet.data.DatasetInfo` for each of :func:`regnet.dataset_names`, in their order. A file counts as
        present where it has the registered size; its checksum is for :func:`regnet.data.fetch` to compare.

    References:
        The reproducibility page of the book.

    >>> list_datasets()[0]
    DatasetInfo(name='pbmc68k', shape='765 x 350', edges='1025', origin='10x Genomics', place='part of scanpy')
    """
    # Its graph takes seconds to estimate; a test compares these three numbers with the data set.
    listed = [DatasetInfo("pbmc68k", "765 x 350", "1025", "10x Genomics", "part of scanpy")]
    for name, members in networks().items():
        absent = [file for file in members if not _is_present(file)]
        shape = edges = ""
        folder = os.environ.get("REGNET_DATA_DIR")
        if absent:
            megabytes = f"{sum(_sizes()[file] for file in absent) / 1e6:.1f} MB"
            place = f"missing, {megabytes}" if folder else f"download, {megabytes}"
        else:
            try:
                genes, cells = _count_expression(_local(members[0]))
                shape, edges = f"{genes} x {cells}", str(_count_edges(_local(members[1])))
                place = "REGNET_DATA_DIR" if folder else "downloaded"
            except (OSError, EOFError, ValueError, zlib.error):  # the others are still listed; `fetch` says more
                place = "damaged"
        listed.append(DatasetInfo(name, shape, edges, "BEELINE/GENELink", place))
    return listed


def networks() -> dict[str, tuple[str, str, str]]:
    """Name of a benchmark data set -> its files: expression, network and transcription factors.

    Returns:
        Names in the registry of the three files of every data set, whether they are there or not.

    References:
        Pratapa et al. (2020) and Chen and Liu (2022); chapter 12 of the book.

    >>> networks()["mesc-lofgof"]
    ('mESC/expression.csv.gz', 'mESC/lofgof/network.csv', 'mESC/lofgof/tfs.csv')
    """
    folders = [file.rsplit("/", 1)[0] for file in _sizes() if file.endswith("/network.csv")]
    return {
        folder.replace("/", "-").lower(): (
            f"{folder.split('/')[0]}/expression.csv.gz",
            f"{folder}/network.csv",
            f"{folder}/tfs.csv",
        )
        for folder in folders
    }


def fetch(file: str) -> Path:
    """Local path of a registered file: from ``REGNET_DATA_DIR`` where that is set, else downloaded once by pooch.

    Args:
        file: its name in the registry, e.g. ``"published-checkpoint/regnet_pretrained.pth"``.

    Returns:
        Path of a file whose SHA-256 is the registered one. Several processes may ask for it at once.

    Raises:
        ValueError: the file is not registered or its checksum is wrong.
        FileNotFoundError: ``REGNET_DATA_DIR`` is set and lacks the file.
        OSError: the download failed twice: the server cannot be reached, lacks the file, breaks off or is silent for 30
            seconds; or the cache cannot be written to. Nothing of the file is kept.

    References:
        The reproducibility page of the book.

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
        return _download(source, file)
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


def _download(source: pooch.Pooch, file: str) -> Path:
    mend = "nothing of it was kept; try again later, or put it into a folder that REGNET_DATA_DIR names"
    try:
        # Made here, because pooch fails where two processes make it at once.
        (source.abspath / file).parent.mkdir(parents=True, exist_ok=True)
        return Path(source.fetch(file, downloader=pooch.HTTPDownloader(timeout=_TIMEOUT)))
    except OSError as error:
        address = source.get_url(file)
        raise OSError(f"{file} could not be downloaded from {address} to {source.abspath} ({error}); {mend}") from error
    except ValueError as error:
        raise ValueError(f"{file} is not what was registered ({error}); {mend}") from error


def _rows() -> list[list[str]]:
    """Name, SHA-256, address and bytes of every file."""
    lines = _REGISTRY.read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if not line.startswith("#")]


def _sizes() -> dict[str, int]:
    return {file: int(size) for file, _, _, size in _rows()}


def _pooch() -> pooch.Pooch:
    rows = _rows()
    return pooch.create(
        path=pooch.os_cache("regnet"),
        base_url="",
        registry={file: digest for file, digest, _, _ in rows},
        urls={file: address for file, _, address, _ in rows},
        retry_if_failed=1,
    )


def _local(file: str) -> Path:
    """Where a file is, or would be once downloaded."""
    return Path(os.environ.get("REGNET_DATA_DIR") or pooch.os_cache("regnet")) / file


def _is_present(file: str) -> bool:
    path = _local(file)
    return path.is_file() and path.stat().st_size == _sizes()[file]


@cache
def _count_expression(path: Path) -> tuple[int, int]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        cells = next(lines, "").count(",")
        return sum(1 for line in lines if line.strip()), cells


def _count_edges(path: Path) -> int:
    with path.open(encoding="utf-8") as lines:
        return len({line.strip().upper() for line in lines} - {""}) - 1
