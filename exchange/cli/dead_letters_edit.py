"""``exchange dead-letters edit``: a record mended in a person's editor, by pointers, or from a file."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.audited import As, open_exchange
from exchange.cli.dead_letters import Id
from exchange.cli.dead_letters_retry import Why
from exchange.cli.output import Json
from exchange.cli.runtime import Refused
from exchange.format.errors import TransientError, printable

if TYPE_CHECKING:
    from exchange.dead_letters.edit import Draft

MOST_BYTES = 64 * 1024 * 1024
"""No record is as long: what is longer is not even read."""


def edit(
    letter_id: Id,
    *,
    reason: Why,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="POINTER=VALUE", help="Set /data/status=done: JSON, else text.", show_default=False
        ),
    ] = None,
    removed: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="POINTER", help="Remove a member, such as /data/extra.", show_default=False),
    ] = None,
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Take the whole record from a file, or -.", show_default=False)
    ] = None,
    as_name: As = None,
    as_json: Json = False,
) -> None:
    """Mend a parked record, in $EDITOR unless told how. It is checked, and kept beside the record as it came."""
    from exchange.dead_letters.edit import with_changes

    if file is not None and (values or removed):
        raise Refused("--file gives the whole record: expected no --set and no --remove beside it")
    with open_exchange() as exchange:
        letters = exchange.dead_letters
        draft = letters.begin_edit(letter_id)
        kept = None
        if file is not None:
            text = _read(file)
        elif values or removed:
            text = with_changes(draft, values or (), removed or ())
        else:
            kept = _let_edit(draft)
            text = kept.read_bytes()
        pointers = [one.partition("=")[0] for one in (*(values or ()), *(removed or ()))]
        try:
            done = letters.save_edit(draft, text, reason, pointers=pointers, who=as_name)
        except TransientError as error:
            if kept is None:
                raise
            raise TransientError(f"{error}; your text is kept in {kept}: `--file {kept}` takes it up") from error
    if kept is not None:
        kept.unlink()
    if as_json:
        output.emit(done.as_dict())
        return
    output.tell(f"dead letter {letter_id} has revision {done.revision}, which `retry {letter_id}` takes:")
    for line in done.difference.splitlines():
        output.tell(f"  {line}")


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(MOST_BYTES)
    with Path(name).open("rb") as file:
        return file.read(MOST_BYTES)


def _let_edit(draft: Draft) -> Path:
    """Open the record in the person's editor; give the file that was saved there. It is for this user alone."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise Refused("EDITOR: expected the name of an editor, found none; or use --set or --file")
    text = draft.text
    handle, name = tempfile.mkstemp(prefix=f"dead-letter-{draft.letter.id}-", suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    path = Path(name)
    try:
        code = subprocess.run([*shlex.split(editor), name], check=False).returncode
    except (OSError, ValueError) as error:
        path.unlink()
        raise Refused(f"EDITOR: {printable(editor, 80)} can't be run: {error}; nothing was changed") from error
    if code:
        path.unlink()
        raise TransientError(f"the editor ended with code {code}; nothing was changed")
    if path.read_bytes() == text.encode():
        path.unlink()
        raise TransientError(f"the record of dead letter {draft.letter.id} is as it was; nothing was changed")
    return path
