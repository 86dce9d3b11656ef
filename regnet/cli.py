"""The command line: ``regnet datasets``, ``regnet pretrain`` and ``regnet shrinkage``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

# What takes seconds to import is imported by the commands that need it.
if TYPE_CHECKING:
    import torch
    from torch_geometric.data import Data


class _Program(TyperGroup):
    """An error of the output itself, such as a full device, is one line, too."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with _errors_in_one_line():
            return super().main(*args, **kwargs)


app = typer.Typer(cls=_Program, no_args_is_help=True)

_option = partial(typer.Option, show_default=False)
Name = Annotated[str | None, typer.Argument(metavar="NAME", help="One of `regnet datasets`.", show_default=False)]
Expression = Annotated[Path | None, _option(metavar="FILE", help="Genes x cells: CSV, TSV, .gz, .h5ad, .zarr.")]
Edges = Annotated[Path | None, _option(metavar="FILE", help="Columns regulator, target (and Label).")]
Tfs = Annotated[Path | None, _option(metavar="FILE", help="Transcription factors, one a line.")]
Controls = Annotated[int, _option(metavar="N", min=0, help="Untrained layers to compare with, 100.")]
Force = Annotated[bool, _option("--force", metavar="", help="Replace earlier outputs.")]


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"regnet {version('regnet-shrinkage')}")
        raise typer.Exit


Version = Annotated[bool, _option("--version", metavar="", is_eager=True, callback=_show_version, help="Show the version.")]


@app.callback()
def regnet(version: Version = False) -> None:
    """Does a graph network shrink gene expression the way Bayes' rule would?

    Example: regnet pretrain pbmc68k
    """


@app.command()
def datasets() -> None:
    """List the data sets that the other commands take by name.

    Files are downloaded when a data set is first used, or read from the folder that the environment variable
    REGNET_DATA_DIR names.

    Example: regnet datasets
    """
    from regnet.data import list_datasets

    table = Table("name", "genes x cells", "edges", "from", "where it is", box=None, pad_edge=False)
    for dataset in list_datasets():
        table.add_row(*dataset)
    Console(width=200).print(table)  # wider than the table, so that no name is cut, also not into a file


@app.command()
def pretrain(
    name: Name = None,
    expression: Expression = None,
    edges: Edges = None,
    tfs: Tfs = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of split, weights and negatives.")] = 0,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over the graph.")] = 200,
    controls: Controls = 100,
    out: Annotated[Path | None, _option(metavar="DIR", help="Else pretrain_outputs/NAME/pretrain.")] = None,
    resume: Annotated[bool, typer.Option("--resume", metavar="", help="Go on with an interrupted training.")] = False,
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
    from regnet.report import REPORT_FILES, first_layer, summary, weigh, write_report
    from regnet.training import pretrain as train
    from regnet.writing import output_lock

    out = out or Path("pretrain_outputs") / _called(name, expression) / "pretrain"
    kept = out / "training" / "last.ckpt"
    with _errors_in_one_line():
        finished = not kept.is_file() and all((out / file).is_file() for file in REPORT_FILES)
        if kept.is_file():
            if not resume and not force:
                raise FileExistsError(f"{out} holds an interrupted training; go on with --resume or start over with --force")
        elif not force and not (resume and finished):
            _refuse_to_replace(out, REPORT_FILES)
        data = to_memory(_load(name, expression, edges, tfs))
        if resume and finished:
            _check_finished(out, data, seed, epochs)
            _say(f"already finished: {out}")
            return
        with output_lock(out), _resumable(kept, force):
            trained = train(data, seed=seed, max_epochs=epochs, checkpoint=kept, resume=resume, progress=True)
            weights = weigh(first_layer(trained), data, trained.edge_index, controls, progress=True)
            write_report(out, trained, data, weights)
        metrics = trained.metrics
        table = Table("test metric", "RegNet", "degree", "structure", "|Pearson|")
        for metric in ("auroc", "auprc"):
            scores = (f"{metrics[metric + suffix]:.3f}" for suffix in ("", "_degree", "_structure", "_correlation"))
            table.add_row(metric.upper(), *scores)
        Console(width=200).print(table)
        _say("\n".join(summary(weights, f"the {trained.edge_index.size(1)} training edges")))
        _say(f"written to {out}")


@app.command()
def shrinkage(
    checkpoint: Annotated[Path, _option(metavar="FILE", help="A state dict, as regnet_pretrained.pth.")],
    name: Name = None,
    expression: Expression = None,
    edges: Edges = None,
    tfs: Tfs = None,
    layer_name: Annotated[str | None, _option(metavar="NAME", help="Else graphsage.layers.0.agg.")] = None,
    controls: Controls = 100,
    out: Annotated[Path | None, _option(metavar="PATH", help="DIR or .h5ad, else shrinkage_outputs/NAME.")] = None,
    force: Force = False,
) -> None:
    """Effective weights of the genes of NAME, or of --expression and --edges.

    Writes shrinkage.csv and the three figures; to an .h5ad, columns of its var.

    Example: regnet shrinkage --expression x.csv --edges e.csv --checkpoint m.pth
    """
    _check_input(name, expression, edges, tfs)
    from regnet.checkpoint import load_layers
    from regnet.report import SHRINKAGE_FILES, layer_input, summary, weigh, write_h5ad, write_shrinkage
    from regnet.writing import output_lock

    out = out or Path("shrinkage_outputs") / _called(name, expression)
    is_h5ad = out.suffix.lower() == ".h5ad"
    with _errors_in_one_line():
        if not force:
            _refuse_to_replace(*((out.parent, (out.name,)) if is_h5ad else (out, SHRINKAGE_FILES)))
        layers, notices = load_layers(checkpoint, layer_name)
        for notice in notices:
            _say(f"Notice: {notice}", err=True)
        data = _load(name, expression, edges, tfs, next(layers[0].parameters()).dtype)
        num_edges = data.edge_index.size(1)
        with output_lock(out.with_name(f".{out.name}.unfinished") if is_h5ad else out) as folder:  # before hours of work
            with _progress_of_blocks(data) as bar:
                weights = weigh(layers[-1], layer_input(layers, data), controls=controls, progress=bar is None)
            if is_h5ad:
                source = expression if expression and expression.suffix.lower() == ".h5ad" else None
                about = {"graph": edges.name if edges else name, "edges": num_edges}
                if absent := write_h5ad(out, folder, weights, data, source, about):
                    _say(f"Notice: genes of the table that var lacks: {absent} of {len(weights.table)}", err=True)
            else:
                write_shrinkage(out, weights)
        listed = f" of {data.listed_edges} in the file" if "listed_edges" in data else ""
        _say(f"genes   {len(weights.table)}\nedges   {num_edges} used{listed}")
        _say("\n".join(summary(weights, f"all {num_edges} edges")))
        _say(f"written to {out}")


def _say(text: str, *, err: bool = False) -> None:
    typer.echo(_printable(text), err=err)


def _printable(text: str) -> str:
    """With control characters, by which a name could command the terminal, as Python writes them."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _check_input(name: str | None, expression: Path | None, edges: Path | None, tfs: Path | None) -> None:
    from regnet.data import dataset_names

    is_file = bool(name) and (bool(Path(str(name)).suffix) or Path(str(name)).is_file())
    if name and not expression and name not in dataset_names() and is_file:
        raise typer.BadParameter(_printable(f"{name} looks like a file, not like a data set: use --expression {name}"))
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
        raise typer.BadParameter(_printable(f"no folder can be called after {expression}: give --out"))
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
        _say(f"Notice: {notice}", err=True)
    data.listed_edges = len(table)
    if not name:
        data.cell_names = list(source.obs_names)
    return data


def _progress_of_blocks(data: Data) -> AbstractContextManager[object]:
    """A bar while a matrix on disk is read."""
    import torch

    if isinstance(data.x, torch.Tensor):
        return nullcontext()
    from dask.diagnostics.progress import ProgressBar

    bar: AbstractContextManager[object] = ProgressBar(out=sys.stderr)
    return bar


@contextmanager
def _resumable(kept: Path, force: bool) -> Iterator[None]:
    """Says how to go on with a training that is interrupted; one that is done is no longer kept."""
    goes_on = f"the same command with --resume{' in place of --force' if force else ''} goes on"
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
        kept.unlink()  # the last of all: while it is there, the training is not finished
    except (KeyboardInterrupt, SystemExit) as stop:
        typer.echo(f"Stopped; {goes_on if kept.is_file() else 'nothing was kept yet'}", err=True)
        raise typer.Exit(130 if isinstance(stop, KeyboardInterrupt) else 143) from None
    except OSError as error:
        raise OSError(f"{error}; then {goes_on}" if kept.is_file() else error) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        with suppress(OSError):  # there is something in it
            kept.parent.rmdir()


def _check_finished(out: Path, data: Data, seed: int, epochs: int) -> None:
    """Raise unless the finished training in a folder used these data, this seed and this number of epochs."""
    from regnet.training import data_settings, differences

    before: dict[str, object] = {}
    with suppress(ValueError, TypeError):  # a damaged file is none of this training
        before = dict(json.loads((out / "settings.json").read_bytes()))
    if other := differences(before, data_settings(data, seed) | {"epochs": epochs}):
        raise FileExistsError(
            f"{out} holds a finished training with {other}; give another --out, or start over with --force"
        )


def _refuse_to_replace(out: Path, files: tuple[str, ...]) -> None:
    there = [file for file in files if (out / file).exists()]
    if there:
        raise FileExistsError(f"{out} holds {there[0]} of an earlier run; give another --out, or replace it with --force")


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # nobody reads any more: Typer ends without a word
        raise
    except (ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
        text = _printable(" ".join(str(error).splitlines()))
        if isinstance(error, RuntimeError):
            if "allocate memory" not in text:  # PyTorch's own way to say that there is too little
                raise
            text = f"too little memory: {text.split('DefaultCPUAllocator: ')[-1]}"
        Console(stderr=True, emoji=False, highlight=False).print("[red]Error:[/red]", escape(text), soft_wrap=True)
        raise SystemExit(1) from None
