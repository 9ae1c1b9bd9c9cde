"""Real databases and a real broker for every test that asks for one, and how a run begins and ends.

One PostgreSQL server, one Valkey and one set of prepared databases per test process, made when first wanted; what a
test wrote is gone before the next.
"""

from __future__ import annotations

import atexit
import gc
import os
import random
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import hypothesis
import psutil
import pytest
import redis
from hypothesis import HealthCheck
from hypothesis.configuration import set_hypothesis_home_dir
from sqlalchemy import Engine

from exchange.database import make_engine
from exchange.testing import servers
from tests import compiled, sweeping
from tests.databases import Databases, Templates
from tests.forking import Forking
from tests.postgresql import Cluster

# A machine may be slow: no clock says that a property does not hold. Each run looks at other examples than the last.
set_hypothesis_home_dir(Path(__file__).parents[1] / ".cache" / "hypothesis")
hypothesis.settings.register_profile(
    "exchange", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.register_profile("thorough", hypothesis.settings.get_profile("exchange"), max_examples=50)

# What a test process has at its end is no garbage, and looking through all of it takes ten seconds.
atexit.register(gc.freeze)

# Every process of a run reads what an earlier one compiled, whatever the shell has: it is most of a start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

compiled.share()

KINDS = frozenset(one + more for one in ("sqlite", "postgresql") for more in ("", "-sqlite", "-postgresql"))
"""What fixtures are asked for: a kind of database, or the kinds of a sender and a receiver."""

_run_key = pytest.StashKey[sweeping.Run]()


# How a run begins and ends


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin a run, or a test process of one: with a folder of its own, and so that it can be interrupted."""
    hypothesis.settings.load_profile("exchange" if "not thorough" in config.option.markexpr else "thorough")
    gc.disable()  # what is imported and collected stays
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    if hasattr(config, "workerinput"):
        return
    run = config.stash[_run_key] = sweeping.Run()
    # Whatever makes a temporary file or a server's folder makes it where it is removed with the run.
    os.environ["TMPDIR"] = tempfile.tempdir = str(run.folder / "temporary")
    Path(tempfile.tempdir).mkdir(mode=0o711)
    if config.option.basetemp is None:
        config.option.basetemp = str(run.folder / "tests")
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Once: whoever presses Ctrl-C again must not keep fixtures from tidying up.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@pytest.hookimpl(tryfirst=True)
def pytest_keyboard_interrupt() -> None:
    """Have the test processes tidy up at once; only this one may have been told to end."""
    for process in psutil.Process().children():
        if any("exec(eval(sys.stdin.readline()))" in word for word in process.cmdline()):  # as execnet starts one
            process.terminate()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End a run: wait until nothing of it is left."""
    run = config.stash.get(_run_key, None)
    if run is not None:
        run.end()


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to have the same examples again."""
    return f"examples: --hypothesis-seed={config.option.hypothesis_seed}"


def pytest_xdist_auto_num_workers() -> int:
    """Have one more test process than there are cores for us: one of them waits for a server or a worker of its own."""
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start processes: they are the longest. Leave to `.ci/run` what another one shows."""
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)
    kinds: defaultdict[str, set[str]] = defaultdict(set)
    for item in items:
        kinds[item.nodeid.partition("[")[0]] |= _kinds(item)
    for item in items:
        same = item.get_closest_marker("same_on")
        if same and _kinds(item) & set(same.args) and not kinds[item.nodeid.partition("[")[0]] <= set(same.args):
            item.add_marker("thorough")


def _kinds(item: pytest.Item) -> set[str]:
    """Give the kind of database that a test is given, as its parameter has it."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return {value for value in parameters.values() if isinstance(value, str) and value in KINDS}


def pytest_collection_finish() -> None:
    """Look for garbage less often, and not among the tests, which are most of what is there and none of it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    gc.enable()


@pytest.fixture(autouse=True)
def _tasks_read_their_settings_anew() -> Iterator[None]:
    """Let no test's tasks work for the side of the one before."""
    yield
    work = sys.modules.get("exchange.celery.work")
    if work is not None:
        work.forget_settings()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Give a seed that is another one in each run, and the same for the same ``--hypothesis-seed``."""
    return random.Random(f"{request.config.option.hypothesis_seed} {request.node.nodeid}").randrange(2**32)


# Servers


@pytest.fixture(scope="session")
def postgres_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give this test process's PostgreSQL. What it knows of its tables is what a test lets it know."""
    settings = {"shared_buffers": "64MB", "max_wal_size": "4GB", "autovacuum": "off"}
    with servers.postgres(**settings) as url:
        cluster = Cluster(url)
        yield cluster
        cluster.close()


@pytest.fixture(scope="session")
def _valkey() -> Iterator[str]:
    with servers.valkey() as url:
        yield url


@pytest.fixture
def valkey_url(_valkey: str) -> str:
    """Give the URL of an empty Valkey."""
    with redis.Redis.from_url(_valkey) as client:
        client.flushall()
    return _valkey


@pytest.fixture(scope="session")
def forked_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a Python that starts our programs with their imports done."""
    forking = Forking(tmp_path_factory.mktemp("forked"))
    yield forking.python
    forking.close()


# Databases


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return Templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture
def databases(request: pytest.FixtureRequest, tmp_path: Path, templates: Templates) -> Iterator[Databases]:
    """Give databases of either kind, for this test alone."""
    lent = Databases(tmp_path, templates, lambda: request.getfixturevalue("postgres_cluster"))
    yield lent
    lent.give_back()


@pytest.fixture
def postgres_url(databases: Databases) -> str:
    """Give the URL of an empty PostgreSQL database."""
    return databases.fresh("postgresql")


@pytest.fixture
def sqlite_url(databases: Databases) -> str:
    """Give the URL of a SQLite database that does not exist yet."""
    return databases.fresh("sqlite")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, databases: Databases) -> str:
    """Give the URL of an empty database, of each kind in turn."""
    return databases.fresh(request.param)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Give an engine on an empty database, of each kind in turn."""
    made = make_engine(database_url)
    yield made
    made.dispose()
