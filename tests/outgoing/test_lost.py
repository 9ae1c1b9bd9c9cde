"""A batch that was sealed and whose files are gone, or can't be read, stops nothing but what is its own."""

from __future__ import annotations

import sqlalchemy as sa

from exchange.database.tables import BatchState, batch
from exchange.format.errors import Reason
from exchange.outgoing import control_batch
from tests.crossing import shop
from tests.crossing.sides import Link
from tests.crossing.unprivileged import as_a_user


def test_what_is_sealed_and_gone_is_said_once_and_its_rows_go_with_a_snapshot(small: Link) -> None:
    one, other = small.one, small.other
    small.round()
    one.execute(sa.insert(shop.account), [{"id": 1, "name": "n"}])
    one.seal(one.site.outgoing()[0])
    sealed = one.site.spool.folders.sealed
    for path in sealed.glob("forth-*"):
        path.unlink()
    one.execute(sa.insert(shop.account), [{"id": 2, "name": "n"}])
    run = one.export()
    assert run.trouble is None
    (said,) = run.faults
    assert "is gone; a snapshot of the channel goes in the batch's place" in said
    assert one.export().faults == ()
    columns = (batch.c.state, batch.c.reason)
    first = one.all(sa.select(*columns).where(batch.c.channel == "forth").order_by(batch.c.id))[0]
    assert tuple(first) == (BatchState.REJECTED, Reason.LOST)
    for _ in range(2):
        control_batch.publish_control_batch(one.site)  # tells what is lost
        small.round()
    assert [row["id"] for row in other.rows(shop.account)] == [1, 2]


def test_a_sealed_file_that_this_user_may_not_read_holds_up_its_own_channel_alone(small: Link) -> None:
    one = small.one
    small.round()
    assert control_batch._seal(one.site) is not None
    (barred,) = one.site.spool.folders.sealed.glob("control-*.zst")
    barred.chmod(0)

    def work() -> None:
        one.execute(sa.insert(shop.account), [{"id": 1, "name": "n"}])
        run = one.export()
        assert barred.name in (run.trouble or "")
        assert [batch.channel for batch in run.batches] == ["forth"]

    as_a_user(work, one)
    barred.chmod(0o600)
    assert one.export().trouble is None
