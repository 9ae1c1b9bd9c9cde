"""The audit for a Python program: what was done by hand, and whether nothing of it was changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exchange.database import audit_chain, audit_log
from exchange.database.errors import transient_errors
from exchange.database.locks import reading
from exchange.format.as_dict import AsDict

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from exchange.api import Exchange
    from exchange.database.audit_chain import Checked
    from exchange.database.audit_log import AuditEntry
    from exchange.operating.audit_export import AuditExport

__all__ = ["Audit", "AuditPage"]


@dataclass(frozen=True)
class AuditPage(AsDict):
    """A page of what was done by hand, newest first; ``next`` is where the one after it begins, None at the end."""

    entries: tuple[AuditEntry, ...]
    next: int | None


class Audit:
    """What was done by hand."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(
        self,
        *,
        action: str | None = None,
        who: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        after: int | None = None,
    ) -> AuditPage:
        """Give a page of it; ``after`` is what the page before names as its ``next``."""
        with transient_errors(), reading(self._exchange.site.engine) as connection:
            found = audit_log.entries(
                connection, action=action, who=who, since=since, until=until, after=after, limit=limit + 1
            )
        more = len(found) > limit
        return AuditPage(tuple(found[:limit]), found[limit - 1].id if more else None)

    def check(self) -> Checked:
        """See that nothing in it was changed or taken out; reads all of it."""
        return audit_chain.check(self._exchange.site.engine)

    def export(self, file: Path) -> AuditExport:
        """Write all of it to a new file, signed with this side's key. Raises FileFault."""
        from exchange.operating import audit_export

        return audit_export.export(self._exchange.site, file)
