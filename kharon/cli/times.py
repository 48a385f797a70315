"""Instants and durations on the command line, in arguments and in output; `now`.

An instant is given in ISO 8601 with a timezone, or as how long ago it was (`2h`, `1h30m`, `now`). One without a
timezone is refused, since it could mean UTC or local time; the message says how to write each. Instants are shown as
local time with its offset, `2026-03-11 04:19:49.035+01`, which is accepted as an argument, too.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from kharon.cli.failures import Usage

__all__ = ["NOW", "ago", "local_time", "now", "parse_duration", "parse_instant", "parse_place"]

NOW: Final = "KHARON_NOW"
"""The environment variable that sets `now`: an instant with a timezone. If it is unset, `now` is the clock's."""

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+", re.ASCII)
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_MOST: Final = 100 * 366 * 86_400.0


def now() -> datetime:
    """Return the present instant, in UTC.

    Raises:
        Usage: `KHARON_NOW` is set to something other than an instant.
    """
    given = os.environ.get(NOW)
    return parse_instant(given, NOW, datetime.now(UTC)) if given else datetime.now(UTC)


def parse_duration(text: str, what: str) -> float:
    """Return a duration (`90s`, `1h30m`, `2.5`; a bare number is seconds) in seconds.

    Raises:
        Usage: it is not a duration; the message names `what`.
    """
    if re.fullmatch(r"\d+(?:\.\d+)?", text, re.ASCII):
        amount = float(text)
    elif _DURATION.fullmatch(text):
        amount = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    else:
        raise Usage(f"{what}: {text!r} is not a duration; write 90s, 15m, 2h, 3d, 1w, 1h30m, or a number of seconds")
    if amount > _MOST:
        raise Usage(f"{what}: {text!r} is more than a century")
    return amount


def parse_instant(text: str, what: str, present: datetime) -> datetime:
    """Return an instant, in UTC: ISO 8601 with a timezone, or how long before `present`, or `now`.

    Raises:
        Usage: it is not an instant, or has no timezone; the message names `what`, and says how to write it.
    """
    if text == "now":
        return present
    if _DURATION.fullmatch(text):
        try:
            return present - timedelta(seconds=parse_duration(text, what))
        except OverflowError:
            raise Usage(f"{what}: {text!r} before now is out of range") from None
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise Usage(
            f"{what}: {text!r} is not a time; write one like 2026-03-11T04:00Z, or how long ago: 90s, 15m, 2h, 3d, or "
            f"now"
        ) from None
    try:
        if read.tzinfo is None:
            here = read.astimezone().isoformat()
            raise Usage(
                f"{what}: {text!r} has no timezone; write {read.isoformat()}Z if you mean UTC, {here} if you mean "
                f"the time here"
            )
        return read.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Usage(f"{what}: {text!r} is out of range: in UTC its year is not one of 1 to 9999") from None


def parse_place(text: str, what: str, present: datetime) -> int | datetime:
    """Return a seq if the text is a whole number, otherwise an instant.

    Raises:
        Usage: it is neither; the message names `what`.
    """
    if re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return int(text)
    try:
        return parse_instant(text, what, present)
    except Usage as error:
        if "is not a time" not in str(error):
            raise
        raise Usage(
            f"{what}: {text!r} is neither a seq (a whole number) nor a time; write one like 2026-03-11T04:00Z, or how "
            f"long ago: 90s, 15m, 2h, 3d, or now"
        ) from None


def local_time(at: datetime, *, exact: bool = True) -> str:
    """Return an instant as local time with its offset, to the millisecond if `exact`: `2026-03-11 04:19:49.035+01`.

    At both ends of what a datetime can hold, where there is no local time, it is UTC.
    """
    try:
        local = at.astimezone()
    except (OverflowError, ValueError):
        local = at.astimezone(UTC)
    offset = local.strftime("%z")
    zone = "Z" if local.utcoffset() == timedelta(0) else offset[:3] if offset[3:] == "00" else offset[:5]
    fraction = f".{local.microsecond // 1000:03}" if exact else ""
    return f"{local.replace(tzinfo=None).isoformat(' ', 'seconds')}{fraction}{zone}"


def ago(at: datetime, present: datetime) -> str:
    """Return the distance of an instant from the present: `in 5 m`, `2 h ago`, `now`."""
    difference = at - present
    if abs(difference) < timedelta(milliseconds=500):
        return "now"
    from kharon.audit.words import length  # noqa: PLC0415 - a help text does not need it

    return f"in {length(difference)}" if difference > timedelta(0) else f"{length(-difference)} ago"
