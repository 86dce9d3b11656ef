"""The command line: ``regnet datasets``, ``regnet pretrain`` and ``regnet shrinkage``."""

from __future__ import annotations

import json
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

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
    """Every error is one line, also one of the output itself, such as a full device."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with _errors_in_one_line():
            return super().main(*args, **kwargs)


app = typer.Typer(cls=_Program, no_args_is_help=True)

_option = partial(typer.Option, show_default=False)
Name = Annotated[str | None, typer.Argument(metavar="NAME", help="One of `regnet datasets`.", show_default=False)]
Expression = Annotated[Path | None, _option(metavar="FILE", help="CSV, TSV, .h5ad, .zarr, 10x or .loom.")]
Layer = Annotated[str | None, _option(metavar="NAME", help="A layer of the AnnData, not X.")]
Raw = Annotated[bool, _option("--raw", metavar="", help="raw of the AnnData, not X.")]
GeneColumn = Annotated[str | None, _option(metavar="NAME", help="Column that names the genes.")]
Transpose = Annotated[bool, _option("--transpose", metavar="", help="The file has cells in place of genes.")]
Edges = Annotated[Path | None, _option(metavar="FILE", help="Regulator, target (and weight or Label).")]
RegulatorCol = Annotated[str | None, _option(metavar="NAME", help="Column of the regulators.")]
TargetCol = Annotated[str | None, _option(metavar="NAME", help="Column of the targets.")]
MinWeight = Annotated[float | None, _option(metavar="X", help="Least absolute weight of an edge.")]
Tfs = Annotated[Path | None, _option(metavar="FILE", help="Transcription factors, one a line.")]
Controls = Annotated[int, _option(metavar="N", min=0, help="Untrained layers to compare with, 100.")]
Force = Annotated[bool, _option("--force", metavar="", help="Replace earlier outputs.")]


class Input(NamedTuple):
    """Where the data set comes from, and how its files are read."""

    name: str | None
    expression: Path | None
    layer: str | None
    raw: bool
    gene_column: str | None
    transpose: bool
    edges: Path | None
    regulator_col: str | None
    target_col: str | None
    min_weight: float | None
    tfs: Path | None

    def check(self) -> None:
        """Refuse options that do not go together."""
        from regnet.data import dataset_names

        name, path = self.name, Path(str(self.name))
        if name and not self.expression and name not in dataset_names() and (path.suffix or path.is_file()):
            raise typer.BadParameter(_printable(f"{name} looks like a file, not like a data set: use --expression {name}"))
        if (name is None) == (self.expression is None):
            raise typer.BadParameter("give either NAME, a data set that `regnet datasets` lists, or --expression")
        if self.expression and not self.edges:
            raise typer.BadParameter("--expression needs --edges")
        for needed, options in (
            ("expression", ("layer", "raw", "gene_column", "transpose")),
            ("edges", ("regulator_col", "target_col", "min_weight", "tfs")),
        ):
            alone = [option for option in options if getattr(self, option) not in (None, False)]
            if alone and getattr(self, needed) is None:
                raise typer.BadParameter(f"--{alone[0].replace('_', '-')} needs --{needed}")

    def called(self) -> str:
        """A name for the folder of the outputs."""
        from regnet.io import dataset_name

        called = self.name or dataset_name(str(self.expression))
        if called in ("", ".", ".."):
            raise typer.BadParameter(_printable(f"no folder can be called after {self.expression}: give --out"))
        return called

    def load(self, dtype: torch.dtype | None = None) -> Data:
        """The data set, with notices on how files were read and names were matched."""
        from regnet.data import join, load_dataset
        from regnet.io import dataset_name, read_expression, read_names, read_network

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if self.name:
                source, genes = (data := load_dataset(self.name, dtype=dtype)), data.gene_names
            else:
                source = read_expression(
                    str(self.expression),
                    layer=self.layer,
                    raw=self.raw,
                    gene_column=self.gene_column,
                    transpose=self.transpose,
                )
                genes = source.var_names
        notices = [str(warning.message) for warning in caught if warning.category is UserWarning]
        if not self.edges:
            return source
        network = read_network(
            self.edges, regulator=self.regulator_col, target=self.target_col, min_weight=self.min_weight, genes=genes
        )
        tfs = read_names(self.tfs) if self.tfs else None
        data, more = join(source, network.table, tfs, name=dataset_name(str(self.expression)), dtype=dtype)
        for notice in [*notices, *network.notices, *more]:
            _say(f"Notice: {notice}", err=True)
        data.listed_edges = len(network.table)
        if not self.name:
            data.cell_names = list(source.obs_names)
        return data


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
    layer: Layer = None,
    raw: Raw = False,
    gene_column: GeneColumn = None,
    transpose: Transpose = False,
    edges: Edges = None,
    regulator_col: RegulatorCol = None,
    target_col: TargetCol = None,
    min_weight: MinWeight = None,
    tfs: Tfs = None,
    seed: Annotated[int, _option(metavar="N", help="Of split, weights and negatives, 0.")] = 0,
    epochs: Annotated[int, _option(metavar="N", min=1, help="The most passes over the graph, 2000.")] = 2000,
    aggregator: Annotated[str, _option(metavar="NAME", help="posterior-mean, else mlp, the note's.")] = "mlp",
    weights: Annotated[str | None, _option(metavar="WHAT", help="For the former: counts, learned or FILE.")] = None,
    accelerator: Annotated[str, typer.Option(metavar="NAME", help="cpu, gpu or auto.")] = "cpu",
    controls: Controls = 100,
    out: Annotated[Path | None, _option(metavar="DIR", help="Else pretrain_outputs/NAME/pretrain.")] = None,
    resume: Annotated[bool, typer.Option("--resume", metavar="", help="Go on with an interrupted training.")] = False,
    force: Force = False,
) -> None:
    """Train RegNet on NAME, or on --expression and --edges, until it predicts hidden edges no better.

    Writes the model, its metrics, shrinkage.csv and four figures.

    Example: regnet pretrain pbmc68k
    """
    given = Input(name, expression, layer, raw, gene_column, transpose, edges, regulator_col, target_col, min_weight, tfs)
    given.check()
    if aggregator not in ("mlp", "posterior-mean"):
        raise typer.BadParameter(_printable(f"--aggregator is mlp or posterior-mean; got {aggregator}"))
    if (aggregator == "posterior-mean") != (weights is not None):
        raise typer.BadParameter("--aggregator posterior-mean and --weights counts, learned or FILE need each other")
    if resume and force:
        raise typer.BadParameter("--resume goes on and --force starts over: give one of them")
    from regnet.io import read_weights, to_memory
    from regnet.report import REPORT_FILES, first_layer, summary, weigh, write_report
    from regnet.training import data_settings
    from regnet.training import pretrain as train
    from regnet.writing import output_lock

    out = out or Path("pretrain_outputs") / given.called() / "pretrain"
    kept = out / "training" / "last.ckpt"
    finished = not kept.is_file() and all((out / file).is_file() for file in REPORT_FILES)
    if kept.is_file():
        if not resume and not force:
            raise FileExistsError(f"{out} holds an interrupted training; go on with --resume or start over with --force")
    elif not force and not (resume and finished):
        _refuse_to_replace(out, REPORT_FILES)
    data = to_memory(given.load())
    weight: Any = weights
    if weights not in (None, "counts", "learned"):
        weight, notices = read_weights(str(weights), data.gene_names)
        for notice in notices:
            _say(f"Notice: {notice}", err=True)
    if resume and finished:
        _check_finished(out, data, data_settings(data, seed, aggregator, weight) | {"max_epochs": epochs})
        _say(f"already finished: {out}")
        return
    with output_lock(out), _resumable(kept, force):
        trained = train(
            data,
            seed=seed,
            max_epochs=epochs,
            aggregator=aggregator,
            weight=weight,
            accelerator=accelerator,
            checkpoint=kept,
            resume=resume,
            progress=True,
        )
        weighed = weigh(first_layer(trained), data, trained.edge_index, controls, progress=True)
        write_report(out, trained, data, weighed)
    metrics = trained.metrics
    _say(f"kept epoch {metrics['best_epoch']} of {metrics['epochs']}")
    if metrics["epochs"] == epochs:
        _say("Notice: --epochs ended the training before its validation AUPRC had stopped rising", err=True)
    table = Table("test metric", "RegNet", "degree", "structure", "|Pearson|")
    for metric in ("auroc", "auprc"):
        scores = (f"{metrics[metric + suffix]:.3f}" for suffix in ("", "_degree", "_structure", "_correlation"))
        table.add_row(metric.upper(), *scores)
    Console(width=200).print(table)
    _say("\n".join(summary(weighed, f"the {trained.edge_index.size(1)} training edges")))
    _say(f"written to {out}")


@app.command()
def shrinkage(
    checkpoint: Annotated[Path, _option(metavar="FILE", help="A state dict.")],
    name: Name = None,
    expression: Expression = None,
    layer: Layer = None,
    raw: Raw = False,
    gene_column: GeneColumn = None,
    transpose: Transpose = False,
    edges: Edges = None,
    regulator_col: RegulatorCol = None,
    target_col: TargetCol = None,
    min_weight: MinWeight = None,
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
    given = Input(name, expression, layer, raw, gene_column, transpose, edges, regulator_col, target_col, min_weight, tfs)
    given.check()
    from regnet.checkpoint import load_layers
    from regnet.report import SHRINKAGE_FILES, layer_input, summary, weigh, write_h5ad, write_shrinkage
    from regnet.writing import output_lock

    out = out or Path("shrinkage_outputs") / given.called()
    is_h5ad = out.suffix.lower() == ".h5ad"
    if is_h5ad and transpose:
        raise ValueError("with --transpose the genes are not in var: give a folder as --out")
    if not force:
        _refuse_to_replace(*((out.parent, (out.name,)) if is_h5ad else (out, SHRINKAGE_FILES)))
    layers, notices = load_layers(checkpoint, layer_name)
    for notice in notices:
        _say(f"Notice: {notice}", err=True)
    data = given.load(next(layers[0].parameters()).dtype)
    _say_if_trained_elsewhere(checkpoint, data)
    num_edges = data.edge_index.size(1)
    with output_lock(out.with_name(f".{out.name}.unfinished") if is_h5ad else out) as folder:  # before hours of work
        with _progress_of_blocks(data) as bar:
            weights = weigh(layers[-1], layer_input(layers, data), controls=controls, progress=bar is None)
        if is_h5ad:
            source = expression if expression and expression.suffix.lower() == ".h5ad" else None
            about = {"graph": edges.name if edges else name, "edges": num_edges}
            if absent := write_h5ad(out, folder, weights, data, source, about, gene_column):
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


def _progress_of_blocks(data: Data) -> AbstractContextManager[object]:
    """A bar while a matrix on disk is read."""
    if not hasattr(data.x, "dask"):
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
        _say(f"Stopped; {goes_on if kept.is_file() else 'nothing was kept yet'}", err=True)
        raise typer.Exit(130 if isinstance(stop, KeyboardInterrupt) else 143) from None
    except OSError as error:
        raise OSError(f"{error}; then {goes_on}" if kept.is_file() else error) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        with suppress(OSError):  # there is something in it
            kept.parent.rmdir()


def _check_finished(out: Path, data: Data, settings: dict[str, Any]) -> None:
    """Raise unless the finished training in a folder used these data and settings."""
    import pandas as pd

    from regnet.training import differences

    names: dict[str, bool] = {}
    with suppress(ValueError, KeyError):  # a damaged table is none of this training
        is_tf = pd.read_csv(out / "shrinkage.csv", index_col=0, dtype=str, na_filter=False)["is_tf"]
        names = (is_tf == "True").to_dict()
    if list(names.items()) != list(zip(data.gene_names, data.is_tf.tolist(), strict=True)):
        raise FileExistsError(
            f"{out} holds a finished training on other names; give another --out, or start over with --force"
        )
    before: dict[str, object] = {}
    with suppress(ValueError, TypeError):  # a damaged file is none of this training
        before = dict(json.loads((out / "settings.json").read_bytes()))
    if other := differences(before, settings):
        raise FileExistsError(
            f"{out} holds a finished training with {other}; give another --out, or start over with --force"
        )


def _say_if_trained_elsewhere(checkpoint: Path, data: Data) -> None:
    """The weights of a layer belong to cells, in their order, and to the unit that it was trained in."""
    from regnet.training import data_settings

    if hasattr(data.x, "dask"):  # a pass over a matrix on disk may take hours
        return
    with suppress(OSError, ValueError, TypeError, KeyError):  # no settings beside it
        trained_on = json.loads(checkpoint.with_name("settings.json").read_bytes())["expression"]
        if trained_on != data_settings(data, 0)["expression"]:
            _say("Notice: the layer was trained on another expression: its weights belong to those cells and unit", err=True)


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
