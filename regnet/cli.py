"""The command line: ``regnet datasets``, ``regnet pretrain`` and ``regnet shrinkage``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# What takes seconds to import is imported by the commands that need it.
if TYPE_CHECKING:
    import torch
    from torch_geometric.data import Data

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Does a graph network shrink gene expression the way Bayes' rule would?\n\nExample: regnet pretrain pbmc68k",
)

Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="A data set that `regnet datasets` lists.", show_default=False)
]
Expression = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Genes x cells: CSV, TSV, .gz, .h5ad, .zarr.", show_default=False)
]
Edges = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Columns regulator, target (and Label).", show_default=False)
]
Tfs = Annotated[Path | None, typer.Option(metavar="FILE", help="Transcription factors, one a line.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Replace earlier outputs.")]


@app.command()
def datasets() -> None:
    """List the data sets that the other commands take by name.

    Files are downloaded when a data set is first used, or read from the folder that the environment variable
    REGNET_DATA_DIR names.

    Example: regnet datasets
    """
    from regnet.data import list_datasets

    table = Table("name", "genes x cells", "edges", "from", "where it is", box=None, pad_edge=False)
    with _errors_in_one_line():
        for dataset in list_datasets():
            table.add_row(*dataset)
    for column in table.columns:
        column.no_wrap = True
    Console().print(table)


@app.command()
def pretrain(
    name: Name = None,
    expression: Expression = None,
    edges: Edges = None,
    tfs: Tfs = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of split, weights and negatives.")] = 0,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over the graph.")] = 200,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Else pretrain_outputs/NAME/pretrain.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    force: Force = False,
) -> None:
    """Train RegNet on NAME, or on --expression and --edges.

    Writes the model, its metrics, shrinkage.csv and the three figures.

    Example: regnet pretrain pbmc68k --epochs 100
    """
    _check_input(name, expression, edges, tfs)
    if resume and force:
        raise typer.BadParameter("--resume goes on and --force starts over: give one of them")
    from regnet.io import to_memory
    from regnet.training import OUTPUT_FILES, check_finished
    from regnet.training import pretrain as train

    out = out or Path("pretrain_outputs") / _called(name, expression) / "pretrain"
    kept = out / "training" / "last.ckpt"
    goes_on = f"the same command with --resume{' in place of --force' if force else ''} goes on"
    with _errors_in_one_line():
        finished = not kept.is_file() and all((out / file).is_file() for file in OUTPUT_FILES)
        if kept.is_file():
            if not resume and not force:
                raise FileExistsError(f"{out} holds an interrupted training; go on with --resume or start over with --force")
        elif not force and not (resume and finished):
            _refuse_to_replace(out, OUTPUT_FILES)
        data = to_memory(_load(name, expression, edges, tfs))
        if resume and finished:
            check_finished(out, data, seed, epochs)
            typer.echo(f"already finished: {out}")
            return
        try:
            metrics = train(data, seed=seed, max_epochs=epochs, out_dir=out, progress=True, resume=resume).metrics
        except KeyboardInterrupt:
            how = goes_on if kept.is_file() else "nothing was kept yet"
            typer.echo(f"Stopped; {how}", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            if kept.is_file() and not isinstance(error, BlockingIOError):
                raise OSError(f"{error}; then {goes_on}") from error
            raise
    table = Table("test metric", "RegNet", "degree", "structure", "|Pearson|")
    for metric in ("auroc", "auprc"):
        scores = (f"{metrics[metric + suffix]:.3f}" for suffix in ("", "_degree", "_structure", "_correlation"))
        table.add_row(metric.upper(), *scores)
    Console().print(table)
    typer.echo(
        f"{metrics['genes_without_regulators']} genes have no regulator in the training graph: their weight is undefined"
    )
    typer.echo(f"written to {out}")


@app.command()
def shrinkage(
    checkpoint: Annotated[Path, typer.Option(metavar="FILE", help="A regnet_pretrained.pth.", show_default=False)],
    name: Name = None,
    expression: Expression = None,
    edges: Edges = None,
    tfs: Tfs = None,
    layer: Annotated[int, typer.Option(metavar="N", min=0, help="Which GraphSAGE layer.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Else shrinkage_outputs/NAME.", show_default=False)] = None,
    force: Force = False,
) -> None:
    """Effective weights of the genes of NAME, or of --expression and --edges.

    Writes shrinkage.csv and the three figures.

    Example: regnet shrinkage --expression x.csv --edges e.csv --checkpoint m.pth
    """
    _check_input(name, expression, edges, tfs)
    from regnet.checkpoint import load_checkpoint
    from regnet.report import SHRINKAGE_FILES, alone, model_table, put_shrinkage, undefined_genes

    out = out or Path("shrinkage_outputs") / _called(name, expression)
    with _errors_in_one_line():
        if not force:
            _refuse_to_replace(out, SHRINKAGE_FILES)
        model = load_checkpoint(checkpoint)
        data = _load(name, expression, edges, tfs, next(model.parameters()).dtype)
        with alone(out):  # before the work, which may take hours
            with _progress_of_blocks(data):
                table = model_table(model, data, layer)
            put_shrinkage(out, table)
    listed = f" of {data.listed_edges} in the file" if "listed_edges" in data else ""
    typer.echo(f"genes   {len(table)}")
    typer.echo(f"edges   {data.edge_index.size(1)} used{listed}")
    weights = table["w_eff"].dropna()
    if len(weights):
        low, median, high = weights.quantile([0.25, 0.5, 0.75])
        typer.echo(f"weight  median {median:.3f}, quartiles {low:.3f} to {high:.3f}, of {len(weights)} genes")
    reasons = "; ".join(f"{count} {reason}" for reason, count in undefined_genes(table).items())
    typer.echo(f"undefined for {len(table) - len(weights)} genes" + (f": {reasons}" if reasons else ""))
    typer.echo(f"written to {out}")


def _check_input(name: str | None, expression: Path | None, edges: Path | None, tfs: Path | None) -> None:
    from regnet.data import dataset_names

    with _errors_in_one_line():  # of names that are too long for a file
        is_file = bool(name) and (bool(Path(str(name)).suffix) or Path(str(name)).is_file())
    if name and not expression and name not in dataset_names() and is_file:
        raise typer.BadParameter(
            f"{name} looks like a file, not like a data set of `regnet datasets`: use --expression {name}"
        )
    if (name is None) == (expression is None):
        raise typer.BadParameter("give either NAME, a data set that `regnet datasets` lists, or --expression")
    if expression and not edges:
        raise typer.BadParameter("--expression needs --edges")
    if tfs and not edges:
        raise typer.BadParameter("--tfs needs --edges")


def _called(name: str | None, expression: Path | None) -> str:
    from regnet.io import dataset_name

    called = name or dataset_name(str(expression))
    if called in ("", ".", ".."):
        raise typer.BadParameter(f"no folder can be called after {expression}: give --out")
    return called


def _load(
    name: str | None, expression: Path | None, edges: Path | None, tfs: Path | None, dtype: torch.dtype | None = None
) -> Data:
    """The data set of the options, with notices on how names were matched."""
    from regnet.data import join, load_dataset
    from regnet.io import dataset_name, read_expression, read_names, read_network

    source = load_dataset(name, dtype=dtype) if name else read_expression(str(expression))
    if not edges:
        return source
    table, notices = read_network(edges, genes=source.gene_names if name else source.var_names)
    called = dataset_name(str(expression))
    data, more = join(source, table, read_names(tfs) if tfs else None, name=called, dtype=dtype)
    for notice in notices + more:
        typer.echo(f"Notice: {notice}", err=True)
    data.listed_edges = len(table)
    return data


@contextmanager
def _progress_of_blocks(data: Data) -> Iterator[None]:
    """A bar while a matrix on disk is read."""
    import torch

    if isinstance(data.x, torch.Tensor):
        yield
        return
    from dask.diagnostics.progress import ProgressBar

    with ProgressBar(out=sys.stderr):
        yield


def _refuse_to_replace(out: Path, files: tuple[str, ...]) -> None:
    there = [file for file in files if (out / file).exists()]
    if there:
        raise FileExistsError(f"{out} holds {there[0]} of an earlier run; give another --out, or replace it with --force")


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
        text = " ".join(str(error).splitlines())
        if isinstance(error, RuntimeError):
            if "allocate memory" not in text:  # PyTorch's own way to say that there is too little
                raise
            text = f"too little memory: {text.split('DefaultCPUAllocator: ')[-1]}"
        Console(stderr=True, emoji=False, highlight=False).print("[red]Error:[/red]", escape(text), soft_wrap=True)
        raise typer.Exit(1) from None
