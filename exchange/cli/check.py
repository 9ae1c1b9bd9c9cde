"""``exchange check``: what this side can prove of itself while it works."""

from __future__ import annotations

from typing import Annotated

import typer

from exchange.cli.findings import end_with, show_findings
from exchange.cli.output import Json
from exchange.cli.runtime import open_site, settings


def check(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also the bytes of every sealed and archived file, and every row.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Prove that ledger, files, versions and rows agree here.

    It only reads, beside whatever works. Exit code 0 if all is well, 1 if something needs a person, 3 if there are only
    warnings.
    """
    from exchange.operating.check import examine_side

    with open_site() as site:
        findings = list(examine_side(settings(), site, deep=deep))
    show_findings(findings, as_json=as_json)
    end_with(findings)
