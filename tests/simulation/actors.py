"""Who acts in a round of the simulation, and what happens: each actor does one thing, as the dice say."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from exchange.database import network as own_network
from exchange.database import tables
from exchange.database.locks import reading
from exchange.database.tables import BatchState
from exchange.dead_letters import discard, retry
from exchange.format.errors import Reason
from exchange.format.names import MANIFEST_ENDING
from exchange.format.signing import SigningKey
from exchange.incoming import importer, quarantine, replay, strangers
from exchange.link import epochs, gaps, reconcile, send_requests
from exchange.operating import erasure
from exchange.operating.erasure import sought
from exchange.outgoing import resend
from exchange.tables import capture
from exchange.testing.carrier import Faults
from tests.simulation import wide_writers, writers
from tests.simulation.application import FORTH
from tests.simulation.world import DAY, PERIOD, Breakage, Network, World

Act = Callable[[World, random.Random], str]


@dataclass(frozen=True)
class Actor:
    """Somebody who may act in a round, how often beside the others, and whether it is a fault or a person.

    Those that are ``wide`` have no turn in a plain world.
    """

    act: Act
    weight: float
    extra: bool = False
    wide: bool = False


def _either(world: World, draw: random.Random) -> Network:
    return draw.choice(world.networks)


def export(world: World, draw: random.Random) -> str:
    """Have a side export, as beat does."""
    network = _either(world, draw)
    return f"{network.name}: {world.export(network)}"


def take_in(world: World, draw: random.Random) -> str:
    """Have a side import, as beat does."""
    network = _either(world, draw)
    return f"{network.name}: {world.take_in(network)}"


def carry(world: World, draw: random.Random) -> str:
    """Carry what a side sent, with the faults of this seed."""
    network = _either(world, draw)
    return f"from {network.name}: {world.carry(network)}"


def wait(world: World, draw: random.Random) -> str:
    """Let time pass."""
    seconds = PERIOD * draw.choice([0.5, 1, 1, 2, 5, 20])
    world.time += seconds
    return f"{seconds:.0f} s pass"


def draw_faults(draw: random.Random) -> Faults:
    """Say how bad the carriers of a seed are: some are good at some things."""

    def share(most: float) -> float:
        return draw.random() * most if draw.random() < 0.7 else 0.0

    return Faults(
        delay=share(0.4),
        repeat=share(0.4),
        truncate=share(0.1),
        damage=share(0.1),
        drop=share(0.3),
        reorder=draw.random() < 0.7,
    )


# What breaks


def crash(world: World, draw: random.Random) -> str:
    """Kill a process at a step of its work."""
    world.breakage = Breakage(at=1 + int(draw.random() ** 2 * 80))
    return _at_work(world, draw)


def fill_disk(world: World, draw: random.Random) -> str:
    """Let a disk be full, or fail, from a step of the work on."""
    error = draw.choice([errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
    world.breakage = Breakage(at=1 + int(draw.random() ** 2 * 60), error=error)
    return f"{errno.errorcode[error]}: " + _at_work(world, draw)


def take_database_away(world: World, draw: random.Random) -> str:
    """Let the database be away from a statement of the work on."""
    world.breakage = Breakage(statement=1 + int(draw.random() ** 2 * 200))
    return _at_work(world, draw)


def _at_work(world: World, draw: random.Random) -> str:
    network = _either(world, draw)
    what = draw.choice([world.export, world.take_in])
    return f"{network.name} {what.__name__}: {what(network)}"


def turn_clock(world: World, draw: random.Random) -> str:
    """Let a side's clock be wrong from now on."""
    network = _either(world, draw)
    network.skew = draw.choice([0, 1, -1]) * draw.choice([PERIOD, 3600, DAY, 3 * DAY, 60 * DAY])
    return f"{network.name} is {network.skew:.0f} s ahead"


def restore(world: World, draw: random.Random) -> str:
    """Copy a side's database, or put an earlier copy back: its people know of it, or have forgotten."""
    network = _either(world, draw)
    if not network.copies or draw.random() < 0.5:
        with world.as_of(network):
            network.copies.append(world.copy(network))
        return f"{network.name} is copied"
    copy = draw.choice(network.copies)
    with world.as_of(network):
        world.put_back(network, copy)
    if draw.random() < 0.7:
        return f"{network.name} is restored: {begin_epoch(world, network)}"
    return f"{network.name} is restored, and nobody says so"


def begin_epoch(world: World, network: Network) -> str:
    """Begin a new epoch, as one does after a restore."""
    return world.act(network, lambda: epochs.begin_epoch(network.side.site, "an earlier copy was restored").epoch)


def edit_by_hand(world: World, draw: random.Random) -> str:
    """Change rows on the side that receives them, which nothing captures."""
    table = world.two.tables[draw.choice(FORTH)]
    key = draw.randrange(writers.KEYS)
    side = world.two.side
    with world.as_of(world.two), side.engine.begin() as connection:
        match draw.randrange(3):
            case 0:
                alone = table.name in {"seat", "item", "visit"}
                if alone:
                    connection.execute(sa.delete(table).where(table.c.id == key))
                    return f"{table.name} {key} deleted"
            case 1 if table.name in {"seat", "item", "account", "tree"}:
                values = {"seat": {"code": f"hand {key}"}, "account": {"name": "by hand"}}.get(
                    table.name, {"label": "by hand", "amount": 1} if table.name == "item" else {"name": "by hand"}
                )
                writers._put(connection, table, key + 20 * draw.randrange(2), **values)
                return f"{table.name} {key} written"
        name = next((one for one in ("name", "text", "label", "code") if one in table.c), None)
        if name is not None and name != "code":
            connection.execute(sa.update(table).where(table.c.id == key).values({name: "by hand"}))
        return f"{table.name} {key} changed"


def turn_clocks_far(world: World, draw: random.Random) -> str:
    """Let both sides' clocks jump by a year, back or ahead."""
    for network in world.networks:
        network.skew = draw.choice([0, 1, -1]) * 365 * DAY
    return ", ".join(f"{network.name} is {network.skew:.0f} s ahead" for network in world.networks)


def restore_both(world: World, draw: random.Random) -> str:
    """Copy both sides' databases, or put back one of each at the same time; who knows of it begins an epoch."""
    if not all(network.copies for network in world.networks) or draw.random() < 0.4:
        for network in world.networks:
            with world.as_of(network):
                network.copies.append(world.copy(network))
        return "both are copied"
    for network in world.networks:
        with world.as_of(network):
            world.put_back(network, draw.choice(network.copies))
    told = [network for network in world.networks if draw.random() < 0.6]
    return "both are restored" + "".join(f"; {one.name}: {begin_epoch(world, one)}" for one in told)


def lose_database(world: World, draw: random.Random) -> str:
    """Lose a side's database, of which there is no copy, or all the files that it keeps of batches."""
    network = _either(world, draw)
    if draw.random() < 0.5:
        world.make_anew(network)
        return f"{network.name}'s database is made anew"
    folders = network.side.site.spool.folders
    for folder in (folders.sealed, folders.archive, folders.work, folders.quarantine):
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("."):
                path.unlink()
    world.harmed.add(network.name)
    return f"{network.name} keeps no file"


def drop_capture(world: World, draw: random.Random) -> str:
    """Drop the triggers of a table, as making it anew does; or install again those that were dropped earlier."""
    network = world.one
    if network.uncaptured and draw.random() < 0.6:
        return install_capture(network)
    streams = [one for channel in network.side.site.outgoing() for one in channel.streams]
    table = draw.choice(sorted({stream.table.name for stream in streams}))
    with network.side.engine.begin() as connection:
        capture.drop(connection, table)
    network.uncaptured.add(table)
    return f"{network.name} does not capture {table}"


def install_capture(network: Network) -> str:
    """Install again the triggers that somebody ever dropped: a database that was restored may lack them still."""
    with network.side.engine.begin() as connection:
        for table in network.uncaptured:
            capture.install(connection, table, stream=table)
    return f"{network.name} captures {', '.join(sorted(network.uncaptured))} again"


def fill_both_disks(world: World, draw: random.Random) -> str:
    """Let both sides' disks be full from a step of their exports on."""
    said = []
    for network in world.networks:
        world.breakage = Breakage(at=1 + int(draw.random() ** 2 * 60), error=errno.ENOSPC)
        said.append(f"{network.name}: {world.export(network)}")
    return "; ".join(said)


# What carriers do beside what they carry


def _incoming(network: Network) -> Path:
    return network.side.site.spool.folders.incoming


def _lying(network: Network) -> list[Path]:
    return sorted(path for path in _incoming(network).iterdir() if not path.name.startswith("."))


def swap_files(world: World, draw: random.Random) -> str:
    """Swap what is in two files that arrived."""
    network = _either(world, draw)
    lying = _lying(network)
    if len(lying) < 2:
        return "nothing"
    one, other = draw.sample(lying, 2)
    content, that = one.read_bytes(), other.read_bytes()
    for path, data in ((one, that), (other, content)):
        draft = path.with_name(f".{path.name}.part")
        draft.write_bytes(data)
        draft.rename(path)
    return f"{one.name} and {other.name}"


def bring_stale(world: World, draw: random.Random) -> str:
    """Bring again what was sent long ago: to the other side, or back to the one that sent it."""
    network = _either(world, draw)
    folder = draw.choice([network.side.site.spool.folders.sealed, network.side.site.spool.folders.archive])
    found = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and "~" not in path.name)
    if not found:
        return "nothing"
    stem = draw.choice(found).name.partition(".")[0]
    where = draw.choice(world.networks)
    some = [path for path in found if path.name.startswith(stem) and draw.random() < 0.9]
    for path in some:
        shutil.copy(path, _incoming(where) / path.name)
    return f"{', '.join(path.name for path in some)} to {where.name}"


def bring_foreign(world: World, draw: random.Random) -> str:
    """Bring what is nobody's: a manifest that a stranger signed, rubbish, a file under another name."""
    network = _either(world, draw)
    folder, lying = _incoming(network), _lying(network)
    manifests = [path for path in lying if path.name.endswith(MANIFEST_ENDING)]
    match draw.randrange(3):
        case 0 if manifests:
            path = draw.choice(manifests)
            line = path.read_bytes().split(b"\n")[0]
            signed = SigningKey.generate("stranger").sign(line)
            draft = path.with_name(f".{path.name}.part")
            draft.write_bytes(line + b"\n" + signed.encode() + b"\n")
            draft.rename(path)
            return f"{path.name} is signed by a stranger"
        case 1 if lying:
            path = draw.choice(lying)
            path.rename(path.with_name(path.name.swapcase()))
            return f"{path.name} has its case changed"
    (folder / f"rubbish-{draw.randrange(9)}.jsonl").write_bytes(draw.randbytes(20))
    return "rubbish"


def lose_files(world: World, draw: random.Random) -> str:
    """Lose what lies sealed, or what arrived and was not taken yet."""
    network = _either(world, draw)
    folder = draw.choice([network.side.site.spool.folders.sealed, _incoming(network)])
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    lost = [path for path in found if draw.random() < 0.3]
    for path in lost:
        path.unlink()
    if lost and folder.name == "sealed":
        world.harmed.add(network.name)
    return f"{len(lost)} files of {network.name}'s {folder.name}"


def bring_half(world: World, draw: random.Random) -> str:
    """Leave half of a file, or nothing of it, under its name; and complete what was left so earlier."""
    for path, content in world.halves.items():
        path.write_bytes(content)
    done, world.halves = len(world.halves), {}
    lying = _lying(_either(world, draw))
    for path in [one for one in lying if draw.random() < 0.5]:
        content = path.read_bytes()
        world.halves[path] = content
        path.write_bytes(content[: draw.choice([0, len(content) // 2])])
    return f"{done} completed, {len(world.halves)} half"


def bring_manifests_first(world: World, draw: random.Random) -> str:
    """Hold back the data of what arrived, and bring what was held back earlier."""
    network = _either(world, draw)
    apart = network.side.home.parent / f"held back from {network.name}"
    apart.mkdir(exist_ok=True)
    back = sorted(apart.iterdir())
    for path in back:
        path.rename(_incoming(network) / path.name)
    away = [one for one in _lying(network) if one not in back and not one.name.endswith(MANIFEST_ENDING)]
    for path in away:
        path.rename(apart / path.name)
    return f"{len(back)} brought, {len(away)} held back"


def rename_files(world: World, draw: random.Random) -> str:
    """Give a file the name that a copying program gives it, and perhaps leave the file as well."""
    network = _either(world, draw)
    lying = _lying(network)
    if not lying:
        return "nothing"
    path = draw.choice(lying)
    stem, dot, ending = path.name.partition(".")
    names = (f"{stem} (1){dot}{ending}", f"Copy of {path.name}", f"{path.name} ", path.name.upper(), f"{path.name}.txt")
    name = draw.choice([*names, path.name.title(), f"{stem} {dot}{ending}", f"{stem}~2{dot}{ending}"])
    if draw.random() < 0.5:
        shutil.copy(path, path.with_name(name))
    else:
        path.rename(path.with_name(name))
    return f"{path.name} is {name}"


# People


def rotate_and_begin(world: World, draw: random.Random) -> str:
    """Begin a new epoch and sign with a new key at the same time, with something sealed by the old key between."""
    network = _either(world, draw)
    said = [begin_epoch(world, network), world.export(network)] if draw.random() < 0.5 else []
    return "; ".join([*said, rotate_keys(world, draw), begin_epoch(world, network), world.export(network)])


def declare_less(world: World, draw: random.Random) -> str:
    """Declare a channel no more on a side, or all of them again."""
    network = _either(world, draw)
    gone = {draw.choice(sorted(network.begun))} if network.more == network.begun and network.begun else set()
    network.more = network.begun - gone
    network.declare()
    return f"{network.name} declares {', '.join(sorted(network.more))}"


def erase(world: World, draw: random.Random) -> str:
    """Have every place forget a row's record, on a side that has it."""
    network = _either(world, draw)
    site = network.side.site
    name = draw.choice(["account", "note", "tree", "item"])
    key = str(draw.randrange(writers.KEYS))
    return f"{network.name} {name} {key}: " + world.act(
        network, lambda: erasure.erase_record(site, sought.seek(site, name, key)).counts()["erased"]
    )


def reshard_and_lose(world: World, draw: random.Random) -> str:
    """Declare another number of shards while batches of the old ones are lost."""
    network = world.one
    return "; ".join([world.export(network), lose_files(world, draw), reshard(world, draw), world.export(network)])


def rotate_keys(world: World, draw: random.Random) -> str:
    """Sign with a new key from now on; the other side trusts it by then, or at the next chance."""
    network = _either(world, draw)
    if len(network.keys) > 1 and network.side.site.signing_key is network.keys[-1]:
        world.trust()
    network.keys.append(SigningKey.generate(f"{network.name}-{len(network.keys)}"))
    if draw.random() < 0.5:
        world.trust()
        return f"{network.name} has key {network.keys[-1].name}"
    network.side.site = replace(network.side.site, signing_key=network.keys[-1])
    return f"{network.name} has key {network.keys[-1].name}, which nobody trusts yet"


def trust(world: World, _draw: random.Random) -> str:
    """Let both sides trust all keys of the other one."""
    world.trust()
    return "all keys"


def reshard(world: World, draw: random.Random) -> str:
    """Declare another number of shards on a side."""
    network = _either(world, draw)
    network.shards = draw.randrange(1, 5)
    network.declare()
    return f"{network.name} declares {network.shards}"


def raise_schema(world: World, draw: random.Random) -> str:
    """Raise the schema on a side."""
    network = _either(world, draw)
    network.schema = 2
    network.declare()
    return f"{network.name} has schema {network.schema}"


def prune(world: World, draw: random.Random) -> str:
    """Let a day or more pass on a side, and remove what is kept no longer."""
    world.time += draw.choice([0.3, 1.2]) * DAY
    network = _either(world, draw)
    return f"{network.name}: {world.prune(network)}"


def operate(world: World, draw: random.Random) -> str:
    """Let a person do one of the things that a person may do at any time."""
    network = _either(world, draw)
    site = network.side.site
    letters = [
        row.id
        for row in network.side.all(
            sa.select(tables.dead_letter.c.id)
            .where(tables.dead_letter.c.state == "parked")
            .order_by(tables.dead_letter.c.id)
        )
    ]
    missing = network.side.all(
        sa.select(tables.gap.c.channel, tables.gap.c.sequence)
        .where(tables.gap.c.state == "missing")
        .order_by(tables.gap.c.channel, tables.gap.c.sequence)
    )
    channel = draw.choice(site.outgoing())
    known: dict[str, Callable[[], object]] = {
        "resync": lambda: send_requests.add_snapshot_requests(site, channel.name, None, prune=draw.random() < 0.5),
        "reconcile": lambda: len(reconcile.request_checkpoints(site)),
        "retry": lambda: [str(one.state) for one in retry.retry_letters(site, letters)] if letters else None,
        "discard": lambda: discard.discard_letters(site, "no more", ids=letters[:1]) if letters else None,
        "accept": lambda: (
            gaps.accept_by_hand(
                site,
                missing[0].channel,
                missing[0].sequence,
                missing[0].sequence,
                "go on",
                snapshot=draw.random() < 0.8,
            )
            if missing
            else None
        ),
        "resend": lambda: _resend(network, draw),
        "release": lambda: _release(network, draw),
        "replay": lambda: _replay(network, draw),
        "clear": lambda: strangers.clear_strangers(site),
        "epoch": lambda: epochs.begin_epoch(site, "somebody thought so").epoch,
    }
    what = draw.choice(sorted(known))
    return f"{network.name} {what}: {world.act(network, known[what])}"


def _resend(network: Network, draw: random.Random) -> object:
    batch = tables.batch.c
    sent = network.side.all(
        sa.select(batch.channel, batch.sequence)
        .where(batch.direction == "out", batch.channel != "control")
        .order_by(batch.id)
    )
    if not sent:
        return None
    one = draw.choice(sent)
    return len(resend.resend_by_hand(network.side.site, one.channel, [one.sequence]))


def _release(network: Network, draw: random.Random) -> object:
    lying = quarantine.list_quarantined(network.side.site).batches
    return quarantine.release_files(network.side.site, draw.choice(lying).label).verdict if lying else None


def _replay(network: Network, draw: random.Random) -> object:
    stems = network.side.all(
        sa.select(tables.batch.c.stem).where(tables.batch.c.direction == "in").order_by(tables.batch.c.id)
    )
    if not stems:
        return None
    return [one.verdict for one in replay.replay_batches(network.side.site, draw.choice(stems).stem).batches]


def end(world: World) -> list[tuple[str, str]]:
    """End what only administrators end: clocks, keys and schemas are in order from here on."""
    schema = max(network.schema for network in world.networks)
    mended = wide_writers.mend_rules(world)
    if world.rejected:
        world.time += 1.1 * DAY  # three refusals a day are answered
    for network in world.networks:
        network.skew, network.schema, network.more = 0.0, schema, network.begun
        install_capture(network)
        network.declare()
    world.trust()
    return [("end", f"clocks are right, keys trusted, schema {schema}, {mended}")]


def heed(world: World) -> list[tuple[str, str]]:
    """Do what a side that stands still asks of its people: begin an epoch after a restore that nobody told of, and take
    versions of a year that a clock was in.
    """
    done = []
    for network in world.networks:
        with reading(network.side.engine) as connection:
            because = own_network.halted(connection)
        if because:
            done.append(("heed", f"{network.name} is halted ({because}): {begin_epoch(world, network)}"))
        ahead = sa.select(tables.batch.c.stem).where(
            tables.batch.c.state == BatchState.HELD, tables.batch.c.reason == Reason.VERSIONS
        )
        done += [
            ("heed", f"{network.name} releases {row.stem}: {_take_ahead(world, network, row.stem)}")
            for row in network.side.all(ahead)
        ]
    return done


def _take_ahead(world: World, network: Network, stem: str) -> str:
    run = partial(importer.import_batches, network.side.site, stem=stem, release=True)
    return world.act(network, lambda: [one.verdict.value for one in run().batches])


ACTORS: dict[str, Actor] = {
    "write one": Actor(writers.write_one, 25),
    "write two": Actor(writers.write_two, 10),
    "export": Actor(export, 12),
    "carry": Actor(carry, 14),
    "import": Actor(take_in, 12),
    "wait": Actor(wait, 8),
    "refused": Actor(writers.refused, 5, extra=True),
    "vain": Actor(writers.vain, 2, extra=True),
    "crash": Actor(crash, 8, extra=True),
    "disk": Actor(fill_disk, 5, extra=True),
    "database": Actor(take_database_away, 5, extra=True),
    "clock": Actor(turn_clock, 2, extra=True),
    "restore": Actor(restore, 4, extra=True),
    "hand": Actor(edit_by_hand, 4, extra=True),
    "swap": Actor(swap_files, 4, extra=True),
    "stale": Actor(bring_stale, 4, extra=True),
    "foreign": Actor(bring_foreign, 4, extra=True),
    "lose": Actor(lose_files, 2, extra=True),
    "keys": Actor(rotate_keys, 2, extra=True),
    "trust": Actor(trust, 2),
    "shards": Actor(reshard, 2, extra=True),
    "schema": Actor(raise_schema, 2, extra=True),
    "prune": Actor(prune, 2, extra=True),
    "operator": Actor(operate, 5, extra=True),
    "write wide": Actor(wide_writers.write, 20, wide=True),
    "bad rule": Actor(wide_writers.write_bad_rule, 3, extra=True, wide=True),
    "hand wide": Actor(wide_writers.edit_by_hand, 5, extra=True, wide=True),
    "years": Actor(turn_clocks_far, 3, extra=True, wide=True),
    "restore both": Actor(restore_both, 4, extra=True, wide=True),
    "disks": Actor(fill_both_disks, 4, extra=True, wide=True),
    "halves": Actor(bring_half, 5, extra=True, wide=True),
    "manifests first": Actor(bring_manifests_first, 5, extra=True, wide=True),
    "names": Actor(rename_files, 5, extra=True, wide=True),
    "anew": Actor(lose_database, 2, extra=True, wide=True),
    "capture": Actor(drop_capture, 4, extra=True, wide=True),
    "less": Actor(declare_less, 4, extra=True, wide=True),
    "erase": Actor(erase, 4, extra=True, wide=True),
    "key and epoch": Actor(rotate_and_begin, 2, extra=True, wide=True),
    "shards and loss": Actor(reshard_and_lose, 3, extra=True, wide=True),
}
"""Everybody, by name. Of those that are ``extra`` a seed has a few."""
