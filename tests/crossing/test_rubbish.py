"""A peer that signs rubbish costs itself one batch: nothing falls, nothing grows, and what is honest goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from exchange.format import resend_codes
from tests.crossing.rubbish import ODD, PLACES, Rubbish, Spoilt, Stage, honest
from tests.postgresql import Cluster

odd = st.one_of(
    st.sampled_from(ODD),
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.text(max_size=20).map(json.dumps),
    st.none(),
)
spoilt = st.builds(lambda place, value: Spoilt(place[0], place[1], value), st.sampled_from(PLACES), odd)
WEIRD = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ- iloU\x1b", max_size=300)


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Give a receiver on SQLite, and a copy of its folder as it was made."""
    folder = tmp_path_factory.mktemp("rubbish")
    made = Stage.make(folder / "home", f"sqlite:///{folder}/home/exchange.db")
    _begin(made)
    made.side.engine.dispose()
    shutil.copytree(made.home, folder / "as it was")
    yield made
    made.side.engine.dispose()


@pytest.fixture(scope="module")
def postgresql_stage(postgres_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Give a receiver on PostgreSQL."""
    url = postgres_cluster.lend()
    made = Stage.make(tmp_path_factory.mktemp("rubbish") / "home", url)
    _begin(made)
    yield made
    made.side.engine.dispose()
    postgres_cluster.give_back(url)


def _begin(stage: Stage) -> None:
    honest(stage, 1)
    assert stage.run("import")[0] == 0
    assert stage.run("reconcile")[0] == 0


def restore(stage: Stage) -> None:
    """Bring it back to where it began."""
    stage.side.engine.dispose()
    shutil.rmtree(stage.home)
    shutil.copytree(stage.home.parent / "as it was", stage.home)


def assert_harmless(stage: Stage, rubbish: Rubbish, sent: list[Spoilt], number: int) -> None:
    """Send it, and see that everything goes on: the import, each command that shows what was said, what is honest."""
    for one in sent:
        rubbish.send(one)
    honest(stage, number)
    assert clean_after_import(stage) == ["applied"]
    for words in ("status", "batches", "reconcile --report", "gaps"):
        for how in ((), ("--json",)):
            assert stage.run(*words.split(), *how)[0] == 0, words
    assert stage.run("quarantine")[0] == 0
    assert stage.run("doctor")[0] in {0, 1, 3}
    for file in rubbish.letter_files[:2]:
        code, _, said = stage.run("dead-letters", "import", str(file))
        assert code in {0, 1}, said
        file.unlink()
    rubbish.letter_files.clear()
    assert stage.run("export")[0] == 0
    honest(stage, number + 1)
    assert clean_after_import(stage) == ["applied"]


def clean_after_import(stage: Stage) -> list[str]:
    """Import; nothing falls over anything. Give what became of what is honest."""
    code, out, said = stage.run("import", "--json")
    assert code == 0, said
    outcomes = [json.loads(line) for line in out.splitlines()]
    fallen = [one for one in outcomes if one["reason"] == "crashed"]
    assert fallen == []
    return [one["verdict"] for one in outcomes if one["batch"].startswith("clean-")]


@pytest.mark.parametrize("examples", [2, pytest.param(200, marks=pytest.mark.torture)])
def test_rubbish_costs_its_own_batch_and_nothing_else(stage: Stage, examples: int) -> None:
    @bounded(examples)
    @given(st.lists(spoilt, min_size=30, max_size=40, unique=True))
    def check(sent: list[Spoilt]) -> None:
        restore(stage)
        assert_harmless(stage, Rubbish(stage), sent, 2)

    check()


@pytest.mark.postgres
@pytest.mark.parametrize("examples", [1, pytest.param(20, marks=pytest.mark.torture)])
def test_rubbish_costs_no_more_on_postgresql(postgresql_stage: Stage, examples: int) -> None:
    rubbish = Rubbish(postgresql_stage)
    numbers = iter(range(2, 1_000_000, 2))

    @bounded(examples)
    @given(st.lists(spoilt, min_size=30, max_size=40, unique=True))
    def check(sent: list[Spoilt]) -> None:
        assert_harmless(postgresql_stage, rubbish, sent, next(numbers))

    check()


def test_a_key_that_is_nested_as_deep_as_a_line_may_be_silences_no_receipt(stage: Stage) -> None:
    restore(stage)
    deep = Spoilt("record", ("data", "country"), '{"a":' * 60 + "0" + "}" * 60)

    assert_harmless(stage, Rubbish(stage), [deep], 2)


@pytest.mark.torture
def test_every_odd_value_of_every_member_costs_its_own_batch(stage: Stage) -> None:
    for kind in dict.fromkeys(kind for kind, _ in PLACES):
        sent = [Spoilt(*place, value) for place in PLACES if place[0] == kind for value in (None, *ODD)]
        for start in range(0, len(sent), 200):
            restore(stage)
            assert_harmless(stage, Rubbish(stage), sent[start : start + 200], 2)


@given(WEIRD)
@settings(deadline=None, database=None)
def test_a_request_code_is_one_or_a_sentence_whatever_was_typed(text: str) -> None:
    try:
        _, _, wanted = resend_codes.decode(text, [("forth", "0" * 12)])
    except ValueError as error:
        wanted, text = [], str(error)
        assert text.isprintable()
    assert sum(last - first + 1 for first, last in wanted) <= resend_codes.MAX_SEQUENCES


def test_a_code_that_is_none_ends_a_command_with_one_sentence(stage: Stage) -> None:
    for text in ("0" * 200, "Z" * 40, "\x1b[31m", "", "9" * 100_000):
        code, _, said = stage.run("resend", "--code", text)
        assert (code, len(said.splitlines())) in {(1, 1), (2, 1)}
        assert Path(stage.home).is_dir()
