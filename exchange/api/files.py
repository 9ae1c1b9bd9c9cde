"""Files that people dropped, for a Python program: how far each is, why one was refused, giving one up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exchange.api.acts import never
from exchange.api.arguments import check_limit
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.database.tables import IntakeState
from exchange.format.as_dict import AsDict
from exchange.intake import cancelling, folders, standing
from exchange.intake.folders import SeenFolder
from exchange.intake.standing import DroppedFile, FileDetail

if TYPE_CHECKING:
    from pathlib import Path

    from exchange.api import Exchange
    from exchange.channels.intake import Intake
    from exchange.intake.dropped import TakenIn
    from exchange.intake.given import Given, Rehearsed

__all__ = ["DroppedFile", "FileDetail", "FilePage", "Files", "SeenFolder"]


@dataclass(frozen=True)
class FilePage(AsDict):
    """Files, newest first; ``after`` is where the next page goes on, None on the last one."""

    files: tuple[DroppedFile, ...]
    after: int | None


class Files:
    """Files of rows that people dropped into this side's folders, or took in by command."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(
        self,
        *,
        state: IntakeState | None = None,
        intake: str | None = None,
        limit: int = 50,
        after: int | None = None,
    ) -> FilePage:
        """Give a page of the files that are kept, newest first; ``after`` is what the page before names."""
        check_limit(limit)
        states = () if state is None else (state,)
        with transient_errors(), reading(self._exchange.site.engine) as connection:
            found = standing.list_files(connection, states=states, name=intake, after=after, limit=limit + 1)
        return FilePage(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None)

    def at_hand(self) -> Sequence[DroppedFile]:
        """Give the files that are still to be loaded, in the order of their turn."""
        with transient_errors(), reading(self._exchange.site.engine) as connection:
            return standing.open_files(connection)

    def show(self, number: int) -> FileDetail:
        """Give one with how it is read, its parts and why rows of it are parked. Raises TransientError for none."""
        with transient_errors(), reading(self._exchange.site.engine) as connection:
            return standing.find_file(connection, number)

    def intakes(self) -> Sequence[Intake]:
        """Give the intakes whose streams this side writes."""
        return folders.declared(self._exchange.site)

    def folders(self) -> Sequence[SeenFolder]:
        """Look at each declared folder: what is ready there, still arrives, or is left alone and why."""
        return folders.see(self._exchange.site)

    def take_in(self) -> TakenIn:
        """Look at each declared folder and claim what is ready; ``work_off`` loads it. Changes no row of yours."""
        from exchange.intake import dropped

        return dropped.take_in(self._exchange.site)

    def work_off(
        self,
        *,
        stopping: Callable[[], bool] = never,
        report: Callable[[DroppedFile], None] = lambda _file: None,
        seconds: float | None = None,
    ) -> bool:
        """Load files that were claimed, as the worker does, for so many seconds; say whether something is left to do.

        ``report`` is told of each file that was worked on. At once as many work as EXCHANGE_INTAKE_AT_ONCE says.
        """
        from exchange.intake import dropped

        most = dropped.SLICE_SECONDS if seconds is None else seconds
        return dropped.work_off(self._exchange.site, stopping, seconds=most, report=report)

    def load(
        self,
        path: Path,
        intake: Intake,
        *,
        again: bool = False,
        stopping: Callable[[], bool] = never,
        who: str | None = None,
        reason: str | None = None,
    ) -> Given:
        """Load a file where it lies, as a declared intake or one that you make has it; go on with it if it was left.

        The same bytes are loaded once, unless ``again``. Raises FileRefused for what is no file of its rows; one with
        too many bad rows comes back refused, with nothing of it left.
        """
        from exchange.database.whoami import person
        from exchange.intake import given

        site = self._exchange.site
        arguments = {"file": str(path), "intake": intake.name, "again": again}
        with self._exchange.act(site, "intake", arguments, who, reason) as act:
            done = given.take_in(site, path, intake, person(), again=again, stopping=stopping)
            counts = {"loaded": done.file.rows_loaded, "parked": done.file.rows_parked}
            act.came_to({"file": done.file.id, "state": done.file.state, **counts})
        return done

    def rehearse(self, path: Path, intake: Intake) -> Rehearsed:
        """Say what would become of a file: all of it is read and loaded, and rolled back. Raises FileRefused."""
        from exchange.database.whoami import person
        from exchange.intake import given

        return given.rehearse(self._exchange.site, path, intake, person())

    def intake_for(self, name: str | None = None, stream: str | None = None) -> Intake:
        """Give the declared intake of a name, or one for a stream of yours. Raises FileRefused."""
        from exchange.intake import given

        return given.intake_for(self._exchange.site, name, stream)

    def cancel(self, number: int, reason: str, *, undo: bool = False, who: str | None = None) -> DroppedFile:
        """Give a file up that is not loaded yet; what was loaded of it stays, unless ``undo``.

        Raises TransientError for any other.
        """
        site = self._exchange.site
        with self._exchange.act(site, "cancel_file", {"file": number, "undo": undo}, who, reason) as act:
            done = cancelling.cancel(site, number, reason, undo=undo)
            act.came_to({"state": done.state, "rows_loaded": done.rows_loaded})
        return done
