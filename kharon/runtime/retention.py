"""Retention in the background: while the queue is open, one step after the other, as `kharon.log.retention` plans them.

All that reads or writes a segment runs in a thread: zstd and SHA-256 let go of the GIL for each chunk of it, so the
loop goes on (measured while three segments of 8 MiB were compressed: its longest stall was 1.2 ms, against 0.8 ms of
an idle one; `tests/log/test_retention.py` prints both when it is run as a program). What is decided, and recorded,
happens on the loop, between commit groups like any other commit.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from kharon.errors import KharonError
from kharon.log.retention import Limit, Policy, Retention, Step
from kharon.model.events import Event
from kharon.settings import Settings
from kharon.store.protocol import Clock

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
        self._grown = trio.Event()
        self._ended: trio.Event | None = None

    def start(self) -> None:
        """Begin, in a system task."""
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run)

    def look(self) -> None:
        """Notice that the log has begun another segment. Called between commit groups; O(1)."""
        if self._retention.has_grown():
            self._grown.set()

    async def stop(self) -> None:
        """Stop, after what is being done just now: a step that was recorded is finished, another is dropped."""
        self._scope.cancel()
        if self._ended is not None:
            with trio.CancelScope(shield=True):
                await self._ended.wait()

    async def _run(self) -> None:
        assert self._ended is not None
        try:
            with self._scope:
                while True:
                    await self._work()
                    with trio.move_on_after(self._interval):
                        await self._grown.wait()
                    self._grown = trio.Event()
        finally:
            self._ended.set()

    async def _work(self) -> None:
        try:
            while await self._step():
                pass
        except (OSError, KharonError) as error:  # the queue goes on; if it is closed, this is stopped soon
            _logger.warning("retention pauses for %d s: %s", _PATIENCE_SECONDS, error)
            await trio.sleep(_PATIENCE_SECONDS)

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
            await self._settle(step)
        return True

    async def _settle(self, step: Step) -> None:
        self._retention.settle(step)
        await trio.to_thread.run_sync(self._retention.finish, step)
