"""The module of channels as text: written once, and added to where it stands; what a person wrote stays as it is."""

from __future__ import annotations

import ast
import importlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from exchange.channels.channel import Channel, ChannelFaults, load_channels
from exchange.format.errors import printable
from exchange.operating.adopt.models import Models, module_file
from exchange.operating.adopt.plan import Candidate, Group, code

_WIDTH = 100


def place(models: Models, wanted: Path | None) -> tuple[Path, str]:
    """Say where the module of channels lies or belongs, and what names its list.

    Beside the models, where they are in a package below the working folder, else in that folder. Raises ChannelFaults
    for a file that no module can be.
    """
    here = Path.cwd()
    if wanted is not None:
        file = wanted.absolute()
        if file.suffix != ".py" or not file.is_relative_to(here):
            raise ChannelFaults([f"{printable(str(wanted))}: expected a .py file below the working folder"])
        return file, f"{'.'.join(file.relative_to(here).with_suffix('').parts)}:channels"
    name = models.module.__name__
    package = name if hasattr(models.module, "__path__") else name.rpartition(".")[0]
    folder = Path(models.module.__file__ or here).resolve().parent
    if package and folder.is_relative_to(here.resolve()):
        return folder / "channels.py", f"{package}.channels:channels"
    return here / "channels.py", "channels:channels"


def present(spec: str, file: Path, models: Models) -> tuple[Channel, ...]:
    """Give the channels that are declared already; none where there is no such module yet.

    Raises ChannelFaults, and says of models that are gone what is to be done with their streams.
    """
    if not file.exists():
        return ()
    importlib.invalidate_caches()
    try:
        return load_channels(spec)
    except ChannelFaults as error:
        gone = [*_gone(file.read_text(encoding="utf-8"), models)]
        if not gone:
            raise
        raise ChannelFaults(
            [
                f"{printable(name)} is in {file.name} and not in the models any more: take its Stream out there, and"
                " have a migration call op.drop_capture before its table is dropped"
                for name in gone
            ]
        ) from error


def _gone(text: str, models: Models) -> Iterator[str]:
    """Name what a module imports of the models, or looks up by the names of tables, and the models have no more."""
    tables = {model.key for model in models.tables}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == models.module.__name__:
            yield from (alias.name for alias in node.names if not hasattr(models.module, alias.name))
        elif isinstance(node, ast.Subscript) and getattr(node.value, "attr", "") == "tables":
            key = node.slice.value if isinstance(node.slice, ast.Constant) else None
            if isinstance(key, str) and key not in tables:
                yield key


def read_again(spec: str) -> None:
    """Check a declaration that was written. Raises ChannelFaults."""
    sys.modules.pop(spec.partition(":")[0], None)
    importlib.invalidate_caches()
    load_channels(spec)


def file_of(spec: str) -> Path:
    """Say in which file the channels lie that a setting names. Raises ChannelFaults."""
    module = spec.partition(":")[0]
    file = module_file(module)
    if file is None:
        raise ChannelFaults([f"{module} has no file that channels could be added to"])
    return Path(file)


def written(spec: str, source: str, target: str, groups: Sequence[Group], left_out: Iterable[str]) -> str:
    """Write a new module."""
    lines = [
        f'"""What crosses between {source} and {target}: written by `exchange adopt`, from then on yours to edit."""',
        "",
        "from exchange.channels import Channel, Stream",
        "",
        *_imports([one for group in groups for one in group.members]),
        "",
        *(line for group in groups for line in _late(group)),
        f"{spec.partition(':')[2]} = [",
        *(f"    {line}" for group in groups for line in _channel(group, source, target)),
        "]",
    ]
    return "\n".join([*lines, *_left(left_out)]) + "\n"


def added(text: str, spec: str, source: str, target: str, groups: Sequence[Group], into: dict[str, str]) -> str:
    """Add streams to a module that is there: within the channel that they belong to, else as channels at its end.

    ``into`` names, of streams, the channel whose rows theirs refer to. Nothing that stands there is changed.
    """
    attribute = spec.partition(":")[2]
    members = [one for group in groups for one in group.members]
    rest = []
    for group in groups:
        left = []
        for one in group.members:
            more = _into_channel(text, into.get(one.stream.name, ""), one)
            text = more or text
            left += [] if more else [one]
        if left:
            rest.append(Group(group.name, tuple(left), group.late))
    text = _with_imports(text, _imports(members))
    end = [line for group in groups for line in _late(group)]
    if rest:
        end += [f"{attribute} += [", *(f"    {line}" for one in rest for line in _channel(one, source, target)), "]"]
    return text.rstrip("\n") + "\n" + "".join(f"{line}\n" for line in (["", *end] if end else []))


def _imports(members: Sequence[Candidate]) -> list[str]:
    named: dict[str, set[str]] = defaultdict(set)
    for one in members:
        named[one.model.module].add(one.model.name)
    lines = []
    for module, names in sorted(named.items()):
        line = f"from {module} import {', '.join(sorted(names))}"
        lines += [line] if len(line) <= _WIDTH else _in_brackets(module, sorted(names))
    return lines


def _in_brackets(module: str, names: Sequence[str]) -> list[str]:
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]


def _late(group: Group) -> Iterator[str]:
    """Have references of a circle checked late, in the models as the exchange reads them."""
    by_table = {one.stream.table: one for one in group.members}
    for constraint in group.late:
        child, parent = by_table[constraint.table], by_table[constraint.referred_table]
        yield f"# Foreign keys of {child.model.key} and {parent.model.key} form a circle: this one is checked late. Say"
        yield "# deferrable=True in the model as well, or autogenerate finds a difference."
        yield f"for constraint in {child.model.table_code}.foreign_key_constraints:"
        yield f"    if constraint.column_keys == {code(constraint.column_keys)}:"
        yield "        constraint.deferrable = True"
        yield ""


def _channel(group: Group, source: str, target: str) -> list[str]:
    streams = [f"        {line}" for one in group.members for line in _stream(one)]
    head = ["Channel(", f'    "{group.name}",', f'    source="{source}",', f'    target="{target}",', "    streams=["]
    return [*head, *streams, "    ],", "),"]


def _stream(one: Candidate) -> list[str]:
    said = [f"# {column} stays at home: {_short(why)}" for column, why in one.excluded.items()]
    return [*said, f"Stream({', '.join([one.model.code, *one.arguments])}),"]


def _short(why: str) -> str:
    return printable(why.partition("can't cross: ")[2] or why, 200)


def _left(left_out: Iterable[str]) -> list[str]:
    said = [f"#   {sentence}" for sentence in left_out]
    return ["", "# Left out:", *said] if said else []


def _with_imports(text: str, imports: Sequence[str]) -> str:
    """Put imports behind the last one at the module's top level, but those that are there."""
    there = {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    new: dict[str, list[str]] = defaultdict(list)
    for node in ast.parse("\n".join(imports)).body:
        assert isinstance(node, ast.ImportFrom)
        new[str(node.module)] += [one.name for one in node.names if (node.module, one.name) not in there]
    lines = text.splitlines()
    last = max(
        (node.end_lineno or 0 for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)),
        default=0,
    )
    lines[last:last] = [f"from {module} import {', '.join(names)}" for module, names in new.items() if names]
    return "\n".join(lines) + "\n"


def _into_channel(text: str, channel: str, one: Candidate) -> str | None:
    """Put a stream at the end of a channel's list of streams; None where that is no list written out."""
    for node in ast.walk(ast.parse(text)):
        streams = _streams_of(node, channel)
        if streams is None or streams.end_lineno is None or streams.end_col_offset is None:
            continue
        lines = text.splitlines(keepends=True)
        at, column = (
            streams.end_lineno - 1,
            len(lines[streams.end_lineno - 1].encode()[: streams.end_col_offset].decode()) - 1,
        )
        if lines[at][:column].strip() == "":
            indent = lines[at][:column] + "    "
            lines[at:at] = [f"{indent}{line}\n" for line in _stream(one)]
            last = streams.elts[-1] if streams.elts else None
            if last is not None and last.end_lineno is not None and not _ends_with_comma(lines, last, at):
                end = last.end_lineno - 1
                col = len(lines[end].encode()[: last.end_col_offset].decode())
                lines[end] = f"{lines[end][:col]},{lines[end][col:]}"
        else:
            comma = "" if not streams.elts or lines[at][:column].rstrip().endswith(",") else ", "
            lines[at] = f"{lines[at][:column]}{comma}{_stream(one)[-1].rstrip(',')}{lines[at][column:]}"
        return "".join(lines)
    return None


def _ends_with_comma(lines: Sequence[str], last: ast.expr, until: int) -> bool:
    assert last.end_lineno is not None
    first = lines[last.end_lineno - 1].encode()[last.end_col_offset :].decode()
    rest = [first, *lines[last.end_lineno : until]]
    return any(line.partition("#")[0].strip().startswith(",") for line in rest)


def _streams_of(node: ast.AST, channel: str) -> ast.List | None:
    """Give the list of streams of the call that makes this channel."""
    if not (isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Channel"):
        return None
    keywords = {one.arg: one.value for one in node.keywords}
    name = node.args[0] if node.args else keywords.get("name")
    if not (channel and isinstance(name, ast.Constant) and name.value == channel):
        return None
    streams = keywords.get("streams") or (node.args[3] if len(node.args) > 3 else None)  # noqa: PLR2004 - its place
    return streams if isinstance(streams, ast.List) else None
