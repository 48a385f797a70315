"""Group commit: writes and syncs appended records in groups, and tells every caller of a group the outcome.

    gathering   the open group: commits join it (`join`), and their callers wait in `durable`
    in flight   written, and being synced by the helper
    durable     its changes are delivered, and its callers go on

The first caller that waits for a group leads it. The leader lets every runnable task run, then writes and syncs the
gathered records. So a lone caller pays one trip through the scheduler, and many callers share one sync.

The sync is inline while the disk is fast. On a slow disk (`Pace`) a helper process does it, if the log offers a
descriptor for that. One group is then in flight while the next one gathers, and the next is written only after the
first is durable. So written records are always durable or in flight, a sync covers exactly its own group, and a failure
reaches both groups. The same holds for the syncs with which a log begins a new segment.

If a write finds no room, nothing of the group was kept. Its effects are undone in the projection, newest first
(`_take_back`), and the store goes on. It then refuses every event that lets the queue grow (`Event.ends`), except for
one attempt each second.

If a write or a sync fails otherwise, the projection is ahead of the log for good. Callers in flight are told that the
outcome is unknown, and the owner of this object that it is broken. This module does not decide commands.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import sys
from collections.abc import Callable, Sequence
from typing import Final, Literal, NoReturn

import outcome
import trio
from trio.lowlevel import Task, enable_ki_protection

from kharon.errors import CommitOutcomeUnknown, KharonError, StorageFull
from kharon.log.messages import say
from kharon.log.protocol import EventLog, Rotation, Sync, SyncedElsewhere
from kharon.model.projection import Effect, Projection
from kharon.store.protocol import Deliver
from kharon.store.sync_helper import AnswerLost, Pace, Syncer
from kharon.store.tasks import no_abort, wait_out

__all__ = ["TRY_SECONDS", "Commits", "unknown_outcome"]

TRY_SECONDS: Final = 1.0
"""Seconds between two attempts to write to a full disk; each costs a failed allocation and a failed write."""
_GATHER_PASSES = 3

_LOST_SYNC_IS_REPEATED: Final = sys.platform == "linux"
"""Whether a sync is repeated inline if the helper ended before it answered.

This is not a retry of a failed sync: whether it failed is unknown. If it did fail, the repeated sync must fail too. It
must not succeed because the kernel has dropped the pages and reported the error to the dead helper. Linux keeps a
cursor into a file's errors for each open file description (errseq_t), and the helper received a different description
from the log's (`File.twin`). The inline sync is the first of its description since the bytes were written, so it
reports any error. Other systems do not promise that; there a lost answer counts as a failure, and the store breaks.
"""


class _Group:
    """Commits that become durable together.

    Attributes:
        commits: the effects of each commit, in order; empty for a sync in the background.
        grows: whether any commit lets the queue grow.
        leader: the task that writes the group, and is told if that fails; None: no task waits yet.
        deferred: whether the leader leaves the writing to `_resume_writing`, since another sync is under way.
        waiting: the tasks that wait for the group, including the leader while the group is deferred or in flight.
        internal: those of its tasks that report to no user.
    """

    __slots__ = ("commits", "deferred", "grows", "internal", "leader", "waiting")

    def __init__(self) -> None:
        self.grows = False
        self.deferred = False
        self.commits: list[Sequence[Effect]] = []
        self.leader: Task | None = None
        self.internal: list[Task] = []
        self.waiting: list[Task] = []

    @property
    def users(self) -> bool:
        """Whether the outcome is reported to any user."""
        return any(task not in self.internal for task in (self.leader, *self.waiting))


async def _until_durable(group: _Group) -> None:
    """Wait until a group is durable, or has failed. Not cancellable."""
    group.waiting.append(trio.lowlevel.current_task())
    await trio.lowlevel.wait_task_rescheduled(no_abort)


def _for_leader(group: _Group, lead: Callable[[], bool]) -> None:
    """Call `lead` for a group whose leader waits, and wake the leader with the outcome, unless the group is in flight.

    Never raises: it runs in the helper's task, where an exception from a user's logging would end the whole Trio run.
    """
    leader = group.leader
    assert leader is not None
    group.waiting.remove(leader)
    led = outcome.capture(lead)
    if led == outcome.Value(False):
        group.waiting.append(leader)
    else:
        trio.lowlevel.reschedule(leader, led)


class Commits:
    """The commit groups of a log.

    Args:
        log: the log to write.
        projection: the state in which a group without room is undone.
        deliver: called with the changes of each durable commit, before the callers of its group go on.
        always: whether a group is durable only when it has been synced.
        on_durable: called when a group has become durable.
        on_room: called when there is room again.
        on_failure: called once, with the failure that ends all writing.
        helper: makes the helper that syncs outside of the loop; called once the disk has been found slow.

    Attributes:
        failure: the failure that ended all writing; None: there was none.
        told: whether any user has been told of the failure.
        group_grew: whether the last group without room let the queue grow.
    """

    def __init__(
        self,
        log: EventLog,
        projection: Projection,
        deliver: Deliver,
        *,
        always: bool,
        on_durable: Callable[[], None],
        on_room: Callable[[], None],
        on_failure: Callable[[BaseException], None],
        helper: Callable[[], Syncer],
    ) -> None:
        self.failure: BaseException | None = None
        self.told = False
        self.group_grew = False
        self._log = log
        self._projection = projection
        self._deliver = deliver
        self._always = always
        self._on_durable = on_durable
        self._on_room = on_room
        self._on_failure = on_failure
        self._group: _Group | None = None
        self._crowd = 0  # the number of tasks that waited for the last group
        self._full: StorageFull | None = None  # the error of the last write that found no room; None: there is room
        self._retry_at = -math.inf  # Trio's time of the next attempt to write without room
        self._elsewhere = log if isinstance(log, SyncedElsewhere) else None
        self._pace = Pace()
        self._make_helper = helper
        self._helper: Syncer | None = None
        self._in_flight: _Group | None = None
        self._rotation: Rotation | None = None  # the rotation that the helper syncs now; nothing is written meanwhile
        self._idle = trio.lowlevel.ParkingLot()  # tasks that wait until the helper has nothing to do
        self._unsynced = trio.Event()
        self._syncer = trio.CancelScope()
        self._syncer_ended: trio.Event | None = None

    # --- groups -------------------------------------------------------------------------------------------------------

    def join(self, effects: Sequence[Effect], *, grows: bool) -> None:
        """Add a commit to the open group, without a checkpoint since its records were appended. O(1).

        Args:
            effects: its effects, at least one.
            grows: whether any of them lets the queue grow.
        """
        group = self._group
        if group is None:
            group = self._group = _Group()
        group.grows = group.grows or grows
        group.commits.append(effects)

    @enable_ki_protection
    async def durable(self) -> None:
        """Wait until all commits so far are durable. A checkpoint, and not cancellable.

        Raises:
            StorageFull: there was no room, and the open group was undone.
            CommitOutcomeUnknown: a write failed, so they may not be durable.
        """
        group = self._group or (self._in_flight if self._always else None)
        if group is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if group.leader is None:
            group.leader = trio.lowlevel.current_task()
            if not self._must_wait():
                await self._gather(group)
            if self._must_wait():  # the group goes on gathering until `_resume_writing` writes it
                group.deferred = True
            elif self._flush(group):
                return
        await _until_durable(group)

    async def on_disk(self) -> None:
        """Wait until all commits so far are on disk, whatever "durable" means. Not cancellable.

        For internal tasks: a failure is still to be reported to a user.

        Raises:
            StorageFull, CommitOutcomeUnknown: as `durable`.
        """
        group, seq = self._group, self._projection.seq
        assert group is not None
        group.internal.append(trio.lowlevel.current_task())
        await self.durable()
        if self._log.durable < seq:
            await self._sync_written()

    def _must_wait(self) -> bool:
        """Whether writing has to wait for another sync or rotation."""
        return self._rotation is not None or (self._always and self._in_flight is not None)

    async def _gather(self, group: _Group) -> None:
        """Let other tasks add their commits, until as many wait as for the last group; at most `_GATHER_PASSES` passes.

        Trio runs a batch of tasks forwards or backwards, by chance, so one pass may reach the leader before all others.
        Measured with 100 tasks that add: 15 syncs per 1000 adds with one pass, 10 with up to three. A lone task, whose
        last group was as small, makes only one pass.
        """
        for _ in range(_GATHER_PASSES):
            await trio.lowlevel.cancel_shielded_checkpoint()
            if len(group.waiting) >= self._crowd:
                break
        self._crowd = len(group.waiting)

    def _flush(self, group: _Group) -> bool:
        """Write a group, and sync it if durable means synced; return whether it is durable, rather than in flight.

        Raises:
            StorageFull, CommitOutcomeUnknown: that failed. The tasks that wait for the group have been told.
        """
        self._group = None
        try:
            if self.failure is not None:  # a sync in the background failed after these were decided
                raise self.failure
            full = self._write()
            durable = full is None and (not self._always or self._sync(group))
        except BaseException as error:  # noqa: BLE001 - `_fail` raises the leader's error
            self._fail(group, error)
        if full is not None:
            self._take_back(group, full)
            raise self.no_room() from full
        if durable:
            self._unsynced.set()
            self._complete(group)
            self._begin_rotation()
        return durable

    def _write(self) -> StorageFull | None:
        """Write the appended records; if there was no room, return the error: nothing was kept.

        A `sync` that raises `StorageFull` is different: how much it kept is unknown, so it breaks the store.
        """
        if self._elsewhere is not None:
            self._elsewhere.rotates = not self._helper_syncs
        try:
            self._log.write()
        except StorageFull as full:
            return full
        return None

    def _complete(self, group: _Group) -> None:
        """Deliver the changes of a group that is durable now, and wake its tasks."""
        try:
            for commit in group.commits:
                self._deliver(commit)
        finally:  # `deliver` logs, and a user's logging may raise: the tasks that wait must be woken all the same
            for task in group.waiting:
                trio.lowlevel.reschedule(task)
            self._on_durable()
            if self._full is not None and group.grows:
                self._resume()

    def _fail(self, group: _Group, error: BaseException) -> NoReturn:
        """Break, tell the tasks that wait for a group, and raise the error for its leader."""
        self.told = self.told or group.users
        for task in group.waiting:
            trio.lowlevel.reschedule(task, outcome.Error(unknown_outcome(error)))
        self.fail(error)
        raise unknown_outcome(error) from error

    def fail(self, error: BaseException) -> None:
        """Refuse all writing from now on, for good."""
        if self.failure is None:
            self.failure = error
            self._on_failure(error)

    # --- without room -------------------------------------------------------------------------------------------------

    def may_grow(self) -> bool:
        """Return whether commits that let the queue grow are accepted: there is room, or a try is due. O(1)."""
        return self._full is None or trio.current_time() >= self._retry_at

    def no_room(self) -> StorageFull:
        """Return a new `StorageFull` for one caller. Raising changes an exception, so none is shared. O(1)."""
        assert self._full is not None
        told = StorageFull(*self._full.args)
        told.__cause__ = self._full
        return told

    def _take_back(self, group: _Group, full: StorageFull) -> None:
        """Undo a group without room in the projection, newest effect first, and tell the tasks that wait for it.

        No later commit depends on it. A group that gathers while another is in flight is written only after that one is
        durable, so the group being written is the newest. `_flush` writes everything decided and calls this without a
        checkpoint between. The group before it is durable, so no undone effect has left the store.

        Cost: O(its events log n).
        """
        assert self._group is None
        assert self._projection.seq == group.commits[-1][-1].seq
        for commit in reversed(group.commits):
            for effect in reversed(commit):
                self._projection.undo(effect)
        self.group_grew = group.grows
        self._retry_at = trio.current_time() + TRY_SECONDS
        begins, self._full = self._full is None, full
        for task in group.waiting:
            trio.lowlevel.reschedule(task, outcome.Error(self.no_room()))
        if begins:
            say(logging.ERROR, "no room: only commands that end something are accepted until there is room (%s)", full)

    def _resume(self) -> None:
        self._full = None
        self._on_room()
        say(logging.WARNING, "there is room again: all commands are accepted")

    # --- syncs --------------------------------------------------------------------------------------------------------

    @property
    def _helper_syncs(self) -> bool:
        """Whether the helper does the next sync."""
        return self._pace.slow and self._helper is not None and self._helper.ready

    def _sync(self, group: _Group) -> bool:
        """Sync the written records; return whether that is done: if not, the helper is doing it for the group.

        Raises:
            OSError: the inline sync failed.
        """
        if self._elsewhere is None:
            self._log.sync()
            return True
        if self._pace.slow and self._helper is None:
            self._helper = self._make_helper()
            self._helper.start()
        elif self._helper_syncs:
            return self._sync_elsewhere(self._elsewhere, group)
        begun = trio.current_time()
        self._log.sync()
        self._pace.add(trio.current_time() - begun)
        return True

    def _sync_elsewhere(self, log: SyncedElsewhere, group: _Group) -> bool:
        assert self._helper is not None
        fd = log.begin_sync()
        if fd is None:
            return True
        if not self._helper.request(fd, functools.partial(self._answered, log, group, self._log.written)):
            self._log.sync()
            return True
        self._in_flight = group
        return False

    def _answered(self, log: SyncedElsewhere, group: _Group, seq: int, error: OSError | None, seconds: float) -> None:
        """Complete a group whose sync the helper has ended, and go on writing."""
        self._in_flight = None
        _for_leader(group, lambda: self._complete_sync(log, group, seq, error, seconds))
        if not self._begin_rotation():
            self._resume_writing()

    def _begin_rotation(self) -> bool:
        """Begin a segment if one is due and `write` does not begin it; return whether it was begun. Never raises."""
        log = self._elsewhere
        busy = self._in_flight is not None or self._rotation is not None
        if log is None or log.rotates or busy or self.failure is not None:
            return False
        rotation = log.rotation()
        if rotation is None:
            return False
        self._rotation = rotation
        self._rotate(rotation, None)
        return True

    def _complete_sync(
        self, log: SyncedElsewhere, group: _Group, seq: int, error: OSError | None, seconds: float
    ) -> Literal[True]:
        try:
            if isinstance(error, AnswerLost) and _LOST_SYNC_IS_REPEATED:
                self._log.sync()
            else:
                log.end_sync(seq, error)
        except Exception as failure:  # noqa: BLE001 - after any failure the outcome is unknown
            self._fail(group, failure)
        self._pace.add(seconds)
        self._complete(group)
        return True

    def _rotate(self, rotation: Rotation, error: OSError | None) -> None:
        """Continue a rotation, given the error of its last sync, until it leaves its next sync to the helper.

        Never raises: it runs in the helper's task.
        """
        while True:
            try:
                step = next(rotation) if error is None else rotation.throw(error)
            except StopIteration:
                break
            except Exception as failure:  # noqa: BLE001 - after any failure the outcome is unknown
                self.fail(failure)
                break
            fd = step.twin()
            if fd is not None and self._request(
                fd, functools.partial(self._rotated, rotation, step), names=step.is_directory
            ):
                return
            error = _sync_here(step)
        self._rotation = None
        self._resume_writing()

    def _request(self, fd: int, done: Callable[[OSError | None, float], None], *, names: bool) -> bool:
        return self._helper is not None and self._helper.ready and self._helper.request(fd, done, names=names)

    def _rotated(self, rotation: Rotation, step: Sync, error: OSError | None, _seconds: float) -> None:
        if isinstance(error, AnswerLost) and _LOST_SYNC_IS_REPEATED:
            error = _sync_here(step)
        self._rotate(rotation, error)

    def _resume_writing(self) -> None:
        """Write the group that was deferred, if any. If writing has ended, its tasks are told so."""
        group = self._group
        if group is not None and group.deferred:
            group.deferred = False
            _for_leader(group, lambda: self._flush(group))
        if self._in_flight is None and self._rotation is None:
            self._idle.unpark_all()

    # --- the sync in the background, and the end ----------------------------------------------------------------------

    def start(self, interval: float) -> None:
        """Begin to sync in the background, at most `interval` seconds after a write."""
        self._syncer_ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._sync_regularly, interval, self._syncer_ended)

    async def _sync_regularly(self, interval: float, ended: trio.Event) -> None:
        try:
            with self._syncer:
                while True:
                    await self._unsynced.wait()
                    await trio.sleep(interval)
                    self._unsynced = trio.Event()
                    if self.failure is not None:
                        break
                    await self._sync_in_background()
        finally:
            ended.set()

    @enable_ki_protection
    async def _sync_in_background(self) -> None:
        with contextlib.suppress(CommitOutcomeUnknown):  # the next user of the queue is told
            await self._sync_written()

    async def _sync_written(self) -> None:
        """Sync the written records without a group. Not cancellable.

        Raises:
            CommitOutcomeUnknown: it failed; no user has been told.
        """
        while self._in_flight is not None or self._rotation is not None:  # again: other woken tasks may have begun one
            await self._until_helper_idle()
        group = _Group()
        group.leader = trio.lowlevel.current_task()
        group.internal.append(group.leader)
        try:
            if not self._sync(group):
                await _until_durable(group)
        except CommitOutcomeUnknown:
            raise
        except Exception as error:
            self.fail(error)
            raise unknown_outcome(error) from error

    async def _until_helper_idle(self) -> None:
        await wait_out(self._park_until_idle)

    async def _park_until_idle(self) -> None:
        while self._in_flight is not None or self._rotation is not None:
            await self._idle.park()

    async def finish(self) -> None:
        """Wait until all commits are durable, or have failed, and the helper is idle. Not cancellable.

        Raises:
            CommitOutcomeUnknown: a write failed, so they may not be durable.
        """
        await self._end_syncer()  # first: it must not find the log closed
        if self.failure is None:
            with contextlib.suppress(StorageFull):  # its callers are told
                await self.durable()
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
        await self._until_helper_idle()

    async def stop(self) -> None:
        """End the background sync and the helper. Not cancellable."""
        await self._end_syncer()
        if self._helper is not None:
            await self._helper.close()

    async def _end_syncer(self) -> None:
        self._syncer.cancel()
        if self._syncer_ended is not None and not self._syncer_ended.is_set():
            await wait_out(self._syncer_ended.wait)


def _sync_here(step: Sync) -> OSError | None:
    """Do a sync of a rotation inline; return its error, or None."""
    try:
        step.sync()
    except OSError as error:
        return error
    return None


def unknown_outcome(error: BaseException) -> KharonError:
    """Return a new exception about a failed write for one caller. Raising changes an exception, so none is shared."""
    told = CommitOutcomeUnknown(
        f"a write failed ({error}), so this commit may or may not be found when the queue is opened again; "
        f"the queue is closed: check the disk, open the queue again, and look whether it is there"
    )
    told.__cause__ = error
    return told
