"""``exchange init``: what a side needs before its first run: a ``.env``, folders with their markers, a signing key.

Nothing that is there is overwritten, so it may be repeated; it also marks a shared folder anew, on a person's word.
A carrier's group is the one setting that it adds to a ``.env`` that does not speak of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from exchange.database.engine import now
from exchange.database.errors import transient_errors
from exchange.files import call_secret, carrier_group, durable, keys, read_access
from exchange.files.folder import HOME_MODE, make_private
from exchange.files.read_access import Readers
from exchange.files.spool import Spool
from exchange.format.errors import printable
from exchange.format.signing import SigningKey
from exchange.intake import folders as drop_folders
from exchange.operating.assemble import assemble, folders
from exchange.settings import Settings, SettingsFaults, load_settings, settings_file, variable_name

_AS_IT_WAS = "as it was"
_HEAD = "# Settings of this side of the exchange: deploy/env.example lists them all. It may hold passwords.\n"


@dataclass(frozen=True)
class Initialised:
    """What is there now. ``env_file`` is None where variables of the process say everything.

    ``env_file_became`` says what was done to it, ``readers`` who can read what will be exported.
    """

    settings: Settings
    env_file: Path | None
    env_file_became: str
    readers: Readers
    key: str
    fingerprint: str
    public_key: Path
    key_made: bool
    drops: tuple[Path, ...]
    """Where people drop files, as the application declares it."""
    faults: tuple[str, ...]
    """What can't work of the application that the settings name: it is looked at, all else is made nevertheless."""


def initialise(wanted: Mapping[str, str | Path]) -> Initialised:
    """Make what is missing; ``wanted`` holds settings by their field's name, for a ``.env`` that is not there yet.

    Raises SettingsFaults if the settings are faulty or say something else than ``wanted``, KeyFault, TransientError.
    """
    file = settings_file()
    group = wanted.get("carrier_group")
    if group is not None:
        _check_group(str(group))
    with transient_errors():
        before = file.read_bytes() if file.is_file() else None
        if before is not None:
            load_settings()  # a file that is refused is not added to
        became = _write_down(file, wanted, new=before is None)
        try:
            settings = _agreed(wanted, file)
        except SettingsFaults:
            if became != _AS_IT_WAS:
                _put_back(file, before)
            raise
        _make_folders(settings)
        seen = read_access.look(folders(settings))
    key, made = _signing_key(settings)
    there = before is not None or became != _AS_IT_WAS
    public = settings.keys_folder / f"{key.name}.pem"
    drops, faults = _application(settings)
    env_file = file if there else None
    return Initialised(settings, env_file, became, seen, key.name, key.fingerprint, public, made, drops, faults)


def _application(settings: Settings) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Import the application's channels, as every later command does, and say what can't work; no database is asked.

    The folders that it declares for files of people are made, and given.
    """
    try:
        site = assemble(settings, keyless=True)
        site.engine.dispose()
        faults = drop_folders.make_all(site, settings.intake_group_number, beyond=True)
        return tuple(one.path for one in drop_folders.drops(site)), tuple(faults)
    except SettingsFaults as error:
        return (), tuple(error.faults)


def _check_group(group: str) -> None:
    """See that files can be given to a group, before anything is written. Raises SettingsFaults."""
    try:
        number = carrier_group.number_of(group)
    except ValueError as error:
        raise SettingsFaults([f"--carrier-group: {error}; nothing was changed"]) from error
    if not carrier_group.may_give(number):
        fault = carrier_group.not_ours(number, "so could give it nothing; nothing was changed")
        raise SettingsFaults([f"--carrier-group: {fault}"])


def _write_down(file: Path, wanted: Mapping[str, str | Path], *, new: bool) -> str:
    """Write a ``.env`` that is not there, or add the carrier's group to one that says none; say which of it was."""
    if new:
        if wanted:
            _write_env(file, wanted)
        return "written" if wanted else _AS_IT_WAS
    name = variable_name("carrier_group")
    if "carrier_group" not in wanted or name in os.environ or name in dotenv_values(file):
        return _AS_IT_WAS
    before = file.read_bytes()
    ends = before[-1:] in {b"", b"\n"}
    added = f"{'' if ends else chr(10)}{_line('carrier_group', wanted['carrier_group'])}"
    _replace(file, before + added.encode())
    return f"{name} added"


def _put_back(file: Path, before: bytes | None) -> None:
    if before is None:
        file.unlink()
    else:
        _replace(file, before)


def _replace(file: Path, content: bytes) -> None:
    """Write a ``.env`` anew; where it is a link, the file that it leads to."""
    real = file.resolve()
    mode = stat.S_IMODE(real.stat().st_mode)
    durable.write(real, content, mode=mode)


def _agreed(wanted: Mapping[str, str | Path], file: Path) -> Settings:
    """Read the settings and see that they say what was asked for: a file that is there is never changed."""
    settings = load_settings()
    asked = load_settings({field: str(value) for field, value in wanted.items()})
    faults = [
        f"{variable_name(field)}: asked for {_shown(asked, field)}, but {file} or the environment says"
        f" {_shown(settings, field)}; nothing was changed: correct it there"
        for field in wanted
        if getattr(settings, field) != getattr(asked, field)
    ]
    if "carrier_group" in wanted:
        faults += _open_ones(settings, file)
    if faults:
        raise SettingsFaults(faults)
    return settings


def _shown(settings: Settings, field: str) -> str:
    return printable(settings.shown_database_url if field == "database_url" else str(getattr(settings, field)))


def _open_ones(settings: Settings, file: Path) -> list[str]:
    """Say which permissions, written down, let in others than the carrier's group."""
    closed = {"folder_mode": carrier_group.FOLDER_MODE, "file_mode": carrier_group.FILE_MODE}
    return [
        f"{variable_name(field)}: --carrier-group asks for {mode:04o}, but {file} or the environment says"
        f" {getattr(settings, field):04o}; nothing was changed: take it out there"
        for field, mode in closed.items()
        if getattr(settings, field) != mode
    ]


def _write_env(file: Path, wanted: Mapping[str, str | Path]) -> None:
    lines = [_line(field, value) for field, value in wanted.items()]
    try:
        durable.write(file, (_HEAD + "".join(lines)).encode(), mode=0o600, replace=False)
    except FileExistsError as error:
        raise SettingsFaults([f"{printable(str(file))}: expected a file or nothing there; move it away"]) from error


def _line(field: str, value: str | Path) -> str:
    return f"{variable_name(field)}={_quoted(str(value))}\n"


def _quoted(value: str) -> str:
    """Write a value so that it is read back as it is, whatever characters a path has."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _make_folders(settings: Settings) -> None:
    make_private(settings.home, HOME_MODE)
    spool = Spool(folders(settings))
    for shared in spool.shared:
        shared.mark()
    spool.prepare(make=True)
    call_secret.make(settings.home)


def _signing_key(settings: Settings) -> tuple[SigningKey, bool]:
    there = keys.load_signing_key(settings.keys_folder, settings.signing_key)
    if there is not None:
        return there, False
    public = keys.new(settings.keys_folder, new_key_name(settings))
    return keys.read_signing_key(settings.keys_folder, public.stem), True


def new_key_name(settings: Settings) -> str:
    """Name a new signing key so that both sides know whose it is and from when."""
    return f"{settings.network}-{now():%Y}"
