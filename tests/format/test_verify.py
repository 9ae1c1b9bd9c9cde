from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from exchange.format.batch import ReadLimits
from exchange.format.errors import Reason
from exchange.format.manifest import OpCounts, join_manifest
from exchange.format.names import BatchName
from exchange.format.signing import SigningKey, TrustedKeys
from exchange.format.verify import Report, judge

if TYPE_CHECKING:
    from tests.format.conftest import Seal, Sealed


def judged(sealed: Sealed, **changes: Any) -> Report:
    return judge(
        **{
            "manifest_content": sealed.content,
            "data": sealed.open(),
            "trusted": sealed.trusted,
            "name": sealed.manifest.name,
            **changes,
        }
    )


def outcome(report: Report) -> dict[str, bool | None]:
    return {check.name: check.ok for check in report.checks}


def test_a_good_batch_passes_every_check(seal: Seal) -> None:
    sealed = seal()
    report = judged(sealed)
    assert report.ok
    assert report.manifest == sealed.manifest
    assert (report.records, report.invalid) == (4, 0)
    assert outcome(report) == {
        "manifest file": True,
        "signature": True,
        "claim": True,
        "file name": True,
        "data file": True,
        "content": True,
        "records": True,
    }


def test_what_there_is_nothing_to_compare_with_is_said_to_be_unchecked(seal: Seal) -> None:
    report = judged(seal(), trusted=None, name=None)
    assert report.ok
    assert outcome(report)["signature"] is None
    assert outcome(report)["file name"] is None


def test_a_later_publication_is_the_same_batch(seal: Seal) -> None:
    sealed = seal()
    place = sealed.manifest.name
    assert judged(sealed, name=BatchName(place.channel, place.epoch, place.sequence, 3)).ok


@pytest.mark.parametrize(
    "changes,reason,last",
    [
        ({"manifest_content": b""}, Reason.INCOMPLETE, "manifest file"),
        ({"manifest_content": b"{}\n{}\n{}\n"}, Reason.CORRUPT, "manifest file"),
        ({"manifest_content": b"{}\n"}, Reason.UNTRUSTED, "signature"),
        ({"manifest_content": b"{}\n{}\n"}, Reason.UNTRUSTED, "manifest file"),
        ({"manifest_content": b"{}\n", "trusted": None}, Reason.CORRUPT, "claim"),
        ({"manifest_content": b'{"format":"later"}\n', "trusted": None}, Reason.UNSUPPORTED, "claim"),
        ({"trusted": TrustedKeys({})}, Reason.UNTRUSTED, "signature"),
        ({"data": None}, Reason.INCOMPLETE, "data file"),
        ({"limits": ReadLimits(max_records=3)}, Reason.LIMITS, "content"),
        ({"limits": ReadLimits(max_record_bytes=20)}, None, "records"),
    ],
)
def test_the_first_thing_that_is_wrong_ends_the_verification(
    seal: Seal, changes: dict[str, Any], reason: Reason | None, last: str
) -> None:
    report = judged(seal(), **changes)
    assert report.reason is reason
    assert (report.checks[-1].name, report.checks[-1].ok) == (last, False)
    assert report.checks[-1].detail


@pytest.mark.parametrize("damage", ["cut", "changed", "longer"])
def test_a_damaged_data_file_is_reported(seal: Seal, damage: str) -> None:
    sealed = seal()
    data = sealed.open()
    if damage == "cut":
        data.truncate(20)
    elif damage == "changed":
        data.getbuffer()[20] ^= 1
    else:
        data.seek(0, 2)
        data.write(b"x")
        data.seek(0)
    report = judged(sealed, data=data)
    assert report.reason is (Reason.INCOMPLETE if damage == "cut" else Reason.CORRUPT)
    assert report.checks[-1].name == "data file"


def test_an_unsigned_batch_is_untrusted(seal: Seal) -> None:
    sealed = seal()
    unsigned = join_manifest(sealed.manifest.encode(), None)
    assert judged(sealed, manifest_content=unsigned).reason is Reason.UNTRUSTED
    assert judged(sealed, manifest_content=unsigned, trusted=None).ok


def test_a_signature_by_a_key_of_the_same_name_is_untrusted(seal: Seal) -> None:
    sealed = seal()
    stranger = SigningKey.generate(sealed.key.name)
    trusted = TrustedKeys.from_pems({stranger.name: stranger.public_pem()})
    assert judged(sealed, trusted=trusted).reason is Reason.UNTRUSTED


def test_counts_that_the_records_exceed_are_corrupt(seal: Seal) -> None:
    report = judged(seal().saying(records={"request": OpCounts(2, 2)}))
    assert (report.reason, report.checks[-1].name) == (Reason.CORRUPT, "content")


def test_lines_that_are_no_records_are_counted_and_the_first_is_named(seal: Seal) -> None:
    good = b'{"stream":"request","op":"upsert","version":1,"data":{}}\n'
    report = judged(seal(good + b"not json\n" + good + good.replace(b"request", b"\\u001b[2J"), counts=OpCounts(4)))
    assert report.ok
    assert (report.records, report.invalid) == (4, 2)
    last = report.checks[-1]
    assert (last.name, last.ok) == ("records", False)
    assert "line 2" in last.detail


def test_a_stream_that_the_manifest_does_not_list_makes_no_record(seal: Seal) -> None:
    line = b'{"stream":"\\u001b[2J","op":"upsert","version":1,"data":{}}\n'
    report = judged(seal(line, counts=OpCounts(1)))
    assert (report.ok, report.invalid) == (True, 1)
    assert report.checks[-1].detail.isprintable()
