"""Everything one side needs in order to work, looked at once; each fault with what to do about it.

It changes nothing: what it finds missing it does not make.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from exchange.channels.channel import Channel
from exchange.operating.assemble import assemble, folders
from exchange.operating.doctor.backups import check_backups
from exchange.operating.doctor.broker import check_broker
from exchange.operating.doctor.clock import check_clock
from exchange.operating.doctor.database import check_database
from exchange.operating.doctor.file_system import check_folders, check_password_files
from exchange.operating.doctor.finding import Alarm, Findings, fault, looked, ok
from exchange.operating.doctor.handlers import check_handlers
from exchange.operating.doctor.keys import check_keys
from exchange.operating.doctor.processes import check_calls, check_nudge, check_parts, check_restarts
from exchange.operating.doctor.watch import check_watch
from exchange.settings import Settings, SettingsFaults, load_settings
from exchange.site import Site

_ALARMS = {"folders": Alarm.FOLDER, "keys": Alarm.KEY, "broker": Alarm.BROKER, "backup": Alarm.BACKUP}


def examine(*, work: bool = True) -> Findings:
    """Look at everything, in an order in which one fault explains the next ones.

    Without ``work`` only at the installation, not at what people have to do.
    """
    try:
        settings = load_settings()
    except SettingsFaults as faults:
        for sentence in faults.faults:
            yield fault(
                "settings",
                sentence,
                "correct the variable or the .env; the rest is looked at after that",
                alarm=Alarm.SETTINGS,
            )
        return
    yield from examine_side(settings, lambda: assemble(settings, keyless=True), work=work)


def examine_side(settings: Settings, make_site: Callable[[], Site], *, work: bool = True) -> Findings:
    """Look at everything but the settings; of keys the site that is made may know nothing."""
    yield ok("settings", f"network {settings.network}, peer {settings.peer}, home {settings.home}")
    checks: tuple[tuple[str, Callable[[], Findings]], ...] = (
        ("settings", partial(check_password_files, settings)),
        ("clock", check_clock),
        ("folders", partial(check_folders, folders(settings), settings.limits.batch_bytes)),
        ("keys", partial(check_keys, settings)),
        ("calls", partial(check_calls, settings)),
        ("broker", partial(check_parts, settings)),
        ("broker", partial(check_broker, settings)),
        ("nudge", partial(check_nudge, settings)),
        ("restarts", partial(check_restarts, settings)),
        ("backup", partial(check_backups, settings)),
        ("watch", partial(check_watch, settings)),
    )
    for check, look in checks:
        yield from looked(check, look, "see that this user may look there", _ALARMS.get(check))
    try:
        site = make_site()
    except SettingsFaults as faults:
        for sentence in faults.faults:
            yield fault("settings", sentence, "correct it; the database is looked at after that", alarm=Alarm.SETTINGS)
        return
    yield from check_handlers(settings)
    yield ok("channels", ", ".join(_declared(one) for one in site.channels))
    try:
        yield from check_database(settings, site, work=work)
    finally:
        site.engine.dispose()


def _declared(channel: Channel) -> str:
    shards = f", {channel.shards} shards" if channel.shards > 1 else ""
    return f"{channel.name} ({channel.source} to {channel.target}{shards})"
