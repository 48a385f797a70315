"""How a scenario is stopped, or failed, at each of its operations, and what is left then is looked at."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Iterator

from simulated_files import CHANGING, Plan, PowerLoss, SimulatedFiles, check_named

from kharon.log.record import Record

from .other_disks import OTHER_DISKS
from .scenarios import SCENARIOS
from .world import Pages, Wide, World, check, examine, numbered_logs, opened

KINDS: dict[Callable[[World], None], type[World]] = {**dict.fromkeys(SCENARIOS, World), **OTHER_DISKS}
SCALE = float(os.environ.get("KHARON_CRASH_SCALE", "1"))


def run(scenario: Callable[[World], None], plan: Plan, kind: type[World] = World) -> World:
    """Run a scenario until the power fails or the log gives up."""
    world = kind(plan)
    with contextlib.suppress(PowerLoss), numbered_logs(1):
        try:
            scenario(world)
        except OSError as error:
            check_named(error)
    world.note()
    return world


def stops(plan: Plan) -> list[int]:
    """In front of which of the operations that were done another disk may be left, and behind the last one."""
    return [number for number, name in enumerate(plan.done) if name in CHANGING] + [plan.count]


DISKS = {World: int(2000 * SCALE), Wide: int(4500 * SCALE), Pages: int(1000 * SCALE)}  # that one stop may leave


RECOVERIES = max(1, int(SCALE))


DISKS_OF_A_RECOVERY = max(3, int(4 * SCALE))


DISKS_OF_A_FAILURE = max(3, int(3 * SCALE))


class Looked:
    """What opening gave of each disk that survived: none is opened twice.

    Attributes:
        states: how many crash states were looked at: a disk, and what was promised when it was left.
    """

    def __init__(self) -> None:
        self._records: dict[bytes, list[Record]] = {}
        self._killed: dict[bytes, list[Record]] = {}
        self._recovered: set[bytes] = set()
        self.states = 0

    @property
    def disks(self) -> int:
        """How many different disks were looked at."""
        return len(self._records)

    def verify(self, world: World, files: SimulatedFiles) -> None:
        """Hold what is on a disk against what a world may have, and must have. The disk is as it was then."""
        self.states += 1
        state = files.state()
        records = self._records.get(state)
        if records is None:
            records = self._records[state] = examine(world, files, go_on=len(self._records) % 8 == 0)
        check(world, records, world.on_disk)

    def verify_killed(self, world: World) -> None:
        """The same for what the next process finds if only this one ends: all that was written."""
        files = world.files.killed()
        state = files.whole_state()
        records = self._killed.get(state)
        if records is None:
            records = self._killed[state] = examine(world, files, go_on=True)
        check(world, records, world.written)

    def crash_recovery(self, world: World, files: SimulatedFiles, chance: random.Random) -> None:
        """Stop the opening of a disk at each of its operations, and look at what that leaves."""
        whole = files.killed()
        opened(whole, world)
        for stop in stops(whole.plan):
            disk = files.killed()
            disk.plan = Plan(stop=stop)
            with contextlib.suppress(PowerLoss):
                opened(disk, world)
            for left in disk.survivors(DISKS_OF_A_RECOVERY, chance):
                self.verify(world, left)
            check(world, examine(world, disk.killed(), go_on=False), world.on_disk)

    def crash_recovery_once(self, world: World, files: SimulatedFiles, chance: random.Random) -> None:
        """The same, unless that was done with this disk."""
        state = files.state()
        if state not in self._recovered:
            self._recovered.add(state)
            self.crash_recovery(world, files, chance)


def crash_everywhere(scenario: Callable[[World], None], kind: type[World] = World) -> Looked:
    """Stop a scenario at each of its operations, and look at the disks that each stop may leave."""
    chance = random.Random(scenario.__name__)
    looked = Looked()
    for stop in stops(run(scenario, Plan(), kind).plan):
        world = run(scenario, Plan(stop=stop), kind)
        left = []
        for disk in world.files.survivors(max(2, DISKS.get(kind, DISKS[World])), chance):
            if len(left) < 4 or chance.random() < 0.05:
                left.append(disk.killed())
            looked.verify(world, disk)
        looked.verify_killed(world)
        looked.crash_recovery(world, world.files.killed(), chance)
        for disk in chance.sample(left, min(RECOVERIES, len(left))):
            looked.crash_recovery_once(world, disk, chance)
    return looked


ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EINTR)


def failures(scenario: Callable[[World], None], kind: type[World] = World) -> Iterator[dict[str, object]]:
    """Every operation, with every error, once and for good.

    Writes and allocations also after a part, and reads that give a part; syncs also keeping the pages, or killed right
    behind; renamings also after they happened.
    """
    for number, name in enumerate(run(scenario, Plan(), kind).plan.done):
        for for_good in (False, True):
            if name == "read_bytes":
                yield from ({"fail": number, "for_good": for_good, "shorter": share} for share in (0, 0.01))
            for error in ERRORS:
                if name == "read_bytes" and for_good and error == errno.EINTR:
                    continue  # Python reads again for as long as it is interrupted
                plan = {"fail": number, "error": error, "for_good": for_good}
                yield plan
                if name in {"write", "allocate"}:
                    yield from (plan | {"short": share} for share in (0.4, 0.9))
                if name in {"sync", "sync_twin"}:
                    yield from (plan | {"drops": False}, plan | {"stop": number + 1})
                if name == "rename":
                    yield plan | {"late": True}


def fail_everywhere(scenario: Callable[[World], None], kind: type[World] = World) -> int:
    """Fail each operation of a scenario in each way; return how many failures that were."""
    chance = random.Random(scenario.__name__)
    looked, count = Looked(), 0
    for plan in failures(scenario, kind):
        world = run(scenario, Plan(**plan), kind)
        if world.log is not None:
            world.log.abandon()
        looked.verify_killed(world)
        for disk in world.files.survivors(DISKS_OF_A_FAILURE, chance):
            looked.verify(world, disk)
        count += 1
    return count


def ways_to_fail(done: list[str]) -> Iterator[Plan]:
    """Each operation with each error, and each read also with less than was asked for."""
    for number, name in enumerate(done):
        for error in ERRORS:
            yield Plan(fail=number, error=error)
            if name != "read_bytes" or error != errno.EINTR:  # Python reads again as long as it is interrupted
                yield Plan(fail=number, error=error, for_good=True)
        if name == "write":
            yield Plan(fail=number, short=0.5)
        if name == "sync":
            yield Plan(fail=number, drops=False)
        if name == "rename":
            yield Plan(fail=number, late=True)
        if name == "read_bytes":
            yield Plan(fail=number, shorter=0.01, for_good=True)
