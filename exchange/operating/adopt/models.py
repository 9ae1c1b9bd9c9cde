"""The application's tables, as its models declare them, and how Python code names each."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, registry

from exchange.channels.channel import ChannelFaults, imported
from exchange.format.errors import printable

_TAKEN = {"Channel", "Stream", "channels", "constraint"}
"""Names that a module of channels has itself."""


@dataclass(frozen=True)
class Model:
    """One table: ``code`` names it, once ``name`` is imported from ``module``; ``mapped`` is its class, if any."""

    table: sa.Table
    module: str
    name: str
    code: str
    mapped: type | None = None

    @property
    def key(self) -> str:
        """The table's name, with its schema where the model says one."""
        return self.table.key

    @property
    def table_code(self) -> str:
        """What names the ``Table`` itself."""
        return f"{self.code}.__table__" if self.mapped else self.code

    @property
    def declared(self) -> Any:
        """What its stream is made of."""
        return self.mapped or self.table


@dataclass(frozen=True)
class Models:
    """All that a name led to: its module, and its tables in the order of their foreign keys."""

    module: ModuleType
    tables: tuple[Model, ...]
    metadata: str
    """What names the MetaData, once ``metadata_name`` is imported from the module."""
    metadata_name: str


def load_models(spec: str) -> Models:
    """Import what ``package.module:attribute`` names: a declarative base, a MetaData, what has one; or a whole module.

    Raises ChannelFaults.
    """
    module_name, _, attribute = spec.partition(":")
    shown = printable(spec)
    module = imported(module_name, f'models "{shown}"')
    if attribute and not hasattr(module, attribute):
        raise ChannelFaults([f'models "{shown}": module {module_name} has no {attribute}'])
    sources = [(attribute, getattr(module, attribute))] if attribute else [*_sources(module)]
    found = [(name, *_metadata(name, value)) for name, value in sources if _metadata(name, value)[1] is not None]
    if not found:
        raise ChannelFaults(
            [f'models "{shown}": expected a declarative base, a MetaData or a module of models, found none']
        )
    classes = dict(_classes(sources))
    tables: dict[sa.Table, Model] = {}
    used: dict[str, str] = {}
    for name, code, metadata in found:
        assert metadata is not None
        for table in metadata.tables.values():
            if table not in tables and not table.name.startswith("exchange_") and table.name != "alembic_version":
                tables[table] = _named(table, classes.get(table), module_name, name, code, used)
    order = {table: number for number, table in enumerate(_in_order([one[2] for one in found if one[2] is not None]))}
    ordered = sorted(tables.values(), key=lambda model: order[model.table])
    return Models(module, tuple(ordered), found[0][1], found[0][0])


def _named(
    table: sa.Table, there: tuple[str, str] | None, module: str, name: str, code: str, used: dict[str, str]
) -> Model:
    """Name a table by its class, where that can be imported under a name that is free, else by its metadata."""
    if there is not None and there[1] not in _TAKEN and used.setdefault(there[1], there[0]) == there[0]:
        return Model(table, there[0], there[1], there[1], getattr(sys.modules[there[0]], there[1]))
    return Model(table, module, name, f"{code}.tables[{table.key!r}]")


def _in_order(metadatas: Sequence[sa.MetaData]) -> Iterator[sa.Table]:
    import warnings  # noqa: PLC0415 - foreign keys in a circle are told of by ourselves

    for metadata in metadatas:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sa.exc.SAWarning)
            yield from metadata.sorted_tables


def _sources(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Find what a module declares tables with: bases and MetaData of its own or imported, by their names in it."""
    seen: set[int] = set()
    for name, value in vars(module).items():
        if name.startswith("_") or value is DeclarativeBase:
            continue
        _, metadata = _metadata(name, value)
        if metadata is not None and metadata.tables and id(metadata) not in seen:
            seen.add(id(metadata))
            yield name, value


def _metadata(name: str, value: Any) -> tuple[str, sa.MetaData | None]:
    """Give the MetaData that a value is or has, and the code that names it."""
    if isinstance(value, sa.MetaData):
        return name, value
    metadata = getattr(value, "metadata", None)
    if isinstance(metadata, sa.MetaData):
        return f"{name}.metadata", metadata
    return name, None


def _classes(sources: Sequence[tuple[str, Any]]) -> Iterator[tuple[sa.Table, tuple[str, str]]]:
    """Give, of mapped classes that can be imported by their name, the table, the module and the name."""
    for _, value in sources:
        of = getattr(value, "registry", None) or getattr(getattr(value, "Model", None), "registry", None)
        mappers = sorted(of.mappers, key=lambda one: one.class_.__qualname__) if isinstance(of, registry) else ()
        for mapper in mappers:
            kind, table = mapper.class_, mapper.local_table
            importable = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind
            if importable and isinstance(table, sa.Table) and kind.__dict__.get("__table__") is table:
                yield table, (kind.__module__, kind.__qualname__)


def module_file(module: str) -> str | None:
    """Say where a module's code lies."""
    return getattr(importlib.import_module(module), "__file__", None)
