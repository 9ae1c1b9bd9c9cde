"""The layers of the house, read from the imports: lower ones know nothing of higher ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "exchange"

FORMAT, EDGES, WORKFLOWS, DOORS = range(4)
LAYER_NAMES = ("format", "edges", "workflows", "doors")

LAYERS = {
    # Pure: bytes in, checked values out. What one side writes the other reads with these modules alone.
    FORMAT: {"format"},
    # One outside thing each: a database, a folder, a declaration.
    EDGES: {
        "alembic",
        "arrivals",
        "blame",
        "bulk",
        "call_secret",
        "capture",
        "carrier_group",
        "channels",
        "database",
        "dead_letters",
        "digesting",
        "discretion",
        "folders",
        "hearsay",
        "holding",
        "keys",
        "ledger",
        "loader",
        "migrate",
        "models",
        "outcomes",
        "readers",
        "remembered",
        "repairs",
        "schemas",
        "shared",
        "site",
        "spool",
        "ownership",
        "values",
        "watching",
    },
    # The stories, readable top to bottom. They know neither Celery nor settings, so any door may call them.
    WORKFLOWS: {
        "accepting",
        "ahead",
        "braking",
        "consent",
        "acknowledging",
        "adopting",
        "alarming",
        "applying",
        "bulk_retry",
        "audit",
        "audit_chain",
        "changes",
        "checkpointing",
        "comparing",
        "composing",
        "differences",
        "discarding",
        "editing",
        "epochs",
        "exporter",
        "far_side",
        "forgetting",
        "gaps",
        "hearing",
        "importer",
        "letter_files",
        "missing",
        "pacing",
        "pruning",
        "quarantine",
        "receipts",
        "reconciling",
        "refused",
        "repairs",
        "replay",
        "resending",
        "resyncing",
        "retry",
        "reuniting",
        "sealing",
        "settling",
        "snapshot_parts",
        "snapshots",
        "status",
        "stumbling",
        "strangers",
        "telling",
        "understanding",
        "untrusting",
        "waiting",
        "weighing",
    },
    # Thin: they parse, call one workflow and show what it gave.
    DOORS: {
        "__main__",
        "arguments",
        "assembly",
        "broker",
        "callers",
        "celery",
        "cli",
        "demo",
        "doctor",
        "garbage",
        "gate",
        "initialise",
        "logs",
        "nudge",
        "preparing",
        "readiness",
        "rehearsing",
        "settings",
        "supervisor",
        "tasks",
        "workers",
    },
}

OUTSIDE_THE_HOUSE = {"__init__", "reference", "testing"}
"""The version, an application built on the house, and tools for tests."""

FORBIDDEN = {
    # The format can be proven from bytes alone if it touches nothing else.
    FORMAT: {"sqlalchemy", "celery", "kombu", "pydantic", "pydantic_settings", "pathlib", "os", "time", "typer"},
    # Celery is the alarm clock: nothing below the doors may need it in order to be right.
    EDGES: {"celery", "kombu", "billiard", "redis", "pydantic_settings", "typer", "rich"},
    WORKFLOWS: {"celery", "kombu", "billiard", "redis", "pydantic_settings", "typer", "rich"},
    DOORS: set(),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def layer(name: str) -> int | None:
    return next((level for level, names in LAYERS.items() if name in names), None)


def imports(path: Path) -> set[str]:
    """Name every module that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "exchange" else {node.module}
    return found


def test_every_module_has_a_place_in_the_house() -> None:
    placed = OUTSIDE_THE_HOUSE.union(*LAYERS.values())

    assert {part(path) for path in modules()} == placed


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_nothing_from_a_higher_layer(path: Path) -> None:
    own = layer(part(path))
    if own is None:
        return  # the reference application and the test tools may use all of it
    for name in imports(path):
        if name.startswith("exchange."):
            other = layer(name.split(".")[1])
            assert other is None or other <= own, f"{LAYER_NAMES[own]} imports {name}"
        else:
            assert name.split(".")[0] not in FORBIDDEN[own], f"{LAYER_NAMES[own]} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_doors_and_the_reference_itself_know_the_reference_application(path: Path) -> None:
    if part(path) == "reference" or layer(part(path)) == DOORS:
        return

    assert not any(name.startswith("exchange.reference") for name in imports(path))
