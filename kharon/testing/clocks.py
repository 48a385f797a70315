"""Virtual time: a clock that goes with Trio's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import trio

__all__ = ["EPOCH", "TrioClock"]

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""The instant at which a `TrioClock` begins, unless told otherwise."""


class TrioClock:
    """A clock that goes with Trio's: under `trio.testing.MockClock` a day passes as fast as nothing happens in it.

    Args:
        start: the instant at which Trio's clock stands when `now` is first asked, timezone-aware.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        self._start = start
        self._zero: float | None = None

    def now(self) -> datetime:
        """Return the present instant. Must be called inside of `trio.run`."""
        time = trio.current_time()
        if self._zero is None:
            self._zero = time
        return self._start + timedelta(seconds=time - self._zero)

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back: what an operator or NTP does to the machine's."""
        self._start += timedelta(seconds=seconds)
