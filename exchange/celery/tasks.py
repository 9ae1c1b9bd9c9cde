"""The tasks of the exchange's own application; ``work`` says what each does."""

from __future__ import annotations

from exchange.celery.calls import REFUSED
from exchange.celery.own_app import app
from exchange.celery.work import make_task

export = make_task(app, "exchange.export")
import_ = make_task(app, "exchange.import")
extract = make_task(app, "exchange.extract")
retry_dead_letter = make_task(app, "exchange.retry_dead_letter")
work_retries = make_task(app, "exchange.work_retries")
pause_retry = make_task(app, "exchange.pause_retry")
resume_retry = make_task(app, "exchange.resume_retry")
cancel_retry = make_task(app, "exchange.cancel_retry")
cancel_file = make_task(app, "exchange.cancel_file")
discard_dead_letter = make_task(app, "exchange.discard_dead_letter")
restore_dead_letter = make_task(app, "exchange.restore_dead_letter")
replay_batch = make_task(app, "exchange.replay_batch")
release_batch = make_task(app, "exchange.release_batch")
reject_batch = make_task(app, "exchange.reject_batch")
release_quarantined = make_task(app, "exchange.release_quarantined")
discard_quarantined = make_task(app, "exchange.discard_quarantined")
clear_strangers = make_task(app, "exchange.clear_strangers")
let_in_versions = make_task(app, "exchange.let_in_versions")
free_row = make_task(app, "exchange.free_row")
pause_channel = make_task(app, "exchange.pause_channel")
resume_channel = make_task(app, "exchange.resume_channel")
resync = make_task(app, "exchange.resync")
new_epoch = make_task(app, "exchange.new_epoch")
adopt_epoch = make_task(app, "exchange.adopt_epoch")
refuse_epoch = make_task(app, "exchange.refuse_epoch")
accept_gap = make_task(app, "exchange.accept_gap")
resend = make_task(app, "exchange.resend")
discard_pending = make_task(app, "exchange.discard_pending")
move_pending = make_task(app, "exchange.move_pending")
silence_alarm = make_task(app, "exchange.silence_alarm")
unsilence_alarm = make_task(app, "exchange.unsilence_alarm")
test_alarms = make_task(app, "exchange.test_alarms")
prune = make_task(app, "exchange.prune")
reconcile = make_task(app, "exchange.reconcile")
answer_requests = make_task(app, "exchange.answer_requests")
refused_call = make_task(app, REFUSED)
