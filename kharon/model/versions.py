"""The versions of the events: how a record of any age is read as the event that it is now.

A record says in `v` which version of its event's fields it was written in. Version 1 is the one in which the event
came; each later one has a `Change` in `CHANGES`, with an upcaster: a pure function from the fields of the version
before to those of this one. A record is read by all upcasters from its version to the newest, one after the other, and
only then decoded, so that the rest of Kharon knows the newest version alone. The newest is what is written; a record
that has been written stays as it is, and its hash and crc are over its bytes, whatever is read out of them.

A record in a version, or of an event, that came after the first release says in `needs` which Kharon is the first to
know it. So one that does not know it can name what is needed, though it was released before.

To change an event:

  * A field may simply be added, with a default that means "absent", if a reader that passes it over folds the record to
    the same tickets. Nothing else is needed.
  * Anything else is a new version: a field that matters, one that is renamed, typed anew, or means something else. Give
    the class in `events` its new fields, and `CHANGES` one more `Change` for its name: in which release it comes, and
    the upcaster (`unchanged`, if a record of the version before can be read as it is). Let `evolve` do what the old
    record did when it meets an upcast one.
  * A new event gets its class, its place in `EVENTS`, and the release that it comes in in `ADDED`.
  * Then docs/reference/format.md, the pinned fields in tests/model/test_versions.py, and a new directory in
    tests/golden in which the new version stands. Old ones are never written anew: that they still give the same is
    the proof.
  * What has been released here is never altered, and no upcaster is ever dropped.

This module knows neither files nor lines but for their being JSON; it is pure, and upcasters must be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw

from kharon.model.events import EVENTS, Event

__all__ = [
    "ADDED",
    "CHANGES",
    "RECORD_FIELDS",
    "RELEASE",
    "VERSIONS",
    "Change",
    "Fields",
    "Unknown",
    "Upcaster",
    "Versions",
    "later_needed",
    "unchanged",
]

RELEASE: Final = "0.1.0"
"""This version of Kharon."""

Fields: TypeAlias = dict[str, Raw]
"""The fields of an event as they stand in its line: each value is the bytes of its JSON."""
Upcaster: TypeAlias = Callable[[Fields], Fields]

RECORD_FIELDS: Final = ("hash", "crc", "seq", "durable", "part", "at", "v", "event", "needs", "by")
"""What a line says of the record. The rest are the event's fields, none of which can have such a name."""

_SHOWN: Final = 100  # characters of a name that nothing has checked


class Change(NamedTuple):
    """A new version of an event's fields.

    Attributes:
        since: the first release of Kharon that writes and reads it, as "0.2.0".
        upcast: makes the fields of this version of those of the version before. It may alter what it is given.
    """

    since: str
    upcast: Upcaster


class Unknown(Event, frozen=True):
    """What stands in a record in place of an event that this Kharon does not know, or not in this version.

    Attributes:
        name: the event's name.
        version: the version of its fields.
        known: the newest version of it that is known; 0: no such event is.
        needs: the first release of Kharon that knows it, if the record says so.
    """

    name: str
    version: int
    known: int
    needs: str | None

    def __str__(self) -> str:
        knows = f"versions up to {self.known} of it" if self.known else "no such event"
        return (
            f"{self.name[:_SHOWN]} in version {self.version}, and Kharon {RELEASE} knows {knows}: "
            f"{later_needed(self.needs)}"
        )


def later_needed(needs: str | None) -> str:
    """Return, in words, which Kharon is needed, if what is not known says so."""
    return "a later one is needed" if needs is None else f"{needs[:_SHOWN]} or a later one is needed"


def unchanged(fields: Fields) -> Fields:
    """Be the upcaster of a version whose records before it can be read as they are: it costs them nothing."""
    return fields


class Versions:
    """Which events there are, and how each of their versions is read.

    Args:
        events: the events by name, each in its newest version.
        changes: by an event's name, how its version 2 came, then 3 …
        added: the release that an event came in, if that was not the first one.

    Attributes:
        newest: the newest version of each event, by name.
        readers: by name and version, what makes an event of a line. One of an old version raises `MsgspecError` if the
            line does not hold that version's fields.
        stamps: what a line says of an event of this class, in its newest version, as JSON: `"v":1,"event":"…",`.

    Raises:
        ValueError: there is no such event as `changes` or `added` name.
    """

    def __init__(
        self, events: Mapping[str, type[Event]], changes: Mapping[str, Sequence[Change]], added: Mapping[str, str]
    ) -> None:
        if strange := (changes.keys() | added.keys()) - events.keys():
            raise ValueError(f"there is no event {min(strange)}")
        self.newest: dict[str, int] = {}
        self.readers: dict[tuple[str, int], Callable[[bytes], Event]] = {}
        self.stamps: dict[type[Event], bytes] = {}
        for name, event in events.items():
            steps = changes.get(name, ())
            newest = self.newest[name] = 1 + len(steps)
            for version in range(1, newest + 1):
                self.readers[name, version] = _reader(event, version, [step.upcast for step in steps[version - 1 :]])
            needs = steps[-1].since if steps else added.get(name)
            stamp = b'"v":%d,"event":"%b",' % (newest, name.encode())
            self.stamps[event] = stamp if needs is None else stamp + b'"needs":"%b",' % needs.encode()

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Give the name and the number of every version that can be read."""
        return iter(self.readers)


def _reader(event: type[Event], version: int, upcasters: list[Upcaster]) -> Callable[[bytes], Event]:
    """Return what makes an event of a line that was written in a version, by these upcasters."""
    decode = msgspec.json.Decoder(event).decode
    if all(upcast is unchanged for upcast in upcasters):
        return decode

    def read(line: bytes) -> Event:
        fields = _fields_of(line)
        for name in RECORD_FIELDS:
            fields.pop(name, None)
        try:
            for upcast in upcasters:
                fields = upcast(fields)
        except (LookupError, TypeError, ValueError) as error:
            raise msgspec.ValidationError(f"its fields are not those of version {version}: {error!r}") from error
        return decode(_encode(fields))

    return read


_fields_of = msgspec.json.Decoder(Fields).decode
_encode = msgspec.json.Encoder().encode

CHANGES: Final[dict[str, Sequence[Change]]] = {}
"""By an event's name: its versions from 2 on. None has one yet."""

ADDED: Final[dict[str, str]] = {}
"""The events that came after the first release, with the one that each came in."""

VERSIONS: Final = Versions(EVENTS, CHANGES, ADDED)
"""The events of this Kharon."""
