from __future__ import annotations

import itertools
import os
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from msgspec import Raw
from queues import NOW, moment, queue, segments_of

import kharon
from kharon.errors import CorruptLog, InvalidTicket
from kharon.log.directory import DirectoryLog
from kharon.model.events import TicketAdded, TicketDone, TicketEvent
from kharon.model.evolve import evolve
from kharon.model.ticket import Ticket

FIELDS = [
    *("type", "payload", "tube", "nice", "runat", "group", "status", "attempts", "ctime", "lease_until"),
    *("worker", "expire_at", "error_reason", "result", "successor"),
    *("after", "after_group", "on_failure", "blocked", "blocked_by"),
]


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A queue that is only read. (Module-wide: one is enough, and it takes a second to make.)"""
    where = tmp_path_factory.mktemp("diff") / "queue"
    queue(where, 120)
    return where


def states(where) -> list[dict[str, Ticket]]:
    """The tickets after each record, folded by hand: one dict a record, the first before any."""
    tickets: dict[str, Ticket] = {}
    found = [dict(tickets)]
    for record in kharon.read(where):
        if isinstance(record.event, TicketEvent):
            new = evolve(tickets.pop(record.event.id, None), record.event, record.seq, record.at)
            if new is not None:
                tickets[record.event.id] = new
        found.append(dict(tickets))
    return found


def test_as_of_every_seq_is_folding_by_hand(where, record_property):
    """And as of every instant: the state behind the last record of that time."""
    by_hand = states(where)
    records = list(kharon.read(where))
    for seq, tickets in enumerate(by_hand):
        then = kharon.replay(where, until=seq)
        assert dict(then.tickets) == tickets
        assert then.seq == seq
    instants = sorted({record.at for record in records})
    for instant in instants[::3]:
        seq = max(record.seq for record in records if record.at <= instant)
        assert dict(kharon.replay(where, until=instant).tickets) == by_hand[seq]
    record_property("seqs replayed to", len(by_hand))


def expected(old: dict[str, Ticket], new: dict[str, Ticket]) -> tuple[set[str], set[str], dict[str, dict]]:
    changed = {}
    for id in old.keys() & new.keys():
        fields = {name: (getattr(old[id], name), getattr(new[id], name)) for name in FIELDS}
        fields = {name: values for name, values in fields.items() if values[0] != values[1]}
        if fields:
            changed[id] = fields
    return set(new.keys() - old.keys()), set(old.keys() - new.keys()), changed


def test_a_diff_is_the_difference_of_two_states(where, record_property):
    by_hand = states(where)
    records = [None, *kharon.read(where)]
    last = len(by_hand) - 1
    count = 0
    for a, b in [
        *itertools.pairwise(range(0, last + 1, 9)),
        (0, last),
        (last // 2, last),
        (7, 7),
        (0, 0),
        (last, last),
    ]:
        diff = kharon.diff(where, a, b)
        assert (diff.a, diff.b) == (a, b)
        assert diff.a_at == (records[a] and records[a].at)
        assert diff.b_at == (records[b] and records[b].at)
        added, removed, changed = expected(by_hand[a], by_hand[b])
        assert [ticket.id for ticket in diff.added] == sorted(added, key=lambda name: by_hand[b][name].order)
        assert [ticket.id for ticket in diff.removed] == sorted(removed, key=lambda name: by_hand[a][name].order)
        assert {change.id: dict(change.fields) for change in diff.changed} == changed
        assert all(ticket == by_hand[b][ticket.id] for ticket in diff.added)
        assert all(ticket == by_hand[a][ticket.id] for ticket in diff.removed)
        assert all((c.before, c.after) == (by_hand[a][c.id], by_hand[b][c.id]) for c in diff.changed)
        orders = [change.after.order for change in diff.changed]
        assert orders == sorted(orders)
        count += len(added) + len(removed) + len(changed)
    record_property("differences found", count)
    assert count > 100


def test_between_instants(where):
    records = list(kharon.read(where))
    for first, second in itertools.pairwise(sorted({record.at for record in records})[::20]):
        a = max(record.seq for record in records if record.at <= first)
        b = max(record.seq for record in records if record.at <= second)
        by_seq = kharon.diff(where, a, b)
        assert kharon.diff(where, first, second) == by_seq
        assert kharon.diff(where, a, second) == by_seq
        assert kharon.diff(where, first, b) == by_seq
        assert kharon.diff(where, first - timedelta(microseconds=1), second).a <= a
    early = kharon.diff(where, NOW - timedelta(days=1), 3)
    assert (early.a, early.a_at, early.b) == (0, None, 3)


def test_beyond_the_end_is_the_end(where):
    last = kharon.verify(where).last
    late = moment(10**8)
    for a, b in [(last, 10**9), (10**9, 10**9), (10**9, late), (late, 10**9), (late, late)]:
        diff = kharon.diff(where, a, b)
        assert (diff.a, diff.b, diff.added, diff.removed, diff.changed) == (last, last, (), (), ())
    assert kharon.diff(where, 0, late) == kharon.diff(where, 0, last)


def test_a_behind_b_is_refused(where):
    records = list(kharon.read(where))
    middle = records[len(records) // 2].at
    before = max(record.seq for record in records if record.at < middle)
    for a, b in [(5, 4), (moment(1), NOW), (middle, before), (records[-1].seq, middle), (10**9, middle)]:
        with pytest.raises(InvalidTicket, match=r"a: .* is later than b, .*; give the earlier one first"):
            kharon.diff(where, a, b)


@pytest.mark.parametrize("value", [None, True, "5", 1.5, datetime(2026, 1, 1)])  # noqa: DTZ001 - naive, and refused
def test_what_is_no_place_in_a_log(where, value):
    with pytest.raises(InvalidTicket, match="a: "):
        kharon.diff(where, value, 5)
    with pytest.raises(InvalidTicket, match="b: "):
        kharon.diff(where, 0, value)


def test_what_is_behind_b_does_not_matter(tmp_path):
    queue(tmp_path / "queue")
    path = segments_of(tmp_path / "queue")[2]
    path.write_bytes(path.read_bytes().replace(b'"by":"', b'"BY":"', 1))
    first = int(path.stem)
    assert kharon.diff(tmp_path / "queue", 0, first - 1).b == first - 1
    assert kharon.diff(tmp_path / "queue", first - 1, first - 1).added == ()
    with pytest.raises(CorruptLog, match=path.name):
        kharon.diff(tmp_path / "queue", 0, first)


async def test_what_json_tells_apart_is_told_apart(tmp_path):
    """In Python 1 is True is 1.0."""
    async with kharon.open(tmp_path / "queue", kharon.Settings(fsync="never")) as kh:
        await kh.add(kharon.Ticket("a", "x", payload=1))
        await kh.update("a", payload=True)
        await kh.update("a", payload=1)
    (change,) = kharon.diff(tmp_path / "queue", 1, 2).changed
    assert change.fields == {"payload": (1, True)}
    assert change.fields["payload"][1] is True
    assert kharon.diff(tmp_path / "queue", 1, 3).changed == (), "what changed and changed back is no difference"


# --- memory -----------------------------------------------------------------------------------------------------------

MEASURE = """
import sys, tracemalloc
import kharon
def warm():  # imports and caches are not what is measured
    kharon.verify(sys.argv[1])
    kharon.history(sys.argv[1], "nobody", index=False)
    kharon.timeline(kharon.history(sys.argv[1], "keep"))
warm()
for name in sys.argv[2:]:
    call = {
        "read": lambda: sum(1 for _ in kharon.read(sys.argv[1])),
        "replay": lambda: kharon.replay(sys.argv[1]),
        "verify": lambda: kharon.verify(sys.argv[1]),
        "diff": lambda: kharon.diff(sys.argv[1], 0, 10**9),
        "history": lambda: kharon.history(sys.argv[1], "keep"),
        "history, all read": lambda: kharon.history(sys.argv[1], "keep", index=False),
        "all records": lambda: list(kharon.read(sys.argv[1])),
    }[name]
    tracemalloc.start()
    call()
    print(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
"""


def test_a_reader_never_holds_the_log(tmp_path, record_property):
    """What each call has at most, in a process of its own: far less than the log, which "all records" shows."""
    where = tmp_path / "queue"
    log = DirectoryLog(where, 256 << 10)
    list(log.open(NOW))
    log.append([TicketAdded("keep", "x", Raw(b"null"), "default", 512, NOW)], NOW, "app")
    for number in range(8000):
        log.append([TicketAdded(f"t{number}", "x", Raw(b'"%s"' % (b"x" * 700)), "default", 512, NOW)], NOW, "app")
        log.append([TicketDone(f"t{number}")], NOW, "app")
        if number % 100 == 0:
            log.write()
    log.close(NOW)
    size = sum(path.stat().st_size for path in segments_of(where))
    calls = ["read", "replay", "verify", "diff", "history", "history, all read", "all records"]
    command = [sys.executable, "-c", MEASURE, str(where), *calls]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    most = dict(zip(calls, map(int, ran.stdout.split()), strict=True))
    assert most["all records"] > size, "it would be seen"
    for call in calls[:-1]:
        record_property(f"most bytes of {call}, of {size:,} in the log", most[call])
        assert most[call] < size / 8, f"{call}: {most[call]:,} of {size:,} bytes"
