"""A side's own life: initialise, migrate, run, demonstrate and examine it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli import output
from exchange.cli.findings import end_with, show_findings
from exchange.cli.output import Json
from exchange.cli.runtime import USAGE, Refused, fail, settings

if TYPE_CHECKING:
    from exchange.operating.init import Initialised
    from exchange.settings import Settings
    from exchange.site import Site

_DEMO_FOLDERS = {"request", "response"}
"""What a demo leaves: a folder of anything else is not made anew."""


def init(
    *,
    network: Annotated[str | None, typer.Option(metavar="NAME", help="This side's name.", show_default=False)] = None,
    peer: Annotated[str | None, typer.Option(metavar="NAME", help="The other side's name.", show_default=False)] = None,
    home: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where everything local lives.", show_default=False)
    ] = None,
    outgoing: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="What the carrier takes from.", show_default=False)
    ] = None,
    incoming: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="What the carrier brings to.", show_default=False)
    ] = None,
    app: Annotated[
        str | None, typer.Option(metavar="MODULE:NAME", help="Where the channels are declared.", show_default=False)
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The application's database; it is kept in the .env.", show_default=False),
    ] = None,
    carrier_group: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The group that alone may read what is exported.", show_default=False),
    ] = None,
    then_migrate: Annotated[
        bool, typer.Option("--migrate", help="Make the exchange's own tables, too, as `exchange migrate` does.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a .env, folders and a signing key.

    What is there stays as it is; a shared folder that lost its marker is marked anew. The application's channels are
    looked at: exit code 2 if they can't work.
    """
    from exchange.operating.init import initialise

    texts = {"network": network, "peer": peer, "app": app, "database_url": database, "carrier_group": carrier_group}
    places = {"home": home, "outgoing": outgoing, "incoming": incoming}
    wanted: dict[str, str | Path] = {field: value for field, value in texts.items() if value is not None}
    try:
        wanted |= {field: value.expanduser().resolve() for field, value in places.items() if value is not None}
    except RuntimeError as error:  # a ~ of nobody
        raise Refused(str(error)) from None
    done = initialise(wanted)
    current = done.settings
    if as_json:
        output.emit(
            {
                "network": current.network,
                "peer": current.peer,
                "env_file": str(done.env_file) if done.env_file else None,
                "home": str(current.home),
                "outgoing": str(current.outgoing),
                "incoming": str(current.incoming),
                "readers": done.readers.as_dict(),
                "key": done.key,
                "public_key": str(done.public_key),
                "fingerprint": done.fingerprint,
                "drops": [str(one) for one in done.drops],
                "faults": [*done.faults],
            }
        )
    else:
        _tell_initialised(done, migrated=then_migrate)
    for fault in done.faults:
        output.print_error(fault)
    if done.faults:
        output.say("what can cross, and what to do otherwise, is in deploy/EXISTING.md and CHANNELS.md")
        fail(USAGE)
    if then_migrate:
        migrate(as_json=as_json)


def _tell_initialised(done: Initialised, *, migrated: bool) -> None:
    from exchange.settings import REFERENCE_APP

    current = done.settings
    if done.env_file:
        output.tell(f"settings: {done.env_file} ({done.env_file_became})")
    output.tell(f"folders: {current.home}, {current.outgoing} and {current.incoming}, each with its marker")
    output.tell(str(done.readers.said_of("what is exported")))
    if done.drops:
        group = f"members of the group {current.intake_group}" if current.intake_group else "this user"
        output.tell(f"files may be dropped by {group} into {', '.join(map(str, done.drops))}")
    output.tell(f"signing key: {done.key} ({'made' if done.key_made else 'as it was'})")
    output.tell("")
    output.tell("next:")
    if not migrated:
        output.tell("  exchange migrate                make the exchange's own tables")
    if current.app != REFERENCE_APP:
        output.tell("  alembic upgrade head            have the application's migrations capture or receive its tables")
    output.under(f"carry {done.public_key} to {current.peer}; there:")
    output.tell(f"    exchange keys trust {done.public_key.name} --fingerprint {done.fingerprint}")
    output.under(f"bring {current.peer}'s public key here, and run: exchange keys trust FILE --fingerprint SHA256:...")
    output.tell("  exchange doctor                 see that all is well")
    output.tell("  exchange up                     run broker, worker and beat")


def migrate(
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Go on with the database of a home that is gone for good.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say which statements it would be, what they lock and how long.")
    ] = False,
    down: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION",
            help="Back to an earlier revision, such as core_0016; says first what is lost.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --down: do it without a question.")] = False,
    as_json: Json = False,
) -> None:
    """Bring the database up to this version.

    Folders that are missing are made too. Where somebody holds a lock for longer than EXCHANGE_LOCK_SECONDS nothing is
    done, and it says who: the same command tries again.
    """
    if plan or down is not None:
        from exchange.cli import migration

        if down is None:
            migration.tell_plan(as_json=as_json)
        else:
            migration.go_back(down, only_plan=plan, yes=yes, as_json=as_json)
        return
    from exchange.database.errors import transient_errors
    from exchange.database.locks import reading
    from exchange.database.network import known_epoch
    from exchange.operating.migrate import applied_revisions
    from exchange.operating.prepare import prepare

    current = settings()
    site = prepare(current, take_over=take_over)
    try:
        with transient_errors():
            revisions = applied_revisions(site.engine)
            with reading(site.engine) as connection:
                epoch = known_epoch(connection, current.network)
            missing = _uncaptured(current, site)
    finally:
        site.engine.dispose()
    if as_json:
        output.emit({"revisions": list(revisions), "epoch": epoch, "missing": missing})
    else:
        output.tell(f"the database is at {', '.join(revisions)}; epoch {epoch}")
    for sentence in missing[:_MOST_SAID]:
        output.warn(sentence)
    if len(missing) > _MOST_SAID:
        output.warn(
            f"{len(missing) - _MOST_SAID} more tables are to be made ready by the application's migrations, too"
        )


_MOST_SAID = 3
"""Before an application's migrations have run it would be all tables; `exchange doctor` lists them."""


def _uncaptured(current: Settings, site: Site) -> list[str]:
    """Say what an application's own tables still lack: only its own migrations may change them."""
    from exchange.database.locks import reading
    from exchange.settings import REFERENCE_APP
    from exchange.tables import capture

    if current.app == REFERENCE_APP:
        return []
    with reading(site.engine) as connection:
        return [
            str(problem)
            for channel in site.channels
            for stream in channel.streams
            for problem in capture.check(connection, stream, captured=channel.source == site.network)
        ]


def up() -> None:
    """Migrate, then run broker, worker and beat.

    Ctrl-C stops all of it in order.
    """
    from exchange.operating import supervisor

    supervisor.run_side(settings())


def nudge() -> None:
    """Export after a commit, import when files arrive.

    It runs beside a worker and beat, until it is stopped. With EXCHANGE_NUDGE=true `exchange up` starts it.
    """
    from exchange.celery.nudge import run_nudge

    with contextlib.suppress(KeyboardInterrupt):
        run_nudge(settings())


def demo(
    home: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to show it; it is made anew.")] = Path("var/demo"),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave both sides at work at the end, each with its console, until Ctrl-C.")
    ] = False,
) -> None:
    """Show two networks at work on this machine, in under a minute."""
    from exchange.operating.demo import DemoFailed, run_demo

    folder = home.absolute()
    if folder.exists() and not (folder.is_dir() and {one.name for one in folder.iterdir()} <= _DEMO_FOLDERS):
        raise Refused(f"{folder}: expected nothing there or an earlier demo, found something else; it is left alone")
    try:
        agreed = run_demo(folder, keep=keep)
    except DemoFailed as failure:
        output.print_error(str(failure))
        fail()
    if not agreed:
        fail()


def doctor(as_json: Json = False) -> None:
    """Look at everything, and say what to do.

    Exit code 0 if all is well, 1 if something needs a person, 3 if there are only warnings.
    """
    from exchange.operating.doctor.examine import examine

    findings = list(examine())
    show_findings(findings, as_json=as_json)
    end_with(findings)
