"""``exchange verify`` and ``exchange inspect``: a batch's files alone, with no database and no settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.runtime import Refused
from exchange.format.errors import printable

CODES = {"ok": 0, "corrupt": 3, "untrusted": 4, "incomplete": 5, "unsupported": 6}
WORST_FIRST = ("untrusted", "corrupt", "incomplete", "unsupported", "ok")

_HOW = {
    "manifest file": "size, two ended lines of JSON",
    "signature": "Ed25519 over the bytes of line 1, as `openssl pkeyutl -verify -rawin` does",
    "claim": "every member of line 1 has its type and range, and the format is known",
    "file name": "the name against channel, epoch and sequence of the manifest",
    "data file": "size and SHA-256 of the file as it lies there, as `sha256sum` prints it",
    "content": "decompressed within the size claimed; its SHA-256, its lines, the counts by stream and op",
    "records": "each line strict JSON and a record of a stream listed; schemas are checked on import",
}

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH", help="A batch's manifest, its data file, or a folder of batches.", show_default=False
    ),
]
Trust = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust", metavar="FILE", help="A public key to trust, named by its file's stem.", show_default=False
    ),
]


def verify(paths: Paths, trust: Trust = None, as_json: Json = False) -> None:
    """Verify batches from their files alone.

    Exit codes: 0 all is well, 3 corrupt, 4 untrusted, 5 incomplete, 6 unsupported, 2 no batch there. Of several
    batches the worst counts: untrusted before corrupt, incomplete and unsupported.
    """
    from exchange.cli import batch_report

    trusted = batch_report.trusted_from(trust)
    verdicts = set()
    for files in [one for path in paths for one in batch_report.find_batches(path)]:
        report = batch_report.check_batch(files, trusted)
        verdict = batch_report.verdict_of(report)
        verdicts.add(verdict)
        if as_json:
            output.emit(batch_report.fields_of(files, report))
            continue
        output.tell(f"{files.stem}: {verdict}{f' ({report.reason})' if report.reason else ''}")
        output.table(
            ["check", "result", "what was seen", "how it was checked"],
            [(one.name, _result(one.ok), one.detail, _HOW.get(one.name)) for one in report.checks],
        )
    if trusted is None:
        output.warn("signatures were not checked: name the sender's public key with --trust FILE")
    raise typer.Exit(CODES[next(verdict for verdict in WORST_FIRST if verdict in verdicts)])


def inspect(
    path: Annotated[Path, typer.Argument(help="A batch's manifest or data file.", show_default=False)],
    trust: Trust = None,
    records: Annotated[int, typer.Option(min=0, max=10_000, help="Show so many records.")] = 5,
    as_json: Json = False,
) -> None:
    """Show what a batch says, and its first records.

    Nothing that it says is believed.
    """
    from exchange.cli import batch_report

    found = batch_report.find_batches(path)
    if len(found) != 1:
        raise Refused(f"{path}: expected one batch, found {len(found)}; name one of its files")
    files = found[0]
    report = batch_report.check_batch(files, batch_report.trusted_from(trust))
    content = batch_report.read_manifest(files) or b""
    claim, signer = batch_report.read_claim(content)
    lines = list(batch_report.first_lines(files, content, records))
    if as_json:
        output.emit(batch_report.fields_of(files, report) | {"signed_by": signer, "manifest": claim, "first": lines})
        return
    signed = any(check.name == "signature" and check.ok for check in report.checks)
    if report.ok and signed:
        output.tell(f"{files.stem}: verified, signed by {signer}")
    else:
        why = report.checks[-1].detail if report.reason else "no trusted key was given"
        output.warn(f"{files.stem}: not verified, believe nothing of it: {why}")
    output.table(["member", "value"], claim.items())
    for line in lines:
        typer.echo(printable(line, batch_report.LONGEST_LINE))


def _result(ok: bool | None) -> str:
    return {True: "ok", False: "fault", None: "not checked"}[ok]
