"""The versions of the events: how a record of any age is read as the newest version of its event.

The `v` of a record is the version of its event's fields. An event begins with version 1; each later version has a
`Change` in `CHANGES`, with an upcaster: a pure function from the fields of the version before to those of this one. A
record passes through all upcasters from its version to the newest, one after the other, and is decoded only then. So
the rest of Kharon knows only the newest version, which is the one that is written. A written record stays as it is, and
its hash and crc are over its bytes.

If an event, or a version of it, came after the first release, its records name in `needs` the first Kharon that knows
it. So an older Kharon, which does not know it, can name the one that is needed.

To change an event:

  * A field may simply be added, with a default that means "absent", if a reader that skips it folds the record to the
    same tickets. Nothing else is needed.
  * Any other change is a new version: a field that matters, or one with a new name, type or meaning. Give the class in
    `events` its new fields, and add to `CHANGES` one more `Change` for its name: the release in which it comes, and the
    upcaster (`unchanged`, if records of the version before can be read as they are). `evolve` must give an upcast
    record the effect that it always had.
  * A new event gets its class in `events`, and in `ADDED` the release in which it comes.
  * Then change docs/reference/format.md and the pinned fields in tests/model/test_versions.py, and add a directory to
    tests/golden that holds the new version. Existing ones are never written anew: that they read the same is the proof.
  * Nothing that has been released here is ever altered, and no upcaster is ever dropped.

This module knows no files, and of lines only that they are JSON. It is pure, and upcasters must be.
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
"""The fields of a line that are the record's. The others are the event's, none of which can have such a name."""

_SHOWN: Final = 100  # characters of an unchecked name


class Change(NamedTuple):
    """A new version of an event's fields.

    Attributes:
        since: the first release of Kharon that writes and reads it, as "0.2.0".
        upcast: makes the fields of this version from those of the version before. It may alter its argument.
    """

    since: str
    upcast: Upcaster


class Unknown(Event, frozen=True):
    """Stands in a record for an event, or a version of it, that this Kharon does not know.

    Attributes:
        name: the event's name.
        version: the version of its fields.
        known: the newest known version of it; 0: the event is not known.
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
    """Return, in words, which Kharon is needed, as far as the record says so."""
    return "a later one is needed" if needs is None else f"{needs[:_SHOWN]} or a later one is needed"


def unchanged(fields: Fields) -> Fields:
    """Return the fields: the upcaster of a version if records before it can be read as they are. It costs nothing."""
    return fields


class Versions:
    """All events, and how each of their versions is read.

    Args:
        events: the events by name, each in its newest version.
        changes: by an event's name, the changes that led to its version 2, 3 …
        added: by an event's name, the release in which it came, if that was not the first.

    Attributes:
        newest: the newest version of each event, by name.
        readers: by name and version, the function that reads an event from a line. That of an old version raises
            `MsgspecError` if the line does not hold that version's fields.
        stamps: by class, the part of a line that names the event in its newest version: `"v":1,"event":"…",`.

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
        """Yield the name and the number of every version that can be read."""
        return iter(self.readers)


def _reader(event: type[Event], version: int, upcasters: list[Upcaster]) -> Callable[[bytes], Event]:
    """Return a function that reads an event from a line of a version, through these upcasters."""
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
"""By an event's name: its versions from 2 on. There are none yet."""

ADDED: Final[dict[str, str]] = {}
"""The events that came after the first release, each with its release."""

VERSIONS: Final = Versions(EVENTS, CHANGES, ADDED)
"""The versions that this Kharon knows."""
