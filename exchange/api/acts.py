"""Who asks for what is done, and what the audit has of it: one way for programs, one that leaves it to the caller."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from exchange.format.errors import printable

if TYPE_CHECKING:
    from exchange.site import Site

ON_ITS_OWN = frozenset({"export", "import"})
"""What a program does as beat does: it is in the audit if somebody is named or gives a reason."""


class RefusedArgument(ValueError):  # noqa: N818 - an answer to whoever calls
    """An argument makes no sense here; the text is one sentence, and nothing was done."""


class Done(Protocol):
    """What a piece of work tells what came of it."""

    def came_to(self, result: Mapping[str, Any]) -> None:
        """Say what came of it."""
        ...


@dataclass(frozen=True)
class Act:
    """What is asked for, under the names that the task of the same work has for it."""

    action: str
    arguments: Mapping[str, Any]
    who: str | None
    why: str | None


Acting = Callable[["Site", Act], AbstractContextManager[Done]]
"""Does a piece of work, which is the block, in somebody's name."""


class _Unwritten:
    def came_to(self, result: Mapping[str, Any]) -> None:
        """Have it be the caller's affair."""


def left_to_the_caller(_site: Site, _act: Act) -> AbstractContextManager[Done]:
    """Write nothing down: whoever calls did, or nobody asked by hand."""
    return nullcontext(_Unwritten())


@contextmanager
def by_program(site: Site, act: Act) -> Iterator[Done]:
    """Do what a program asks for, with a row in the audit unless it is what beat does and nobody is named.

    Raises RefusedArgument, Busy and TransientError: then nothing was done.
    """
    from exchange.database.audit_log import MAX_NAME_CHARACTERS, MAX_REASON_CHARACTERS, audited
    from exchange.database.whoami import acting_for, user, whoami

    for name, text, most in (("who", act.who, MAX_NAME_CHARACTERS), ("reason", act.why, MAX_REASON_CHARACTERS)):
        check_words(name, text, most)
    if act.action in ON_ITS_OWN and act.who is None and act.why is None:
        yield _Unwritten()
        return
    written = None
    try:
        with (
            acting_for(act.who) if act.who else nullcontext(),
            audited(
                site.engine,
                act.action,
                act.arguments,
                who=act.who or user(),
                origin=f"program, {whoami()}",
                why=act.why,
            ) as written,
        ):
            yield written
    finally:
        if written is not None and written.trouble:
            logging.getLogger("exchange").warning(written.trouble)


def check_words(name: str, text: str | None, most: int) -> None:
    """Check a text for people, of at most so many characters, or None. Raises RefusedArgument."""
    if text is not None and not (text.strip() and text.isprintable() and len(text) <= most):
        shown = printable(repr(text), 80)
        raise RefusedArgument(f"{name}: expected 1 to {most} printable characters, found {shown}; nothing was done")
