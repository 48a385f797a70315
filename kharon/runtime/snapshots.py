"""Snapshots in the background: when they are due, and the process that takes them.

A process, because a projection of a million tickets takes seconds to write: in the event loop, or in a thread that
shares its interpreter, everybody would feel it. It reads the finished segments, so it needs nothing from this process
but the directory's name, and a pipe that closes when this process ends, which ends it too. No command waits for it;
trimming does, since it also says up to where two verified snapshots hold everything (`may_trim`). What a snapshot is
and how it is taken is in `log.snapshot`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import trio

from kharon.log.directory import DirectoryLog
from kharon.log.snapshot import kept_since
from kharon.store.tasks import reap, say, wait_out

__all__ = ["Snapshots"]

_NO_INDEX = 2  # what `main` returns
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from kharon.log.snapshot_process import main; sys.exit(main(lifeline=0))"
)


class Snapshots:
    """Takes a snapshot of a queue whenever enough of its log is in none.

    Args:
        log: the queue's log.
        every: how many bytes of finished segments make a snapshot due.
        trims: whether it matters what the snapshots allow to be trimmed: then one is taken at once, too.
        taken: called after each that was taken, or was not.
    """

    def __init__(
        self, log: DirectoryLog, every: int, *, trims: bool = False, taken: Callable[[], None] = lambda: None
    ) -> None:
        self._log = log
        self._directory = log.directory
        self._every = every
        self._trims = trims
        self._taken = taken
        self._trimmable = 0
        self._due = trio.Event()
        self._scope = trio.CancelScope()
        self._ended: trio.Event | None = None

    def start(self) -> None:
        """Begin to look; as a system task, since it must outlive whoever opened the queue, and fail nobody."""
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, self._ended)
        if self._trims:
            self._due.set()
        self.look()

    def look(self) -> None:
        """See whether a snapshot is due: the log has begun another segment. O(1)."""
        if self._log.unsaved >= self._every:
            self._due.set()

    def may_trim(self, upto: int) -> bool:
        """Return whether the records up to a seq may be trimmed: two verified snapshots hold them, and are still there.

        May be called from any thread. Cost: that of a listing.

        Raises:
            OSError: the snapshots cannot be listed.
        """
        return upto <= self._trimmable and upto <= kept_since(self._log.files, self._directory)

    async def stop(self) -> None:
        """End, and the process too if it runs: an unfinished snapshot has another name, and does not count.

        Not cancellable.
        """
        self._scope.cancel()
        if self._ended is not None:
            await wait_out(self._ended.wait)

    async def _run(self, ended: trio.Event) -> None:
        try:
            with self._scope:
                while True:
                    await self._due.wait()
                    self._due = trio.Event()
                    self._log.unsaved = 0  # taken or not: what could not be saved now is tried again with what comes
                    await self._take()
                    self._taken()
        finally:
            ended.set()

    def _warn(self, why: object, lacking: str = "snapshot") -> None:
        say(logging.WARNING, "no %s of %s: %s", lacking, self._directory, why)

    async def _take(self) -> None:
        program = _PROGRAM.format(path=sys.path)
        what = ["trimmable"] if self._trims else []
        command = [sys.executable, "-c", program, *what, str(self._directory.absolute())]
        try:
            status, told, said = await _run(command)
        except Exception as error:  # noqa: BLE001 - nobody waits for a snapshot, so nobody could be told
            self._warn(error)
            return
        if status:
            why = said.decode("utf-8", "replace").strip().splitlines()
            self._warn(why[-1] if why else status, "index" if status == _NO_INDEX else "snapshot")
        if self._trims and status in {0, _NO_INDEX}:  # without an index a snapshot is none the worse
            self._trimmable = int((told.split() or [b"0"])[-1])


async def _run(command: Sequence[str]) -> tuple[int, bytes, bytes]:
    """Run a program; return its status, and what it said on stdout, which is little, and stderr. If cancelled, kill it.

    In one task, which is a system task and so out of the reach of Ctrl-C. Those that `trio.run_process` starts are not,
    and what is raised in there ends the whole run.
    """
    theirs, ours = os.pipe()  # closed with this process, however it ends: then that one ends too
    try:
        with trio.CancelScope(shield=True):  # what has been started must become known here, to be ended
            process = await trio.lowlevel.open_process(
                command,
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C is for the application to handle
            )
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            async with process.stdout, process.stderr:
                said = b"".join([piece async for piece in process.stderr])
                told = b"".join([piece async for piece in process.stdout])
            return await process.wait(), told, said
        finally:
            if process.returncode is None:
                process.kill()
            await reap(process)
    finally:
        os.close(theirs)
        os.close(ours)
