"""Tubes: which are paused, which are limited, and when a limited tube was last claimed from.

A tube that was never paused or limited is not here: it is only a name on tickets. Limits count records, so they hold
across restarts: at most `claimed` tickets of the tube are claimed at once, and at most `claims` claims are made in any
`period` seconds, by the times of the records. Whether that is 10 s or 10 days, only the newest `claims` of them need to
be known: one more may be made when the oldest of these is `period` seconds old.

`decide_tube` has the rules by which tubes change, and `room` says how many claims a tube leaves room for. Which tube to
claim from next is in `ready`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import ClassVar, Final, TypeAlias

import msgspec

from kharon.errors import KharonError
from kharon.model import commands as c
from kharon.model.delays import MAX_SECONDS
from kharon.model.events import Event, Instant, TubeEvent, TubeLimited, TubePaused, TubeResumed
from kharon.model.tables import Row

__all__ = ["MAX_CLAIMS", "Limit", "Tube", "TubeState", "Tubes", "decide_tube", "room"]

MAX_CLAIMS: Final = 10_000
"""The most claims per period that a limit can name: as many times are kept for the tube."""


class Limit(msgspec.Struct, frozen=True):
    """A limit on the claims from a tube.

    Attributes:
        claimed: how many of its tickets may be claimed at once; None: any number.
        claims: how many claims may be made in any `period` seconds; None: any number.
        period: seconds; None: without `claims`.
    """

    claimed: int | None
    claims: int | None
    period: float | None


class Tube(msgspec.Struct, frozen=True):
    """A tube, as it is at one moment.

    Attributes:
        name: the tube.
        paused_since: when it was paused; None: it is not.
        limit: its limit; None: it is not limited.
        ready: how many of its tickets are ready.
        claimed: how many of its tickets are claimed.
        open: whether a ready ticket may be claimed now.
        reopens_at: when it opens by itself, because its newest claims will be old enough; None: it is open, or it is
            paused, or as many tickets are claimed as may be.
        paused_seq: the seq of the record that paused it; None: it is not paused.
    """

    name: str
    paused_since: datetime | None
    limit: Limit | None
    ready: int
    claimed: int
    open: bool
    reopens_at: datetime | None
    paused_seq: int | None = None


class TubeState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The pause and the limits of a tube: a row of `Tubes`.

    Attributes:
        name: the tube.
        paused_since: the time of the record that paused it; None: it is not paused.
        claimed: how many of its tickets may be claimed at once; None: any number.
        claims: how many claims may be made in `period` seconds; None: any number.
        period: seconds; None: without `claims`.
        times: when its newest claims were made, oldest first: at most `claims` of them, and none without that limit.
        paused_seq: the seq of the record that paused it; None: it is not paused.
    """

    name: str
    paused_since: Instant | None = None
    claimed: int | None = None
    claims: int | None = None
    period: float | None = None
    times: tuple[Instant, ...] = ()
    paused_seq: int | None = None

    @property
    def told(self) -> bool:
        """Whether it differs from a tube that is neither paused nor limited."""
        return self.paused_since is not None or self.claimed is not None or self.claims is not None

    def fault(self, seq: int, at: datetime) -> str | None:
        """Return why no log folds to this; None: a log may."""
        why = None
        if not self.told:
            why = "nothing is said about it"
        elif self.paused_since is not None and self.paused_since > at:
            why = f"it was paused at {self.paused_since}, and the last record is of {at}"
        elif (self.paused_since is None) != (self.paused_seq is None):
            why = "paused_since and paused_seq go together"
        elif self.paused_seq is not None and not 0 < self.paused_seq <= seq:
            why = f"record {self.paused_seq} paused it, and the last record is {seq}"
        elif self.claimed is not None and self.claimed < 1:
            why = f"at most {self.claimed} claimed at once"
        elif (self.claims is None) != (self.period is None):
            why = "claims and period go together"
        elif self.claims is not None and not 1 <= self.claims <= MAX_CLAIMS:
            why = f"at most {self.claims} claims in a period, which is not between 1 and {MAX_CLAIMS}"
        elif self.period is not None and not 0 < self.period <= MAX_SECONDS:
            why = f"a period of {self.period} seconds, which is not between 0 and {MAX_SECONDS}"
        elif len(self.times) > (self.claims or 0):
            why = f"the times of {len(self.times)} claims, with a limit of {self.claims}"
        elif any(later < earlier for earlier, later in pairwise((*self.times, at))):
            why = "the times of its claims are not in order, or later than the last record"
        return None if why is None else f"tube {self.name!r}: {why}"


_Displaced: TypeAlias = tuple[TubeState | None, list[datetime] | None]


class Tubes:
    """The tubes that are paused or limited: a `Table`.

    Attributes:
        times: for each tube with a limit per period, when its newest claims were made, oldest first.
    """

    kind: ClassVar[str] = "tube"
    value: ClassVar[type[TubeState]] = TubeState
    events: ClassVar[tuple[type[Event], ...]] = (TubePaused, TubeResumed, TubeLimited)

    def __init__(self) -> None:
        self._states: dict[str, TubeState] = {}  # without their times
        self.times: dict[str, list[datetime]] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tubes):
            return NotImplemented
        return (self._states, self.times) == (other._states, other.times)

    __hash__ = None  # type: ignore[assignment]

    def get(self, tube: str) -> TubeState | None:
        """Return the state of a tube without the times of its claims; None: neither paused nor limited. O(1)."""
        return self._states.get(tube)

    def names(self) -> list[str]:
        """Return the names of the tubes that are paused or limited, sorted. O(tubes log tubes)."""
        return sorted(self._states)

    def apply(self, event: TubeEvent, seq: int, at: datetime) -> _Displaced:
        """Fold an event; return what `undo` needs. O(1); for a limit O(its claims).

        Raises:
            KharonError: the event sets a limit that is out of range.
        """
        tube = event.tube
        displaced = self._states.get(tube), self.times.get(tube)
        state, times = displaced[0] or TubeState(tube), displaced[1]
        if type(event) is TubeLimited:
            claims = event.claims
            state = msgspec.structs.replace(state, claimed=event.claimed, claims=claims, period=event.period)
            if state.told and (fault := state.fault(seq, at)) is not None:
                raise KharonError(f"record {seq}: {fault}")
            times = None if claims is None else (times or [])[-claims:]
        else:
            pause = (at, seq) if type(event) is TubePaused else (None, None)
            state = msgspec.structs.replace(state, paused_since=pause[0], paused_seq=pause[1])
        self._put(tube, state if state.told else None, times)
        return displaced

    def undo(self, event: TubeEvent, displaced: object) -> None:
        """Undo the newest event that was applied. O(1)."""
        assert isinstance(displaced, tuple)
        self._put(event.tube, *displaced)

    def _put(self, tube: str, state: TubeState | None, times: list[datetime] | None) -> None:
        if state is None:
            self._states.pop(tube, None)
        else:
            self._states[tube] = state
        if times is None:
            self.times.pop(tube, None)
        else:
            self.times[tube] = times

    def claim(self, tube: str, at: datetime) -> datetime | None:
        """Note a claim from a tube that is in `times`; return the time that is no longer needed, if there is one.

        Cost: O(claims of the limit) moved bytes: at most 2 µs.
        """
        times = self.times[tube]
        times.append(at)
        return times.pop(0) if len(times) > (self._states[tube].claims or 0) else None

    def unclaim(self, tube: str, dropped: datetime | None) -> None:
        """Undo the newest call of `claim`, which returned `dropped`. Cost as `claim`."""
        times = self.times[tube]
        times.pop()
        if dropped is not None:
            times.insert(0, dropped)

    def values(self) -> list[Row]:
        """Return the rows, by name. O(tubes log tubes + times)."""
        return [
            msgspec.structs.replace(state, times=tuple(self.times.get(name, ())))
            for name, state in sorted(self._states.items())
        ]

    def load(self, values: Sequence[TubeState]) -> None:
        """Begin with the rows that `values` returned. O(tubes + times)."""
        self._states = {value.name: msgspec.structs.replace(value, times=()) for value in values}
        self.times = {value.name: list(value.times) for value in values if value.claims is not None}

    def check(self, seq: int, at: datetime | None) -> None:
        """Raise `AssertionError` if no log folds to the state of a tube. O(tubes + times)."""
        for value in self.values():
            assert at is not None, f"tube {value.name!r} is known about before the first record"
            fault = value.fault(seq, at)
            assert fault is None, fault
        limited = {name for name, state in self._states.items() if state.claims is not None}
        assert limited == self.times.keys(), f"{limited} are limited, and {self.times.keys()} have times"


def decide_tube(state: TubeState | None, command: c.TubeCommand) -> tuple[TubeEvent, ...]:
    """Return the events by which a command changes a tube; none if nothing would change. O(1). Pure.

    Args:
        state: its state; None: it is neither paused nor limited.
        command: the request.
    """
    now = state or TubeState(command.tube)
    if isinstance(command, c.Pause):
        return () if now.paused_since is not None else (TubePaused(command.tube),)
    if isinstance(command, c.Resume):
        return () if now.paused_since is None else (TubeResumed(command.tube),)
    assert isinstance(command, c.Limit)
    wanted = (command.claimed, command.claims, command.period)
    return () if wanted == (now.claimed, now.claims, now.period) else (TubeLimited(command.tube, *wanted),)


def room(
    state: TubeState, claimed: int, times: Sequence[datetime], now: datetime
) -> tuple[int | None, datetime | None]:
    """Return how many claims may be made from a tube now, and when there may be one more because time has passed.

    Args:
        state: its state.
        claimed: how many of its tickets are claimed.
        times: when its newest claims were made, as `Tubes.times` has them.
        now: the time that the record of a claim would have.

    Returns:
        How many; None: any number. And the instant, later than `now`; None: time alone changes nothing.

    Cost: O(log times). Pure.
    """
    if state.paused_since is not None:
        return 0, None
    free = None if state.claimed is None else max(0, state.claimed - claimed)
    if state.claims is None or state.period is None:
        return free, None
    period = timedelta(seconds=state.period)
    old = bisect_right(times, now, key=lambda time: _after(time, period))
    left = state.claims - (len(times) - old)
    if free is not None and free <= left:
        return free, None
    return left, _after(times[old], period) if old < len(times) else None


def _after(time: datetime, period: timedelta) -> datetime:
    try:
        return time + period
    except OverflowError:  # the clock is at the end of its days
        return datetime.max.replace(tzinfo=UTC)
