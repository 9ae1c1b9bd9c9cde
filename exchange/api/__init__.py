"""One side of the exchange for a Python program: ``from exchange import Exchange``.

    with Exchange.from_settings() as exchange:
        exchange.export()
        print(exchange.status().as_dict())

The command line and the tasks call the same methods. What only a person can mend is raised in one sentence:
SettingsFaults, RefusedArgument, TransientError, Busy (somebody else is at work; the same call goes on later).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from exchange.api.acts import Act, Acting, Door, NeedsSecondPerson, RefusedArgument, by_program, never
from exchange.format.errors import Problem, RecordError, TransientError, printable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path
    from typing import BinaryIO

    from sqlalchemy import Engine

    from exchange.api.acts import Asker, Done
    from exchange.api.agreement import Agreement
    from exchange.api.audit import Audit
    from exchange.api.batches import Batches
    from exchange.api.dead_letters import DeadLetters
    from exchange.api.epochs import Epochs
    from exchange.api.files import Files
    from exchange.api.gaps import Gaps
    from exchange.api.keys import Keys
    from exchange.api.pending import Pending
    from exchange.api.people import People
    from exchange.api.quarantine import Quarantine
    from exchange.api.requesters import Requesters
    from exchange.api.schemas import Schemas
    from exchange.api.second_person import Proposals
    from exchange.api.versions import Versions
    from exchange.channels.channel import Channel
    from exchange.database.tables import Direction
    from exchange.incoming.replay import Replayed
    from exchange.intake.extract import Extracted
    from exchange.operating.backup import BackedUp
    from exchange.operating.channels import ListedChannel, PausedOrResumed
    from exchange.operating.crossed import Crossed
    from exchange.operating.doctor import Finding
    from exchange.operating.happenings import Happening
    from exchange.operating.overview import Overview
    from exchange.operating.prune import Pruned
    from exchange.operating.reloading import Answer
    from exchange.operating.schedule import Schedule
    from exchange.operating.shown_settings import ShownSetting
    from exchange.operating.status import Status
    from exchange.progress import Progress
    from exchange.results import ExportRun, ImportRun, Resynced
    from exchange.settings import Settings
    from exchange.site import Site
    from exchange.watching.alarms import Silence
    from exchange.watching.health import Health
    from exchange.watching.silencing import Alarms
    from exchange.watching.watcher import Trial

__all__ = ["Exchange", "NeedsSecondPerson", "RefusedArgument"]


class Exchange:
    """One side: its settings, channels and keys, and a database that is opened when it is first needed.

    Any number of threads may use one; each call opens transactions of its own and holds nothing when it returns. After
    a fork it opens a database of its own, unless an engine was given: that one's owner disposes of it there.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        engine: Engine | None = None,
        channels: Sequence[Channel] | None = None,
        acting: Acting = by_program,
        ready: bool = False,
    ) -> None:
        """Take settings as they are; programs call ``from_settings``.

        ``acting`` writes down who asked; ``ready`` says that the database need not be looked at first.
        """
        self.settings = settings
        self._given = engine
        self._channels = channels
        self._acting = acting
        self._ready = ready
        self._made: tuple[int, Site] | None = None

    @classmethod
    def from_settings(
        cls, *, engine: Engine | None = None, channels: Sequence[Channel] | None = None, **settings: Any
    ) -> Self:
        """Read ``EXCHANGE_*`` variables and the ``.env``; ``settings`` by their fields' names count before those.

        ``engine`` is the application's own, whose pool is shared (see ``exchange.database.borrowed``); ``channels``
        take the place of those that EXCHANGE_APP names. Opens nothing. Raises SettingsFaults with every fault, and
        EngineRefused for an engine that can't be shared.
        """
        from exchange.settings import load_settings

        if engine is not None:
            from exchange.database.borrowed import borrow_engine

            borrow_engine(engine)  # refused at once
            if engine.url.database:  # else it is known to the engine's own ``creator`` alone
                settings["database_url"] = engine.url.render_as_string(hide_password=False)
                settings["database_password_file"] = None
        made = cls(load_settings(settings), engine=engine, channels=channels)
        made._assembled()
        return made

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def on_behalf(self, acting: Acting) -> Self:
        """Give the same side, with the same connections, whose acts somebody else asks for; only this one is closed."""
        self._assembled()
        other = copy(self)
        other._acting = acting  # noqa: SLF001 - our own
        return other

    def close(self) -> None:
        """Let go of the database; an engine that was given stays as it is. It may be used again after that."""
        if self._made is not None and self._made[0] == os.getpid():
            self._made[1].engine.dispose()
        self._made = None

    @property
    def site(self) -> Site:
        """This side as workflows see it, with the keys that are there now.

        Raises SettingsFaults, and TransientError if the database is away, not made yet or somebody else's.
        """
        from exchange.operating.assemble import with_present_keys

        fresh = self._made is None or self._made[0] != os.getpid()
        site = self._assembled() if fresh else with_present_keys(self._assembled(), self.settings)
        self._refuse_unready(site)
        return site

    @property
    def engine(self) -> Engine:
        """This side's database. Raises SettingsFaults, and TransientError as ``site`` does; no key is looked at."""
        site = self._assembled()
        self._refuse_unready(site)
        return site.engine

    def _refuse_unready(self, site: Site) -> None:
        if not self._ready:
            refuse_unready(site)
            self._ready = True

    def without_key(self, name: str) -> Site:
        """Give this side as if it did not trust the key of one name: nobody looks at its file. Raises as ``site``."""
        from exchange.operating.assemble import assemble

        known = self._made is not None and self._made[0] == os.getpid()
        engine = self._made[1].engine if self._made is not None and known else self._borrowed()
        site = assemble(self.settings, distrusting=name, engine=engine, channels=self._channels)
        if not known:
            self._made = os.getpid(), site
        refuse_unready(site)
        return site

    @property
    def progress(self) -> Progress | None:
        """How far the work at hand is; None before any was begun."""
        return None if self._made is None else self._made[1].progress

    def _assembled(self) -> Site:
        from exchange.operating.assemble import assemble

        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), assemble(self.settings, engine=self._borrowed(), channels=self._channels)
        return self._made[1]

    def _borrowed(self) -> Engine | None:
        if self._given is None:
            return None
        from exchange.database.borrowed import borrow_engine

        return borrow_engine(self._given, lock_seconds=self.settings.lock_seconds)

    def act(
        self,
        site: Site,
        action: str,
        arguments: dict[str, Any],
        who: str | None,
        why: str | None,
        frozen: Mapping[str, Any] | None = None,
    ) -> AbstractContextManager[Done]:
        """Do a piece of work, the block, in somebody's name, unless it needs a second person.

        ``frozen`` is as an Act has it. Raises NeedsSecondPerson: then it was proposed, and nothing else was done.
        """
        return self._acting(site, Act(action, arguments, who, why, frozen or {}))

    def asker(self, who: str | None) -> Asker:
        """Say who asks. Raises RefusedArgument where nobody knows."""
        door: object = self._acting
        if isinstance(door, Door):
            return door.asker(who)
        raise RefusedArgument("nobody is known here to ask for it; ask on the command line or in the console")

    # What beat does, too

    def export(
        self,
        channel: str | None = None,
        *,
        stopping: Callable[[], bool] = never,
        hand_over: Callable[[str], None] | None = None,
        who: str | None = None,
        reason: str | None = None,
    ) -> ExportRun:
        """Export what changed, of one channel or of all, and tell the other side what it is to know.

        ``stopping`` is asked between batches; with ``hand_over`` channels that have something are handed to somebody
        who exports them beside this run. Channels that somebody else works on are named in the result.
        """
        from exchange.outgoing import control_batch, exporter

        site = self.site
        _check_channel(site, channel, sent=True)
        with self.act(site, "export", {"channel": channel}, who, reason) as act:
            run = exporter.export(site, channel=channel, stopping=stopping, hand_over=hand_over)
            if channel is None:
                run = replace(run, untold=control_batch.after_export(site))
            act.came_to(run.as_dict())
        return run

    def import_batches(
        self,
        channel: str | None = None,
        *,
        batch: str | None = None,
        release: bool = False,
        stopping: Callable[[], bool] = never,
        hand_over: Callable[[str], None] | None = None,
        who: str | None = None,
        reason: str | None = None,
    ) -> ImportRun:
        """Take in what arrived, of one channel, one batch or all; each batch whole, in a transaction of its own.

        Batches that are refused or held are outcomes, not errors. ``release`` lets in a ``batch`` that deletes more, or
        is newer, than the settings allow. The other side is told what became of its batches.
        """
        from exchange.incoming import importer
        from exchange.outgoing import control_batch

        site = self.site
        _check_channel(site, channel, sent=False)
        asked = {"channel": channel, "batch": batch, "release": release or None}
        with self.act(site, "import", asked, who, reason) as act:
            run = importer.import_batches(
                site, channel=channel, stem=batch, release=release, stopping=stopping, hand_over=hand_over
            )
            run = replace(run, untold=control_batch.after_import(site, run.batches, stopping))
            act.came_to(run.as_dict())
        return run

    # What is asked for by somebody

    def replay(
        self,
        batch: str,
        through: int | None = None,
        *,
        release: bool = True,
        stopping: Callable[[], bool] = never,
        who: str | None = None,
        reason: str | None = None,
    ) -> Replayed:
        """Apply a kept batch again, or a range of them; one that was applied stays as it is.

        With ``release`` too many deletes are let in, which is whoever asks's word, but where a release takes two.
        """
        from exchange.incoming import replay
        from exchange.limits import Held
        from exchange.outgoing import control_batch

        site = self.site
        release = release and Held.RELEASE not in site.limits.four_eyes
        with self.act(site, "replay_batch", {"batch": batch, "through": through}, who, reason) as act:
            done = replay.replay_batches(site, batch, through, stopping, release=release)
            done = replace(done, untold=control_batch.after_import(site, done.batches, stopping))
            act.came_to(done.as_dict())
        return done

    def resync(
        self,
        channel: str,
        streams: Sequence[str] | None = None,
        *,
        prune: bool = False,
        stopping: Callable[[], bool] = never,
        who: str | None = None,
        reason: str | None = None,
    ) -> Resynced:
        """Have whole tables of a channel sent as they are now, and send what can be sent at once.

        With ``prune`` rows are removed over there that are not here.
        """
        from exchange.link import send_requests
        from exchange.outgoing import exporter
        from exchange.results import Resynced

        site = self.site
        _check_channel(site, channel or "", sent=True)
        asked_for = {"channel": channel, "streams": list(streams) if streams else None, "prune": prune}
        with self.act(site, "resync", asked_for, who, reason) as act:
            try:
                asked = send_requests.add_snapshot_requests(site, channel, streams, prune=prune, reason=reason)
            except RecordError as error:
                raise RefusedArgument(f"{error.sentence}; nothing was done") from error
            run = exporter.export(site, channel=channel, stopping=stopping)
            done = Resynced(run, asked, send_requests.count_open_requests(site, channel))
            act.came_to(done.as_dict())
        return done

    def extract(
        self,
        stream: str,
        to: Path | None,
        *,
        where: Sequence[str] = (),
        columns: Sequence[str] = (),
        format: str | None = None,  # noqa: A002 - what the command calls it
        raw: bool = False,
        sensitive: bool = False,
        replace: bool = False,
        out: BinaryIO | None = None,
        stopping: Callable[[], bool] = never,
        who: str | None = None,
        reason: str | None = None,
    ) -> Extracted:
        """Write rows of a stream to a new file, as ``exchange extract`` does; ``to`` None writes them to ``out``.

        ``where`` are conditions such as ``"celsius>=80"``. Raises RefusedArgument, OSError: then there is no file.
        """
        from exchange.intake.extract import Asked, ExtractRefused, extract

        site = self.site
        asked = Asked(stream, to and to.absolute(), format, columns, where, sensitive, raw, replace)
        try:
            with self.act(site, "extract", asked.as_dict(), who, reason) as act:
                done = extract(site, asked, out=out, stopping=stopping)
                act.came_to(done.without_values())
        except ExtractRefused as error:
            raise RefusedArgument(f"{error}; nothing was written") from error
        return done

    def backup(
        self,
        to: Path | None = None,
        *,
        recipient: str | None = None,
        who: str | None = None,
        reason: str | None = None,
    ) -> BackedUp:
        """Make a backup in a new folder below ``to`` (default: EXCHANGE_BACKUP_TO), and let go of old ones there.

        Keys are in it, encrypted, if there is a ``recipient`` (default: EXCHANGE_BACKUP_RECIPIENT).
        """
        from exchange.operating.backup import back_up

        site = self.site
        asked = {"to": str(to or self.settings.backup_to), "recipient": recipient}
        with self.act(site, "backup", asked, who, reason) as act:
            done = back_up(site, self.settings, to, recipient)
            act.came_to(done.as_dict())
        return done

    @property
    def batches(self) -> Batches:
        """What became of every batch, and what can be done about one."""
        from exchange.api.batches import Batches

        return Batches(self)

    @property
    def gaps(self) -> Gaps:
        """Batches that others came before."""
        from exchange.api.gaps import Gaps

        return Gaps(self)

    @property
    def quarantine(self) -> Quarantine:
        """Batches whose files were refused."""
        from exchange.api.quarantine import Quarantine

        return Quarantine(self)

    @property
    def pending(self) -> Pending:
        """Changes that were captured and no batch carries yet."""
        from exchange.api.pending import Pending

        return Pending(self)

    @property
    def versions(self) -> Versions:
        """Versions that are ahead of this side's clock."""
        from exchange.api.versions import Versions

        return Versions(self)

    @property
    def files(self) -> Files:
        """Files of rows that people dropped, and their folders."""
        from exchange.api.files import Files

        return Files(self)

    @property
    def dead_letters(self) -> DeadLetters:
        """Records that did not take effect, and what can be done with them."""
        from exchange.api.dead_letters import DeadLetters

        return DeadLetters(self)

    @property
    def agreement(self) -> Agreement:
        """How the rows of both sides compare, and having them compared again."""
        from exchange.api.agreement import Agreement

        return Agreement(self)

    @property
    def epochs(self) -> Epochs:
        """The lives of both databases, and a person's word on them."""
        from exchange.api.epochs import Epochs

        return Epochs(self)

    @property
    def keys(self) -> Keys:
        """Who signs here, and who is trusted."""
        from exchange.api.keys import Keys

        return Keys(self)

    @property
    def audit(self) -> Audit:
        """What was done by hand."""
        from exchange.api.audit import Audit

        return Audit(self)

    @property
    def proposals(self) -> Proposals:
        """What one person proposed and another one is to confirm."""
        from exchange.api.second_person import Proposals

        return Proposals(self)

    @property
    def people(self) -> People:
        """Who may sign in to the console, who is, and the tokens of programs."""
        from exchange.api.people import People

        return People(self)

    @property
    def requesters(self) -> Requesters:
        """Who may ask over HTTP: passwords and sessions of the directory's users, and keys of programs."""
        from exchange.api.requesters import Requesters

        return Requesters(self)

    @property
    def schemas(self) -> Schemas:
        """What the records of each stream are."""
        from exchange.api.schemas import Schemas

        return Schemas(self)

    def prune(self, *, who: str | None = None, reason: str | None = None) -> Pruned:
        """Remove files and settled dead letters beyond their retention; give how many of each kind."""
        from exchange.operating.prune import prune_expired

        site = self.site
        with self.act(site, "prune", {}, who, reason) as act:
            done = prune_expired(site)
            act.came_to(done.as_dict())
        return done

    def reload(self, *, who: str | None = None, reason: str | None = None) -> list[Answer]:
        """Have the running processes of this home read the settings anew; give what each answered.

        They are read and checked first: raises SettingsFaults, and nobody is asked.
        """
        from exchange.operating.reloading import ask_all
        from exchange.settings import load_settings

        fresh, site = load_settings(), self.site
        with self.act(site, "reload", {}, who, reason) as act:
            answers = ask_all(fresh)
            act.came_to({"processes": [f"{one.process} {one.state}" for one in answers]})
        return answers

    # How this side is

    def status(self) -> Status:
        """Say how far each channel is, and what waits for somebody."""
        from exchange.operating.status import read_status

        return read_status(self.site)

    def overview(self) -> Overview:
        """Say where rows are between both sides' databases, and what shows that each stretch of the link works."""
        from exchange.operating.overview import read_overview

        return read_overview(self.site)

    def happenings(self) -> list[Happening]:
        """Give what happened last, newest first: changes of state, acts of people, and alarms."""
        from exchange.operating.happenings import read_happenings

        return read_happenings(self.site)

    def crossed(self, since: datetime) -> Crossed:
        """Count what crossed since a moment, by channel, direction and hour."""
        from exchange.operating.crossed import read_crossed

        return read_crossed(self.site, since)

    def absences(self) -> list[Problem]:
        """Say what is not done any more and which process is missing."""
        from exchange.operating.doctor import Level
        from exchange.operating.doctor.presence import check_presence

        found = (one for one in check_presence(self.settings, self.site) if one.level is not Level.OK)
        return [Problem(one.message, one.remedy, one.command, one.since) for one in found]

    def schedule(self) -> Schedule:
        """Say what beat does when, when each channel was last done and is due, and which processes are there."""
        from exchange.operating.schedule import read_schedule

        return read_schedule(self.settings, self.site)

    def shown_settings(self) -> list[ShownSetting]:
        """Give all settings as people may see them: no secret is in it."""
        from exchange.operating.shown_settings import shown_settings

        return shown_settings(self.settings)

    def findings(self, *, work: bool = True) -> list[Finding]:
        """Look at everything, as ``exchange doctor`` does; without ``work`` only at the installation."""
        from exchange.operating.doctor.examine import examine_side

        return list(examine_side(self.settings, self._keyless, work=work))

    def health(self, seconds: float = 2.0) -> Health:
        """Say at a glance how this side is, as ``exchange health`` does; of a part that hangs so long it says that.

        A program that asks all the time asks ``exchange serve`` for ``/health/ready``, which keeps its connections.
        """
        from exchange.watching.health import Looker

        looker = Looker(self.settings, self._keyless)
        try:
            return looker.read(seconds)
        finally:
            looker.close()

    def alarms(self) -> Alarms:
        """Give what stands since when, who was told, what is silenced and what was not delivered.

        That is what ``exchange serve`` or ``exchange watch`` found when it looked last; if the database was away then,
        it comes from its file.
        """
        from exchange.watching.silencing import from_file, read_alarms

        return from_file(self.settings) or read_alarms(self.site)

    def silence_alarm(
        self, alarm: str, length: str, reason: str, *, subject: str | None = None, who: str | None = None
    ) -> Silence:
        """Have nobody told of an alarm for a length of time such as 2h; of one subject, or of all. It still stands."""
        from exchange.database.whoami import acting_person, user
        from exchange.watching import silencing

        try:
            for_so_long, name = silencing.length_of(length), silencing.check_alarm(alarm)
        except ValueError as error:
            raise RefusedArgument(f"{error}; nothing was done") from error
        site, asked = self.site, {"alarm": alarm, "subject": subject or None, "length": length}
        with self.act(site, "silence_alarm", asked, who, reason) as act:
            person = who or acting_person.get() or user()
            made = silencing.silence(site, name, subject or "", for_so_long, reason, person)
            act.came_to(made.as_dict())
        return made

    def unsilence_alarm(
        self, alarm: str, *, subject: str | None = None, who: str | None = None, reason: str | None = None
    ) -> None:
        """Have people told of an alarm again. Raises RefusedArgument if it is not silenced."""
        from exchange.watching import silencing

        site, asked = self.site, {"alarm": alarm, "subject": subject or None}
        with self.act(site, "unsilence_alarm", asked, who, reason) as act:
            try:
                silencing.unsilence(site, silencing.check_alarm(alarm), subject or "")
            except ValueError as error:
                raise RefusedArgument(f"{error}; nothing was done") from error
            act.came_to(asked)

    def test_alarms(self, *, who: str | None = None, reason: str | None = None) -> list[Trial]:
        """Send a trial message to everybody who is told; give what each answered."""
        from exchange.database.whoami import acting_person, user
        from exchange.watching.watcher import try_targets

        with self.act(self.site, "test_alarms", {}, who, reason) as act:
            answers = try_targets(self.settings, who or acting_person.get() or user())
            act.came_to({one.target: one.said for one in answers})
        return answers

    def _keyless(self) -> Site:
        from exchange.operating.assemble import assemble

        return assemble(self.settings, keyless=True, engine=self._borrowed(), channels=self._channels)

    # Channels

    def channels(self) -> list[ListedChannel]:
        """Give all declared channels, each with how it stands: whether it is paused, what waits, when it was done."""
        from exchange.operating.channels import list_channels

        return list_channels(self.site)

    def waiting_files(self) -> Problem | None:
        """Say how many batches of paused channels lie in ``incoming/``, and how much room is left there."""
        from exchange.operating.channels import waiting_files

        return waiting_files(self.site)

    def pause(
        self, channel: str, reason: str, *, direction: str | None = None, who: str | None = None
    ) -> PausedOrResumed:
        """Have a channel stand still from now on, and tell the other side; a batch at hand ends.

        Raises RefusedArgument for one that is not declared here, or goes the other way than ``direction`` says.
        """
        from exchange.operating.channels import pause_channel

        return self._stand_still("pause_channel", pause_channel, channel, reason, direction, who)

    def resume(
        self, channel: str, reason: str, *, direction: str | None = None, who: str | None = None
    ) -> PausedOrResumed:
        """Let a channel go on that was paused. Raises as ``pause`` does, and for one that a setting names."""
        from exchange.operating.channels import resume_channel

        def resumed(site: Site, name: str, _reason: str, way: Direction | None) -> PausedOrResumed:
            return resume_channel(site, name, way)

        return self._stand_still("resume_channel", resumed, channel, reason, direction, who)

    def _stand_still(
        self,
        action: str,
        work: Callable[[Site, str, str, Direction | None], PausedOrResumed],
        channel: str,
        reason: str,
        direction: str | None,
        who: str | None,
    ) -> PausedOrResumed:
        from exchange.database.tables import Direction

        if direction not in {None, *Direction}:
            raise RefusedArgument(f"direction: expected in or out, found {printable(repr(direction), 80)}")
        way = None if direction is None else Direction(direction)
        site = self.site
        with self.act(site, action, {"channel": channel, "direction": direction}, who, reason) as act:
            try:
                done = work(site, channel, reason, way)
            except RecordError as error:
                raise RefusedArgument(f"{error.sentence}; nothing was changed") from error
            act.came_to(done.as_dict())
        return done

    def migrate(self) -> None:
        """Make folders and the exchange's own tables as this version needs them, as ``exchange migrate`` does."""
        from exchange.operating.prepare import make_ready

        make_ready(self._assembled(), self.settings)


def _check_channel(site: Site, channel: str | None, *, sent: bool) -> None:
    """Check the name of a channel that is sent or received here; None means all. Raises RefusedArgument."""
    from exchange.api.arguments import check_channel

    check_channel(channel, site.outgoing() if sent else site.incoming(), "sent" if sent else "received")


def refuse_unready(site: Site) -> None:
    """See that the database is there, is this network's and this home's.

    Raises TransientError if it is away, not made yet or somebody else's.
    """
    from exchange.database import network
    from exchange.database.engine import missing_file
    from exchange.database.errors import transient_errors
    from exchange.database.locks import reading
    from exchange.link.home import refuse_other_home

    missing = missing_file(site.engine)
    if missing is not None:
        raise TransientError(f"{missing}: there is no database yet; `exchange migrate` makes it")
    with transient_errors(), reading(site.engine) as connection:
        network.known_epoch(connection, site.network)
        refuse_other_home(site, connection)
