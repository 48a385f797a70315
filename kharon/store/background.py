"""What runs beside the store of a directory while it is open: snapshots, and the retention of old segments.

A snapshot is taken by a process of its own, because a projection of a million tickets takes seconds to write: in the
event loop, or in a thread that shares its interpreter, every task would feel it. The process reads the finished
segments, so it needs only the directory's name, and a pipe that closes when this process ends, which ends it too. No
command waits for it; trimming does, since it also says up to where two verified snapshots hold everything.

Retention goes one step after the other, as `kharon.log.retention` plans them. All that reads or writes a segment runs
in a thread: zstd and SHA-256 release the GIL for each chunk of it, so the loop goes on (measured while three segments
of 8 MiB were compressed: its longest stall was 1.2 ms, against 0.8 ms of an idle one; `benchmarks/retention.py` prints
both). Its records are appended on the loop, in a commit group like any other commit.

What a snapshot is and how it is taken is in `kharon.log.snapshot`, and nothing here decides a command.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import trio

from kharon.errors import Closed, CommitOutcomeUnknown
from kharon.log.directory import DirectoryLog
from kharon.log.forks import close_in_children
from kharon.log.retention import Action, Retention, RetentionRules, Step, Threshold
from kharon.log.snapshot import kept_since
from kharon.model.events import Event
from kharon.settings import Settings
from kharon.store.protocol import Clock
from kharon.store.tasks import reap, say, start_python, wait_out

__all__ = ["Background", "RetentionTask", "SnapshotTask"]

Record: TypeAlias = Callable[[Event], Awaitable[None]]
"""Appends an event about the log to it, and returns once that is on disk."""

_NO_INDEX = 2  # what `main` returns
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from kharon.log.snapshot_process import main; sys.exit(main(lifeline=0))"
)
_PATIENCE_SECONDS: Final = 60  # between two tries at what was refused
_PLAN: Final = "see what is to be done"


class Background:
    """All that runs beside the store of a directory, as the settings say.

    Args:
        log: the directory's log.
        settings: the queue's.
        clock: tells the time.

    Attributes:
        snapshots: takes snapshots; None: there are to be none.
        retention: compresses, archives and trims; None: nothing is to be.

    Raises:
        KharonError: segments are to be compressed, and zstd is not installed.
    """

    def __init__(self, log: DirectoryLog, settings: Settings, clock: Clock) -> None:
        rules = RetentionRules(
            Threshold(settings.compress_after, settings.compress_beyond_bytes),
            Threshold(settings.archive_after, settings.archive_beyond_bytes),
            Threshold(settings.trim_after, settings.trim_beyond_bytes),
        )
        self.snapshots: SnapshotTask | None = None
        self.retention: RetentionTask | None = None
        if settings.snapshot_bytes is not None:
            self.snapshots = SnapshotTask(log, settings.snapshot_bytes, trims=bool(rules.trim), taken=self._look_again)
        if rules:
            archive = settings.archive_directory
            retention = Retention(log, rules, None if archive is None else Path(archive), self._may_trim)
            self.retention = RetentionTask(retention, clock, settings.max_poll_interval)
        log.on_new_segment = self._segment_begun

    def start(self, record: Record) -> None:
        """Begin, once the log is open; `record` appends an event about the log."""
        if self.snapshots is not None:
            self.snapshots.start()
        if self.retention is not None:
            self.retention.start(record)

    async def stop(self) -> None:
        """End all of it, before the log is closed. Not cancellable."""
        if self.snapshots is not None:
            await self.snapshots.stop()
        if self.retention is not None:
            await self.retention.stop()

    def _segment_begun(self) -> None:
        if self.snapshots is not None:
            self.snapshots.look()
        self._look_again()

    def _look_again(self) -> None:
        if self.retention is not None:
            self.retention.wake()

    def _may_trim(self, upto: int) -> bool:
        return self.snapshots is not None and self.snapshots.may_trim(upto)


# --- snapshots --------------------------------------------------------------------------------------------------------


class SnapshotTask:
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
        try:
            status, told, said = await _run(["-c", program, *what, str(self._directory.absolute())])
        except Exception as error:  # noqa: BLE001 - nobody waits for a snapshot, so nobody could be told
            self._warn(error)
            return
        if status:
            why = said.decode("utf-8", "replace").strip().splitlines()
            self._warn(why[-1] if why else status, "index" if status == _NO_INDEX else "snapshot")
        if self._trims and status in {0, _NO_INDEX}:  # without an index a snapshot is none the worse
            self._trimmable = int((told.split() or [b"0"])[-1])


async def _run(arguments: Sequence[str]) -> tuple[int, bytes, bytes]:
    """Run Python; return its status, and what it said on stdout, which is little, and stderr. If cancelled, kill it.

    In one task, which is a system task and so out of the reach of Ctrl-C. Those that `trio.run_process` starts are not,
    and what is raised in there ends the whole run.
    """
    theirs, ours = os.pipe()
    # It closes when this process ends, however it ends; then that one ends too.
    lifeline = close_in_children(os.fdopen(ours, "wb", buffering=0))
    try:
        process = await start_python(arguments, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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
        lifeline.close()


# --- retention --------------------------------------------------------------------------------------------------------


class RetentionTask:
    """Does what retention plans, until it is stopped. What is refused is left out for a while; the rest goes on.

    Args:
        retention: plans and performs.
        clock: what tells the time.
        interval: seconds between two looks at the age of segments, at most.
    """

    def __init__(self, retention: Retention, clock: Clock, interval: float) -> None:
        self._retention = retention
        self._clock = clock
        self._interval = interval
        self._scope = trio.CancelScope()
        self._due = trio.Event()
        self._ended: trio.Event | None = None
        self._refused: dict[Action, float] = {}  # what is left out, and until when by Trio's clock
        self._said: dict[str, str] = {}  # what cannot be done, and why

    def start(self, record: Record) -> None:
        """Begin; as a system task, since it must outlive whoever opened the queue, and fail nobody."""
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, record, self._ended)

    def wake(self) -> None:
        """Look now what is to be done: the log has begun another segment, or a snapshot was taken. O(1)."""
        self._due.set()

    async def stop(self) -> None:
        """Stop: a step that was recorded is finished, another is given up. Not cancellable."""
        self._scope.cancel()
        self._retention.stop()
        if self._ended is not None:
            await wait_out(self._ended.wait)

    async def _run(self, record: Record, ended: trio.Event) -> None:
        try:
            with self._scope:
                while await self._work(record):
                    with trio.move_on_at(min([trio.current_time() + self._interval, *self._refused.values()])):
                        await self._due.wait()
                    self._due = trio.Event()
        finally:
            ended.set()

    async def _work(self, record: Record) -> bool:
        """Do what there is to do; return whether there may be more, later."""
        try:
            while await self._step(record):
                pass
        except (Closed, CommitOutcomeUnknown) as error:  # the store has said why, or nothing is wrong
            say(logging.DEBUG, "retention ends: %s", error)
            return False
        except Exception as error:  # noqa: BLE001 - nobody waits for it, so nobody could be told; the queue goes on
            self._warn(_PLAN, error)
        return True

    async def _step(self, record: Record) -> bool:
        """Do one step, or be refused it; return whether there was one."""
        now = trio.current_time()
        self._refused = {action: until for action, until in self._refused.items() if until > now}
        step = await trio.to_thread.run_sync(self._retention.plan, self._clock.now(), tuple(self._refused))
        self._said.pop(_PLAN, None)
        if step is None:
            return False
        try:
            await self._carry_out(step, record)
        except (Closed, CommitOutcomeUnknown):
            raise
        except Exception as error:  # noqa: BLE001 - as above; other actions may go all the same
            self._refused[step.action] = trio.current_time() + _PATIENCE_SECONDS
            self._warn(step.action, error)
        else:
            self._said.pop(step.action, None)
        return True

    async def _carry_out(self, step: Step, record: Record) -> None:
        retention = self._retention
        event = await trio.to_thread.run_sync(retention.prepare, step)
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await record(event)
            retention.switch(step)
            await trio.to_thread.run_sync(retention.finish, step)

    def _warn(self, what: str, error: Exception) -> None:
        """Say why something cannot be done, once for as long as it cannot for that reason."""
        why = str(error)
        if self._said.get(what) != why:
            self._said[what] = why
            say(logging.WARNING, "retention cannot %s, and tries again: %s", what, why)
