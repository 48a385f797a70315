"""Durations as people read them: the one way in which explanations, the command and the report tell one."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["length"]


def length(span: timedelta | float) -> str:
    """Return a duration with two or three significant digits: `35 ms`, `1.2 s`, `4 m 12 s`, `3 h 5 m`, `2 d 4 h`."""
    amount = span.total_seconds() if isinstance(span, timedelta) else span
    if amount < 0:
        return "-" + length(-amount)
    if amount < 0.9995:
        return f"{amount * 1000:.0f} ms" if amount >= 0.0005 else "0 s"
    if amount < 9.95:
        return f"{amount:.1f} s"
    whole = round(amount)
    for unit, size, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"
