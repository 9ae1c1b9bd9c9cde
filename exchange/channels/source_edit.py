"""A stream's declaration in its source file, raised to a new schema version: only where it stands there exactly.

Found by what the module's names are, and edited at the places that the parser gives, so that every other byte stays.
What is written in a loop, a function or a way that can't be told is left to a person.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import sqlalchemy as sa

from exchange.channels.codecs import json_null_member
from exchange.channels.schemas import column_changes, schema_columns, takes_null
from exchange.channels.stream import Stream

_PLAIN = (ast.Module, ast.Assign, ast.AnnAssign, ast.Expr, ast.List, ast.Tuple, ast.Call, ast.keyword)
"""What a declaration may stand in: each of these is run once."""

_MADE_OF = {bool: "boolean", int: "integer", str: "string"}


class Edit(NamedTuple):
    """A source file as it is and as it is to be."""

    path: Path
    before: bytes
    after: bytes


class Step(NamedTuple):
    """The function that lifts a record's data by one version: its name and source, to be filled in where it says so."""

    name: str
    source: str


def upgrade_step(stream: Stream, version: int, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Step:
    """Write the step from ``version`` to the next one by the two schemas; ``before`` is None if nobody knows it."""
    name = f"{stream.name}_from_{version}"
    lines = list(_step_lines(stream, version, before, after))
    body = "".join(f"    {line}\n" for line in lines)
    said = f'    """Lift the data of a record of {stream.name} from schema version {version} to {version + 1}."""\n'
    return Step(name, f"def {name}(data: dict[str, object]) -> dict[str, object]:\n{said}{body}    return data\n")


def _step_lines(
    stream: Stream, version: int, before: Mapping[str, Any] | None, after: Mapping[str, Any]
) -> Iterator[str]:
    if before is None:
        yield f'raise NotImplementedError("what is to become of the data of version {version}?")'
        return
    old, new = schema_columns(before), schema_columns(after)
    added, gone = [name for name in new if name not in old], [name for name in old if name not in new]
    for name in gone:
        same = [other for other in added if new[other] == old[name]]
        if len(same) == 1:
            yield f'# If it was renamed: data["{same[0]}"] = data.pop("{name}"), in place of the lines about both.'
        yield f'data.pop("{name}", None)'
        if "type" not in old[name]:
            yield f'data.pop("{json_null_member(name)}", None)'
    for name in added:
        default = _default(stream, name, new[name])
        if default is not None:
            yield f'data["{name}"] = {default}'
        else:
            yield f'raise NotImplementedError("which {name} has a row of version {version}?")'
    for name in (one for one in new if one in old and new[one] != old[one]):
        for change in column_changes(old[name], new[name]):
            yield f"# column {name} {change}"
        if takes_null(old[name]) and not takes_null(new[name]):
            yield f'if data["{name}"] is None:'
            yield f'    raise NotImplementedError("which {name} has a row of version {version} that has none?")'


def _default(stream: Stream, name: str, column: Mapping[str, Any]) -> str | None:
    """Give what a row without a column gets, as source: the model's scalar default, or None where null is let in."""
    default = dict(zip(stream.names, stream.columns, strict=True))[name].default
    value = default.arg if isinstance(default, sa.ColumnDefault) and default.is_scalar else None
    if value is not None and _MADE_OF.get(type(value)) in column.get("type", ()):
        return str(value) if isinstance(value, bool | int) else json.dumps(value)
    return "None" if takes_null(column) else None


def instructions(stream: Stream, version: int, step: Step) -> str:
    """Say what to write by hand."""
    return (
        f"# in the declaration of stream {stream.name}, and the function before it:\n"
        f"# Stream(..., schema_version={version}, upgrades={{..., {version - 1}: {step.name}}})\n\n{step.source}"
    )


def raised(spec: str, stream: Stream, version: int, step: Step) -> Edit | None:
    """Give the edit that raises a stream's declaration to ``version`` and puts ``step`` before it.

    ``spec`` is the channels' ``package.module:attribute``, imported already. None where the declaration is not found in
    exactly one place, or can't be edited exactly.
    """
    found = [(module, place) for module in _modules(spec) for place in _places(module, stream)]
    if len(found) != 1:
        return None
    module, (call, statement) = found[0]
    if hasattr(module, step.name):
        return None
    path = Path(str(module.__file__))
    before = path.read_bytes()
    after = _edited(before, call, statement, version, step)
    if after is None or not _is_raised(after, call, version, step) or not os.access(path, os.W_OK):
        return None
    return Edit(path, before, after)


def _modules(spec: str) -> Iterator[ModuleType]:
    """Give the modules of the application: that of the channels, and those whose files lie beside or below it."""
    here = Path(str(sys.modules[spec.partition(":")[0]].__file__)).parent
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py") and Path(file).is_relative_to(here) and "site-packages" not in file:
            yield module


def _places(module: ModuleType, stream: Stream) -> Iterator[tuple[ast.Call, ast.stmt]]:
    """Give the calls that make a stream, each with the statement of the module that it is in."""
    try:
        tree = ast.parse(Path(str(module.__file__)).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for statement in tree.body:
        for call in _plain_calls(statement):
            if _value(module, call.func) is Stream and _makes(module, call, stream):
                yield call, statement


def _plain_calls(node: ast.AST) -> Iterator[ast.Call]:
    if not isinstance(node, _PLAIN):
        return
    if isinstance(node, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _plain_calls(child)


def _makes(module: ModuleType, call: ast.Call, stream: Stream) -> bool:
    given = {one.arg: one.value for one in call.keywords}
    if None in given or not call.args:
        return False
    named = given.get("name")
    name = named.value if isinstance(named, ast.Constant) else None
    model = _value(module, call.args[0])
    return getattr(model, "__table__", model) is stream.table and (named is None or name == stream.name)


def _value(module: ModuleType, node: ast.expr) -> Any:
    """Give what a name, with dots or without, stands for in a module; None for anything else."""
    if isinstance(node, ast.Name):
        return getattr(module, node.id, None)
    return getattr(_value(module, node.value), node.attr, None) if isinstance(node, ast.Attribute) else None


def _edited(source: bytes, call: ast.Call, statement: ast.stmt, version: int, step: Step) -> bytes | None:
    """Give the source with what is to be inserted, from the last place on; None if there is no place for all."""
    given = {one.arg: one.value for one in call.keywords}
    changes: list[tuple[int, int, str]] = []
    more = ""
    if "schema_version" in given:
        number = given["schema_version"]
        if not isinstance(number, ast.Constant):
            return None
        changes.append((*_span(source, number), str(version)))
    else:
        more += f", schema_version={version}"
    entry = f"{version - 1}: {step.name}"
    if "upgrades" in given:
        steps = given["upgrades"]
        if not isinstance(steps, ast.Dict):
            return None
        at = _span(source, steps.values[-1])[1] if steps.values else _span(source, steps)[0] + 1
        changes.append((at, at, f", {entry}" if steps.values else entry))
    else:
        more += f", upgrades={{{entry}}}"
    arguments: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    end = max(_span(source, one)[1] for one in arguments)
    first = _span(source, statement)[0]
    newline = "\r\n" if b"\r\n" in source else "\n"
    changes += [(end, end, more), (first, first, f"{step.source}\n\n".replace("\n", newline))]
    for begin, until, text in sorted(changes, reverse=True):
        source = source[:begin] + text.encode() + source[until:]
    return source


def _span(source: bytes, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
    """Say from which byte to which a node stands; the parser counts columns in bytes of UTF-8."""
    lines = source.splitlines(keepends=True)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    begin = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    return begin, sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset


def _is_raised(source: bytes, call: ast.Call, version: int, step: Step) -> bool:
    """See by the parser that the edited source says what it should, and in that call all that it said before."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    kept = [ast.dump(one) for one in (call.func, *call.args)]
    for other in (one for one in ast.walk(tree) if isinstance(one, ast.Call)):
        given = {one.arg: one.value for one in other.keywords}
        number, steps = given.get("schema_version"), given.get("upgrades")
        if (
            [ast.dump(one) for one in (other.func, *other.args)] == kept
            and isinstance(number, ast.Constant)
            and number.value == version
            and isinstance(steps, ast.Dict)
            and any(isinstance(one, ast.Name) and one.id == step.name for one in steps.values)
        ):
            return True
    return False
