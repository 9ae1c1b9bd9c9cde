"""Alembic operations for an application's own migrations: ``import exchange.alembic`` adds them to ``op``.

    op.install_capture("request", source="request")
    op.drop_capture("request")
    op.install_capture("item", schema="shop", source="request")
    op.pass_imports("item", "touch_last_update", schema="shop")

Both networks run the same migrations: triggers stand where the rows are owned, and the column ``exchange_version``
where they are received. Which of them this one is the database itself says, once ``exchange migrate`` was there. What
the exchange put beside the application's own is left alone by autogenerate. So an ``env.py`` needs no line for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import DropColumnOp, DropTableOp, ModifyTableOps, UpgradeOps
from alembic.util import CommandError, DispatchPriority, PriorityDispatchResult
from sqlalchemy import Connection
from sqlalchemy.sql.schema import SchemaItem

from exchange.database.network import named
from exchange.database.tables import VERSION_COLUMN
from exchange.tables import capture, passing
from exchange.tables.counters import keep_ahead

log = logging.getLogger(__name__)

_COLUMN_ADDED = (
    "table %s has the column %s now, which tells of two records of a row the newer one: where this application writes"
    " it by INSERT or COPY without a list of columns, or copies it by SELECT *, name the columns"
)

NETWORK_ATTRIBUTE = "exchange_network"
"""The attribute of the Alembic configuration that names this network, for a database that does not say so itself."""


OWN_ATTRIBUTE = "exchange_own"
"""The attribute that marks the exchange's own migrations: the application that comes along names its columns."""


@Operations.register_operation("install_capture")
class InstallCapture(MigrateOperation):
    """Capture a table's changes if this network is their source, or prepare it to receive them."""

    def __init__(
        self,
        table: str,
        source: str | None,
        stream: str | None,
        key: Sequence[str] | Mapping[str, str] | None,
        schema: str | None,
        advance_identity: bool | None = None,
    ) -> None:
        self.table, self.source, self.stream, self.key, self.schema = table, source, stream, key, schema
        self.advance_identity = advance_identity

    @classmethod
    def install_capture(
        cls,
        operations: Operations,
        table: str,
        *,
        source: str | None = None,
        stream: str | None = None,
        key: Sequence[str] | Mapping[str, str] | None = None,
        schema: str | None = None,
        advance_identity: bool | None = None,
    ) -> None:
        """Add triggers if this network is ``source``, else the column ``exchange_version``; both if that is None.

        Where the column is added it is said as a warning of the logger ``exchange.alembic``, for statements that don't
        name their columns (INSERT without a list, COPY, ``SELECT *``) have one more from then on. Triggers that stand
        where the table is received are taken away. May be repeated, and must be after a batch operation on SQLite,
        which makes the table anew without its triggers. ``stream``, ``key`` and ``schema`` as ``capture.install`` takes
        them. With ``advance_identity`` the counter of the key is kept ahead of the keys that come, where the table is
        received; False ends that, None leaves it as it is. Runs in the migration's transaction. Raises CommandError
        where that raises CaptureFault, if ``source`` is given and this network has no name, and if the key has no
        counter.
        """
        operations.invoke(cls(table, source, stream, key, schema, advance_identity))

    def reverse(self) -> DropCapture:
        """Give the operation that undoes this one."""
        return DropCapture(self.table, self.schema)


@Operations.register_operation("drop_capture")
class DropCapture(MigrateOperation):
    """Take a table out of the exchange."""

    def __init__(self, table: str, schema: str | None) -> None:
        self.table, self.schema = table, schema

    @classmethod
    def drop_capture(cls, operations: Operations, table: str, *, schema: str | None = None) -> None:
        """Remove the triggers and the column ``exchange_version``, if they are there.

        Runs in the migration's transaction. Raises CommandError if there is no such table.
        """
        operations.invoke(cls(table, schema))


@Operations.register_operation("pass_imports")
class PassImports(MigrateOperation):
    """Have a trigger of the application's not fire for what the exchange writes."""

    def __init__(self, table: str, trigger: str, schema: str | None) -> None:
        self.table, self.trigger, self.schema = table, trigger, schema

    @classmethod
    def pass_imports(cls, operations: Operations, table: str, trigger: str, *, schema: str | None = None) -> None:
        """Give the trigger a condition by which received rows stay as they were sent; nothing if it is not there.

        May be repeated. On SQLite a trigger that has a condition of its own is left as it is. Runs in the migration's
        transaction.
        """
        operations.invoke(cls(table, trigger, schema))

    def reverse(self) -> FireAgain:
        """Give the operation that undoes this one."""
        return FireAgain(self.table, self.trigger, self.schema)


@Operations.register_operation("fire_again")
class FireAgain(MigrateOperation):
    """Have the trigger fire for everything again."""

    def __init__(self, table: str, trigger: str, schema: str | None) -> None:
        self.table, self.trigger, self.schema = table, trigger, schema

    @classmethod
    def fire_again(cls, operations: Operations, table: str, trigger: str, *, schema: str | None = None) -> None:
        """Take the condition away that ``pass_imports`` gave the trigger; nothing if it has none."""
        operations.invoke(cls(table, trigger, schema))


@Operations.implementation_for(PassImports)
def _pass(operations: Operations, operation: PassImports) -> None:
    passing.let_pass(_connection(operations), operation.table, operation.trigger, operation.schema)


@Operations.implementation_for(FireAgain)
def _fire(operations: Operations, operation: FireAgain) -> None:
    passing.fire_again(_connection(operations), operation.table, operation.trigger, operation.schema)


@Operations.implementation_for(InstallCapture)
def _install(operations: Operations, operation: InstallCapture) -> None:
    connection = _connection(operations)
    owned = operation.source is None or operation.source == _network(operations, operation)
    try:
        if owned:
            capture.install(connection, operation.table, operation.key, operation.stream, operation.schema)
        else:
            capture.drop(connection, operation.table, operation.schema)
        may_be_received = not owned or operation.source is None
        added = may_be_received and capture.add_version_column(connection, operation.table, operation.schema)
        if may_be_received and operation.advance_identity is not None:
            wanted, key = operation.advance_identity, [*operation.key] if operation.key else None
            if why := keep_ahead(connection, operation.table, operation.schema, key, wanted=wanted):
                raise CommandError(why)
    except capture.CaptureFault as fault:
        raise CommandError(str(fault)) from fault
    if added and not _attribute(operations, OWN_ATTRIBUTE):
        log.warning(_COLUMN_ADDED, operation.table, VERSION_COLUMN)


@Operations.implementation_for(DropCapture)
def _drop(operations: Operations, operation: DropCapture) -> None:
    connection = _connection(operations)
    try:
        capture.drop(connection, operation.table, operation.schema)
        capture.drop_version_column(connection, operation.table, operation.schema)
    except capture.CaptureFault as fault:
        raise CommandError(str(fault)) from fault


def include_name(
    name: str | None,
    type_: str,
    parent_names: MutableMapping[Any, Any],  # noqa: ARG001 - alembic's signature
) -> bool:
    """Keep autogenerate from looking at what the exchange put beside the application's own (for ``env.py``)."""
    if type_ == "table":
        return not (name or "").startswith("exchange_")
    return not (type_ == "column" and name == VERSION_COLUMN)


def include_object(
    object_: SchemaItem,  # noqa: ARG001 - alembic's signature
    name: str | None,
    type_: str,
    reflected: bool,
    compare_to: SchemaItem | None,
) -> bool:
    """Do the same where ``env.py`` has an ``include_object`` already to which this can be added."""
    return not reflected or compare_to is not None or include_name(name, type_, {})


@comparators.dispatch_for("autogenerate", priority=DispatchPriority.LAST)
def _leave_ours_alone(_context: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    """Take out of what autogenerate found that the exchange's own tables and columns be dropped."""
    kept = []
    for found in upgrade_ops.ops:
        if isinstance(found, DropTableOp | ModifyTableOps) and not include_name(found.table_name, "table", {}):
            continue
        if isinstance(found, ModifyTableOps):
            there = bool(found.ops)
            found.ops = [
                one
                for one in found.ops
                if not (isinstance(one, DropColumnOp) and not include_name(one.column_name, "column", {}))
            ]
            if there and not found.ops:
                continue
        kept.append(found)
    upgrade_ops.ops = kept
    return PriorityDispatchResult.CONTINUE


def _connection(operations: Operations) -> Connection:
    connection = operations.get_context().connection
    if connection is None:
        raise CommandError("capture looks at the table it captures, so it can't be written offline (--sql)")
    return connection


def _attribute(operations: Operations, name: str) -> Any:
    environment = operations.get_context().environment_context
    return environment.config.attributes.get(name) if environment is not None else None


def _network(operations: Operations, operation: InstallCapture) -> str:
    connection = _connection(operations)
    said = _attribute(operations, NETWORK_ATTRIBUTE) or os.environ.get("EXCHANGE_NETWORK")
    of_database = named(connection) if sa.inspect(connection).has_table("exchange_network") else None
    if said and of_database and said != of_database:
        raise CommandError(
            f"install_capture({operation.table!r}): this database belongs to network {of_database}, but"
            f" EXCHANGE_NETWORK or the configuration says {said}; nothing was done"
        )
    network = of_database or said
    if not network:
        raise CommandError(
            f"install_capture({operation.table!r}, source={operation.source!r}) needs this network's name:"
            " run `exchange migrate` first, which writes it into the database, or set EXCHANGE_NETWORK"
        )
    return str(network)
