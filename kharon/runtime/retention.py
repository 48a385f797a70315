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
from kharon.log.retention import Limit, Policy, Retention
from kharon.model.events import Event
from kharon.settings import Settings
from kharon.store.protocol import Clock
from kharon.store.waiting import wait_out

__all__ = ["Keeper", "policy_of"]

_logger = logging.getLogger("kharon")
_PATIENCE_SECONDS: Final = 60


def policy_of(settings: Settings) -> Policy:
    """Return what the settings say about retention."""
    return Policy(
        Limit(settings.compress_after, settings.compress_beyond_bytes),
        Limit(settings.archive_after, settings.archive_beyond_bytes),
        Limit(settings.trim_after, settings.trim_beyond_bytes),
    )


class Keeper:
    """Does what retention plans, until it is stopped.

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

    def start(self) -> None:
        """Begin; as a system task, since it must outlive whoever opened the queue, and fail nobody."""
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, self._ended)

    def look(self) -> None:
        """Notice that the log has begun another segment. Called between commit groups; O(1)."""
        if self._retention.has_grown():
            self.wake()

    def wake(self) -> None:
        """Look now what is to be done. O(1)."""
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
                    with trio.move_on_after(self._interval):
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
            _logger.debug("retention ends: %s", error)
            return False
        except Exception as error:  # noqa: BLE001 - nobody waits for it, so nobody could be told; the queue goes on
            _logger.warning("retention pauses for %d s: %s", _PATIENCE_SECONDS, error)
            await trio.sleep(_PATIENCE_SECONDS)
        return True

    async def _step(self) -> bool:
        """Do one step; return whether there was one."""
        retention = self._retention
        step = await trio.to_thread.run_sync(retention.plan, self._clock.now())
        if step is None:
            return False
        event = await trio.to_thread.run_sync(retention.prepare, step)
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await self._record(event)
            retention.settle(step)
            await trio.to_thread.run_sync(retention.finish, step)
        return True
