"""The workers: a nursery of loops that claim tickets and run handlers, and a loop that ticks the store.

A worker settles its last ticket and claims its next one in one commit group (`Store.turn`), so a busy worker waits once
for each ticket. The lease is a cancel scope around the handler (`attempts`). Each run of a handler causes at most one
settle:

    returned              as `on_return` says, unless the handler settled the ticket itself
    raised                retry with backoff, or fail after `max_attempts`
    payload does not fit  fail
    result does not fit   fail; likewise a reason: no other attempt could store it
    lease ended           lapse
    cancelled by its id   none: that has ended the claim, as a delete or a recorded lapse does
    cancelled from above  release, which does not count the attempt
    ended the process     as raised: a handler that calls sys.exit() must not run forever
    Ctrl-C                release

"Raised" means an exception of any class but SystemExit and KeyboardInterrupt, which end `run`: also asyncio's
CancelledError, a panic of an extension, and a `trio.Cancelled` although nothing around the handler is cancelled.
Each attempt runs in a fresh copy of the context in which `run` was called, so it sees no variables of another one.
A handler's exception never leaves `run`. An exception of the engine does, alone and unwrapped.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from kharon.errors import Closed, HandlerNotFound, InvalidTicket, InvalidTransition, KharonError, QueueLocked
from kharon.log.messages import say
from kharon.log.record import CLOCK
from kharon.model import commands as c
from kharon.model.checks import shorten_reason
from kharon.model.policy import LEASE_ENDED
from kharon.model.ticket import Ticket
from kharon.runtime.attempts import Attempt, Attempts
from kharon.runtime.heartbeat import beat
from kharon.runtime.router import PayloadMismatch, Route, Router
from kharon.runtime.stats import Tally
from kharon.settings import Settings
from kharon.store.protocol import Clock, Store
from kharon.store.tasks import wait_out

__all__ = ["Workers"]

_ENDS_RUN = (SystemExit, KeyboardInterrupt)


class Workers:
    """The workers of one queue.

    Args:
        store: the store of the queue.
        settings: the settings of the queue.
        clock: gives the present time.
        tally: counts handler runs.
        view: returns the queue for a handler, as a view that acts in the given name.

    Attributes:
        attempts: the attempts that run.
    """

    def __init__(
        self, store: Store, settings: Settings, clock: Clock, tally: Tally, view: Callable[[str], Any]
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._tally = tally
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
        context = contextvars.copy_context()
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
                await self._run(router, context, task_status)
        except BaseExceptionGroup as group:
            self._failure = self._failure or _root_cause(group)  # a Ctrl-C may reach the nursery itself
        finally:
            self._run_scope = self._run_task = None
            self._ended.set()
        if self._failure is not None:
            raise self._failure
        await trio.lowlevel.checkpoint()  # raises Cancelled, alone, if `run` itself was cancelled

    async def _run(self, router: Router, context: contextvars.Context, task_status: trio.TaskStatus[None]) -> None:
        """Run the nursery. `_supervised` keeps the failures of its tasks, so that it raises only Cancelled."""
        scope = self._run_scope
        assert scope is not None
        async with trio.open_nursery() as timers:
            timers.start_soon(self._supervised, scope, self._tick)
            if self._settings.heartbeat:
                timers.start_soon(
                    self._supervised, scope, beat, self._store, self._settings, self._clock, self.attempts
                )
            async with trio.open_nursery() as workers:
                for number in range(1, self._settings.workers + 1):
                    workers.start_soon(self._supervised, scope, self._work, router, context, f"worker-{number}")
                task_status.started()
            timers.cancel_scope.cancel()

    @enable_ki_protection  # Ctrl-C reaches handlers and the task of `run`; no claim is lost
    async def _supervised(self, scope: trio.CancelScope, loop: Callable[..., Any], *args: Any) -> None:
        """Run a loop; if it fails, keep the failure for `run` to raise, and cancel the others."""
        try:
            await loop(*args)
        except BaseException as error:
            cause = _root_cause(error)
            if cause is None:
                raise
            if self._failure is None or isinstance(self._failure, Closed):
                self._failure = cause  # `run` raises it, outside of the nursery
            scope.cancel()

    async def drain(self, timeout: float | None) -> None:  # noqa: ASYNC109 - it does not cancel, it releases
        """Stop claiming, and return once all handlers have finished; after `timeout` seconds release the rest."""
        await trio.lowlevel.checkpoint()
        if self._run_scope is None:
            return
        if self._is_inside():
            raise InvalidTransition(
                "drain waits for the handlers that run, and this is one of them; call it from another task of the "
                "application, outside of run"
            )
        self._store.wake_all()
        self._draining = True
        with trio.move_on_after(float("inf") if timeout is None else timeout) as waiting:
            await self._ended.wait()
        if waiting.cancelled_caught:
            await self.stop()

    @enable_ki_protection
    async def stop(self) -> None:
        """Cancel `run`, and wait until its claims have been released. Called in a handler, it does not wait."""
        if self._run_scope is not None:
            self._run_scope.cancel()
            if not self._is_inside():
                await wait_out(self._ended.wait)

    def _is_inside(self) -> bool:
        """Return whether a handler, or a task started by one, is calling: it cannot wait for `run` to end."""
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None and task is not self._run_task:
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return task is not None

    # --- tubes --------------------------------------------------------------------------------------------------------

    @property
    def tubes(self) -> tuple[str, ...]:
        """The tubes that the workers claim from."""
        return self._tubes

    @tubes.setter
    def tubes(self, tubes: tuple[str, ...]) -> None:
        if tubes != self._tubes:
            self._store.wake_all()  # idle workers then wait for the new tubes
            self._tubes = tubes  # second, since `wake_all` refuses other threads

    # --- time ---------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Tick the store whenever something is due."""
        settings = self._settings
        while True:
            pause = await self._store.tick()
            if pause == 0:
                continue  # more is due; the tick was a checkpoint
            if pause > settings.min_poll_interval:
                with trio.move_on_after(min(pause, settings.max_poll_interval)):
                    await self._store.wait_earlier()
            else:
                await trio.sleep(settings.min_poll_interval)

    # --- one worker ---------------------------------------------------------------------------------------------------

    async def _work(self, router: Router, context: contextvars.Context, worker: str) -> None:
        kh = self._view(worker)
        task = trio.lowlevel.current_task()
        settle: c.Settle | None = None
        while True:
            # A cancelled worker still settles its last ticket, but claims no other.
            claim = not self._draining and trio.current_effective_deadline() > trio.current_time()
            by = CLOCK if isinstance(settle, c.Lapse) else worker
            # Trio enters a task's context at each of its steps: `turn` is a checkpoint, so it returns in the new one.
            # A task for each attempt would cost a nursery.
            task.context = context.copy()
            ticket = await self._store.turn(worker, self._tubes, settle, settle_by=by, claim=claim)
            settle = None
            if ticket is not None:
                settle = await self._attempt(router, kh, worker, ticket)
            elif self._draining:
                return
            else:
                await self._store.wait_ready(self._tubes)  # read again: a handler may have changed them

    async def _attempt(self, router: Router, kh: Any, worker: str, ticket: Ticket) -> c.Settle | None:
        """Run one attempt; return its settle, or None if the claim is over."""
        attempt = self.attempts.begin(ticket)
        try:
            settle = None if attempt.taken is not None else await self._handle(router, kh, worker, attempt)
        finally:
            self.attempts.end(attempt)
        if attempt.taken is not None:  # its claim is over, so the store would ignore a settle
            names = (ticket.id, ticket.type, attempt.taken, ticket.attempts)
            say(logging.INFO, "ticket %r (%s): was %s in attempt %d", *names)
            return None
        return settle

    async def _handle(self, router: Router, kh: Any, worker: str, attempt: Attempt) -> c.Settle | None:
        ticket = attempt.ticket
        started = trio.current_time()
        self._tally.running += 1
        say(logging.DEBUG, "ticket %r (%s): attempt %d begins", ticket.id, ticket.type, ticket.attempts)
        try:
            with attempt.scope:
                await self._call(router.find(ticket.type), kh, ticket)
        except PayloadMismatch as mismatch:
            say(logging.WARNING, "ticket %r (%s): fails, since its payload does not fit", ticket.id, ticket.type)
            return c.Fail(ticket.id, ticket.claim, shorten_reason(str(mismatch)))
        except BaseException as error:
            end = _end_of_run(error)
            if end is None:
                return self._raised(ticket, error)
            if self._run_scope is not None:
                self._run_scope.cancel()  # first: an idle worker must not claim the released ticket
            await self._settle_stopped(ticket, worker, error)
            if end is error:
                raise
            raise end from None  # alone: what else the handler raised was logged
        finally:
            self._tally.running -= 1
            self._tally.processed(ticket, trio.current_time() - started)
        policy = self._settings.policy(ticket.type)
        return policy.lapse(ticket, LEASE_ENDED) if attempt.scope.cancelled_caught else policy.returned(ticket)

    def _tell(self, ticket: Ticket, error: BaseException) -> None:
        names = (ticket.id, ticket.type, ticket.attempts, type(error).__name__)
        say(logging.WARNING, "ticket %r (%s): attempt %d raised %s", *names, exc_info=error)

    def _raised(self, ticket: Ticket, error: BaseException) -> c.Settle:
        self._tell(ticket, error)
        if any(isinstance(leaf, InvalidTicket) and leaf.outcome_of == ticket.id for leaf in _leaves(error)):
            return c.Fail(ticket.id, ticket.claim, _reason(error))
        return self._settings.policy(ticket.type).retry(ticket, _reason(error))

    @disable_ki_protection
    async def _call(self, route: Route, kh: Any, ticket: Ticket) -> None:
        given = route.prepare(ticket)
        if not route.in_thread:
            await route.handler(kh, given)  # type: ignore[misc]
            return
        # Not abandoned when cancelled: while the thread runs, the attempt runs, and occupies its worker.
        await trio.to_thread.run_sync(_call_in_thread, route.handler, kh, given, limiter=self._threads)

    async def _settle_stopped(self, ticket: Ticket, worker: str, error: BaseException) -> None:
        """Settle a ticket whose handler was cancelled, or ends the process: only the latter counts as an attempt."""
        leaves = tuple(_leaves(error))
        end = next((leaf for leaf in leaves if isinstance(leaf, SystemExit)), None)
        settle = c.Release(ticket.id, ticket.claim) if end is None else self._raised(ticket, end)
        for leaf in leaves:
            if not isinstance(leaf, (*_ENDS_RUN, trio.Cancelled)):
                self._tell(ticket, leaf)
        try:
            await self._store.turn(worker, (), settle, settle_by=worker, claim=False)
        except KharonError as refused:  # the store broke; the caller is told why the handler ended
            say(logging.WARNING, "ticket %r (%s): could not be released: %s", ticket.id, ticket.type, refused)


def _call_in_thread(handler: Callable[..., Any], kh: Any, ticket: Ticket) -> None:
    answer = handler(kh, ticket)
    if inspect.isawaitable(answer):  # checked here: Trio's message would name this function
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(f"handler {handler!r} is a def that returned a coroutine; make it an async def")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, or the exceptions in a group, in order. Not recursive: a group may be nested deeply."""
    rest = [error]
    while rest:
        error = rest.pop()
        if isinstance(error, BaseExceptionGroup):
            rest.extend(reversed(error.exceptions))
        else:
            yield error


def _end_of_run(error: BaseException) -> BaseException | None:
    """Return the exception, of those that a handler raised, with which `run` ends; None: it goes on.

    A Cancelled does so only if the worker itself is cancelled. Any other is the handler's own, as one that it kept.
    """
    leaves = tuple(_leaves(error))
    ends: BaseException | None = next((leaf for leaf in leaves if isinstance(leaf, _ENDS_RUN)), None)
    if ends is None and trio.current_effective_deadline() == -math.inf:
        ends = next((leaf for leaf in leaves if isinstance(leaf, trio.Cancelled)), None)
    return ends


def _root_cause(error: BaseException) -> BaseException | None:
    """Return the first exception that is not a Cancelled; None if there is none."""
    return next((leaf for leaf in _leaves(error) if not isinstance(leaf, trio.Cancelled)), None)


def _reason(error: BaseException) -> str:
    """Return the text of an exception, or of all exceptions in a group."""
    return shorten_reason("; ".join(_text(leaf) for leaf in _leaves(error)))


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - the user's __str__ may raise; the attempt failed anyway
        text = ""
    name = type(error).__name__
    return f"{name}: {text}" if text else name
