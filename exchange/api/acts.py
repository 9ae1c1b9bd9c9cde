"""Who asks for what is done, and what the audit has of it: one way for every door.

Here alone it is asked whether somebody may do it, and whether it needs a second person.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from exchange.format.errors import printable

if TYPE_CHECKING:
    from exchange.database.audit_log import Act as Written
    from exchange.people.proposals import Proposal
    from exchange.people.roles import Person
    from exchange.site import Site

ON_ITS_OWN = frozenset({"export", "import"})
"""What a program does as beat does: it is in the audit if somebody is named or gives a reason."""


def never() -> bool:
    """Go on: nobody asked to stop."""
    return False


class RefusedArgument(ValueError):  # noqa: N818 - an answer to whoever calls
    """An argument makes no sense here; the text is one sentence, and nothing was done."""


class NeedsSecondPerson(Exception):  # noqa: N818 - an answer to whoever asked
    """It was proposed, and nothing else was done: another person confirms it."""

    def __init__(self, proposal: Proposal) -> None:
        self.proposal = proposal
        super().__init__(
            f"this needs a second person: proposed as number {proposal.id}; another person confirms it by"
            f" `exchange proposals confirm {proposal.id}`"
        )

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {"verdict": "proposed", "proposal": self.proposal.id, "message": str(self)}


class Done(Protocol):
    """What a piece of work tells what came of it."""

    def came_to(self, result: Mapping[str, Any]) -> None:
        """Say what came of it."""
        ...


@dataclass(frozen=True)
class Act:
    """What is asked for, under the names that the task of the same work has for it.

    ``frozen`` is what a confirmation needs beside the arguments, such as a key's bytes; the audit has none of it.
    """

    action: str
    arguments: Mapping[str, Any]
    who: str | None
    why: str | None
    frozen: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asker:
    """Whoever asks: as the audit names them, from where, and by which names they are one person.

    ``person`` is there where the door tells roles apart: a program and a shell may do everything.
    """

    who: str
    origin: str
    names: tuple[str, ...]
    person: Person | None = None
    is_named: bool = True
    """Whether locks and events are to name them beside the process."""

    def refuse(self, action: str, arguments: Mapping[str, Any]) -> None:
        """See that they may do it. Raises Forbidden."""
        if self.person is not None:
            from exchange.people.roles import refuse

            refuse(self.person, action, arguments)


Acting = Callable[["Site", Act], AbstractContextManager[Done]]
"""Does a piece of work, which is the block, in somebody's name."""


@runtime_checkable
class Door(Protocol):
    """Such a one that knows who asks."""

    def asker(self, who: str | None) -> Asker:
        """Say who asks, if they are named so."""
        ...


class _Unwritten:
    def came_to(self, result: Mapping[str, Any]) -> None:
        """Have it be the caller's affair."""


def left_to_the_caller(_site: Site, _act: Act) -> AbstractContextManager[Done]:
    """Write nothing down: whoever calls did, or nobody asked by hand."""
    return nullcontext(_Unwritten())


@contextmanager
def carried_out(site: Site, act: Act, asker: Asker, *, call: str | None = None) -> Iterator[Written]:
    """Do what somebody asks for, which is the block, with a row in the audit, unless a second person is needed.

    Raises Forbidden and NeedsSecondPerson, and what ``audited`` does: then nothing was done.
    """
    from exchange.database.audit_log import audited
    from exchange.database.whoami import acting_for

    asker.refuse(act.action, act.arguments)
    if site.limits.four_eyes:
        from exchange.api.second_person import hold

        hold(site, act, asker)
    with (
        acting_for(asker.who) if asker.is_named else nullcontext(),
        audited(
            site.engine, act.action, act.arguments, who=asker.who, origin=asker.origin, why=act.why, call=call
        ) as act_,
    ):
        yield act_


class _ByProgram:
    """A program asks, as whoever it says, or as the operating system's user."""

    def asker(self, who: str | None) -> Asker:
        """Believe the program."""
        from exchange.database.whoami import user, whoami

        return Asker(who or user(), f"program, {whoami()}", (who or user(),), is_named=who is not None)

    @contextmanager
    def __call__(self, site: Site, act: Act) -> Iterator[Done]:
        """Do what a program asks for, with a row in the audit unless it is what beat does and nobody is named.

        Raises RefusedArgument, NeedsSecondPerson, Busy and TransientError: then nothing was done.
        """
        check_asker(act.who, act.why)
        if act.action in ON_ITS_OWN and act.who is None and act.why is None and not act.arguments.get("release"):
            yield _Unwritten()
            return
        written = None
        try:
            with carried_out(site, act, self.asker(act.who)) as written:
                yield written
        finally:
            if written is not None and written.trouble:
                logging.getLogger("exchange").warning(written.trouble)


by_program = _ByProgram()


def check_asker(who: str | None, why: str | None) -> None:
    """Check who is named, and the reason. Raises RefusedArgument."""
    from exchange.database.audit_log import MAX_NAME_CHARACTERS, MAX_REASON_CHARACTERS

    for name, text, most in (("who", who, MAX_NAME_CHARACTERS), ("reason", why, MAX_REASON_CHARACTERS)):
        check_words(name, text, most)


class ByPerson:
    """A person asks, whom a door has recognised: with the role of that person."""

    def __init__(self, person: Person, door: str) -> None:
        """Take the person, and what the audit calls the door."""
        self._asker = Asker(
            person.name,
            f"{door}, {person.via}, {person.address}",
            tuple(one for one in (person.name, person.behind) if one),
            person,
        )

    def asker(self, who: str | None) -> Asker:  # noqa: ARG002 - nobody here asks as somebody else
        """Give the person, whatever name is given."""
        return self._asker

    @contextmanager
    def __call__(self, site: Site, act: Act) -> Iterator[Done]:
        """Do what the person asks for. Raises Forbidden, RefusedArgument, NeedsSecondPerson, Busy, TransientError."""
        check_asker(None, act.why)
        with carried_out(site, act, self._asker) as written:
            yield written


def check_words(name: str, text: str | None, most: int) -> None:
    """Check a text for people, of at most so many characters, or None. Raises RefusedArgument."""
    if text is not None and not (text.strip() and text.isprintable() and len(text) <= most):
        shown = printable(repr(text), 80)
        raise RefusedArgument(f"{name}: expected 1 to {most} printable characters, found {shown}; nothing was done")
