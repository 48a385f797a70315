"""Helpers for background tasks: an uncancellable wait, a log message that never raises, reaping a process.

This module does not know about queues.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from trio.lowlevel import Abort

__all__ = ["no_abort", "reap", "say", "wait_out"]

_logger = logging.getLogger("kharon")
REAP_SECONDS: Final = (
    2.0  # a process ends in milliseconds, unless a sync hangs in the kernel; then even a kill does not help
)


def no_abort(_raise_cancel: object) -> Abort:
    """Refuse to stop waiting: for `trio.lowlevel.wait_task_rescheduled`."""
    return Abort.FAILED


async def wait_out(wait: Callable[[], Awaitable[object]]) -> None:
    """Wait until `wait` returns, which must not raise. Always a checkpoint, and not cancellable.

    Use it only for events that are sure to come, as the end of a commit group or of a background task. A Ctrl-C, which
    Trio delivers to the main task's waits, does not end it either: it is raised at the main task's next wait of another
    kind, or at the end of the run. A shielded scope stops cancellations only, so a system task does the waiting.
    """
    task = trio.lowlevel.current_task()

    async def wake() -> None:
        try:
            with trio.CancelScope(shield=True):  # a system task that crashes has Trio cancel all the others
                await wait()
        finally:
            trio.lowlevel.reschedule(task)

    trio.lowlevel.spawn_system_task(wake)
    await trio.lowlevel.wait_task_rescheduled(no_abort)


def say(level: int, message: str, *args: object) -> None:
    """Log a message. Never raises.

    A user's logging may raise. In a system task that would end the whole run. In a commit group, the leader would get
    that exception instead of the outcome of the commit.
    """
    with contextlib.suppress(Exception):
        _logger.log(level, message, *args, stacklevel=2)


async def reap(process: trio.Process) -> None:
    """Wait for a process that should be ending; kill it after `REAP_SECONDS`. Not cancellable."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(REAP_SECONDS):
            await process.wait()
            return
        process.kill()
        with trio.move_on_after(REAP_SECONDS):
            await process.wait()
