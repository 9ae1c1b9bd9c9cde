"""Roles, the least one that each act needs, and the person who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Role(StrEnum):
    """What a person may do: each role may do what those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"

    def may(self, needed: Role) -> bool:
        """Tell whether whoever has this role may do what needs another one."""
        return _ORDER.index(self) >= _ORDER.index(needed)


_ORDER = tuple(Role)


class Via(StrEnum):
    """By what a person was recognised."""

    PASSWORD = "password"  # noqa: S105 - a word, not a secret
    TOKEN = "token"  # noqa: S105 - a word, not a secret
    PROXY = "proxy"
    SYSTEM = "system"
    """The operating system's user, on the command line."""


@dataclass(frozen=True)
class Person:
    """Whoever asks: by the name that the audit has, by what that is known, and from where."""

    name: str
    role: Role
    sees_sensitive: bool = False
    via: Via = Via.PASSWORD
    address: str = ""
    behind: str = ""
    """Of a token who made it: the two are one person where a second one is needed."""


class Forbidden(Exception):  # noqa: N818 - an answer to a person
    """Whoever asks may not do it; the text is one sentence, and nothing was done."""


_VIEWER, _OPERATOR, _ADMINISTRATOR = Role
LEAST_ROLE: Final[Mapping[str, Role]] = {
    **dict.fromkeys(("sign_in", "sign_out", "reveal"), _VIEWER),
    **dict.fromkeys(
        (
            *("export", "import", "replay_batch", "verify_batch", "resend", "resync", "reconcile"),
            *("retry_dead_letter", "pause_retry", "resume_retry", "cancel_retry", "work_retries"),
            *("discard_dead_letter", "restore_dead_letter", "edit_dead_letter"),
            *("select_dead_letters", "unselect_dead_letters", "export_dead_letters", "import_dead_letters"),
            *("pause_channel", "resume_channel", "silence_alarm", "unsilence_alarm", "test_alarms"),
            *("discard_pending", "move_pending", "discard_quarantined", "clear_strangers", "free_row"),
            *("prune", "backup", "answer_requests", "extract", "cancel_file", "intake", "load_files"),
            *("propose", "confirm_proposal", "withdraw_proposal"),
        ),
        _OPERATOR,
    ),
    **dict.fromkeys(
        (
            *("release_batch", "release_quarantined", "reject_batch", "accept_gap", "let_in_versions"),
            *("new_epoch", "adopt_epoch", "refuse_epoch", "trust_key", "untrust_key", "accept_schema"),
            *("forget", "restore", "reload", "migrate"),
            *("add_user", "change_user", "disable_user", "enable_user", "remove_user", "end_sessions"),
            *("add_token", "revoke_token"),
            *("set_requester_password", "revoke_requester", "rotate_token_key"),
            *("add_api_key", "rotate_api_key", "revoke_api_key"),
        ),
        _ADMINISTRATOR,
    ),
}
"""The least role for each act, under the name that the audit has for it; any other one needs an administrator.

To propose, to confirm and to withdraw needs what the act itself needs, too. What a person merely looks at needs a
viewer; to reveal or extract what is sensitive needs ``sees_sensitive`` beside any role.
"""


def least_role(action: str, arguments: Mapping[str, Any] | None = None) -> Role:
    """Say which role an act needs: one that nobody thought of an administrator's."""
    return LEAST_ROLE.get(meant(action, arguments or {}), _ADMINISTRATOR)


def meant(action: str, arguments: Mapping[str, Any]) -> str:
    """Give the act that is meant: an import that lets in what is held is a release."""
    return "release_batch" if action == "import" and arguments.get("release") else action


def refuse(person: Person, action: str, arguments: Mapping[str, Any] | None = None) -> None:
    """See that a person may do it. Raises Forbidden."""
    needed = least_role(action, arguments)
    if not person.role.may(needed):
        said = f"{needed} or {_ADMINISTRATOR}" if needed is _OPERATOR else str(needed)
        raise Forbidden(
            f"{action} needs the role {said}, and {person.name} is {_article(person.role)}; nothing was done"
        )
    if action.startswith("reveal") or (action == "extract" and (arguments or {}).get("sensitive")):
        refuse_sensitive(person)


def refuse_role(person: Person, needed: Role) -> None:
    """See that a person has a role, or one that may do more. Raises Forbidden."""
    if not person.role.may(needed):
        raise Forbidden(f"this needs the role {needed}, and {person.name} is {_article(person.role)}")


def refuse_sensitive(person: Person) -> None:
    """See that a person may look at what is sensitive. Raises Forbidden."""
    if not person.sees_sensitive:
        raise Forbidden(
            f"{person.name} may not see what is sensitive; an administrator allows it by"
            f" `exchange users change NAME --sees-sensitive`"
        )


def _article(role: Role) -> str:
    return f"a {role}" if role is Role.VIEWER else f"an {role}"
