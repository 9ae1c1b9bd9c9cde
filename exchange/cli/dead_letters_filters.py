"""The options by which people say which dead letters they mean; the same for every command that takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli.batches import ChannelOption
from exchange.cli.runtime import Refused, moment, one_of, refuse_unknown, stem
from exchange.format.errors import printable

if TYPE_CHECKING:
    from exchange.dead_letters import Filters
    from exchange.site import Site

__all__ = [
    "BatchOption",
    "ChannelOption",
    "DirectionOption",
    "ErrorOption",
    "FingerprintOption",
    "KeyOption",
    "SinceOption",
    "StateOption",
    "StreamOption",
    "TextOption",
    "UntilOption",
    "read_filters",
    "refuse_unknown_names",
]


def _option(help_: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=help_, show_default=False)
    return option


StreamOption = Annotated[str | None, _option("Only of this stream.")]
BatchOption = Annotated[str | None, _option("Only of this batch.")]
ErrorOption = Annotated[str | None, _option("Only of this class of error.")]
FingerprintOption = Annotated[str | None, _option("Only of this cause, as the grouped view names it.")]
KeyOption = Annotated[str | None, _option("Only of this key: a JSON object, or the only value of a key.")]
DirectionOption = Annotated[str | None, _option("Only in or out.")]
StateOption = Annotated[str | None, _option("Only in this state.")]
SinceOption = Annotated[str | None, _option("Only parked since then: 2026-11-22T06:15 (UTC), or 90m, 3h, 2d ago.")]
UntilOption = Annotated[str | None, _option("Only parked before then.")]
TextOption = Annotated[str | None, _option("Only with these words in the message.")]


def read_filters(
    site: Site,
    *,
    state: str | None = None,
    channel: str | None = None,
    stream: str | None = None,
    direction: str | None = None,
    error: str | None = None,
    fingerprint: str | None = None,
    batch: str | None = None,
    key: str | None = None,
    since: str | None = None,
    until: str | None = None,
    text: str | None = None,
    selection: str | None = None,
) -> Filters:
    """Check the options. Raises Refused for one that makes no sense."""
    from exchange.database.tables import DeadLetterState, Direction
    from exchange.dead_letters import Filters, key_texts

    for name, value in (
        ("key", key),
        ("text", text),
        ("error", error),
        ("fingerprint", fingerprint),
        ("selection", selection),
    ):
        if value is not None and not value.strip("\0 "):
            raise Refused(f"{name}: expected something to look for, found nothing")
        if value is not None and "\0" in value:
            raise Refused(f"{name}: expected text, found the character U+0000 in it")
    return Filters(
        state=one_of("state", state, DeadLetterState),
        channels=tuple(sorted(site.names_in_files(channel))) if channel is not None else (),
        stream=stream,
        direction=one_of("direction", direction, Direction),
        error=error,
        fingerprint=fingerprint,
        batch=stem(batch) if batch is not None else None,
        keys=key_texts(key, site.channels, [stream] if stream else ()) if key is not None else (),
        since=moment("since", since),
        until=moment("until", until),
        text=text,
        selection=selection,
    )


def refuse_unknown_names(site: Site, channel: str | None, stream: str | None) -> None:
    """Refuse a channel or stream that is not declared, where nothing was found under its name: it is mistyped."""
    refuse_unknown(channel, site)
    known = sorted({stream.name for channel in site.channels for stream in channel.streams})
    if stream is not None and stream not in known:
        raise Refused(f"stream: expected one of {', '.join(known)}, found {printable(stream, 80)}")
