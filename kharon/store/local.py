"""The store of one process: a projection, a log, and group commit between them.

One owner, and no locks: Trio's tasks interleave at checkpoints only, so a command is decided, appended and folded in
one synchronous stretch (`_execute`). Its records join the open commit group, and its caller waits in `_durable` until
that group is. Everything that leaves the store leaves through that wait: replies, refusals, reads, claims. What follows
from a group (`deliver`) is called once the group is durable, before its callers go on.

The first to wait for a group leads it: it lets every task that can run do so, and then writes and syncs whatever has
gathered, so that a lone caller pays one trip through the scheduler and a crowd shares one sync.

The sync is inline while the disk is fast, and left to a helper process (`helper`) while it is slow (`pace`), if the log
offers a descriptor for that. One group is then in flight, and the next one gathers until it has landed: only then is
that one written, so that what is written is always either durable or in flight, a sync covers exactly its own group,
and a failure is told to both. Whoever reads while a group is in flight waits for it.

If a write finds no room, nothing of the group was kept, so its effects are taken back from the projection, newest first
(`_retreat`), and the store stays open: whatever lets the queue grow (`model.ending`) is refused, but for a try each
second; what ends something is decided once more, and goes on from what the log has reserved for it. Reads look again.

If a write or a sync fails otherwise, the projection is ahead of the log. The store is then broken: those in flight are
told that the outcome is not known, everybody after them that it is closed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, Literal, NoReturn

import outcome
import trio
from trio.lowlevel import Abort, Task, enable_ki_protection

from kharon.errors import Closed, CommitOutcomeUnknown, KharonError, StorageFull
from kharon.log.protocol import EventLog, HasSnapshots, SyncedElsewhere
from kharon.log.record import Record
from kharon.model.commands import Claim, Command, Context, Expire, Lapse, Release, Settle
from kharon.model.decide import decide
from kharon.model.ending import grows
from kharon.model.events import Event, TicketEvent
from kharon.model.evolve import evolve
from kharon.model.projection import Projection
from kharon.model.ticket import Status, Ticket
from kharon.settings import Settings
from kharon.store.helper import AnswerLost, Helper, Syncer
from kharon.store.pace import Pace
from kharon.store.protocol import Clock, Deliver, Effect

__all__ = ["LocalStore"]

_logger = logging.getLogger("kharon")
_CLOCK = "clock"
_LEASE_ENDED = "the lease ended"
_PROCESS_ENDED = "the process that ran it ended"
_GATHER_PASSES = 3
_TICK_LIMIT = 200  # lapses, or expiries, of one tick: about 3 ms
_REPLAY_SLICE = 1000  # records between two looks at whether opening was cancelled
_READ_SLICE = 256  # records between two checkpoints of a reader: below 1 ms
_TRY_SECONDS = 1.0  # between two tries whether a full disk has room: each costs an allocation and a write that fail
_LIST_SLICE = 4096  # tickets between two checkpoints of a list: below 1 ms

_LOST_SYNC_IS_REPEATED: Final = sys.platform == "linux"
"""Whether a sync is done again, inline, if the helper ended before it said how the first went.

That is no retry of a failed sync: nobody knows that it failed. But if it did, the second must not succeed only because
the kernel has reported the error already, to a process that is gone, and dropped the pages. Linux keeps a cursor into a
file's errors for each open file description, and the helper was given another one than the log's (`File.twin`): the
inline sync is the first of its description since the bytes were written, so it hears of whatever went wrong. Elsewhere
nothing promises that; there a lost answer counts as a failure, and the store breaks.
"""


class _Group:
    """The commits that will be made durable together.

    Attributes:
        before: the seq and the time of the projection before them.
        effects: what they did, in order; empty: this stands for a sync in the background.
        grows: whether any of them lets the queue grow.
        leader: who writes them, and hears what goes wrong in that; None: nobody waits yet.
        waiting: who waits for them; the leader, too, while they are in flight or wait for those that are.
    """

    __slots__ = ("before", "effects", "grows", "leader", "waiting")

    def __init__(self, before: tuple[int, datetime | None]) -> None:
        self.before = before
        self.grows = False
        self.effects: list[Effect] = []
        self.leader: Task | None = None
        self.waiting: list[Task] = []


def _no_abort(_raise_cancel: object) -> Abort:
    return Abort.FAILED


async def _landing(group: _Group) -> None:
    """Wait until a group is durable, or will not be. Not cancellable."""
    group.waiting.append(trio.lowlevel.current_task())
    await trio.lowlevel.wait_task_rescheduled(_no_abort)


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


class LocalStore:
    """The state of a queue, in this process.

    Args:
        log: where its records are kept.
        settings: the queue's.
        clock: what tells the time.
        deliver: called with each durable commit group's effects.
        closed: called when nothing will be delivered any more: the store was closed, or broke. Perhaps twice.
        in_thread: whether the log may be opened in a thread, so that a long replay does not stop the loop.
        helper: makes what syncs instead of the loop, once the disk has been found slow.
    """

    def __init__(
        self,
        log: EventLog,
        settings: Settings,
        clock: Clock,
        deliver: Deliver,
        closed: Callable[[], None],
        *,
        in_thread: bool,
        helper: Callable[[], Syncer] = Helper,
    ) -> None:
        self._log = log
        self._settings = settings
        self._clock = clock
        self._deliver = deliver
        self._notify_closed = closed
        self._in_thread = in_thread
        self._projection = Projection()
        self._group: _Group | None = None
        self._in_flight: _Group | None = None  # written, and being synced by the helper
        self._elsewhere = log if isinstance(log, SyncedElsewhere) else None
        self._pace = Pace()
        self._make_helper = helper
        self._helper: Syncer | None = None
        self._always = settings.fsync == "always"
        self._crowd = 0  # how many waited for the last group
        self._opened = False
        self._closed: str | None = "the queue has not been opened"
        self._failure: BaseException | None = None
        self._process = os.getpid()
        self._full: StorageFull | None = None  # what the last write that found no room was told
        self._group_grew = False  # whether any of the group that found no room let the queue grow
        self._try_at = -math.inf  # when, by Trio's clock, whether there is room may next be tried
        self._room = trio.lowlevel.ParkingLot()  # workers with a settle for which even the reserve had no room
        self._told = False  # whether anybody has heard of the failure
        self._readers = trio.lowlevel.ParkingLot()
        self._idle = trio.lowlevel.ParkingLot()
        self._idle_tubes: Sequence[str] = ()
        self._waking = 0
        self._promised: datetime | None = None
        self._earlier = trio.Event()
        self._unsynced = trio.Event()
        self._syncer = trio.CancelScope()
        self._syncer_ended: trio.Event | None = None

    # --- opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Replay the log, and end the leases of a process that died, as lapses.

        Raises:
            QueueLocked, CorruptLog, UnknownFormat, OSError: as the log's `open`.
            Closed: it was opened before.

        Cost: O(records).
        """
        await trio.lowlevel.checkpoint()
        if self._opened:
            raise Closed("this queue was opened before; call kharon.open again for another")
        self._opened = True
        now = self._clock.now()
        try:
            if self._in_thread:
                await trio.to_thread.run_sync(self._replay, now, trio.from_thread.check_cancelled)
            else:
                self._replay(now, None)
            self._closed = None
            await self._lapse_all()
        except BaseException:
            self._closed = "the queue could not be opened"
            self._log.abandon()
            raise
        if self._settings.sync_interval is not None:
            self._syncer_ended = trio.Event()
            trio.lowlevel.spawn_system_task(self._sync_regularly, self._settings.sync_interval)

    def _replay(self, now: datetime, check_cancelled: Callable[[], None] | None) -> None:
        if isinstance(self._log, HasSnapshots) and (snapshot := self._log.load_snapshot()) is not None:
            self._projection.load(snapshot.tickets, snapshot.seq, snapshot.at)
        self._projection.promote(now)
        self._projection.fold(_watched(self._log.open(now), check_cancelled))

    @enable_ki_protection
    async def _lapse_all(self) -> None:
        dead = list(self._projection.claimed())
        with contextlib.suppress(StorageFull):  # then each lapses when its lease ends
            for start in range(0, len(dead), _TICK_LIMIT):
                for ticket in dead[start : start + _TICK_LIMIT]:
                    self._lapse(ticket, _PROCESS_ENDED)
                await self._durable()

    @enable_ki_protection
    async def close(self) -> None:
        """Make everything durable, say so in the log, and give it up. Others who still use the queue get `Closed`.

        Raises:
            CommitOutcomeUnknown: a write or a sync failed, now or before, and nobody has heard of it yet.
        """
        if self._closed is not None and self._failure is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if os.getpid() != self._process:
            self._log.abandon()  # this process's copies of its files; the queue is the parent's
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        try:
            if self._failure is None:
                self._closed = "the queue is closed: its `async with` block has ended"  # first: no group begins now
                with contextlib.suppress(StorageFull):  # that is told to those in flight
                    await self._durable()
                await self._nothing_in_flight()
                self._close_log()
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                await self._nothing_in_flight()
            if self._failure is not None and not self._told:
                raise _outcome(self._failure)
        finally:
            self._log.abandon()
            self._let_go()
            self._syncer.cancel()
            if self._helper is not None:
                await self._helper.close()
            if self._syncer_ended is not None:
                with trio.CancelScope(shield=True):
                    await self._syncer_ended.wait()

    def _close_log(self) -> None:
        if self._failure is not None:
            return
        try:
            self._log.close(self._clock.now())
        except StorageFull as full:  # all that anybody was told of is kept; only the word of closing is not
            _logger.warning("no room to say in the log that it was closed (%s)", full)
        except Exception as error:
            self._broken(error)
            raise _outcome(error) from error

    def _let_go(self) -> None:
        """Wake everybody who waits for what will not come any more; each of them finds the store closed."""
        self._readers.unpark_all()
        self._idle.unpark_all()
        self._room.unpark_all()
        self._earlier.set()
        self._notify_closed()

    def _check_open(self) -> None:
        if self._closed is not None:
            self._told = True
            raise Closed(self._closed) from self._failure
        if os.getpid() != self._process:  # 0.3 µs
            raise Closed(
                f"the queue was opened by process {self._process}, and this is process {os.getpid()}, forked from it: "
                f"it is the parent's. Open queues after forking"
            )

    async def _enter(self) -> None:
        """Begin an async method: notice a cancellation, and a closed store, either of them as a checkpoint."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._check_open()
        except Closed:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise

    # --- commands -----------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def submit(self, commands: Sequence[Command], by: str) -> list[Ticket | None]:
        """Decide commands as one commit, or refuse them all; return the ticket of each as it is then.

        Raises:
            KharonError: as `decide` refuses; nothing has changed.
            StorageFull: there was no room; nothing has changed.
            CommitOutcomeUnknown: the write failed.
            Closed: the queue is closed.

        Cost: O(commands log n), and one wait for the commit group.
        """
        await self._enter()
        try:
            return await self._submit(commands, by)
        except StorageFull:
            # What ends something may have shared its group with what does not: by itself it has the reserve. The
            # others, and what was refused in sight of them, are told what holds now.
            return await self._submit(commands, by)

    async def _submit(self, commands: Sequence[Command], by: str) -> list[Ticket | None]:
        self._check_open()
        try:
            return self._execute(commands, by)
        finally:
            # A refusal, too, tells of a state that has to be durable first.
            await self._durable()

    @enable_ki_protection
    async def turn(
        self, worker: str, tubes: Sequence[str], settle: Settle | None, *, settle_by: str, claim: bool
    ) -> Ticket | None:
        """Settle a worker's last ticket and claim its next one, both in one commit group. Not cancellable.

        Without room nothing is claimed, and the settle goes on from the reserve. When that is used up too, it waits for
        room, and that wait is cancellable: the work will be done once more then, since its lease lapses.

        Raises:
            StorageFull: there was no room to give a claim back.

        Cost: O(tubes + log n), and one wait for the commit group.
        """
        with_claim = claim
        while True:
            try:
                return await self._turn(worker, tubes, settle, settle_by, claim=with_claim)
            except StorageFull as full:
                if settle is None:
                    return None
                if with_claim or self._group_grew:
                    with_claim = False
                    continue
                if isinstance(settle, Release):
                    raise
                await self._wait_for_room(settle, full)

    async def _wait_for_room(self, settle: Settle, full: StorageFull) -> None:
        try:
            await self._room.park()
        except trio.Cancelled:
            _logger.warning("ticket %r: the end of its attempt is lost, and it will run again: %s", settle.id, full)
            raise

    async def _turn(
        self, worker: str, tubes: Sequence[str], settle: Settle | None, settle_by: str, *, claim: bool
    ) -> Ticket | None:
        self._check_open()
        claimed: list[Ticket | None] = [None]
        try:
            if settle is not None:
                self._settle(settle, settle_by)
            if claim and self._may_grow():
                self._projection.promote(self._clock.now())
                ticket = self._projection.first_ready(tubes)
                if ticket is not None:
                    claimed = self._execute((Claim(ticket.id, worker),), worker)
        finally:
            await self._durable()
        return claimed[0]

    def _settle(self, settle: Settle, by: str) -> None:
        ticket = self._projection.get(settle.id)
        if ticket is not None and ticket.claim == settle.claim:
            self._execute((settle,), by)
        else:  # the handler settled it, or the lease lapsed: either is in the log already
            _logger.debug("ticket %r: the claim of record %s is over already", settle.id, settle.claim)

    def _execute(self, commands: Sequence[Command], by: str) -> list[Ticket | None]:
        """Decide, append and fold, in one stretch: all of the commands, or, if one is refused, none."""
        now = self._clock.now()
        projection = self._projection
        projection.promote(now)
        context = Context(now, random.random(), self._settings.process_time)  # noqa: S311 - spreads retries
        if len(commands) == 1:
            events: Sequence[TicketEvent] = decide(projection.get(commands[0].id), commands[0], context)
        else:
            events = self._decide_in_turn(commands, context)
        if events:
            growing = grows(events)
            if growing and not self._may_grow():
                raise self._no_room()
            at = self._log.append(events, now, by)
            self._apply(events, at, growing=growing)
        return [projection.get(command.id) for command in commands]

    def _decide_in_turn(self, commands: Sequence[Command], context: Context) -> list[TicketEvent]:
        """Decide each command against what those before it lead to, without touching the projection."""
        decided: list[TicketEvent] = []
        ahead: dict[str, Ticket | None] = {}
        for command in commands:
            ticket = ahead[command.id] if command.id in ahead else self._projection.get(command.id)
            for event in decide(ticket, command, context):
                decided.append(event)
                ticket = evolve(ticket, event, self._projection.seq + len(decided), context.now)
            ahead[command.id] = ticket
        return decided

    def _apply(self, events: Sequence[Event], at: datetime, *, growing: bool) -> None:
        group = self._group
        projection = self._projection
        if group is None:
            group = self._group = _Group((projection.seq, projection.at))
        group.grows = group.grows or growing
        for event in events:
            seq = projection.seq + 1
            old, new = projection.apply(event, seq, at)
            group.effects.append(Effect(event, old, new, seq, at))
        if self._idle:
            self._wake()
        if self._promised is not None:
            coming = projection.next_instant(expiration=self._settings.expiration)
            if coming is not None and coming < self._promised:
                self._promised = None
                self._earlier.set()

    # --- records about the log itself ---------------------------------------------------------------------------------

    @enable_ki_protection
    async def record(self, event: Event) -> None:
        """Append an event about the log itself, and wait until it is on disk, whatever `Settings.fsync` says.

        Whoever calls this is no user: if it fails, a user has yet to hear of that.

        Raises:
            StorageFull: there was no room; nothing has changed.
            CommitOutcomeUnknown: the write failed.
            Closed: the queue is closed.

        Cost: one wait for the commit group, and a sync more if `Settings.fsync` is not "always".
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            await self._record(event)
        except StorageFull:  # it may have shared its group with what lets the queue grow: by itself it has the reserve
            await self._record(event)

    async def _record(self, event: Event) -> None:
        if self._closed is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise Closed(self._closed) from self._failure
        at = self._log.append([event], self._clock.now(), _CLOCK)
        self._apply([event], at, growing=grows([event]))
        group, seq, told = self._group, self._projection.seq, self._told
        assert group is not None
        try:
            await self._durable()
            if self._log.durable < seq:
                await self._sync_written()
        except CommitOutcomeUnknown:
            this = trio.lowlevel.current_task()
            self._told = told or group.leader is not this or any(task is not this for task in group.waiting)
            raise

    # --- durability ---------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _durable(self) -> None:
        """Wait until everything that has been decided so far is durable. A checkpoint, and not cancellable.

        Raises:
            StorageFull: it never will be: there was no room, and it was taken back.
            CommitOutcomeUnknown: it may not be.
        """
        flight = self._in_flight if self._always else None
        group = self._group or flight
        if group is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if group.leader is None:
            group.leader = trio.lowlevel.current_task()
            if flight is None:
                await self._gather(group)
                if self._flush(group):
                    return
            # else the group goes on gathering until the one in flight has landed: `_answered` writes it then
        await _landing(group)

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
            if self._failure is not None:  # a sync in the background failed since these were decided
                raise self._failure
            full = self._write()
            landed = full is None and (not self._always or self._sync(group))
        except BaseException as error:  # noqa: BLE001 - `_fail` raises what it means
            self._fail(group, error)
        if full is not None:
            self._retreat(group, full)
            raise self._no_room() from full
        if landed:
            self._unsynced.set()
            self._land(group)
        return landed

    def _write(self) -> StorageFull | None:
        """Write what has been appended; return why nothing of it was kept, if there was no room.

        Of a `sync` that raises `StorageFull` nobody knows what it has kept, so that breaks the store like any failure.
        """
        try:
            self._log.write()
        except StorageFull as full:
            return full
        return None

    def _land(self, group: _Group) -> None:
        """Let out what waited for a group, which is durable now."""
        try:
            if group.effects:  # else it stands for a sync in the background, which nothing follows from
                self._deliver(group.effects)
        finally:  # what is delivered gets logged, and a user's logging may raise: those who wait must not pay for it
            for task in group.waiting:
                trio.lowlevel.reschedule(task)
            if self._readers:
                self._readers.unpark_all()
            if self._full is not None and group.grows:
                self._resume()

    def _fail(self, group: _Group, error: BaseException) -> NoReturn:
        """Break the store, tell everybody who waits for a group, and raise what its leader is told."""
        self._told = self._told or bool(group.effects)  # those who wait for a sync in the background tell nobody
        for task in group.waiting:
            trio.lowlevel.reschedule(task, outcome.Error(_outcome(error)))
        self._broken(error)
        raise _outcome(error) from error

    def _may_grow(self) -> bool:
        """Whether what lets the queue grow is taken: there is room, or it is time to try whether there is."""
        return self._full is None or trio.current_time() >= self._try_at

    def _no_room(self) -> StorageFull:
        """Return what one caller is told while there is no room."""
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
        effects = group.effects
        assert self._group is None
        assert self._projection.seq == effects[-1].seq
        before = group.before
        for index in range(len(effects) - 1, -1, -1):
            seq, at = (effects[index - 1].seq, effects[index - 1].at) if index else before
            self._projection.undo(effects[index].event, effects[index].old, seq, at)
        self._group_grew = group.grows
        self._try_at = trio.current_time() + _TRY_SECONDS
        begins, self._full = self._full is None, full
        for task in group.waiting:
            trio.lowlevel.reschedule(task, outcome.Error(self._no_room()))
        if begins:  # last: a user's logging may raise
            _logger.error("no room: only what ends something is taken until there is some (%s)", full)

    def _resume(self) -> None:
        self._full = None
        self._room.unpark_all()
        if self._idle:
            self._wake()
        _logger.warning("there is room again: everything is taken as before")  # last: a user's logging may raise

    def _sync(self, group: _Group) -> bool:
        """Sync what has been written; return whether it is done, or left to the helper for the sake of a group.

        Raises:
            OSError: it failed, in here.
        """
        if self._elsewhere is None:
            self._log.sync()
            return True
        if self._pace.slow:
            if self._helper is None:
                self._helper = self._make_helper()
                self._helper.start()
            elif self._helper.ready:
                return self._sync_elsewhere(self._elsewhere, self._helper, group)
        begun = trio.current_time()
        self._log.sync()
        self._pace.add(trio.current_time() - begun)
        return True

    def _sync_elsewhere(self, log: SyncedElsewhere, helper: Syncer, group: _Group) -> bool:
        fd = log.begin_sync()
        if fd is None:
            return True
        if not helper.request(fd, functools.partial(self._answered, log, group, self._log.written)):
            self._log.sync()
            return True
        self._in_flight = group
        return False

    def _answered(self, log: SyncedElsewhere, group: _Group, seq: int, error: OSError | None, seconds: float) -> None:
        """The helper's sync has ended: let its group land, and send off the one that gathered meanwhile."""
        self._in_flight = None
        gathered = self._group if self._always else None
        _in_place_of_leader(group, lambda: self._arrive(log, group, seq, error, seconds))
        if gathered is not None:  # if the store has broken, this tells them so
            _in_place_of_leader(gathered, lambda: self._flush(gathered))

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

    async def _nothing_in_flight(self) -> None:
        """Wait until the helper has no sync to do. Whoever asked for it hears how it went."""
        if self._in_flight is not None:
            with contextlib.suppress(KharonError):
                await _landing(self._in_flight)

    def _broken(self, error: BaseException) -> None:
        """Close the store for good."""
        if self._failure is None:
            self._failure = error
            self._closed = (
                f"the queue closed itself when a write failed ({error}); look at the disk, then open it again"
            )
            self._let_go()
            _logger.error("%s", self._closed)  # last: a user's logging may raise

    async def _sync_regularly(self, interval: float) -> None:
        """Sync what has been written, `interval` seconds later at the latest. Runs as a system task."""
        assert self._syncer_ended is not None
        with self._syncer:
            while True:
                await self._unsynced.wait()
                await trio.sleep(interval)
                self._unsynced = trio.Event()
                if self._failure is not None:
                    break
                await self._sync_in_background()
        self._syncer_ended.set()

    @enable_ki_protection
    async def _sync_in_background(self) -> None:
        with contextlib.suppress(CommitOutcomeUnknown):  # whoever uses the queue next hears of it
            await self._sync_written()

    async def _sync_written(self) -> None:
        """Sync what has been written, for no group's sake. Not cancellable.

        Raises:
            CommitOutcomeUnknown: it failed; nobody has been told.
        """
        while self._in_flight is not None:  # one at a time; it may be another one of these
            await self._nothing_in_flight()
        nobody = _Group((self._projection.seq, self._projection.at))
        nobody.leader = trio.lowlevel.current_task()
        try:
            if not self._sync(nobody):
                await _landing(nobody)
        except CommitOutcomeUnknown:
            raise
        except Exception as error:
            self._broken(error)
            raise _outcome(error) from error

    # --- time and idle workers ----------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Wake as many idle workers as there are ready tickets that nobody has been woken for."""
        if not self._may_grow():
            return
        ready = self._projection.ready_count(self._idle_tubes)
        count = min(ready - self._waking, self._settings.batch_size, len(self._idle))
        if count > 0:
            self._waking += count
            self._idle.unpark(count=count)

    async def wait_ready(self, tubes: Sequence[str]) -> None:
        """Wait until a claim from these tubes may succeed, or `wake_all` is called."""
        self._check_open()
        self._idle_tubes = tubes
        if self._may_grow() and self._projection.ready_count(tubes) > self._waking:
            await trio.lowlevel.checkpoint()
            return
        woken = False
        try:
            await self._idle.park()
            woken = True
        finally:
            if self._waking > 0:
                self._waking -= 1
                if not woken and self._idle:
                    self._wake()
        self._check_open()

    def wake_all(self) -> None:
        """Let everybody return from `wait_ready`."""
        self._waking += len(self._idle)
        self._idle.unpark_all()

    def _lapse(self, ticket: Ticket, error_reason: str) -> None:
        settings = self._settings
        lapse = Lapse(
            ticket.id,
            ticket.claim,
            error_reason=error_reason,
            backoff=settings.backoff,
            max_attempts=settings.max_attempts,
        )
        self._execute((lapse,), _CLOCK)

    @enable_ki_protection
    async def tick(self) -> float:
        """Promote what has become due, lapse the leases that have ended, expire what is kept no longer.

        Returns:
            The seconds until something will be due, more than 0; `math.inf` if nothing will; 0 if more is due now
            than one call does.

        Cost: O(due log n), at most `_TICK_LIMIT` lapses and as many expiries.
        """
        await self._enter()
        now = self._clock.now()
        projection = self._projection
        least = 0.0
        try:
            if await self._keep_up(now):
                return 0
        except StorageFull:  # what was due still is: from the reserve at the next tick, or, if that is used up, later
            least = 0.0 if self._group_grew else _TRY_SECONDS
        self._earlier = trio.Event()
        self._promised = projection.next_instant(expiration=self._settings.expiration)
        if self._promised is None:
            self._promised = datetime.max.replace(tzinfo=now.tzinfo)
            return math.inf
        # One microsecond more than the difference, which is rounded: waking too early would cost another tick.
        return max(least, (self._promised - self._clock.now()).total_seconds()) + 1e-6

    async def _keep_up(self, now: datetime) -> bool:
        """Do what is due now, within the limit; return whether the limit was reached, so that more may be due."""
        projection = self._projection
        lapsed = projection.lapsed(now, _TICK_LIMIT)
        expired = projection.expired(now, _TICK_LIMIT) if self._settings.expiration else []
        try:
            projection.promote(now)
            for ticket in lapsed:
                self._lapse(ticket, _LEASE_ENDED)
            for ticket in expired:
                self._execute((Expire(ticket.id),), _CLOCK)
            if self._idle:
                self._wake()
            if self._may_grow():
                self._room.unpark_all()
        finally:
            await self._durable()
        return _TICK_LIMIT in (len(lapsed), len(expired))

    async def wait_earlier(self) -> None:
        """Wait until something will be due earlier than the last `tick` said."""
        await self._earlier.wait()

    async def _still(self) -> bool:
        """Wait until what was read is durable; return whether it is: without room it may have been taken back.

        Raises:
            CommitOutcomeUnknown: it may not be.
        """
        try:
            await self._durable()
        except StorageFull:
            return False
        return True

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> Ticket | None:
        """Return a ticket as it is now, once that is durable; None if there is none. O(1)."""
        await self._enter()
        while True:
            ticket = self._projection.get(id)
            if await self._still():
                return ticket

    async def list(
        self, *, status: Status | None, type: str | None, tube: str | None, group: str | None, limit: int | None
    ) -> list[Ticket]:
        """Return the tickets that match, as they all were at one moment, once that is durable.

        Cost: O(n), in slices between which other tasks run.
        """
        await self._enter()
        tickets = deque(self._projection.tickets.values())  # values, so this is the state of one moment
        while not await self._still():
            tickets = deque(self._projection.tickets.values())
        found: list[Ticket] = []
        wanted = math.inf if limit is None else limit
        number = 0
        while tickets and len(found) < wanted:
            ticket = tickets.popleft()
            if (
                (status is None or ticket.status is status)
                and (type is None or ticket.type == type)
                and (tube is None or ticket.tube == tube)
                and (group is None or ticket.group == group)
            ):
                found.append(ticket)
            number += 1
            if number % _LIST_SLICE == 0:
                await trio.lowlevel.checkpoint()
        return found

    @property
    def first(self) -> int:
        """The seq at which the history begins."""
        return self._log.first

    def reader(self, after: int, id: str | None = None) -> LocalReader:
        """Return a reader of the durable records behind `after`."""
        self._check_open()
        return LocalReader(self, after, id)

    @property
    def _shown(self) -> int:
        """The seq up to which records may be shown: the next group may have been written already, and be in flight."""
        return self._log.durable if self._always else self._log.written

    @property
    def projection(self) -> Projection:
        """The state itself, perhaps ahead of what is durable: for tests, and not to be given out."""
        return self._projection


def _watched(records: Iterable[Record], check_cancelled: Callable[[], None] | None) -> Iterator[Record]:
    for number, record in enumerate(records):
        if check_cancelled is not None and number % _REPLAY_SLICE == 0:
            check_cancelled()
        yield record


def _outcome(error: BaseException) -> KharonError:
    """Return what one caller in flight is told of a failed write: each its own, since raising changes an exception."""
    told = CommitOutcomeUnknown(
        f"a write failed ({error}), so this commit may or may not be found when the queue is opened again; "
        f"the queue is closed: look at the disk, open it again, and look"
    )
    told.__cause__ = error
    return told


class LocalReader:
    """Durable records, in order, read from the log in slices."""

    def __init__(self, store: LocalStore, after: int, id: str | None) -> None:
        self._store = store
        self._reader = store._log.reader(after, id)

    async def read(self) -> list[Record]:
        """Return the next records that are wanted; perhaps none, although there are more behind them."""
        store = self._store
        await store._enter()
        await store._still()  # if it was taken back, what is written is what there is
        store._check_open()
        return self._reader.read(_READ_SLICE, store._shown)

    @property
    def at_end(self) -> bool:
        """Whether all records that are durable now have been read."""
        return self._reader.seq >= self._store._shown

    async def wait(self) -> None:
        """Wait until there are records behind those that were read."""
        while self.at_end:
            self._store._check_open()
            await self._store._readers.park()
        self._store._check_open()

    def close(self) -> None:
        """Give back what the reader holds."""
        self._reader.close()
