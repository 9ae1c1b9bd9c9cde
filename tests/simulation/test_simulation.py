"""Seeds of the simulation, those that once failed, and builds that are broken on purpose, which it has to see."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exchange.database.ledger import Counts
from exchange.database.tables import VERSION_COLUMN
from exchange.format.placement import NEXT
from exchange.incoming import apply, importer, transaction
from exchange.tables.loader import checks
from exchange.tables.loader.staging import OUTCOME, STALE, applying
from tests.databases import Databases, Templates
from tests.postgresql import Cluster
from tests.simulation import simulation
from tests.simulation.__main__ import KINDS, failure
from tests.simulation.world import World


@contextmanager
def made(database: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    kinds = KINDS[database]
    cluster: Cluster | None = request.getfixturevalue("postgres_cluster") if "postgresql" in kinds else None
    templates: Templates = request.getfixturevalue("templates")
    databases = Databases(folder, templates, lambda: request.getfixturevalue("postgres_cluster"))
    world = World(folder, databases, kinds, cluster)
    try:
        yield world
    finally:
        world.close()
        databases.give_back()


def see(world: World, seed: int, database: str, rounds: int = simulation.ROUNDS, **how: Any) -> None:
    """Run a seed; fail with the command that runs it again."""
    outcome = simulation.run(world, seed, rounds=rounds, **how)
    assert not outcome.wrong, failure(outcome, database, plain=how.get("plain", False))


@pytest.mark.postgres
def test_whatever_happens_both_sides_agree_in_the_end_or_a_letter_says_why_not(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with made("mixed", tmp_path, request) as world:
        see(world, 7, "mixed", rounds=12)


@pytest.mark.torture
@pytest.mark.postgres
@pytest.mark.parametrize("database, seeds", [("sqlite", 10), ("postgresql", 3), ("mixed", 3), ("mixed-back", 3)])
def test_seeds_that_nobody_has_seen_agree_too(
    database: str, seeds: int, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with made(database, tmp_path, request) as world:
        for number in range(seed, seed + seeds):
            see(world, number, database)


FOUND_AT_FIRST: dict[str, tuple[int, str]] = {
    "a batch of a history that its sender forgot came late, and its place was refused for ever": (1, "sqlite"),
    "a batch that a snapshot had replaced came late, and check called its files unknown": (1286255862, "sqlite"),
    "a control batch of an epoch that was left came late, and check called its files unknown": (7110, "sqlite"),
    "what was asked of a shard that is declared no more stayed open for ever": (1296255893, "mixed-back"),
    "what was asked of shards that the other side has no more was asked for ever": (41000035, "sqlite"),
}
"""What a seed found in the plain world, each by a name that says it: the seed, and on which databases."""

FOUND: dict[str, tuple[int, str]] = {
    "a snapshot in place of refused batches came too far ahead, and its channel stood for ever": (64000026, "sqlite"),
    "a batch that was held for a person had no data, and nobody sent it again": (71000041, "sqlite"),
    "check took a batch of which a record was erased for one that was applied twice": (65000013, "sqlite"),
    "what was missing of a shard that is no more stayed missing in an epoch that its sender left": (700058, "sqlite"),
    "check called a control batch another one that its sender, made anew, had forgotten": (600086, "sqlite"),
    "who was interrupted in a commit of SQLite was told of a closed database": (1000209, "sqlite"),
    "a batch of a shard that is no more waited for one of an epoch that its sender left": (1000258, "sqlite"),
    "a side restored after its clock was ahead could not change what it had sent then": (2000155, "sqlite"),
    "a channel without order was never compared again once a snapshot had passed over a batch": (1700007, "mixed"),
}
"""The same of the world as it is."""


@pytest.mark.torture
@pytest.mark.postgres
@pytest.mark.parametrize("name", [*FOUND_AT_FIRST, *FOUND])
def test_a_seed_that_found_something_finds_it_no_more(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    plain = name in FOUND_AT_FIRST
    number, database = (FOUND_AT_FIRST | FOUND)[name]
    with made(database, tmp_path, request) as world:
        see(world, number, database, plain=plain)


# Builds broken on purpose


def _compare_versions_the_other_way_round(patch: pytest.MonkeyPatch) -> None:
    def turned(stage: Any) -> None:
        staged, version = stage.table, stage.target.c[VERSION_COLUMN]
        older = (stage.same_key(stage.target, staged), applying(staged), version < staged.c[VERSION_COLUMN])
        stage.connection.execute(sa.update(staged).where(*older).values({OUTCOME: STALE}))

    patch.setattr(checks, "settle_old_versions", turned)


def _import_without_the_unique_row(patch: pytest.MonkeyPatch) -> None:
    begin = World.begin

    def without(self: World, draw: random.Random, more: Iterable[str] = ()) -> None:
        begin(self, draw, more)
        for network in self.networks:
            network.side.execute("DROP INDEX uq_exchange_batch_place")

    patch.setattr(World, "begin", without)
    patch.setattr(importer, "judge", lambda _site, _arrival: NEXT)
    patch.setattr(transaction, "compare_with_ledger", lambda *_: NEXT)


def _acknowledge_what_was_not_applied(patch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> Counts:
        return Counts()

    patch.setattr(apply, "apply_records", nothing)


BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "compare versions the other way round": (_compare_versions_the_other_way_round, "refused"),
    "import without the ledger's unique row": (_import_without_the_unique_row, "stale"),
    "acknowledge what was not applied": (_acknowledge_what_was_not_applied, "refused"),
}
"""What is broken, and the actor whose seeds show it soonest.

A batch published before its commit is none: both sides heal it, and ``crossing/test_crash_states.py`` reports it.
"""


@pytest.mark.torture
@pytest.mark.parametrize("name", BROKEN)
def test_the_simulation_sees_a_build_that_is_broken_on_purpose(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made("sqlite", tmp_path, request) as world:
        break_it, actor = BROKEN[name]
        break_it(monkeypatch)
        seeds = [seed for seed in range(100) if actor in simulation.rarer_actors(seed, plain=True)][:8]
        assert any(simulation.run(world, seed, rounds=60, plain=True).wrong for seed in seeds)
