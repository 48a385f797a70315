"""Simulation: a recorded workload runs through the real engine, under other settings, in virtual time (`simulate`).

The queue is in memory, its clock is Trio's `MockClock`, and each handler sleeps as long as the recorded attempt took,
and ends as it ended. So waits, lapses and failures come from the engine itself. They are measured from the simulated
queue's own records, by the function that measures the recorded ones. Dependencies of tickets, and pauses and limits of
tubes, are as recorded. Schedules are left out; the tickets that they added are not. `kharon.simulate.recording` lists
the assumptions where the log lacks information.

Two simulations with the same arguments have the same result. Only two things in the engine are random: the jitter of a
backoff, for which the same numbers are drawn, and Trio's order of tasks, which is fixed here.
"""

from __future__ import annotations

import contextlib
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

import attrs
import trio
import trio.testing

from kharon.audit.measure import Counter, Measures
from kharon.errors import KharonError
from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.ticket import CHECKS, Ticket
from kharon.runtime.kharon import Kharon
from kharon.runtime.opening import open_queue
from kharon.runtime.router import Router
from kharon.settings import Settings
from kharon.simulate.workload import Act, Ending, Run, Workload

__all__ = ["RecordedFailure", "settings_for", "simulate"]

_DAY = 86_400.0


class RecordedFailure(Exception):
    """Raised by a simulated handler in place of the recorded exception."""


def settings_for(load: Workload, **changes: Any) -> Settings:
    """Return the settings to simulate with: as recorded, as far as the log has them, except for `changes`.

    Raises:
        InvalidSettings: a change is not a valid setting.
    """
    recorded: dict[str, Any] = {"tubes": tuple(load.tubes) or ("default",), "workers": max(1, load.workers)}
    if load.process_time is not None:
        recorded["process_time"] = load.process_time
    if load.max_attempts is not None:
        recorded["max_attempts"] = load.max_attempts
    engine: dict[str, Any] = {"min_poll_interval": 0.001, "max_poll_interval": _DAY, "batch_size": 1_000_000}
    return Settings(**engine, **{**recorded, **changes})


def simulate(
    load: Workload, settings: Settings, *, new_backoff: bool, progress: Callable[[int], None] | None = None
) -> Measures:
    """Run a workload; return the measures of the simulated queue from the workload's beginning to its end.

    Args:
        load: the workload.
        settings: the settings of the simulated queue.
        new_backoff: whether retries are delayed by `settings.backoff`; otherwise each is delayed as recorded.
        progress: called with the number of acts done.

    Cost: O(records log n), measured 0.11 ms of processor time each, with few workers as with many. The memory of the
    workload (about 100 bytes for each removed ticket: see `kharon.simulate.workload`) and of the n simulated tickets
    that live at once, about 1 kB each: with too few workers that is nearly all of them. Records are not kept.
    """
    if load.begin is None or load.end is None:
        return Measures(None)
    world = _Simulation(load, settings, new_backoff=new_backoff, progress=progress)
    with _deterministic():
        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(world.run, clock=clock)


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Fix the order in which Trio runs tasks, and the random numbers of the jitter.

    Trio has two private variables for this purpose, which Hypothesis sets, too.
    """
    run: Any = trio._core._run
    before = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate(), random.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(0)
    random.seed(0)
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        run._r.setstate(before[1])
        random.setstate(before[2])


class _Clock:
    """The wall clock that follows Trio's virtual clock."""

    def __init__(self, begin: datetime) -> None:
        self._begin = begin

    def now(self) -> datetime:
        return self._begin + timedelta(seconds=round(trio.current_time() - self._zero, 6))

    def start(self) -> None:
        self._zero = trio.current_time()


class _CountingLog:
    """An `EventLog` that measures records and keeps none, since nothing reads the records of a simulated queue."""

    first = 1

    def __init__(self) -> None:
        self._counter: Counter | None = Counter()
        self._at: datetime | None = None
        self.seq = self.written = self.durable = 0

    def take(self) -> Measures:
        """Return the measures, and measure no further records."""
        assert self._counter is not None
        measures, self._counter = self._counter.measures, None
        return measures

    def open(self, now: datetime) -> Iterator[Record]:
        self._at = now
        return iter(())

    def append(self, events: Sequence[e.Event], at: datetime, by: str) -> datetime:
        assert self._at is not None
        self._at = at = max(at, self._at)
        for number, event in enumerate(events, 1):
            self.seq += 1
            if self._counter is not None:
                self._counter.add(Record(self.seq, at, by, event, "", (number, len(events)), self.durable))
        return at

    def write(self) -> None:
        self.written = self.seq

    def sync(self) -> None:
        self.durable = self.written

    def reader(self, after: int = 0, id: str | None = None) -> NoReturn:
        raise NotImplementedError

    def close(self, now: datetime) -> None:
        pass

    def abandon(self) -> None:
        pass


@attrs.define(slots=True)
class _Simulation:
    """One simulation."""

    load: Workload
    settings: Settings
    new_backoff: bool
    progress: Callable[[int], None] | None
    places: array[int] = attrs.field(init=False)  # by ticket number: the place of its last attempt in `load.runs`

    def __attrs_post_init__(self) -> None:
        self.places = array("I", bytes(4 * len(self.load.tickets)))

    async def run(self) -> Measures:
        begin, end = self.load.begin, self.load.end
        assert begin is not None
        assert end is not None
        clock = _Clock(begin)
        clock.start()
        router = Router()
        router.not_found(self._handle)
        log = _CountingLog()
        async with open_queue(log, self.settings, clock=clock) as kh, trio.open_nursery() as nursery:
            await nursery.start(kh.run, router)
            await self._act(kh, begin)
            await trio.sleep(max(0.0, (end - clock.now()).total_seconds()))
            await trio.testing.wait_all_tasks_blocked()
            measures = log.take()
            nursery.cancel_scope.cancel()
        return measures

    async def _act(self, kh: Kharon, begin: datetime) -> None:
        zero = trio.current_time()
        for number, act in enumerate(self.load.acts, 1):
            await trio.sleep_until(zero + (act.at - begin).total_seconds())
            with contextlib.suppress(KharonError):  # the simulated ticket may be in another state by then
                await _repeat(kh, act)
            if self.progress is not None:
                self.progress(number)

    # --- the handlers -------------------------------------------------------------------------------------------------

    async def _handle(self, kh: Kharon, ticket: Ticket) -> None:
        run = self._run_of(ticket)
        if run is None:
            return
        if run.ending is Ending.LAPSED:
            await self._sleep(kh, ticket, run, None)
        await self._sleep(kh, ticket, run, run.seconds)
        match run.ending:
            case Ending.DONE:
                await kh.done(ticket, expire_in=run.expire_in)
            case Ending.FAILED:
                await kh.fail(ticket, error_reason="as recorded", expire_in=run.expire_in)
            case Ending.CANCELLED:
                await kh.cancel(ticket, keep=run.keep, expire_in=run.expire_in if run.keep else None)
            case Ending.RETRIED:
                most = self.settings.max_attempts
                if self.new_backoff or run.delay is None or (most is not None and ticket.attempts >= most):
                    raise RecordedFailure("as recorded")
                await kh.retry(ticket, delay=run.delay, error_reason="as recorded")
            case _:
                pass  # returning acks

    async def _sleep(self, kh: Kharon, ticket: Ticket, run: Run, seconds: float | None) -> None:
        begun = trio.current_time()
        for after, lease in run.extends:
            await trio.sleep_until(begun + after)
            await kh.extend(ticket, lease)
        if seconds is None:
            await trio.sleep_forever()
        else:
            await trio.sleep_until(begun + seconds)

    def _run_of(self, ticket: Ticket) -> Run | None:
        number = int(ticket.id)  # a workload knows a ticket by its number
        place = self.places[number] = self.load.runs.following(number, self.places[number])
        return self.load.runs.at(place) if place else self.load.typical.get(ticket.type)


async def _repeat(kh: Kharon, act: Act) -> None:
    """Repeat a recorded act on the simulated queue."""
    match act.event:
        case e.TicketAdded() as added:
            ticket = Ticket(**{name: getattr(added, name) for name in CHECKS if name != "payload"})
            on_failure: Any = added.on_failure
            await kh.add(ticket, after=added.after, after_group=added.after_group, on_failure=on_failure)
        case e.TubePaused(tube=tube):
            await kh.pause(tube)
        case e.TubeResumed(tube=tube):
            await kh.resume(tube)
        case e.TubeLimited(tube=tube, claimed=claimed, claims=claims, period=period):
            await kh.limit(tube, claimed=claimed, claims=claims, period=period)
        case e.TicketUpdated(id=id, changes=changes):
            await kh.update(id, **_without_payload(changes))
        case e.TicketDeleted(id=id):
            await kh.delete(id)
        case e.TicketRestarted(id=id):
            await kh.restart(id)
        case e.TicketDone(id=id, keep=keep, expire_at=until):
            await (kh.done(id, expire_in=_until(until, act.at)) if keep else kh.ack(id))
        case e.TicketFailed(id=id, expire_at=until):
            await kh.fail(id, expire_in=_until(until, act.at))
        case e.TicketCancelled(id=id, keep=keep, expire_at=until):
            await kh.cancel(id, keep=keep, expire_in=_until(until, act.at))
        case e.TicketRetried(id=id, runat=runat, changes=changes):
            await kh.retry(id, **{**_without_payload(changes), "runat": runat})
        case _:
            pass  # an event that nobody causes directly


def _without_payload(changes: e.Changes | None) -> dict[str, Any]:
    return {} if changes is None else {name: value for name, value in changes.given().items() if name != "payload"}


def _until(until: datetime | None, at: datetime) -> float | None:
    return None if until is None else max(0.0, (until - at).total_seconds())
