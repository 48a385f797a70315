"""Recording of a workload from a log, so that it can be run again under other settings: `record_workload`.

`Recorder` folds records into a `Workload`: when each ticket was added, and its dependencies; what people did to
tickets, and to tubes (pauses, limits); and for each attempt its duration and its end. Effects of settings are omitted,
since a simulation finds them anew: which worker claimed a ticket and when, how long it backed off, that it lapsed. So
are consequences of an end: that a ticket was unblocked, or cancelled because a ticket that blocked it failed. Schedules
are omitted, too: the tickets that they added are added at the recorded times. `kharon.simulate.simulation` runs the
workload; this module is pure.

Assumptions where the log lacks information:

- A lapsed attempt would never have ended, since its full duration was not recorded. It lapses again, with any lease.
- An attempt beyond the recorded ones ends as the last one of that ticket; if there is none, as the last one of its
  type; otherwise it is done at once.
- An attempt that was released, or ended with its process, did not happen: a simulation has no deployments and no
  crashes.
- A pause or a limit from before the log's first record does not exist; nor does a ticket whose adding was trimmed.
- If a backoff is given, every retry came from an exception, and none from a handler that chose its own delay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.evolve import evolve
from kharon.model.ticket import Ticket
from kharon.simulate.workload import Ending, Run, Workload

__all__ = ["Recorder", "record_workload"]


def record_workload(records: Iterable[Record]) -> Workload:
    """Return the workload of a log, from its first record on.

    Cost: O(records); the memory of the tickets that live, and of the workload: see `kharon.simulate.workload`.
    """
    recorder = Recorder()
    for record in records:
        recorder.add(record)
    return recorder.workload()


_NO_MORE: Final = "(no attempts left after "
_ALWAYS_ACTS: Final = (e.TicketAdded, e.TicketUpdated, e.TicketDeleted, e.TicketRestarted)


class Recorder:
    """`record_workload`, for callers that have the records one by one."""

    def __init__(self) -> None:
        self._load = Workload()
        self._tickets: dict[str, Ticket] = {}
        self._begun: dict[str, datetime] = {}
        self._extends: dict[str, list[tuple[float, float]]] = {}
        self._workers: set[str] = set()
        self._leases: Counter[float] = Counter()

    def workload(self) -> Workload:
        """Return the workload so far."""
        load = self._load
        load.workers = len(self._workers)
        load.process_time = max(self._leases, key=lambda lease: (self._leases[lease], lease), default=None)
        return load

    def add(self, record: Record) -> None:
        """Take one record. O(1)."""
        load, event, at = self._load, record.event, record.at
        load.begin, load.end = load.begin or at, at
        if isinstance(event, e.TubeEvent):
            load.acts.add(at, event)
        if not isinstance(event, e.TicketEvent):
            return
        before = self._tickets.get(event.id)
        if before is None and not isinstance(event, e.TicketAdded):
            return  # the log's beginning was trimmed
        after = evolve(before, event, record.seq, at)
        if after is None:
            del self._tickets[event.id]
        else:
            self._tickets[event.id] = after
        claimed = before is not None and before.claim is not None
        if isinstance(event, e.TicketClaimed):
            self._claim(event, before, at)
        elif isinstance(event, e.LeaseExtended):
            begun = self._begun.get(event.id, at)
            extend = ((at - begun).total_seconds(), (event.lease_until - at).total_seconds())
            self._extends.setdefault(event.id, []).append(extend)
        elif isinstance(event, _ALWAYS_ACTS) or not (claimed or _follows(record, before) or self._is_automatic(event)):
            load.acts.add(at, event)
        if before is not None and claimed and (after is None or after.claim != before.claim):
            self._end(before, event, record)

    def _is_automatic(self, event: e.TicketEvent) -> bool:
        """Return whether the clock caused an event. It causes the failure after the lapse of a last attempt, too."""
        if isinstance(event, e.TicketFailed) and _NO_MORE in (event.error_reason or ""):
            self._load.max_attempts = _attempts(event.error_reason or "")
            return True
        return isinstance(event, (e.TicketExpired, e.TicketLapsed))

    def _claim(self, event: e.TicketClaimed, before: Ticket | None, at: datetime) -> None:
        self._begun[event.id] = at
        self._workers.add(event.worker)
        self._leases[round((event.lease_until - at).total_seconds(), 3)] += 1
        if before is not None and before.tube not in self._load.tubes:
            self._load.tubes.append(before.tube)

    def _end(self, before: Ticket, event: e.TicketEvent, record: Record) -> None:
        begun = self._begun.pop(event.id, record.at)
        extends = tuple(self._extends.pop(event.id, ()))
        run = self._run(before, event, (record.at - begun).total_seconds(), record.at, extends)
        if run is None:
            return
        self._load.runs.add(self._load.tickets.number(event.id), run)
        if run.ending is Ending.LAPSED:
            self._load.unknown += 1
        else:
            self._load.typical[before.type] = run

    def _run(
        self,
        before: Ticket,
        event: e.TicketEvent,
        seconds: float,
        at: datetime,
        extends: tuple[tuple[float, float], ...],
    ) -> Run | None:
        match event:
            case e.TicketDone(keep=keep, expire_at=until):
                ending = Ending.DONE if keep else Ending.ACKED
                return Run(seconds, ending, expire_in=_seconds(until, at), extends=extends)
            case e.TicketFailed(error_reason=reason, expire_at=until):
                if _NO_MORE in (reason or ""):
                    self._load.max_attempts = _attempts(reason or "")
                    return Run(seconds, Ending.RETRIED, extends=extends)
                return Run(seconds, Ending.FAILED, expire_in=_seconds(until, at), extends=extends)
            case e.TicketCancelled(keep=keep, expire_at=until):
                return Run(seconds, Ending.CANCELLED, keep=keep, expire_in=_seconds(until, at), extends=extends)
            case e.TicketRetried(runat=runat):
                return Run(seconds, Ending.RETRIED, delay=_seconds(runat, at), extends=extends)
            case e.TicketLapsed() if before.lease_until is not None and at >= before.lease_until - timedelta(seconds=1):
                return Run(seconds, Ending.LAPSED, extends=extends)
            case e.TicketDeleted():  # the deletion is an act; without it, the attempt would have gone on
                return Run(seconds, Ending.ACKED)
            case _:
                return None  # released, or ended with its process


def _follows(record: Record, before: Ticket | None) -> bool:
    """Return whether an event unblocks or cancels a ticket because another one ended in the same commit."""
    event = record.event
    if isinstance(event, e.TicketCancelled) and before is not None:
        return before.blocked and before.on_failure == "cancel" and record.part[0] > 1
    return isinstance(event, e.TicketUnblocked)


def _seconds(until: datetime | None, at: datetime) -> float | None:
    return None if until is None else max(0.0, (until - at).total_seconds())


def _attempts(reason: str) -> int | None:
    count = reason.rpartition(_NO_MORE)[2].rstrip(")")
    return int(count) if count.isdecimal() and len(count) < 10 else None
