"""Which role each act needs: every action that the audit knows has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exchange.people.roles import LEAST_ROLE, Forbidden, Person, Role, refuse

PACKAGE = Path(__file__).parents[2] / "exchange"
_WRITTEN = re.compile(r'(?:by_hand\(\s*site|\bact\(\s*site|_act\(\s*site|audited\(\s*engine),\s*"([a-z_]+)"')
_TASK = re.compile(r'@_task\("exchange\.([a-z_]+)"\)')


def actions() -> set[str]:
    """Give the actions that commands, programs and tasks write to the audit."""
    return {
        name for path in PACKAGE.rglob("*.py") for form in (_WRITTEN, _TASK) for name in form.findall(path.read_text())
    }


def test_every_act_that_the_audit_knows_has_its_least_role() -> None:
    assert {"export", "release_batch", "sign_in"} <= actions()
    assert actions() - LEAST_ROLE.keys() == set()


@pytest.mark.parametrize("role", Role)
def test_a_role_may_do_what_those_below_it_may_and_nothing_else(role: Role) -> None:
    person = Person("alice", role, sees_sensitive=True)
    for action, needed in LEAST_ROLE.items():
        if list(Role).index(role) >= list(Role).index(needed):
            refuse(person, action)
        else:
            with pytest.raises(Forbidden, match=f"{action} needs the role .*{needed}"):
                refuse(person, action)


def test_an_act_that_nobody_thought_of_and_an_import_that_releases_need_an_administrator() -> None:
    operator = Person("bob", Role.OPERATOR)
    refuse(operator, "import", {"channel": "requests"})
    for action, arguments in (("import", {"batch": "x", "release": True}), ("explode", {})):
        with pytest.raises(Forbidden, match="needs the role administrator, and bob is an operator"):
            refuse(operator, action, arguments)
