"""All commands under the names that people type."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from exchange import __version__
from exchange.cli import (
    audit,
    batches,
    check,
    dead_letters,
    dead_letters_edit,
    dead_letters_file,
    dead_letters_retry,
    dead_letters_show,
    forget,
    gaps,
    keys,
    pending,
    quarantine,
    reconcile,
    reference,
    resync,
    schema,
    setup,
    status,
    transfer,
    verify,
    versions,
)
from exchange.cli.runtime import Commands

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
app.command()(check.check)
app.command()(status.status)
app.command()(transfer.export)
app.command(name="import")(transfer.import_)
app.command()(transfer.replay)
app.command()(transfer.prune)
app.command()(resync.resync)
app.add_typer(resync.app, name="epoch")
app.command()(reconcile.reconcile)
app.add_typer(batches.app, name="batches")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(gaps.app, name="gaps")
app.add_typer(versions.app, name="versions")
app.add_typer(pending.app, name="pending")
app.command()(gaps.resend)
app.command()(verify.verify)
app.command()(verify.inspect)
app.add_typer(keys.app, name="keys")
dead_letters.app.command()(dead_letters_show.show)
dead_letters.app.command()(dead_letters_edit.edit)
dead_letters.app.command()(dead_letters_retry.select)
dead_letters.app.command()(dead_letters_retry.selections)
dead_letters.app.command()(dead_letters_retry.unselect)
dead_letters.app.command()(dead_letters_retry.retry)
dead_letters.app.command()(dead_letters_retry.discard)
dead_letters.app.command()(dead_letters_retry.restore)
app.add_typer(dead_letters.app, name="dead-letters")
dead_letters.app.command()(dead_letters_file.export)
dead_letters.app.command(name="import")(dead_letters_file.import_)
app.add_typer(audit.app, name="audit")
app.command()(forget.forget)
app.command(name="schema")(schema.schema)
app.command()(reference.submit)
app.command()(reference.seed)
