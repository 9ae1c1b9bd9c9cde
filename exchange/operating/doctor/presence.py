"""Whether beat and a worker are there and get something done, and when each channel was last exported and imported."""

from __future__ import annotations

from datetime import datetime, timedelta

from exchange.database import clock
from exchange.database.locks import reading
from exchange.database.processes import this_host
from exchange.database.tables import Direction
from exchange.format.errors import printable
from exchange.format.moments import in_words, lasting
from exchange.operating.doctor.finding import Alarm, Finding, Findings, Level, fault, ok
from exchange.operating.presence import Presence, Process, is_late, last_batch, look_for_processes
from exchange.settings import Settings
from exchange.site import Site

FORGOTTEN = timedelta(days=1)
"""So long after beat or a worker was last there, work that is done all the same is done without it: by cron, say."""

STARTING = timedelta(seconds=20)
"""So long beat or a worker that has begun may be alone: they are started together, and one is there sooner."""

_START = {
    Alarm.BEAT: "start beat (`exchange up`, or `celery -A exchange beat`)",
    Alarm.WORKER: "start the worker (`exchange up`, or `celery -A exchange worker`)",
}
_WAYS = {
    Direction.OUT: ("export", "exported", Alarm.EXPORT_LATE),
    Direction.IN: ("import", "imported", Alarm.IMPORT_LATE),
}


def check_presence(settings: Settings, site: Site) -> Findings:
    """Look whether work is done, and whether beat and a worker are there to do it."""
    with reading(site.engine) as connection:
        there = look_for_processes(settings, site, connection)
        late = {
            (way, channel): at
            for way, channels in there.last.items()
            for channel, at in channels.items()
            if at is None
            or (
                is_late(at, _period(settings, way))
                and not ((going := last_batch(site, connection, way, channel)) and not is_late(going, 0))
            )
        }
    yield from _beat(settings, there, late=bool(late))
    yield from _worker(settings, there, late=bool(late))
    for way in Direction:
        yield from _runs(settings, there, way, {channel: at for (one, channel), at in late.items() if one is way})


def _period(settings: Settings, way: Direction) -> float:
    return settings.export_every if way is Direction.OUT else settings.import_every


def _beat(settings: Settings, there: Presence, *, late: bool) -> Findings:
    beat = there.beat
    if beat.works:
        said = f"beat ticked {_ago(beat)}" if beat.sign else "beat runs here"
        yield ok("work", said, since=beat.quiet_since, subject="beat")
    elif beat.here:
        said = f"beat runs here, but has not ticked since {in_words(_since(beat))}: it hangs"
        yield _absent(Alarm.BEAT, said, "end it, and start it again", since=beat.quiet_since)
    elif _has_just_begun(there.worker):
        yield ok("work", "a worker has just begun here, and beat is given time to", subject="beat")
    elif beat.stopped_at is not None and not _is_forgotten(beat, late=late):
        yield _stopped(Alarm.BEAT, "beat", "nothing is called", beat.stopped_at)
    elif beat.sign is not None and not _is_forgotten(beat, late=late):
        said = f"no beat ticks any more; the last tick was at {in_words(beat.sign.at)}{_where(beat)}"
        yield _absent(Alarm.BEAT, said, since=beat.sign.at)
    elif there.worker.here:
        said = "a worker runs here, but no beat: nothing is called but by hand, unless another machine's beat does"
        yield _absent(Alarm.BEAT, said, level=Level.FAULT if settings.beat_lock.exists() else Level.WARNING)


def _worker(_settings: Settings, there: Presence, *, late: bool) -> Findings:
    worker = there.worker
    if worker.works or (worker.here and not there.beat.works):  # without beat it has nothing to do
        said = f"a worker got something done {_ago(worker)}" if worker.sign else "a worker runs here"
        yield ok("work", said, since=worker.quiet_since, subject="worker")
    elif worker.here:
        said = (
            f"a worker runs here, but has got nothing done since {in_words(_since(worker))}, though beat ticks: it"
            " hangs, or one task takes all of it"
        )
        remedy = "see what it logs (`celery -A exchange inspect active`); end it, and start it again"
        yield _absent(Alarm.WORKER, said, remedy, since=worker.quiet_since)
    elif _has_just_begun(there.beat):
        yield ok("work", "beat has just begun here, and a worker is given time to", subject="worker")
    elif worker.stopped_at is not None and not _is_forgotten(worker, late=late):
        yield _stopped(Alarm.WORKER, "the worker", "what beat calls waits", worker.stopped_at)
    elif worker.sign is not None and not _is_forgotten(worker, late=late):
        said = (
            f"no worker works any more; the last one got something done at {in_words(worker.sign.at)}{_where(worker)}"
        )
        yield _absent(Alarm.WORKER, said, since=worker.sign.at)
    elif there.beat.here:
        said = "beat runs here, but no worker: what it calls waits, unless another machine's worker takes it"
        yield _absent(Alarm.WORKER, said)


def _stopped(alarm: Alarm, who: str, until: str, since: datetime) -> Finding:
    said = f"{who} is stopped on purpose since {in_words(since)}: {until} until it is started again"
    return _absent(alarm, said, since=since, level=Level.WARNING)


def _absent(
    alarm: Alarm, said: str, remedy: str = "", *, since: datetime | None = None, level: Level = Level.FAULT
) -> Finding:
    return Finding("work", level, said, remedy or _START[alarm], "exchange up", since, alarm)


def _has_just_begun(other: Process) -> bool:
    return other.begun is not None and clock.since(other.begun) < STARTING


def _is_forgotten(one: Process, *, late: bool) -> bool:
    return not late and one.quiet_since is not None and clock.since(one.quiet_since) > FORGOTTEN


def _since(one: Process) -> datetime:
    return one.quiet_since or clock.now()


def _ago(one: Process) -> str:
    return f"{lasting(max(clock.now() - _since(one), timedelta()))} ago{_where(one)}"


def _where(one: Process) -> str:
    return f" on {printable(one.sign.host, 80)}" if one.sign and one.sign.host != this_host() else ""


def _runs(settings: Settings, there: Presence, way: Direction, late: dict[str, datetime | None]) -> Findings:
    """Tell of each channel that was not worked on to the end for too long, and when the others were."""
    what, done, alarm = _WAYS[way]
    moments = there.last[way]
    if not moments:
        return
    if not any(moments.values()):
        begun = there.beat.begun
        # A side that was never up is set up, and in order so far; so is one that has just begun.
        bad = settings.beat_lock.exists() and not (begun and not is_late(begun, 0))
        level = Level.FAULT if bad else Level.WARNING
        said = f"{what}s have not run yet: {_who_is_there(there)}"
        yield Finding("work", level, said, _remedy(there), "exchange up", alarm=alarm if bad else None)
        return
    for channel, at in late.items():
        if at is None:
            said = f"channel {channel} was not {done} yet"
            yield Finding("work", Level.WARNING, said, f"the next {what} takes it", f"exchange {what}")
            continue
        every = lasting(timedelta(seconds=_period(settings, way)))
        said = f"channel {channel} was last {done} to its end at {in_words(at)}, and that is due every {every}"
        yield fault("work", said, _remedy(there), command=f"exchange {what}", since=at, alarm=alarm, subject=channel)
    if not late:
        oldest = min(filter(None, moments.values()))
        ago = lasting(max(clock.now() - oldest, timedelta()))
        yield ok("work", f"every channel was {done} to its end {ago} ago or later", since=oldest, subject=what)


def _who_is_there(there: Presence) -> str:
    beat, worker = there.beat.here, there.worker.here
    if beat and worker:
        return "beat and worker run here"
    if not beat and not worker:
        return "neither beat nor a worker runs here"
    return "beat runs here, but no worker" if beat else "a worker runs here, but no beat"


def _remedy(there: Presence) -> str:
    if there.beat.works and there.worker.works:
        return "see what the worker logs, and what `exchange doctor` says of its runs, database and folders"
    if there.beat.here or there.worker.here:
        return "have beat and a worker run, both: `exchange up`, or `celery -A exchange worker` and `beat`"
    return "run `exchange up`, or a worker and beat of your own; or have cron run `exchange export` and `import`"
