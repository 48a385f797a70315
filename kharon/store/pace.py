"""How fast the disk is: whether a sync is short enough to be done in the event loop.

Fed with the seconds of every sync, it answers one question. Pure arithmetic, without a clock of its own.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Pace"]

SLOW_SECONDS: Final = 0.002  # on average above this the loop stands still for longer than a helper's two wake-ups cost
FAST_SECONDS: Final = 0.0005  # well below: a disk between the two keeps what it has, whichever that is
CALM_SYNCS: Final = 100  # so many in a row before it counts as fast again: an idle minute of a slow disk is not enough
_WEIGHT: Final = 1 / 8  # of the newest: the third of three slow syncs is enough, at 20 ms each
_OUTLIER_SECONDS: Final = 0.008  # longer ones count as this, so that a single one of any length is not enough


class Pace:
    """The moving average of sync seconds, with hysteresis.

    Attributes:
        slow: whether syncs should not be done in the loop.
    """

    def __init__(self) -> None:
        self.slow = False
        self._average = 0.0
        self._calm = 0

    def add(self, seconds: float) -> None:
        """Take in one more sync. O(1)."""
        self._average += (min(seconds, _OUTLIER_SECONDS) - self._average) * _WEIGHT
        if self._average > SLOW_SECONDS:
            self.slow = True
        self._calm = self._calm + 1 if self._average < FAST_SECONDS else 0
        if self._calm >= CALM_SYNCS:
            self.slow = False
