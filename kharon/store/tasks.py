"""Helpers for background tasks: an uncancellable wait, a Python process and its end.

This module does not know about queues.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import Abort

if TYPE_CHECKING:
    from _typeshed import HasFileno

__all__ = ["no_abort", "reap", "start_python", "wait_out"]

REAP_SECONDS: Final = 2.0
"""A process ends in milliseconds, unless a sync hangs in the kernel; then even a kill does not help."""


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


async def start_python(
    arguments: Sequence[str],
    *,
    stdin: HasFileno | int,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    cwd: str | None = None,
) -> trio.Process:
    """Start this interpreter as another process, in a session of its own: the terminal's Ctrl-C is for the parent.

    Not cancellable: a started process must be known here, to be reaped.

    Raises:
        OSError: there is no interpreter: `sys.executable` is the application itself, which would start once more, or is
            empty; or it cannot be started.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        raise OSError(f"there is no Python to run it: sys.executable is {sys.executable!r}, another program")
    with trio.CancelScope(shield=True):
        process = await trio.lowlevel.open_process(
            (sys.executable, *arguments), stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, start_new_session=True
        )
    return process  # noqa: RET504 - a scope may swallow what is raised in it, so a return in it is not enough for mypy


async def reap(process: trio.Process) -> None:
    """Wait for a process that should be ending; kill it after `REAP_SECONDS`. Not cancellable."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(REAP_SECONDS):
            await process.wait()
            return
        process.kill()
        with trio.move_on_after(REAP_SECONDS):
            await process.wait()
