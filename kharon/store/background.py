"""Runs beside the store of a directory while it is open: snapshots, and the retention of old segments.

A separate process takes a snapshot, because writing a projection of a million tickets takes seconds. In the event loop,
or in a thread of the same interpreter, it would delay every task. The process reads the finished segments, so it needs
only the directory's name, and a pipe: when this process ends, the pipe closes, and that process ends too. No command
waits for a snapshot. Trimming does: the process also reports up to which seq two verified snapshots hold everything.

Retention takes one step after the other, as `kharon.log.retention` plans them. A thread does everything that reads or
writes a segment: zstd and SHA-256 release the GIL for each chunk, so the loop goes on. Measured while three segments of
8 MiB were compressed: the loop's longest stall was 1.2 ms, against 0.8 ms when idle (`benchmarks/retention.py` prints
both). The records of retention are appended on the loop, in a commit group like any other commit.

`kharon.log.snapshot` defines the contents of a snapshot. This module decides no commands.
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
from kharon.log.messages import say
from kharon.log.retention import Action, Retention, RetentionRules, Step, Threshold
from kharon.log.snapshot import kept_since
from kharon.model.events import Event
from kharon.settings import Settings
from kharon.store.protocol import Clock
from kharon.store.tasks import reap, start_python, wait_out

__all__ = ["Background", "RetentionTask", "SnapshotTask"]

RecordEvent: TypeAlias = Callable[[Event], Awaitable[None]]
"""Appends an event about the log to the log, and returns once the event is on disk."""

_NO_INDEX = 2  # the exit status of `snapshot_process.main` for a missing index
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from kharon.log.snapshot_process import main; sys.exit(main(lifeline=0))"
)
_RETRY_SECONDS: Final = 60  # until a failed action is tried again
_PLAN: Final = "plan its next step"


class Background:
    """The background tasks of a directory's store, as the settings ask for them.

    Args:
        log: the log of the directory.
        settings: the settings of the queue.
        clock: gives the present time.

    Attributes:
        snapshots: takes snapshots; None: the settings disable them.
        retention: compresses, archives and trims; None: the settings ask for none of it.

    Raises:
        KharonError: the settings ask for compression, and zstd is not installed.
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

    def start(self, record: RecordEvent) -> None:
        """Start the tasks, once the log is open; `record` appends an event about the log."""
        if self.snapshots is not None:
            self.snapshots.start()
        if self.retention is not None:
            self.retention.start(record)

    async def stop(self) -> None:
        """Stop the tasks; call it before the log is closed. Not cancellable."""
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
    """Takes a snapshot whenever enough bytes of the log have been sealed since the last one.

    Args:
        log: the log of the queue.
        every: the number of sealed bytes that make a snapshot due.
        trims: whether trimming is enabled; then one snapshot is taken at the start, too.
        taken: called after each attempt to take one.
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
        """Start, as a system task: it outlives the task that opened the queue, and its failure ends no other task."""
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, self._ended)
        if self._trims:
            self._due.set()
        self.look()

    def look(self) -> None:
        """Check whether a snapshot is due, since the log has begun another segment. O(1)."""
        if self._log.unsaved >= self._every:
            self._due.set()

    def may_trim(self, upto: int) -> bool:
        """Return whether the records up to a seq may be trimmed: two verified snapshots that still exist hold them.

        May be called from any thread. Cost: that of listing the directory.

        Raises:
            OSError: the snapshots cannot be listed.
        """
        return upto <= self._trimmable and upto <= kept_since(self._log.files, self._directory)

    async def stop(self) -> None:
        """Stop, and end a running process. An unfinished snapshot has another name, and does not count.

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
                    self._log.unsaved = 0  # also after a failure: the next segments make another snapshot due
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
            status, output, errors = await _run(["-c", program, *what, str(self._directory.absolute())])
        except Exception as error:  # noqa: BLE001 - no caller waits for a snapshot, so the log message is the report
            self._warn(error)
            return
        if status:
            why = errors.decode("utf-8", "replace").strip().splitlines()
            self._warn(why[-1] if why else status, "index" if status == _NO_INDEX else "snapshot")
        if self._trims and status in {0, _NO_INDEX}:  # a missing index does not harm the snapshot
            self._trimmable = int((output.split() or [b"0"])[-1])


async def _run(arguments: Sequence[str]) -> tuple[int, bytes, bytes]:
    """Run Python; return its exit status, its stdout, which must be short, and its stderr. Kill it if cancelled.

    All in the calling task, a system task, which Ctrl-C does not reach. `trio.run_process` starts tasks that Ctrl-C
    does reach, and an exception in one of them ends the whole Trio run.
    """
    theirs, ours = os.pipe()
    # This end closes when this process ends, however it ends; that ends the program too.
    lifeline = close_in_children(os.fdopen(ours, "wb", buffering=0))
    try:
        process = await start_python(arguments, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            async with process.stdout, process.stderr:
                errors = b"".join([piece async for piece in process.stderr])
                output = b"".join([piece async for piece in process.stdout])
            return await process.wait(), output, errors
        finally:
            if process.returncode is None:
                process.kill()
            await reap(process)
    finally:
        os.close(theirs)
        lifeline.close()


# --- retention --------------------------------------------------------------------------------------------------------


class RetentionTask:
    """Carries out the steps that retention plans, until it is stopped. A failed action pauses; the others go on.

    Args:
        retention: plans and performs the steps.
        clock: gives the present time.
        interval: at most so many seconds between two checks of the age of segments.
    """

    def __init__(self, retention: Retention, clock: Clock, interval: float) -> None:
        self._retention = retention
        self._clock = clock
        self._interval = interval
        self._scope = trio.CancelScope()
        self._due = trio.Event()
        self._ended: trio.Event | None = None
        self._refused: dict[Action, float] = {}  # paused actions, each with the Trio time of its end
        self._warned: dict[str, str] = {}  # the last warning about each action

    def start(self, record: RecordEvent) -> None:
        """Start, as a system task: it outlives the task that opened the queue, and its failure ends no other task."""
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, record, self._ended)

    def wake(self) -> None:
        """Plan now, since the log has begun another segment, or a snapshot was taken. O(1)."""
        self._due.set()

    async def stop(self) -> None:
        """Stop: finish a step that was recorded, and drop any other. Not cancellable."""
        self._scope.cancel()
        self._retention.stop()
        if self._ended is not None:
            await wait_out(self._ended.wait)

    async def _run(self, record: RecordEvent, ended: trio.Event) -> None:
        try:
            with self._scope:
                while await self._work(record):
                    with trio.move_on_at(min([trio.current_time() + self._interval, *self._refused.values()])):
                        await self._due.wait()
                    self._due = trio.Event()
        finally:
            ended.set()

    async def _work(self, record: RecordEvent) -> bool:
        """Do the steps that are due; return whether there may be more later."""
        try:
            while await self._step(record):
                pass
        except (Closed, CommitOutcomeUnknown) as error:  # the store has reported a failure, or is closing
            say(logging.DEBUG, "retention ends: %s", error)
            return False
        except Exception as error:  # noqa: BLE001 - no caller waits for it; the queue goes on
            self._warn(_PLAN, error)
        return True

    async def _step(self, record: RecordEvent) -> bool:
        """Try one step; return whether there was one."""
        now = trio.current_time()
        self._refused = {action: until for action, until in self._refused.items() if until > now}
        step = await trio.to_thread.run_sync(self._retention.plan, self._clock.now(), tuple(self._refused))
        self._warned.pop(_PLAN, None)
        if step is None:
            return False
        try:
            await self._carry_out(step, record)
        except (Closed, CommitOutcomeUnknown):
            raise
        except Exception as error:  # noqa: BLE001 - as above; other actions may still succeed
            self._refused[step.action] = trio.current_time() + _RETRY_SECONDS
            self._warn(step.action, error)
        else:
            self._warned.pop(step.action, None)
        return True

    async def _carry_out(self, step: Step, record: RecordEvent) -> None:
        retention = self._retention
        event = await trio.to_thread.run_sync(retention.prepare, step)
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await record(event)
            retention.switch(step)
            await trio.to_thread.run_sync(retention.finish, step)

    def _warn(self, action: str, error: Exception) -> None:
        """Log why an action cannot be done, once until the reason changes."""
        why = str(error)
        if self._warned.get(action) != why:
            self._warned[action] = why
            say(logging.WARNING, "retention cannot %s, and will try again: %s", action, why)
