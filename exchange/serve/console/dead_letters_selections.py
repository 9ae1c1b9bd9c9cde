"""Selections: letters frozen under a name, tried a few first and then all, given up, taken back, written out."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from exchange.api import RefusedArgument
from exchange.api.dead_letters import Pace
from exchange.api.letter_filters import NAMES
from exchange.database import clock
from exchange.database.tables import DeadLetterState, RetryState
from exchange.dead_letters.background import BackgroundRetry
from exchange.dead_letters.file import FileFault
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.schedule import MOST_TRIES
from exchange.operating.doctor.finding import Alarm, Finding, Level
from exchange.people.roles import Forbidden
from exchange.serve.console.dead_letters import ANY
from exchange.serve.console.dead_letters_rehearsals import Outcomes
from exchange.serve.console.visit import Visit, act, look

MOST_LISTED = 50
SAMPLES = 5
MOST_CANARY = 500
"""So many letters at most are tried while a page waits."""
MOST_PACE = 1_000_000
LEAST_RATE = 0.01
_GOES_ON = {Alarm.BEAT, Alarm.WORKER, Alarm.BROKER}
"""What is not well when nobody goes on with a retry; a broker that never ran is no alarm, but nobody does either."""
_OPEN = {RetryState.RUNNING, RetryState.PAUSED}


# To look at


def listed(visit: Visit) -> Response:
    """List selections, newest first."""
    letters = visit.exchange.dead_letters
    found = letters.newest_selections(MOST_LISTED)
    running = {one.selection: one for one in letters.retries(limit=MOST_LISTED) if one.state in _OPEN}
    return visit.render("dead_letters_selections.html", found=found, running=running, most=MOST_LISTED, every=5)


def selection(visit: Visit) -> Response:
    """Show one: what is in it, what became of it, and the next step."""
    letters, name = visit.exchange.dead_letters, _name(visit)
    found = letters.look_at_selection(name, SAMPLES)
    retries = letters.retries(name, limit=10)
    open_one = next((one for one in retries if one.state in _OPEN), None)
    rehearsal = visit.side.rehearsals.find(name)
    return visit.render(
        "dead_letters_selection.html",
        found=found.selection,
        outcomes=found.outcomes,
        samples=found.letters,
        open=open_one,
        past=[one for one in retries if one is not open_one],
        absent=_absent(visit) if open_one else [],
        rehearsal=rehearsal,
        kinds=rehearsal.kinds if rehearsal else [],
        most_canary=MOST_CANARY,
        most_tries=MOST_TRIES,
        every=2 if open_one or (rehearsal and rehearsal.runs) else 10,
    )


def _absent(visit: Visit) -> list[Finding]:
    """Say which process that would go on with a retry is missing."""
    return [
        one
        for one in visit.side.health.worst_first()
        if (one.alarm in _GOES_ON or one.check == Alarm.BROKER) and one.level is not Level.OK
    ]


def retries(visit: Visit) -> Response:
    """List the retries in the background, newest first."""
    found = visit.exchange.dead_letters.retries(limit=MOST_LISTED)
    absent = _absent(visit) if any(one.state in _OPEN for one in found) else []
    return visit.render("dead_letters_retries.html", found=found, absent=absent, most=MOST_LISTED, every=2)


def _name(visit: Visit) -> str:
    return str(visit.request.path_params["name"])


def _page(name: str) -> str:
    return f"/dead-letters/selections/{name}"


# Freezing and forgetting


def _meant(visit: Visit) -> Filters:
    """Read which letters a form means; the state is that of the list it was sent from."""
    said = {name: visit.form.get(name, "").strip() or None for name in NAMES}
    state = said["state"] or (ANY if said["selection"] else DeadLetterState.PARKED.value)
    return visit.exchange.dead_letters.read_filters({**said, "state": None if state == ANY else state})


def select(visit: Visit) -> Response:
    """Freeze the letters that the list's filters mean now under a name."""
    name = visit.form.get("name", "").strip()
    made = visit.exchange.dead_letters.select(name, _meant(visit))
    return visit.back(f"selection {made.name} has {_many(made.letters)}; no other one is hit", to=_page(made.name))


def unselect(visit: Visit) -> Response:
    """Forget a selection; its letters stay as they are."""
    name = _name(visit)
    visit.exchange.dead_letters.unselect(name, reason=visit.reason)
    visit.side.rehearsals.forget(name)
    return visit.back(f"selection {name} is forgotten; its letters stay as they are", to="/dead-letters/selections")


# Trying


def rehearse(visit: Visit) -> Response:
    """Find out what a retry would do with each, beside whoever asks."""
    name = _name(visit)
    left = visit.exchange.dead_letters.count_left(name)
    made = visit.side.rehearsals.begin(visit.side.exchange, name, left, visit.person.name)
    return visit.back(
        f"the dry run of {_many(left)} is {'at work' if made.runs else 'done'}; nothing was changed", to=_page(name)
    )


def end_rehearsal(visit: Visit) -> Response:
    """End a dry run early."""
    found = visit.side.rehearsals.find(_name(visit))
    if found is None:
        raise RefusedArgument("there is no dry run of it any more")
    found.cancel()
    return visit.back("the dry run ends after the letters at hand")


def canary(visit: Visit) -> Response:
    """Try a few, and no more: whoever asked looks at them before going on."""
    name, number = _name(visit), _number(visit, "canary", MOST_CANARY)
    if number is None:
        raise RefusedArgument("expected how many to try first; nothing was done")
    tried, outcomes = 0, Outcomes()

    def report(retried: Any) -> None:
        nonlocal tried
        tried += sum(one.changed for one in retried)
        outcomes.add(retried)

    done = visit.exchange.dead_letters.retry_selection(
        name,
        Pace(canary=number),
        skip_changed=_checked(visit, "skip_changed"),
        stopping=lambda: tried >= number,
        report=report,
        reason=visit.reason,
    )
    visit.side.rehearsals.forget(name)
    left = done.letters - done.tried
    said = [
        f"{one.number:,} {'stay ' if one.failed else ''}{one.state}: {one.samples[0].message}" for one in outcomes.kinds
    ]
    first = f"{done.tried:,} of {_many(done.letters)} tried first, {left:,} left"
    return visit.back("\n".join([first, *said]), "warning" if done.failed else "ok", to=_page(name))


def run(visit: Visit) -> Response:
    """Have what is left tried in the background."""
    name = _name(visit)
    pace = Pace(
        rate=_rate(visit),
        canary=_number(visit, "canary", MOST_PACE),
        stop_after=_number(visit, "stop_after", MOST_PACE),
    )
    begun = visit.exchange.dead_letters.retry_in_background(
        name, pace, again=_checked(visit, "again"), skip_changed=_checked(visit, "skip_changed"), reason=visit.reason
    )
    visit.side.rehearsals.forget(name)
    return visit.back(f"retry {begun.id} is to try {_many(begun.letters)}; anybody who may can stop it", to=_page(name))


def pause(visit: Visit) -> Response:
    """Have a retry stand still."""
    return _told(visit, visit.exchange.dead_letters.pause_retry(_retry(visit), visit.required_reason))


def resume(visit: Visit) -> Response:
    """Let one go on."""
    return _told(visit, visit.exchange.dead_letters.resume_retry(_retry(visit), visit.required_reason))


def cancel(visit: Visit) -> Response:
    """End one where it is."""
    return _told(visit, visit.exchange.dead_letters.cancel_retry(_retry(visit), visit.required_reason))


def _retry(visit: Visit) -> int:
    return int(visit.request.path_params["number"])


def _told(visit: Visit, one: BackgroundRetry) -> Response:
    return visit.back(str(one))


def _checked(visit: Visit, name: str) -> bool:
    return name in visit.form


def _number(visit: Visit, name: str, most: int) -> int | None:
    """Read a whole number of a form; None for none. Raises RefusedArgument."""
    said = visit.form.get(name, "").strip()
    if not said:
        return None
    if not (said.isascii() and said.isdecimal() and len(said) <= len(str(most)) and 1 <= int(said) <= most):
        raise RefusedArgument(f"{name}: expected a number from 1 to {most:,}; nothing was done")
    return int(said)


def _rate(visit: Visit) -> float | None:
    said = visit.form.get("rate", "").strip()
    try:
        rate = float(said) if said else None
    except ValueError:
        rate = 0.0
    if rate is not None and not LEAST_RATE <= rate <= MOST_PACE:
        raise RefusedArgument(f"rate: expected letters a second, from {LEAST_RATE} to {MOST_PACE:,}; nothing was done")
    return rate


# Giving up, and taking back


def discard(visit: Visit) -> Response:
    """Give up what is parked of a selection."""
    name = _name(visit)
    number = visit.exchange.dead_letters.discard(
        visit.required_reason, selection=name, skip_changed=_checked(visit, "skip_changed")
    )
    visit.side.rehearsals.forget(name)
    return visit.back(f"{_many(number)} discarded")


def restore(visit: Visit) -> Response:
    """Take back what is discarded of a selection."""
    number = visit.exchange.dead_letters.restore(visit.required_reason, selection=_name(visit))
    return visit.back(f"{_many(number)} parked again")


def export(visit: Visit) -> Response:
    """Give letters as a signed file, for ``exchange dead-letters import`` here or on the other network."""
    folder = Path(tempfile.mkdtemp(prefix="exchange-letters-"))  # for this user alone
    meant = _meant(visit)
    name = f"dead-letters-{meant.selection or visit.side.settings.network}-{clock.now():%Y%m%d-%H%M%S}.jsonl"
    try:
        done = visit.exchange.dead_letters.export(
            folder / name, meant, sensitive=visit.person.sees_sensitive, reason=visit.reason
        )
    except BaseException as error:
        shutil.rmtree(folder)
        if isinstance(error, FileFault):
            raise Forbidden(f"{error}; nothing was written") from error
        raise
    return FileResponse(
        done.file,
        filename=name,
        media_type="application/jsonl",
        background=BackgroundTask(shutil.rmtree, folder),
    )


def _many(number: int) -> str:
    return f"{number:,} dead letter{'' if number == 1 else 's'}"


_ONE = "/dead-letters/selections/{name}"
ROUTES = (
    look("/dead-letters/selections", listed),
    look(_ONE, selection),
    look("/dead-letters/retries", retries),
    act("/dead-letters/select", select, "select_dead_letters"),
    act("/dead-letters/export", export, "export_dead_letters"),
    act(f"{_ONE}/unselect", unselect, "unselect_dead_letters"),
    act(f"{_ONE}/rehearse", rehearse, "retry_dead_letter"),
    act(f"{_ONE}/end-rehearsal", end_rehearsal, "retry_dead_letter"),
    act(f"{_ONE}/canary", canary, "retry_dead_letter"),
    act(f"{_ONE}/run", run, "retry_dead_letter"),
    act(f"{_ONE}/discard", discard, "discard_dead_letter"),
    act(f"{_ONE}/restore", restore, "restore_dead_letter"),
    act("/dead-letters/retries/{number:int}/pause", pause, "pause_retry"),
    act("/dead-letters/retries/{number:int}/resume", resume, "resume_retry"),
    act("/dead-letters/retries/{number:int}/cancel", cancel, "cancel_retry"),
)
