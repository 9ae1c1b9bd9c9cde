"""Backups, and getting back from one: ``exchange backup`` and ``exchange restore``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import fail, settings
from exchange.format.moments import in_table, lasting

if TYPE_CHECKING:
    from exchange.operating.backup.restore import Restored
    from exchange.site import Site

app = typer.Typer(help="Backups: made, tried, listed.", invoke_without_command=True)

_To = Annotated[
    Path | None,
    typer.Option("--to", metavar="FOLDER", help="Where they lie; EXCHANGE_BACKUP_TO if not said.", show_default=False),
]
_Fingerprint = Annotated[
    str | None,
    typer.Option(
        "--fingerprint",
        metavar="SHA256:...",
        help="Of the key that signed it, where this home has not got that key any more.",
        show_default=False,
    ),
]


@app.callback()
def backup(
    ctx: typer.Context,
    to: _To = None,
    recipient: Annotated[
        str | None,
        typer.Option(
            metavar="age1...",
            help="To whom this side's keys are encrypted; without one they are left out.",
            show_default=False,
        ),
    ] = None,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Make a backup in a new folder, while everything runs; `verify` tries one, `list` shows those there are."""
    if ctx.invoked_subcommand is not None:
        return
    with open_exchange() as exchange:
        done = exchange.backup(to and to.absolute(), recipient=recipient, who=who, reason=reason)
    if as_json:
        output.emit(done.as_dict())
        return
    output.tell(str(done.folder))
    took = lasting(timedelta(seconds=done.seconds))
    output.say(f"{done.rows:,} rows, {done.bytes:,} bytes, in {took}: {done.manifest.database['what']}")
    if not done.keys:
        output.say("the keys are not in it: give --recipient, or keep them elsewhere")
    if done.removed:
        output.say(f"{done.removed} old backups are removed")
    output.say(f"next: exchange backup verify {done.folder}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="One backup.", show_default=False)],
    scratch: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An empty PostgreSQL database to try it in, where this role may not make one; it is emptied again.",
            show_default=False,
        ),
    ] = None,
    fingerprint: _Fingerprint = None,
    as_json: Json = False,
) -> None:
    """Check a backup's signature and every byte, restore it into a database of its own, compare that, and remove it.

    Exit code 0 if it is good, 1 if not.
    """
    from exchange.format.errors import Untrusted
    from exchange.format.signed_file import FileFault
    from exchange.operating.assemble import assemble
    from exchange.operating.backup import verify_backup
    from exchange.operating.backup.restore import trusted_keys

    current = settings()
    site = assemble(current)  # the database may be gone
    try:
        done = verify_backup(site, current, folder, trusted_keys(site, folder, fingerprint), scratch)
    except (FileFault, Untrusted) as fault:
        _say_bad(fault)
    if as_json:
        output.emit(done.as_dict())
    else:
        well = "is good" if not done.differences else "is not what was backed up"
        output.tell(f"{done.name} of {in_table(done.created_at)} {well}")
        output.tell(f"signed by {done.signed_by}; {done.rows:,} rows in {done.tables} tables, {done.streams} streams")
        output.tell(f"restored and compared in {lasting(timedelta(seconds=done.seconds))}")
    for sentence in done.differences:
        output.print_error(sentence)
    if done.differences:
        fail()


@app.command("list")
def list_(to: _To = None, as_json: Json = False) -> None:
    """List the backups of a folder, the newest first."""
    from exchange.operating.assemble import assemble
    from exchange.operating.backup import list_backups

    current = settings()
    found = list_backups(assemble(current), current, to)
    if as_json:
        for one in found:
            output.emit(one.as_dict())
        return
    if not found:
        output.say("there is no backup; `exchange backup` makes one")
        return
    rows = [
        (
            one.folder.name,
            in_table(one.manifest.created_at) if one.manifest else None,
            one.manifest.rows if one.manifest else None,
            one.manifest.bytes if one.manifest else None,
            "yes" if one.manifest and one.manifest.keys else "no",
            "fault" if one.fault else "ok",
        )
        for one in found
    ]
    output.table(["name", "made", "rows", "bytes", "keys", "state"], rows)
    for one in found:
        if one.fault:
            output.warn(f"{one.folder.name}: {one.fault}")


def _say_bad(fault: Exception) -> NoReturn:
    from exchange.format.errors import Untrusted

    output.print_error(f"{fault}; nothing was done")
    if isinstance(fault, Untrusted):
        output.say("if this home has lost its keys, say --fingerprint: the other side shows it by `exchange keys list`")
    fail()


def restore(
    folder: Annotated[Path, typer.Option("--from", metavar="FOLDER", help="One backup.", show_default=False)],
    keys_identity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The identity of age that opens the keys in it.", show_default=False),
    ] = None,
    fingerprint: _Fingerprint = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Keep the database aside that is there, and take its place.")
    ] = False,
    no_owner: Annotated[
        bool,
        typer.Option("--no-owner", help="PostgreSQL: leave out who owned what, and who had which rights."),
    ] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Get back from a backup: this side's database, as it was.

    A new epoch begins, and both sides send what it takes to agree again. Nothing of this side may
    run meanwhile. Whatever ends it, the same command goes on.
    """
    from contextlib import AbstractContextManager
    from typing import Any

    from exchange.cli.audited import by_hand
    from exchange.cli.findings import show_findings
    from exchange.format.errors import Untrusted
    from exchange.format.signed_file import FileFault
    from exchange.operating.backup.restore import restore_backup
    from exchange.operating.doctor import Level
    from exchange.operating.doctor.examine import examine

    def acting(site: Site, asked: dict[str, Any]) -> AbstractContextManager[Any]:
        return by_hand(site, "restore", asked, who=who, why=reason)

    try:
        done = restore_backup(
            settings(),
            folder.absolute(),
            acting=acting,
            said=fingerprint,
            identity=keys_identity,
            replace=replace,
            plain=no_owner,
        )
    except (FileFault, Untrusted) as fault:
        _say_bad(fault)
    if not as_json:
        _tell_restored(done)
    sent = _send_all(quiet=as_json)
    findings = [one for one in examine() if one.level is not Level.OK]
    if as_json:
        output.emit(done.as_dict() | {"batches": sent, "findings": [one.as_dict() for one in findings]})
        return
    output.tell("")
    output.tell("what `exchange doctor` says before anything runs:")
    show_findings(findings, as_json=False)
    output.tell("")
    output.tell(f"next: start this side (`exchange up`, or its services); {settings().peer} answers by itself")
    output.tell("  exchange reconcile              compare both sides once its snapshots have come")
    output.tell("  exchange reconcile --report     see that they agree")


def _tell_restored(done: Restored) -> None:
    if done.went_on:
        output.tell(
            f"this database was restored from {done.backup} already, in epoch {done.epoch}; now the rest is done"
        )
    else:
        output.tell(f"restored {done.rows:,} rows of {in_table(done.created_at)}, checked and compared: {done.backup}")
        output.tell(f"epoch {done.epoch} has begun; before it was {done.before or 'none'}")
    if done.kept:
        output.tell(f"what was there before is kept aside as {done.kept}: remove it once all is well")
    if done.keys:
        output.tell(f"keys: {', '.join(done.keys)}")
    if done.keys_aside:
        output.tell(f"keys that were here are put aside: {', '.join(done.keys_aside)}")
    for sentence in done.unlike:
        output.warn(f"not as it was: {sentence}")
    if done.asked:
        output.tell(f"asked for whole, as it is there now: {', '.join(done.asked)}")
    output.tell(f"sent whole, as it is here now: {', '.join(done.sends) or 'no channel'}")
    output.tell(f"it took {lasting(timedelta(seconds=done.seconds))}")


def _send_all(*, quiet: bool) -> int:
    """Send what the other side is to have; what is interrupted goes on with the next export."""
    import time

    begun = time.monotonic()
    with open_exchange() as exchange, output.between_batches("sending", exchange.site.progress) as stopping:
        run = exchange.export(stopping=stopping)
    for sentence in filter(None, (run.trouble, run.untold, *run.faults)):
        output.warn(f"{sentence}; the next export goes on")
    if not quiet:
        took = lasting(timedelta(seconds=time.monotonic() - begun))
        output.tell(f"{len(run.batches)} batches of it lie in outgoing for the carrier, in {took}")
    return len(run.batches)
