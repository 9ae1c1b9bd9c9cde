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

GROUPS = {
    "Set up": {
        "init": "setup.init",
        "migrate": "setup.migrate",
        "adopt": "adopt.adopt",
        "keys": "keys.app",
        "schema": "schema.schema",
        "up": "setup.up",
        "nudge": "setup.nudge",
        "reload": "reload.reload",
        "demo": "setup.demo",
    },
    "Watch": {
        "status": "status.status",
        "health": "health.health",
        "doctor": "setup.doctor",
        "check": "check.check",
        "report": "watch.report",
        "alarms": "alarms.app",
        "watch": "watch.watch",
        "metrics": "metrics.metrics",
        "serve": "serve.serve",
    },
    "The link": {
        "export": "transfer.export",
        "import": "transfer.import_",
        "carry": "carry.carry",
        "channels": "channels.app",
        "batches": "batches.app",
        "inspect": "verify.inspect",
        "verify": "verify.verify",
        "gaps": "gaps.app",
        "resend": "gaps.resend",
        "resync": "resync.resync",
        "reconcile": "reconcile.reconcile",
        "epoch": "resync.app",
    },
    "Files of people": {
        "files": "files.app",
        "intake": "intake.intake",
    },
    "What did not take effect": {
        "dead-letters": "dead_letters_all.app",
        "quarantine": "quarantine.app",
        "replay": "transfer.replay",
        "pending": "pending.app",
        "versions": "versions.app",
    },
    "Keep and get back": {
        "extract": "extract.extract",
        "backup": "backup.app",
        "restore": "backup.restore",
        "prune": "transfer.prune",
        "forget": "forget.forget",
        "audit": "audit.app",
    },
    "People": {
        "users": "users.app",
        "tokens": "tokens.app",
        "api-keys": "api_keys.app",
        "proposals": "proposals.app",
    },
    "Reference application": {
        "submit": "reference.submit",
        "seed": "reference.seed",
        "requesters": "requesters.app",
    },
}
"""Where each command or group of commands is: under the headings of ``exchange --help``, in its order."""

COMMANDS = {name: place for commands in GROUPS.values() for name, place in commands.items()}
_HEADINGS = {name: heading for heading, commands in GROUPS.items() for name in commands}

MOST_SAID = 62
"""So many characters of what a command does have room beside its name, in a box 80 columns wide."""

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
        alone.add_typer(found, name=name, rich_help_panel=_HEADINGS[name])
    else:
        alone.command(name, rich_help_panel=_HEADINGS[name])(found)
    return get_group(alone).commands[name]


class _Exchange(Commands):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"commands": _MadeWhenCalled(COMMANDS)})

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as Typer calls it
        """Write the commands under their headings, as at a terminal."""
        for heading, names in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(MOST_SAID)) for name in names])


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
