"""Retention in the background: while the queue is open, one step after the other, as `kharon.log.retention` plans them.

All that reads or writes a segment runs in a thread: zstd and SHA-256 let go of the GIL for each chunk of it, so the
loop goes on (measured while three segments of 8 MiB were compressed: its longest stall was 1.2 ms, against 0.8 ms of
an idle one; `benchmarks/retention.py` prints both). What is recorded is recorded on the loop, in a commit group like
any other commit.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from kharon.errors import Closed, CommitOutcomeUnknown
from kharon.log.retention import Action, Limit, Retention, Rules, Step
from kharon.model.events import Event
from kharon.settings import Settings
from kharon.store.protocol import Clock
from kharon.store.tasks import say, wait_out

__all__ = ["Keeper", "rules_of"]

_PATIENCE_SECONDS: Final = 60  # between two tries at what was refused
_PLAN: Final = "see what is to be done"


def rules_of(settings: Settings) -> Rules:
    """Return what the settings say about retention."""
    return Rules(
        Limit(settings.compress_after, settings.compress_beyond_bytes),
        Limit(settings.archive_after, settings.archive_beyond_bytes),
        Limit(settings.trim_after, settings.trim_beyond_bytes),
    )


class Keeper:
    """Does what retention plans, until it is stopped. What is refused is left out for a while; the rest goes on.

    Args:
        retention: plans and performs.
        record: appends an event to the log and returns once it is on disk.
        clock: what tells the time.
        interval: seconds between two looks at the age of segments, at most.
    """

    def __init__(
        self, retention: Retention, record: Callable[[Event], Awaitable[None]], clock: Clock, interval: float
    ) -> None:
        self._retention = retention
        self._record = record
        self._clock = clock
        self._interval = interval
        self._scope = trio.CancelScope()
        self._due = trio.Event()
        self._ended: trio.Event | None = None
        self._refused: dict[Action, float] = {}  # what is left out, and until when by Trio's clock
        self._said: dict[str, str] = {}  # what cannot be done, and why

    def start(self) -> None:
        """Begin; as a system task, since it must outlive whoever opened the queue, and fail nobody."""
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, self._ended)

    def wake(self) -> None:
        """Look now what is to be done: the log has begun another segment, or a snapshot was taken. O(1)."""
        self._due.set()

    async def stop(self) -> None:
        """Stop: a step that was recorded is finished, another is given up. Not cancellable."""
        self._scope.cancel()
        self._retention.stop()
        if self._ended is not None:
            await wait_out(self._ended.wait)

    async def _run(self, ended: trio.Event) -> None:
        try:
            with self._scope:
                while await self._work():
                    with trio.move_on_at(min([trio.current_time() + self._interval, *self._refused.values()])):
                        await self._due.wait()
                    self._due = trio.Event()
        finally:
            ended.set()

    async def _work(self) -> bool:
        """Do what there is to do; return whether there may be more, later."""
        try:
            while await self._step():
                pass
        except (Closed, CommitOutcomeUnknown) as error:  # the store has said why, or nothing is wrong
            say(logging.DEBUG, "retention ends: %s", error)
            return False
        except Exception as error:  # noqa: BLE001 - nobody waits for it, so nobody could be told; the queue goes on
            self._warn(_PLAN, error)
        return True

    async def _step(self) -> bool:
        """Do one step, or be refused it; return whether there was one."""
        now = trio.current_time()
        self._refused = {action: until for action, until in self._refused.items() if until > now}
        step = await trio.to_thread.run_sync(self._retention.plan, self._clock.now(), tuple(self._refused))
        self._said.pop(_PLAN, None)
        if step is None:
            return False
        try:
            await self._carry_out(step)
        except (Closed, CommitOutcomeUnknown):
            raise
        except Exception as error:  # noqa: BLE001 - as above; other actions may go all the same
            self._refused[step.action] = trio.current_time() + _PATIENCE_SECONDS
            self._warn(step.action, error)
        else:
            self._said.pop(step.action, None)
        return True

    async def _carry_out(self, step: Step) -> None:
        retention = self._retention
        event = await trio.to_thread.run_sync(retention.prepare, step)
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await self._record(event)
            retention.settle(step)
            await trio.to_thread.run_sync(retention.finish, step)

    def _warn(self, what: str, error: Exception) -> None:
        """Say why something cannot be done, once for as long as it cannot for that reason."""
        why = str(error)
        if self._said.get(what) != why:
            self._said[what] = why
            say(logging.WARNING, "retention cannot %s, and tries again: %s", what, why)
