"""``exchange demo``: both networks on this machine, as in life but for the distance.

Each has its own database, broker, worker and beat, run by ``exchange up``; a carrier moves files between
them. Nothing is staged for show: what the report says is read back from the two databases and the folders.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from exchange.channels.channel import Channel
from exchange.channels.stream import Stream
from exchange.database.engine import make_engine, sqlite_url
from exchange.database.locks import reading
from exchange.database.tables import BatchState, DeadLetterState, Direction, GapState, batch, change, gap
from exchange.dead_letters import filters, pages, store
from exchange.format.errors import printable
from exchange.format.names import MANIFEST_ENDING
from exchange.reference import channels
from exchange.reference.models import ProfileType, Response, User
from exchange.reference.submit import submit
from exchange.testing.carrier import Carrier
from exchange.testing.servers import free_port

EVERY_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
USERS = (("alice", "standard"), ("bob", "basic"), ("carol", "urgent"))
REQUESTS = 12
VISITOR = "demo"
"""Who may sign in to the consoles that are kept, with a password that is made then."""
LOSES_EACH = 5
ASKS_EVERY_SECONDS = 3.0


class DemoFailed(Exception):  # noqa: N818 - what the last line says
    """Something did not come about; the text says what was waited for, and where the logs are."""


@dataclass(frozen=True)
class Network:
    """One side: its folder, its settings file and its database."""

    name: str
    peer: str
    home: Path
    port: int | None = None
    """Where its console is served, if it is."""

    @property
    def env_file(self) -> Path:
        """The settings of this side."""
        return self.home / "settings.env"

    @property
    def log(self) -> Path:
        """Everything that broker, worker and beat of this side say."""
        return self.home / "up.log"

    def engine(self) -> Engine:
        """Open the database beside the worker, as the application would."""
        return make_engine(sqlite_url(self.home / "exchange.db"))

    def environment(self) -> dict[str, str]:
        """Give commands this side's settings, whatever this process has."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("EXCHANGE_")}
        return clean | {"EXCHANGE_ENV_FILE": str(self.env_file)}

    def command(self, *words: str, typed: str = "") -> str:
        """Run an ``exchange`` command as a person would, and give what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "exchange", *words],
            env=self.environment(),
            input=typed,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = printable(done.stderr.strip() or done.stdout.strip(), 400)
            raise DemoFailed(f"`exchange {' '.join(words)}` on the {self.name} network: {said}")
        return done.stdout

    def prepare(self) -> None:
        """Write the settings, make folders and a signing key, create the tables."""
        self.home.parent.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(mode=0o711)
        self.env_file.touch(mode=0o600)
        self.env_file.write_text(
            f"EXCHANGE_NETWORK={self.name}\nEXCHANGE_PEER={self.peer}\nEXCHANGE_HOME=.\n"
            f"EXCHANGE_EXPORT_EVERY={EVERY_SECONDS}\nEXCHANGE_IMPORT_EVERY={EVERY_SECONDS}\n"
            f"EXCHANGE_ANSWER_EVERY={EVERY_SECONDS}\nEXCHANGE_SETTLE_SECONDS=0.5\nEXCHANGE_GAP_SECONDS=0.5\n"
            + (f"EXCHANGE_SERVE=true\nEXCHANGE_SERVE_PORT={self.port}\n" if self.port else "")
        )
        self.command("init")
        self.command("migrate")

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run broker, worker and beat until the end or a SIGTERM, which stops them in order."""
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "exchange", "up"],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                process.terminate()
                process.wait()


class DemoCarrier(threading.Thread):
    """Carries files both ways until it is told to stop; damages one data file, or loses one, when asked to."""

    def __init__(self, request: Network, response: Network) -> None:
        super().__init__(name="courier", daemon=True)
        self.there = Carrier(
            request.home / "outgoing", response.home / "incoming", spoils=self._damages, loses=self._loses
        )
        self.back = Carrier(response.home / "outgoing", request.home / "incoming")
        self.spoil_next = threading.Event()
        self.lose_next = threading.Event()
        self.loses_each = 0
        """Of so many data files of requests one is lost, if not 0."""
        self._requests = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Make a round a few times a second."""
        while not self._ended.wait(0.3):
            self.there.carry()
            self.back.carry()

    def stop(self) -> None:
        """End after the round at hand."""
        self._ended.set()
        self.join()

    def _damages(self, name: str) -> bool:
        return _is_request_data(name) and _taken(self.spoil_next)

    def _loses(self, name: str) -> bool:
        if not _is_request_data(name):
            return False
        self._requests += 1
        return _taken(self.lose_next) or (self.loses_each > 0 and self._requests % self.loses_each == 0)


def _is_request_data(name: str) -> bool:
    return name.startswith("requests-") and name.endswith(".jsonl.zst")


def _taken(asked: threading.Event) -> bool:
    """Tell whether this was asked for, once."""
    if not asked.is_set():
        return False
    asked.clear()
    return True


def run_demo(home: Path, console: Console | None = None, *, keep: bool = False) -> bool:
    """Show it all below ``home``, which is made anew; say whether both databases agree at the end.

    To ``keep`` it leaves both sides at work, each with its console, until Ctrl-C or SIGTERM. Raises DemoFailed if
    something does not come about in time. Leaves nothing running.
    """
    show = console or Console()
    shutil.rmtree(home, ignore_errors=True)
    request, response = (
        Network("request", "response", home / "request", free_port() if keep else None),
        Network("response", "request", home / "response", free_port() if keep else None),
    )
    show.rule("[bold]two networks that share nothing but files")
    with _step(show, "each gets a database, folders and a signing key of its own, and trusts the other's public key"):
        _prepare(request, response)
    with ExitStack() as stack:
        with _step(show, "broker, worker and beat start on each side; a carrier moves files between them"):
            sides = [stack.enter_context(network.running()) for network in (request, response)]
            courier = DemoCarrier(request, response)
            courier.start()
            stack.callback(courier.stop)
        story = Scenario(request, response, courier)
        with _step(show, f"the response network adds {len(USERS)} users: the request network learns of them"):
            story.add_users()
        with _step(show, f"users submit {REQUESTS} requests there: each is answered here, and the answers cross back"):
            story.ask_and_answer()
        with _step(show, "the carrier damages a file: it is quarantined, changes nothing, and is sent again unasked"):
            damage = story.damage_a_file()
        show.print(f"    [yellow]{printable(damage, 300)}", soft_wrap=True, highlight=False)
        with _step(
            show, "the carrier loses a file: the gap is seen, the sender is told, and the file comes back by itself"
        ):
            loss = story.lose_a_file()
        show.print(f"    [yellow]{printable(loss, 300)}", soft_wrap=True, highlight=False)
        with _step(
            show, "the response network's database refuses a record: it is parked, the others of its batch apply"
        ):
            refusal = story.be_refused()
        show.print(f"    [yellow]{printable(refusal, 300)}", soft_wrap=True, highlight=False)
        with _step(show, "everything is answered"):
            story.settle()
        agreed = _report(show, request, response)
        if keep:
            _keep(show, story, (request, response))
        with _step(show, "workers, beats, brokers and the carrier stop in order"):
            courier.stop()
            for side in sides:  # both at once: each stops its own in order
                side.terminate()
            stack.close()
    _next_commands(show, response)
    return agreed


def _keep(show: Console, story: Scenario, networks: Sequence[Network]) -> None:
    """Leave both sides at work, with somebody who asks and a carrier that loses files, until Ctrl-C or SIGTERM."""
    password = secrets.token_urlsafe(12)
    for network in networks:
        network.command(
            "users", "add", VISITOR, "--role", "administrator", "--password-file", "-", typed=f"{password}\n"
        )
    show.print(f"\nBoth sides go on, and the carrier loses each {LOSES_EACH}th file of requests. Their consoles:")
    for network in networks:
        show.print(f"  {network.name:10} http://127.0.0.1:{network.port}/", soft_wrap=True)
    show.print(f"Sign in as {VISITOR} with {password}; Ctrl-C ends it.", soft_wrap=True, highlight=False)
    ended = threading.Event()
    before = {one: signal.signal(one, lambda *_: ended.set()) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        story.go_on(ended)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _prepare(request: Network, response: Network) -> None:
    both = (request, response)
    threads = [threading.Thread(target=network.prepare) for network in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for network, other in (both, both[::-1]):
        if not any((other.home / "keys").glob("*.pem")):
            raise DemoFailed(f"the {other.name} network was not set up; run `exchange init` there to see why")
        key = json.loads(other.command("init", "--json"))  # changes nothing, and says what its key is
        network.command("keys", "trust", key["public_key"], "--fingerprint", key["fingerprint"])
    response.command("seed")


class Scenario:
    """What happens, in the order in which it is shown. Each part waits until the other side really has it."""

    def __init__(self, request: Network, response: Network, courier: DemoCarrier) -> None:
        self._request = request.engine()
        self._response = response.engine()
        self._courier = courier
        self._logs = f"see {request.log} and {response.log}"
        self._asked = 0

    def add_users(self) -> None:
        """Add users where they are owned and wait for them on the other side."""
        with Session(self._response) as session, session.begin():
            profiles = {one.name: one for one in session.scalars(sa.select(ProfileType))}
            for name, profile in USERS:
                session.add(User(name=name, email=f"{name}@example.org", profile_type=profiles[profile]))
        names = [name for name, _ in USERS]
        self._until(
            "the users on the request network",
            lambda: _count(self._request, sa.select(User).where(User.name.in_(names))) == len(names),
        )

    def ask_and_answer(self) -> None:
        """Submit requests and wait for their answers."""
        self._ask(REQUESTS, "lookup")
        self._until("the answers on the request network", self._all_answered)

    def damage_a_file(self) -> str:
        """Damage one batch on its way; give the sentence that the quarantine has for it."""
        self._courier.spoil_next.set()
        self._ask(2, "lookup")
        quarantined = sa.select(batch.c.message).where(
            batch.c.direction == Direction.IN, batch.c.state == BatchState.QUARANTINED
        )
        self._until("the damaged file in quarantine", lambda: _count(self._response, quarantined) > 0)
        with reading(self._response) as connection:
            sentence = connection.scalars(quarantined).first() or ""
        self._until("the answers to what was damaged", self._all_answered)
        return sentence

    def lose_a_file(self) -> str:
        """Lose one batch's data on its way; say what the ledgers have of its way back."""
        with reading(self._response) as connection:
            before = connection.scalar(sa.select(sa.func.max(batch.c.id))) or 0
        self._courier.lose_next.set()
        self._ask(2, "lookup")
        self._until("the answers to what was lost", self._all_answered)
        again = sa.select(batch.c.stem).where(
            batch.c.id > before, batch.c.channel == "requests", batch.c.state == BatchState.APPLIED
        )
        closed = sa.select(gap).where(gap.c.channel == "requests", gap.c.state == GapState.ARRIVED)
        with reading(self._response) as connection:
            stem = connection.scalars(again.order_by(batch.c.id.desc())).first()
            row = connection.execute(closed.order_by(gap.c.noticed_at.desc())).first()
        if row is None:
            raise DemoFailed(f"no gap was ever noted; {self._logs}")
        seconds = (row.closed_at - row.noticed_at).total_seconds()
        return f"requests {row.sequence} was missing for {seconds:.1f} s; it came as {stem}"

    def be_refused(self) -> str:
        """Send two records of which the other database takes only one; give the dead letter's sentence."""
        with self._response.begin() as connection:
            connection.exec_driver_sql(
                "CREATE UNIQUE INDEX one_yearly_report ON request (kind) WHERE kind = 'yearly report'"
            )
        self._ask(2, "yearly report")
        self._until("the refused record among the dead letters", lambda: bool(_parked(self._response)))
        self._asked -= 1
        return _parked(self._response)[0].message

    def settle(self) -> None:
        """Wait until nothing is on its way."""
        self._until("the last answers", self._all_answered)
        for engine in (self._request, self._response):
            self._until("an empty list of changes", partial(_nothing_pending, engine))

    def go_on(self, ended: threading.Event) -> None:
        """Ask again and again, while the carrier loses files, until it has ended."""
        self._courier.loses_each = LOSES_EACH
        while not ended.wait(ASKS_EVERY_SECONDS):
            self._ask(1, "lookup")

    def _ask(self, count: int, kind: str) -> None:
        with Session(self._request) as session, session.begin():
            for number in range(count):
                name = USERS[number % len(USERS)][0]
                submit(session, name, kind, f"case {secrets.token_hex(3)}", {"page": number + 1})
        self._asked += count

    def _all_answered(self) -> bool:
        return _count(self._request, sa.select(Response)) == self._asked

    def _until(self, what: str, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not there():
            if time.monotonic() > deadline:
                raise DemoFailed(f"waited {PATIENCE_SECONDS:.0f} seconds for {what} in vain; {self._logs}")
            time.sleep(0.2)


def _nothing_pending(engine: Engine) -> bool:
    return _count(engine, sa.select(change)) == 0


def _count(engine: Engine, query: sa.Select[Any]) -> int:
    with reading(engine) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0


def _parked(engine: Engine) -> Sequence[store.Brief]:
    with reading(engine) as connection:
        return pages.page(connection, filters.Filters(state=DeadLetterState.PARKED), limit=10).letters


# The report: read back from both databases


def _report(show: Console, request: Network, response: Network) -> bool:
    engines = {network.name: network.engine() for network in (request, response)}
    parked = {name: {letter.key for letter in _parked(engine)} for name, engine in engines.items()}
    table = Table(
        title="both databases, compared row by row", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for heading in ("stream", "owner", "sent", "received", "equal", "parked", "unexplained"):
        table.add_column(heading, justify="left" if heading in {"stream", "owner"} else "right", no_wrap=True)
    agreed = True
    for channel in channels:
        for stream in channel.streams:
            compared = _compare(channel, stream, engines, parked[channel.target])
            agreed &= compared.unexplained == 0
            table.add_row(
                stream.name,
                channel.source,
                str(compared.sent),
                str(compared.received),
                str(compared.equal),
                str(compared.parked),
                f"[red]{compared.unexplained}" if compared.unexplained else "0",
            )
    show.print()
    show.print(table)
    show.print(_batches(engines))
    show.print("[bold green]the two sides agree" if agreed else "[bold red]the two sides differ")
    return agreed


@dataclass(frozen=True)
class Compared:
    """Rows of one stream on both sides. ``unexplained`` rows differ and no dead letter says why."""

    sent: int
    received: int
    equal: int
    parked: int
    unexplained: int


def _compare(channel: Channel, stream: Stream, engines: dict[str, Engine], parked: set[str | None]) -> Compared:
    sent, received = (_rows(engines[name], stream) for name in (channel.source, channel.target))
    equal = sum(received.get(key) == row for key, row in sent.items())
    explained = sum(f'"{key[0]}"' in letter for key in sent.keys() - received.keys() for letter in parked if letter)
    different = sum(sent.get(key) != received.get(key) for key in sent.keys() | received.keys())
    return Compared(len(sent), len(received), equal, explained, different - explained)


def _rows(engine: Engine, stream: Stream) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    places = [[column.name for column in stream.columns].index(column.name) for column in stream.key]
    with reading(engine) as connection:
        rows = [tuple(row) for row in connection.execute(sa.select(*stream.columns))]
    return {tuple(row[place] for place in places): row for row in rows}


def _batches(engines: dict[str, Engine]) -> Table:
    table = Table(title="batches, from both ledgers", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("network", "direction", "channel", "state", "batches", "records"):
        table.add_column(heading, justify="right" if heading in {"batches", "records"} else "left")
    grouped = (batch.c.direction, batch.c.channel, batch.c.state)
    query = sa.select(*grouped, sa.func.count(), sa.func.sum(batch.c.records)).group_by(*grouped).order_by(*grouped)
    for name, engine in engines.items():
        with reading(engine) as connection:
            for row in connection.execute(query):
                table.add_row(name, *(str(value) for value in row))
    return table


def _next_commands(show: Console, response: Network) -> None:
    folder = os.path.relpath(response.home)
    program = os.path.relpath(Path(sys.executable).with_name("exchange"))
    show.print("\nThree commands to try next, on the response network as it was left:")
    archived = sorted((response.home / "archive").glob(f"requests-*{MANIFEST_ENDING}"))
    inspected = os.path.relpath(archived[0]) if archived else f"{folder}/archive"
    for words in ("status", "dead-letters list", f"inspect {inspected}"):
        command = f"EXCHANGE_ENV_FILE={folder}/settings.env {program} {words}"
        show.print(f"  [bold]{command}", soft_wrap=True, highlight=False)


@contextmanager
def _step(show: Console, what: str) -> Iterator[None]:
    """Say what is going on while it goes on, and how long it took."""
    began = time.monotonic()
    show.print(f"  [dim]...[/] {what}", soft_wrap=True, highlight=False)
    yield
    show.print(f"  [green]done[/] in {time.monotonic() - began:.1f} s", highlight=False)
