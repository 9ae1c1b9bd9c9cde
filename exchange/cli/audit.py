"""``exchange audit``: what people did by hand, newest first; checked, and written out for keeping elsewhere."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from exchange.cli import output
from exchange.cli.audited import open_exchange
from exchange.cli.batches import Limit
from exchange.cli.output import Json
from exchange.cli.runtime import fail, moment, open_site
from exchange.cli.verify import CODES, Trust
from exchange.format.moments import in_table

if TYPE_CHECKING:
    from exchange.database.audit_chain import Checked
    from exchange.format.audit_file import AuditEnding
    from exchange.format.signing import TrustedKeys

app = typer.Typer(help="What was done by hand.", invoke_without_command=True)


@app.callback()
@output.listing
def listed(
    context: typer.Context,
    *,
    action: Annotated[str | None, typer.Option(help="Only this, such as replay_batch.", show_default=False)] = None,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Only what they did.", show_default=False)] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only since then: 2026-11-22T06:15 (UTC), or 90m, 3h, 2d ago.", show_default=False),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only before then.", show_default=False)] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List what was done by hand: who, when, from where, what, why, and what came of it."""
    if context.invoked_subcommand is not None:
        return
    begin, end = moment("since", since), moment("until", until)
    with open_exchange() as exchange:
        found = exchange.audit.list(action=action, who=who, since=begin, until=end, limit=limit).entries
    if as_json:
        for entry in found:
            output.emit(entry.as_dict())
        return
    if not found:
        output.say("nothing of this kind was done by hand")
        return
    output.table(
        ["at", "who", "action", "arguments", "why", "result", "from"],
        [
            (
                in_table(entry.at),
                entry.who,
                entry.action,
                _words(entry.arguments),
                entry.why,
                "at work, or killed" if entry.result is None else _came_to(entry.result),
                entry.origin,
            )
            for entry in found
        ],
    )


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write all of it to a file, signed with this side's key.

    Kept elsewhere, it tells when somebody who owns the database wrote its audit anew, or cut it off.
    """
    from exchange.format.signed_file import FileFault

    with open_exchange() as exchange:
        try:
            done = exchange.audit.export(file)
        except FileFault as fault:
            output.print_error(f"{fault}; nothing was written")
            fail()
    if not done.signed:
        output.warn("there is no key to sign it, so it proves nothing; `exchange keys new` makes one")
    if as_json:
        output.emit(done.as_dict())
    else:
        output.tell(f"{done.file}: {done.rows} rows, the last digest is {done.head}")


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="What `export` wrote.", show_default=False)
    ] = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Check that nothing in it was changed or taken out.

    Without FILE the rows of this side's database; with FILE that file, and that the database still has what it has.
    With --trust the file alone, with no database and no settings. Exit codes: 0 all is well, 3 corrupt, 4 untrusted.
    """
    from exchange.cli.batch_report import trusted_from
    from exchange.database import audit_chain

    keys = trusted_from(trust)
    if file is not None and keys is not None:
        kept = _checked_file(file, keys, as_json)
        _tell_checked(audit_chain.Checked(kept.rows, kept.head, 0, ()), as_json)
        return
    with open_site() as site:
        ending = None if file is None else _checked_file(file, site.own, as_json)
        checked = audit_chain.check(site.engine, ending)
    _tell_checked(checked, as_json)


def _checked_file(file: Path, keys: TrustedKeys, as_json: bool) -> AuditEnding:
    from exchange.format.errors import Untrusted, printable
    from exchange.format.signed_file import FileFault
    from exchange.operating import audit_export

    shown = printable(str(file))
    try:
        with file.open("rb") as content:
            return audit_export.check_file(content, keys)
    except Untrusted as fault:
        _end(f"{shown}: {fault}; nothing of it was believed", "untrusted", as_json)
    except FileFault as fault:
        _end(f"{shown}: {fault}; believe nothing of it", "corrupt", as_json)


def _end(sentence: str, verdict: str, as_json: bool) -> NoReturn:
    if as_json:
        output.emit({"verdict": verdict, "faults": [sentence]})
    output.print_error(sentence)
    raise typer.Exit(CODES[verdict])


def _tell_checked(checked: Checked, as_json: bool) -> None:
    verdict = "corrupt" if checked.wrong else "ok"
    if as_json:
        output.emit({"verdict": verdict, **checked.as_dict()})
    else:
        output.tell(f"the audit: {verdict}, {checked.rows} rows, the last digest is {checked.head}")
    for sentence in checked.faults:
        output.print_error(sentence)
    if checked.wrong:
        output.print_error(
            f"{checked.wrong} faults: find out who could write to the database; an exported copy has it whole"
        )
    raise typer.Exit(CODES[verdict])


def _words(fields: dict[str, object]) -> str:
    return ", ".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in fields.items()
    )


def _came_to(result: dict[str, Any]) -> str:
    """Word a result: its sentence if it has one, else what it counted, and how many of what it lists."""
    if result.get("failed") or result.get("message"):
        return str(result.get("failed") or result["message"])
    if "verdict" in result:
        return ", ".join([str(result["verdict"]), *_counted(result.get("records") or {})])
    return "; ".join(_counted({name: _number(value) for name, value in result.items()})) or "nothing to do"


def _counted(fields: dict[str, Any]) -> list[str]:
    return [
        f"{value} {name}" if isinstance(value, int) else f"{name}: {value}" for name, value in fields.items() if value
    ]


def _number(value: Any) -> Any:
    """Give how many a list has: what they came to, if they say so; of an object what it counted."""
    if isinstance(value, dict):
        return ", ".join(_counted(value))
    if not isinstance(value, list):
        return value
    came_to = Counter(one.get("verdict") or one.get("state") for one in value if isinstance(one, dict))
    return ", ".join(f"{number} {what}" for what, number in came_to.items() if what) or str(len(value) or "")
