"""All pages and acts of the console, each with who may see or do it."""

from __future__ import annotations

from starlette.routing import Route

from exchange.serve.console import (
    agreement,
    audit,
    batches,
    channels,
    dead_letters,
    dead_letters_edit,
    dead_letters_one,
    dead_letters_selections,
    epochs,
    files,
    gaps,
    health,
    keys,
    live,
    overview,
    pending,
    people,
    proposals,
    quarantine,
    schedule,
    settings,
    sign_in,
    theme,
    versions,
)

PAGES: tuple[Route, ...] = (
    *overview.ROUTES,
    *live.ROUTES,
    *theme.ROUTES,
    *sign_in.ROUTES,
    *health.ROUTES,
    *dead_letters.ROUTES,
    *dead_letters_one.ROUTES,
    *dead_letters_edit.ROUTES,
    *dead_letters_selections.ROUTES,
    *channels.ROUTES,
    *files.ROUTES,
    *agreement.ROUTES,
    *schedule.ROUTES,
    *epochs.ROUTES,
    *keys.ROUTES,
    *settings.ROUTES,
    *proposals.ROUTES,
    *audit.ROUTES,
    *people.ROUTES,
    *batches.ROUTES,
    *quarantine.ROUTES,
    *gaps.ROUTES,
    *pending.ROUTES,
    *versions.ROUTES,
)
