"""Those who ask over HTTP: whether their tokens can be signed by us alone, and whose key ends while it is used."""

from __future__ import annotations

from datetime import timedelta

from exchange.database import clock, engine
from exchange.files.token_keys import TokenKeyFault, TokenKeys
from exchange.format.moments import in_words
from exchange.operating.doctor.finding import Alarm, Findings, fault, ok, warning
from exchange.people import api_keys
from exchange.settings import Settings
from exchange.site import Site

SOON_OVER = timedelta(days=14)
"""So long before its end a key that is used is worth a word: whoever shows it needs another one."""
USED = timedelta(days=30)
"""One that was used so short a time ago is."""


def check_token_keys(settings: Settings) -> Findings:
    """Read the keys that sign access tokens, where there are any, and see that nobody else can."""
    try:
        known = TokenKeys(settings.keys_folder).listed()
    except TokenKeyFault as error:
        told = error.problem
        yield fault("requests", told.message, told.remedy, alarm=Alarm.KEY, subject="access tokens")
        return
    if known:
        yield ok("requests", f"key {known[0].id} signs access tokens")


def check_api_keys(_settings: Settings, site: Site) -> Findings:
    """Look for keys of programs that are used and end soon, or ended and were used until then."""
    moment = engine.now()
    for one in api_keys.list_api_keys(site.engine):
        used = one.used_at is not None and clock.since(one.used_at, moment) < USED
        if one.revoked_at is None and used and one.expires_at - moment < SOON_OVER:
            ended = "ended" if one.expires_at <= moment else "ends"
            yield warning(
                "requests",
                f"the API key {one.name}, which is used, {ended} {in_words(one.expires_at)}",
                "give it more time, and whoever shows it what is shown by it from then on",
                command=f"exchange api-keys rotate {one.name} --expires 90d",
                alarm=Alarm.KEY,
                subject=f"API key {one.name}",
            )
