"""All commands under the names that people type. Each is imported and made when it is called, or listed with all."""

from __future__ import annotations

import sys
from collections import UserDict
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.main import get_group

from exchange import __version__
from exchange.cli.runtime import Commands

COMMANDS = {
    "adopt": "adopt.adopt",
    "init": "setup.init",
    "migrate": "setup.migrate",
    "up": "setup.up",
    "nudge": "setup.nudge",
    "reload": "reload.reload",
    "demo": "setup.demo",
    "doctor": "setup.doctor",
    "health": "health.health",
    "serve": "serve.serve",
    "check": "check.check",
    "status": "status.status",
    "channels": "channels.app",
    "metrics": "metrics.metrics",
    "alarms": "alarms.app",
    "watch": "watch.watch",
    "report": "watch.report",
    "export": "transfer.export",
    "import": "transfer.import_",
    "replay": "transfer.replay",
    "prune": "transfer.prune",
    "backup": "backup.app",
    "restore": "backup.restore",
    "resync": "resync.resync",
    "reconcile": "reconcile.reconcile",
    "resend": "gaps.resend",
    "carry": "carry.carry",
    "verify": "verify.verify",
    "inspect": "verify.inspect",
    "forget": "forget.forget",
    "schema": "schema.schema",
    "submit": "reference.submit",
    "seed": "reference.seed",
    "epoch": "resync.app",
    "batches": "batches.app",
    "quarantine": "quarantine.app",
    "gaps": "gaps.app",
    "versions": "versions.app",
    "pending": "pending.app",
    "keys": "keys.app",
    "dead-letters": "dead_letters_all.app",
    "audit": "audit.app",
}
"""Where each command or group of commands is, in the order in which ``exchange --help`` lists them."""

# In a pipe a fault is one plain sentence, not a box.
_MARKUP: Any = "rich" if sys.stderr.isatty() else None


class _MadeWhenCalled(UserDict[str, Any]):
    """Commands by their names: what a command takes is worked out when it is first asked for, a millisecond each."""

    def __getitem__(self, name: str) -> Any:
        if isinstance(self.data[name], str):
            self.data[name] = _make(name, *self.data[name].split("."))
        return self.data[name]


def _make(name: str, module: str, attribute: str) -> Any:
    found = getattr(import_module(f"exchange.cli.{module}"), attribute)
    alone = typer.Typer(rich_markup_mode=_MARKUP)
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
    else:
        alone.command(name)(found)
    return get_group(alone).commands[name]


class _Exchange(Commands):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"commands": _MadeWhenCalled(COMMANDS)})


app = typer.Typer(
    name="exchange",
    cls=_Exchange,
    help="Keep chosen tables of two separated networks alike, through signed files alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=_MARKUP,
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
