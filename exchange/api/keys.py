"""Keys for a Python program: who signs here, who is trusted, and a person's word on the other side's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exchange.api.acts import RefusedArgument
from exchange.channels.channel import known_names
from exchange.files import keys
from exchange.format.errors import printable
from exchange.format.names import CONTROL
from exchange.format.signing import FINGERPRINT, to_pem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exchange.api import Exchange
    from exchange.files.keys import Candidate, KeyFile
    from exchange.format.key_terms import Terms
    from exchange.operating.untrust import UntrustedKey

__all__ = ["Keys", "check_fingerprint", "in_use"]


class Keys:
    """This side's signing keys and the other side's public ones."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._folder = exchange.settings.keys_folder

    def list(self) -> Sequence[KeyFile]:
        """Give own keys and trusted ones; of one that can't be read the ``fault`` says why."""
        return keys.listed(self._folder, self._exchange.settings.signing_key)

    def trust(
        self,
        wanted: Candidate,
        fingerprint: str,
        terms: Terms | None = None,
        *,
        who: str | None = None,
        reason: str | None = None,
    ) -> KeyFile:
        """Accept what a key signs, from the next batch on; of one that is trusted already only the ``terms`` change.

        The ``fingerprint`` came by another road than the key. Raises RefusedArgument and KeyFault if it is another one.
        """
        check_fingerprint(wanted, fingerprint)
        site = self._exchange.without_key(wanted.name)
        known = [*known_names(site.incoming()), CONTROL]
        for name in sorted(terms.channels or ()) if terms else ():
            if name not in known:
                shown = printable(repr(name), 80)
                raise RefusedArgument(
                    f"channel: expected one that is received here ({', '.join(known)}), found {shown}; nothing was done"
                )
        asked = {"name": wanted.name, "fingerprint": wanted.fingerprint, "limits": str(terms) if terms else None}
        frozen = {"pem": to_pem(wanted.key).decode(), "terms": terms.encode().decode() if terms else None}
        with self._exchange.act(site, "trust_key", asked, who, reason, frozen):
            copy = keys.trust(self._folder, wanted, terms)
        return next(one for one in keys.listed(self._folder) if one.path == copy)

    def untrust(self, name: str, reason: str, *, limit: int = 50, who: str | None = None) -> UntrustedKey:
        """Trust a key no longer, from the next batch on, and say what of all that it had signed counts here."""
        from exchange.operating.untrust import untrust_key

        known = next((one for one in keys.listed(self._folder) if one.trusted and one.name == name), None)
        site = self._exchange.without_key(name)
        asked = {"name": name, "fingerprint": known.fingerprint if known else None}
        with self._exchange.act(site, "untrust_key", asked, who, reason) as act:
            done = untrust_key(site, self._folder, name, limit)
            act.came_to({state.value: number for state, number in done.counts.items()})
        return done


def check_fingerprint(wanted: Candidate, fingerprint: str) -> None:
    """See that a key is the one that the other side means. Raises RefusedArgument, and KeyFault if it is not."""
    said = fingerprint.strip()
    if not FINGERPRINT.fullmatch(said):
        raise RefusedArgument(
            "fingerprint: expected SHA256: and 43 characters, as `exchange keys list` shows it on the other side,"
            f" found {printable(repr(fingerprint), 80)}; nothing was done"
        )
    wanted.check(said)


def in_use(key: KeyFile) -> str:
    """Say in a word what a key is used for."""
    from exchange.database.engine import now

    if key.trusted:
        return "trusted" if key.terms.in_force(now()) else "out of its time"
    return "signs" if key.signs else "retired"
