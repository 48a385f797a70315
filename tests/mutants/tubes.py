"""Bugs in what tubes are told, and in which of them is claimed from next."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant

__all__ = ["MUTANTS"]

_TUBES: Final = "kharon/model/tubes.py"
_HEADS: Final = "kharon/model/heads.py"
_PROJECTION: Final = "kharon/model/projection.py"
_TUBES_TESTS: Final = ("tests/model/test_tubes.py",)
_HEADS_TESTS: Final = ("tests/model/test_heads.py",)
_RUNTIME_TESTS: Final = ("tests/runtime/test_tubes_running.py",)

MUTANTS: Final = (
    Mutant(
        name="tube-resumed-twice",
        thought="A resume says that a tube is to be claimed from, so it is recorded whenever it is asked for.",
        file=_TUBES,
        before="return () if now.paused_since is None else (TubeResumed(command.tube),)",
        after="return (TubeResumed(command.tube),)",
        tests=_TUBES_TESTS,
    ),
    Mutant(
        name="tube-window-closed-at-both-ends",
        thought="A claim counts until it is older than the period.",
        file=_TUBES,
        before="old = bisect_right(times, now, key=lambda time: _after(time, period))",
        after="old = sum(_after(time, period) < now for time in times)",
        tests=_TUBES_TESTS,
    ),
    Mutant(
        name="tube-limit-forgets",
        thought="A new limit begins with a new period.",
        file=_TUBES,
        before="None if claims is None else (times or [])[-claims:]",
        after="None if claims is None else []",
        tests=_TUBES_TESTS,
    ),
    Mutant(
        name="tube-claim-not-taken-back",
        thought="Times that leave the window are not needed any more, so there is nothing to put back.",
        file=_TUBES,
        before="            times.insert(0, dropped)\n",
        after="            pass\n",
        tests=_TUBES_TESTS,
    ),
    Mutant(
        name="tube-claims-not-replayed",
        thought="A replay shows what is in the log; only a queue that runs has to know of its last claims.",
        file=_PROJECTION,
        before="                    if limited:\n                        self._note_claim(old, event, record.at)\n",
        after="",
        tests=_RUNTIME_TESTS,
    ),
    Mutant(
        name="tube-claims-not-in-the-snapshot",
        thought="A snapshot says what tubes were told.",
        file=_TUBES,
        before="msgspec.structs.replace(state, times=tuple(self.times.get(name, ())))",
        after="state",
        tests=("tests/log/test_snapshot_others.py",),
    ),
    Mutant(
        name="tube-opens-without-a-wake",
        thought="Workers look at their tubes again whenever something happens.",
        file=_PROJECTION,
        before="        earliest = self._heads.next_instant()\n",
        after="        earliest = None\n",
        tests=_RUNTIME_TESTS,
        hangs=True,
    ),
    Mutant(
        name="tube-counted-though-closed",
        thought="Idle workers are woken for what is ready.",
        file=_HEADS,
        before="        return ready[0] if free else None, free, instant\n",
        after="        return ready[0] if free else None, len(ready), instant\n",
        tests=_HEADS_TESTS,
    ),
    Mutant(
        name="tube-open-after-a-backward-step",
        thought="What was open stays open.",
        file=_HEADS,
        before="            self._stale |= self._wanted & self._tubes.times.keys()\n",
        after="            pass\n",
        tests=_HEADS_TESTS,
    ),
    Mutant(
        name="tube-head-not-looked-at-after-a-claim-ends",
        thought="A claim that ends makes no ticket ready.",
        file=_HEADS,
        before="            self.claimed[tube] -= 1\n        self.touch(tube)\n",
        after="            self.claimed[tube] -= 1\n",
        tests=_HEADS_TESTS,
    ),
    Mutant(
        name="tube-subscription-of-those-who-sleep",
        thought="A worker sees the new tubes in its next turn.",
        file="kharon/runtime/workers.py",
        before="            self._store.wake_all()  # idle workers look",
        after="            pass  # idle workers look",
        tests=_RUNTIME_TESTS,
        hangs=True,
    ),
    Mutant(
        name="tube-claimed-by-another-clock",
        thought="The time of a claim is when it is carried out.",
        file="kharon/store/local.py",
        before="claimed = self._execute((Claim(ticket.id, worker),), worker, now)",
        after="claimed = self._execute((Claim(ticket.id, worker),), worker)",
        tests=("tests/store/test_tubes_in_store.py",),
    ),
    Mutant(
        name="tube-that-reopens-wakes-nobody-new",
        thought="What will be due earlier, a commit brings about.",
        file="kharon/store/local.py",
        before="            self._look_earlier(self._promised)\n        if self._commits.may_grow() and ready",
        after="            pass\n        if self._commits.may_grow() and ready",
        tests=_RUNTIME_TESTS,
    ),
)
