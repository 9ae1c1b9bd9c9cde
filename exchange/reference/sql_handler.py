"""The handler ``sql``: named queries with bound parameters, which the database itself keeps from writing anything.

On PostgreSQL a query is a cursor in a READ ONLY transaction under ``statement_timeout``: the server takes one SELECT
and nothing else, and cancels it. On SQLite the file is opened read-only, an authoriser lets nothing but reading pass,
and a clock interrupts it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from exchange.channels.codecs import as_is, codec_for
from exchange.database.dialects import POSTGRESQL, dialect_of
from exchange.database.engine import begin_on_postgresql
from exchange.database.errors import Blame, blame, first_line
from exchange.database.redact import withhold
from exchange.format.errors import RecordError, printable
from exchange.reference.handlers import Handler, Later, Question, Refused, Sources, TimeIsUp
from exchange.reference.query_file import Query, read_queries

CONNECT_SECONDS = 5
AT_ONCE = 100
"""So many rows are fetched at a time."""
STEPS = 1000
"""So many of its steps SQLite does between two looks at the clock."""

_CANCELLED = "57014"
_WAS_IDLE = "25P03"
_NO_RIGHT = "42501"
_READ = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE},
)

Encode = Callable[[Any], Any]


def load_sql(sources: Sources) -> Handler:
    """Make the handler. Raises ValueError with one sentence."""
    if sources.queries is None:
        raise ValueError("the handler sql needs EXCHANGE_HANDLER_QUERIES, the file of its queries")
    queries = read_queries(sources.queries, sources.seconds)
    engine = make_reader(sources.database_url)

    def sql(question: Question) -> dict[str, Any]:
        """Run the query that is named. Raises Refused and Later."""
        query = queries.get(question.query)
        if query is None:
            known = ", ".join(sorted(queries))
            raise Refused(f"there is no query {printable(repr(question.query), 80)}, only {known}")
        try:
            return ask(engine, query, question)
        except TimeIsUp:
            raise Later("its database gave no answer in time") from None

    return sql


def make_reader(url: str) -> Engine:
    """Make an engine that can't write; a connection is closed with its question, and no error quotes a row."""
    parsed = make_url(url)
    if parsed.get_backend_name() == POSTGRESQL.name:
        more = {"connect_timeout": str(CONNECT_SECONDS), "tcp_user_timeout": "10000"}
        parsed = parsed.update_query_dict({name: at for name, at in more.items() if name not in parsed.query})
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        arguments = {"application_name": "exchange sql", "client_encoding": "utf8", "prepare_threshold": None}
        engine = create_engine(parsed, poolclass=NullPool, hide_parameters=True, connect_args=arguments)
        event.listen(engine, "connect", _take_texts)
        # Rows that a policy hides from this role are hidden from whoever asks: that is what it is for.
        begin_on_postgresql(engine, CONNECT_SECONDS, transaction_read_only="on", row_security="on")
    else:
        file = f"file:{quote(str(Path(str(parsed.database)).absolute()))}?mode=ro"
        engine = create_engine(
            "sqlite://", creator=lambda: _open_sqlite(file), poolclass=NullPool, hide_parameters=True
        )
    event.listen(
        engine, "handle_error", lambda context: withhold(context.original_exception, context.sqlalchemy_exception)
    )
    return engine


def look_at_database(sources: Sources) -> str:
    """Have the database look at each query, of which none is run, and say what is asked of which database.

    Raises Later where it can't be asked, and ValueError for a query that it does not take.
    """
    assert sources.queries is not None
    queries = read_queries(sources.queries, sources.seconds)
    reader = make_reader(sources.database_url)
    for query in queries.values():
        try:
            _asked(reader, query, dict.fromkeys(query.parameters), _looked_at)
        except Refused as refused:
            raise ValueError(f"{sources.queries.name}: {refused}") from refused
    number = "1 query" if len(queries) == 1 else f"{len(queries)} queries"
    may_all = "; its role is a superuser's: give it one that may only SELECT" if _is_superuser(reader) else ""
    return f"{number} of {make_url(sources.database_url).set(query={}).render_as_string(hide_password=True)}{may_all}"


def _is_superuser(reader: Engine) -> bool:
    """Say whether this role may do whatever the server can. Raises Later."""
    if not dialect_of(reader).is_postgresql:
        return False
    try:
        with reader.connect() as connection:
            return bool(
                connection.scalar(sa.text("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"))
            )
    except SQLAlchemyError as error:
        raise Later(f"its database can't be asked: {first_line(error)}") from error


def _looked_at(_connection: Connection, _query: Query, _result: sa.CursorResult[Any], _limit: Iterator[None]) -> None:
    """Take nothing of it: a cursor that was declared is a query that can be run."""


def _open_sqlite(file: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, uri=True, isolation_level=None, timeout=CONNECT_SECONDS)
    connection.execute("PRAGMA query_only = ON")
    connection.text_factory = _Text
    return connection


class _Text(bytes):
    """A text of SQLite's: its driver would fail the whole query at one that is not UTF-8."""


def ask(engine: Engine, query: Query, question: Question) -> dict[str, Any]:
    """Run a query and give its rows, as records have values. Raises Refused and Later."""
    bound = query.bound(question.parameters, engine.dialect)
    return _asked(engine, query, bound, _answered)


_Taken = TypeVar("_Taken")
_Take = Callable[[Connection, Query, sa.CursorResult[Any], Iterator[None]], _Taken]


def _asked(engine: Engine, query: Query, bound: Mapping[str, Any], take: _Take[_Taken]) -> _Taken:
    begun = time.monotonic()
    with _words_of(query, begun), engine.connect() as connection, closing(_limited(connection, query)) as limit:
        # The wire's value is what the driver binds: PostgreSQL is told its type, SQLite keeps it as it is.
        told = dialect_of(connection).is_postgresql
        types = {name: one.type if told else sa.types.NullType() for name, one in query.parameters.items()}
        sql = query.sql if told or take is _answered else f"EXPLAIN {query.sql}"  # a cursor runs nothing yet
        statement = sa.text(sql).bindparams(*(sa.bindparam(name, type_=kind) for name, kind in types.items()))
        next(limit)
        with closing(connection.execute(statement, bound, execution_options=_STREAMED)) as result:
            return take(connection, query, result, limit)


def _answered(
    connection: Connection, query: Query, result: sa.CursorResult[Any], limit: Iterator[None]
) -> dict[str, Any]:
    columns = list(result.keys())
    if dialect_of(connection).is_postgresql:
        encode = _from_postgresql(columns, result, connection)
    else:
        encode = [_from_sqlite(one) for one in columns]
    return _answer(query, columns, _rows(result, encode, limit))


_STREAMED = {"stream_results": True, "max_row_buffer": AT_ONCE}


def _answer(query: Query, columns: list[str], rows: Iterator[list[Any]]) -> dict[str, Any]:
    """Take as many rows as the query's limits let through, and say where there were more."""
    answer: dict[str, Any] = {"query": query.name, "columns": columns, "rows": [], "truncated": None}
    room = query.bytes - len(orjson.dumps(answer))
    for row in rows:
        room -= len(orjson.dumps(row)) + 1
        if len(answer["rows"]) == query.rows:
            return answer | {"truncated": f"there are more than {query.rows} rows, these are the first"}
        if room < 0:
            return answer | {"truncated": f"the rows have more than {query.bytes} bytes, these are the first"}
        answer["rows"].append(row)
    return answer


def _rows(result: sa.CursorResult[Any], encode: Sequence[Encode], limit: Iterator[None]) -> Iterator[list[Any]]:
    while rows := result.fetchmany(AT_ONCE):
        for row in rows:
            yield [None if value is None else one(value) for one, value in zip(encode, row, strict=True)]
        next(limit)


def _limited(connection: Connection, query: Query) -> Generator[None]:
    """Have the database end what comes after each step once the query's time is over."""
    until = time.monotonic() + query.seconds
    driver: Any = connection.connection.driver_connection
    if dialect_of(connection).is_postgresql:
        while True:
            left = max(round((until - time.monotonic()) * 1000), 1)
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {left}")
            yield
    driver.set_progress_handler(lambda: time.monotonic() > until, STEPS)
    driver.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READ else sqlite3.SQLITE_DENY)
    driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(2 * query.bytes, 100_000))
    while True:
        yield


@contextmanager
def _words_of(query: Query, begun: float) -> Iterator[None]:
    """Turn what a database refuses into an answer, or into none as yet where the database is away."""
    try:
        yield
    except RecordError as error:
        raise Refused(f"the query {query.name}: {error.sentence}") from error
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        too_long = time.monotonic() - begun >= query.seconds
        if (state == _CANCELLED and too_long) or code == sqlite3.SQLITE_INTERRUPT:
            raise Refused(
                f"the query {query.name} took longer than {query.seconds:g} seconds and was cancelled"
            ) from error
        # Class 25 is what a transaction that only reads does not do.
        refused = state is not None and (state == _NO_RIGHT or (state[:2] == "25" and state != _WAS_IDLE))
        if refused or code in {sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY}:
            raise Refused(f"the query {query.name} may not be run: {first_line(error)}") from error
        if blame(error) is Blame.TRANSIENT:
            raise Later(f"its database can't be asked: {first_line(error)}") from error
        raise Refused(f"the query {query.name} failed: {first_line(error)}") from error
    except SQLAlchemyError as error:
        raise Refused(f"the query {query.name} failed: {first_line(error)}") from error


def _from_sqlite(column: str) -> Encode:
    """Make the function from what SQLite has in a column, which may be of any kind in each row, to the wire's value."""
    kinds: dict[type, sa.types.TypeEngine[Any]] = {
        _Text: sa.Text(),
        bytes: sa.LargeBinary(),
        int: sa.BigInteger(),
        float: sa.Double(),
    }
    encoders = {kind: codec_for(sa.Column(column, one)).encoder(_SQLITE) for kind, one in kinds.items()}

    def encode(value: Any) -> Any:
        return encoders[type(value)](bytes(value) if type(value) is _Text else value)

    return encode


def _from_postgresql(columns: list[str], result: sa.CursorResult[Any], connection: Connection) -> list[Encode]:
    """Make such functions by the columns' types; what is not in the table is the server's own text."""
    described: Any = result.cursor
    types = [_BY_OID.get(one.type_code) for one in described.description]
    return [
        as_is if kind is None else codec_for(sa.Column(name, kind)).encoder(connection.dialect)
        for name, kind in zip(columns, types, strict=True)
    ]


_SQLITE = sqlite.dialect()

_AS_VALUES = frozenset({16, 17, 20, 21, 23, 700, 701})
"""PostgreSQL's types, by their numbers, whose values the driver reads exactly."""

_BY_OID: dict[int, sa.types.TypeEngine[Any]] = {
    16: sa.Boolean(),
    17: sa.LargeBinary(),
    **dict.fromkeys((20, 21, 23), sa.BigInteger()),
    700: sa.REAL(),
    701: sa.Double(),
    **dict.fromkeys((114, 3802), sa.JSON()),
    1082: sa.Date(),
    1083: sa.Time(),
    1266: sa.Time(timezone=True),
    1114: sa.DateTime(),
    1184: sa.DateTime(timezone=True),
    1186: postgresql.INTERVAL(),
    1700: sa.Numeric(),
    869: postgresql.INET(),
    650: postgresql.CIDR(),
}
"""Those that have a form on the wire which is not the server's text."""


def _take_texts(driver: Any, _record: object) -> None:
    """Have the driver give the server's own text of all else: it reads some of it into what is not the same."""
    from psycopg.types.string import TextLoader  # noqa: PLC0415 - comes with PostgreSQL alone

    for info in driver.adapters.types:
        for oid in {info.oid, info.array_oid} - _AS_VALUES - {0}:
            driver.adapters.register_loader(oid, TextLoader)
