"""Files of people: taken in, loaded, cancelled, written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import current_app, current_task

from exchange.celery.arguments import RefusedCall, check_names, check_text, check_truth, shown, whole_number
from exchange.celery.calls import TICK
from exchange.celery.work.frame import stopping, task
from exchange.celery.work.own_side import own_exchange
from exchange.celery.work.said import Result, log, warn
from exchange.database.tables import IntakeState
from exchange.format.errors import printable
from exchange.intake.standing import DroppedFile
from exchange.operating.schedule import RETRIES_SECONDS


@task("exchange.extract")
def extract(
    stream: str,
    to: str,
    where: list[str] | None = None,
    columns: list[str] | None = None,
    format: str | None = None,  # noqa: A002 - what the command calls it
    raw: bool = False,
    sensitive: bool = False,
) -> Result:
    """Write rows of a stream to a new file of the worker's machine."""
    for name, value in (("stream", stream or 0), ("to", to or 0), ("format", format)):
        check_text(name, value)
    for name, listed in (("where", where), ("columns", columns)):
        check_names(name, listed)
    for name, switch in (("raw", raw), ("sensitive", sensitive)):
        check_truth(name, switch)
    if not Path(to).is_absolute():
        raise RefusedCall(f"to: expected a file's whole path, found {shown(to)}")
    done = own_exchange().extract(
        stream,
        Path(to),
        where=where or (),
        columns=columns or (),
        format=format,
        raw=raw,
        sensitive=sensitive,
        stopping=stopping,
    )
    log.info("extract", **done.without_values())
    return done.without_values() | {"message": f"{done.rows} rows of {done.stream} lie in {done.file}"}


@task("exchange.intake")
def intake() -> Result:
    """Look at the folders that people drop files into, and claim what is ready; ``exchange.load_files`` loads it."""
    found = own_exchange().files.take_in()
    for sentence in (*found.troubles, *found.left_alone):
        warn(sentence)
    for name in found.claimed:
        log.info("claimed", file=printable(name, 200))
    for _ in range(found.waiting):
        _send_on("exchange.load_files", own_exchange().settings.intake_every)
    counted = {"claimed": len(found.claimed), "arriving": found.arriving}
    said = ", ".join(f"{number} {what}" for what, number in counted.items() if number)
    return found.as_dict() | {"message": said or "nothing was dropped"}


@task("exchange.load_files")
def load_files() -> Result:
    """Load files that were claimed, for a while; what is left a task that follows goes on with."""
    told: dict[int, DroppedFile] = {}
    more = own_exchange().files.work_off(stopping=stopping, report=lambda one: told.update({one.id: one}))
    for one in told.values():
        (log.warning if one.state is IntakeState.REFUSED else log.info)(one.state, message=str(one), **_of_file(one))
    if more and not stopping():
        _send_on("exchange.load_files", own_exchange().settings.intake_every)
    return {"files": [one.as_dict() for one in told.values()], "more": more}


def _of_file(one: DroppedFile) -> dict[str, Any]:
    counts = {name: getattr(one, name) for name in ("rows_read", "rows_loaded", "rows_parked")}
    return {"file_id": one.id, "intake": one.intake, "stream": one.stream, **counts}


def _send_on(task: str, seconds: float) -> None:
    """Call a task that goes on; if no worker takes it for so long, the next tick calls it again."""
    app = current_task.app if current_task else current_app
    app.send_task(task, expires=max(seconds, RETRIES_SECONDS), headers=TICK)


@task("exchange.cancel_file")
def cancel_file(reason: str, file: int, undo: bool = False) -> Result:
    """Give up a file that people dropped and that is not loaded yet; with ``undo`` what was loaded of it, too."""
    check_truth("undo", undo)
    return own_exchange().files.cancel(whole_number(file, "file"), reason, undo=undo).as_dict()
