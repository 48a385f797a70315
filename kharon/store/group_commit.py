"""Group commit: what has been appended to the log is written and synced in groups, and all of a group hear of it.

    gathering   the open group: commits join it (`join`), and wait for it in `durable`
    in flight   written, and being synced by the helper
    landed      durable: it is delivered, and those who wait go on

The first to wait for a group leads it: it lets every task that can run do so, and then writes and syncs whatever has
gathered, so that a lone caller pays one trip through the scheduler and a crowd shares one sync.

The sync is inline while the disk is fast, and left to a helper process (`helper`) while it is slow (`pace`), if the log
offers a descriptor for that. One group is then in flight, and the next one gathers until it has landed: only then is
that one written, so that what is written is always either durable or in flight, a sync covers exactly its own group,
and a failure is told to both. The same goes for the syncs by which a log begins a new segment.

If a write finds no room, nothing of the group was kept, so its effects are taken back from the projection, newest first
(`_retreat`), and all goes on: whatever lets the queue grow (`Event.ends`) is refused, but for a try each second.

If a write or a sync fails otherwise, the projection is ahead of the log, for good: those in flight are told that the
outcome is not known, and whoever owns this that it is broken. What is decided, and when, is not known here.
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
from kharon.log.protocol import EventLog, Rotation, Sync, SyncedElsewhere
from kharon.model.projection import Effect, Projection
from kharon.store.protocol import Deliver
from kharon.store.sync_helper import AnswerLost, Pace, Syncer
from kharon.store.tasks import no_abort, say, wait_out

__all__ = ["TRY_SECONDS", "Commits", "unknown_outcome"]

TRY_SECONDS: Final = 1.0
"""Between two tries whether a full disk has room: each costs an allocation and a write that fail."""
_GATHER_PASSES = 3

_LOST_SYNC_IS_REPEATED: Final = sys.platform == "linux"
"""Whether a sync is done again, inline, if the helper ended before it said how the first went.

That is no retry of a failed sync: nobody knows that it failed. But if it did, the second must not succeed only because
the kernel has reported the error already, to a process that is gone, and dropped the pages. Linux keeps a cursor into a
file's errors for each open file description (errseq_t), and the helper was given another one than the log's
(`File.twin`): the inline sync is the first of its description since the bytes were written, so it hears of whatever
went wrong. Elsewhere nothing promises that; there a lost answer counts as a failure, and the store breaks.
"""


class _Group:
    """The commits that will be made durable together.

    Attributes:
        commits: the effects of each, in order; none: this stands for a sync in the background.
        grows: whether any of them lets the queue grow.
        leader: who writes them, and hears what goes wrong in that; None: nobody waits yet.
        held: whether the leader leaves the writing to whoever is told that what is in the way has ended.
        waiting: who waits for them; the leader, too, while they are held or in flight.
        silent: those of these, and of leaders, who tell no user what becomes of them.
    """

    __slots__ = ("commits", "grows", "held", "leader", "silent", "waiting")

    def __init__(self) -> None:
        self.grows = False
        self.held = False
        self.commits: list[Sequence[Effect]] = []
        self.leader: Task | None = None
        self.silent: list[Task] = []
        self.waiting: list[Task] = []

    @property
    def users(self) -> bool:
        """Whether any user hears what becomes of it."""
        return any(task not in self.silent for task in (self.leader, *self.waiting))


async def _landing(group: _Group) -> None:
    """Wait until a group is durable, or will not be. Not cancellable."""
    group.waiting.append(trio.lowlevel.current_task())
    await trio.lowlevel.wait_task_rescheduled(no_abort)


def _in_place_of_leader(group: _Group, lead: Callable[[], bool]) -> None:
    """Do for a group what its leader would, who waits; wake him with what it raises, unless it went in flight.

    Never raises: it is called in the helper's task, where whatever a user's logging raises would end the whole run.
    """
    leader = group.leader
    assert leader is not None
    group.waiting.remove(leader)
    landed = outcome.capture(lead)
    if landed == outcome.Value(False):
        group.waiting.append(leader)
    else:
        trio.lowlevel.reschedule(leader, landed)


class Commits:
    """The commit groups of a log, and what they did to the projection.

    Args:
        log: where they are written.
        projection: from which is taken back what found no room.
        always: whether a group is durable only when it has been synced.
        deliver: called with the changes of each durable commit, before those who wait for its group go on.
        landed: called when a group has become durable.
        resumed: called when there is room again.
        broke: called, once, with the failure after which nothing will be written any more.
        helper: makes what syncs instead of the loop, once the disk has been found slow.

    Attributes:
        failure: what ended it; None: nothing has.
        told: whether any user has heard of the failure.
        group_grew: whether any of the last group that found no room let the queue grow.
    """

    def __init__(
        self,
        log: EventLog,
        projection: Projection,
        deliver: Deliver,
        *,
        always: bool,
        landed: Callable[[], None],
        resumed: Callable[[], None],
        broke: Callable[[BaseException], None],
        helper: Callable[[], Syncer],
    ) -> None:
        self.failure: BaseException | None = None
        self.told = False
        self.group_grew = False
        self._log = log
        self._projection = projection
        self._deliver = deliver
        self._always = always
        self._landed = landed
        self._resumed = resumed
        self._broke = broke
        self._group: _Group | None = None
        self._crowd = 0  # how many waited for the last group
        self._full: StorageFull | None = None  # what the last write that found no room was told
        self._try_at = -math.inf  # when, by Trio's clock, whether there is room may next be tried
        self._elsewhere = log if isinstance(log, SyncedElsewhere) else None
        self._pace = Pace()
        self._make_helper = helper
        self._helper: Syncer | None = None
        self._in_flight: _Group | None = None
        self._rotation: Rotation | None = None  # whose sync the helper does just now; nothing is written meanwhile
        self._idle = trio.lowlevel.ParkingLot()  # who waits until the helper has nothing to do
        self._unsynced = trio.Event()
        self._syncer = trio.CancelScope()
        self._syncer_ended: trio.Event | None = None

    # --- groups -------------------------------------------------------------------------------------------------------

    def join(self, effects: Sequence[Effect], *, grows: bool) -> None:
        """Add a commit to the open group, in the stretch in which its records were appended. O(1).

        Args:
            effects: at least one.
            grows: whether any of it lets the queue grow.
        """
        group = self._group
        if group is None:
            group = self._group = _Group()
        group.grows = group.grows or grows
        group.commits.append(effects)

    @enable_ki_protection
    async def durable(self) -> None:
        """Wait until everything that has been decided so far is durable. A checkpoint, and not cancellable.

        Raises:
            StorageFull: it never will be: there was no room, and it was taken back.
            CommitOutcomeUnknown: it may not be.
        """
        group = self._group or (self._in_flight if self._always else None)
        if group is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if group.leader is None:
            group.leader = trio.lowlevel.current_task()
            if not self._must_wait():
                await self._gather(group)
            if self._must_wait():  # then the group goes on gathering until `_go_on` has it written
                group.held = True
            elif self._flush(group):
                return
        await _landing(group)

    async def on_disk(self) -> None:
        """Wait until everything that has been decided so far is on disk, whatever "durable" means. Not cancellable.

        For what is done for no user: one has yet to hear of a failure.

        Raises:
            StorageFull, CommitOutcomeUnknown: as `durable`.
        """
        group, seq = self._group, self._projection.seq
        assert group is not None
        group.silent.append(trio.lowlevel.current_task())
        await self.durable()
        if self._log.durable < seq:
            await self._sync_written()

    def _must_wait(self) -> bool:
        """Whether nothing may be written now."""
        return self._rotation is not None or (self._always and self._in_flight is not None)

    async def _gather(self, group: _Group) -> None:
        """Let other tasks add their commits to the group, until it is as large as the last one was, within reason.

        Trio runs a batch of tasks forwards or backwards, by chance, so one pass may come to the leader before all
        others. Measured with 100 adding tasks: 15 syncs per 1000 adds after one pass, 10 like this; a lone task, whose
        last group was as small, makes one pass only.
        """
        for _ in range(_GATHER_PASSES):
            await trio.lowlevel.cancel_shielded_checkpoint()
            if len(group.waiting) >= self._crowd:
                break
        self._crowd = len(group.waiting)

    def _flush(self, group: _Group) -> bool:
        """Write a group, and sync it if that is what durable means; return whether it is durable, not in flight.

        Raises:
            StorageFull, CommitOutcomeUnknown: that failed. Those who wait for the group have been told.
        """
        self._group = None
        try:
            if self.failure is not None:  # a sync in the background failed since these were decided
                raise self.failure
            full = self._write()
            landed = full is None and (not self._always or self._sync(group))
        except BaseException as error:  # noqa: BLE001 - `_fail` raises what it means
            self._fail(group, error)
        if full is not None:
            self._retreat(group, full)
            raise self.no_room() from full
        if landed:
            self._unsynced.set()
            self._land(group)
            self._begin_rotation()
        return landed

    def _write(self) -> StorageFull | None:
        """Write what has been appended; return why nothing of it was kept, if there was no room.

        Of a `sync` that raises `StorageFull` nobody knows what it has kept, so that breaks the store like any failure.
        """
        if self._elsewhere is not None:
            self._elsewhere.rotates = not self._leaves_syncs
        try:
            self._log.write()
        except StorageFull as full:
            return full
        return None

    def _land(self, group: _Group) -> None:
        """Let out what waited for a group, which is durable now."""
        try:
            for commit in group.commits:
                self._deliver(commit)
        finally:  # what is delivered gets logged, and a user's logging may raise: those who wait must not pay for it
            for task in group.waiting:
                trio.lowlevel.reschedule(task)
            self._landed()
            if self._full is not None and group.grows:
                self._resume()

    def _fail(self, group: _Group, error: BaseException) -> NoReturn:
        """Break, tell everybody who waits for a group, and raise what its leader is told."""
        self.told = self.told or group.users
        for task in group.waiting:
            trio.lowlevel.reschedule(task, outcome.Error(unknown_outcome(error)))
        self.fail(error)
        raise unknown_outcome(error) from error

    def fail(self, error: BaseException) -> None:
        """Write no more, for good."""
        if self.failure is None:
            self.failure = error
            self._broke(error)

    # --- without room -------------------------------------------------------------------------------------------------

    def may_grow(self) -> bool:
        """Whether what lets the queue grow is taken: there is room, or it is time to try whether there is. O(1)."""
        return self._full is None or trio.current_time() >= self._try_at

    def no_room(self) -> StorageFull:
        """Return what one caller is told while there is no room: each its own, since raising changes an exception."""
        assert self._full is not None
        told = StorageFull(*self._full.args)
        told.__cause__ = self._full
        return told

    def _retreat(self, group: _Group, full: StorageFull) -> None:
        """Take a group for which there was no room back from the projection, newest first; tell those who wait for it.

        Nothing was decided on top of it. One that gathers while another is in flight is not written before that one has
        landed, so a group that is being written is the newest; `_flush` writes all that has been decided, and comes
        here, in one stretch. And the one before it has landed, so nothing that is taken back was let out.

        Cost: O(its events log n).
        """
        assert self._group is None
        assert self._projection.seq == group.commits[-1][-1].seq
        for commit in reversed(group.commits):
            for effect in reversed(commit):
                self._projection.undo(effect)
        self.group_grew = group.grows
        self._try_at = trio.current_time() + TRY_SECONDS
        begins, self._full = self._full is None, full
        for task in group.waiting:
            trio.lowlevel.reschedule(task, outcome.Error(self.no_room()))
        if begins:
            say(logging.ERROR, "no room: only what ends something is taken until there is some (%s)", full)

    def _resume(self) -> None:
        self._full = None
        self._resumed()
        say(logging.WARNING, "there is room again: everything is taken as before")

    # --- syncs --------------------------------------------------------------------------------------------------------

    @property
    def _leaves_syncs(self) -> bool:
        """Whether the next sync is the helper's."""
        return self._pace.slow and self._helper is not None and self._helper.ready

    def _sync(self, group: _Group) -> bool:
        """Sync what has been written; return whether it is done, or left to the helper for the sake of a group.

        Raises:
            OSError: it failed, in here.
        """
        if self._elsewhere is None:
            self._log.sync()
            return True
        if self._pace.slow and self._helper is None:
            self._helper = self._make_helper()
            self._helper.start()
        elif self._leaves_syncs:
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
        """The helper's sync has ended: let its group land, and go on."""
        self._in_flight = None
        _in_place_of_leader(group, lambda: self._arrive(log, group, seq, error, seconds))
        if not self._begin_rotation():
            self._go_on()

    def _begin_rotation(self) -> bool:
        """Begin a segment if it is time, and that is not left to `write`; return whether it was. Never raises."""
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

    def _arrive(
        self, log: SyncedElsewhere, group: _Group, seq: int, error: OSError | None, seconds: float
    ) -> Literal[True]:
        try:
            if isinstance(error, AnswerLost) and _LOST_SYNC_IS_REPEATED:
                self._log.sync()
            else:
                log.end_sync(seq, error)
        except Exception as failure:  # noqa: BLE001 - whatever it is, nothing is certain any more
            self._fail(group, failure)
        self._pace.add(seconds)
        self._land(group)
        return True

    def _rotate(self, rotation: Rotation, error: OSError | None) -> None:
        """Have a rotation go on, of whose last sync this was the error, until the helper has its next sync to do.

        Never raises: it is called in the helper's task.
        """
        while True:
            try:
                step = next(rotation) if error is None else rotation.throw(error)
            except StopIteration:
                break
            except Exception as failure:  # noqa: BLE001 - whatever it is, nothing is certain any more
                self.fail(failure)
                break
            fd = step.twin()
            if fd is not None and self._ask(
                fd, functools.partial(self._rotated, rotation, step), names=step.is_directory
            ):
                return
            error = _error_of(step)
        self._rotation = None
        self._go_on()

    def _ask(self, fd: int, done: Callable[[OSError | None, float], None], *, names: bool) -> bool:
        return self._helper is not None and self._helper.ready and self._helper.request(fd, done, names=names)

    def _rotated(self, rotation: Rotation, step: Sync, error: OSError | None, _seconds: float) -> None:
        if isinstance(error, AnswerLost) and _LOST_SYNC_IS_REPEATED:
            error = _error_of(step)
        self._rotate(rotation, error)

    def _go_on(self) -> None:
        """Write the group that has gathered behind what was in the way; if all is broken, that tells it so."""
        gathered = self._group
        if gathered is not None and gathered.held:
            gathered.held = False
            _in_place_of_leader(gathered, lambda: self._flush(gathered))
        if self._in_flight is None and self._rotation is None:
            self._idle.unpark_all()

    # --- the sync in the background, and the end ----------------------------------------------------------------------

    def start(self, interval: float) -> None:
        """Begin to sync in the background, `interval` seconds after a write at the latest."""
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
        with contextlib.suppress(CommitOutcomeUnknown):  # whoever uses the queue next hears of it
            await self._sync_written()

    async def _sync_written(self) -> None:
        """Sync what has been written, for no group's sake. Not cancellable.

        Raises:
            CommitOutcomeUnknown: it failed; nobody has been told.
        """
        while self._in_flight is not None or self._rotation is not None:  # looked at again: others were woken with us
            await self._helper_idle()
        nobody = _Group()
        nobody.leader = trio.lowlevel.current_task()
        nobody.silent.append(nobody.leader)
        try:
            if not self._sync(nobody):
                await _landing(nobody)
        except CommitOutcomeUnknown:
            raise
        except Exception as error:
            self.fail(error)
            raise unknown_outcome(error) from error

    async def _helper_idle(self) -> None:
        await wait_out(self._nothing_under_way)

    async def _nothing_under_way(self) -> None:
        while self._in_flight is not None or self._rotation is not None:
            await self._idle.park()

    async def finish(self) -> None:
        """Wait until everything that was decided is durable, or never will be, and the helper has no sync to do.

        Not cancellable.

        Raises:
            CommitOutcomeUnknown: it may not be.
        """
        await self._end_syncer()  # first: it must not find the log closed
        if self.failure is None:
            with contextlib.suppress(StorageFull):  # that is told to those in flight
                await self.durable()
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
        await self._helper_idle()

    async def stop(self) -> None:
        """End what runs in the background. Not cancellable."""
        await self._end_syncer()
        if self._helper is not None:
            await self._helper.close()

    async def _end_syncer(self) -> None:
        self._syncer.cancel()
        if self._syncer_ended is not None and not self._syncer_ended.is_set():
            await wait_out(self._syncer_ended.wait)


def _error_of(step: Sync) -> OSError | None:
    """Do a sync of a rotation here, and return how it failed."""
    try:
        step.sync()
    except OSError as error:
        return error
    return None


def unknown_outcome(error: BaseException) -> KharonError:
    """Return what one caller in flight is told of a failed write: each its own, since raising changes an exception."""
    told = CommitOutcomeUnknown(
        f"a write failed ({error}), so this commit may or may not be found when the queue is opened again; "
        f"the queue is closed: look at the disk, open it again, and look"
    )
    told.__cause__ = error
    return told
