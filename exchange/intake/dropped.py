"""Files that people dropped, worked on by whoever has time: claimed, prepared, loaded part by part, put away.

The ledger and ``taken/`` say what is to be done; nothing is remembered here. However a process ends, the next one goes
on with what it left: a claimed file without a row is written down, a part goes on where it had come to, and what is
dealt with is put away. What fails of one file or folder waits, and holds up no other one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import Busy, reading, writing
from exchange.database.tables import IntakeState
from exchange.dead_letters import auto_retry
from exchange.files.folder import COPY_BYTES
from exchange.files.pid_lock import holding_name
from exchange.format.as_dict import AsDict
from exchange.format.errors import TransientError
from exchange.intake import folders, ledger, standing
from exchange.intake.folders import Claimed, Drop, Watcher
from exchange.intake.ledger import Entry, NewFile, Terms
from exchange.intake.load import load_part
from exchange.intake.standing import DroppedFile
from exchange.intake.take_in import Bytes, terms_of, write_down
from exchange.intake.undo import undo
from exchange.reading import FileFormat, FileRefused, Place
from exchange.reading.cut import Cutter
from exchange.reading.detect import detect
from exchange.reading.read import read
from exchange.site import Site

SLICE_SECONDS = 10.0
"""So long one call works: exports and imports have their turn, too."""

MOST_CLAIMS = 20
"""So many files one look claims in a folder: others have their turn, too."""


@dataclass(frozen=True)
class TakenIn(AsDict):
    """What a look at all folders found: ``claimed`` files are ours now, ``arriving`` ones still change.

    ``waiting`` pieces of work are there, as far as they are counted.
    """

    claimed: tuple[str, ...]
    arriving: int
    left_alone: tuple[str, ...]
    troubles: tuple[str, ...]
    waiting: int


_watcher = Watcher()


def take_in(site: Site) -> TakenIn:
    """Look at every declared folder once, and claim what is ready.

    What can't be read is told, and keeps no other folder from being looked at. Raises TransientError for the database.
    """
    found = _claim_ready(site)
    with transient_errors():
        fresh, due = _Turn(site).left()
        pieces = len(fresh)
        with reading(site.engine) as connection:
            for entry in due:
                if pieces >= site.limits.intake_at_once:
                    break
                pieces += max(sum(not part.is_done for part in ledger.parts(connection, entry.id)), 1)
    return replace(found, waiting=min(pieces, site.limits.intake_at_once))


def _claim_ready(site: Site) -> TakenIn:
    claimed, arriving = [], 0
    left_alone: list[str] = []
    troubles = folders.misplaced(site)
    for drop in folders.drops(site) if not troubles else ():
        try:
            folders.finish_claims(site, drop)
            looked = _watcher.look(drop, site.limits.settle_seconds)
            arriving += looked.arriving
            seen = folders.SeenFolder(str(drop.path), (), left_alone=folders.told(looked.left_alone))
            left_alone += map(str, seen.problems)
            room = max(folders.MOST_CLAIMED - len(folders.claimed(drop)), 0) if looked.ready else 0
            for dropped in looked.ready[: min(room, MOST_CLAIMS)]:
                one = folders.claim(site, drop, dropped)
                claimed += [one.file] if one is not None else []
        except TransientError as error:
            troubles.append(error.sentence)
    return TakenIn(tuple(claimed), arriving, tuple(left_alone), tuple(troubles), 0)


def work_off(
    site: Site,
    stopping: Callable[[], bool],
    *,
    seconds: float = SLICE_SECONDS,
    report: Callable[[DroppedFile], None] = lambda _file: None,
) -> bool:
    """Load files for so many seconds, in one of the places that there are for it; say whether something is left to do.

    Where nothing is left it looks at the folders again: of many files some are claimed at a time. ``report`` is told
    how far each file is that was worked on. Raises TransientError for the database.
    """
    for number in range(site.limits.intake_at_once):
        with holding_name(site.spool.folders.home / "run" / "intake-places.lock", str(number)) as mine:
            if mine:
                turn = _Turn(site, time.monotonic() + seconds, stopping)
                with transient_errors():
                    return turn.work(report)
    return False  # as many as may be are at work


def settle(site: Site, drop: Drop) -> None:
    """Put away what is claimed of a folder and dealt with. Raises TransientError, Busy."""
    with transient_errors():
        _Turn(site)._settle(drop)  # noqa: SLF001 - of this module


@dataclass
class _Turn:
    """One worker's turn."""

    site: Site
    until: float = 0.0
    stopping: Callable[[], bool] = lambda: False
    touched: set[int] = field(default_factory=set)

    def work(self, report: Callable[[DroppedFile], None]) -> bool:
        """Do one piece after the other until the turn is over; say whether some are left."""
        more = True
        while more and not self._is_over():
            more = self._do_one() or bool(_claim_ready(self.site).claimed)
        self.left()
        if self.touched:
            with contextlib.suppress(TransientError):  # the next run looks again
                channels = auto_retry.channels_with_letters(self.site)
                auto_retry.retry_orphans(self.site, channels, self._is_over, everything=False)
            with reading(self.site.engine) as connection:
                for one in standing.some_files(connection, sorted(self.touched)):
                    report(one)
        return more

    def left(self) -> tuple[list[Claimed], list[Entry]]:
        """Put away what is dealt with; give claimed files without a row, and those of the ledger whose turn comes."""
        fresh = []
        for drop in folders.drops(self.site):
            with contextlib.suppress(TransientError):  # said of the folder
                fresh += self._settle(drop)
        with reading(self.site.engine) as connection:
            due = ledger.to_do(connection, now(), limit=standing.MOST_OPEN)
        return sorted(fresh, key=lambda one: (-one.intake.priority, one.claimed_at)), due

    def _is_over(self) -> bool:
        return time.monotonic() >= self.until or self.stopping()

    def _do_one(self) -> bool:
        """Do the first piece that nobody else is at, files of a greater priority first; False if there is none."""
        fresh, due = self.left()
        for entry in due:
            while fresh and fresh[0].intake.priority >= entry.priority:
                if self._prepare(fresh.pop(0)):
                    return True
            if self._go_on(entry):
                self.touched.add(entry.id)
                return True
        return any(self._prepare(one) for one in fresh)

    def _settle(self, drop: Drop) -> list[Claimed]:
        """Put away the claimed files of a folder that the ledger is done with; give those that it does not know."""
        claimed = {str(one.place): one for one in folders.claimed(drop)}
        if not claimed:
            return []
        with reading(self.site.engine) as connection:
            known = {one.place: one for one in standing.at_places(connection, list(claimed))}
        for place, file in known.items():
            if file.is_over:
                self._put_away(claimed[place], file)
        return [one for place, one in claimed.items() if place not in known]

    def _put_away(self, one: Claimed, file: DroppedFile) -> None:
        """Move a file that is dealt with to where its dropper finds it, with what is to be said of it beside it."""
        ending = folders.DONE if file.state in _WELL else folders.REFUSED
        at = folders.put_away(self.site, one.place, ending, one.file, _reason(file))
        if at is not None:
            with writing(self.site.engine) as connection:
                standing.moved(connection, file.id, str(at))

    def _prepare(self, one: Claimed) -> bool:
        """Take a claimed file into the ledger: hashed, looked at, cut into parts, or refused at once."""
        with folders.preparing(self.site, one.place) as alone:
            if not alone:
                return False
            with reading(self.site.engine) as connection:
                if standing.at_places(connection, [str(one.place)]):
                    return False  # somebody did, just now
            if not os.path.lexists(one.place):
                return False  # and it is loaded and put away already, which moves it before the ledger says so
            number = take_in_claimed(self.site, one, self.stopping)
            if number is not None:
                self.touched.add(number)
            return True

    def _go_on(self, entry: Entry) -> bool:
        """Take back what is to be undone of a file, or load a part of it; False if others are at all of it."""
        with contextlib.suppress(Busy, TransientError):  # it waits for its next try
            if entry.state in ledger.TO_UNDO:
                undo(self.site, entry.id, read)
                return True
        if entry.state in ledger.TO_UNDO:
            return False
        with reading(self.site.engine) as connection:
            parts = [one.number for one in ledger.parts(connection, entry.id) if not one.is_done]
        for at in parts:
            try:
                load_part(self.site, entry.id, at, read, stopping=self._is_over)
            except Busy:
                continue
            except TransientError:
                return True  # it is written down, and waits for its next try
            return True
        return False


class _Stopping(Exception):  # noqa: N818 - never leaves this module
    """The process is to end."""


def _end_if(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise _Stopping


def take_in_claimed(site: Site, one: Claimed, stopping: Callable[[], bool] = lambda: False) -> int | None:
    """Write a claimed file into the ledger, to be loaded, as a duplicate, or refused at once; give its number.

    None: somebody writes to it while it is read, so that it is given back; or ``stopping`` says to end. Commits.
    Raises TransientError, Busy.
    """
    stream = one.intake.stream_of(site.channels)
    assert stream is not None, "a declaration was checked"
    sha256, written, terms, places, refused = hashlib.sha256(), FileFormat("csv"), Terms(), [Place(0, 1)], ""
    told = ""
    with transient_errors(), folders.open_place(one.place) as file:
        seen = folders.Seen.of(os.fstat(file.fileno()))
        cutter = None
        try:
            detected = detect(
                file, one.file, one.intake, stream, limits=site.limits.read, still_wanted=partial(_end_if, stopping)
            )
            written, told = detected.format, "; ".join(detected.notes)
            terms = terms_of(site, one.intake, stream.name, written, Bytes("", seen.size, seen.changed_ns))
            cutter = Cutter(written, site.limits.intake_part_bytes, site.limits.read.max_record_bytes)
            places = [Place(written.start, written.line)]
        except FileRefused as error:
            refused = str(error)
        except _Stopping:
            return None
        file.seek(0)
        while piece := file.read(min(COPY_BYTES, site.limits.intake_part_bytes)):
            sha256.update(piece)
            if cutter is not None:
                cutter.feed(piece)
            if stopping():
                return None
        if not folders.unchanged(file, seen):
            folders.give_back(site, one.place, one.file)
            return None
    new = NewFile(
        one.intake.name,
        stream.name,
        one.file,
        str(one.place),
        sha256.hexdigest(),
        seen.size,
        written,
        terms,
        one.who,
        one.intake.priority,
        refused or told,
    )
    if refused:
        with transient_errors(), writing(site.engine) as connection:
            return ledger.record(connection, new, IntakeState.REFUSED)
    places += cutter.places if cutter is not None else []
    stops = [*(place.position for place in places[1:]), None]
    return write_down(site, new, list(zip(places, stops, strict=True)))[0]


_WELL = (IntakeState.LOADED, IntakeState.DUPLICATE)


def _reason(file: DroppedFile) -> str | None:
    """Say what is to be read beside a file that was put away; nothing beside one that is loaded whole."""
    if file.state is IntakeState.LOADED and not file.rows_parked:
        return None
    if file.state is IntakeState.LOADED:
        return (
            f"{ledger.rows_are(file.rows_loaded)} loaded. Bad rows, parked as dead letters: {file.rows_parked:,}. Have"
            f" them mended there (`exchange files show {file.id}` names them); the rows that are loaded would be bad"
            " again."
        )
    return file.message
