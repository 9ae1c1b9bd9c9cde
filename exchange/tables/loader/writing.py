"""How rows that come are written into their table: as their sender's, by version, or as the application's own."""

from __future__ import annotations

from enum import Enum, auto


class Writing(Enum):
    """What a row does to one of its key that is there.

    Own rows are those that this side writes: capture sees them, they have no version, and nothing is known of deletes.
    """

    RECEIVED = auto()
    """It takes the place of an older version; a newer one stays as it is."""
    INSERT = auto()
    """Nothing: the row is refused. Of rows of one key that come the first stays."""
    UPSERT = auto()
    """It changes the columns that came. Of rows of one key that come the last counts."""
    REPLACE = auto()
    """The same, and rows of no key that came are deleted."""

    @property
    def is_own(self) -> bool:
        """Whether rows are the application's own."""
        return self is not Writing.RECEIVED

    @property
    def takes_last(self) -> bool:
        """Whether the last row of a key counts, by its line."""
        return self in {Writing.UPSERT, Writing.REPLACE}
