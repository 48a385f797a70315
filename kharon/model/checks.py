"""The limits on all values that a user can put into a ticket, and their checks.

Each function takes the field's name and the value, and returns the value in the form that the engine keeps. It raises
`InvalidTicket`, which names the field, the fault, and what would be right. JSON values become ASCII bytes here, once:
these bytes go unchanged into the ticket, the log line and the snapshot. Bytes cannot be altered, so a caller's later
change to a dict cannot reach the queue.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from kharon.errors import InvalidTicket

__all__ = [
    "MAX_DEPTH",
    "MAX_JSON_BYTES",
    "MAX_LINE_BYTES",
    "MAX_NAME_BYTES",
    "MAX_NICE",
    "MAX_REASON_CHARS",
    "ascii_json",
    "check_instant",
    "check_json",
    "check_name",
    "check_nice",
    "check_reason",
    "from_json",
    "instant_after",
    "shorten_reason",
]

MAX_LINE_BYTES: Final = 1 << 20
"""A line of the log, newline included."""
MAX_JSON_BYTES: Final = MAX_LINE_BYTES - (64 << 10)
"""A payload or a result as JSON: a line, less the room that all other fields can take at most."""
MAX_DEPTH: Final = 64
"""Lists and objects inside one another in a payload or a result."""
MAX_NAME_BYTES: Final = 200
"""An id, type, tube, group, worker or actor, in UTF-8."""
MAX_REASON_CHARS: Final = 4000
"""An error reason."""
MAX_NICE: Final = 2**31 - 1
_MAX_INT_BITS: Final = 1024


def _plain(value: Any) -> Any:
    # msgspec refuses subclasses of these three (numpy.float64 is a float); `_walk` lets in nothing else.
    if isinstance(value, str):
        return str.__str__(value)
    return int(value) if isinstance(value, int) else float(value)


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
_decode = msgspec.json.Decoder().decode
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def check_name(field: str, value: object) -> str:
    """Return a name (id, type, tube, group, worker, actor): 1 to 200 bytes of printable text."""
    if not isinstance(value, str):
        raise InvalidTicket(f"{field}: a name is a str, not {type(value).__name__}")
    if not value:
        raise InvalidTicket(f"{field}: a name cannot be empty")
    if not value.isprintable():  # also refuses lone surrogates
        raise InvalidTicket(
            f"{field}: {value[:50]!r} holds a character that cannot be printed; a name is printable text"
        )
    if len(value) > MAX_NAME_BYTES or len(value.encode()) > MAX_NAME_BYTES:
        raise InvalidTicket(f"{field}: {value[:50]!r}… is longer than {MAX_NAME_BYTES} bytes of UTF-8")
    return str.__str__(value)  # the checked text: str() of a `class Tube(str, Enum)` is "Tube.MAIL"


def check_nice(field: str, value: object) -> int:
    """Return a nice value: an int of 32 bits with a sign."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidTicket(f"{field}: an int, lower runs first; not {type(value).__name__}")
    if not -MAX_NICE <= value <= MAX_NICE:
        raise InvalidTicket(f"{field}: {value} is not between {-MAX_NICE} and {MAX_NICE}")
    return int(value)


def check_instant(field: str, value: object) -> datetime:
    """Return a timezone-aware datetime, in UTC."""
    if not isinstance(value, datetime):
        raise InvalidTicket(f"{field}: an instant is a timezone-aware datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise InvalidTicket(f"{field}: {value} has no timezone; say datetime.now(UTC), or .replace(tzinfo=…)")
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        raise InvalidTicket(f"{field}: {value} is out of range in UTC") from None
    return datetime(
        utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, tzinfo=UTC
    )  # a plain datetime, also for a subclass


def instant_after(field: str, now: datetime, seconds: float) -> datetime:
    """Return the instant `seconds` after `now`."""
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidTicket(f"{field}: {seconds} seconds after {now} is out of range") from None


def check_reason(field: str, value: object) -> str | None:
    """Return an error reason: text of at most `MAX_REASON_CHARS` characters, or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidTicket(f"{field}: a reason is a str, not {type(value).__name__}")
    if len(value) > MAX_REASON_CHARS:
        raise InvalidTicket(f"{field}: {len(value)} characters are more than {MAX_REASON_CHARS}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidTicket(f"{field}: holds a lone surrogate, which is not text") from None
    return str.__str__(value)


def shorten_reason(text: str) -> str:
    """Return any text as an error reason: long text is cut in the middle, lone surrogates are replaced."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) <= MAX_REASON_CHARS:
        return text
    half = MAX_REASON_CHARS // 2 - 2
    return f"{text[:half]} … {text[-half:]}"


def ascii_json(data: bytes) -> bytes:
    """Return JSON in UTF-8 as the same JSON in ASCII. O(length); nothing is copied where it is ASCII already."""
    if data.isascii():
        return data
    # Outside of strings JSON is ASCII, so every run found here is inside of one.
    return _NOT_ASCII.sub(lambda run: json.dumps(run.group())[1:-1], data.decode()).encode("ascii")


def from_json(data: bytes) -> Any:
    """Return the value of JSON bytes: a new one at each call. O(length)."""
    return _decode(data)


class _Unfit(Exception):
    def __init__(self, why: str) -> None:
        self.why = why
        self.path: list[str] = []


def check_json(field: str, value: object) -> bytes:
    """Return a JSON value as ASCII bytes.

    Raises:
        InvalidTicket: naming the field and the path inside of it, if the value is not JSON (str, int, float, bool,
            None, lists, tuples, dicts with str keys), holds NaN, an infinity or a lone surrogate, is nested deeper than
            `MAX_DEPTH`, or needs more than `MAX_JSON_BYTES`.

    Cost: O(size of the value), given up at the limit.
    """
    try:
        _walk(value, 0, MAX_JSON_BYTES)
    except _Unfit as unfit:
        where = field + "".join(reversed(unfit.path))
        raise InvalidTicket(f"{where}: {unfit.why}") from None
    data = ascii_json(_encode(value))
    if len(data) > MAX_JSON_BYTES:
        raise InvalidTicket(f"{field}: {len(data)} bytes of JSON are more than {MAX_JSON_BYTES}; {_ELSEWHERE}")
    return data


_ELSEWHERE: Final = "keep the data elsewhere and put its name into the ticket"
_TOO_BIG: Final = f"more than {MAX_JSON_BYTES} bytes of JSON; {_ELSEWHERE}"


def _walk(value: object, depth: int, room: int) -> int:
    """Check one value; return the remaining byte budget."""
    if isinstance(value, str):
        room -= len(value)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _Unfit("holds a lone surrogate, which is not text") from None
    elif value is None or isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            raise _Unfit(f"an int of {value.bit_length()} bits; {_MAX_INT_BITS} are the most")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _Unfit(f"{value!r} is not JSON; use None, or a string")
    elif isinstance(value, (dict, list, tuple)):
        return _walk_inside(value, depth + 1, room)
    else:
        raise _Unfit(f"{type(value).__name__} is not JSON; turn it into str, numbers, lists and dicts first")
    if room < 0:
        raise _Unfit(_TOO_BIG)
    return room - 1


def _walk_inside(value: dict[object, object] | list[object] | tuple[object, ...], depth: int, room: int) -> int:
    if depth > MAX_DEPTH:
        raise _Unfit(f"nested deeper than {MAX_DEPTH} levels")
    if room < 0:  # here, too: nested lists of one same list grow exponentially, and need not end in a scalar
        raise _Unfit(_TOO_BIG)
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise _Unfit(f"the key {key!r} is {type(key).__name__}; keys of a JSON object are str")
            try:
                room = _walk(inner, depth, _walk(key, depth, room))
            except _Unfit as unfit:
                unfit.path.append(f"[{key[:50]!r}]")
                raise
    else:
        for index, inner in enumerate(value):
            try:
                room = _walk(inner, depth, room)
            except _Unfit as unfit:
                unfit.path.append(f"[{index}]")
                raise
    return room - 2
