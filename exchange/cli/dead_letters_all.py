"""All commands of ``exchange dead-letters``, in the order in which they are listed."""

from __future__ import annotations

from exchange.cli import (
    dead_letters_edit,
    dead_letters_file,
    dead_letters_retries,
    dead_letters_retry,
    dead_letters_show,
)
from exchange.cli.dead_letters import app

__all__ = ["app"]

app.command()(dead_letters_show.show)
app.command()(dead_letters_edit.edit)
app.command()(dead_letters_retry.select)
app.command()(dead_letters_retry.selections)
app.command()(dead_letters_retry.unselect)
app.command()(dead_letters_retry.retry)
app.add_typer(dead_letters_retries.app, name="retries")
app.command()(dead_letters_retry.discard)
app.command()(dead_letters_retry.restore)
app.command()(dead_letters_file.export)
app.command(name="import")(dead_letters_file.import_)
