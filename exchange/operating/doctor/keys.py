"""The keys: what this side signs with, whom it trusts, and who could change that."""

from __future__ import annotations

import stat
from datetime import timedelta
from shlex import quote

from exchange.database import engine
from exchange.files import keys
from exchange.format.signing import TrustedKeys
from exchange.operating.doctor.finding import Alarm, Finding, Findings, Level, fault, ok, warning
from exchange.operating.doctor.requesters import check_token_keys
from exchange.settings import Settings

SOON_OVER = timedelta(days=14)
"""So long before its end a trusted key's time is worth a word: the other side's new key has to be carried over."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_keys(settings: Settings) -> Findings:
    """Read every key, and see that nobody else can read or change them."""
    try:
        signing = keys.load_signing_key(settings.keys_folder, settings.signing_key)
        trusted = keys.load_trusted(settings.keys_folder)
        listed = keys.listed(settings.keys_folder, settings.signing_key)
    except (keys.KeyFault, OSError) as error:
        yield fault(
            "keys",
            str(error),
            "put a good key there, or make one with `exchange keys new`; of a trusted one `exchange keys untrust NAME`",
            alarm=Alarm.KEY,
        )
        return
    yield from check_token_keys(settings)
    need = Level.FAULT if settings.require_signature else Level.WARNING
    if signing is None:
        said = "there is no signing key, so nothing is exported"
        yield Finding("keys", need, said, command="exchange keys new", alarm=Alarm.KEY, subject=settings.network)
    else:
        yield ok("keys", f"{signing.name} signs")
    yield from _trusted(settings, trusted, need)
    for file in listed:
        mode = stat.S_IMODE(file.path.stat().st_mode)
        if mode & _OTHERS and not file.trusted:
            yield fault(
                "keys",
                f"{file.path} is {mode:04o}: others can read who we are",
                command=f"chmod 600 {quote(str(file.path))}",
                alarm=Alarm.KEY,
                subject=file.name,
            )
        for path in keys.files_of(file) if file.trusted else ():
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                yield fault(
                    "keys",
                    f"{path} is {mode:04o}: others can change whom we trust",
                    command=f"chmod 600 {quote(str(path))}",
                    alarm=Alarm.KEY,
                    subject=file.name,
                )


def _trusted(settings: Settings, trusted: TrustedKeys, need: Level) -> Findings:
    moment = engine.now()
    in_force = trusted.in_force(moment)
    if in_force:
        yield ok("keys", f"trusted: {', '.join(sorted(in_force))}")
    over = [f"{name} is trusted {terms}" for name, terms in sorted(trusted.terms.items()) if name not in in_force]
    if not in_force:
        said = f"no key of {settings.peer} is trusted now, so nothing is imported"
        yield Finding(
            "keys",
            need,
            "; ".join([*over, said]),
            "carry its public key over and run `exchange keys trust FILE`",
            alarm=Alarm.KEY,
            subject=settings.peer,
        )
    for name in sorted(in_force):
        end = trusted.terms[name].not_after if name in trusted.terms else None
        if end is not None and end - moment < SOON_OVER:
            yield warning(
                "keys",
                f"{name} is trusted {trusted.terms[name]}; what comes after that is quarantined",
                f"have {settings.peer} make a new key, or give this one more time: `exchange keys trust FILE`",
                command="exchange keys list",
                alarm=Alarm.KEY,
                subject=name,
            )
