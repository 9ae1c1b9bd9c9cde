"""``exchange serve``: health and metrics over HTTP, and who watches a side."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer


def serve(
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Where to listen (EXCHANGE_SERVE_HOST).", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=65535, help="On which port; 0: any (EXCHANGE_SERVE_PORT).", show_default=False
        ),
    ] = None,
) -> None:
    """Serve health and metrics over HTTP, and tell of alarms.

    Beyond this machine it asks for the token of EXCHANGE_SERVE_TOKEN_FILE. With EXCHANGE_SERVE=true `exchange up`
    starts it.
    """
    from exchange.serve.server import run_server
    from exchange.settings import load_settings

    given: dict[str, Any] = {"serve_host": host, "serve_port": port}
    with contextlib.suppress(KeyboardInterrupt):
        run_server(load_settings({name: value for name, value in given.items() if value is not None}))
