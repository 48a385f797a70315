"""Running a recorded workload through the real engine, under other settings, in virtual time.

The queue is in memory, its clock is Trio's `MockClock`, and the handlers sleep as long as the recorded attempts took
and end as they ended. So waits, lapses and failures are what the engine itself makes of the settings; they are measured
from the simulated queue's own records, with the function that measures the recorded ones. Tickets wait for others, and
tubes are paused and limited, as it was recorded; schedules are no part of it, only the tickets that they added. What is
taken for granted where the log does not know is in `kharon.simulate.recording`.

Two simulations with the same arguments give the same: nothing in the engine draws lots but the jitter of a backoff, for
which the same numbers are drawn, and Trio's order of tasks, which is fixed here.
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
from kharon.simulate.workloads import Act, Ending, Run, Workload

__all__ = ["Recorded", "settings_for", "simulate"]

_DAY = 86_400.0


class Recorded(Exception):
    """What a handler raises in place of the exception that it raised when it was recorded."""


def settings_for(load: Workload, **changes: Any) -> Settings:
    """Return the settings to simulate with: as recorded, as far as the log says, but for `changes`.

    Raises:
        InvalidSettings: a change cannot be so.
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
    """Run a workload; return what the simulated queue did between the workload's beginning and its end.

    Args:
        load: what there was to do.
        settings: the queue's.
        new_backoff: whether `settings.backoff` holds for retries; else each is delayed as it was recorded.
        progress: called with how many acts have been done.

    Cost: O(records log n), measured 0.11 ms of processor time each, with few workers as with many. The memory of the
    workload (some 100 bytes of a ticket that is gone: see `kharon.simulate.workloads`) and of the n simulated tickets
    that live at once, about 1 kB each: with too few workers that is nearly all of them. Records are measured as they
    come.
    """
    if load.begin is None or load.end is None:
        return Measures(None)
    world = _World(load, settings, new_backoff=new_backoff, progress=progress)
    with _in_order():
        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(world.run, clock=clock)


@contextlib.contextmanager
def _in_order() -> Iterator[None]:
    """Fix what is left to chance: Trio's order of the tasks that could run, and the jitter.

    Both are private to Trio and there for this: Hypothesis sets the same two.
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
    """The time of day that goes with Trio's virtual clock."""

    def __init__(self, begin: datetime) -> None:
        self._begin = begin

    def now(self) -> datetime:
        return self._begin + timedelta(seconds=round(trio.current_time() - self._zero, 6))

    def start(self) -> None:
        self._zero = trio.current_time()


class _CountingLog:
    """An `EventLog` that measures what is appended and keeps nothing: nobody reads a simulated queue's records."""

    first = 1

    def __init__(self) -> None:
        self._counter: Counter | None = Counter()
        self._at: datetime | None = None
        self.seq = self.written = self.durable = 0

    def take(self) -> Measures:
        """Return what was measured, and measure no more."""
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
class _World:
    """One simulation."""

    load: Workload
    settings: Settings
    new_backoff: bool
    progress: Callable[[int], None] | None
    places: array[int] = attrs.field(init=False)  # of each ticket's last attempt among `load.runs`, by its number

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
            with contextlib.suppress(KharonError):  # where the simulated ticket is another by then, so be it
                await _do(kh, act)
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
                    raise Recorded("as recorded")
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
        number = int(ticket.id)  # which is all that a workload knows of it
        place = self.places[number] = self.load.runs.following(number, self.places[number])
        return self.load.runs.at(place) if place else self.load.typical.get(ticket.type)


async def _do(kh: Kharon, act: Act) -> None:
    """Do to the simulated queue what was done to the recorded one."""
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
            pass  # what later versions add has no part in it yet


def _without_payload(changes: e.Changes | None) -> dict[str, Any]:
    return {} if changes is None else {name: value for name, value in changes.given().items() if name != "payload"}


def _until(until: datetime | None, at: datetime) -> float | None:
    return None if until is None else max(0.0, (until - at).total_seconds())
