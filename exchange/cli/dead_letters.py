"""``exchange dead-letters``: records that did not take effect, and what to do with them."""

from __future__ import annotations

from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.batches import ChannelOption, Limit
from exchange.cli.output import Json
from exchange.cli.running import fail, one_of, open_site, refuse_unknown
from exchange.format.errors import printable

LARGEST_ID = 2**63 - 1
LONGEST_RECORD = 20_000
"""Characters of a record shown to people; `--json` gives all that is kept."""

app = typer.Typer(help="Records that did not take effect.", no_args_is_help=True)
Id = Annotated[int, typer.Argument(metavar="ID", min=1, max=LARGEST_ID)]
Ids = Annotated[list[int], typer.Argument(metavar="ID", min=1, max=LARGEST_ID)]


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="Only in this state.", show_default=False)] = None,
    channel: ChannelOption = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first."""
    from exchange import dead_letters
    from exchange.database import reading, world_errors
    from exchange.models import DeadLetterState

    wanted = one_of("state", state, DeadLetterState)
    with open_site() as site, world_errors(), reading(site.engine) as connection:
        channels = None if channel is None else site.names_in_files(channel)
        found = dead_letters.listed(connection, state=wanted, channels=channels, limit=limit)
        if not found:
            refuse_unknown(channel, site)
    if as_json:
        for letter in found:
            output.emit(letter.as_dict())
        return
    if not found:
        output.say("there are no such dead letters")
        return
    output.table(
        ["id", "direction", "channel", "stream", "key", "state", "error", "fingerprint", "message"],
        [
            (
                letter.id,
                letter.direction,
                letter.channel,
                letter.stream,
                letter.key,
                letter.state,
                letter.error,
                letter.fingerprint,
                letter.message,
            )
            for letter in found
        ],
    )


@app.command()
def show(letter_id: Id, as_json: Json = False) -> None:
    """Show one dead letter: what is wrong, the record as it came, and its history."""
    from exchange import dead_letters
    from exchange.database import reading, world_errors

    with open_site() as site, world_errors(), reading(site.engine) as connection:
        letter = dead_letters.find(connection, letter_id)
        history = dead_letters.history(connection, letter_id)
    if letter is None:
        output.complain(f"there is no dead letter {letter_id}; `exchange dead-letters list` shows those there are")
        fail()
    record = letter.record.decode("utf-8", "backslashreplace")
    fields = letter.as_dict() | {
        "op": letter.op,
        "pointer": letter.pointer,
        "schema_version": letter.schema_version,
        "updated_at": letter.updated_at.isoformat(),
        "record_bytes": letter.record_bytes,
    }
    if as_json:
        events = [{**event, "at": event["at"].isoformat()} for event in history]
        output.emit(fields | {"record": record, "history": events})
        return
    output.table(["field", "value"], fields.items())
    output.tell("record:")
    typer.echo(printable(record, LONGEST_RECORD))
    output.tell("history:")
    output.table(
        ["at", "from", "to", "cause", "who"],
        [
            (f"{event['at']:%Y-%m-%d %H:%M:%S}Z", event["from_state"], event["to_state"], event["cause"], event["who"])
            for event in history
        ],
    )


@app.command()
def retry(ids: Ids, as_json: Json = False) -> None:
    """Try parked records again, with every check that a batch's record meets."""
    from exchange import retry as retrying
    from exchange.models import DeadLetterState

    with open_site() as site:
        done = retrying.run(site, ids)
    if as_json:
        for one in done:
            output.emit(one.as_dict())
    else:
        output.table(["id", "state", "message"], [(one.id, one.state, one.message) for one in done])
    if not all(one.changed and one.state is not DeadLetterState.PARKED for one in done):
        fail()


@app.command()
def discard(
    letter_id: Id,
    reason: Annotated[str, typer.Option(help="Why nobody needs it; it is kept in the letter's history.")],
    as_json: Json = False,
) -> None:
    """Give a parked record up for good."""
    from exchange import dead_letters
    from exchange.database import world_errors, writing

    with open_site() as site, world_errors(), writing(site.engine) as connection:
        refusal = dead_letters.discard(connection, letter_id, reason)
    if refusal:
        output.complain(refusal)
        fail()
    if as_json:
        output.emit({"id": letter_id, "state": "discarded"})
    else:
        output.tell(f"dead letter {letter_id} is discarded")
