"""One dead letter: its record beside its row, why it is there, what a retry would do; acts on those that are named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from exchange.api import RefusedArgument
from exchange.channels.stream import HIDDEN
from exchange.database.tables import DeadLetterState, Direction
from exchange.dead_letters.show import View
from exchange.people.roles import Role
from exchange.results import Retried
from exchange.serve.console.dead_letters_rehearsals import SAMPLES, Outcomes
from exchange.serve.console.visit import Visit, act, look

MOST_IDS = 200
"""So many letters are named at most; more of them are selected."""
MOST_ID_DIGITS = 18
_ABSENT = object()


class Compared(NamedTuple):
    """A column, as text in the record and in the row; None where it is not there."""

    name: str
    record: str | None
    row: str | None
    differs: bool


def letter(visit: Visit) -> Response:
    """Show one."""
    return _shown(visit, _found(visit.exchange.dead_letters.show(_id(visit)), visit), revealed=False)


def reveal(visit: Visit) -> Response:
    """Show one with what is sensitive, to who may see that; it is in the audit."""
    found = visit.exchange.dead_letters.reveal(_id(visit), reason=visit.reason)
    return _shown(visit, _found(found, visit), revealed=True)


def _shown(visit: Visit, found: View, *, revealed: bool) -> Response:
    one = found.letter
    return visit.render(
        "dead_letter.html",
        found=found,
        letter=one,
        revealed=revealed,
        hides=not revealed and _hides(visit, found),
        columns=compared(found),
        mendable=one.state is DeadLetterState.PARKED
        and one.direction is Direction.IN
        and (one.intake is not None or any(channel.name == one.channel for channel in visit.exchange.site.incoming())),
        every=0,
    )


def _id(visit: Visit) -> int:
    return int(visit.request.path_params["id"])


def _found(found: View | None, visit: Visit) -> View:
    if found is None:
        raise RefusedArgument(f"there is no dead letter {_id(visit)}; the list shows those there are")
    return found


def _hides(visit: Visit, found: View) -> bool:
    """Say whether anything of a letter may be hidden."""
    return found.record is None or visit.exchange.dead_letters.hides(found.letter)


def compared(found: View) -> list[Compared]:
    """Give the columns of a letter's record beside those of its row; nothing where neither can be read."""
    record = _data(found.record) if found.letter.intake is None else found.cells
    row = found.row.data if found.row else None
    differing = {name for name, _, _ in found.differences}
    names = dict.fromkeys((*(row or ()), *(record or ())))
    return [
        Compared(
            name, _text(record, name), _text(row, name), name in differing or (record is None) is not (row is None)
        )
        for name in names
    ]


def _data(record: str | None) -> Mapping[str, Any] | None:
    try:
        value = json.loads(record) if record is not None else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    data = value.get("data", value.get("key"))
    return data if isinstance(data, dict) else None


def _text(of: Mapping[str, Any] | None, name: str) -> str | None:
    """Write a value as its record has it; None for one that is not there."""
    value = (of or {}).get(name, _ABSENT)
    if value is _ABSENT:
        return None
    return value if value == HIDDEN else json.dumps(value, ensure_ascii=False)


# Acts on those that are named


def _ids(values: Sequence[str]) -> list[int]:
    """Read the ids that are meant. Raises RefusedArgument for none, too many, or what is no id."""
    if not values:
        raise RefusedArgument("no dead letter is checked; nothing was done")
    if len(values) > MOST_IDS:
        raise RefusedArgument(
            f"{len(values)} dead letters are named, more than {MOST_IDS}: select them; nothing was done"
        )
    if not all(one.isascii() and one.isdecimal() and len(one) <= MOST_ID_DIGITS for one in values):
        raise RefusedArgument("expected the numbers of dead letters; nothing was done")
    return list(dict.fromkeys(int(one) for one in values))


def rehearse(visit: Visit) -> Response:
    """Lead to what a retry would do."""
    ids = _ids(visit.chosen.get("letter", []))
    return RedirectResponse("/dead-letters/rehearsal?" + urlencode([("letter", one) for one in ids]), 303)


def rehearsal(visit: Visit) -> Response:
    """Show what a retry of those that are named would do; nothing is changed."""
    ids = _ids(visit.request.query_params.getlist("letter"))
    outcomes = Outcomes()
    done = visit.exchange.dead_letters.retry(ids, rehearse=True)
    outcomes.add(done)
    changeable = [one.id for one in done if one.changed]
    return visit.render("dead_letters_rehearsal.html", ids=changeable, number=len(ids), kinds=outcomes.kinds, every=0)


def retry(visit: Visit) -> Response:
    """Try those that are named once more."""
    done = visit.exchange.dead_letters.retry(_ids(visit.chosen.get("letter", [])), reason=visit.reason)
    return visit.back(_words(done), "ok" if all(one.changed and not one.failed for one in done) else "warning")


def _words(done: Sequence[Retried]) -> str:
    """Say what became of letters: of one its sentence, of many how many of each outcome."""
    if len(done) == 1:
        return f"dead letter {done[0].id}: {done[0].message}"
    counted = Counter((str(one.state or "unknown"), one.changed) for one in done)
    said = [
        f"{number:,} {'stay parked' if state == DeadLetterState.PARKED else f'are {state}'}"
        if changed
        else f"{number:,} were {state} already and are left as they were"
        for (state, changed), number in counted.most_common()
    ]
    failed = [f"{one.id}: {one.message}" for one in done if one.failed][:SAMPLES]
    return "\n".join([f"of {len(done)} dead letters " + ", ".join(said), *failed])


def discard(visit: Visit) -> Response:
    """Give up those that are named."""
    ids = _ids(visit.chosen.get("letter", []))
    visit.exchange.dead_letters.discard(visit.required_reason, ids)
    return visit.back(_counted(ids, "discarded"))


def restore(visit: Visit) -> Response:
    """Take back those that are named."""
    ids = _ids(visit.chosen.get("letter", []))
    visit.exchange.dead_letters.restore(visit.required_reason, ids)
    return visit.back(_counted(ids, "parked again"))


def _counted(ids: Sequence[int], state: str) -> str:
    return f"dead letter {ids[0]} is {state}" if len(ids) == 1 else f"{len(ids)} dead letters are {state}"


ROUTES = (
    look("/dead-letters/rehearsal", rehearsal, least=Role.OPERATOR),
    look("/dead-letters/{id:int}", letter),
    act("/dead-letters/{id:int}/reveal", reveal, "reveal"),
    act("/dead-letters/rehearse", rehearse, "retry_dead_letter"),
    act("/dead-letters/retry", retry, "retry_dead_letter"),
    act("/dead-letters/discard", discard, "discard_dead_letter"),
    act("/dead-letters/restore", restore, "restore_dead_letter"),
)
