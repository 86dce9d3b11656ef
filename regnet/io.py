"""Readers for your own files: every expression file becomes an AnnData, every network a table of sources and targets."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from copy import copy
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from torch_geometric.data import Data

from regnet.checks import check_gene_names, check_memory, is_scaled, other_matrices, some
from regnet.network import HEADERS_OF_NAMES, header_key, read_table
from regnet.network import read_network as read_network

_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".h5ad", ".zarr", ".h5", ".loom")
# As `header_key` spells them: columns of a table that describe genes or cells, what is written above the names of genes (any
# other header of nothing but numbers is a gene's line), and rows in which HTSeq and STAR count other reads.
OF_GENES = """
chr chrom chromosome chromosomename seqname start startposition end endposition strand width length genelength lengthbp
genelengthbp efflength effectivelength exonlength exoniclength genebiotype biotype genetype description genedescription
entrez entrezid entrezgene entrezgeneid genename externalgenename geneshortname geneid genesymbol symbol hugosymbol
hgncsymbol hgncid ensembl ensemblid ensemblgene ensemblgeneid transcriptid idref gccontent percentagegenegccontent
cluster mean var ncell ncount total totalcount dispersion dispersionsnorm genestartbp geneendbp genegccontent
highlyvariable basemean log2foldchange avglog2fc lfcse pval pvalue pvaladj padj tpm fpkm numread estcount expectedcount
""".split()  # noqa: SIM905
_ABOVE_GENES = ["", "gene", "name", "id", "index", "feature", "featureid", "probeid", "cell", "barcode", "sample", *OF_GENES]
_COUNTER = "n?(nofeature|ambiguous?|toolowaqual|notaligned|alignmentnotunique|unmapped|multimapping)"
_OF_CELLS = rf"{_COUNTER}|n(count|feature)(rna)?|percentmi?to?|ngene(sbycount)?|totalcount|pctcount\w+|origident|celltype"
_OF_CELLS += "|doubletscore|leiden|louvain"
_Named = tuple[Any, list[str], list[str]]  # cells x genes, cells, genes


def read_expression(
    path: str | Path, *, layer: str | None = None, raw: bool = False, gene_column: str | None = None, transpose: bool = False
) -> anndata.AnnData:
    r"""Read an expression matrix.

    Args:
        path: a table of genes x cells, ``.csv``, ``.tsv`` or ``.txt``, with ``.gz`` or without; AnnData's ``.h5ad`` or
            ``.zarr``, whose matrices stay on disk as Dask arrays; the genes of 10x Genomics, an ``.h5`` or a folder with
            ``matrix.mtx``; or ``.loom``, if loompy is installed.
        layer, raw: the layer of an AnnData, or its ``raw``, to read instead of ``X``.
        gene_column: the column of ``var`` or of the table that names the genes.
        transpose: whether the file has cells where genes are expected; the column is then one of ``obs``.

    Returns:
        ``AnnData`` (cells x genes), of a table in float64. Names are text: ``NA`` and ``1-Mar`` are genes. A ``UserWarning``
        tells what of a table is left out, since it describes cells or genes (``Length``, ``__no_feature``), and of an ``X``
        with negative values where there are other matrices.

    Raises:
        OSError: there is no such file.
        ValueError: an unknown suffix; a damaged or empty file, or one with links to others; no header; an entry of a table
            that is no finite number; a gene without a name of its own; no such matrix or column.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "expression.tsv"
    ...     _ = file.write_text("gene\tcell 1\nNA\t0.5\n")
    ...     read_expression(file).to_df()
             NA
    cell 1  0.5
    """
    path = Path(path)
    if not path.name.lower().endswith(_SUFFIXES) and not path.is_dir():
        ends = f"a file that ends in one of {', '.join(_SUFFIXES)}"
        raise ValueError(f"{path}: expected a folder with matrix.mtx or {ends}; convert or rename it")
    is_table = not path.is_dir() and path.suffix.lower() not in (".h5ad", ".zarr", ".h5", ".loom")
    try:
        x, cells, genes = (_read_matrix if is_table else _open_matrix)(path, layer, raw, gene_column, transpose)
        check_gene_names(genes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cells may share a name
            return anndata.AnnData(x, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))
    except ValueError as error:
        reason = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
        other = '; or take others, as gene_column="gene_ids" (--gene-column gene_ids) of 10x' * ("gene names" in reason)
        raise ValueError(reason + other * (not is_table)) from error.__cause__


def read_names(path: str | Path) -> list[str]:
    r"""Names of genes, such as the transcription factors, each once.

    They are in a column that is called like a regulator (``TF``) or a gene (``symbol``), without those that ``Is TF?`` or
    ``Label`` denies; or one a line. Raises ``ValueError`` for a damaged file, no names, or several columns of other names.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "tfs.csv"
    ...     _ = file.write_text(",TF\n0,SPI1\n1,NA\n")
    ...     read_names(file)
    ['SPI1', 'NA']
    """
    header, body = read_table(Path(path), str)
    keys = [header_key(name) for name in header]
    for at in [at for at, key in enumerate(keys) if key in ("label", "istf", "istf?")]:
        answers = body[at].str.strip().str.casefold()
        yes = answers.isin(["yes", "y", "true", "t", "1", "1.0"])
        if (other := ~yes & ~answers.isin(["no", "n", "false", "f", "0", "0.0", "", "-"])).any():
            raise ValueError(f"{path}: expected yes or no as {header[at]}; got {body[at][other].iloc[0]!r}")
        body = body[yes]
    only = [1] if len(keys) == 2 and not keys[0] else []  # behind the numbers of pandas and R
    column = next(iter([keys.index(key) for key in HEADERS_OF_NAMES if key in keys] + only), None)
    entries = body[column] if column is not None else [header[0], *body[0]] if len(keys) == 1 else []
    names = list(dict.fromkeys(name.strip() for name in entries if name.strip()))
    if not names:
        got = f"{len(body)} lines of {some(header)}"
        raise ValueError(f"{path}: expected names of genes, one a line or in a column TF; got {got}")
    return names


def read_weights(path: str | Path, genes: Sequence[str]) -> tuple[torch.Tensor, list[str]]:
    r"""One weight a gene, in the order of ``genes``, NaN where the table has none; and notices.

    The table has names of genes in its first column and weights in the only other one, or in the one that is called
    ``weight`` or ``w_eff``, as ``shrinkage.csv`` does; a field that is empty or NaN is no weight. Raises ``ValueError`` for
    a damaged file, a gene of two weights, other fields, or no weight of any of the genes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "weights.csv"
    ...     _ = file.write_text("gene,weight\nA,0.25\nB,\n")
    ...     read_weights(file, ["B", "A"])[0].tolist()
    [nan, 0.25]
    """
    header, body = read_table(Path(path), str)
    keys = [header_key(name) for name in header]
    if pd.to_numeric(pd.Series(header), errors="coerce").notna().any():
        raise ValueError(f"{path}: expected a header, such as gene and weight; got the line {' '.join(header)!r}")
    at = next((keys.index(name) for name in ("weight", "weff") if name in keys[1:]), 1 if len(keys) == 2 else None)
    if at is None:
        raise ValueError(f"{path}: expected names of genes and a column weight or w_eff; got {some(header)}")
    fields = body[at].str.strip().mask(lambda field: field.str.casefold().isin(["", "na", "nan"]))
    weights = pd.to_numeric(fields, errors="coerce").set_axis(body[0].str.strip())
    if (wrong := fields.notna().to_numpy() & weights.isna().to_numpy()).any():
        raise ValueError(f"{path}: expected a number in column {header[at]!r}; got {fields[wrong].iloc[0]!r}")
    if (twice := weights.index.duplicated()).any():
        raise ValueError(f"{path}: expected each gene once; got more lines of {some(list(weights.index[twice].unique()))}")
    weights = weights.reindex(genes)
    if (known := int(weights.notna().sum())) == 0:
        raise ValueError(f"{path}: none of its genes with a weight is one of the {len(genes)} of the expression")
    rest = len(genes) - known
    notice = f"{rest} of {len(genes)} genes have no weight in {path} and keep their own expression"
    return torch.from_numpy(weights.to_numpy()), [notice] if rest else []


def dataset_name(path: str | Path) -> str:
    """Name of an expression file without its folder and suffix."""
    name = Path(path).name
    return next((name[: -len(suffix)] for suffix in _SUFFIXES if name.lower().endswith(suffix)), name)


def to_memory(data: Data) -> Data:
    """The data set, or where its ``x`` is a Dask array a copy in which it is a tensor."""
    if isinstance(data.x, torch.Tensor):
        return data
    from regnet.blockwise import dense_blocks, explain_read_errors  # a table needs no Dask

    check_memory(data.x)
    x = np.empty(data.x.shape, data.x.dtype)
    with explain_read_errors():
        dense_blocks(data.x).store(x, lock=False)  # block by block: only one copy is ever whole
    return copy(data).update({"x": torch.from_numpy(x)})


def _read_matrix(path: Path, layer: str | None, raw: bool, gene_column: str | None, transpose: bool) -> _Named:
    """The matrix of a table, and the names of both axes; with a notice on what is neither a cell nor a gene."""
    if raw or layer is not None:
        _choose({}, layer, raw)
    header, values = read_table(path, {0: str})
    keys, at = [header_key(name) for name in header], 0
    other = {n for n, key in enumerate(keys) if (re.fullmatch(_OF_CELLS, key) if transpose else key in OF_GENES)}
    if gene_column is not None:
        at = header.index(_column(gene_column, [] if transpose else header))
        values = read_table(path, {at: str})[1]
        other |= {0} if keys[0] in _ABOVE_GENES or values[0].dtype.kind not in "biuf" else set()
    values[at] = values[at].str.strip()
    counts = values[at].map(header_key).str.fullmatch(_COUNTER).astype(bool) & (not transpose)
    left_out = [header[n] for n in sorted(other - {at})] + values[at][counts].tolist()
    values = values[~counts].drop(columns=other - {at}).reset_index(drop=True)
    genes, cells = values.pop(at).tolist(), [header[n] for n in values]
    if not genes or not cells:
        got = f"got {len(genes)} genes and {len(cells)} cells below the header {' '.join(header)[:80]!r}"
        raise ValueError(f"{path}: expected genes in rows and cells in columns, between tabs, commas or semicolons; {got}")
    if keys[at] not in _ABOVE_GENES and pd.to_numeric(pd.Series(cells), errors="coerce").notna().all():
        got = f"got what look like values of a gene, {some(header)}"
        raise ValueError(f"{path}: expected a header with names of cells; {got}; if they are, call the first field gene")
    # Columns that pandas could not read as numbers, where 1_000 and TRUE are none.
    text = values.select_dtypes(exclude="number").astype(str)
    values[text.columns] = text.where(text.apply(pd.to_numeric, errors="coerce").notna()).astype(np.float64)
    x = values.to_numpy(np.float64)
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        entries = text.get(values.columns[column], values.iloc[:, column]).astype(str)
        entry, fix = entries[row], "impute it, or drop the gene or the cell"
        if "," in entry:
            fix = "write points for decimals and nothing between thousands"
        elif np.isnan(x[:, column]).all() and (entries != "").all():
            fix = f"if the column names the genes, say gene_column={cells[column]!r} (--gene-column), else delete it"
        end = "; or does the line end with a separator?" if entry == "" and column == len(cells) - 1 else ""
        place = f"{'cell' if transpose else 'gene'} {genes[row]!r} in column {cells[column]!r}"
        raise ValueError(f"{path}: the value of {place} must be a finite number; got {entry!r}; {fix}{end}")
    if left_out:
        warnings.warn(f"{path}: left out, as no cells and no genes: {some(left_out)}", stacklevel=3)
    return (x, genes, cells) if transpose else (x.T, cells, genes)


def _open_matrix(path: Path, layer: str | None, raw: bool, gene_column: str | None, transpose: bool) -> _Named:
    """A matrix of AnnData, 10x Genomics or loom, and the names of both axes; nothing else is read."""
    import h5py  # a table needs none of these, which take seconds to import
    import zarr
    from scipy import sparse

    path.stat()  # raises FileNotFoundError
    suffix, others = path.suffix.lower(), ""
    try:
        with warnings.catch_warnings(), nullcontext() if path.is_dir() else h5py.File(path) as file:
            warnings.simplefilter("ignore")  # on old formats, and names that are there twice
            store = zarr.open(path, mode="r") if suffix == ".zarr" else file
            if isinstance(store, h5py.File | zarr.Group) and (suffix not in (".h5", ".loom") or "obs" in store):
                obs, (key, others) = _own(store, "obs", False), _choose(store, layer, raw)
                var, part = _own(store, key[:-1] + "var" if raw else "var", False), _own(store, key)
                # What AnnData before 0.8 wrote has no such attribute, and only the whole of it can be read.
                read = anndata.experimental.read_elem_lazy if "encoding-type" in part.attrs else anndata.io.read_elem
                x, axes = read(part), [obs, var]
            elif suffix != ".loom" and (raw or layer is not None):
                _choose({}, layer, raw)
            elif isinstance(store, zarr.Array):
                raise _NotThereError("it is an array without names; write an AnnData with the genes in var")
            else:
                import scanpy

                for name in file or ():
                    _own(file, name)
                if suffix == ".loom":
                    _choose(dict(file or {}) | {"X": None, f"layers/{layer}": None}, layer, raw)
                    adata = anndata.io.read_loom(path, X_name=layer or "")
                else:
                    adata = scanpy.read_10x_h5(path) if file else scanpy.read_10x_mtx(path, make_unique=False)
                x, axes = adata.X, [adata.obs, adata.var]
            columns = (gene_column, None) if transpose else (None, gene_column)
            names = [names_of(axis, column) for axis, column in zip(axes, columns, strict=True)]
        if x.dtype.kind not in "biuf":
            raise ValueError(f"its entries are {x.dtype}, and not real numbers")
        if sparse.issparse(x._meta if (is_lazy := hasattr(x, "dask")) else x):
            x = x.map_blocks(_whole, meta=x._meta) if is_lazy else _whole(x)
        scaled = False
        with suppress(Exception):  # damage inside shows in its use
            scaled = bool(others) and is_scaled(x)
    except _NotThereError:
        raise
    except ImportError as error:
        raise _NotThereError(f"{suffix} needs a package that is not installed ({error}): pip install loompy") from error
    except Exception as error:  # HDF5, Zarr and AnnData each have errors of their own for a damaged file
        kind = "a directory of 10x Genomics" if path.is_dir() and suffix != ".zarr" else path.suffix
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as {kind}: {reason}; write it again or check the download") from error
    if scaled:
        warnings.warn(f"{path}: X has negative values, as scaled data have; {others}", stacklevel=3)
    return (x.T, *names[::-1]) if transpose else (x, *names)


class _NotThereError(ValueError):
    """What was asked for is not in the file, which may be in order."""


def _choose(store: Any, layer: str | None, raw: bool) -> tuple[str, str]:
    """Where the matrix is that was asked for, and if that is X, in words, which others there are."""
    layers = list(_own(store, "layers", False)) if "layers" in store else []
    key = "raw/X" if raw else "X" if layer is None else f"layers/{layer}"
    others = f"{other_matrices(layers, 'raw/X' in store)} layer=NAME (--layer NAME) or raw=True (--raw)"
    is_named = layer is None or (layer in layers and not raw)
    if key not in store or not is_named:
        wanted = " in ".join([f"layer {layer!r}"] * (layer is not None) + ["raw"] * raw)
        raise _NotThereError(f"{f'there is no {wanted}' if wanted else 'X is empty'}; {others}")
    return key, others if key == "X" else ""


def _column(name: str, columns: Sequence[str]) -> str:
    """The name, if it is one of the columns."""
    if name not in columns:
        raise _NotThereError(f"there is no gene_column (--gene-column) {name!r}; columns: {some(columns, 20) or 'none'}")
    return name


def names_of(axis: Any, column: str | None) -> list[str]:
    """The index, or a column, of obs or var, in memory or on disk, as AnnData since 0.7 writes it."""
    if isinstance(axis, pd.DataFrame):
        values = axis.index if column is None else axis[_column(column, list(axis))]
    else:
        index = np.asarray(axis.attrs["_index"]).astype(str).item()
        others = [name for name in axis if name not in (index, "__categories")]
        part = _own(axis, index if column is None else _column(column, others))
        values = anndata.io.read_elem(part)
        if "categories" in part.attrs:  # AnnData 0.7
            values = pd.Categorical.from_codes(values, anndata.io.read_elem(_own(axis, f"__categories/{column}")))
    decoded = [name.decode() if isinstance(name, bytes) else name for name in np.atleast_1d(values)]
    return ["" if pd.isna(name) else str(name).strip() for name in decoded]


def _own(part: Any, key: str, whole: bool = True) -> Any:
    """A part of a store; of HDF5 only without links to other files, the bytes of which would pass for expression."""
    import h5py

    for name in key.split("/"):
        link = isinstance(part, h5py.Group) and part.get(name, getlink=True)
        part = None if isinstance(link, h5py.SoftLink | h5py.ExternalLink) else part[name]
        if part is None or (isinstance(part, h5py.Dataset) and (part.external or part.is_virtual)):
            raise _NotThereError(f"{key} is a link, maybe to another file, and is not followed; copy the data into this one")
    for name in part if whole and isinstance(part, h5py.Group) else ():
        _own(part, name)
    return part


def _whole(block: Any) -> Any:
    """A sparse block as it was stored; indices beyond its shape, as in a damaged file, would crash the whole process."""
    try:
        block.check_format(full_check=True)
    except ValueError as error:
        raise RuntimeError(str(error)) from None
    return block
