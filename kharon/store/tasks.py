"""What background tasks share: a wait that nothing cuts short, a log message that cannot raise, a process of Python.

None of it knows of queues.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import Abort

if TYPE_CHECKING:
    from _typeshed import HasFileno

__all__ = ["no_abort", "reap", "say", "start_python", "wait_out"]

_logger = logging.getLogger("kharon")
REAP_SECONDS: Final = 2.0  # a process ends in milliseconds, unless a sync hangs in the kernel, and then nothing helps


def no_abort(_raise_cancel: object) -> Abort:
    """Refuse to stop waiting: for `trio.lowlevel.wait_task_rescheduled`."""
    return Abort.FAILED


async def wait_out(wait: Callable[[], Awaitable[object]]) -> None:
    """Wait until `wait`, which must not raise, returns. Always a checkpoint.

    Neither a cancellation nor a Ctrl-C, which Trio delivers to the main task's waits, ends it early: use it only for
    what is sure to come, as a commit group that lands or a background task that was told to end. A Ctrl-C that comes
    meanwhile is raised at the main task's next wait of another kind, or at the end of the run. A shielded scope holds
    off cancellations only, so a system task does the waiting.
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

    A user's logging may raise. In a system task that would end the whole run; in a commit group its leader would get
    that exception in place of the outcome of the commit.
    """
    with contextlib.suppress(Exception):
        _logger.log(level, message, *args, stacklevel=2)


async def start_python(
    arguments: Sequence[str],
    *,
    stdin: HasFileno | int,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    cwd: str | None = None,
) -> trio.Process:
    """Start this interpreter as another process, in a session of its own: the terminal's Ctrl-C is for the parent.

    Not cancellable: a process that was started must become known here, to be reaped.

    Raises:
        OSError: there is no interpreter: `sys.executable` is the application itself, which would start once more, or is
            empty; or it cannot be started.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        raise OSError(f"there is no Python to run it: sys.executable, {sys.executable!r}, is another program")
    with trio.CancelScope(shield=True):
        process = await trio.lowlevel.open_process(
            (sys.executable, *arguments), stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, start_new_session=True
        )
    return process  # noqa: RET504 - a scope may swallow what is raised in it, so a return in it is not enough for mypy


async def reap(process: trio.Process) -> None:
    """Wait for a process that was told to end; kill it after `REAP_SECONDS`. Not cancellable."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(REAP_SECONDS):
            await process.wait()
            return
        process.kill()
        with trio.move_on_after(REAP_SECONDS):
            await process.wait()
