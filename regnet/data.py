"""Named data sets, and data sets from your own expression and edges."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import copy
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pooch

# `regnet datasets` needs none of these, and PyTorch takes seconds to import: functions import what they use.
if TYPE_CHECKING:
    import pandas as pd
    import torch
    from anndata import AnnData
    from torch_geometric.data import Data

# The genes of pbmc68k that the list of human transcription factors names (Lambert et al. 2018).
PBMC68K_TFS = """
BBX EGR1 FLI1 FOS GATA2 GATA3 HES1 HES4 HHEX HMGA1 IRF1 IRF7 IRF8 JUNB KLF3 KLF6 LYL1 NFE2 POU2AF1 SOX4 SP100 SP110 SP140
SPI1 SPIB TSC22D1 ZNF22 ZNF428 ZNF511 ZNF524 ZNF600 ZNF706 ZNF710
""".split()  # noqa: SIM905


def load_dataset(name: str, *, dtype: torch.dtype | None = None) -> Data:
    """Load a data set by name.

    ``pbmc68k``, part of scanpy: log counts of 765 genes in one random half of 700 blood cells; its graph links a
    transcription factor to the genes that correlate with it in the *other* half (one-sided test, 5 % false discovery rate
    by Benjamini and Hochberg). ``celltypist-trrust``: log counts of 1,054 genes in 559 immune cells, from the wheel of
    celltypist, with the curated edges of TRRUST between genes seen in more than 5 % of the cells. The others are benchmark
    networks, whose files, like that of TRRUST, :func:`regnet.data.fetch` provides.

    Args:
        name: one of :func:`regnet.dataset_names`.
        dtype: floating-point type of ``x``; float32 where none is given.

    Returns:
        ``Data`` with ``x`` (genes, cells) in log units, ``edge_index`` (2, edges), ``gene_names``, ``is_tf`` and ``name``.

    Raises:
        OSError, ValueError: unknown name; or a file is missing, cannot be downloaded or is damaged.

    References:
        ``pbmc68k``: Zheng et al. (2017), Lambert et al. (2018). ``celltypist-trrust``: Domínguez Conde et al. (2022), Han et
        al. (2018). The others: Pratapa et al. (2020), Chen and Liu (2022).

    >>> load_dataset("pbmc68k")  # doctest: +ELLIPSIS
    Data(x=[765, 350], edge_index=[2, ...], gene_names=[765], is_tf=[765], name='pbmc68k')
    """
    import pandas as pd

    if name not in dataset_names():
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(dataset_names())}")
    if name == "pbmc68k":
        return join(*_pbmc68k(), PBMC68K_TFS, name=name, dtype=dtype)[0]
    if name == "celltypist-trrust":
        return join(*_celltypist_trrust(), name=name, dtype=dtype)[0]
    table, edges, tfs = (pd.read_csv(fetch(file)) for file in _networks()[name])
    edges = edges.rename(columns={"Gene1": "source", "Gene2": "target"})
    return join(table.set_index(table.columns[0]), edges, tfs["TF"], name=name, dtype=dtype)[0]


def make_dataset(
    expression: pd.DataFrame | AnnData,
    edges: pd.DataFrame | Iterable[tuple[str, str]],
    tfs: Iterable[str] | None = None,
    *,
    strict: bool = False,
    name: str = "custom",
    dtype: torch.dtype | None = None,
) -> Data:
    """Build a data set from your own expression matrix and regulatory edges.

    Names are matched exactly first, then ignoring case, then without the version of an Ensembl identifier (the ``.12`` of
    ``ENSG00000066336.12``). Names of no gene, and names that could be several genes, are dropped with their edges.

    Args:
        expression: a data frame (genes x cells), or an ``AnnData`` (cells x genes), whose matrix may lie on disk.
        edges: pairs (regulator, target) of names, or a data frame, whose columns :func:`regnet.io.read_network` finds.
        tfs: names of transcription factors; the regulators of ``edges`` where none are given.
        strict: whether a name that is no gene, or matches only ignoring case or version, is an error and no warning.
        name, dtype: what the data set is called in outputs; the floating-point type of ``x``, float32 where none is given.

    Returns:
        ``Data``, see :func:`regnet.load_dataset`.

    Raises:
        TypeError: the expression is not of real numbers, or the edges are not pairs.
        ValueError: a gene is there twice, an entry is not finite, no edge is left, the matrix is transposed, the columns of
            the edges are swapped; with ``strict``, what is a ``UserWarning`` without.

    >>> import pandas as pd
    >>> expression = pd.DataFrame([[0.0, 1.0], [2.0, 0.5]], index=["SPI1", "LYZ"])
    >>> make_dataset(expression, [("SPI1", "LYZ")]).edge_index.tolist()
    [[0], [1]]
    """
    from regnet.io import read_network

    genes = getattr(expression, "var_names", expression.index if hasattr(expression, "columns") else None)
    table, read = read_network(edges, genes=genes)
    data, notices = join(expression, table, tfs, name=name, dtype=dtype)
    if strict and notices:
        raise ValueError(f"{'; '.join(notices)}; with strict=True every name must be spelled exactly as its gene is")
    for notice in read + notices:
        warnings.warn(notice, stacklevel=2)
    return data


def join(
    expression: Any, edges: Any, tfs: Iterable[str] | None = None, *, name: str = "custom", dtype: torch.dtype | None = None
) -> tuple[Data, list[str]]:
    """As :func:`make_dataset`, with the notices returned; given a data set, a copy of it with another network."""
    import pandas as pd
    import torch
    from torch_geometric.data import Data

    from regnet.checks import some

    old = expression if isinstance(expression, Data) else Data()
    x, genes, cells = (old.x, old.gene_names, []) if len(old) else _matrix(expression, dtype or torch.float32)
    table = pd.DataFrame(edges, columns=["source", "target"]).astype(str)
    names = table.stack().unique().tolist()
    rows, notices = _match(names, genes, "the edges")
    known = table.apply(lambda column: column.map(rows)).dropna().astype(int)
    if known.empty and _match(names, cells, "")[0]:
        raise ValueError("the edges name the cells: the matrix must have genes there; transpose it (--transpose)")
    if known.empty:
        of = f"the edges name {some(names)}, the genes are {some(genes)}"
        raise ValueError(f"no edge is between two genes: {of}; use the same kind of names in both")
    if len(known) < len(table):
        notices.append(f"edges dropped with these names: {len(table) - len(known)} of {len(table)}")
    edge_index = torch.tensor(known.drop_duplicates().to_numpy()).T.contiguous()
    is_tf = torch.zeros(len(genes), dtype=torch.bool)
    if tfs is None:
        is_tf[edge_index[0]] = True
    else:
        tfs = [str(tf) for tf in tfs]
        rows, more = _match(tfs, genes, "the transcription factors")
        is_tf[list(rows.values())] = True
        regulators, targets = is_tf[edge_index].any(dim=1)
        if tfs and not rows:
            raise ValueError(f"none of the transcription factors, {some(tfs)}, is a gene; the genes are {some(genes)}")
        if targets and not regulators:  # every weight would be another number, and nothing else would show it
            raise ValueError(
                "no regulator of the edges is a transcription factor, but targets are: the columns seem to be swapped; name "
                "them regulator and target, or leave the list out if other genes regulate here"
            )
        notices += more
    if len(old):
        is_tf = old.is_tf if tfs is None and "is_tf" in old else is_tf
        return copy(old).update({"edge_index": edge_index, "is_tf": is_tf}), notices
    return Data(x=x, edge_index=edge_index, gene_names=genes, is_tf=is_tf, name=name), notices


def _matrix(expression: Any, dtype: torch.dtype) -> tuple[Any, list[str], list[str]]:
    """Genes x cells, a tensor or a Dask array, and the names of genes and cells."""
    import numpy as np
    import torch

    from regnet.checks import check_expression, check_gene_names, some
    from regnet.io import OF_GENES
    from regnet.network import header_key

    if hasattr(expression, "var_names"):
        genes, cells, values = expression.var_names, expression.obs_names, _chosen(expression).T
    elif hasattr(expression, "columns"):
        genes, cells, values = expression.index, expression.columns, expression
        if other := [name for name in map(str, cells) if header_key(name) in OF_GENES]:
            warnings.warn(f"taken as cells, although they seem to describe genes: {some(other)}; drop them", stacklevel=4)
    else:
        raise TypeError(
            "expression must be a data frame (genes x cells) or an AnnData (cells x genes); "
            f"got {type(expression).__name__}, which has no names of genes; give pandas.DataFrame(matrix, index=genes)"
        )
    genes, cells = list(map(str, genes)), list(map(str, cells))
    check_gene_names(genes)
    if hasattr(values, "dask"):
        _warn_of_counts(values)
        return values.astype(str(dtype).removeprefix("torch.")), genes, cells
    try:
        kinds = values.dtypes if hasattr(values, "columns") else [values.dtype]
        if unreal := {str(kind) for kind in kinds if kind.kind in "cMm"}:
            raise TypeError(f"got a column of {unreal.pop()}")
        is_sparse, own_dtype = hasattr(values, "toarray"), getattr(values, "dtype", np.float64)
        x = torch.from_numpy(values.toarray() if is_sparse else np.array(values, dtype=own_dtype, order="C")).to(dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"expression must be numeric, genes in rows and cells in columns ({error})") from None
    check_expression(x, "expression")
    _warn_of_counts(x)
    return x, genes, cells


def _warn_of_counts(x: Any) -> None:
    from regnet.checks import is_counts

    counts = False
    with suppress(Exception):  # damage inside shows in its use
        counts = is_counts(x)
    if counts:
        how = "scanpy.pp.normalize_total(adata), then scanpy.pp.log1p(adata)"
        warnings.warn(f"the expression seems to be raw counts, which deep cells dominate; take logs: {how}", stacklevel=5)


def _chosen(adata: AnnData) -> Any:
    """The matrix X; with a warning where it seems to be scaled and there are others."""
    from regnet.checks import is_scaled, other_matrices

    x, layers = adata.X[:] if adata.isbacked else adata.X, list(adata.layers)
    others = f"{other_matrices(layers, adata.raw is not None)} adata.X = adata.layers[...] or adata.raw.to_adata()"
    if x is None:
        raise ValueError(f"X is empty; {others}")
    if (layers or adata.raw is not None) and is_scaled(x):
        warnings.warn(f"X has negative values, as scaled data have; {others}", stacklevel=5)
    return x


def _match(names: Iterable[str], genes: Sequence[str], of: str) -> tuple[dict[str, int], list[str]]:
    """Name -> row of its gene: exactly, else ignoring case, else without version; and a notice for each other kind."""
    from regnet.checks import some
    from regnet.network import without_version

    ways: dict[str, Callable[[str], str]] = {
        "": str,
        "match a gene only ignoring case": str.casefold,
        "match a gene only without the version of an Ensembl identifier": without_version,
    }
    rows: dict[str, int] = {}
    left, several, said = list(dict.fromkeys(names)), [], {}
    for what, key in ways.items():
        found = defaultdict(list)
        for row, gene in enumerate(genes):
            found[key(gene)].append(row)
        one = {name: found[key(name)][0] for name in left if len(found.get(key(name), [])) == 1}
        several += [name for name in left if len(found.get(key(name), [])) > 1]
        left, said[what] = [name for name in left if key(name) not in found], list(one)
        rows |= one
    said |= {"": [], "are no genes": left, "could be several genes": several}
    return rows, [f"names of {of} that {what} ({len(these)}): {some(these)}" for what, these in said.items() if these]


def _pbmc68k() -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Half of the cells, and pairs (TF, gene) with a positive correlation in the other half at 5 % false discoveries."""
    import numpy as np
    import scanpy
    from scipy.stats import pearsonr
    from statsmodels.stats.multitest import multipletests

    expression = scanpy.datasets.pbmc68k_reduced().raw.to_adata().to_df().T.astype(np.float64)
    shuffled = np.random.default_rng(0).permutation(expression.shape[1])
    for_graph, for_data = (expression.iloc[:, np.sort(half)] for half in np.array_split(shuffled, 2))
    varying = for_graph[for_graph.std(axis=1) > 0]
    tfs = [tf for tf in PBMC68K_TFS if tf in varying.index]
    pairs = [(tf, gene) for tf in tfs for gene in varying.index if gene != tf]
    p_values = [pearsonr(varying.drop(index=tf), varying.loc[[tf]], axis=1, alternative="greater").pvalue for tf in tfs]
    keep = multipletests(np.concatenate(p_values), alpha=0.05, method="fdr_bh")[0]
    return for_data, [pair for pair, kept in zip(pairs, keep, strict=True) if kept]


def _celltypist_trrust() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts scaled to 10,000 a cell, log(1 + .), and TRRUST's edges, without genes that regulate themselves."""
    import numpy as np
    import pandas as pd

    package = find_spec("celltypist")
    if package is None or package.origin is None:
        raise FileNotFoundError("the counts of celltypist-trrust come with celltypist: pip install celltypist==1.7.1")
    path = Path(package.origin).parent / "data/samples/sample_cell_by_gene.csv"
    if not path.is_file() or pooch.file_hash(str(path), alg="sha256") != _CELLTYPIST:
        raise ValueError(f"{path} is missing or of another version: pip install --force-reinstall celltypist==1.7.1")
    edges = pd.read_csv(fetch("trrust/human.tsv"), sep="\t", usecols=["TF", "Target"])
    edges = edges.set_axis(["source", "target"], axis=1).query("source != target")
    counts = pd.read_csv(path, index_col=0).T.round()
    seen = counts.index[(counts > 0).mean(axis=1) > 0.05]
    edges = edges[edges.isin(set(seen)).all(axis=1)]
    genes = seen[seen.isin(edges.stack())]
    return np.log1p(counts.loc[genes] / counts.sum() * 1e4), edges


_CELLTYPIST = "0d729bd7a9e4d8f5a8ccc167f222530f4ece8d334b939d21b796bd77daf967f2"
_REGISTRY = files("regnet") / "registry.txt"
_TIMEOUT = 30  # seconds without a byte after which a download is given up


class DatasetInfo(NamedTuple):
    """One line of ``regnet datasets``, as text."""

    name: str
    shape: str
    edges: str
    origin: str
    place: str


def dataset_names() -> list[str]:
    """Names that :func:`regnet.load_dataset` takes: ``pbmc68k``, then cells and network joined by a hyphen.

    >>> dataset_names()[:3]
    ['pbmc68k', 'celltypist-trrust', 'mesc-lofgof']
    """
    return ["pbmc68k", "celltypist-trrust", *_networks()]


def list_datasets() -> list[DatasetInfo]:
    """Name, genes x cells, edges, origin and place of every data set, without loading it.

    A file counts as present where it has the registered size; :func:`regnet.data.fetch` compares its checksum.

    >>> list_datasets()[0]
    DatasetInfo(name='pbmc68k', shape='765 x 350', edges='1025', origin='10x Genomics', place='part of scanpy')
    """
    own, registered = os.environ.get("REGNET_DATA_DIR"), _registered()
    here, there = ("REGNET_DATA_DIR", "missing") if own else ("downloaded", "download")
    folder = Path(own or pooch.os_cache("regnet"))
    curated = here if (folder / "trrust/human.tsv").is_file() else f"{there}, 0.3 MB"
    listed = [
        DatasetInfo("pbmc68k", "765 x 350", "1025", "10x Genomics", "part of scanpy"),
        DatasetInfo(
            *("celltypist-trrust", "1054 x 559", "2658", "CellTypist/TRRUST"),
            curated if find_spec("celltypist") else "needs celltypist",
        ),
    ]
    for name, members in _networks().items():
        sizes = {folder / file: int(registered[file][2]) for file in members}
        absent = sum(size for path, size in sizes.items() if not path.is_file() or path.stat().st_size != size)
        shape, edges = (registered[file][3] for file in members[:2])
        place = f"{there}, {absent / 1e6:.1f} MB" if absent else here
        listed.append(DatasetInfo(name, shape.replace("x", " x "), edges, "BEELINE/GENELink", place))
    return listed


def fetch(file: str) -> Path:
    """Path of a registered file, such as ``"published-checkpoint/regnet_pretrained.pth"``, whose SHA-256 is right.

    It is in the folder that the environment variable ``REGNET_DATA_DIR`` names, or is downloaded once.

    Raises:
        ValueError: the file is not registered or its checksum is wrong.
        FileNotFoundError: ``REGNET_DATA_DIR`` is set and lacks the file.
        OSError: the download failed twice, or the cache cannot be written to. Nothing of the file is kept.

    >>> fetch("mESC/nothing.csv")
    Traceback (most recent call last):
        ...
    ValueError: 'mESC/nothing.csv' is not a registered file; see regnet/registry.txt
    """
    registered = _registered()
    if file not in registered:
        raise ValueError(f"{file!r} is not a registered file; see regnet/registry.txt")
    digest, address, *_ = registered[file]
    if own := os.environ.get("REGNET_DATA_DIR"):
        path = Path(own) / file
        if not path.is_file():
            raise FileNotFoundError(
                f"REGNET_DATA_DIR is {own}, which has no {file}; put it there, or unset the variable to download it"
            )
        if (got := f"sha256:{pooch.file_hash(str(path), alg='sha256')}") != digest:
            raise ValueError(f"{path} has {got}, expected {digest}: it is damaged or another version; replace it")
        return path
    cache = Path(pooch.os_cache("regnet"))
    source = pooch.create(cache, base_url="", registry={file: digest}, urls={file: address}, retry_if_failed=1)
    try:
        (cache / file).parent.mkdir(parents=True, exist_ok=True)  # pooch fails where two processes make it at once
        return Path(source.fetch(file, downloader=pooch.HTTPDownloader(timeout=_TIMEOUT)))
    except (OSError, ValueError) as error:
        raise (OSError if isinstance(error, OSError) else ValueError)(
            f"{file} could not be downloaded from {address} to {cache} ({error}); nothing of it was kept; "
            "try again later, or put it into a folder that REGNET_DATA_DIR names"
        ) from error


def _registered() -> dict[str, list[str]]:
    """File -> SHA-256, address, bytes and, where the registry says it, its genes x cells or number of edges."""
    lines = (line.split() for line in _REGISTRY.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {file: [*rest, ""] for file, *rest in lines}


def _networks() -> dict[str, tuple[str, str, str]]:
    """Name of a benchmark data set -> its files: expression, network and transcription factors."""
    parts = (file.split("/") for file in _registered() if file.endswith("/network.csv"))
    return {
        f"{cells}-{kind}".lower(): (f"{cells}/expression.csv.gz", f"{cells}/{kind}/network.csv", f"{cells}/{kind}/tfs.csv")
        for cells, kind, _ in parts
    }
