from datetime import UTC, datetime, timedelta, timezone

import pytest

from exchange.format.moments import from_rfc3339, in_table, in_words, to_rfc3339

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
THERE = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))


@pytest.mark.parametrize("moment", [NOON, THERE])
def test_a_moment_has_one_text_wherever_it_was_taken(moment: datetime) -> None:
    assert to_rfc3339(moment) == "2026-01-31T12:00:00.000000Z"
    assert in_words(moment) == "2026-01-31 12:00:00 UTC"
    assert in_table(moment) == "2026-01-31 12:00:00Z"


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00Z", "2026-01-31T17:30:00.000000+05:30"])
def test_any_spelling_is_read_as_the_same_moment(text: str) -> None:
    assert from_rfc3339(text) == NOON


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00", "noon", "", None, 5, "0001-01-01T00:00:00+05:30"])
def test_what_is_no_moment_with_a_zone_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="an RFC 3339 date-time"):
        from_rfc3339(text)
