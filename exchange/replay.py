"""Replay: bring a kept batch back and let the importer judge it anew, with nothing skipped."""

from __future__ import annotations

from exchange import importer
from exchange.database import world_errors
from exchange.format.errors import WorldError, printable
from exchange.outcomes import Imported
from exchange.site import Site


def run(site: Site, stem: str) -> Imported:
    """Apply an archived, held or quarantined batch again: a no-op if it is applied, every check if it is not.

    A person asks for this, so a batch held for its deletes is let through. Raises WorldError if it isn't kept.
    """
    site.spool.prepare()
    kept = site.spool.kept(stem)
    if kept is None:
        msg = (
            f"no batch {printable(stem)} is kept in work, incoming, quarantine or archive; nothing was done;"
            " `exchange batches` lists those there are"
        )
        raise WorldError(msg)
    with world_errors():
        back = site.spool.bring_back(kept)
    done = importer.run(site, stem=back.stem, release=True)
    for outcome in done.batches:
        if outcome.batch == back.stem:
            return outcome
    raise WorldError(done.trouble or f"batch {stem} went away while it was brought back; run again")
