"""The ``exchange`` command: each command reads its arguments, calls one workflow and prints what came of it.

Commands import what they use when they run: ``exchange --help`` and ``exchange verify`` need no database's driver.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from exchange import __version__, garbage
from exchange.cli import (
    audit,
    batches,
    crossing,
    dead_letters,
    editing,
    files,
    forgetting,
    gaps,
    keys,
    letter_files,
    mending,
    quarantine,
    reconcile,
    reference,
    restoring,
    schema,
    setup,
    state,
    versions,
)
from exchange.cli.running import Commands

app = typer.Typer(
    name="exchange",
    cls=Commands,
    help="Keep chosen tables of two separated networks alike, through signed files alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # In a pipe a fault is one plain sentence, not a box.
    rich_markup_mode="rich" if sys.stderr.isatty() else None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"exchange {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(setup.init)
app.command()(setup.migrate)
app.command()(setup.up)
app.command()(setup.nudge)
app.command()(setup.demo)
app.command()(setup.doctor)
app.command()(state.status)
app.command()(crossing.export)
app.command(name="import")(crossing.import_)
app.command()(crossing.replay)
app.command()(crossing.prune)
app.command()(restoring.resync)
app.add_typer(restoring.app, name="epoch")
app.command()(reconcile.reconcile)
app.add_typer(batches.app, name="batches")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(gaps.app, name="gaps")
app.add_typer(versions.app, name="versions")
app.command()(gaps.resend)
app.command()(files.verify)
app.command()(files.inspect)
app.add_typer(keys.app, name="keys")
dead_letters.app.command()(editing.edit)
dead_letters.app.command()(mending.select)
dead_letters.app.command()(mending.selections)
dead_letters.app.command()(mending.unselect)
dead_letters.app.command()(mending.retry)
dead_letters.app.command()(mending.discard)
dead_letters.app.command()(mending.restore)
app.add_typer(dead_letters.app, name="dead-letters")
dead_letters.app.command()(letter_files.export)
dead_letters.app.command(name="import")(letter_files.import_)
app.add_typer(audit.app, name="audit")
app.command()(forgetting.forget)
app.command(name="schema")(schema.schema)
app.command()(reference.submit)
app.command()(reference.seed)


def main() -> None:
    """Run the command line."""
    garbage.look_seldom()
    app(prog_name="exchange")
