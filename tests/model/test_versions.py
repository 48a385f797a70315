"""Versions of events: upcasters compose, the newest is what is written, and what was released stays as it was."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

import kharon
from kharon.model.events import EVENTS, Event, TicketEvent
from kharon.model.versions import (
    ADDED,
    CHANGES,
    RECORD_FIELDS,
    RELEASE,
    VERSIONS,
    Change,
    Fields,
    Unknown,
    Versions,
    later_needed,
    unchanged,
)


class Weighed(TicketEvent, frozen=True):
    """An event in its third version.

    1: `weight`, in pounds. 2: `grams`. 3: `grams`, and `scale`, which has a default.
    """

    grams: int
    payload: Raw
    scale: str = "kitchen"


class Swept(Event, frozen=True):
    """An event that came in a later release."""


def to_grams(fields: Fields) -> Fields:
    pounds = msgspec.json.decode(fields.pop("weight"), type=float)
    return fields | {"grams": Raw(msgspec.json.encode(round(pounds * 453.59237)))}


def to_scale(fields: Fields) -> Fields:
    return fields | {"scale": Raw(b'"market"')} if "grams" in fields else {}


WEIGHED = (Change("0.2.0", to_grams), Change("0.4.0", to_scale))


def versions(*changes: Change) -> Versions:
    return Versions({"Weighed": Weighed, "Swept": Swept}, {"Weighed": changes}, {"Swept": "0.3.0"})


def line(**fields: object) -> bytes:
    record = {"hash": "", "crc": "", "seq": 1, "durable": 0, "part": [1, 1], "at": "", "v": 0, "event": "", "by": ""}
    return msgspec.json.encode(record | {"id": "a"} | fields)


PAYLOAD = b'{"x" : [1.0, 10000000000000000000000000000000000000001, "\\u00e4"], "x" : 1E3}'


def with_payload(data: bytes) -> bytes:
    return data[:-1] + b',"payload":' + PAYLOAD + b"}"


@pytest.mark.parametrize(
    ("version", "fields", "grams", "scale"),
    [
        (1, {"weight": 2}, 907, "market"),
        (2, {"grams": 5}, 5, "market"),
        (3, {"grams": 5}, 5, "kitchen"),
        (3, {"grams": 5, "scale": "lab"}, 5, "lab"),
    ],
)
def test_a_record_of_any_version_is_read_as_the_newest(version, fields, grams, scale):
    event = versions(*WEIGHED).readers["Weighed", version](with_payload(line(**fields)))
    assert event == Weighed("a", grams, Raw(PAYLOAD), scale), "and what is not touched stays, byte for byte"


def test_an_upcaster_gets_the_events_own_fields_in_the_order_of_their_versions():
    seen: list[tuple[str, list[str]]] = []

    def seeing(name: str) -> Change:
        return Change("9.0.0", lambda fields: seen.append((name, list(fields))) or fields | {name: Raw(b"1")})

    kinds = versions(seeing("two"), seeing("three"), seeing("four"))
    own = ["id", "grams", "payload"]
    old = with_payload(line(grams=1, needs="9.0.0"))
    for version, expected in (
        (1, [("two", own), ("three", [*own, "two"]), ("four", [*own, "two", "three"])]),
        (3, [("four", own)]),
        (4, []),
    ):
        seen.clear()
        kinds.readers["Weighed", version](old)
        assert seen == expected


def test_what_can_be_read_as_it_is_costs_nothing_more():
    kinds = versions(*WEIGHED, Change("0.5.0", unchanged))
    decode = msgspec.json.Decoder(Weighed).decode
    kind = type(decode)
    assert [type(kinds.readers["Weighed", version]) is kind for version in (1, 2, 3, 4)] == [False, False, True, True]
    assert all(type(read) is kind for read in VERSIONS.readers.values()), "so nothing of today's costs anything"
    assert kinds.readers["Weighed", 3](with_payload(line(grams=7))) == Weighed("a", 7, Raw(PAYLOAD))
    assert unchanged({"a": Raw(b"1")}) == {"a": Raw(b"1")}


@pytest.mark.parametrize(
    ("version", "fields", "why"),
    [
        (1, {"grams": 3}, "not those of version 1: KeyError"),  # LookupError
        (1, {"weight": "heavy"}, "Expected `float`"),  # msgspec's own
        (2, {"weight": 3}, "missing required field"),
        (3, {"grams": "many"}, "Expected `int`"),
    ],
)
def test_fields_that_are_not_those_of_the_version_they_claim(version, fields, why):
    with pytest.raises(msgspec.MsgspecError, match=why):
        versions(*WEIGHED).readers["Weighed", version](with_payload(line(**fields)))


@pytest.mark.parametrize("error", [TypeError("x"), ValueError("x"), IndexError("x")])
def test_an_upcaster_that_meets_what_was_never_written(error):
    def upcast(fields: Fields) -> Fields:
        raise error

    with pytest.raises(msgspec.MsgspecError, match=re.escape(repr(error))):
        versions(Change("0.2.0", upcast)).readers["Weighed", 1](with_payload(line(grams=1)))


def test_the_newest_is_what_is_written_and_says_what_it_needs():
    kinds = versions(*WEIGHED)
    assert kinds.newest == {"Weighed": 3, "Swept": 1}
    assert kinds.stamps == {
        Weighed: b'"v":3,"event":"Weighed","needs":"0.4.0",',
        Swept: b'"v":1,"event":"Swept","needs":"0.3.0",',
    }
    assert list(kinds) == [("Weighed", 1), ("Weighed", 2), ("Weighed", 3), ("Swept", 1)]


@pytest.mark.parametrize("where", [1, 2])
def test_a_change_of_no_event_is_refused(where):
    arguments: list[dict[str, object]] = [{"Swept": Swept}, {}, {}]
    arguments[where] = {"Sweept": ()}
    with pytest.raises(ValueError, match="no event Sweept"):
        Versions(*arguments)


def test_what_is_said_of_the_unknown():
    assert str(Unknown("Weighed", 3, 2, "0.4.0")) == (
        f"Weighed in version 3, and Kharon {RELEASE} knows versions up to 2 of it: 0.4.0 or a later one is needed"
    )
    assert str(Unknown("Weighed", 1, 0, None)) == (
        f"Weighed in version 1, and Kharon {RELEASE} knows no such event: a later one is needed"
    )
    assert len(str(Unknown("x" * 10**6, 1, 0, "y" * 10**6))) < 400
    assert later_needed("1.2.3") == "1.2.3 or a later one is needed"


# --- what has been released -------------------------------------------------------------------------------------------

CHANGES_OF_A_TICKET = "{nice? payload? tube? group? runat?}"
PINNED = {
    ("TicketAdded", 1): (
        "id type payload tube nice runat group? after? blocked_by? after_group? blocked_by_group? on_failure? "
        "keeps_place? keeps_attempts?"
    ),
    ("TicketClaimed", 1): "id attempt lease_until worker",
    ("LeaseExtended", 1): "id lease_until",
    ("TicketDone", 1): "id keep? result? expire_at?",
    ("TicketFailed", 1): "id error_reason? expire_at?",
    ("TicketCancelled", 1): "id keep? error_reason? expire_at? dropped?",
    ("TicketRetried", 1): f"id runat error_reason? changes?{CHANGES_OF_A_TICKET}",
    ("TicketReleased", 1): f"id changes?{CHANGES_OF_A_TICKET}",
    ("TicketLapsed", 1): "id runat error_reason",
    ("TicketRestarted", 1): "id runat",
    ("TicketUpdated", 1): f"id changes{CHANGES_OF_A_TICKET}",
    ("TicketUnblocked", 1): "id ended group? dropped?",
    ("TicketDeleted", 1): "id",
    ("TicketExpired", 1): "id",
    ("TubePaused", 1): "tube",
    ("TubeResumed", 1): "tube",
    ("TubeLimited", 1): "tube claimed? claims? period?",
    ("ScheduleSet", 1): "name type payload tube nice next_due group? cron? every? tz? catch_up?",
    ("ScheduleFired", 1): "name due next_due?",
    ("ScheduleSkipped", 1): "name next_due?",
    ("ScheduleRemoved", 1): "name",
    ("LogClosed", 1): "",
    ("TailCut", 1): "file byte length kept_as",
    ("LogRepaired", 1): "file byte length kept_as records",
    ("SegmentCompressed", 1): "file first last last_hash kept_as bytes sha256",
    ("SegmentArchived", 1): "file first last last_hash kept_as",
    ("SegmentTrimmed", 1): "file first last last_hash",
}
"""The fields of each version of each event; `?`: it has a default. Lines are added here, and none is altered, except by
a field with a default at its end that an older reader may ignore."""

FIRST_RELEASE = {name for name, version in PINNED if version == 1 and name not in ADDED}


def shape(struct: type[msgspec.Struct]) -> str:
    parts = []
    for field in msgspec.structs.fields(struct):
        optional = (field.default, field.default_factory) != (msgspec.NODEFAULT, msgspec.NODEFAULT)
        inner = CHANGES_OF_A_TICKET if field.encode_name == "changes" else ""
        parts.append(field.encode_name + "?" * optional + inner)
    return " ".join(parts)


def test_no_event_was_changed_without_a_version():
    assert f"{{{shape(kharon.model.events.Changes)}}}" == CHANGES_OF_A_TICKET
    assert {name: shape(event) for name, event in EVENTS.items()} == {
        name: PINNED[name, version] for name, version in VERSIONS.newest.items()
    }, "an event was changed: docs of kharon.model.versions say how that is done"
    assert set(PINNED) == set(VERSIONS)


def test_what_came_after_the_first_release_says_so():
    assert set(EVENTS) - set(ADDED) == FIRST_RELEASE
    releases = [change.since for changes in CHANGES.values() for change in changes] + list(ADDED.values())
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", release) for release in releases)


def test_no_event_has_a_field_of_the_records_own():
    for event in EVENTS.values():
        assert not {field.encode_name for field in msgspec.structs.fields(event)} & set(RECORD_FIELDS)


def test_the_release_is_said_once():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert kharon.__version__ == RELEASE == project["version"]
