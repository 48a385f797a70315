"""Waiting that nothing cuts short: neither a cancellation nor a Ctrl-C, which Trio delivers to the main task's waits.

For what is sure to come: a commit group that lands, a background task that has been told to end. A Ctrl-C that comes
meanwhile is raised at the main task's next wait of another kind, or at the end of the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio.lowlevel import Abort

__all__ = ["no_abort", "wait_out"]


def no_abort(_raise_cancel: object) -> Abort:
    """Refuse to stop waiting: for `trio.lowlevel.wait_task_rescheduled`."""
    return Abort.FAILED


async def wait_out(wait: Callable[[], Awaitable[object]]) -> None:
    """Wait until `wait`, which must not raise, returns; whatever comes in between. Lets others run in any case.

    A shielded scope would not do: it holds off cancellations only. So it is a system task that waits.
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
