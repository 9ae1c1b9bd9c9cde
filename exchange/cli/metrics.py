"""``exchange metrics``: what a side is and did, as Prometheus reads it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.runtime import fail, settings

SECONDS = 8.0
"""What is not read by then is left out."""
READABLE = 0o644
"""A textfile is read by node_exporter, which is another user."""


def metrics(
    textfile: Annotated[
        Path | None,
        typer.Option(
            "--textfile",
            metavar="PATH",
            help="Write them to a file that node_exporter reads (*.prom), whole or not at all.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print all metrics as Prometheus reads them, or write a file."""
    from exchange.files import durable
    from exchange.watching.health import Looker, make_watching_site
    from exchange.watching.metrics import Scraper

    known = settings()
    looker = Looker(known)
    scraper = Scraper(known, looker, lambda: make_watching_site(known))  # a database that is away is a metric, too
    content = scraper.render(SECONDS)
    scraper.close()
    looker.close()
    if textfile is None:
        sys.stdout.buffer.write(content)
        return
    try:
        durable.write(textfile, content, mode=READABLE)
    except OSError as error:
        output.print_error(f"{textfile}: {error.strerror}; nothing was written, and what was there before stays")
        fail()
    output.say(f"{textfile}: {content.count(b'# TYPE')} metrics")
