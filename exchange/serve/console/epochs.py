"""Epochs: the lives of this database and of the other side's, and a person's word on one that nothing proves."""

from __future__ import annotations

from starlette.responses import Response

from exchange.serve.console.visit import Visit, act, look


def epochs(visit: Visit) -> Response:
    """Show both sides' epochs, and what waits for a decision."""
    api = visit.exchange.epochs
    return visit.render("epochs.html", known=api.list(), received=api.received(), undecided=api.undecided())


def new(visit: Visit) -> Response:
    """Begin another life of this database."""
    done = visit.exchange.epochs.new(visit.required_reason, visit.form.get("continues", "").strip() or None)
    names = ", ".join(done.channels) or "no channel"
    return visit.back(f"epoch {done.epoch} has begun; the next export sends everything anew: {names}")


def adopt(visit: Visit) -> Response:
    """Take one of the other side's for its newest."""
    done = visit.exchange.epochs.adopt(visit.request.path_params["epoch"], visit.required_reason)
    return visit.back(f"epoch {done.epoch} is the present one of {', '.join(done.channels) or 'no channel yet'}")


def refuse(visit: Visit) -> Response:
    """Take one of the other side's for one that it left."""
    done = visit.exchange.epochs.refuse(visit.request.path_params["epoch"], visit.required_reason)
    return visit.back(f"epoch {done.epoch} was left: the next import quarantines its batches")


ROUTES = (
    look("/epochs", epochs),
    act("/epochs/new", new, "new_epoch"),
    act("/epochs/{epoch}/adopt", adopt, "adopt_epoch"),
    act("/epochs/{epoch}/refuse", refuse, "refuse_epoch"),
)
