"""An application's hooks, called as rows are applied: before, within the transaction, and after its commit.

Whoever owns the transaction asks for it (``calling_hooks``); a rehearsal does not. Keys of what was written are kept
beside the load until it ends, in a file once they are many, and only of streams that have such a hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import orjson
from sqlalchemy import Connection

from exchange.channels.hooks import MOST_KEYS, Hook, HookRows, key_values
from exchange.channels.stream import Stream
from exchange.database.batch_fault import Crashed, is_batch_fault, is_interruption
from exchange.database.engine import in_parts
from exchange.format.record import Op
from exchange.tables.loader.staging import Key

IN_MEMORY_BYTES = 4 * 1024 * 1024

_WORDS: Mapping[str, Any] = {Op.UPSERT[0]: "upsert", Op.DELETE[0]: "delete"}


class HookFailed(Crashed):
    """A hook within the transaction failed: what was to be applied is rolled back."""


class WrittenKeys:
    """The keys of what one load wrote, of the streams that want them."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = {stream.name: stream for stream in streams}
        self._file = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - as long as this lives

    def __contains__(self, stream: str) -> bool:
        return stream in self._streams

    def add(self, stream: str, op: str, keys: Sequence[Key]) -> None:
        """Note keys as they are on the wire. Raises OSError if there is no room for them."""
        for some in in_parts(keys, MOST_KEYS):
            self._file.write(orjson.dumps([stream, op, some]) + b"\n")

    def call(self, connection: Connection) -> None:
        """Call the hooks within the transaction. Raises HookFailed."""
        self._each(lambda stream: stream.hooks.on_applied, "on_applied", connection)

    def call_after_commit(self) -> list[str]:
        """Call those after it; say which failed."""
        said: list[str] = []
        self._each(lambda stream: stream.hooks.after_commit, "after_commit", None, said)
        return said

    def close(self) -> None:
        """Forget them."""
        self._file.close()

    def _each(
        self,
        hook_of: Callable[[Stream], Hook | None],
        name: str,
        connection: Connection | None,
        said: list[str] | None = None,
    ) -> None:
        readers = {one.name: key_values([one.codecs[c.name] for c in one.key]) for one in self._streams.values()}
        self._file.seek(0)
        for line in self._file:
            stream, op, keys = orjson.loads(line)
            hook = hook_of(self._streams[stream])
            if hook is None:
                continue
            rows = HookRows(_WORDS[op], [readers[stream](key) for key in keys], connection)
            try:
                call_hook(hook, name, stream, rows)
            except HookFailed as fault:
                if said is None:
                    raise
                said.append(fault.sentence)


def call_hook(hook: Hook, name: str, stream: str, rows: HookRows) -> None:
    """Call a hook. Raises HookFailed with what it raised and where, never with its words: they may quote a row."""
    try:
        hook(stream, rows)
    except Exception as error:
        within = rows.connection is not None
        if (within and not is_batch_fault(error)) or is_interruption(error):
            raise  # somebody else's or the world's: the whole is tried again
        place = f"{getattr(hook, '__qualname__', type(hook).__name__)} of stream {stream} ({name})"
        raise HookFailed(f"{type(error).__name__} in the application's {place}{_where(error)}") from error


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f", {Path(trace.tb_frame.f_code.co_filename).name} line {trace.tb_lineno}"


class Applied:
    """What was written within one transaction, by any number of loads."""

    def __init__(self) -> None:
        self.keys: list[WrittenKeys] = []

    def call_after_commit(self) -> str:
        """Call the hooks that wait for the commit, each once; give a sentence of those that failed, or nothing.

        Call it when the transaction is committed. A process that dies before that has called none.
        """
        failed = list(dict.fromkeys(one for keys in self.keys for one in keys.call_after_commit()))
        if not failed:
            return ""
        return f"{'; '.join(failed)}; the rows are committed, and it is not called again for them"


_applied: ContextVar[Applied | None] = ContextVar("applied", default=None)


@contextmanager
def calling_hooks() -> Iterator[Applied]:
    """Have loads within the block call hooks; the block is one attempt at one transaction, and what follows it."""
    applied = Applied()
    token = _applied.set(applied)
    try:
        yield applied
    finally:
        _applied.reset(token)
        for keys in applied.keys:
            keys.close()


def written_keys(streams: Sequence[Stream]) -> WrittenKeys | None:
    """Give where a load notes what it writes; None if nobody asks."""
    applied = _applied.get()
    wanted = [stream for stream in streams if stream.hooks.wants_keys]
    if applied is None or not wanted:
        return None
    keys = WrittenKeys(wanted)
    applied.keys.append(keys)
    return keys


def hooks_before(streams: Sequence[Stream]) -> Mapping[str, tuple[Hook, Callable[[Sequence[Any]], tuple[Any, ...]]]]:
    """Give the hooks that are called before rows are written, each with what reads its stream's keys."""
    if _applied.get() is None:
        return {}
    return {
        stream.name: (stream.hooks.before_apply, key_values([stream.codecs[c.name] for c in stream.key]))
        for stream in streams
        if stream.hooks.before_apply is not None
    }
