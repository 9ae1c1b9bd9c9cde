"""Replay: bring kept batches back and let the importer judge them anew, with nothing skipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from exchange.database.errors import transient_errors
from exchange.database.locks import Busy
from exchange.files.batch_files import BatchFiles
from exchange.format.errors import TransientError, Verdict, printable
from exchange.format.names import BatchName
from exchange.incoming import importer
from exchange.results import Imported
from exchange.site import Site


@dataclass(frozen=True)
class Replayed:
    """What became of a range: ``missing`` of its sequences are not kept, ``left`` batches were not touched.

    ``untold`` says why the other side could not be told of it yet.
    """

    batches: tuple[Imported, ...]
    missing: int = 0
    left: int = 0
    untold: str | None = None

    @property
    def busy(self) -> tuple[Busy, ...]:
        """Who was at work on what was therefore left alone."""
        return tuple(one.busy for one in self.batches if one.busy)

    @property
    def trouble(self) -> str | None:
        """Say what was not done, if anything."""
        said = []
        if self.missing:
            said.append(f"{self.missing} of the range are not kept here, so nothing could be done about them")
        if self.left:
            said.append(f"{self.left} behind {self.batches[-1].batch} were left as they are; mend that one first")
        return "; ".join(said) or None

    def as_dict(self) -> dict[str, Any]:
        """Give the fields that scripts rely on."""
        return {
            "batches": [one.as_dict() for one in self.batches],
            "missing": self.missing,
            "left": self.left,
            "trouble": self.trouble,
        }


def replay_batches(
    site: Site,
    stem: str,
    through: int | None = None,
    stopping: Callable[[], bool] = importer.never,
    *,
    release: bool = True,
) -> Replayed:
    """Apply an archived, held or quarantined batch again: a no-op if it is applied, every check if it is not.

    With ``through`` also those behind it in its channel and epoch up to that sequence, in order, ending behind the
    first that is neither applied nor a duplicate: those after it would only wait. A person asks for this, so a batch
    held for its deletes is let through, unless they may not do that: then ``release`` is false. ``stopping`` is asked
    between batches. Raises TransientError if none is kept. Commits batch by batch, as an import does.
    """
    site.spool.prepare()
    if through is not None:
        return _run_through(site, BatchName.parse(stem), through, stopping, release=release)
    kept = site.spool.find(stem)
    if kept is None:
        msg = (
            f"no batch {printable(stem)} is kept in work, incoming, quarantine or archive; nothing was done;"
            " `exchange batches` lists those there are"
        )
        raise TransientError(msg)
    return Replayed((import_again(site, kept, release=release),))


def _run_through(site: Site, first: BatchName, last: int, stopping: Callable[[], bool], *, release: bool) -> Replayed:
    if last < first.sequence:
        msg = f"the range from {first.sequence} through {last} is empty; nothing was done"
        raise TransientError(msg)
    kept = site.spool.find_range(first, last)
    if not kept:
        msg = (
            f"no batch of {first.channel} from {first.sequence} through {last} of epoch {first.epoch} is kept in work,"
            " incoming, quarantine or archive; nothing was done; `exchange batches` lists those there are"
        )
        raise TransientError(msg)
    done: list[Imported] = []
    for sequence in sorted(kept):
        if stopping():
            break
        done.append(import_again(site, kept[sequence], release=release))
        if done[-1].verdict not in {Verdict.APPLIED, Verdict.DUPLICATE}:
            break
    return Replayed(tuple(done), missing=last - first.sequence + 1 - len(kept), left=len(kept) - len(done))


def import_again(site: Site, kept: BatchFiles, *, release: bool) -> Imported:
    """Bring one back and judge it anew; from quarantine it goes back there if somebody else is at work.

    ``release`` is a person's word that it may delete as many rows as it names. Raises TransientError. Commits as an
    import does, under the channel's lock.
    """
    sentence = site.spool.reason(kept)
    with transient_errors():
        back = site.spool.bring_back(kept)
    done = importer.import_batches(site, stem=back.stem, release=release)
    for outcome in done.batches:
        if outcome.batch == back.stem:
            if outcome.busy and kept.folder == site.spool.folders.quarantine:
                site.spool.quarantine(back, sentence)
            return outcome
    raise TransientError(done.trouble or f"batch {back.stem} went away while it was brought back; run again")
