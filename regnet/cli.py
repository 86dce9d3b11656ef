"""The command line: ``regnet datasets`` and ``regnet pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Does a graph network shrink gene expression the way Bayes' rule would?",
)


@app.command()
def datasets() -> None:
    """List the data sets that `regnet pretrain` takes.

    Example: regnet datasets
    """
    from regnet.datasets import dataset_names

    for name in dataset_names():
        typer.echo(name)


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="A name that `regnet datasets` lists.")],
    seed: Annotated[int, typer.Option(help="Seed of the split, the weights and the negatives.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training edges.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Output folder; pretrain_outputs/NAME/pretrain by default.")] = None,
) -> None:
    """Train RegNet on a data set and write the model, its metrics, shrinkage.csv and the three figures.

    Example: regnet pretrain pbmc68k --epochs 100
    """
    from regnet.datasets import load_dataset
    from regnet.training import pretrain as train

    out = out or Path("pretrain_outputs") / name / "pretrain"
    try:
        metrics = train(load_dataset(name), seed=seed, max_epochs=epochs, out_dir=out, progress=True).metrics
    except (ValueError, TypeError, OSError) as error:
        Console(stderr=True).print("[red]Error:[/red]", escape(str(error)), soft_wrap=True)
        raise typer.Exit(1) from None
    table = Table("test metric", "RegNet", "degree", "structure", "|Pearson|")
    for metric in ("auroc", "auprc"):
        scores = (f"{metrics[metric + suffix]:.3f}" for suffix in ("", "_degree", "_structure", "_correlation"))
        table.add_row(metric.upper(), *scores)
    Console().print(table)
    typer.echo(
        f"{metrics['genes_without_regulators']} genes have no regulator in the training graph: their weight is undefined"
    )
    typer.echo(f"written to {out}")
