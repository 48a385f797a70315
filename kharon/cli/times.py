"""Instants and durations as people write and read them; `now`.

An instant is written in ISO 8601 with a timezone, or as how long ago it was (`2h`, `1h30m`, `now`). One without a
timezone is refused: whether it means UTC or the time on this wall would be a guess, and the message says how to write
each. What is shown is local time with its offset, `2026-03-11 04:19:49.035+01`, which may be given back as it stands.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from kharon.cli.failures import Usage

__all__ = ["NOW", "ago", "instant", "moment", "now", "seconds", "seq_or_instant"]

NOW: Final = "KHARON_NOW"
"""The environment variable that says what `now` is: an instant with a timezone. Unset, it is what the clock says."""

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+", re.ASCII)
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_MOST: Final = 100 * 366 * 86_400.0


def now() -> datetime:
    """Return the present instant, in UTC.

    Raises:
        Usage: `KHARON_NOW` is set, and is no instant.
    """
    given = os.environ.get(NOW)
    return instant(given, NOW, datetime.now(UTC)) if given else datetime.now(UTC)


def seconds(text: str, what: str) -> float:
    """Return a duration (`90s`, `1h30m`, `2.5`; a bare number is seconds) in seconds.

    Raises:
        Usage: naming `what`, if it is none.
    """
    if re.fullmatch(r"\d+(?:\.\d+)?", text, re.ASCII):
        amount = float(text)
    elif _DURATION.fullmatch(text):
        amount = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    else:
        raise Usage(f"{what}: {text!r} is no duration; write 90s, 15m, 2h, 3d, 1w, 1h30m, or a number of seconds")
    if amount > _MOST:
        raise Usage(f"{what}: {text!r} is more than a century")
    return amount


def instant(text: str, what: str, present: datetime) -> datetime:
    """Return an instant, in UTC: ISO 8601 with a timezone, or how long before `present`, or `now`.

    Raises:
        Usage: naming `what`, if it is none; if it has no timezone, with how to write it with one.
    """
    if text == "now":
        return present
    if _DURATION.fullmatch(text):
        try:
            return present - timedelta(seconds=seconds(text, what))
        except OverflowError:
            raise Usage(f"{what}: {text!r} before now is out of range") from None
    try:
        read = datetime.fromisoformat(text)
        if read.tzinfo is None:
            here = read.astimezone().isoformat()
            raise Usage(
                f"{what}: {text!r} has no timezone; write {read.isoformat()}Z if you mean UTC, {here} if you mean "
                f"the time here"
            )
        return read.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Usage(
            f"{what}: {text!r} is no time; write one like 2026-03-11T04:00Z, or how long ago: 90s, 15m, 2h, 3d, or now"
        ) from None


def seq_or_instant(text: str, what: str, present: datetime) -> int | datetime:
    """Return a seq, if the text is a whole number, else an instant.

    Raises:
        Usage: naming `what`, if it is neither.
    """
    if re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return int(text)
    try:
        return instant(text, what, present)
    except Usage as error:
        if "no timezone" in str(error):
            raise
        raise Usage(
            f"{what}: {text!r} is neither a seq (a whole number) nor a time; write one like 2026-03-11T04:00Z, or how "
            f"long ago: 90s, 15m, 2h, 3d, or now"
        ) from None


def moment(at: datetime, *, exact: bool = True) -> str:
    """Return an instant as local time with its offset, to the millisecond if `exact`: `2026-03-11 04:19:49.035+01`."""
    local = at.astimezone()
    offset = local.strftime("%z")
    zone = "Z" if local.utcoffset() == timedelta(0) else offset[:3] if offset[3:] == "00" else offset[:5]
    fraction = f".{local.microsecond // 1000:03}" if exact else ""
    return f"{local:%Y-%m-%d %H:%M:%S}{fraction}{zone}"


def ago(at: datetime, present: datetime) -> str:
    """Return how far an instant is from the present: `in 5 m`, `2 h ago`, `now`."""
    difference = at - present
    if abs(difference) < timedelta(milliseconds=500):
        return "now"
    from kharon.audit.words import length  # noqa: PLC0415 - the help needs nothing of the audit

    return f"in {length(difference)}" if difference > timedelta(0) else f"{length(-difference)} ago"
