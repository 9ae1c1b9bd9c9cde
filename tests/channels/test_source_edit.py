"""A declaration in its source is raised where it stands there exactly; of any other a person is told what to write."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from exchange.channels import Stream
from exchange.channels.schemas import stream_schema
from exchange.channels.source_edit import instructions, raised, upgrade_step

HEAD = """from sqlalchemy import Column, Integer, MetaData, String, Table

from exchange import channels as exchange_channels
from exchange.channels import Channel, Stream

metadata = MetaData()
key = ("id", Integer)
item = Table("item", metadata, Column(*key, primary_key=True), Column("title", String(9)), Column("n", Integer))
"""
OLD = """
old = Table("item", MetaData(), Column(*key, primary_key=True), Column("name", String(9)), Column("n", Integer))
"""
EXACT = {
    "Stream(item)": "Stream(item, schema_version=2, upgrades={1: item_from_1})",
    'Stream(item, name="ü",)  # ü': 'Stream(item, name="ü", schema_version=2, upgrades={1: item_from_1},)  # ü',
    "Stream(\n    item,\n    schema_version=1,\n    upgrades={},\n)": (
        "Stream(\n    item,\n    schema_version=2,\n    upgrades={1: item_from_1},\n)"
    ),
    "exchange_channels.Stream((item))": "exchange_channels.Stream((item, schema_version=2, upgrades={1: item_from_1}))",
}
LEFT = (
    "[Stream(one) for one in [item]][0]",
    "(lambda: Stream(item))()",
    "Stream(item, schema_version=int('1'))",
    "Stream(item, **{})",
    "[Stream(item), Stream(item)][0]",
    "Stream(item); item_from_1 = None",
)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[list[str]]:
    """Take the names of modules that a test imports, and forget them after it."""
    sys.path.insert(0, str(tmp_path))
    names: list[str] = []
    yield names
    sys.path.remove(str(tmp_path))
    for name in names:
        del sys.modules[name]


def module(folder: Path, names: list[str], source: str) -> ModuleType:
    name = f"declared_{len(names)}"
    place = folder / name
    place.mkdir()
    (place / "__init__.py").touch()
    (place / "channels.py").write_bytes(source.encode())
    names += [name, f"{name}.channels"]
    importlib.invalidate_caches()
    return importlib.import_module(f"{name}.channels")


def test_what_stands_exactly_is_edited_and_nothing_else(tmp_path: Path, written: list[str]) -> None:
    for number, (declared, wanted) in enumerate(EXACT.items()):
        head = HEAD.replace("\n", "\r\n") if number == 0 else HEAD
        loaded = module(tmp_path, written, f"{head}made = {declared}\n")
        step = upgrade_step(loaded.made, 1, None, stream_schema(loaded.made))
        step = step._replace(name="item_from_1", source=step.source.replace("ü_from_1", "item_from_1"))
        edit = raised(f"{loaded.__name__}:made", loaded.made, 2, step)
        if "((" in declared:  # what would come out is no call of Stream with what it should have
            assert edit is None
            continue
        assert edit is not None, declared
        newline = "\r\n" if number == 0 else "\n"
        assert (
            edit.after.decode()
            == f"{head}{step.source}\n\n".replace("\r\n", "\n").replace("\n", newline) + f"made = {wanted}\n"
        )


def test_what_stands_otherwise_is_left_to_a_person(tmp_path: Path, written: list[str]) -> None:
    for declared in LEFT:
        loaded = module(tmp_path, written, f"{HEAD}made = {declared}\n")
        step = upgrade_step(loaded.made, 1, None, stream_schema(loaded.made))
        assert raised(f"{loaded.__name__}:made", loaded.made, 2, step) is None, declared
        assert "schema_version=2, upgrades={..., 1: item_from_1}" in instructions(loaded.made, 2, step)


def test_a_step_says_what_it_does_and_what_only_a_person_knows(tmp_path: Path, written: list[str]) -> None:
    source = HEAD.replace(
        'Column("n", Integer)', 'Column("n", Integer, nullable=False), Column("k", Integer, default=3, nullable=False)'
    )
    loaded = module(tmp_path, written, f"{source}{OLD}made = Stream(item)\n")
    step = upgrade_step(loaded.made, 1, stream_schema(Stream(loaded.old)), stream_schema(loaded.made))
    assert step.source.splitlines()[2:] == [
        '    # If it was renamed: data["title"] = data.pop("name"), in place of the lines about both.',
        '    data.pop("name", None)',
        '    data["title"] = None',
        '    data["k"] = 3',
        "    # column n may be null no longer",
        '    if data["n"] is None:',
        '        raise NotImplementedError("which n has a row of version 1 that has none?")',
        "    return data",
    ]
