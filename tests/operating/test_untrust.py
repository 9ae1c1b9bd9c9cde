"""A process that goes on working, and a person who changes meanwhile whom this side trusts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from exchange.files import keys
from exchange.incoming import importer, replay
from exchange.operating.assemble import with_present_keys
from exchange.operating.prepare import prepare
from exchange.outgoing import exporter
from exchange.reference.models import ProfileType, Request, User
from exchange.settings import Settings
from exchange.site import Site


@dataclass
class Bench:
    """The response network as a worker has it, made once, and the request network, which sends to it."""

    settings: Settings
    site: Site
    peer: Site

    def task(self) -> Site:
        """Give the site as a task has it that begins now."""
        return with_present_keys(self.site, self.settings)

    def work(self, task: Site | None = None) -> list[tuple[str, str | None]]:
        """Have one more request sent, and give what a task makes of it, the next one or one that is at work already."""
        with Session(self.peer.engine) as session, session.begin():
            session.add(Request(user_id=7, kind="k", query="q", parameters={}))
        [batch] = exporter.export(self.peer, stopping=importer.never).batches
        for path in self.peer.spool.folders.outgoing.glob(f"{batch.batch}.*"):
            shutil.copy(path, self.settings.incoming / path.name)
        run = importer.import_batches(task or self.task())
        return [(one.verdict.value, one.reason) for one in run.batches if one.batch == batch.batch]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Give both networks; nobody trusts anybody yet."""
    response = Settings(network="response", peer="request", home=tmp_path / "response", settle_seconds=0)
    request = Settings(network="request", peer="response", home=tmp_path / "request")
    for settings in (response, request):
        keys.new(settings.keys_folder, f"{settings.network}-test")
    made = Bench(response, prepare(response), prepare(request))
    with Session(made.peer.engine) as session, session.begin():
        session.add(User(id=7, name="ada", email="ada@example.org", profile_type=ProfileType(name="p", daily_limit=9)))
    yield made
    for site in (made.site, made.peer):
        site.engine.dispose()


def test_a_working_process_heeds_at_its_next_batch_whom_this_side_trusts(bench: Bench) -> None:
    folder = bench.settings.keys_folder
    wanted = keys.candidate(bench.settings.home.with_name("request") / "keys/request-test.pem")
    assert bench.work() == [("quarantined", "untrusted")]
    keys.trust(folder, wanted)
    (first,) = bench.settings.home.glob("strangers/*.manifest.jsonl")
    replay.replay_batches(bench.task(), first.name.partition(".")[0])
    assert bench.work() == [("applied", None)]
    at_work = bench.task()
    keys.untrust(folder, "request-test")
    assert bench.work(at_work) == [("quarantined", "untrusted")]
    assert bench.work() == [("quarantined", "untrusted")]
