"""What needs a second person: what it concerns, how it is proposed, and how another one has it done.

A proposal holds what is to be done and how what it concerns was then. Confirmed, just that is done; if what it concerns
has changed, nothing is. What beat and other processes of ours do is never held.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from exchange.api.acts import Act, Asker, NeedsSecondPerson, RefusedArgument
from exchange.database import ledger, network, positions
from exchange.database.audit_log import audited
from exchange.database.engine import among, in_parts
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading
from exchange.database.tables import Direction, dead_letter, gap, is_missing, selected
from exchange.database.whoami import acting_for
from exchange.files.batch_files import parse_label
from exchange.format.as_dict import as_json
from exchange.format.errors import TransientError, Verdict, printable
from exchange.limits import Held, Limits
from exchange.people import proposals as store
from exchange.people.proposals import NotSecond, Proposal, State
from exchange.people.roles import Via

if TYPE_CHECKING:
    from exchange.api import Exchange
    from exchange.site import Site

Frozen = Mapping[str, Any]

_HELD = {
    "release_batch": Held.RELEASE,
    "release_quarantined": Held.RELEASE,
    "reject_batch": Held.REJECT,
    "discard_dead_letter": Held.DISCARD,
    "discard_quarantined": Held.DISCARD,
    "discard_pending": Held.DISCARD,
    "accept_gap": Held.ACCEPT_GAP,
    "let_in_versions": Held.LET_IN_VERSIONS,
    "new_epoch": Held.NEW_EPOCH,
    "adopt_epoch": Held.ADOPT_EPOCH,
    "refuse_epoch": Held.ADOPT_EPOCH,
    "trust_key": Held.TRUST_KEY,
}
"""By which word of EXCHANGE_FOUR_EYES each act is held."""


def needs_second(site: Site, limits: Limits, act: Act) -> bool:
    """Tell whether an act needs a second person; a few dead letters may be discarded by one. Raises TransientError."""
    kind = Held.RELEASE if act.action == "import" and act.arguments.get("release") else _HELD.get(act.action)
    if kind not in limits.four_eyes:
        return False
    return act.action != "discard_dead_letter" or _letters(site, act.arguments) > limits.four_eyes_discard_above


def hold(site: Site, act: Act, asker: Asker) -> None:
    """Write down what needs a second person, and raise NeedsSecondPerson; do nothing of what needs none.

    Raises RefusedArgument if there is no reason for the other one to read, Busy and TransientError.
    """
    if not needs_second(site, site.limits, act):
        return
    if not act.why:
        raise RefusedArgument("this needs a second person, who is to read why: give a reason; nothing was done")
    asked = {name: value for name, value in act.arguments.items() if value not in (None, False)}
    frozen = {**asked, **act.frozen}
    facts = concerned(site, act.action, frozen)
    if any(name in facts and not facts[name] for name in _THERE):
        raise RefusedArgument("there is nothing here that it is about; nothing was proposed")
    values = {
        "action": act.action,
        "arguments": asked,
        "frozen": frozen,
        "facts": facts,
        "who": printable(asker.names[0], 100),
        "also": [printable(one, 100) for one in (asker.who, *asker.names[1:]) if one != asker.names[0]],
        "origin": printable(asker.origin, 255),
        "why": act.why,
    }
    written = {"act": act.action, **asked}
    with audited(site.engine, "propose", written, who=asker.who, origin=asker.origin, why=act.why) as done:
        made = store.propose(site.engine, values, site.limits.four_eyes_hours)
        done.came_to({"proposal": made.id})
    raise NeedsSecondPerson(made)


class Proposals:
    """What one person proposed and another one is to confirm."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(self, *, ended: bool = False, limit: int = 50) -> list[Proposal]:
        """Give what waits, or with ``ended`` what did before, too, newest first."""
        return store.list_proposals(self._exchange.engine, ended=ended, limit=limit)

    def find(self, number: int) -> Proposal:
        """Give one by its number. Raises TransientError if there is none."""
        return store.find_proposal(self._exchange.engine, number)

    def confirm(self, number: int, *, who: str | None = None, reason: str | None = None) -> Proposal:
        """Have what somebody else proposed be done, just as it was proposed; its ``result`` says what came of it.

        Raises RefusedArgument if whoever asks is no second person, nobody waits for it any more, or what it concerns
        has changed since; Forbidden; and Busy and TransientError, and then it goes on to wait.
        """
        site, asker, found = self._exchange.site, self._exchange.asker(who), self.find(number)
        asker.refuse(found.action, found.arguments)
        asked = {"proposal": number, "act": found.action}
        with self._exchange.act(site, "confirm_proposal", asked, who, reason) as act:
            if asker.person is not None and asker.person.via is Via.TOKEN:
                raise RefusedArgument("a token is no person: somebody who signs in confirms it; nothing was done")
            try:
                taken = store.take(site.engine, number, asker.who, asker.names)
            except NotSecond as error:
                raise RefusedArgument(f"{error}; nothing was done") from error
            result = self._carry_out(site, asker, taken)
            act.came_to(result)
        return self.find(number)

    def _carry_out(self, site: Site, asker: Asker, taken: Proposal) -> dict[str, Any]:
        """Do it, and write down what came of it; what could not be done for now goes on to wait."""
        try:
            _refuse_changed(taken, concerned(site, taken.action, taken.frozen))
            result = as_json(_DO[taken.action](self._exchange.on_behalf(_Confirmed(taken, asker)), taken))
            _refuse_busy(result)
        except (Busy, TransientError):
            store.give_back(site.engine, taken.id)
            raise
        except BaseException as error:
            failed = {"failed": printable(str(error).strip() or type(error).__name__, 2000)}
            store.close(site.engine, taken.id, State.FAILED, asker.who, failed)
            raise
        store.close(site.engine, taken.id, State.CONFIRMED, asker.who, result)
        return dict(result)

    def withdraw(self, number: int, *, who: str | None = None, reason: str | None = None) -> Proposal:
        """Take back what waits; whoever may propose it may. Raises RefusedArgument, Forbidden, Busy, TransientError."""
        site, asker, found = self._exchange.site, self._exchange.asker(who), self.find(number)
        asker.refuse(found.action, found.arguments)
        asked = {"proposal": number, "act": found.action}
        with self._exchange.act(site, "withdraw_proposal", asked, who, reason) as act:
            try:
                done = store.withdraw(site.engine, number, asker.who)
            except NotSecond as error:
                raise RefusedArgument(f"{error}; nothing was done") from error
            act.came_to({"state": done.state.value})
        return done


def _refuse_changed(taken: Proposal, now: Frozen) -> None:
    if now != taken.facts:
        said = ", ".join(_difference(taken.facts, now))
        raise RefusedArgument(
            f"what proposal {taken.id} is about has changed since: {said}; nothing was done; propose it anew"
        )


def _refuse_busy(result: Mapping[str, Any]) -> None:
    if result.get("verdict") == Verdict.BUSY:
        raise TransientError(f"{result.get('message') or 'somebody is at work on it'}; it goes on to wait")


class _Confirmed:
    """Does what was proposed in the name of whoever confirmed it: the audit has both."""

    def __init__(self, proposal: Proposal, asker: Asker) -> None:
        self._proposal, self._asker = proposal, asker

    @contextmanager
    def __call__(self, site: Site, act: Act) -> Iterator[Any]:
        if act.action != self._proposal.action:
            raise RefusedArgument(f"proposal {self._proposal.id} is not of {act.action}; nothing was done")
        both = {**act.arguments, "proposal": self._proposal.id, "proposed_by": self._proposal.who}
        asker, why = self._asker, self._proposal.why
        with (
            acting_for(asker.who) if asker.is_named else nullcontext(),
            audited(site.engine, act.action, both, who=asker.who, origin=asker.origin, why=why) as written,
        ):
            yield written


# How what is concerned is now


def concerned(site: Site, action: str, frozen: Frozen) -> dict[str, Any]:
    """Give how what an act concerns is now: the same at its proposal and its confirmation, or it has changed.

    Reads in transactions of its own. Raises TransientError.
    """
    with transient_errors(), reading(site.engine) as connection:
        return json.loads(json.dumps(_FACTS[action](site, connection, frozen), sort_keys=True, default=str))  # type: ignore[no-any-return]


def _batch(_site: Site, connection: sa.Connection, frozen: Frozen) -> dict[str, Any]:
    name, _copy = parse_label(str(frozen["batch"]))
    rows = [one for one in ledger.of_stem(connection, str(name)) if one.direction is Direction.IN]
    return {
        "ledger": [
            f"{one.id} {one.state}{f' ({one.reason})' if one.reason else ''} {one.digest or ''}".strip() for one in rows
        ]
    }


def _dead_letters(_site: Site, connection: sa.Connection, frozen: Frozen) -> dict[str, Any]:
    letter = dead_letter.c
    columns = (letter.id, letter.state, letter.revision, letter.attempts, letter.seen)
    digest, number = hashlib.sha256(), 0
    if frozen.get("selection"):
        query = sa.select(*columns).join(selected, selected.c.letter == letter.id)
        queries = [query.where(selected.c.selection == frozen["selection"])]
    else:
        queries = [sa.select(*columns).where(among(connection, letter.id, some)) for some in in_parts(frozen["ids"])]
    for query in queries:
        for row in connection.execute(query.order_by(letter.id)):
            digest.update(f"{tuple(row)}\n".encode())
            number += 1
    return {"dead_letters": number, "digest": digest.hexdigest()}


def _letters(site: Site, arguments: Frozen) -> int:
    if not arguments.get("selection"):
        return len(set(arguments.get("ids") or ()))
    with transient_errors(), reading(site.engine) as connection:
        asked = sa.select(sa.func.count()).select_from(selected).where(selected.c.selection == arguments["selection"])
        return int(connection.scalar(asked) or 0)


def _gap(_site: Site, connection: sa.Connection, frozen: Frozen) -> dict[str, Any]:
    first = frozen["sequence"]
    there = (gap.c.channel == frozen["channel"], gap.c.sequence.between(first, frozen.get("through") or first))
    missing = sa.select(gap.c.epoch, sa.func.count(), sa.func.min(gap.c.sequence), sa.func.max(gap.c.sequence))
    rows = connection.execute(missing.where(is_missing(gap), *there).group_by(gap.c.epoch).order_by(gap.c.epoch))
    return {"missing": [f"{count} of {epoch}, {low} to {high}" for epoch, count, low, high in rows]}


def _versions(_site: Site, connection: sa.Connection, frozen: Frozen) -> dict[str, Any]:
    at = positions.current_position(connection, Direction.IN, frozen["channel"])
    return {"epoch": at and at.epoch}


def _own_epoch(site: Site, connection: sa.Connection, _frozen: Frozen) -> dict[str, Any]:
    return {"epoch": network.known_epoch(connection, site.network), "halted": network.halted(connection)}


def _their_epoch(_site: Site, connection: sa.Connection, frozen: Frozen) -> dict[str, Any]:
    from exchange.link.epoch_adoption import list_undecided

    found = next((one for one in list_undecided(connection) if one.epoch == frozen["epoch"]), None)
    return {"present": list(found.present) if found else None, "channels": list(found.channels) if found else None}


def _pending(_site: Site, connection: sa.Connection, frozen: Frozen) -> dict[str, Any]:
    from exchange.tables import capture

    return {"changes": capture.count_of(connection, frozen["stream"])}


def _key(site: Site, _connection: sa.Connection, frozen: Frozen) -> dict[str, Any]:
    from exchange.files import keys

    folder = site.spool.folders.home / "keys"
    known = next((one for one in keys.listed(folder) if one.trusted and one.name == frozen["name"]), None)
    return {"trusted": f"{known.fingerprint} {known.terms}".strip() if known else None}


_FACTS: dict[str, Callable[[Site, sa.Connection, Frozen], dict[str, Any]]] = {
    **dict.fromkeys(("import", "release_batch", "release_quarantined", "reject_batch", "discard_quarantined"), _batch),
    "discard_dead_letter": _dead_letters,
    "discard_pending": _pending,
    "accept_gap": _gap,
    "let_in_versions": _versions,
    "new_epoch": _own_epoch,
    "adopt_epoch": _their_epoch,
    "refuse_epoch": _their_epoch,
    "trust_key": _key,
}


_THERE = ("ledger", "dead_letters", "missing", "channels", "changes")
"""What has to be there for an act to be about anything."""


def _difference(before: Frozen, now: Frozen) -> Iterator[str]:
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            yield f"{name} was {printable(str(before.get(name)), 200)}, and is {printable(str(now.get(name)), 200)}"


# How it is done


def _import(exchange: Exchange, taken: Proposal) -> Any:
    return exchange.import_batches(
        taken.frozen.get("channel"), batch=taken.frozen.get("batch"), release=True, reason=taken.why
    )


def _discard(exchange: Exchange, taken: Proposal) -> Any:
    asked = taken.frozen
    number = exchange.dead_letters.discard(
        taken.why,
        asked.get("ids") or (),
        selection=asked.get("selection"),
        skip_changed=bool(asked.get("skip_changed")),
    )
    return {"discarded": number}


def _release(exchange: Exchange, taken: Proposal) -> Any:
    return exchange.batches.release(taken.frozen["batch"], park=bool(taken.frozen.get("park")), reason=taken.why)


def _accept(exchange: Exchange, taken: Proposal) -> Any:
    asked = taken.frozen
    through, snapshot = asked.get("through"), not asked.get("no_snapshot")
    return exchange.gaps.accept(asked["channel"], asked["sequence"], taken.why, through=through, snapshot=snapshot)


def _trust(exchange: Exchange, taken: Proposal) -> Any:
    from exchange.files import keys
    from exchange.format.key_terms import Terms

    asked = taken.frozen
    wanted, terms = keys.candidate_of(asked["pem"].encode(), asked["name"]), asked.get("terms")
    limits = Terms.parse(terms.encode()) if terms else None
    kept = exchange.keys.trust(wanted, asked["fingerprint"], limits, reason=taken.why)
    return {"trusted": kept.name, "fingerprint": kept.fingerprint}


_DO: dict[str, Callable[[Exchange, Proposal], Any]] = {
    "import": _import,
    "release_batch": _release,
    "release_quarantined": lambda exchange, taken: exchange.quarantine.release(taken.frozen["batch"], reason=taken.why),
    "reject_batch": lambda exchange, taken: exchange.batches.reject(taken.frozen["batch"], taken.why),
    "discard_dead_letter": _discard,
    "discard_quarantined": lambda exchange, taken: exchange.quarantine.discard(taken.frozen["batch"], taken.why),
    "discard_pending": lambda exchange, taken: exchange.pending.discard(taken.frozen["stream"], taken.why),
    "accept_gap": _accept,
    "let_in_versions": lambda exchange, taken: exchange.versions.let_in(
        taken.frozen["channel"], taken.frozen["version"], taken.why
    ),
    "new_epoch": lambda exchange, taken: exchange.epochs.new(taken.why, taken.frozen.get("continues")),
    "adopt_epoch": lambda exchange, taken: exchange.epochs.adopt(taken.frozen["epoch"], taken.why),
    "refuse_epoch": lambda exchange, taken: exchange.epochs.refuse(taken.frozen["epoch"], taken.why),
    "trust_key": _trust,
}
