"""Lists of epochs that were left: what was written is read, and nothing that somebody wrote into one does any harm."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchange.format.lineage import MOST_KNOWN, MOST_NAMED, LeftEpoch, left_by, members
from exchange.format.manifest import MAX_MANIFEST_BYTES, Manifest
from tests.format.conftest import Seal

EPOCHS = st.integers(0, 2**48 - 1).map("{:012x}".format)
DIGESTS = st.integers(0, 2**256 - 1).map("{:064x}".format)
KNOWN = st.builds(LeftEpoch, EPOCHS, st.integers(1, 9_999_999_999), DIGESTS) | EPOCHS.map(LeftEpoch)
ODD: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20).filter(lambda text: "\0" not in text)
    | EPOCHS
    | DIGESTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["epoch", "sequence", "digest", "else"]), inner, max_size=4)
    ),
    max_leaves=12,
)
QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(left=st.lists(KNOWN, max_size=MOST_NAMED + 5, unique_by=lambda one: one.epoch))
def test_what_is_listed_is_read_in_its_order_and_no_more_of_it(seal: Seal, left: list[LeftEpoch]) -> None:
    left = [one for one in left if one.epoch != seal().manifest.epoch]
    line = seal().saying(extra=members(left)).manifest.encode()
    read = left_by(Manifest.parse(line))
    assert len(line) < MAX_MANIFEST_BYTES / 4
    assert list(read.values())[:MOST_KNOWN] == left[:MOST_KNOWN]
    assert list(read) == [one.epoch for one in left[:MOST_NAMED]]


@QUICK
@given(said=st.fixed_dictionaries({}, optional={"left": ODD | st.lists(ODD), "left_epochs": ODD | st.lists(ODD)}))
def test_whatever_is_said_is_read_as_epochs_or_not_at_all(seal: Seal, said: dict[str, Any]) -> None:
    manifest = Manifest.parse(seal().saying(extra=said).manifest.encode())
    read = left_by(manifest)
    assert len(read) <= MOST_KNOWN + MOST_NAMED
    assert manifest.epoch not in read
    for name, one in read.items():
        assert (len(name), one.epoch, one.sequence >= 0) == (12, name, True)
        assert (one.digest is None) == (one.sequence == 0)
