"""From settings to a ``Site``: names of modules, folders and keys become the real things, only here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from exchange.channels.channel import Channel, ChannelFaults, check, load_channels
from exchange.channels.intake import Intake, check_intakes, load_intakes
from exchange.channels.schemas import Checker
from exchange.database.dialects import SQLITE
from exchange.database.engine import make_engine
from exchange.database.pauses import Place
from exchange.database.tables import Direction
from exchange.files import keys
from exchange.files.layout import Folders
from exchange.files.spool import Spool
from exchange.format.errors import TransientError, printable
from exchange.format.signing import TrustedKeys
from exchange.operating.revisions import CORE, REFERENCE
from exchange.settings import REFERENCE_APP, Settings, SettingsFaults, variable_name
from exchange.site import Site

if TYPE_CHECKING:
    from exchange.reference.handlers import Handlers, Sources


def assemble(
    settings: Settings,
    *,
    distrusting: str | None = None,
    keyless: bool = False,
    engine: Engine | None = None,
    channels: Sequence[Channel] | None = None,
    intakes: Sequence[Intake] | None = None,
) -> Site:
    """Build the site, as if it did not trust the key of one name if one is given: nobody looks at its file then.

    One that is ``keyless`` is for looking at the database alone: no key's file is read. ``engine``, ``channels`` and
    ``intakes`` are taken in the place of those that the settings name. Raises SettingsFaults with every fault of the
    channels and keys that are named.
    """
    faults: list[str] = []
    given, channels = channels, _channels(settings, channels, faults)
    intakes = _intakes(settings, intakes if given is None else intakes or (), channels, faults)
    if (engine.url if engine else make_url(settings.database_url)).get_backend_name() == SQLITE.name:
        streams = (stream for channel in channels for stream in channel.streams)
        faults += [f"{variable_name('app')}: {fault}" for stream in streams for fault in stream.sqlite_faults()]
    signing_key, trusted, own = None, TrustedKeys({}), TrustedKeys({})
    try:
        if not keyless:
            signing_key = keys.load_signing_key(settings.keys_folder, settings.signing_key)
            trusted = keys.load_trusted(settings.keys_folder, but=distrusting)
            own = keys.load_own(settings.keys_folder)
    except keys.KeyFault as fault:
        raise SettingsFaults([*faults, str(fault)]) from fault
    off = _channels_off(settings, channels, faults)
    schemas = schemas_folder(settings)
    checkers = _checkers(channels, schemas, faults)
    if faults:
        raise SettingsFaults(faults)
    return Site(
        network=settings.network,
        peer=settings.peer,
        engine=engine or make_engine(settings.database_url, lock_seconds=settings.lock_seconds),
        channels=channels,
        spool=Spool(folders(settings)),
        checkers=checkers,
        signing_key=signing_key,
        trusted=trusted,
        require_signature=settings.require_signature,
        limits=settings.limits,
        schemas=schemas,
        own=own,
        one_way=settings.link == "one-way",
        repair=settings.repair,
        first_load=settings.first_load == "auto",
        intakes=intakes,
        off=off,
        read_trusted=lambda: _present_trust(settings),
    )


def _present_trust(settings: Settings) -> TrustedKeys:
    try:
        return keys.load_trusted(settings.keys_folder)
    except keys.KeyFault as fault:
        raise TransientError(f"{fault}; nothing was changed, the next run tries again") from fault


def with_present_keys(site: Site, settings: Settings) -> Site:
    """Give the site with the keys as they are now: a key that was trusted meanwhile counts from the next run on.

    Raises SettingsFaults if a key file is faulty.
    """
    try:
        return replace(
            site,
            signing_key=keys.load_signing_key(settings.keys_folder, settings.signing_key),
            trusted=keys.load_trusted(settings.keys_folder),
            own=keys.load_own(settings.keys_folder),
        )
    except keys.KeyFault as fault:
        raise SettingsFaults([str(fault)]) from fault


def load_request_handler(settings: Settings) -> Handlers:
    """Make what answers the reference application's requests. Raises SettingsFaults."""
    from exchange.reference.handlers import load_handlers  # noqa: PLC0415 - loads the models that come along

    try:
        return load_handlers(settings.handler, handler_sources(settings))
    except ValueError as error:
        raise SettingsFaults([f"{variable_name('handler')}: {printable(str(error), 400)}"]) from error


def handler_sources(settings: Settings) -> Sources:
    """Say what the handlers that come along are made of. Raises SettingsFaults."""
    from exchange.reference.handlers import Sources  # noqa: PLC0415 - likewise

    return Sources(
        seconds=settings.handler_seconds,
        queries=settings.handler_queries,
        database_url=settings.handler_database_url or settings.database_url,
        paths=settings.handler_http_paths,
        service_url=settings.handler_http_url,
        credentials=settings.handler_http_credentials,
        ca_file=settings.handler_http_ca_file,
    )


def folders(settings: Settings) -> Folders:
    """Say where everything of this side lies."""
    return Folders(
        home=settings.home,
        outgoing=settings.outgoing,
        incoming=settings.incoming,
        folder_mode=settings.folder_mode,
        file_mode=settings.file_mode,
        group=settings.carrier_group_number,
    )


def branches(settings: Settings) -> tuple[str, ...]:
    """Say whose tables this side has: the exchange's own, and the shipped application's if it is the one."""
    return (CORE, REFERENCE) if settings.app == REFERENCE_APP else (CORE,)


def schemas_folder(settings: Settings) -> Path | None:
    """Find the streams' schemas: the named folder, or the shipped one for the shipped application."""
    if settings.schemas is not None:
        return settings.schemas
    return shipped("schemas") if settings.app == REFERENCE_APP else None


def _checkers(channels: tuple[Channel, ...], schemas: Path | None, faults: list[str]) -> dict[str, Checker]:
    if schemas is not None and not schemas.is_dir():
        faults.append(f"{variable_name('schemas')}: expected a folder, found none at {printable(str(schemas))}")
        return {}
    try:
        return {stream.name: Checker(stream, schemas) for channel in channels for stream in channel.streams}
    except ValueError as error:
        faults.append(f"{variable_name('schemas')}: {error}")
        return {}


def _channels_off(settings: Settings, channels: Sequence[Channel], faults: list[str]) -> frozenset[Place]:
    """Find the channels that are to stand still; a name of none, or of one that goes the other way, is a fault."""
    ways = {one.name: Direction.OUT if one.source == settings.network else Direction.IN for one in channels}
    off = set()
    for name, way in settings.named_off if channels else ():
        if name not in ways:
            known = ", ".join(sorted(ways))
            faults.append(f"{variable_name('channels_off')}: expected a declared channel ({known}), found {name}")
        elif way and way != ways[name]:
            faults.append(
                f"{variable_name('channels_off')}: expected {name} or {name}:{ways[name]}, as it goes {ways[name]}"
                f" here, found {name}:{way}"
            )
        else:
            off.add((ways[name], name))
    return frozenset(off)


def shipped(name: str) -> Path:
    """Find a folder that travels with the package: inside it when installed, beside it in a source tree."""
    package = Path(__file__).parents[1]
    inside = package / "_data" / name
    return inside if inside.is_dir() else package.parent / name


def _intakes(
    settings: Settings, given: Sequence[Intake] | None, channels: tuple[Channel, ...], faults: list[str]
) -> tuple[Intake, ...]:
    """Take the intakes beside the declared channels, or those that are given; none if their channels are faulty."""
    if not channels:
        return ()
    try:
        intakes = load_intakes(settings.app, channels) if given is None else tuple(given)
    except ChannelFaults as error:
        faults += [f"{variable_name('app')}: {fault}" for fault in error.faults]
        return ()
    if given is not None:
        faults += check_intakes(intakes, channels)
    return intakes


def _channels(settings: Settings, given: Sequence[Channel] | None, faults: list[str]) -> tuple[Channel, ...]:
    """Import the declared channels unless they are given, and see that each goes from one network to the other.

    What is wrong is added to ``faults``; none are given if they can't be imported.
    """
    try:
        if given is None:
            channels = load_channels(settings.app)
        else:
            channels = tuple(given)
            check(channels)
    except ChannelFaults as error:
        faults += [f"{variable_name('app')}: {fault}" for fault in error.faults]
        return ()
    ours = {settings.network, settings.peer}
    between: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for channel in channels:
        between[channel.source, channel.target].append(channel.name)
    for (source, target), names in between.items():
        if strangers := sorted({source, target} - ours):
            faults.append(
                f"{variable_name('app')}: channel {', '.join(names)}: {source} to {target}, but this side knows"
                f" {settings.network} and {settings.peer}, not {' and '.join(strangers)}; correct the name there, or"
                f" {variable_name('network')} and {variable_name('peer')}, or leave the channel out"
            )
    if not channels:
        faults.append(
            f"{variable_name('app')}: expected a channel between {settings.network} and {settings.peer}, found none"
        )
    return channels
