"""The workers: a nursery of loops that pull tickets and run handlers, and one that keeps the time.

A worker settles its last ticket and claims its next in one commit group (`Store.turn`), so a busy one waits once for
each ticket. The lease is a cancel scope around the handler (`attempts`). However a handler ends, there is one settle
for it, at most:

    returned              what `on_return` says, unless it settled the ticket itself
    raised                retry with backoff, or fail after `max_attempts`
    payload does not fit  fail
    lease ended           lapse
    cancelled by its id   none: that has ended the claim; so has a delete, or a lapse by the clock
    cancelled from above  release, uncounted
    ended the process     as raised: sys.exit() in a handler must come to an end, too

No exception of a handler's leaves `run`; one of the engine's does, alone and unwrapped.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from kharon.errors import Closed, HandlerNotFound, InvalidTransition, KharonError, QueueLocked
from kharon.log.record import CLOCK
from kharon.model import commands as c
from kharon.model.checks import shorten_reason
from kharon.model.policy import LEASE_ENDED
from kharon.model.ticket import Ticket
from kharon.runtime.attempts import Attempt, Attempts
from kharon.runtime.heartbeat import beat
from kharon.runtime.router import PayloadMismatch, Route, Router
from kharon.runtime.stats import Collector
from kharon.settings import Settings
from kharon.store.protocol import Clock, Store
from kharon.store.tasks import wait_out

__all__ = ["Crew"]

_logger = logging.getLogger("kharon")
_NOT_ITS_DOING = (trio.Cancelled, KeyboardInterrupt, Exception)  # a SystemExit is: it ends the process, as a crash does


class Crew:
    """The workers of one queue.

    Args:
        store: the queue's state.
        settings: how many workers, how long a lease, and so on.
        clock: what tells the time.
        stats: where handler runs are counted.
        view: returns the queue as a handler sees it, acting in the name it is given.

    Attributes:
        attempts: the handlers that run.
    """

    def __init__(
        self, store: Store, settings: Settings, clock: Clock, stats: Collector, view: Callable[[str], Any]
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._stats = stats
        self._view = view
        self._threads = trio.CapacityLimiter(settings.workers)
        self.attempts = Attempts(clock)
        self._run_scope: trio.CancelScope | None = None
        self._run_task: trio.lowlevel.Task | None = None
        self._ended = trio.Event()
        self._draining = False
        self._failure: BaseException | None = None
        self._tubes = settings.tubes

    # --- run, drain, stop ---------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def run(self, router: Router, task_status: trio.TaskStatus[None]) -> None:
        """Run workers until cancelled, drained or closed."""
        await trio.lowlevel.checkpoint()
        if not isinstance(router, Router):
            raise HandlerNotFound(f"run takes a kharon.Router, not {type(router).__name__}")
        if router.is_empty:
            raise HandlerNotFound("the router has no handlers; register one with @router.handler(type) before run")
        if self._run_scope is not None:
            raise QueueLocked("this queue is being run already; raise Settings.workers to run more handlers at once")
        self._run_task = trio.lowlevel.current_task()
        self._ended = trio.Event()
        self._draining = False
        self._failure = None
        try:
            with trio.CancelScope() as self._run_scope:
                await self._run(router, task_status)
        except BaseExceptionGroup as group:
            self._failure = self._failure or _essence(group)  # a Ctrl-C that Trio delivered to the nursery itself
        finally:
            self._run_scope = self._run_task = None
            self._ended.set()
        if self._failure is not None:
            raise self._failure
        await trio.lowlevel.checkpoint()  # a cancellation from outside goes on, and as a single Cancelled

    async def _run(self, router: Router, task_status: trio.TaskStatus[None]) -> None:
        """Run the nursery. Its tasks report their failures to `_fail`, so that it raises nothing but Cancelled."""
        scope = self._run_scope
        assert scope is not None
        async with trio.open_nursery() as keeper:
            keeper.start_soon(self._watched, scope, self._keep_time)
            if self._settings.heartbeat:
                keeper.start_soon(self._watched, scope, beat, self._store, self._settings, self._clock, self.attempts)
            async with trio.open_nursery() as workers:
                for number in range(1, self._settings.workers + 1):
                    workers.start_soon(self._watched, scope, self._work, router, f"worker-{number}")
                task_status.started()
            keeper.cancel_scope.cancel()

    @enable_ki_protection  # a Ctrl-C reaches handlers, and the task that waits for all of this; no claim is lost by it
    async def _watched(self, scope: trio.CancelScope, loop: Callable[..., Any], *args: Any) -> None:
        try:
            await loop(*args)
        except BaseException as error:
            essence = _essence(error)
            if essence is None:
                raise
            if self._failure is None or isinstance(self._failure, Closed):
                self._failure = essence  # raised by run, outside of the nursery
            scope.cancel()

    async def drain(self, timeout: float | None) -> None:  # noqa: ASYNC109 - it does not cancel, it releases
        """Claim no more, let what runs finish, then return; after `timeout` seconds release what still runs."""
        await trio.lowlevel.checkpoint()
        if self._run_scope is None:
            return
        if self._is_inside():
            raise InvalidTransition(
                "drain waits for the handlers that run, and this is one of them; let it tell the application, or start "
                "drain in a nursery outside of run"
            )
        self._store.wake_all()
        self._draining = True
        with trio.move_on_after(float("inf") if timeout is None else timeout) as waiting:
            await self._ended.wait()
        if waiting.cancelled_caught:
            await self.stop()

    @enable_ki_protection
    async def stop(self) -> None:
        """Cancel what runs, and wait until its claims have been released; from inside of a handler, do not wait."""
        if self._run_scope is not None:
            self._run_scope.cancel()
            if not self._is_inside():
                await wait_out(self._ended.wait)

    def _is_inside(self) -> bool:
        """Return whether the present task is a handler's, or was started by one: it cannot wait for `run` to end."""
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None and task is not self._run_task:
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return task is not None

    # --- tubes --------------------------------------------------------------------------------------------------------

    @property
    def tubes(self) -> tuple[str, ...]:
        """The tubes to claim from."""
        return self._tubes

    @tubes.setter
    def tubes(self, tubes: tuple[str, ...]) -> None:
        if tubes != self._tubes:
            self._store.wake_all()  # idle workers look into the new ones, and wait for no others
            self._tubes = tubes  # after it, since it refuses another thread

    # --- time ---------------------------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        settings = self._settings
        while True:
            pause = await self._store.tick()
            if pause == 0:
                continue  # there is more that is due; the tick was a checkpoint
            if pause > settings.min_poll_interval:
                with trio.move_on_after(min(pause, settings.max_poll_interval)):
                    await self._store.wait_earlier()
            else:
                await trio.sleep(settings.min_poll_interval)

    # --- one worker ---------------------------------------------------------------------------------------------------

    async def _work(self, router: Router, worker: str) -> None:
        kh = self._view(worker)
        settle: c.Settle | None = None
        while True:
            # A cancelled worker still settles what it has done, but takes nothing new.
            claim = not self._draining and trio.current_effective_deadline() > trio.current_time()
            by = CLOCK if isinstance(settle, c.Lapse) else worker
            ticket = await self._store.turn(worker, self._tubes, settle, settle_by=by, claim=claim)
            settle = None
            if ticket is not None:
                settle = await self._attempt(router, kh, worker, ticket)
            elif self._draining:
                return
            else:
                await self._store.wait_ready(self._tubes)  # which may be others by now

    async def _attempt(self, router: Router, kh: Any, worker: str, ticket: Ticket) -> c.Settle | None:
        """Run one attempt; return the settle that it comes to, or None if there is nothing left to settle."""
        attempt = self.attempts.begin(ticket)
        try:
            settle = None if attempt.taken is not None else await self._handle(router, kh, worker, attempt)
        finally:
            self.attempts.end(attempt)
        if attempt.taken is not None:  # and settled by that: the store would drop what the handler's end comes to
            _logger.info("ticket %r (%s): was %s in attempt %d", ticket.id, ticket.type, attempt.taken, ticket.attempts)
            return None
        return settle

    async def _handle(self, router: Router, kh: Any, worker: str, attempt: Attempt) -> c.Settle | None:
        ticket = attempt.ticket
        started = trio.current_time()
        self._stats.running += 1
        _logger.debug("ticket %r (%s): attempt %d begins", ticket.id, ticket.type, ticket.attempts)
        try:
            with attempt.scope:
                await self._call(router.find(ticket.type), kh, ticket)
        except PayloadMismatch as mismatch:
            _logger.warning("ticket %r (%s): fails, its payload does not fit", ticket.id, ticket.type)
            return c.Fail(ticket.id, ticket.claim, shorten_reason(str(mismatch)))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is an outcome of its attempt
            return self._raised(ticket, error)
        except BaseException as error:
            if self._run_scope is not None:
                self._run_scope.cancel()  # first: a worker that is idle must not claim what is released here
            await self._let_go(ticket, worker, error)
            if isinstance(error, BaseExceptionGroup):  # with what else went wrong in a handler that was cancelled
                _, rest = error.split(Exception)
                raise rest or error from None
            raise
        finally:
            self._stats.running -= 1
            self._stats.processed(ticket, trio.current_time() - started)
        policy = self._settings.policy(ticket.type)
        return policy.lapse(ticket, LEASE_ENDED) if attempt.scope.cancelled_caught else policy.returned(ticket)

    def _raised(self, ticket: Ticket, error: BaseException) -> c.Settle:
        _logger.warning(
            "ticket %r (%s): attempt %d raised %s",
            *(ticket.id, ticket.type, ticket.attempts, type(error).__name__),
            exc_info=error,
        )
        return self._settings.policy(ticket.type).retry(ticket, _reason(error))

    @disable_ki_protection
    async def _call(self, route: Route, kh: Any, ticket: Ticket) -> None:
        given = route.prepare(ticket)
        if not route.in_thread:
            await route.handler(kh, given)  # type: ignore[misc]
            return
        # Not abandoned when cancelled: a thread that goes on is an attempt that goes on, and keeps its worker.
        await trio.to_thread.run_sync(_call_in_thread, route.handler, kh, given, limiter=self._threads)

    async def _let_go(self, ticket: Ticket, worker: str, error: BaseException) -> None:
        """Settle a ticket whose handler was ended from outside, or ends the process: the latter's attempt counts."""
        end = next((leaf for leaf in _leaves(error) if not isinstance(leaf, _NOT_ITS_DOING)), None)
        settle = c.Release(ticket.id, ticket.claim) if end is None else self._raised(ticket, end)
        try:
            await self._store.turn(worker, (), settle, settle_by=worker, claim=False)
        except KharonError as refused:  # the queue broke: what ended the handler is what the caller must hear
            _logger.warning("ticket %r (%s): could not be released: %s", ticket.id, ticket.type, refused)


def _call_in_thread(handler: Callable[..., Any], kh: Any, ticket: Ticket) -> None:
    answer = handler(kh, ticket)
    if inspect.isawaitable(answer):  # found here, since what Trio says about it would name this function
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(f"handler {handler!r} is a def that returned a coroutine; make it an async def")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Give an exception, or all that are in a group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _essence(error: BaseException) -> BaseException | None:
    """Return what went wrong: the first exception that is no Cancelled; None if there is no other."""
    return next((leaf for leaf in _leaves(error) if not isinstance(leaf, trio.Cancelled)), None)


def _reason(error: BaseException) -> str:
    """Say what an exception is: for a group, what is in it."""
    if isinstance(error, BaseExceptionGroup):
        return shorten_reason("; ".join(_reason(inner) for inner in error.exceptions))
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's own __str__; the attempt failed for a reason of its own
        text = ""
    name = type(error).__name__
    return shorten_reason(f"{name}: {text}" if text else name)
