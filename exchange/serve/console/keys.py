"""Keys: who signs here, who is trusted and for what, and a person's word on the other side's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from starlette.responses import Response

from exchange.api.acts import RefusedArgument
from exchange.api.keys import in_use
from exchange.database.clock import now
from exchange.files import keys as key_files
from exchange.format.key_terms import NO_LIMITS, Terms
from exchange.serve.console.visit import Visit, act, look, moment_of

MOST_PEM = 8_192


def keys(visit: Visit) -> Response:
    """Show own keys and trusted ones."""
    found = [(one, "not readable" if one.fault else in_use(one)) for one in visit.exchange.keys.list()]
    return visit.render("keys.html", found=found, at=now())


def trust(visit: Visit) -> Response:
    """Accept what a key signs whose fingerprint came by another road."""
    pem, name = visit.form.get("pem", "").strip(), visit.form.get("name", "").strip()
    if not pem or len(pem) > MOST_PEM:
        raise RefusedArgument("public key: expected the text of the other side's .pem file; nothing was done")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "key.pem"
        file.write_text(pem + "\n")
        wanted = key_files.candidate(file, name or "key")
        kept = visit.exchange.keys.trust(
            wanted, visit.form.get("fingerprint", ""), _terms(visit), reason=visit.required_reason
        )
    limits = f" {kept.terms}" if kept.terms != NO_LIMITS else ""
    return visit.back(f"{kept.name} is trusted{limits}; fingerprint {kept.fingerprint}")


def _terms(visit: Visit) -> Terms | None:
    """Read the limits that were asked for; None for none. Raises RefusedArgument."""
    begin, end = (moment_of(visit.form.get(name, ""), name) for name in ("not_before", "not_after"))
    channels = frozenset(visit.form.get("channels", "").replace(",", " ").split()) or None
    if begin is None and end is None and channels is None:
        return None
    try:
        return Terms(begin, end, channels)
    except ValueError as error:
        raise RefusedArgument(f"{error}; nothing was done") from error


def untrust(visit: Visit) -> Response:
    """Trust one no longer."""
    done = visit.exchange.keys.untrust(visit.request.path_params["name"], visit.required_reason)
    signed = ", ".join(f"{number} {state}" for state, number in done.counts.items()) or "nothing that counts"
    return visit.back(f"{done.name} is trusted no longer; it had signed {signed}")


ROUTES = (
    look("/keys", keys),
    act("/keys/trust", trust, "trust_key"),
    act("/keys/{name}/untrust", untrust, "untrust_key"),
)
