"""The options by which people say which dead letters they mean, declared once for every command that takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from exchange.cli.batches import ChannelOption

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
    intake: Annotated[str | None, _option("Only rows of this file that people dropped, by its number.")] = None

    def read(self, site: Site, selection: str | None = None) -> Filters:
        """Check the options, and the name of a ``selection`` if only its letters are meant.

        Raises RefusedArgument for one that makes no sense.
        """
        from exchange.api.letter_filters import read_filters

        return read_filters(site, {**vars(self), "selection": selection})

    def refuse_unknown_names(self, site: Site) -> None:
        """Refuse a channel, stream or class of error that there is not, where nothing was found: it is mistyped."""
        from exchange.api.letter_filters import refuse_unknown_names
        from exchange.database.errors import transient_errors
        from exchange.database.locks import reading

        with transient_errors(), reading(site.engine) as connection:
            refuse_unknown_names(site, connection, vars(self))


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
