"""A workload in columns: it returns what it was given, except the names, and holds little of it."""

from __future__ import annotations

import random
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import UNSET, Raw

from kharon.log.record import Record
from kharon.model import events as e
from kharon.simulate.recording import record_workload
from kharon.simulate.workload import Acts, Ending, Names, Run, Runs

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NULL = Raw(b"null")


def moment(seconds):
    return NOON + timedelta(seconds=seconds)


def test_a_name_has_its_number_however_many_there_are():
    chance = random.Random(3)
    names, expected = Names(), {}
    for _ in range(20_000):
        name = f"ticket-{chance.randrange(7000)}"
        assert names.number(name) == expected.setdefault(name, len(expected))
        assert len(names) == len(expected)
    assert all(names.number(name) == number for name, number in expected.items())
    written = [names.written(name) for name in expected]
    assert written == sorted(written)
    assert [int(text) for text in written] == list(expected.values())


def test_attempts_come_back_in_order_whatever_came_between():
    chance = random.Random(4)
    runs, expected = Runs(), {}
    for _ in range(5000):
        number = chance.randrange(600)
        run = Run(
            chance.random() * 100,
            chance.choice(list(Ending)),
            chance.choice([None, 0.0, chance.random()]),
            chance.random() < 0.5,
            chance.choice([None, 60.0]),
            chance.choice([(), ((1.0, 30.0), (2.0, 30.0))]),
        )
        runs.add(number, run)
        expected.setdefault(number, []).append(run)
    for number in range(700):
        attempts, place = expected.get(number, []), 0
        for run in attempts:
            place = runs.following(number, place)
            assert runs.at(place) == run
        assert runs.following(number, place) == place, "behind the last comes the last again"
        assert bool(place) == bool(attempts)


def added(id, type="t", runat=0.0, group=None, **gate):
    return e.TicketAdded(id, type, Raw(b'{"to":"ann"}'), "q", -5, moment(runat), group, **gate)


def test_what_was_done_comes_back_without_names_and_payloads():
    acts = Acts(Names())
    given = [
        (0.25, added("a", runat=-3.000001, group="g")),
        (1, added("b", "u", runat=1e9, after=("a", "x"), blocked_by=("a",), after_group="g", on_failure="cancel")),
        (1, added("a", after_group="other", blocked_by_group=True)),
        (2, e.TubePaused("q")),
        (2.5, e.TicketUpdated("b", e.Changes(nice=1, payload_json=Raw(b"1"), group="other"))),
        (2.5, e.TicketRetried("b", moment(9), "busy", e.Changes(group=None, tube="r"))),
        (3, e.TicketRetried("b", moment(9), "busy")),
        (4, e.TicketDone("b", True, Raw(b"[1]"), moment(10))),
        (5, e.TicketFailed("a", "no")),
        (6, e.TicketDeleted("x")),
    ]
    for at, event in given:
        acts.add(moment(at), event)
    a, b, x = ("0000000000", "0000000002", "0000000001")
    # numbered as they were first seen: those that a ticket was to wait for come before it
    g, other = ("0000000000", "0000000001")
    expected = [
        e.TicketAdded(a, "t", NULL, "q", -5, moment(-3.000001), g),
        e.TicketAdded(b, "u", NULL, "q", -5, moment(1e9), after=(a, x), after_group=g, on_failure="cancel"),
        e.TicketAdded(a, "t", NULL, "q", -5, moment(0), after_group=other),
        e.TubePaused("q"),
        e.TicketUpdated(b, e.Changes(nice=1, group=other)),
        e.TicketRetried(b, moment(9), None, e.Changes(group=None, tube="r")),
        e.TicketRetried(b, moment(9)),
        e.TicketDone(b, True, UNSET, moment(10)),
        e.TicketFailed(a),
        e.TicketDeleted(x),
    ]
    for _ in range(2):
        assert [(act.at, act.event) for act in acts] == [
            (moment(at), event) for (at, _), event in zip(given, expected, strict=True)
        ]
    assert len(acts) == len(given)
    assert list(Acts(Names())) == []


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_ticket_that_is_gone_is_a_few_dozen_bytes(attempts, record_property):
    def told(count):
        seq = 0

        def record(at, event):
            nonlocal seq
            seq += 1
            return Record(seq, moment(at), "w", event, "", (1, 1), 0)

        for number in range(count):
            id, at = f"a-long-name-of-a-ticket-{number}", number * 10
            yield record(at, e.TicketAdded(id, "t", Raw(b'"%s"' % (b"x" * 500)), "q", 512, moment(at), f"g-{number}"))
            for attempt in range(1, attempts + 1):
                yield record(at + attempt, e.TicketClaimed(id, attempt, moment(at + 90), "w"))
                if attempt < attempts:
                    yield record(at + attempt, e.TicketRetried(id, moment(at + attempt + 0.1), "no"))
            yield record(at + 9, e.TicketDone(id))

    held = []
    for count in (1000, 9000):
        tracemalloc.start()
        load = record_workload(told(count))
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(load.tickets) == count
    each = (held[1] - held[0]) / 8000
    record_property(f"bytes held for a ticket of {attempts} attempts", round(each))
    assert each < 2 * 30 + 28 + 28 * attempts, "its digest, and that of its group, its adding and its attempts"
