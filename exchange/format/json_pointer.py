"""JSON pointers (RFC 6901): places in a JSON value, as text."""

from __future__ import annotations


def join(*steps: str | int) -> str:
    """Write the pointer of so many steps from the whole value, which is ``""``."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def split(pointer: str) -> list[str]:
    """Give the steps of a pointer. What stands before its first ``/`` is left out: there should be nothing."""
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
