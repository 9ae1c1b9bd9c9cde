"""The application's own Alembic history: where it is, what it captures already, and one more migration for the rest."""

from __future__ import annotations

import ast
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError, rev_id
from sqlalchemy import Connection

from exchange.channels.channel import ChannelFaults
from exchange.database.dialects import dialect_of
from exchange.format.errors import printable
from exchange.operating.adopt.database import Seen, Trigger
from exchange.operating.adopt.models import Models
from exchange.operating.adopt.plan import Group, code
from exchange.operating.adopt.remark import Remark, Severity

_IMPORT = "import exchange.alembic  # noqa: F401 - it adds install_capture and drop_capture to op"


_QUIET = Namespace(quiet=True)
"""Alembic says on stdout what it writes; that is ours to say."""


@dataclass(frozen=True)
class History:
    """An Alembic environment: its ini, and its revisions. ``made`` says that this is to be written first."""

    ini: Path
    script: ScriptDirectory | None

    @property
    def made(self) -> bool:
        """Whether there is none yet."""
        return self.script is None

    @property
    def command(self) -> str:
        """What brings a database up to its head."""
        at = self.ini.relative_to(Path.cwd()) if self.ini.is_relative_to(Path.cwd()) else self.ini
        named = "" if str(at) == "alembic.ini" else f"-c {at} "
        return f"alembic {named}upgrade head"


def find(wanted: Path | None, models: Models) -> History:
    """Find the application's history: the file that is named, else near the working folder and near the models.

    Raises ChannelFaults with what Alembic says of one that it can't read.
    """
    here = Path.cwd()
    near = Path(models.module.__file__ or here).resolve().parent
    folders = [here, *(one for one in (near, *near.parents) if one.is_relative_to(here.resolve()))]
    names = ("alembic.ini", "migrations/alembic.ini", "alembic/alembic.ini")
    found = wanted.absolute() if wanted else next((f / n for f in folders for n in names if (f / n).is_file()), None)
    if found is None:
        return History(here / "alembic.ini", None)
    config = Config(str(found), cmd_opts=_QUIET)
    try:
        if config.get_main_option("script_location") is None and (found.parent / "env.py").is_file():
            config.set_main_option("script_location", str(found.parent).replace("%", "%%"))
        script = ScriptDirectory.from_config(config)
        script.get_heads()
    except (CommandError, OSError, ImportError, SyntaxError) as error:
        raise ChannelFaults([f"{printable(str(found))}: Alembic can't read it: {printable(str(error))}"]) from error
    return History(found, script)


def remarks_on(history: History, connection: Connection | None) -> Iterator[Remark]:
    """Say what keeps a migration from being added, and whether the database is behind."""
    if history.script is None:
        said = (
            "there is no Alembic here: a folder migrations/ and an alembic.ini are written, for these migrations alone"
        )
        yield Remark(Severity.NOTE, "", said, "name the application's own with --alembic FILE if there is one")
        return
    heads = history.script.get_heads()
    if len(heads) > 1:
        said = f"Alembic's history has {len(heads)} heads: {', '.join(heads)}"
        yield Remark(Severity.STOPS, "", said, "merge them first (`alembic merge heads`), or name one with --head")
    if connection is None:
        return
    at = MigrationContext.configure(connection).get_current_heads()
    if not at and sa.inspect(connection).get_table_names():
        said = "the database does not say at which revision it is (no alembic_version)"
        yield Remark(Severity.NOTE, "", said, "`alembic stamp` it, or the upgrade makes tables that are there")
    elif set(at) != set(heads):
        said = f"the database is at {', '.join(at) or 'nothing'}, Alembic's history ends at {', '.join(heads)}"
        yield Remark(Severity.NOTE, "", said, "what is said of its tables may change with the upgrade")


def captured(history: History) -> set[str]:
    """Name the tables that some migration speaks of where it calls ``install_capture``."""
    names: set[str] = set()
    for revision in history.script.walk_revisions() if history.script else ():
        text = Path(revision.path).read_text(encoding="utf-8")
        if "install_capture" in text:
            names |= {
                node.value
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return names


@dataclass(frozen=True)
class Late:
    """A foreign key of a circle, as the database names it."""

    table: str
    name: str


def operations(
    source: str, groups: Sequence[Group], triggers: dict[str, list[Trigger]], late: Sequence[Late]
) -> tuple[list[str], list[str]]:
    """Write what a migration does, and what undoes it, as lines of code."""
    up: list[str] = []
    down: list[str] = []
    for group in groups:
        for one in group.members:
            table = one.stream.table
            schema = [f"schema={code(table.schema)}"] if table.schema else []
            stream = [f"stream={code(one.stream.name)}"] if one.stream.name != table.name else []
            up.append(_call("op.install_capture", str(table.name), f"source={code(source)}", *stream, *schema))
            down.insert(0, _call("op.drop_capture", str(table.name), *schema))
            for trigger in triggers.get(one.model.key, ()):
                up.append(_call("op.pass_imports", str(table.name), code(trigger.name), *schema))
                down.insert(0, _call("op.fire_again", str(table.name), code(trigger.name), *schema))
    for key in late:
        alter = f"ALTER TABLE {key.table} ALTER CONSTRAINT {key.name}"
        up.append(f"op.execute({code(f'{alter} DEFERRABLE')})")
        down.insert(0, f"op.execute({code(f'{alter} NOT DEFERRABLE')})")
    return up, down


def _call(name: str, *arguments: str) -> str:
    first, *rest = arguments
    return f"{name}({', '.join([code(first), *rest])})"


def write(history: History, up: Sequence[str], down: Sequence[str], message: str, head: str | None) -> Path:
    """Add a migration on top of the history's head, by Alembic's own means and the application's own template.

    Raises ChannelFaults with what Alembic says.
    """
    assert history.script is not None
    joined = ["\n    ".join(lines) for lines in (up, down)]
    try:
        made = history.script.generate_revision(
            rev_id(), message, head=head or "head", upgrades=joined[0], downgrades=joined[1], imports=_IMPORT
        )
    except CommandError as error:
        raise ChannelFaults([f"Alembic writes no migration: {printable(str(error))}"]) from error
    assert made is not None
    path = Path(made.path)
    if "install_capture" not in path.read_text(encoding="utf-8"):
        path.unlink()
        raise ChannelFaults(
            ["the application's script.py.mako has no ${upgrades} and ${imports}: add them, as Alembic's own has"]
        )
    return path


def make_environment(models: Models) -> tuple[History, list[Path]]:
    """Write an Alembic environment for an application that has none: one ini, one env.py and a template.

    Raises ChannelFaults where something of these names is there.
    """
    folder = Path("migrations").absolute()
    files = {
        Path("alembic.ini").absolute(): _INI,
        folder / "env.py": _ENV.format(module=models.module.__name__, name=models.metadata_name, code=models.metadata),
        folder / "script.py.mako": _TEMPLATE,
    }
    for file in files:
        if file.exists():
            raise ChannelFaults([f"{file}: it is there already; name the application's Alembic with --alembic FILE"])
    (folder / "versions").mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
    ini = Path("alembic.ini").absolute()
    return History(ini, ScriptDirectory.from_config(Config(str(ini), cmd_opts=_QUIET))), [*files]


_INI = """[alembic]
script_location = %(here)s/migrations
prepend_sys_path = .
path_separator = os
"""

_ENV = '''"""Alembic's environment: it works on the database that the exchange's settings name."""

from alembic import context
from {module} import {name}

from exchange.database import make_engine
from exchange.settings import load_settings

with make_engine(load_settings().database_url).begin() as connection:
    context.configure(connection=connection, target_metadata={code})
    context.run_migrations()
'''

_TEMPLATE = '''"""${message}"""

from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
'''


def late_references(connection: Connection, groups: Sequence[Group], seen: dict[str, Seen]) -> list[Late]:
    """Give, by the database's names, the foreign keys of circles that it does not check late yet: PostgreSQL's alone.

    SQLite checks any of them late where the loading transaction says so.
    """
    if not dialect_of(connection).is_postgresql:
        return []
    quote = connection.dialect.identifier_preparer
    found = []
    for group in groups:
        for constraint in group.late:
            keys = sa.inspect(connection).get_foreign_keys(constraint.table.name, constraint.table.schema)
            names = [key["name"] for key in keys if [*key["constrained_columns"]] == [*constraint.column_keys]]
            table = quote.format_table(constraint.table)
            there = seen.get(constraint.table.key)
            found += [Late(table, quote.quote(name)) for name in names if name and not (there and name in there.late)]
    return found
