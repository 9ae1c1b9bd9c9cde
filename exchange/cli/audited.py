"""What every command that changes something has in common: who asks, why, and a row in the audit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.cli import output
from exchange.cli.runtime import Refused, settings
from exchange.format.errors import printable

if TYPE_CHECKING:
    from exchange.api import Exchange
    from exchange.api.acts import Act as Asked
    from exchange.api.acts import Asker
    from exchange.database.audit_log import Act
    from exchange.site import Site

As = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", help="Who asks, for the audit; else the operating system's user.", show_default=False
    ),
]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for the audit.", show_default=False)]


class _ByHand:
    """A person asks on the command line: by ``--as`` for the audit, and for all else by who is logged in."""

    def asker(self, who: str | None) -> Asker:
        """Say who asks: a second person is told by the name of the login, whatever ``--as`` says."""
        from exchange.api.acts import Asker
        from exchange.database.whoami import login_user, user, whoami

        origin = f"command line, {whoami()}"
        if "SUDO_USER" in os.environ:
            origin += f", sudo by {os.environ['SUDO_USER']}"
        return Asker(who or user(), origin, (login_user(),), is_named=who is not None)

    def __call__(self, site: Site, asked: Asked) -> AbstractContextManager[Act]:
        """Do it. Raises as ``by_hand`` does."""
        return by_hand(site, asked.action, asked.arguments, who=asked.who, why=asked.why, frozen=asked.frozen)


@contextmanager
def open_exchange() -> Iterator[Exchange]:
    """Open this side for commands; what one does is done by hand, in the name of its ``--as`` and ``--reason``.

    Raises SettingsFaults.
    """
    from exchange.api import Exchange
    from exchange.cli.at_work import at_work

    current = settings()
    with at_work(current), Exchange(current, acting=_ByHand()) as exchange:
        yield exchange


@contextmanager
def by_hand(
    site: Site,
    action: str,
    arguments: Mapping[str, Any],
    *,
    who: str | None = None,
    why: str | None = None,
    frozen: Mapping[str, Any] | None = None,
) -> Iterator[Act]:
    """Do what a person asked for on the command line, with a row in the audit; the block is the work.

    ``action`` and ``arguments`` are named as the task that does the same names them, ``frozen`` is as an Act has it.
    ``who`` comes from ``--as``, ``why`` from ``--reason``. Raises Refused, NeedsSecondPerson, Busy and TransientError:
    then nothing was done.
    """
    from exchange.api.acts import Act as Asked
    from exchange.api.acts import carried_out

    _check(who, why)
    act = None
    try:
        with carried_out(site, Asked(action, arguments, who, why, frozen or {}), _ByHand().asker(who)) as act:
            yield act
    finally:
        if act is not None and act.trouble:
            output.warn(act.trouble)


def _check(who: str | None, why: str | None) -> None:
    from exchange.database.audit_log import MAX_NAME_CHARACTERS, MAX_REASON_CHARACTERS

    for option, text, most in (("--as", who, MAX_NAME_CHARACTERS), ("--reason", why, MAX_REASON_CHARACTERS)):
        if text is not None and not (text.strip() and text.isprintable() and len(text) <= most):
            shown = printable(repr(text), 80)
            raise Refused(f"{option}: expected 1 to {most} printable characters, found {shown}; nothing was done")
