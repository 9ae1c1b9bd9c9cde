"""One side of the exchange as the workflows see it: values only, made once by a door from its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from sqlalchemy import Engine

from exchange.channels.channel import MAX_SHARDS, Channel, at_network
from exchange.channels.intake import Intake
from exchange.channels.schemas import Checker
from exchange.database.dialects import dialect_of
from exchange.database.pauses import Place
from exchange.database.tally import Tally
from exchange.files.spool import Spool
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.limits import Limits
from exchange.progress import Progress

_SHARD_NUMBERS = frozenset(map(str, range(MAX_SHARDS)))


@dataclass(frozen=True)
class Site:
    """Everything a workflow needs to know of this side.

    ``channels`` as they are declared, each once, over tables as they are called here.
    """

    network: str
    peer: str
    engine: Engine
    channels: tuple[Channel, ...]
    spool: Spool
    checkers: Mapping[str, Checker]
    signing_key: SigningKey | None
    trusted: TrustedKeys
    require_signature: bool = True
    limits: Limits = field(default_factory=Limits)
    schemas: Path | None = None
    own: TrustedKeys = field(default_factory=lambda: TrustedKeys({}))
    """This side's own public keys, old ones too: what it signed once it takes back."""
    one_way: bool = False
    """Nothing ever comes back from the peer."""
    repair: bool = True
    """Whether rows that differ from their source's are to be sent again, or only reported."""
    first_load: bool = True
    """Whether rows that were there before capture are sent unasked."""
    intakes: tuple[Intake, ...] = ()
    """The files of people that are taken in here, as they are declared."""
    off: frozenset[Place] = frozenset()
    """Channels, by their declared names, that a setting has stand still."""
    progress: Progress = field(default_factory=Progress, compare=False)
    """How far the work at hand is, for whoever watches it."""
    tally: Tally = field(default_factory=Tally, compare=False)
    """What was done and how long it took, for metrics."""
    read_trusted: Callable[[], TrustedKeys] | None = None
    """Gives the keys trusted at this moment, or raises TransientError; None where those of ``trusted`` stay."""

    def __post_init__(self) -> None:
        """Find the tables of the channels under the names that they have here, and the intakes' streams there."""
        found = ((one, one.stream_of(self.channels)) for one in self.intakes)
        bound = tuple(replace(one, stream=stream.name) if stream else one for one, stream in found)
        object.__setattr__(self, "intakes", bound)
        object.__setattr__(self, "channels", at_network(self.channels, self.network))

    def with_present_trust(self) -> Site:
        """Give the site with the keys that are trusted at this moment. Raises TransientError if they can't be read."""
        return self if self.read_trusted is None else replace(self, trusted=self.read_trusted())

    def outgoing(self) -> tuple[Channel, ...]:
        """The channels that this network writes, as they are in the files: each shard is one."""
        return tuple(part for one in self.channels if one.source == self.network for part in one.in_files())

    def incoming(self) -> tuple[Channel, ...]:
        """The channels that this network reads, as they are in the files: each shard is one."""
        return tuple(part for one in self.channels if one.target == self.network for part in one.in_files())

    @cached_property
    def _declared(self) -> dict[str, Channel]:
        return {one.name: one for one in self.channels}

    @property
    def many_writers(self) -> bool:
        """Whether the database lets several processes write at once; SQLite does not."""
        return dialect_of(self.engine).many_writers

    def channel(self, name: str, shards: int | None = None) -> Channel | None:
        """Find a channel by its name in the files.

        ``shards`` is how many its sender split it into, which is the sender's own choice and may have changed
        while a batch was on its way. None: nobody knows any more.
        """
        declared = self._declared
        if name in declared and shards in (None, 1):
            return declared[name]
        base, _, number = name.rpartition("_")
        if base not in declared or number not in _SHARD_NUMBERS:
            return None
        if shards is None:
            return declared[base].part(int(number), 0)
        if 1 < shards <= MAX_SHARDS and int(number) < shards:
            return declared[base].part(int(number), shards)
        return None

    def with_moved(self, channel: Channel, names: Collection[str]) -> Channel:
        """Give a channel that comes in with those streams of some names that this side reads in another one.

        Whichever they come by, they are one: a stream is moved on one side before it is on the other, and what was
        parked of it before keeps the name of its channel.
        """
        others = [one for other in self.channels if other.target == self.network for one in other.streams]
        mine = {one.name for one in channel.streams}
        return channel.including([one for one in others if one.name in names and one.name not in mine])

    def names_in_files(self, name: str) -> frozenset[str]:
        """Give the names in the files that a person means by one: the same, and if it is declared all its shards'."""
        declared = self._declared
        shards = (f"{name}_{number}" for number in range(MAX_SHARDS)) if name in declared else ()
        return frozenset({name, *(one for one in shards if one not in declared)})

    def incoming_names(self) -> frozenset[str]:
        """Give the names in the files that incoming channels may have, into however many shards they are split."""
        return frozenset(name for one in self.incoming() for name in self.names_in_files(one.declared))
