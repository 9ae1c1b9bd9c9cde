"""``exchange keys``: this side's signing keys and the other side's public ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.batches import Limit
from exchange.cli.output import Json
from exchange.cli.runtime import Refused, moment, settings
from exchange.format.errors import printable
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.files.keys import Candidate, KeyFile
    from exchange.format.key_terms import Terms
    from exchange.operating.untrust import UntrustedKey
    from exchange.settings import Settings

app = typer.Typer(help="Keys: who signs here, and who is trusted.", no_args_is_help=True)


@app.command()
def new(
    name: Annotated[
        str | None,
        typer.Argument(help="What manifests call it (default: the network and the year).", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a signing key; it signs from the next export on."""
    from exchange.files import keys
    from exchange.operating.init import new_key_name

    current = settings()
    public = keys.new(current.keys_folder, name or new_key_name(current))
    fingerprint = keys.read_signing_key(current.keys_folder, public.stem).fingerprint
    if as_json:
        output.emit({"name": public.stem, "path": str(public), "fingerprint": fingerprint})
        return
    output.tell(f"made {public.stem}; its public half is {public}")
    output.tell(f"fingerprint {fingerprint}")
    output.tell(f"carry that file to {current.peer}, read the fingerprint out to them, and have them run there:")
    output.tell(f"  exchange keys trust {public.name} --fingerprint {fingerprint}")


@app.command()
def trust(
    file: Annotated[Path, typer.Argument(help="The other side's public key, a PEM file.", show_default=False)],
    *,
    name: Annotated[
        str | None, typer.Option(help="What manifests call it (default: the file's stem).", show_default=False)
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256:...",
            help="What the other side says is its fingerprint; left out, a person is asked for the end of it.",
            show_default=False,
        ),
    ] = None,
    not_before: Annotated[
        str | None, typer.Option(metavar="MOMENT", help="Only what comes from then on (UTC).", show_default=False)
    ] = None,
    not_after: Annotated[
        str | None, typer.Option(metavar="MOMENT", help="Only what has come by then (UTC).", show_default=False)
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(help="Only batches of this channel, control among them; may be repeated.", show_default=False),
    ] = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="Of a trusted key: take its limits away.")] = False,
    reason: Reason = None,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Accept what this key signs, from the next batch on.

    The file came by a road that others may be on: the fingerprint has to come by another one, such as the telephone. A
    batch outside the limits is untrusted. Of a key that is trusted already only the limits change, if any are given.
    """
    from exchange.files import keys
    from exchange.format.key_terms import NO_LIMITS

    if not file.is_file():
        raise Refused(
            f"{file}: expected the file of a public key, found none; bring <home>/keys/NAME.pem of the other side"
        )
    current = settings()
    wanted = keys.candidate(file, name)
    if channel:
        _check_channels(current, channel, wanted)
    terms = _terms(not_before, not_after, channel, unlimited=unlimited)
    _compare(wanted, fingerprint, current)
    if _audit_is_kept(current):
        with open_exchange() as exchange:
            kept = exchange.keys.trust(wanted, wanted.fingerprint, terms, who=who, reason=reason)
    else:  # keys are exchanged before `exchange migrate`, too
        copy = keys.trust(current.keys_folder, wanted, terms)
        kept = next(one for one in keys.listed(current.keys_folder) if one.path == copy)
    if as_json:
        output.emit(
            {"name": kept.name, "path": str(kept.path), "fingerprint": wanted.fingerprint, **kept.terms.as_dict()}
        )
        return
    output.tell(f"{kept.name} is trusted{f' {kept.terms}' if kept.terms != NO_LIMITS else ''}")
    output.tell(f"fingerprint {wanted.fingerprint}")


def _audit_is_kept(current: Settings) -> bool:
    from exchange.database import audit_log
    from exchange.database.engine import make_engine

    engine = make_engine(current.database_url)
    try:
        return audit_log.is_kept(engine)
    finally:
        engine.dispose()


def _terms(
    not_before: str | None, not_after: str | None, channels: list[str] | None, *, unlimited: bool
) -> Terms | None:
    """Read the limits that were asked for; None if nothing was. Raises Refused."""
    from exchange.format.key_terms import NO_LIMITS, Terms

    begin, end = moment("--not-before", not_before), moment("--not-after", not_after)
    limited = not (begin is end is None and not channels)
    if unlimited and limited:
        raise Refused("--unlimited: expected no limit beside it, found one; nothing was done")
    if not limited:
        return NO_LIMITS if unlimited else None
    try:
        return Terms(begin, end, frozenset(channels) if channels else None)
    except ValueError as error:
        raise Refused(f"{error}; nothing was done") from error


def _check_channels(current: Settings, channels: list[str], wanted: Candidate) -> None:
    """See that each is one that this side receives. Raises Refused."""
    from exchange.channels.channel import known_names
    from exchange.format.names import CONTROL
    from exchange.operating.assemble import assemble

    known = [*known_names(assemble(current, distrusting=wanted.name).incoming()), CONTROL]
    for name in channels:
        if name not in known:
            shown = printable(repr(name), 80)
            raise Refused(f"--channel: expected one that is received here ({', '.join(known)}), found {shown}")
    if CONTROL not in channels:
        output.warn(
            f"this key may not sign for {CONTROL}: another one has to sign what {current.peer} says of our batches"
        )


def _compare(wanted: Candidate, fingerprint: str | None, current: Settings) -> None:
    """See that the key is the one that the other side means. Raises Refused, KeyFault; nothing was done then."""
    from exchange.api.keys import check_fingerprint
    from exchange.files.keys import LAST_GROUP

    if fingerprint is not None:
        check_fingerprint(wanted, fingerprint)
        return
    if not sys.stdin.isatty():
        raise Refused(
            f"--fingerprint: expected what `exchange keys list` shows on {current.peer}, found none, and nobody is at a"
            " terminal to type it; nothing was done"
        )
    output.say(f"fingerprint {wanted.shown_part}{'.' * LAST_GROUP}")
    output.say(f"have {current.peer} read out what `exchange keys list` shows there, by another road than this file's")
    wanted.check_last_group(typer.prompt(f"its last {LAST_GROUP} characters", err=True).strip())


@app.command()
def untrust(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's name, as the list shows it.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the audit.")],
    limit: Limit = 50,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Trust a key no longer, from the next batch on, and list what it had signed that is applied, waiting or held."""
    with open_exchange() as exchange:
        done = exchange.keys.untrust(name, reason, limit=limit, who=who)
    if as_json:
        output.emit(done.as_dict())
        return
    output.tell(f"{name} is trusted no longer; fingerprint {done.fingerprint}")
    _tell_signed(done)


def _tell_signed(done: UntrustedKey) -> None:
    from exchange.database.tables import BatchState

    waiting, held, applied = (done.as_dict()[word] for word in ("waiting", "held", "applied"))
    output.tell(f"it had signed what is here: {applied} applied, {waiting} waiting, {held} held")
    if done.batches:
        output.table(
            ["batch", "state", "records", "updated", "manifest SHA-256"],
            [(one.batch, one.state, one.records, in_table(one.updated_at), one.digest) for one in done.batches],
        )
    if done.counts.get(BatchState.WAITING) or done.counts.get(BatchState.HELD):
        output.say("what waits or is held is quarantined at the next import")
    if len(done.batches) < sum(done.counts.values()):
        output.say(f"`exchange batches --key {done.name}` lists the others, with `--channel control` those of control")
    for name in done.still:
        output.warn(f"the same key is still trusted as {name}: `exchange keys untrust {name}` ends that, too")


@app.command("list")
@output.listing
def list_(as_json: Json = False) -> None:
    """List own keys and trusted ones."""
    from exchange.api.keys import in_use
    from exchange.files import keys

    current = settings()
    found = keys.listed(current.keys_folder, current.signing_key)
    for key in found:
        if as_json:
            output.emit(_fields(key))
        if key.fault:
            output.print_error(key.fault)
    if as_json:
        return
    if not found:
        output.say("there are no keys yet; `exchange keys new` makes one")
        return
    output.table(
        ["name", "use", "fingerprint", "limits"],
        [(key.name, in_use(key), key.fingerprint, key.terms) for key in found],
    )


def _fields(key: KeyFile) -> dict[str, object]:
    return {
        "name": key.name,
        "trusted": key.trusted,
        "signs": key.signs,
        "path": str(key.path),
        "fingerprint": key.fingerprint,
        **(key.terms.as_dict() if key.trusted else {}),
    }
