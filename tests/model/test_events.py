"""What stands on the events' classes: their registration, their words, and whether they end something."""

from __future__ import annotations

from msgspec import Raw

from kharon.model.events import EVENTS, Changes, Event, ScheduleEvent, TicketEvent, TubeEvent


def test_every_event_is_registered_by_its_class_and_no_base_is():
    assert list(EVENTS)[:2] == ["TicketAdded", "TicketClaimed"]
    assert all(name == event.__name__ and issubclass(event, Event) for name, event in EVENTS.items())
    assert not {Event, TicketEvent, TubeEvent, ScheduleEvent} & set(EVENTS.values())


def test_every_event_has_a_word_of_its_own():
    words = {event.word: name for name, event in EVENTS.items()}
    assert len(words) == len(EVENTS)
    assert words["extended"] == "LeaseExtended"
    assert words["done"] == "TicketDone"


def test_what_stands_on_the_class_is_no_field_of_a_record():
    for event in EVENTS.values():
        assert not {"word", "ends"} & set(event.__struct_fields__)


def test_the_given_changes_are_found_without_asking_msgspec_for_its_fields(monkeypatch):
    monkeypatch.delattr("msgspec.structs.fields")  # 60 µs: each update, and each replay of one, would pay them
    assert Changes(nice=3, group=None).given() == {"nice": 3, "group": None}
    assert Changes(payload_json=Raw(b"1")).given() == {"payload": Raw(b"1")}
    assert Changes().given() == {}
