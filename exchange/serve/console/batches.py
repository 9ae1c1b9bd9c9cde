"""Batches: the ledger as people search it, one batch with all that is known of it, and what can be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from starlette.responses import Response

from exchange.api.batches import BatchFilters
from exchange.channels.channel import known_names
from exchange.database.states import WORRYING
from exchange.database.tables import BatchState, Direction
from exchange.format.errors import Reason, TransientError
from exchange.format.manifest import FORMAT
from exchange.format.moments import from_rfc3339, lasting
from exchange.format.names import CONTROL
from exchange.incoming.judge import in_two
from exchange.operating.batch_view import BatchView
from exchange.people.roles import refuse_sensitive
from exchange.results import Imported
from exchange.serve.console.visit import Visit, act, look

RECORDS = 20
"""So many of a batch's first records are shown, and of its bad ones."""
TRIED = 100
"""So many bad records are listed of a batch that is tried."""

TENTHS = 10
"""Below so many seconds tenths of them are said."""

_KEPT_IN = {"archive": "the archive", "strangers": "quarantine, among what nobody vouches for"}


def batches(visit: Visit) -> Response:
    """List what became of batches, newest first, by the filters of the address."""
    filters = BatchFilters(
        channel=visit.asked("channel") or None,
        direction=visit.one_of("direction", Direction),
        state=visit.one_of("state", BatchState),
        since=visit.moment("since"),
        until=visit.moment("until"),
        stem=visit.asked("stem") or None,
        trace=visit.asked("trace") or None,
        reason=visit.one_of("reason", Reason),
        key=visit.asked("key") or None,
    )
    after = visit.number("after")
    page = visit.exchange.batches.list(filters, after=after)
    site = visit.exchange.site
    return visit.render(
        "batches.html",
        page=page,
        after=after,
        channels=[*known_names([*site.outgoing(), *site.incoming()]), CONTROL],
        states=list(BatchState),
        directions=list(Direction),
        worrying=WORRYING,
        in_two=in_two,
        every=0 if after else 5,
    )


def batch(visit: Visit) -> Response:
    """Show one batch."""
    return _shown(visit, visit.exchange.batches.show(_stem(visit), records=RECORDS, bad=RECORDS))


def reveal(visit: Visit) -> Response:
    """Show it with what is sensitive, to whoever may see that; the audit has who looked, and why."""
    refuse_sensitive(visit.person)
    why = visit.required_reason
    found = visit.exchange.batches.show(_stem(visit), records=RECORDS, bad=RECORDS, reveal=True, reason=why)
    return _shown(visit, found, revealed=True)


def verify(visit: Visit) -> Response:
    """Verify its files again, from the first byte to the last, and show what every check says."""
    stem = _stem(visit)
    verified = visit.exchange.batches.verify(stem)
    return _shown(visit, visit.exchange.batches.show(stem, records=RECORDS, bad=RECORDS), verified=verified)


def trial(visit: Visit) -> Response:
    """Show what would become of a refused batch if its bad records were parked: it is applied so, and rolled back."""
    found = visit.exchange.batches.trial(_stem(visit), limit=TRIED)
    return visit.render("trial.html", found=found, stem=_stem(visit), bad=found.trial.bad if found.trial else ())


def release(visit: Visit) -> Response:
    """Let in one that is held, or one that was refused with its bad records parked."""
    park = bool(visit.form.get("park"))
    done = visit.exchange.batches.release(_stem(visit), park=park, reason=visit.required_reason)
    return imported(visit, done.outcome, done.untold, to=f"/batches/{_stem(visit)}")


def replay(visit: Visit) -> Response:
    """Judge a kept batch anew; one that is applied stays as it is, and what is to be held is let in by ``release``."""
    done = visit.exchange.replay(_stem(visit), release=False, reason=visit.reason)
    return imported(visit, done.batches[0], done.untold, to=f"/batches/{_stem(visit)}")


def reject(visit: Visit) -> Response:
    """Give one up, so that its sender is told."""
    stem = _stem(visit)
    done = visit.exchange.batches.reject(stem, visit.required_reason)
    said = f"batch {stem} is rejected; its files are in the archive until their retention ends"
    return visit.back(f"{said}; {done.untold}" if done.untold else f"{said}; its sender is told", to=f"/batches/{stem}")


def resend(visit: Visit) -> Response:
    """Publish one of ours again, the same bytes under the next name."""
    newest = visit.exchange.batches.show(_stem(visit), records=0, bad=0).batch
    if newest.direction is not Direction.OUT:
        raise TransientError(f"batch {newest.batch} came from the other side; nothing was done")
    return resent(visit, visit.exchange.batches.resend(newest.channel, [newest.sequence], reason=visit.reason))


def resent(visit: Visit, done: Any) -> Response:
    """Say what became of batches that were to be sent again."""
    lost = [one for one in done if one.attempt is None]
    said = [f"{one.batch}: {one.message}" for one in (lost or done)[:10]]
    more = [f"and {len(done) - len(said)} more"] if len(done) > len(said) else []
    return visit.back("\n".join([*said, *more]), "warning" if lost else "ok")


def imported(visit: Visit, one: Imported, untold: str | None = None, *, to: str | None = None) -> Response:
    """Say what became of a batch that a person had judged anew."""
    said, level = outcome(one)
    return visit.back("\n".join(filter(None, (said, untold))), level, to=to)


def outcome(one: Imported) -> tuple[str, str]:
    """Give what became of a batch in a sentence, and how well that is."""
    if one.busy:
        return f"nothing was done: {one.busy}", "warning"
    counted = ", ".join(f"{number} {what}" for what, number in one.records.as_dict().items() if number)
    said = f"batch {one.batch}: {one.verdict}" + (f", {counted}" if counted else "")
    parts = [said, *filter(None, (one.message, one.trouble))]
    return "; ".join(parts), "ok" if one.verdict in {"applied", "duplicate"} and not one.trouble else "warning"


@dataclass(frozen=True)
class Step:
    """A step of a batch's way: where it was (``here``, or the peer), when by whose clock, and how long after the last.

    ``at`` is None of what is still to come.
    """

    where: str
    what: str
    at: datetime | None
    level: str = ""
    by: str = ""
    after: str = ""
    """How long after the step before, as both clocks have it."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at before a batch took effect: ``level`` is empty of what is not looked at yet."""

    name: str
    seen: str
    level: str


def _shown(visit: Visit, view: BatchView, **more: Any) -> Response:
    newest = view.batch
    site = visit.exchange.site
    peer = site.peer
    sent = newest.direction is Direction.OUT
    refused = not sent and (newest.state, newest.reason) == (BatchState.QUARANTINED, Reason.REJECTED)
    context: dict[str, Any] = {
        "verified": None,
        "revealed": False,
        "view": view,
        "one": newest,
        "sent": sent,
        "written": from_rfc3339(view.manifest["created_at"]) if view.manifest else None,
        "peer": peer,
        "told": in_two(newest.message) if newest.message else None,
        "level": _LEVELS.get(newest.state, "warning"),
        "steps": way(view, site.network, peer),
        "checks": checks(visit, view),
        "refused": refused,
        "releasable": not sent and newest.state is BatchState.HELD,
        "rejectable": not sent and newest.state in {BatchState.QUARANTINED, BatchState.HELD},
        "replayable": not sent and view.lies_in is not None and newest.channel != CONTROL,
        "resendable": sent and newest.state in _SENT and newest.channel != CONTROL,
        "kept": _KEPT_IN.get(view.lies_in or "", view.lies_in),
    }
    return visit.render("batch.html", **(context | more))


_SENT = frozenset({BatchState.PUBLISHED, BatchState.ACKNOWLEDGED, BatchState.REJECTED})
_LEVELS = {
    BatchState.APPLIED: "ok",
    BatchState.ACKNOWLEDGED: "ok",
    BatchState.SEALED: "ok",
    BatchState.PUBLISHED: "ok",
    BatchState.DISCARDED: "warning",
    BatchState.QUARANTINED: "fault",
    BatchState.REJECTED: "fault",
}


def way(view: BatchView, network: str, peer: str) -> list[Step]:
    """Give a batch's way in the order of time on either side, and what is to come."""
    steps: list[Step] = []
    claim, one = view.manifest, view.batch
    sent = one.direction is Direction.OUT
    written = from_rfc3339(claim["created_at"]) if claim else None
    if written is not None:
        what = "its changes were claimed and written" if sent else "written and sealed, by its manifest"
        steps.append(Step(network if sent else peer, what, written))
    for event in view.history:
        level = _LEVELS.get(BatchState(event.to_state), "warning")
        came = "came, was verified, and is " if not sent and event.from_state is None else ""
        why = in_two(event.cause).message
        what = why if why.startswith(event.to_state) else f"{event.to_state}: {why}"
        steps.append(Step(network, f"{came}{what}", event.at, level, event.who))
    steps = _timed(steps)
    if sent:
        steps.append(_there(view, peer))
    elif one.state in {BatchState.WAITING, BatchState.HELD}:
        steps.append(Step(network, "still to come: applied", None))
    return steps


def _timed(steps: list[Step]) -> list[Step]:
    before: datetime | None = None
    timed = []
    for step in steps:
        after = "" if before is None or step.at is None else _later((step.at - before).total_seconds())
        timed.append(replace(step, after=after))
        before = step.at
    return timed


def _later(seconds: float) -> str:
    """Say how much later something was; two clocks may have it the other way round."""
    length = f"{abs(seconds):.1f} s" if abs(seconds) < TENTHS else lasting(timedelta(seconds=abs(seconds)))
    return f"{length} later" if seconds >= 0 else f"{length} earlier, by clocks that differ"


def _there(view: BatchView, peer: str) -> Step:
    """Say what the peer's last receipt says of a batch that was sent, which has no time of its own for each."""
    there = view.there
    if there is None or there.said == "nothing":
        return Step(peer, f"{peer} has not said yet that it has it", None)
    words = {
        "applied": f"applied, {peer} says",
        "missing": f"{peer} says that it misses it; it is sent again by itself",
        "refused": f"{peer} refused it ({there.reason}): {there.message}",
        "given up": f"{peer} goes on without it",
    }
    level = {"applied": "ok", "refused": "fault"}.get(there.said, "warning")
    return Step(peer, f"{words[there.said]} (its last receipt, heard here)", there.heard_at, level)


def checks(visit: Visit, view: BatchView) -> list[Check]:
    """Say what was checked of a batch that came before it took effect, by what the ledger has of its manifest."""
    claim, one, site = view.manifest, view.batch, visit.exchange.site
    if claim is None:
        return []
    whole = one.direction is Direction.OUT or one.state is BatchState.APPLIED or one.reason == Reason.REJECTED
    level = "ok" if whole else ""
    records = claim["records"]
    total = sum(sum(counts.values()) for counts in records.values())
    found = [
        Check("Format", FORMAT, "ok"),
        Check("Signature", _signed(view), "ok"),
        Check("Addressee", f"from {claim['source']} to {claim['target']}", "ok"),
        Check("Place", f"{claim['sequence']} of {claim['channel']} in epoch {claim['epoch']}", level),
        Check("Follows", claim["previous"] or "nothing: it is the first of its epoch", level),
        Check("Data file", f"{claim['bytes']} bytes with SHA-256 {claim['sha256']}", level),
        Check("Content", f"{claim['content_bytes']} bytes with SHA-256 {claim['content_sha256']}", level),
        Check("Records", f"so many by stream and kind as there are, {total} in all", level),
    ]
    found += _versions(claim["schemas"], site.channel(one.channel))
    if one.reason == Reason.REJECTED:
        found.append(Check("Values", in_two(one.message or "").message, "fault"))
    return found


def _signed(view: BatchView) -> str:
    if view.batch.direction is Direction.OUT:
        return "by a key of this side"
    return f"by {view.signed_by}, which was trusted" if view.signed_by else "by nobody, which the settings allow"


def _versions(schemas: Mapping[str, int], channel: Any) -> list[Check]:
    """Compare the versions of its streams' schemas with those that are declared here now."""
    here = {} if channel is None else {stream.name: stream.schema_version for stream in channel.streams}
    found = []
    for name, version in schemas.items():
        declared = here.get(name)
        ours = name.startswith("_")
        same = ours or declared == version
        said = "" if same else ", which is not declared here" if declared is None else f"; {declared} is declared here"
        found.append(Check(f"Schema of {name}", f"version {version}{said}", "ok" if same else "warning"))
    return found


def _stem(visit: Visit) -> str:
    return str(visit.request.path_params["stem"])


ROUTES = (
    look("/batches", batches),
    look("/batches/{stem}", batch),
    act("/batches/{stem}/verify", verify, "verify_batch"),
    act("/batches/{stem}/reveal", reveal, "reveal"),
    act("/batches/{stem}/trial", trial, "verify_batch"),
    act("/batches/{stem}/release", release, "release_batch"),
    act("/batches/{stem}/replay", replay, "replay_batch"),
    act("/batches/{stem}/reject", reject, "reject_batch"),
    act("/batches/{stem}/resend", resend, "resend"),
)
