"""`forget` on the command line: what it shows, what it asks for, and what the audit has of it."""

from __future__ import annotations

from tests.cli.conftest import Pair


def test_forget_reports_then_erases_and_the_audit_does_not_have_the_key(seeded: Pair) -> None:
    side = seeded.response
    side.execute('DELETE FROM "user" WHERE id = 1')
    found = side.do("forget", "user", "1", "--json").line
    assert found.keys() == {"stream", "erased", "row", "places"}
    assert (found["stream"], found["erased"], found["row"]) == ("user", False, False)
    assert {(one["place"], one["found"]) for one in found["places"]} == {
        ("sealed", "upsert"),
        ("outgoing", "upsert"),
        ("pending change", "its key"),
    }
    heading, *rows = side.do("forget", "user", '{"id": 1}').out.splitlines()
    assert heading.split("\t") == ["place", "name", "found", "what can be done"]
    assert len(rows) == 3
    assert "forget" not in {one["action"] for one in side.do("audit", "--json").lines}

    done = side.do("forget", "user", "1", "--erase", "--reason", "asked for in letter 12", "--as", "ada", "--json").line
    assert done["erased"]
    assert [one["place"] for one in done["places"] if one["kept"]] == ["pending change"]
    row = side.do("audit", "--limit", "1", "--json").line
    assert (row["who"], row["action"], row["why"]) == ("ada", "forget", "asked for in letter 12")
    assert row["arguments"] == {"stream": "user", "erase": True}
    assert row["result"]["erased"] == {"sealed": 1, "outgoing": 1}
    assert row["result"]["kept"] == {"pending change": 1}

    (batch,) = side.do("batches", "--json").lines
    assert batch["erased_at"]
    assert "\tpublished, erased\t" in side.do("batches").out
    assert batch["batch"] in row["result"]["batches"]
    shown = side.do("batches", "show", batch["batch"]).out
    assert "its bytes were erased by hand" in shown
    # It can't go out once more, and the exit code says so.
    lost = side.run("resend", "directory", "1", "--json")
    assert lost.code == 1
    resent = lost.line
    assert "a snapshot of the channel goes in its place" in resent["message"]


def test_forget_asks_for_a_reason_and_knows_its_streams(seeded: Pair) -> None:
    side = seeded.request
    said = side.refused("forget", "user", "1", "--erase", code=2)
    assert said == "--erase: expected a --reason for the audit, found none; nothing was done"
    assert "stream: expected one of " in side.refused("forget", "users", "1", code=1)
    assert side.refused("forget", "user", "1", code=0) == "no place has anything of this row of user"
