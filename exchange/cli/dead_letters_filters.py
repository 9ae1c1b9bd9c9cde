"""The options by which people say which dead letters they mean, declared once for every command that takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from exchange.cli.batches import ChannelOption
from exchange.cli.runtime import Refused, moment, not_among, one_of, refuse_unknown, stem

if TYPE_CHECKING:
    from exchange.dead_letters.filters import Filters
    from exchange.site import Site

OF_CAUSES = ("state", "channel", "stream", "direction", "error", "fingerprint")
"""The options that letters of one cause have in common."""


def _option(help_: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=help_, show_default=False)
    return option


@dataclass(frozen=True)
class FilterOptions:
    """What a person said of the letters that are meant, as it was typed; ``read`` checks it."""

    state: Annotated[str | None, _option("Only in this state.")] = None
    channel: ChannelOption = None
    stream: Annotated[str | None, _option("Only of this stream.")] = None
    batch: Annotated[str | None, _option("Only of this batch.")] = None
    error: Annotated[str | None, _option("Only of this class of error.")] = None
    fingerprint: Annotated[str | None, _option("Only of this cause, as the grouped view names it.")] = None
    key: Annotated[str | None, _option("Only of this key: a JSON object, or the only value of a key.")] = None
    direction: Annotated[str | None, _option("Only in or out.")] = None
    since: Annotated[str | None, _option("Only parked since then: 2026-11-22T06:15 (UTC), or 90m, 3h, 2d ago.")] = None
    until: Annotated[str | None, _option("Only parked before then.")] = None
    text: Annotated[str | None, _option("Only with these words in the message.")] = None

    def read(self, site: Site, selection: str | None = None) -> Filters:
        """Check the options, and the name of a ``selection`` if only its letters are meant.

        Raises Refused for one that makes no sense.
        """
        from exchange.database.tables import DeadLetterState, Direction
        from exchange.dead_letters.filters import Filters, key_texts

        for name, value in (
            ("key", self.key),
            ("text", self.text),
            ("error", self.error),
            ("fingerprint", self.fingerprint),
            ("selection", selection),
        ):
            if value is not None and not value.strip("\0 "):
                raise Refused(f"{name}: expected something to look for, found nothing")
            if value is not None and "\0" in value:
                raise Refused(f"{name}: expected text, found the character U+0000 in it")
        streams = [self.stream] if self.stream else ()
        return Filters(
            state=one_of("state", self.state, DeadLetterState),
            channels=tuple(sorted(site.names_in_files(self.channel))) if self.channel is not None else (),
            stream=self.stream,
            direction=one_of("direction", self.direction, Direction),
            error=self.error,
            fingerprint=self.fingerprint,
            batch=stem(self.batch) if self.batch is not None else None,
            keys=key_texts(self.key, site.channels, streams) if self.key is not None else (),
            since=moment("since", self.since),
            until=moment("until", self.until),
            text=self.text,
            selection=selection,
        )

    def refuse_unknown_names(self, site: Site) -> None:
        """Refuse a channel, stream or class of error that there is not, where nothing was found: it is mistyped."""
        refuse_unknown(self.channel, site)
        known = sorted({stream.name for channel in site.channels for stream in channel.streams})
        if self.stream is not None and self.stream not in known:
            raise not_among("stream", self.stream, known)
        if self.error is not None:
            self._refuse_unknown_error(site, self.error)

    def _refuse_unknown_error(self, site: Site, error: str) -> None:
        from exchange.database.errors import transient_errors
        from exchange.database.locks import reading
        from exchange.dead_letters.advice import CLASSES
        from exchange.dead_letters.counts import errors_there

        if error in CLASSES:
            return
        with transient_errors(), reading(site.engine) as connection:
            there = errors_there(connection)
        if error not in there:
            raise not_among("error", error, there or CLASSES)


def takes_filters(*names: str, state: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command have the options of its parameter ``filters: FilterOptions`` in that parameter's place.

    ``names`` are those that it has, in this order; else all. ``state`` is what the option of this name is by default.
    """

    def declare(command: Callable[..., None]) -> Callable[..., None]:
        """Give a command that Typer reads the options from, and that calls the one given with them as one value."""
        hints = get_type_hints(FilterOptions, include_extras=True)
        if state is not None:
            hints["state"] = Annotated[str, typer.Option(help="In this state.")]
        options = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=state if name == "state" else None, annotation=hints[name])
            for name in names or [field.name for field in fields(FilterOptions)]
        ]
        parameters: list[Parameter] = []
        for own in signature(command, eval_str=True).parameters.values():
            parameters += options if own.name == "filters" else [own.replace(kind=Parameter.KEYWORD_ONLY)]

        @wraps(command)
        def run(**given: Any) -> None:
            filters = FilterOptions(**{option.name: given.pop(option.name) for option in options})
            command(filters=filters, **given)

        # Typer reads a command's options from both.
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return declare
