"""Batches, gaps and quarantine as a program sees them, on two real sides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from exchange import Exchange
from exchange.api import RefusedArgument
from exchange.api.batches import BatchFilters
from exchange.channels import Channel, Stream
from exchange.database import make_engine
from exchange.database.tables import BatchState, GapState, audit
from exchange.files import keys
from exchange.format.errors import TransientError, Verdict
from exchange.format.json_pointer import join as pointer_to
from exchange.operating import migrate
from exchange.tables import capture
from tests.databases import Databases


class Base(DeclarativeBase): ...


class Machine(Base):
    __tablename__ = "machine"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(unique=True)
    secret: Mapped[str]


CHANNELS = [Channel("machines", "plant", "office", [Stream(Machine, sensitive=["secret"])], on_invalid="reject")]


def _database(databases: Databases, network: str) -> str:
    def migrated(url: str) -> None:
        engine = make_engine(url)
        migrate.upgrade(engine, network=network)
        engine.dispose()

    def prepare(url: str) -> None:
        engine = make_engine(url)
        with engine.begin() as connection:
            Base.metadata.create_all(connection)
            if network == "plant":
                capture.install(connection, "machine")
            else:
                capture.add_version_column(connection, "machine")
        engine.dispose()

    return databases.fresh("sqlite", ("of machines", network), prepare, (("migrated", network), migrated))


@pytest.fixture
def sides(tmp_path: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Exchange, Exchange]]:
    monkeypatch.chdir(tmp_path)
    made = []
    for network, peer in (("plant", "office"), ("office", "plant")):
        home = tmp_path / network
        home.mkdir(mode=0o700)
        keys.new(home / "keys", f"{network}-1")
        url = _database(databases, network)
        side = Exchange.from_settings(
            network=network, peer=peer, home=home, database_url=url, channels=CHANNELS, settle_seconds=0.001
        )
        side.migrate()
        made.append(side)
    plant, office = made
    for one, other in ((plant, office), (office, plant)):
        keys.trust(other.settings.keys_folder, keys.candidate(next(one.settings.keys_folder.glob("*.pem"))))
    yield plant, office
    for side in made:
        side.close()


def send(plant: Exchange, office: Exchange, *machines: Machine, spoil: bool = False, lose: bool = False) -> str:
    """Have some rows sent and carried; give the batch's name."""
    with Session(plant.site.engine) as session, session.begin():
        session.add_all(machines)
    (sent,) = plant.export().batches
    for path in sorted(plant.settings.outgoing.glob(f"{sent.batch}*")):
        content = path.read_bytes()
        if not lose:
            broken = spoil and "manifest" not in path.name
            (office.settings.incoming / path.name).write_bytes(b"x" * len(content) if broken else content)
    return sent.batch


def machine(number: int, code: str | None = None) -> Machine:
    return Machine(id=number, code=code or f"m{number}", secret=f"s3cret-{number}")


def done(side: Exchange) -> list[str]:
    with side.site.engine.connect() as connection:
        return list(connection.scalars(sa.select(audit.c.action).where(audit.c.concludes.is_(None))))


def test_a_batch_is_listed_shown_verified_and_let_in_with_its_bad_records_parked(
    sides: tuple[Exchange, Exchange],
) -> None:
    plant, office = sides
    with Session(office.site.engine) as session, session.begin():
        session.add(machine(9, "m2"))
    stem = send(plant, office, machine(1), machine(2))
    assert [one.verdict for one in office.import_batches("machines").batches] == [Verdict.QUARANTINED]
    (listed,) = office.batches.list(BatchFilters(state=BatchState.QUARANTINED)).batches
    assert (listed.batch, listed.reason, listed.total) == (stem, "rejected", 2)
    assert office.batches.list(BatchFilters(stem=stem[:15], reason="rejected")).count.as_dict() == {
        "number": 1,
        "exact": True,
    }

    shown = office.batches.show(stem)
    assert shown.manifest is not None
    assert (shown.manifest["sequence"], shown.signed_by, shown.lies_in) == (1, "plant-1", "quarantine")
    assert [one.to_state for one in shown.history] == ["quarantined"]
    assert (len(shown.records), shown.records[0].stream, shown.there) == (2, "machine", None)
    assert "s3cret" not in str(shown.as_dict())
    assert "s3cret-1" in str(office.batches.show(stem, reveal=True, who="ada").records[0].text)
    assert [one.ok for one in office.batches.verify(stem).checks] == [True] * 7

    trial = office.batches.trial(stem).trial
    assert trial is not None
    assert (trial.counts.applied, [one.error for one in trial.bad]) == (1, ["unique"])
    with pytest.raises(TransientError, match="--park lets the others in"):
        office.batches.release(stem)
    assert office.batches.release(stem, park=True, reason="known").outcome.verdict is Verdict.APPLIED
    (bad,) = office.batches.show(stem).bad
    assert (bad.error, pointer_to("secret") in str(bad)) == ("unique", False)
    assert office.dead_letters.trend().letters[-1] + office.dead_letters.trend().letters[-2] == 1
    assert done(office) == ["reveal", "release_batch", "release_batch"]

    ours = plant.batches.show(stem)
    assert (ours.lies_in, ours.there and ours.there.said, len(ours.records)) == ("sealed", "nothing", 2)
    assert plant.batches.verify(stem).reason is None
    (again,) = plant.batches.resend("machines", [1], reason="lost")
    assert again.batch == f"{stem}.r2"


def test_what_is_missing_or_in_quarantine_is_given_in_pages_and_settled(sides: tuple[Exchange, Exchange]) -> None:
    plant, office = sides
    for number in range(1, 6):
        send(plant, office, machine(number), lose=number in {2, 4}, spoil=number == 1)
    office.import_batches("machines")
    first = office.gaps.list(limit=1)
    assert [(one.first, one.refused) for one in first.found] == [(1, "corrupt")]
    rest = office.gaps.list(limit=5, after=first.after)
    assert [(one.first, one.refused) for one in rest.found] == [(2, None), (4, None)]
    assert (rest.after, rest.count) == (None, (3, True))
    (lying,) = office.quarantine.list().batches
    assert office.quarantine.show(lying.label).as_dict()["reason_now"] == "corrupt"
    assert office.quarantine.discard(lying.label, "damaged on its way").state is BatchState.DISCARDED
    assert (office.quarantine.list().batches, list(office.quarantine.strangers())) == ((), [])
    assert office.gaps.accept("machines", 1, "lost", through=2, who="ada").sequences == (1, 2)
    assert all("ada" in str(one.who) for one in office.gaps.list(state=GapState.ACCEPTED).found)
    assert done(office) == ["discard_quarantined", "accept_gap"]


def test_what_makes_no_sense_is_refused(sides: tuple[Exchange, Exchange]) -> None:
    plant, office = sides
    for ask, said in (
        (lambda: office.batches.list(after=7), "there is no batch 7 to go on after"),
        (lambda: office.batches.list(limit=0), "limit: expected 1 or more"),
        (lambda: office.batches.show("x"), 'batch: "x" names no batch'),
        (lambda: office.gaps.list(after="x"), "there is no gap x to go on after"),
        (lambda: office.gaps.accept("machine", 1, "lost"), "did you mean machines"),
        (lambda: office.quarantine.list(after="x"), "there is no batch x to go on after"),
        (plant.batches.resend, "expected channel and sequences, or a code"),
    ):
        with pytest.raises(RefusedArgument, match=said):
            ask()
