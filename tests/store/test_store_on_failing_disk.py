"""The store on a simulated disk: what callers were told holds, whichever operation of the disk fails, and ever after.

A program of several tasks adds and settles. Before each operation that changes the disk a copy of it is kept, with what
callers had been told by then: what may survive of that copy must agree with it. And each operation fails in turn; then
nobody may hang, be answered as if nothing had happened, or be lied to, and nothing may be left behind.

What a caller was told of a ticket allows certain states of it (`Told`). An answer means that it has the new state; a
refusal, that it has the old one; an unknown outcome, or none yet, either. A loss of power may take it back further,
unless `fsync` is "always", but never to before what the log itself takes for being on disk.

The helper process is simulated too: its answers may be lost. No thread is used.
`KHARON_CRASH_SCALE` multiplies how many disks are looked at.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from simulated_files import CHANGING, Plan, SimulatedFiles, check_named
from store_steps import Slow

import kharon
from kharon import Settings, Ticket
from kharon.errors import Closed, CommitOutcomeUnknown, StorageFull, TicketNotFound
from kharon.log.directory import DirectoryLog
from kharon.model.projection import Projection
from kharon.model.ticket import Status
from kharon.store.sync_helper import AnswerLost
from kharon.testing import EPOCH, TrioClock

pytestmark = pytest.mark.usefixtures("quiet")
SCALE = float(os.environ.get("KHARON_CRASH_SCALE", "1"))
WHERE = Path("/queue")
SMALL = 2000  # bytes: a segment is full after a few groups
MODES = ("always", 0.05, "never")
HANGS = 300  # virtual seconds: no program takes so long
ABSENT, ADDED, DONE = "absent", "added", "done"


class Told:
    """What callers have been told, by ticket.

    Attributes:
        may: the states in which a ticket may be.
        was: the states in which a ticket certainly was, the last one included, oldest first.
        broken: whether somebody was told that the store is.
        lies: what was answered although it cannot be known.
    """

    def __init__(self) -> None:
        self.may: dict[str, set[str]] = {}
        self.was: dict[str, list[str]] = {}
        self.broken = False
        self.lies: list[str] = []

    def copy(self) -> Told:
        made = Told()
        made.may = {id: set(states) for id, states in self.may.items()}
        made.was = {id: list(states) for id, states in self.was.items()}
        return made

    def begin(self, id: str, state: str) -> set[str]:
        """Something is asked for that may or may not happen; return in which states it may have been before."""
        before = self.may.get(id, {ABSENT})
        self.may[id] = before | {state}
        self.was.setdefault(id, [ABSENT])
        return before

    def answered(self, id: str, state: str) -> None:
        self.may[id] = {state}
        self.was[id].append(state)

    async def ask(self, id: str, state: str, call: Callable[..., Awaitable[object]], *args: object) -> bool:
        """Call what brings a ticket to a state; return whether it did."""
        broken = self.broken
        before = self.begin(id, state)
        try:
            await call(*args)
        except StorageFull:
            self.may[id] = before
        except TicketNotFound:  # its adding had been refused
            if self.was[id][-1] != ABSENT:
                self.lies.append(f"{id} was not found, after it had been answered")
            self.may[id] = before
        except Closed:
            self.may[id] = before
            self.broken = True
        except CommitOutcomeUnknown:
            self.broken = True
        else:
            self.answered(id, state)
            if broken:
                self.lies.append(f"{id} was answered, after the store had said that it is broken")
            return True
        return False


class Watching(Plan):
    """Keeps a copy of the disk in front of each operation that changes it, with what was told by then."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[SimulatedFiles, Told, int]] = []
        self.keep: Callable[[], tuple[SimulatedFiles, Told, int]] | None = None

    def step(self, name: str) -> bool:
        if name in CHANGING and self.keep is not None:
            self.kept.append(self.keep())
        return super().step(name)


def watched_clock() -> trio.testing.MockClock:
    """A clock that ends a run in which somebody waits for ever, even if that wait cannot be cancelled."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    sleep_time = clock.deadline_to_sleep_time

    def look(deadline: float) -> float:
        assert clock.current_time() < HANGS or deadline < math.inf, "somebody waits for ever"
        assert clock.current_time() < 2 * HANGS, "something goes on for ever"
        return sleep_time(deadline)

    clock.deadline_to_sleep_time = look  # Trio asks it each time it finds nothing to do
    return clock


class Elsewhere:
    """Syncs the twins of simulated files, as a helper process would, until it ends in front of an answer."""

    def __init__(self, files: SimulatedFiles) -> None:
        self.files = files
        self.ready = False

    def start(self) -> None:
        self.ready = True

    def request(self, fd: int, done: Callable[[OSError | None, float], None], *, names: bool = False) -> bool:
        trio.lowlevel.spawn_system_task(self._sync, fd, done)
        return True

    async def _sync(self, fd: int, done: Callable[[OSError | None, float], None]) -> None:
        await trio.sleep(0.02)
        failure = None
        try:
            self.files.sync_twin(fd)
        except OSError as error:
            failure = error
        if self.files.plan.step("answer"):
            self.ready, failure = False, AnswerLost("it has ended")
        done(failure, 0.02)

    async def close(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()


def descriptors() -> int:
    """How many descriptors this process has, where that can be known."""
    listing = Path("/proc/self/fd")
    return len(list(listing.iterdir())) if listing.exists() else 0


class Trial:
    """One run of a program."""

    def __init__(self, fsync: str | float, plan: Plan) -> None:
        self.fsync = fsync
        self.plan = plan
        self.files = SimulatedFiles(plan=plan)
        self.files.twins = {}
        self.told = Told()
        self.log: DirectoryLog | None = None
        self.reserve_bytes = 0
        self.slow = False

    @contextlib.asynccontextmanager
    async def queue(self):
        """Open the queue. Errors of opening and closing concern no ticket, except tickets that nobody has heard of."""
        self.log = DirectoryLog(WHERE, SMALL, self.files, reserve_bytes=self.reserve_bytes)
        settings = Settings(fsync=self.fsync, snapshot_bytes=None, on_return="done", workers=2)
        queue = kharon.open(self.log, settings, clock=TrioClock())
        store = queue._queue.store
        store._commits._make_helper = lambda: Elsewhere(self.files)
        if self.slow:
            store._commits._pace = Slow()
        async with queue as kh:
            yield kh
            if self.told.broken:  # then so it is for everybody
                for call in (kh.get, kh.delete):
                    try:
                        await call("nothing")
                    except Closed:
                        continue
                    except TicketNotFound:
                        pass
                    self.told.lies.append(f"{call.__name__} was answered by a store that is broken")

    def keep(self) -> tuple[SimulatedFiles, Told, int]:
        return self.files.killed(), self.told.copy(), 0 if self.log is None else self.log.durable

    def run(self, program: Callable[[Trial], Awaitable[None]]) -> None:
        """Run a program to its end, and see that it left nothing behind."""
        before = descriptors()
        trio.run(self._run, program, clock=watched_clock())
        assert descriptors() == before
        assert self.told.lies == []
        assert self.files.unclosed == set(), "files are open still"
        assert not self.files.locked, "the lock is held still"

    async def _run(self, program: Callable[[Trial], Awaitable[None]]) -> None:
        before = trio.lowlevel.current_statistics().tasks_living
        with trio.fail_after(HANGS):
            try:
                await program(self)
            except OSError as error:  # opening
                check_named(error)
            except (CommitOutcomeUnknown, Closed):  # closing, of what nobody had heard of
                self.told.broken = True
            await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before, "tasks are left"


# --- programs ---------------------------------------------------------------------------------------------------------


async def adding_and_settling(trial: Trial) -> None:
    async with trial.queue() as kh, trio.open_nursery() as nursery:
        for name in range(3):
            nursery.start_soon(add_and_settle, trial.told, kh, name)


async def add_and_settle(told: Told, kh: kharon.Kharon, name: int) -> None:
    for number in range(2):
        id = f"t{name}{number}"
        if await told.ask(id, ADDED, kh.add, Ticket(id, "type")) and number == 0:
            await told.ask(id, DONE, kh.done, id)


async def opened_twice(trial: Trial) -> None:
    async with trial.queue() as kh:
        await trial.told.ask("a", ADDED, kh.add, Ticket("a", "type"))
        await trial.told.ask("b", ADDED, kh.add, Ticket("b", "type"))
    if trial.told.broken:
        return
    async with trial.queue() as kh:
        await trial.told.ask("a", DONE, kh.done, "a")
        await trial.told.ask("c", ADDED, kh.add, Ticket("c", "type"))


async def working(trial: Trial) -> None:
    router = kharon.Router()
    told = trial.told

    @router.handler("type")
    async def handle(kh, ticket):
        assert told.was[ticket.id] == [ABSENT, ADDED], "a handler was started for what may not be there"
        await trio.sleep(0.1)
        told.begin(ticket.id, DONE)

    async with trial.queue() as kh, trio.open_nursery() as nursery:
        for number in range(4):
            await told.ask(f"t{number}", ADDED, kh.add, Ticket(f"t{number}", "type"))
        nursery.start_soon(run_until_closed, kh, router)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()


async def run_until_closed(kh: kharon.Kharon, router: kharon.Router) -> None:
    with contextlib.suppress(Closed, CommitOutcomeUnknown):
        await kh.run(router)


async def on_a_slow_disk(trial: Trial) -> None:
    """A group is in flight while the next one gathers."""
    trial.slow = True
    async with trial.queue() as kh, trio.open_nursery() as nursery:
        for name in range(4):
            nursery.start_soon(add_and_settle, trial.told, kh, name)
            await trio.sleep(0.011)


async def on_a_full_disk(trial: Trial) -> None:
    trial.reserve_bytes = 70_000
    told, plan = trial.told, trial.plan
    async with trial.queue() as kh:
        for id in "abc":
            await told.ask(id, ADDED, kh.add, Ticket(id, "type"))
        plan.room = 100
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told.ask, "d", ADDED, kh.add, Ticket("d", "type"))
            nursery.start_soon(told.ask, "a", DONE, kh.done, "a")
        await told.ask("b", DONE, kh.done, "b")
        plan.room = None
        await trio.sleep(2)
        await told.ask("e", ADDED, kh.add, Ticket("e", "type"))
        await told.ask("c", DONE, kh.done, "c")


PROGRAMS = [adding_and_settling, opened_twice, working, on_a_slow_disk, on_a_full_disk]


# --- what is found ----------------------------------------------------------------------------------------------------


class Found:
    """What is on disks, each opened once: the state of each ticket, and how many records there are."""

    def __init__(self) -> None:
        self._found: dict[bytes, tuple[dict[str, str], int]] = {}
        self.states = 0

    @property
    def disks(self) -> int:
        return len(self._found)

    def open(self, files: SimulatedFiles) -> tuple[dict[str, str], int]:
        self.states += 1
        state = files.state()
        found = self._found.get(state)
        if found is None:
            log = DirectoryLog(WHERE, files=files)
            projection = Projection().fold(log.open(EPOCH))
            log.abandon()
            tickets = {id: DONE if ticket.status is Status.DONE else ADDED for id, ticket in projection.tickets.items()}
            found = self._found[state] = tickets, log.seq
        return found

    def check(self, files: SimulatedFiles, told: Told, durable: int, *, exact: bool) -> None:
        """Hold a disk against what was told; unless `exact`, what was answered may be lost."""
        tickets, seq = self.open(files)
        assert seq >= durable
        for id in tickets.keys() | told.may.keys():
            may = told.may[id] if exact else told.may[id] | set(told.was[id])
            assert tickets.get(id, ABSENT) in may, f"{id} is {tickets.get(id, ABSENT)}, and may be {may}"


@pytest.mark.parametrize("fsync", MODES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_was_told_survives_a_crash_at_every_operation(program, fsync, record_property):
    chance, found = random.Random(f"{program.__name__} {fsync}"), Found()
    plan = Watching()
    trial = Trial(fsync, plan)
    plan.keep = trial.keep
    trial.run(program)
    for disk, told, durable in [*plan.kept, trial.keep()]:
        found.check(disk.killed(), told, durable, exact=True)
        for left in disk.survivors(max(2, int(100 * SCALE)), chance):
            found.check(left, told, durable, exact=fsync == "always")
    assert len(plan.kept) > 20
    assert not trial.told.broken
    record_property("crash states", found.states)
    record_property("disks that a crash left", found.disks)


def ways_to_fail(done: list[str]) -> Iterator[dict[str, object]]:
    for number, name in enumerate(done):
        for error in (errno.EIO, errno.ENOSPC):
            yield {"fail": number, "error": error}
            yield {"fail": number, "error": error, "for_good": True}
        yield {"fail": number, "error": (errno.EACCES, errno.EINTR)[number % 2]}
        if name == "write":
            yield {"fail": number, "error": errno.ENOSPC, "short": 0.6}
        if name in {"sync", "sync_twin"}:
            yield {"fail": number, "error": errno.EIO, "drops": False}
        if name == "rename":
            yield {"fail": number, "error": errno.EIO, "late": True}


@pytest.mark.parametrize("fsync", MODES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_whichever_operation_fails_nobody_is_lied_to_or_left_waiting(program, fsync, record_property):
    chance, found = random.Random(f"{program.__name__} {fsync}"), Found()
    whole = Trial(fsync, Plan())
    whole.run(program)
    count = broken = 0
    for options in ways_to_fail(whole.plan.done):
        trial = Trial(fsync, Plan(**options))
        trial.run(program)
        disk, told, durable = trial.keep()
        found.check(disk.killed(), told, durable, exact=True)
        for left in disk.survivors(max(2, int(4 * SCALE)), chance):
            found.check(left, told, durable, exact=fsync == "always")
        count += 1
        broken += told.broken or trial.told.broken
    record_property("operations that failed", count)
    assert count > 100
    assert broken > 20
