"""``exchange alarms``: what stands, since when, who was told, and what nobody is told of for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import fail, open_site, settings

if TYPE_CHECKING:
    from exchange.watching.alarms import Silence, Standing
    from exchange.watching.outbox import Kept
    from exchange.watching.silencing import Alarms

app = typer.Typer(help="What stands, who was told of it, and what is silenced.", invoke_without_command=True)

Name = Annotated[str, typer.Argument(metavar="ALARM", help="Its name, as `exchange alarms` shows it.")]
Subject = Annotated[str, typer.Option("--subject", help="Of this channel, folder or key alone; else of all.")]


@app.callback()
@output.listing
def alarms(ctx: typer.Context, as_json: Json = False) -> None:
    """List what stands: since when, who was told and when, until when it is silenced; and what was not delivered."""
    if ctx.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    from exchange.watching.silencing import from_file, read_alarms

    found = from_file(settings())
    if found is None:
        with open_site() as site:
            found = read_alarms(site)
    if as_json:
        for row in found.rows():
            output.emit(row)
        return
    if found.alone:
        output.warn("the database was away at the watcher's last look; this is from its file")
    for one in found.standing:
        _show(found, one)
    for silence in found.silences:
        if not any(silence.covers(one, found.at) for one in found.standing):
            output.paragraph("", f"{_named(silence.alarm, silence.subject)} {_silenced(silence)}")
    for message in found.untold:
        output.paragraph("untold", *_untold(message))
    output.tell(
        f"{len(found.standing) or 'no'} alarm{'' if len(found.standing) == 1 else 's'} stand"
        f"{'s' if len(found.standing) == 1 else ''}"
    )


def _show(found: Alarms, one: Standing) -> None:
    from exchange.format.moments import in_table, lasting

    began = one.since or one.first_at
    told = f"told at {in_table(one.told_last)} to {one.told_to}" if one.told_last else "nobody was told yet"
    if one.held_back:
        told += f"; it came and went {one.held_back} times of which nobody was told"
    silence = found.silence_of(one)
    age = lasting(found.at - began)
    output.paragraph(
        one.level,
        f"{one.name}: {one.message}",
        f"since {in_table(began)}, {age} ago; {told}",
        _silenced(silence) if silence else "",
        one.remedy,
    )
    if one.command:
        output.command(one.command)


def _silenced(silence: Silence) -> str:
    from exchange.format.moments import in_table

    return f"silenced until {in_table(silence.until)} by {silence.who}: {silence.reason}"


def _untold(message: Kept) -> tuple[str, ...]:
    from exchange.format.moments import in_table

    tries = f"{message.attempts} attempt{'' if message.attempts == 1 else 's'}"
    when = f"{tries} since {in_table(message.created_at)}, the next at {in_table(message.next_at)}"
    return (
        f"{message.target} was not reached: {message.last_error}",
        f"{message.message.title}; {when}",
    )


def _named(alarm: str, subject: str) -> str:
    return f"{alarm} of {subject}" if subject else alarm


@app.command()
def silence(
    alarm: Name,
    length: Annotated[str, typer.Option("--for", metavar="TIME", help="For how long: 90m, 2h, 3d.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the audit and for who reads the list.")],
    subject: Subject = "",
    who: As = None,
    as_json: Json = False,
) -> None:
    """Have nobody told of an alarm for a while.

    It still stands, in `exchange alarms` and everywhere else. What became of it is told when the time is over.
    """
    with open_exchange() as exchange:
        made = exchange.silence_alarm(alarm, length, reason, subject=subject, who=who)
    if as_json:
        output.emit(made.as_dict())
    else:
        output.tell(f"{_named(alarm, subject)} is {_silenced(made)}")


@app.command()
def unsilence(alarm: Name, subject: Subject = "", reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Have people told of an alarm again."""
    with open_exchange() as exchange:
        exchange.unsilence_alarm(alarm, subject=subject, who=who, reason=reason)
    if as_json:
        output.emit({"alarm": alarm, "subject": subject or None})
    else:
        output.tell(f"people are told of {_named(alarm, subject)} again")


@app.command("test")
def trial(reason: Reason = None, who: As = None, as_json: Json = False) -> None:
    """Send a trial message to everybody who is told, and say what each answered.

    Exit code 1 if somebody was not reached.
    """
    with open_exchange() as exchange:
        answers = exchange.test_alarms(who=who, reason=reason)
    for one in answers:
        if as_json:
            output.emit(one.as_dict())
        else:
            output.paragraph("ok" if one.taken else "fault", f"{one.target}: {one.said}")
    if not all(one.taken for one in answers):
        fail()


@app.command()
@output.listing
def messages(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many.")] = 20, as_json: Json = False
) -> None:
    """List what people were told, newest first: when, by how many attempts, and why not."""
    from exchange.format.moments import in_table
    from exchange.watching.silencing import read_messages

    with open_site() as site:
        found = read_messages(site, limit)
    for one in found:
        if as_json:
            output.emit(one.as_dict())
            continue
        when = f"at {in_table(one.ended_at)}" if one.ended_at else f"next try at {in_table(one.next_at)}"
        tries = f"{one.attempts} attempt{'' if one.attempts == 1 else 's'}, {when}"
        output.paragraph(one.state, f"{one.target}: {one.message.title}", tries, one.last_error)
    if not found and not as_json:
        output.say("nobody was told anything yet")
