"""The store of one process: a projection, a log, and group commit between them.

One owner, and no locks: Trio's tasks interleave at checkpoints only, so a command is decided, appended and folded in
one synchronous stretch (`_execute`). Its records join the open commit group, and its caller waits in `_durable` until
that group is. Everything that leaves the store leaves through that wait: replies, refusals, reads, claims. What follows
from a group (`deliver`) is called once the group is durable, before its callers go on.

The first to wait for a group leads it: it lets every task that can run do so, and then writes and syncs whatever has
gathered, so that a lone caller pays one trip through the scheduler and a crowd shares one sync. The sync is inline;
a helper for slow disks belongs into `_flush`.

If a write or a sync fails, the projection is ahead of the log. The store is then broken: those in flight are told that
the outcome is not known (or that there was no room), everybody after them that it is closed.
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

import outcome
import trio
from trio.lowlevel import Abort, Task, enable_ki_protection

from kharon.errors import Closed, CommitOutcomeUnknown, KharonError, StorageFull
from kharon.log.protocol import EventLog
from kharon.log.record import Record
from kharon.model.commands import Claim, Command, Context, Expire, Lapse, Settle
from kharon.model.decide import decide
from kharon.model.events import Event, TicketEvent
from kharon.model.evolve import evolve
from kharon.model.projection import Projection
from kharon.model.ticket import Status, Ticket
from kharon.settings import Settings
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
_LIST_SLICE = 4096  # tickets between two checkpoints of a list: below 1 ms


class _Group:
    """The commits that will be made durable together."""

    __slots__ = ("effects", "led", "waiting")

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.led = False
        self.waiting: list[Task] = []


def _no_abort(_raise_cancel: object) -> Abort:
    return Abort.FAILED


class LocalStore:
    """The state of a queue, in this process.

    Args:
        log: where its records are kept.
        settings: the queue's.
        clock: what tells the time.
        deliver: called with each durable commit group's effects.
        closed: called when nothing will be delivered any more: the store was closed, or broke. Perhaps twice.
        in_thread: whether the log may be opened in a thread, so that a long replay does not stop the loop.
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
    ) -> None:
        self._log = log
        self._settings = settings
        self._clock = clock
        self._deliver = deliver
        self._notify_closed = closed
        self._in_thread = in_thread
        self._projection = Projection()
        self._group: _Group | None = None
        self._crowd = 0  # how many waited for the last group
        self._opened = False
        self._closed: str | None = "the queue has not been opened"
        self._failure: BaseException | None = None
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
        self._projection.promote(now)
        self._projection.fold(_watched(self._log.open(now), check_cancelled))

    @enable_ki_protection
    async def _lapse_all(self) -> None:
        dead = list(self._projection.claimed())
        for ticket in dead:
            self._lapse(ticket, _PROCESS_ENDED)
        await self._durable()

    @enable_ki_protection
    async def close(self) -> None:
        """Make everything durable, say so in the log, and give it up. Others who still use the queue get `Closed`.

        Raises:
            StorageFull, CommitOutcomeUnknown: a write or a sync failed, now or before, and nobody has heard of it yet.
        """
        if self._closed is not None and self._failure is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        try:
            if self._failure is None:
                self._closed = "the queue is closed: its `async with` block has ended"  # first: no group begins now
                await self._durable()
                self._close_log()
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
            if self._failure is not None and not self._told:
                raise self._broken(self._failure)
        finally:
            self._log.abandon()
            self._let_go()
            self._syncer.cancel()
            if self._syncer_ended is not None:
                with trio.CancelScope(shield=True):
                    await self._syncer_ended.wait()

    def _close_log(self) -> None:
        if self._failure is not None:
            return
        try:
            self._log.close(self._clock.now())
        except Exception as error:
            raise self._broken(error) from error

    def _let_go(self) -> None:
        """Wake everybody who waits for what will not come any more; each of them finds the store closed."""
        self._readers.unpark_all()
        self._idle.unpark_all()
        self._earlier.set()
        self._notify_closed()

    def _check_open(self) -> None:
        if self._closed is not None:
            self._told = True
            raise Closed(self._closed) from self._failure

    async def _enter(self) -> None:
        """Begin an async method: notice a cancellation, and a closed store, either of them as a checkpoint."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._check_open()

    # --- commands -----------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def submit(self, commands: Sequence[Command], by: str) -> list[Ticket | None]:
        """Decide commands as one commit, or refuse them all; return the ticket of each as it is then.

        Raises:
            KharonError: as `decide` refuses; nothing has changed.
            StorageFull, CommitOutcomeUnknown: the write failed.
            Closed: the queue is closed.

        Cost: O(commands log n), and one wait for the commit group.
        """
        await self._enter()
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

        Cost: O(tubes + log n), and one wait for the commit group.
        """
        self._check_open()
        claimed: list[Ticket | None] = [None]
        try:
            if settle is not None:
                self._settle(settle, settle_by)
            if claim:
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
            at = self._log.append(events, now, by)
            self._apply(events, at)
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

    def _apply(self, events: Sequence[TicketEvent], at: datetime) -> None:
        group = self._group
        if group is None:
            group = self._group = _Group()
        projection = self._projection
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

    @enable_ki_protection
    async def record(self, event: Event) -> None:
        """Append an event about the log itself, and wait until it is on disk, whatever `Settings.fsync` says.

        Raises:
            StorageFull, CommitOutcomeUnknown: the write failed.
            Closed: the queue is closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise Closed(self._closed)
        group = self._group = self._group or _Group()
        at = self._log.append([event], self._clock.now(), _CLOCK)
        seq = self._projection.seq + 1
        self._projection.apply(event, seq, at)
        told = self._told
        try:
            await self._durable()
        except KharonError:
            self._told = told or bool(group.waiting)  # whoever records is no user: one has yet to hear of it
            raise
        if self._log.durable < seq:
            try:
                self._log.sync()
            except OSError as error:
                raise self._broken(error) from error

    # --- durability ---------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def _durable(self) -> None:
        """Wait until everything that has been decided so far is durable. A checkpoint, and not cancellable.

        Raises:
            StorageFull, CommitOutcomeUnknown: it never will be, or may not be.
        """
        group = self._group
        if group is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif group.led:
            group.waiting.append(trio.lowlevel.current_task())
            await trio.lowlevel.wait_task_rescheduled(_no_abort)
        else:
            group.led = True
            await self._gather(group)
            self._flush(group)

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

    def _flush(self, group: _Group) -> None:
        self._group = None
        try:
            if self._failure is not None:  # a sync in the background failed since these were decided
                raise self._failure
            self._log.write()
            if self._settings.fsync == "always":
                self._log.sync()
        except BaseException as error:
            self._told = True
            for task in group.waiting:
                trio.lowlevel.reschedule(task, outcome.Error(self._broken(error)))
            raise self._broken(error) from error
        self._unsynced.set()
        self._deliver(group.effects)
        for task in group.waiting:
            trio.lowlevel.reschedule(task)
        if self._readers:
            self._readers.unpark_all()

    def _broken(self, error: BaseException) -> KharonError:
        """Close the store for good; return what one caller in flight is told."""
        if self._failure is None:
            self._failure = error
            self._closed = (
                f"the queue closed itself when a write failed ({error}); look at the disk, then open it again"
            )
            _logger.error("%s", self._closed)
            self._let_go()
        if isinstance(error, StorageFull):
            told: KharonError = StorageFull(*error.args)
        else:
            told = CommitOutcomeUnknown(
                f"a write failed ({error}), so this commit may or may not be found when the queue is opened again; "
                f"the queue is closed: look at the disk, open it again, and look"
            )
        told.__cause__ = error
        return told

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
                try:
                    self._log.sync()
                except Exception as error:  # noqa: BLE001 - whatever it is, nothing is certain any more
                    self._broken(error)
        self._syncer_ended.set()

    # --- time and idle workers ----------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Wake as many idle workers as there are ready tickets that nobody has been woken for."""
        ready = self._projection.ready_count(self._idle_tubes)
        count = min(ready - self._waking, self._settings.batch_size, len(self._idle))
        if count > 0:
            self._waking += count
            self._idle.unpark(count=count)

    async def wait_ready(self, tubes: Sequence[str]) -> None:
        """Wait until a claim from these tubes may succeed, or `wake_all` is called."""
        self._check_open()
        self._idle_tubes = tubes
        if self._projection.ready_count(tubes) > self._waking:
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
            The seconds until something will be due, 0 or more; `math.inf` if nothing will.

        Cost: O(due log n), at most `_TICK_LIMIT` lapses and as many expiries.
        """
        await self._enter()
        now = self._clock.now()
        projection = self._projection
        try:
            projection.promote(now)
            for ticket in projection.lapsed(now, _TICK_LIMIT):
                self._lapse(ticket, _LEASE_ENDED)
            if self._settings.expiration:
                for ticket in projection.expired(now, _TICK_LIMIT):
                    self._execute((Expire(ticket.id),), _CLOCK)
            if self._idle:
                self._wake()
        finally:
            await self._durable()
        self._earlier = trio.Event()
        self._promised = projection.next_instant(expiration=self._settings.expiration)
        if self._promised is None:
            self._promised = datetime.max.replace(tzinfo=now.tzinfo)
            return math.inf
        # One microsecond more than the difference, which is rounded: waking too early would cost another tick.
        return max(0.0, (self._promised - self._clock.now()).total_seconds() + 1e-6)

    async def wait_earlier(self) -> None:
        """Wait until something will be due earlier than the last `tick` said."""
        await self._earlier.wait()

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> Ticket | None:
        """Return a ticket as it is now, once that is durable; None if there is none. O(1)."""
        await self._enter()
        ticket = self._projection.get(id)
        await self._durable()
        return ticket

    async def list(
        self, *, status: Status | None, type: str | None, tube: str | None, group: str | None, limit: int | None
    ) -> list[Ticket]:
        """Return the tickets that match, as they all were at one moment, once that is durable.

        Cost: O(n), in slices between which other tasks run.
        """
        await self._enter()
        tickets = deque(self._projection.tickets.values())  # values, so this is the state of one moment
        await self._durable()
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
    def projection(self) -> Projection:
        """The state itself, perhaps ahead of what is durable: for tests, and not to be given out."""
        return self._projection


def _watched(records: Iterable[Record], check_cancelled: Callable[[], None] | None) -> Iterator[Record]:
    for number, record in enumerate(records):
        if check_cancelled is not None and number % _REPLAY_SLICE == 0:
            check_cancelled()
        yield record


class LocalReader:
    """Durable records, in order, read from the log in slices."""

    def __init__(self, store: LocalStore, after: int, id: str | None) -> None:
        self._store = store
        self._reader = store._log.reader(after, id)

    async def read(self) -> list[Record]:
        """Return the next records that are wanted; perhaps none, although there are more behind them."""
        store = self._store
        await store._enter()
        await store._durable()
        store._check_open()
        return self._reader.read(_READ_SLICE, store._log.written)

    @property
    def at_end(self) -> bool:
        """Whether all records that are durable now have been read."""
        return self._reader.seq >= self._store._log.written

    async def wait(self) -> None:
        """Wait until there are records behind those that were read."""
        while self.at_end:
            self._store._check_open()
            await self._store._readers.park()
        self._store._check_open()

    def close(self) -> None:
        """Give back what the reader holds."""
        self._reader.close()
