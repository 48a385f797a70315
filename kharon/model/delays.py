"""Delays before the next attempt: `FixedDelay` and `BackoffDelay`.

Pure arithmetic. The random part is drawn outside (`Context.jitter`) and its result is written into the event, so replay
never computes a delay again.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TypeAlias

import attrs

from kharon.errors import InvalidTicket

__all__ = ["MAX_SECONDS", "BackoffDelay", "Delay", "FixedDelay", "as_seconds", "delay_seconds"]

MAX_SECONDS = 100 * 366 * 86_400
"""The longest duration, in seconds: about a century. A longer one is far more often a mistake in units than a wish."""


def as_seconds(field: str, value: object) -> float:
    """Return a duration in seconds from a number of seconds or a `timedelta`.

    Raises:
        InvalidTicket: it is neither, or not finite, negative, or longer than `MAX_SECONDS`.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    else:
        raise InvalidTicket(f"{field}: give seconds (a number) or a timedelta, not {type(value).__name__}")
    if not 0 <= seconds <= MAX_SECONDS:  # also refuses NaN
        raise InvalidTicket(f"{field}: {seconds!r} seconds is not between 0 and {MAX_SECONDS} (about a century)")
    return seconds


def _fixed_delay(value: float | timedelta) -> float:
    return as_seconds("FixedDelay.delay", value)


def _max_delay(value: float | timedelta) -> float:
    return as_seconds("BackoffDelay.max_delay", value)


def _initial(value: float | timedelta) -> float:
    return as_seconds("BackoffDelay.initial", value)


@attrs.frozen(slots=True)
class FixedDelay:
    """The same delay before each attempt.

    Args:
        delay: seconds, or a `timedelta`.

    Raises:
        InvalidTicket: `delay` is not a duration.
    """

    delay: float = attrs.field(converter=_fixed_delay)

    def seconds(self, attempts: int, jitter: float) -> float:  # noqa: ARG002 - the same call as a BackoffDelay's
        """Return the delay in seconds. O(1); both arguments are ignored."""
        return self.delay


@attrs.frozen(slots=True)
class BackoffDelay:
    """A delay that grows with the attempts: `initial * base ** attempts` seconds, at most `max_delay`.

    `jitter` takes a random part away, up to that share of the delay, so that tickets that failed together do not come
    back together. (Exponential backoff with a cap and jitter, as in "Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015.)

    By default the delays are 1.8 s, 3.2 s, 5.8 s and so on up to 6 h, each less up to a fifth. With 25 attempts, a
    ticket that always fails is tried for about two days.

    Args:
        base: at least 1.
        max_delay: seconds, or a `timedelta`.
        jitter: a share, 0 to 1.
        initial: seconds, or a `timedelta`; more than 0.

    Raises:
        InvalidTicket: an argument is out of range; the message names it.
    """

    base: float = attrs.field(default=1.8)
    max_delay: float = attrs.field(default=21_600.0, converter=_max_delay)
    jitter: float = attrs.field(default=0.2)
    initial: float = attrs.field(default=1.0, converter=_initial)

    @base.validator
    def _check_base(self, _attribute: object, value: object) -> None:
        if not _is_number(value) or not 1 <= value < math.inf:  # type: ignore[operator]
            raise InvalidTicket(f"BackoffDelay.base: {value!r} is not a finite number of at least 1")

    @jitter.validator
    def _check_jitter(self, _attribute: object, value: object) -> None:
        if not _is_number(value) or not 0 <= value <= 1:  # type: ignore[operator]
            raise InvalidTicket(f"BackoffDelay.jitter: {value!r} is not a share of the delay, a number from 0 to 1")

    @initial.validator
    def _check_initial(self, _attribute: object, value: float) -> None:
        if value == 0:
            raise InvalidTicket("BackoffDelay.initial: 0 seconds never grow; it is more than that")

    def seconds(self, attempts: int, jitter: float) -> float:
        """Return the delay in seconds after `attempts` attempts.

        Args:
            attempts: the number of attempts so far, 0 or more; a million is fine.
            jitter: a number drawn by the caller, 0 <= jitter < 1.

        Cost: O(1). The power is computed only if it stays below the cap, so it cannot overflow.
        """
        cap = self.max_delay
        if cap <= self.initial or attempts * math.log(self.base) >= math.log(cap) - math.log(self.initial):
            grown = cap
        else:
            grown = min(self.initial * self.base**attempts, cap)
        return grown * (1 - self.jitter * jitter)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


Delay: TypeAlias = float | int | timedelta | FixedDelay | BackoffDelay
"""The types of a delay that users may give."""


def delay_seconds(delay: Delay, attempts: int, jitter: float) -> float:
    """Return any kind of delay in seconds, for a ticket that has had `attempts` attempts.

    Raises:
        InvalidTicket: `delay` is not a delay.
    """
    if isinstance(delay, (FixedDelay, BackoffDelay)):
        return delay.seconds(attempts, jitter)
    return as_seconds("delay", delay)
