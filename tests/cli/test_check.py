"""``exchange check``: what it prints, and how it ends."""

from __future__ import annotations

from tests.cli.conftest import Pair


def test_check_ends_with_0_3_1_or_2_and_says_what_comes_next(seeded: Pair) -> None:
    side, peer = seeded.response, seeded.request
    first = side.run("check", "--json")
    warned = {line["check"]: line["command"] for line in first.lines if line["level"] == "warning"}
    assert (first.code, warned) == (3, {"agreement": "exchange reconcile"})
    for one, other in ((side, peer), (peer, side)):  # each sends what the other compares
        one.do("reconcile")
        one.do("export")
        seeded.carry()
        other.do("import")
    assert side.do("check", "--deep").out.splitlines()[-1].startswith("faults: 0, warnings: 0")

    (data,) = (side.home / "sealed").glob("directory-*1.jsonl*")
    data.write_bytes(b"something else")
    assert side.run("check").code == 0
    deep = side.run("check", "--deep", COLUMNS="80")
    stem = data.name.partition(".")[0]
    assert deep.code == 1
    assert f"1 batches in sealed or archive are not what was written there; such as {stem}" in " ".join(
        deep.out.split()
    )
    assert side.run("check", "--deeper").code == 2
