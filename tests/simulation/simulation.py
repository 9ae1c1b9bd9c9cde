"""One seed: many rounds of whatever the dice say, then honest ones until both sides agree.

A round is one act: a write of an application, an export, a carriage, an import, a fault, a person's. Afterwards the
carrier is honest, clocks are right and nobody acts but beat: both sides have to agree within a number of rounds, but
for rows of which a dead letter says why they differ.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from exchange.operating.check.oracle import LEFT, Oracle, disagreements
from exchange.operating.doctor.finding import Level
from exchange.testing.carrier import HONEST
from tests.simulation import actors
from tests.simulation.actors import ACTORS
from tests.simulation.world import PERIOD, World

ROUNDS = 80
"""Rounds in which anything may happen."""

ENOUGH = 30
"""Honest turns, each with an export, a carriage and an import of both sides, within which they have to agree."""

COMPARED_EVERY = 5
"""After so many honest turns both sides compare, as beat has them do once a day."""

FEW = 4
"""So many of the rarer actors a seed has."""

WATCHED_EVERY = 8
"""After so many rounds it is seen whether a version went back."""

Trace = Callable[[int, str, str], None]


@dataclass
class Outcome:
    """What a seed came to: how many rounds, how many honest turns of them, and what is wrong."""

    seed: int
    rounds: int = 0
    turns: int = 0
    wrong: list[str] = field(default_factory=list)


def run(
    world: World,
    seed: int,
    *,
    without: Collection[str] = (),
    rounds: int = ROUNDS,
    enough: int = ENOUGH,
    plain: bool = False,
    trace: Trace | None = None,
) -> Outcome:
    """Live through a seed; ``without`` names actors that have no turn. ``plain``: in the world as it was at first."""
    outcome = Outcome(seed)

    def told(who: str, what: str) -> None:
        outcome.rounds += 1
        if trace is not None:
            trace(outcome.rounds, who, what)

    with world.hooked(seed):
        for who, what in live(world, seed, without, rounds, plain=plain):
            told(who, what)
        for outcome.turns in range(1, enough + 1):
            for who, what in honest_turn(world, compared=outcome.turns % COMPARED_EVERY == 1):
                told(who, what)
            # What a comparison asks for has come two turns later.
            if outcome.turns % COMPARED_EVERY > 2 and not unsettled(world) and not differing(world):
                break
        outcome.wrong = [*world.raised, *unsettled(world), *judged(world)]
    return outcome


def rarer_actors(seed: int, *, plain: bool = False) -> list[str]:
    """Name the few of the rarer actors that a seed has, by dice of their own: one that is left out changes no other."""
    rare = [name for name in ACTORS if ACTORS[name].extra and not (plain and ACTORS[name].wide)]
    return sorted(rare, key=lambda name: random.Random(f"{seed} {name}").random())[:FEW]


def wide_channels(seed: int, few: Collection[str]) -> list[str]:
    """Name the channels of the wide part that a seed has: not all of them, as each costs time in every round."""
    draw = random.Random(f"{seed} channels")
    wanted = {"wide": 0.8, "reply": 0.7, "loose": 0.3, "strict": 1.0 if "bad rule" in few else 0.1}
    return [name for name, share in wanted.items() if draw.random() < share]


def live(
    world: World, seed: int, without: Collection[str], rounds: int, *, plain: bool = False
) -> Iterator[tuple[str, str]]:
    """Let anything happen, then put in order what only administrators do; give who did what."""
    beginning = random.Random(f"{seed} begins")
    few = rarer_actors(seed, plain=plain)
    world.begin(beginning, () if plain else wide_channels(seed, few))
    for carrier in world.carriers.values():
        carrier.faults = actors.draw_faults(beginning)
    common = [name for name in ACTORS if not ACTORS[name].extra and not (plain and ACTORS[name].wide)]
    acting = [name for name in ACTORS if (name in few or name in common) and name not in without]
    yield "actors", ", ".join(name for name in acting if name in few)
    weights = [ACTORS[name].weight for name in acting]
    for number in range(rounds):
        draw = random.Random(f"{seed} {number}")
        [name] = draw.choices(acting, weights)
        yield name, ACTORS[name].act(world, draw)
        if number % WATCHED_EVERY == 0:
            at_both(world).watch()
    yield from actors.end(world)
    for carrier in world.carriers.values():
        carrier.faults = HONEST


def honest_turn(world: World, *, compared: bool) -> Iterator[tuple[str, str]]:
    """Let a period pass, and both sides and the carriers do their work."""
    world.time += 5 * PERIOD
    if compared:
        for network in world.networks:
            yield "reconcile", world.reconcile(network)
    yield from actors.heed(world)
    for network in world.networks:
        yield "export", f"{network.name}: {world.export(network)}"
    for network in world.networks:
        yield "carry", f"from {network.name}: {world.carry(network)}"
    for network in reversed(world.networks):
        yield "import", f"{network.name}: {world.take_in(network)}"


# What is to be true at the end


def at_both(world: World) -> Oracle:
    """Give the oracle of both sides as they are declared now."""
    world.oracle.sites = (world.one.side.site, world.two.side.site)
    return world.oracle


def unsettled(world: World) -> list[str]:
    """Say what is still to come."""
    return [str(one) for one in at_both(world).unsettled()]


def differing(world: World) -> list[str]:
    """Name the rows that differ and that nothing explains."""
    one, two = world.one.side.site, world.two.side.site
    return [str(wrong) for wrong in (*disagreements(one, two), *disagreements(two, one))]


def judged(world: World) -> list[str]:
    """Say what the oracle finds. A file whose partner was lost or came twice lies in ``incoming/`` for its retention.

    What is pruned goes by the times of files, which no clock of ours turns: warnings of them are left out.
    """
    found = [one for one in at_both(world).judge() if one.kind.level is Level.FAULT]
    stems = Counter(wrong.name.partition(".")[0] for wrong in found if wrong.kind is LEFT)
    return [
        str(one)
        for one in found
        if not (one.kind is LEFT and stems[one.name.partition(".")[0]] == 1)
        and not (one.network in world.harmed and one.kind.check in {"files", "ledger"})
    ]
