"""How a command begins and how it ends: settings and site opened, what went wrong said in one sentence.

Exit codes: 0 done, 1 failed, 2 a wrong argument or setting; of `exchange doctor` and
`exchange check` 3, if there are only warnings; 4 if it was proposed, and waits for a second
person; `exchange health` has those of Nagios. Only a fault of our own shows a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer
from typer.core import TyperGroup

from exchange.cli.output import print_error
from exchange.format.errors import TransientError, of_system, printable
from exchange.format.moments import length_typed
from exchange.format.names import BatchName

if TYPE_CHECKING:
    from datetime import datetime

    from exchange.channels.channel import Channel
    from exchange.settings import Settings
    from exchange.site import Site

FAILED = 1
USAGE = 2
WARNED = 3
PROPOSED = 4

Choice = TypeVar("Choice", bound=StrEnum)


class Refused(Exception):  # noqa: N818 - an answer to a person
    """An argument makes no sense here; the text is one sentence."""


class Commands(TyperGroup):
    """The commands. Whatever a person can mend is said in a sentence a line, with the exit code for it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise
        except Exception as error:
            sentences, code = explained(error)
            if not sentences:
                raise
            for sentence in sentences:
                print_error(sentence)
            raise typer.Exit(code) from error


def explained(error: Exception) -> tuple[list[str], int]:
    """Word what went wrong, with the exit code for it; no words for a fault of our own."""
    match error:
        case Refused():
            return [str(error)], USAGE
        case TransientError():
            return [str(error)], FAILED
        case OSError():
            return [of_system(error)], FAILED
    # Only now: of these no command's start may wait for the modules.
    from exchange.api.acts import NeedsSecondPerson, RefusedArgument
    from exchange.channels.channel import ChannelFaults
    from exchange.database.locks import Busy
    from exchange.files.keys import KeyFault
    from exchange.operating.broker import BrokerFault
    from exchange.settings import SettingsFaults

    match error:
        case SettingsFaults() | ChannelFaults() | RefusedArgument():
            return list(getattr(error, "faults", [str(error)])), USAGE
        case KeyFault() | Busy() | BrokerFault() | NeedsSecondPerson():
            return [str(error)], PROPOSED if isinstance(error, NeedsSecondPerson) else FAILED
    return _of_a_database(error), FAILED


def _of_a_database(error: Exception) -> list[str]:
    """Word what a database refused, whatever its driver calls that: in one sentence, with where we asked for it."""
    from sqlalchemy.exc import DBAPIError, PendingRollbackError

    from exchange.database.batch_fault import Crashed
    from exchange.database.errors import first_line

    if not isinstance(error, DBAPIError | PendingRollbackError):
        return []
    return [f"the database refused it: {first_line(error)} ({Crashed.of(error)}); what was not committed is undone"]


def fail(code: int = FAILED) -> NoReturn:
    """End the command with an exit code; why has been said."""
    raise typer.Exit(code)


def settings() -> Settings:
    """Read the settings. Raises SettingsFaults."""
    from exchange.settings import load_settings

    return load_settings()


@contextmanager
def open_site(*, distrusting: str | None = None) -> Iterator[Site]:
    """Open this side: settings, channels, keys, and a database that is this network's.

    ``distrusting`` leaves out a trusted key by its name, whatever is wrong with its file.
    Raises SettingsFaults, and TransientError if the database is away, not made yet or somebody else's.
    """
    from exchange.api import refuse_unready
    from exchange.operating.assemble import assemble

    site = assemble(settings(), distrusting=distrusting)
    try:
        refuse_unready(site)
        yield site
    finally:
        site.engine.dispose()


def known_channel(name: str | None, channels: Iterable[Channel], way: str) -> str | None:
    """Check the name of a channel; None means all. Raises Refused naming those there are."""
    from exchange.api.acts import RefusedArgument
    from exchange.api.arguments import check_channel

    try:
        return check_channel(name, channels, way)
    except RefusedArgument as error:
        raise Refused(str(error)) from error


def stem(text: str) -> str:
    """Check a batch's stem. Raises Refused."""
    try:
        return str(BatchName.parse(text))
    except ValueError as error:
        raise Refused(f"batch: {error}") from error


def label(text: str) -> str:
    """Check the name under which a batch lies in quarantine. Raises Refused."""
    from exchange.files.batch_files import parse_label

    try:
        parse_label(text)
    except ValueError as error:
        raise Refused(f"batch: {error}") from error
    return text


def one_of(what: str, text: str | None, kind: type[Choice]) -> Choice | None:
    """Check a word; None means any. Raises RefusedArgument naming the words there are."""
    from exchange.api import asked

    return asked.one_of(what, text, kind)


def moment(what: str, text: str | None) -> datetime | None:
    """Read a moment: a date, a date and time (UTC unless it says otherwise), or so long ago. Raises RefusedArgument."""
    from exchange.api import asked

    return asked.moment(what, text)


def length(what: str, text: str) -> timedelta:
    """Read a length of time. Raises Refused."""
    try:
        return length_typed(text)
    except ValueError as error:
        raise Refused(f"{what}: expected {error}, found {printable(repr(text), 80)}") from None


def refuse_unknown(channel: str | None, site: Site) -> None:
    """Refuse a channel that is not declared, where nothing was found under its name: it is mistyped."""
    from exchange.api.asked import not_among
    from exchange.channels.channel import known_names
    from exchange.format.names import CONTROL

    known = known_names([*site.outgoing(), *site.incoming()])
    if channel is not None and channel not in {*known, CONTROL}:
        raise not_among("channel", channel, known)
