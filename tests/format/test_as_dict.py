from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from exchange.format.as_dict import AsDict


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    pair: tuple[int, int]


@dataclass(frozen=True)
class Own:
    def as_dict(self) -> dict[str, int]:
        return {"own": 1}


@dataclass(frozen=True)
class Outer(AsDict):
    last: Colour
    at: datetime
    day: date
    inner: tuple[Inner, ...]
    own: Own
    counts: dict[str, int | None]
    nothing: None = None


def test_fields_come_in_their_order_as_json_has_them() -> None:
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    found = Outer(Colour.RED, moment, moment.date(), (Inner((1, 2)),), Own(), {"a": None}).as_dict()

    assert list(found) == ["last", "at", "day", "inner", "own", "counts", "nothing"]
    assert found == {
        "last": "red",
        "at": "2026-01-31T12:00:00+00:00",
        "day": "2026-01-31",
        "inner": [{"pair": [1, 2]}],
        "own": {"own": 1},
        "counts": {"a": None},
        "nothing": None,
    }
    assert type(found["last"]) is str
