"""Have running processes read the settings anew."""

from __future__ import annotations

from exchange.cli import output
from exchange.cli.audited import As, Reason, open_exchange
from exchange.cli.output import Json
from exchange.cli.runtime import fail


def reload(who: As = None, reason: Reason = None, as_json: Json = False) -> None:
    """Have running processes read the settings anew.

    They are checked first: what is wrong is said, and nothing is asked. Each process of this home answers what it took
    and what needs a restart. Exit code 1 if one refuses them or does not answer.
    """
    from exchange.operating.reloading import TAKEN

    with open_exchange() as exchange:
        answers = exchange.reload(who=who, reason=reason)
    for one in answers:
        if as_json:
            output.emit(one.as_dict())
            continue
        said = ", ".join(one.changed) or "nothing changed"
        output.tell(f"{one.process} (process {one.pid} on {one.host}): {said if one.state == TAKEN else one.state}")
        for fault in one.faults:
            output.warn(fault)
        if one.restart:
            output.warn(f"{one.process}: restart it for {', '.join(one.restart)}")
    if not answers:
        output.say("no process of this home runs; each reads the settings as it starts")
    if any(one.state != TAKEN for one in answers):
        fail()
