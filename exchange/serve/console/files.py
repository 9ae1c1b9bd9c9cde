"""Files that people dropped: how far each is, why rows or all of it were refused, giving one up."""

from __future__ import annotations

from starlette.responses import Response

from exchange.database.tables import IntakeState
from exchange.serve.console.visit import Visit, act, look
from exchange.settings import variable_name

PLAIN = ("kind", "compression", "encoding", "delimiter", "quote", "decimal", "dates", "nulls", "time_zone")
"""What was found out of a file, in the order in which people ask for it."""


def files(visit: Visit) -> Response:
    """Show the files that are kept, what is at hand first, and the declared folders."""
    after = visit.number("after")
    state, name = visit.one_of("state", IntakeState), visit.asked("intake")
    page = visit.exchange.files.list(state=state, intake=name or None, after=after)
    return visit.render(
        "files.html",
        page=page,
        after=after,
        at_hand=[] if after or visit.filters else visit.exchange.files.at_hand(),
        folders=visit.exchange.files.folders(),
        intakes=[one.name for one in visit.exchange.files.intakes()],
        states=list(IntakeState),
        setting=variable_name("app"),
        every=0 if after else 2,
    )


def file(visit: Visit) -> Response:
    """Show one file."""
    found = visit.exchange.files.show(visit.request.path_params["number"])
    return visit.render(
        "file.html",
        found=found,
        one=found.file,
        read_as=[(name, found.format[name]) for name in PLAIN if found.format.get(name)],
        columns=_columns(found.format),
        every=2 if found.file.is_open else 0,
    )


def cancel(visit: Visit) -> Response:
    """Give one up."""
    number, undo = visit.request.path_params["number"], "undo" in visit.form
    done = visit.exchange.files.cancel(number, visit.required_reason, undo=undo)
    if done.state is IntakeState.CANCELLING:
        return visit.back(f"file {done.id} is given up; the worker deletes what was loaded of it", "warning")
    return visit.back(f"file {done.id} is cancelled; {done.rows_loaded} rows of it are loaded and stay")


def _columns(written: dict[str, object]) -> list[tuple[str, str | None]]:
    """Pair the header's cells with the columns that they are for."""
    header, columns = written.get("header"), written.get("columns")
    if not isinstance(header, list) or not isinstance(columns, list):
        return []
    pairs = zip(header, columns, strict=False)
    return [(str(cell), column if isinstance(column, str) else None) for cell, column in pairs]


ROUTES = (
    look("/files", files),
    look("/files/{number:int}", file),
    act("/files/{number:int}/cancel", cancel, "cancel_file"),
)
