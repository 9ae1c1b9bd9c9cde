"""``exchange init``: what a side needs before its first run: a ``.env``, folders with their markers, a signing key.

Nothing that is there is overwritten, so it may be repeated; it also marks a shared folder anew, on a person's word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exchange import keys
from exchange.assembly import folders
from exchange.database import now, world_errors
from exchange.folders import HOME_MODE, make_private, named
from exchange.format.errors import printable
from exchange.settings import ENV_FILE, Settings, SettingsFaults, load_settings, variable_name
from exchange.spool import Spool

_HEAD = "# Settings of this side of the exchange: deploy/env.example lists them all. It may hold passwords.\n"


@dataclass(frozen=True)
class Initialised:
    """What is there now. ``env_file`` is None where variables of the process say everything."""

    settings: Settings
    env_file: Path | None
    env_file_written: bool
    key: str
    public_key: Path
    key_made: bool


def initialise(wanted: Mapping[str, str | Path]) -> Initialised:
    """Make what is missing; ``wanted`` holds settings by their field's name, for a ``.env`` that is not there yet.

    Raises SettingsFaults if the settings are faulty or say something else than ``wanted``, KeyFault, WorldError.
    """
    file = Path(os.environ.get(ENV_FILE) or ".env").absolute()
    found = file.is_file()
    with world_errors():
        written = not found and bool(wanted)
        if written:
            _write_env(file, wanted)
        try:
            settings = _agreed(wanted, file)
        except SettingsFaults:
            if written:
                file.unlink()
            raise
        _make_folders(settings)
    key, made = _signing_key(settings)
    return Initialised(
        settings, file if found or written else None, written, key, settings.keys_folder / f"{key}.pem", made
    )


def _agreed(wanted: Mapping[str, str | Path], file: Path) -> Settings:
    """Read the settings and see that they say what was asked for: a file that is there is never changed."""
    settings = load_settings()
    faults = [
        f"{variable_name(field)}: asked for {printable(str(value))}, but {file} or the environment says"
        f" {printable(str(getattr(settings, field)))}; nothing was changed: correct it there"
        for field, value in wanted.items()
        if getattr(settings, field) != value
    ]
    if faults:
        raise SettingsFaults(faults)
    return settings


def _write_env(file: Path, wanted: Mapping[str, str | Path]) -> None:
    lines = [f"{variable_name(field)}={_quoted(str(value))}\n" for field, value in wanted.items()]
    try:
        with named(file.parent) as folder, folder.write(file.name, mode=0o600, replace=False) as stream:
            stream.write((_HEAD + "".join(lines)).encode())
    except FileExistsError as error:
        raise SettingsFaults([f"{printable(str(file))}: expected a file or nothing there; move it away"]) from error


def _quoted(value: str) -> str:
    """Write a value so that it is read back as it is, whatever characters a path has."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _make_folders(settings: Settings) -> None:
    make_private(settings.home, HOME_MODE)
    spool = Spool(folders(settings))
    for shared in spool.shared:
        shared.mark()
    spool.prepare(make=True)


def _signing_key(settings: Settings) -> tuple[str, bool]:
    there = keys.load_signing_key(settings.keys_folder, settings.signing_key)
    if there is not None:
        return there.name, False
    public = keys.new(settings.keys_folder, new_key_name(settings))
    return public.stem, True


def new_key_name(settings: Settings) -> str:
    """Name a new signing key so that both sides know whose it is and from when."""
    return f"{settings.network}-{now():%Y}"
