"""Bugs in what tubes are told, and in which of them is claimed from next."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    LOCAL_STORE,
    PROJECTION,
    READY,
    TEST_HEADS,
    TEST_SNAPSHOT_TABLES,
    TEST_TUBES,
    TEST_TUBES_IN_STORE,
    TEST_TUBES_RUNNING,
    TUBES,
    WORKERS,
)

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    Mutant(
        name="tube-resumed-twice",
        thought="A resume says that a tube is to be claimed from, so it is recorded whenever it is asked for.",
        file=TUBES,
        before="return () if now.paused_since is None else (TubeResumed(command.tube),)",
        after="return (TubeResumed(command.tube),)",
        tests=(TEST_TUBES,),
    ),
    Mutant(
        name="tube-window-closed-at-both-ends",
        thought="A claim counts until it is older than the period.",
        file=TUBES,
        before="old = bisect_right(times, now, key=lambda time: _after(time, period))",
        after="old = sum(_after(time, period) < now for time in times)",
        tests=(TEST_TUBES,),
    ),
    Mutant(
        name="tube-limit-forgets",
        thought="A new limit begins with a new period.",
        file=TUBES,
        before="None if claims is None else (times or [])[-claims:]",
        after="None if claims is None else []",
        tests=(TEST_TUBES,),
    ),
    Mutant(
        name="tube-claim-not-taken-back",
        thought="Times that leave the window are not needed any more, so there is nothing to put back.",
        file=TUBES,
        before="            times.insert(0, dropped)\n",
        after="            pass\n",
        tests=(TEST_TUBES,),
    ),
    Mutant(
        name="tube-claims-not-replayed",
        thought="A replay shows what is in the log; only a queue that runs has to know of its last claims.",
        file=PROJECTION,
        before="                    if limited:\n                        self._note_claim(old, event, record.at)\n",
        after="",
        tests=(TEST_TUBES_RUNNING,),
    ),
    Mutant(
        name="tube-claims-not-in-the-snapshot",
        thought="A snapshot says what tubes were told.",
        file=TUBES,
        before="msgspec.structs.replace(state, times=tuple(self.times.get(name, ())))",
        after="state",
        tests=(TEST_SNAPSHOT_TABLES,),
    ),
    Mutant(
        name="tube-opens-without-a-wake",
        thought="Workers look at their tubes again whenever something happens.",
        file=PROJECTION,
        before="        earliest = self._ready.next_instant()\n",
        after="        earliest = None\n",
        tests=(TEST_TUBES_RUNNING,),
    ),
    Mutant(
        name="tube-counted-though-closed",
        thought="Idle workers are woken for what is ready.",
        file=READY,
        before="        return ready[0] if free else None, free, instant\n",
        after="        return ready[0] if free else None, len(ready), instant\n",
        tests=(TEST_HEADS,),
    ),
    Mutant(
        name="tube-open-after-a-backward-step",
        thought="What was open stays open.",
        file=READY,
        before="            self._stale |= self._wanted & self._tubes.times.keys()\n",
        after="            pass\n",
        tests=(TEST_HEADS,),
    ),
    Mutant(
        name="tube-head-not-looked-at-after-a-claim-ends",
        thought="A claim that ends makes no ticket ready.",
        file=READY,
        before="            self.claimed[tube] -= 1\n        self.touch(tube)\n",
        after="            self.claimed[tube] -= 1\n",
        tests=(TEST_HEADS,),
    ),
    Mutant(
        name="tube-subscription-of-those-who-sleep",
        thought="A worker sees the new tubes in its next turn.",
        file=WORKERS,
        before="            self._store.wake_all()  # idle workers then",
        after="            pass  # idle workers then",
        tests=(TEST_TUBES_RUNNING,),
    ),
    Mutant(
        name="tube-claimed-by-another-clock",
        thought="The time of a claim is when it is carried out.",
        file=LOCAL_STORE,
        before="claimed = self._execute((Claim(ticket.id, worker),), worker, now, lease)",
        after="claimed = self._execute((Claim(ticket.id, worker),), worker, lease=lease)",
        tests=(TEST_TUBES_IN_STORE,),
    ),
    Mutant(
        name="tube-that-reopens-wakes-nobody-new",
        thought="What will be due earlier, a commit brings about.",
        file=LOCAL_STORE,
        before="            self._announce_earlier(self._next_due)\n        if self._commits.may_grow() and ready",
        after="            pass\n        if self._commits.may_grow() and ready",
        tests=(TEST_TUBES_RUNNING,),
    ),
    Mutant(
        name="tube-open-to-more-than-its-limit-after-a-move",
        thought="A claim takes a ticket out of those that are ready, and so its tube is looked at again.",
        file=READY,
        before="        self.claimed[tube] = self.claimed.get(tube, 0) + 1\n        self.touch(tube)\n",
        after="        self.claimed[tube] = self.claimed.get(tube, 0) + 1\n",
        tests=(TEST_HEADS,),
    ),
)
