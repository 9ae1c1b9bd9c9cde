"""Dead letters for a Python program: found, looked at, tried again, given up, mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from exchange.api import letter_filters
from exchange.api.acts import RefusedArgument
from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.database.locks import reading, writing
from exchange.database.tables import DeadLetterState
from exchange.dead_letters import background, bulk_retry, counts, discard, groups, pages, retry, selections, show
from exchange.dead_letters import edit as editing
from exchange.dead_letters.background import BackgroundRetry
from exchange.dead_letters.bulk_retry import BulkRetry, Pace, Report
from exchange.dead_letters.counts import Trend
from exchange.dead_letters.edit import Checked, Draft, Edited
from exchange.dead_letters.filters import Filters
from exchange.dead_letters.groups import Group
from exchange.dead_letters.masking import Mask
from exchange.dead_letters.outcomes import Outcome, Outcomes
from exchange.dead_letters.search import LetterPage
from exchange.dead_letters.selections import NamedSelection, Selection
from exchange.dead_letters.show import View
from exchange.dead_letters.store import Brief
from exchange.format import strict_json
from exchange.results import Retried

if TYPE_CHECKING:
    from pathlib import Path

    from exchange.api import Exchange
    from exchange.api.acts import Done
    from exchange.dead_letters.file import ExportedLetters, ImportedLetters
    from exchange.site import Site

__all__ = ["DeadLetters", "Filters", "Pace"]

_ALL = Filters()
_PARKED = Filters(state=DeadLetterState.PARKED)


@dataclass(frozen=True)
class SelectionView:
    """A selection: ``outcomes`` count what became of its letters (None: not tried yet), ``letters`` are some."""

    selection: NamedSelection
    outcomes: Mapping[DeadLetterState | None, int]
    letters: Sequence[Brief]


class DeadLetters:
    """The records of one side that did not take effect. What is sensitive is hidden in all that is given."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    # To look at

    def groups(self, filters: Filters = _PARKED) -> list[Group]:
        """Give what is wrong, by cause: how many, since when, whose fault, and what to do."""
        with self._reading() as (_, connection):
            return groups.grouped(connection, filters)

    def trend(self, state: DeadLetterState = DeadLetterState.PARKED) -> Trend:
        """Give how many came in each of the last hours and are in a state, of all and of each cause."""
        with self._reading() as (_, connection):
            return counts.trend(connection, state, now())

    def list(
        self, filters: Filters = _PARKED, *, limit: int = 50, after: int | None = None, oldest_first: bool = False
    ) -> LetterPage:
        """Give a page of those that are meant, newest first; ``after`` is the id that the page before names.

        Raises RefusedArgument if there is no such letter, and TransientError if there is no such selection.
        """
        with self._reading() as (site, connection):
            if filters.selection is not None:
                selections.named_selection(connection, filters.selection)
            cursor = pages.cursor(connection, after) if after is not None else None
            if after is not None and cursor is None:
                raise RefusedArgument(f"after: there is no dead letter {after} to go on after; begin anew")
            page = pages.page(connection, filters, after=cursor, limit=limit, oldest_first=oldest_first)
        mask = Mask(site.channels)
        return replace(page, letters=tuple(mask.brief(letter) for letter in page.letters))

    def read_filters(self, asked: Mapping[str, str | None]) -> Filters:
        """Read which are meant, by ``letter_filters.NAMES``. Raises RefusedArgument for what makes no sense."""
        return letter_filters.read_filters(self._exchange.site, asked)

    def refuse_unknown_names(self, asked: Mapping[str, str | None]) -> None:
        """Refuse names that there are not, where nothing was found. Raises RefusedArgument."""
        with self._reading() as (site, connection):
            letter_filters.refuse_unknown_names(site, connection, asked)

    def show(self, letter_id: int) -> View | None:
        """Give all there is to know about one; None if there is none."""
        with self._reading() as (site, connection):
            return show.view(site, connection, letter_id)

    def hides(self, letter: Brief) -> bool:
        """Say whether anything of a letter is hidden from who may not see what is sensitive."""
        return Mask(self._exchange.site.channels).hides(letter)

    def reveal(self, letter_id: int, *, who: str | None = None, reason: str | None = None) -> View | None:
        """Give the same with what is sensitive, to whom the caller knows may see it; that is in the audit."""
        site = self._exchange.site
        with self._act(site, "reveal", {"dead_letter": letter_id}, who, reason) as act:
            with self._reading() as (_, connection):
                found = show.view(site, connection, letter_id, revealed=True)
            if act:
                act.came_to({"found": found is not None})
        return found

    def selections(self) -> Sequence[Selection]:
        """Give the sets that people froze, newest first, each with how many are left to be tried."""
        with self._reading() as (_, connection):
            return selections.list_selections(connection)

    def newest_selections(self, limit: int = 50) -> Sequence[NamedSelection]:
        """Give the newest of them as they were made, without a look at their letters."""
        with self._reading() as (_, connection):
            return selections.newest_selections(connection, limit)

    def find_selection(self, name: str) -> Selection:
        """Give one. Raises TransientError if there is none."""
        with self._reading() as (_, connection):
            return selections.find_selection(connection, name)

    def look_at_selection(self, name: str, some: int = 5) -> SelectionView:
        """Give one with what became of its letters, and some of them. Raises TransientError if there is none."""
        with self._reading() as (site, connection):
            found = selections.named_selection(connection, name)
            outcomes = selections.count_outcomes(connection, name)
            mask = Mask(site.channels)
            letters = [mask.brief(one) for one in pages.some_selected(connection, name, some)]
        return SelectionView(found, outcomes, letters)

    @contextmanager
    def _reading(self) -> Iterator[tuple[Site, Connection]]:
        site = self._exchange.site
        with transient_errors(), reading(site.engine) as connection:
            yield site, connection

    # To do something about

    def select(
        self, name: str, filters: Filters = _PARKED, *, who: str | None = None, reason: str | None = None
    ) -> Selection:
        """Freeze those that are meant now under a name. Raises TransientError if it is taken, or there is none."""
        site, wanted = self._exchange.site, letter_filters.check_selection_name(name)
        with self._act(site, "select_dead_letters", {"name": wanted, "filters": filters.as_dict()}, who, reason) as act:
            with transient_errors(), writing(site.engine) as connection:
                made = selections.create_selection(connection, wanted, filters)
            if act:
                act.came_to({"letters": made.letters})
        return made

    def unselect(self, name: str, *, who: str | None = None, reason: str | None = None) -> None:
        """Forget a selection; its letters stay as they are. Raises TransientError if it is being tried."""
        site, wanted = self._exchange.site, letter_filters.check_selection_name(name)
        with (
            self._act(site, "unselect_dead_letters", {"name": wanted}, who, reason),
            transient_errors(),
            writing(site.engine) as connection,
        ):
            background.refuse_open(connection, wanted)
            selections.delete_selection(connection, wanted)

    def export(
        self,
        file: Path,
        filters: Filters = _ALL,
        *,
        sensitive: bool = True,
        who: str | None = None,
        reason: str | None = None,
    ) -> ExportedLetters:
        """Write those that are meant to a new file, as ``file.export_letters`` says. Raises FileFault."""
        from exchange.dead_letters.file import export_letters

        site = self._exchange.site
        asked = {"file": str(file.absolute()), "filters": filters.as_dict()}
        with self._act(site, "export_dead_letters", asked, who, reason) as act:
            done = export_letters(site, file, filters, sensitive=sensitive)
            if act:
                act.came_to(done.as_dict())
        return done

    def import_file(self, file: Path, *, who: str | None = None, reason: str | None = None) -> ImportedLetters:
        """Bring those back that ``export`` wrote here or at the peer. Raises FileFault, and nothing was changed."""
        from exchange.dead_letters.file import import_letters

        site = self._exchange.site
        with self._act(site, "import_dead_letters", {"file": str(file.absolute())}, who, reason) as act:
            done = import_letters(site, file)
            if act:  # what was wrong with each is for the person here: it may quote a value
                act.came_to({name: value for name, value in done.as_dict().items() if name != "sentences"})
        return done

    def retry(
        self, ids: Sequence[int], *, rehearse: bool = False, who: str | None = None, reason: str | None = None
    ) -> Sequence[Retried]:
        """Try parked ones again, with every check that a batch's record meets; give what became of each.

        To ``rehearse`` says what would become of them and changes nothing. Raises Busy, TransientError.
        """
        site = self._exchange.site
        with self._act(site, "retry_dead_letter", {"ids": list(ids)}, who, reason, rehearsal=rehearse) as act:
            done = retry.retry_letters(site, ids, rehearse=rehearse)
            if act:
                act.came_to({"dead_letters": [one.without_values().as_dict() for one in done]})
        return done

    def count_left(self, selection: str) -> int:
        """Count the letters of a selection that were not tried yet. Raises TransientError if there is none."""
        return bulk_retry.count_left(self._exchange.site, selection)

    def retry_selection(
        self,
        selection: str,
        pace: Pace | None = None,
        *,
        rehearse: bool = False,
        again: bool = False,
        skip_changed: bool = False,
        stopping: Callable[[], bool] = lambda: False,
        report: Report = lambda _retried: None,
        who: str | None = None,
        reason: str | None = None,
    ) -> BulkRetry:
        """Try what is left of a selection, group by group, as ``bulk_retry.retry_selection`` says."""
        site, pace = self._exchange.site, pace or Pace()
        if not rehearse:
            with transient_errors(), reading(site.engine) as connection:
                background.refuse_open(connection, selection)
        asked = {"selection": selection, **vars(pace), "again": again, "skip_changed": skip_changed}
        with self._act(site, "retry_dead_letter", asked, who, reason, rehearsal=rehearse) as act:
            done = bulk_retry.retry_selection(
                site,
                selection,
                pace,
                rehearse=rehearse,
                again=again,
                skip_changed=skip_changed,
                stopping=stopping,
                report=report,
            )
            if act:
                act.came_to(done.as_dict())
        return done

    def retry_in_background(
        self,
        selection: str,
        pace: Pace | None = None,
        *,
        again: bool = False,
        skip_changed: bool = False,
        who: str | None = None,
        reason: str | None = None,
    ) -> BackgroundRetry:
        """Have what is left of a selection tried by whoever has time, as ``background.begin`` says."""
        site, pace = self._exchange.site, pace or Pace()
        asked = {"selection": selection, **vars(pace), "again": again, "skip_changed": skip_changed}
        with self._act(site, "retry_dead_letter", asked | {"background": True}, who, reason) as act:
            begun = background.begin(site, selection, pace, again=again, skip_changed=skip_changed, why=reason)
            if act:
                act.came_to(begun.as_dict())
        return begun

    def retries(self, selection: str | None = None, limit: int | None = None) -> Sequence[BackgroundRetry]:
        """Give the retries in the background that are kept, of all selections or of one, newest first."""
        with self._reading() as (_, connection):
            return background.list_retries(connection, selection=selection, limit=limit)

    def find_retry(self, number: int) -> BackgroundRetry:
        """Give a retry in the background by its number. Raises TransientError if there is none."""
        with self._reading() as (_, connection):
            return background.find(connection, number)

    def pause_retry(self, number: int, reason: str, *, who: str | None = None) -> BackgroundRetry:
        """Have a retry in the background stand still: what it is at is undone, nothing else begun."""
        return self._change_retry("pause_retry", background.pause, number, reason, who)

    def resume_retry(self, number: int, reason: str, *, who: str | None = None) -> BackgroundRetry:
        """Let a retry in the background go on that was paused."""
        return self._change_retry("resume_retry", background.resume, number, reason, who)

    def cancel_retry(self, number: int, reason: str, *, who: str | None = None) -> BackgroundRetry:
        """End a retry in the background where it is."""
        return self._change_retry("cancel_retry", background.cancel, number, reason, who)

    def _change_retry(
        self,
        action: str,
        change: Callable[[Site, int, str], BackgroundRetry],
        number: int,
        reason: str,
        who: str | None,
    ) -> BackgroundRetry:
        """Change a retry; the audit has who asked for it, too."""
        site = self._exchange.site
        of = self.find_retry(number)
        asked = {"retry": number, "selection": of.selection, "of": of.who}
        with self._act(site, action, asked, who, reason) as act:
            changed = change(site, number, reason)
            if act:
                act.came_to(changed.as_dict())
        return changed

    def work_off(
        self,
        *,
        stopping: Callable[[], bool] = lambda: False,
        report: Callable[[BackgroundRetry], None] = lambda _retry: None,
        who: str | None = None,
        reason: str | None = None,
    ) -> bool:
        """Work on the retries in the background for a while; say whether more is to be done at once.

        It is in the audit if somebody is named or gives a reason: beat does the same.
        """
        site = self._exchange.site
        named = who is not None or reason is not None
        with self._act(site, "work_retries", {}, who, reason, rehearsal=not named) as act:
            more = background.work_off(site, stopping, report=report)
            if act:
                act.came_to({"more": more})
        return more

    def discard(
        self,
        reason: str,
        ids: Sequence[int] = (),
        *,
        selection: str | None = None,
        skip_changed: bool = False,
        who: str | None = None,
    ) -> int:
        """Give parked ones up, all that are named or none; give how many. Raises TransientError if one can't be."""
        site = self._exchange.site
        asked = {"ids": list(ids) or None, "selection": selection}
        frozen = {"skip_changed": skip_changed}
        with self._act(site, "discard_dead_letter", asked, who, reason, frozen=frozen) as act:
            number = discard.discard_letters(site, reason, ids=ids, selection=selection, skip_changed=skip_changed)
            if act:
                act.came_to({"discarded": number})
        return number

    def restore(
        self, reason: str, ids: Sequence[int] = (), *, selection: str | None = None, who: str | None = None
    ) -> int:
        """Park again what was discarded, all that are named or none. Raises TransientError if one can't be."""
        site = self._exchange.site
        asked = {"ids": list(ids) or None, "selection": selection}
        with self._act(site, "restore_dead_letter", asked, who, reason) as act:
            number = discard.restore_letters(site, reason, ids=ids, selection=selection)
            if act:
                act.came_to({"restored": number})
        return number

    def rehearse(
        self,
        selection: str,
        *,
        again: bool = False,
        skip_changed: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Sequence[Outcome]:
        """Say what would become of what is left of a selection, by outcome, the largest group first.

        Changes nothing. Raises Busy, TransientError.
        """
        outcomes = Outcomes()
        self.retry_selection(
            selection,
            rehearse=True,
            again=again,
            skip_changed=skip_changed,
            stopping=stopping,
            report=lambda retried: outcomes.add([one.without_values() for one in retried]),
        )
        return outcomes.groups()

    def lines(self, filters: Filters = _PARKED, *, at_a_time: int = 200) -> Iterator[str]:
        """Give the letters that are meant as lines of JSON, newest first, so many in memory at a time.

        They are what lists have of them, without records and without what is sensitive.
        """
        after: int | None = None
        while True:
            page = self.list(filters, limit=at_a_time, after=after)
            for one in page.letters:
                yield json.dumps(one.as_dict(), ensure_ascii=False)
            after = page.after
            if after is None:
                return

    def begin_edit(self, letter_id: int) -> Draft:
        """Give a parked one as it is to be mended. Raises TransientError if it is none that can be."""
        return editing.begin_edit(self._exchange.site, letter_id)

    def check_edit(self, draft: Draft, record: bytes) -> Checked:
        """Check a mended record as ``save_edit`` does, and keep nothing. Raises EditRefused."""
        return editing.check_edit(self._exchange.site, draft, record)

    def save_edit(
        self, draft: Draft, record: bytes, reason: str, *, pointers: Sequence[str] = (), who: str | None = None
    ) -> Edited:
        """Check a mended record and keep it beside the one that came, for a retry to take.

        ``pointers`` to what was changed go to the audit. Raises TransientError, with nothing changed, if it is no
        record of this key and version, breaks its schema, or is as it was.
        """
        site = self._exchange.site
        asked = {"id": draft.letter.id, "pointers": list(pointers) or None}
        with self._act(site, "edit_dead_letter", asked, who, reason) as act:
            done = editing.save_edit(site, draft, record, reason)
            if act:
                act.came_to({"revision": done.revision})
        return done

    def edit(
        self,
        letter_id: int,
        reason: str,
        *,
        values: Mapping[str, Any] | None = None,
        removed: Sequence[str] = (),
        who: str | None = None,
    ) -> Edited:
        """Set values of a parked one's record by JSON pointers, such as ``/data/status``, and remove others."""
        draft = self.begin_edit(letter_id)
        setting = [f"{pointer}={strict_json.dumps(value).decode()}" for pointer, value in (values or {}).items()]
        record = editing.with_changes(draft, setting, removed)
        return self.save_edit(draft, record, reason, pointers=[*(values or {}), *removed], who=who)

    def _act(
        self,
        site: Site,
        action: str,
        arguments: dict[str, Any],
        who: str | None,
        why: str | None,
        *,
        rehearsal: bool = False,
        frozen: Mapping[str, Any] | None = None,
    ) -> AbstractContextManager[Done | None]:
        return nullcontext() if rehearsal else self._exchange.act(site, action, arguments, who, why, frozen)
