"""For logs: the conformance suite `check_log`, which every `EventLog` must pass, and a log that fails on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from msgspec import Raw

from kharon.errors import InvalidTicket, KharonError, QueueLocked, StorageFull
from kharon.log.protocol import EventLog, LogReader
from kharon.log.record import Record
from kharon.model.checks import MAX_LINE_BYTES
from kharon.model.events import (
    Changes,
    Event,
    LeaseExtended,
    LogClosed,
    TicketAdded,
    TicketCancelled,
    TicketClaimed,
    TicketDeleted,
    TicketDone,
    TicketExpired,
    TicketFailed,
    TicketLapsed,
    TicketReleased,
    TicketRestarted,
    TicketRetried,
    TicketUpdated,
)
from kharon.testing.clocks import EPOCH

__all__ = ["FailingLog", "check_log"]


class FailingLog:
    """A log that passes calls to another one, and fails on demand like a broken or full disk.

    Args:
        log: the other log. For a `StorageFull` it must have a method `take_back`, as `MemoryLog` has.
        fail: the name of the method that fails: "append", "write" or "sync"; None: none fails. May be set at any time.
        error: the exception to raise; by default an `OSError`, "Input/output error".
        after: how many calls of that method succeed first.

    Attributes:
        calls: how often "append", "write" and "sync" were called, including failed calls.
    """

    def __init__(
        self, log: EventLog, *, fail: str | None = None, error: Exception | None = None, after: int = 0
    ) -> None:
        self._log = log
        self.fail = fail
        self.error = error or OSError(5, "Input/output error")
        self.after = after
        self.calls = {"append": 0, "write": 0, "sync": 0}

    def _maybe_fail(self, name: str) -> None:
        self.calls[name] += 1
        if name == self.fail:
            if self.after <= 0:
                raise self.error
            self.after -= 1

    @property
    def seq(self) -> int:
        """The seq of the last record appended."""
        return self._log.seq

    @property
    def written(self) -> int:
        """The seq of the last record written."""
        return self._log.written

    @property
    def durable(self) -> int:
        """The highest seq known to be on disk."""
        return self._log.durable

    @property
    def first(self) -> int:
        """The seq at which the readable history begins."""
        return self._log.first

    def open(self, now: datetime) -> Iterator[Record]:
        """Open the other log; never fails on demand."""
        return self._log.open(now)

    def append(self, events: Sequence[Event], at: datetime, by: str) -> datetime:
        """Append, or fail on demand."""
        self._maybe_fail("append")
        return self._log.append(events, at, by)

    def write(self) -> None:
        """Write, or fail on demand."""
        try:
            self._maybe_fail("write")
        except StorageFull:
            self._log.take_back()  # type: ignore[attr-defined]
            raise
        self._log.write()

    def sync(self) -> None:
        """Sync, or fail on demand."""
        self._maybe_fail("sync")
        self._log.sync()

    def reader(self, after: int = 0, id: str | None = None) -> LogReader:
        """Return a reader of the other log."""
        return self._log.reader(after, id)

    def close(self, now: datetime) -> None:
        """Close the other log."""
        self._log.close(now)

    def abandon(self) -> None:
        """Abandon the other log."""
        self._log.abandon()


def check_log(make: Callable[[], EventLog], reopen: Callable[[], EventLog] | None = None) -> None:
    """Assert that a log behaves as `kharon.log.protocol` demands. For the tests of your own log.

    Args:
        make: returns an unopened log, each time at a new, empty place.
        reopen: returns an unopened log at the place of the last one that `make` returned; None: the log does not
            outlive its closing.

    Raises:
        AssertionError: the log fails a check; the message says which.

    Every log that it makes is closed or abandoned again, unless a check fails.
    """
    _check_counts(make())
    _check_records(make())
    _check_refusal(make())
    _check_time(make())
    _check_reader(make())
    _check_leaving(make)
    if reopen is not None:
        _check_reopening(make, reopen)
        _check_abandoning(make, reopen)
        _check_one_opener(make, reopen)


def _moment(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def _added(id: str, payload: bytes = b"null") -> TicketAdded:
    return TicketAdded(id, "type", Raw(payload), "default", 512, EPOCH)


_COMMITS: tuple[tuple[str, tuple[Event, ...]], ...] = (
    ("ann", (TicketAdded("a", "type", Raw(b'{"id":"b","n":[1,2.5,null]}'), "tube", -3, EPOCH, "group"),)),
    ("Zoë 🚀", (_added("b"), _added('ä\\"/🚀'), _added("ab"))),
    ("clock", (TicketClaimed("a", 1, _moment(30), "worker-1"), LeaseExtended("a", _moment(60.000001)))),
    ("worker-1", (TicketDone("a", keep=True, result_json=Raw(b'"\\u00e4"'), expire_at=_moment(99)), TicketDone("b"))),
    ("ann", (TicketFailed("ab", "naïve", _moment(5)), TicketFailed("ab"), TicketCancelled("ab", True, "no", EPOCH))),
    ("ann", (TicketRetried("b", EPOCH, "why", Changes(1, Raw(b"[]"), "t", None, EPOCH)), TicketReleased("b"))),
    ("clock", (TicketLapsed("b", EPOCH, "lease ended"), TicketRestarted("b", EPOCH))),
    ("ann", (TicketUpdated("b", Changes(nice=0)), TicketDeleted("b"), TicketExpired("a"))),
)
"""Commits with every event about tickets, with and without optional fields. They make no sensible history."""


def _open(log: EventLog) -> None:
    records = list(log.open(EPOCH))
    assert records == [], f"a log at an empty place gives no records when it is opened, not {records}"


def _commit(log: EventLog, events: Sequence[Event], at: datetime = EPOCH, by: str = "ann") -> datetime:
    time = log.append(events, at, by)
    log.write()
    log.sync()
    return time


def _append_all(log: EventLog) -> list[tuple[int, datetime, str, Event, tuple[int, int]]]:
    """Append `_COMMITS`; return the expected seq, time, author, event and part of each record."""
    expected: list[tuple[int, datetime, str, Event, tuple[int, int]]] = []
    for seconds, (by, events) in enumerate(_COMMITS):
        log.append(events, _moment(seconds), by)
        for index, event in enumerate(events, 1):
            expected.append((len(expected) + 1, _moment(seconds), by, event, (index, len(events))))
    return expected


def _read_all(log: EventLog, after: int = 0, id: str | None = None, limit: int = 1000) -> list[Record]:
    reader = log.reader(after, id)
    try:
        return _read_on(reader, log.written, limit)
    finally:
        reader.close()


def _read_on(reader: LogReader, until: int, limit: int = 1000) -> list[Record]:
    """Read up to the seq `until`."""
    records: list[Record] = []
    while reader.seq < until:
        before = reader.seq
        some = reader.read(limit, until)
        assert before < reader.seq, f"read({limit}, {until}) stands still at seq {before}"
        assert reader.seq <= until, f"read({limit}, {until}) went on to seq {reader.seq}"
        assert len(some) <= limit, f"read({limit}, {until}) returned {len(some)} records"
        records += some
    assert reader.seq == until, f"a reader that must stop at seq {until} is at {reader.seq}"
    more = reader.read(limit, until)
    assert more == [], f"a reader at seq {until} has no more records up to there, but returned {more}"
    return records


def _stands(log: EventLog, seq: int, written: int, durable: int, when: str) -> None:
    stands, should = (log.seq, log.written, log.durable), (seq, written, durable)
    assert stands == should, f"{when} (seq, written, durable) are {should}, not {stands}"


def _check_counts(log: EventLog) -> None:
    _open(log)
    _stands(log, 0, 0, 0, "in a new log")
    assert log.first == 1, f"a new log's history begins at 1, not {log.first}"
    log.write()
    log.sync()
    _stands(log, 0, 0, 0, "after writing and syncing nothing")
    log.append([_added("a"), _added("b")], EPOCH, "ann")
    _stands(log, 2, 0, 0, "after appending two records")
    log.sync()
    _stands(log, 2, 0, 0, "after a sync without a write")
    log.write()
    _stands(log, 2, 2, 0, "after a write")
    log.append([_added("c")], EPOCH, "ann")
    _stands(log, 3, 2, 0, "after appending more, before the sync")
    log.sync()
    _stands(log, 3, 2, 2, "after the sync of the first write")
    log.write()
    log.sync()
    _stands(log, 3, 3, 3, "after all of it")
    says = [record.durable for record in _read_all(log)]
    assert says == [0, 0, 0], f"none was durable when they were appended, the third not either; they say {says}"
    assert log.first == 1, f"the history begins at 1 still, not {log.first}"
    log.abandon()


def _check_records(log: EventLog) -> None:
    _open(log)
    expected = _append_all(log)
    log.write()
    log.sync()
    records = _read_all(log)
    for record, should in zip(records, expected, strict=False):
        says = (record.seq, record.at, record.by, record.event, record.part)
        assert says == should, f"a record came back different:\n  {says}\n  {should}"
        assert record.durable == 0, f"record {record.seq} vouches for {record.durable}, but nothing had been synced"
    assert len(records) == len(expected), f"{len(expected)} records were appended, {len(records)} came back"
    hashes = {record.hash for record in records}
    assert len(hashes) == len(records), "two records have the same hash"
    _commit(log, [_added("last")])
    (last,) = _read_all(log, after=len(expected))
    assert last.durable == len(expected), f"record {last.seq} says durable={last.durable}; it was {len(expected)}"
    log.abandon()


def _check_refusal(log: EventLog) -> None:
    _open(log)
    _commit(log, [_added("a")])
    log.append([_added("b")], EPOCH, "ann")
    huge = b'"%b"' % (b"x" * MAX_LINE_BYTES)
    try:
        log.append([_added("small"), _added("huge", huge)], _moment(99), "ann")
    except InvalidTicket as refused:
        assert "huge" in str(refused), f"the refusal of a record does not name its ticket 'huge': {refused}"
    else:
        raise AssertionError(f"a record of more than {MAX_LINE_BYTES} bytes was not refused with InvalidTicket")
    _stands(log, 2, 1, 1, "after a refused append, as before it,")
    time = _commit(log, [_added("c")])
    assert time == EPOCH, f"a refused commit left its time behind: {time}"
    ids = [(record.seq, getattr(record.event, "id", None)) for record in _read_all(log)]
    assert ids == [(1, "a"), (2, "b"), (3, "c")], f"a refused append left something behind: {ids}"
    log.abandon()


def _check_time(log: EventLog) -> None:
    _open(log)
    for seconds, should in ((10, 10), (9, 10), (10.000001, 10.000001), (0, 10.000001), (11, 11)):
        time = _commit(log, [_added("a")], _moment(seconds))
        assert time == _moment(should), f"a commit at +{seconds} s was given the time {time}; +{should} s is right"
        (record,) = _read_all(log, after=log.seq - 1)
        assert record.at == time, f"append returned {time}, the record says {record.at}"
    log.abandon()


def _check_reader(log: EventLog) -> None:
    _open(log)
    expected = [record[0] for record in _append_all(log)]
    _commit(log, [_added("more")])
    everything = _read_all(log)
    assert [record.seq for record in everything] == [*expected, log.seq], "a reader gives every record once, in order"
    for limit in (1, 2, 7):
        assert _read_all(log, limit=limit) == everything, f"reading {limit} at a time gives something else"
    for after in (0, 1, 5, log.seq):
        should = everything[after:]
        assert _read_all(log, after) == should, f"a reader behind seq {after} does not begin at {after + 1}"
    for id in ("a", "b", "ab", 'ä\\"/🚀', "nobody"):
        should = [record for record in everything if getattr(record.event, "id", None) == id]
        assert _read_all(log, id=id, limit=3) == should, f"a reader of the ticket {id!r} gives something else"
        assert _read_all(log, 3, id) == [record for record in should if record.seq > 3], f"the same, for {id!r} after 3"
    early, late = log.reader(), log.reader(log.seq)
    assert _read_on(early, 3) == everything[:3], "a reader returns nothing after the seq at which it must stop"
    seq = log.seq
    _commit(log, [_added("later")])
    assert [record.seq for record in _read_on(late, log.written)] == [seq + 1], "a reader continues while the log grows"
    assert [record.seq for record in _read_on(early, log.written)] == list(range(4, seq + 2)), "so does an early one"
    for reader in (early, late, early):
        reader.close()
    log.abandon()


def _check_leaving(make: Callable[[], EventLog]) -> None:
    log = make()
    log.abandon()  # before it was opened
    log = make()
    _open(log)
    _commit(log, [_added("a")])
    log.abandon()
    log.abandon()
    log = make()
    _open(log)
    log.append([_added("a")], EPOCH, "ann")
    log.close(_moment(1))
    log.abandon()


def _check_reopening(make: Callable[[], EventLog], reopen: Callable[[], EventLog]) -> None:
    """After a close all records come back, even unwritten ones, and the log continues after them."""
    log = make()
    _open(log)
    _append_all(log)
    log.write()
    everything = _read_all(log)
    log.append([_added("not written yet")], _moment(500), "ann")
    log.close(_moment(1000))
    log = reopen()
    back = list(log.open(_moment(2000)))
    assert back[: len(everything)] == everything, "what was written does not come back equal after a close"
    rest = [(record.seq, getattr(record.event, "id", record.event)) for record in back[len(everything) :]]
    should = [(len(everything) + 1, "not written yet"), (len(everything) + 2, LogClosed())]
    assert rest in (should, should[:1]), f"after a close {should} come back, or only the first; not {rest}"
    _stands(log, back[-1].seq, back[-1].seq, back[-1].seq, "after reopening")
    assert _read_all(log) == back, "a reader gives something else than open did"
    time = _commit(log, [_added("next")], EPOCH)
    assert time == back[-1].at, f"time went back over a reopening, to {time}"
    (record,) = _read_all(log, after=back[-1].seq)
    assert record.durable == back[-1].seq, f"what was there at opening is durable, but record says {record.durable}"
    log.close(_moment(3000))


def _check_abandoning(make: Callable[[], EventLog], reopen: Callable[[], EventLog]) -> None:
    """After `abandon` the written records come back, and those only appended do not."""
    log = make()
    _open(log)
    _append_all(log)
    log.write()
    everything = _read_all(log)
    log.append([_added("not written")], _moment(500), "ann")
    log.abandon()
    for _ in range(2):
        log = reopen()
        back = list(log.open(_moment(2000)))
        assert back == everything, "what was written, and only that, comes back equal after an abandoning"
        _stands(log, len(back), len(back), len(back), "after reopening")
        log.abandon()


def _check_one_opener(make: Callable[[], EventLog], reopen: Callable[[], EventLog]) -> None:
    log = make()
    _open(log)
    second = reopen()
    try:
        list(second.open(EPOCH))
    except QueueLocked:
        second.abandon()
    except KharonError as error:
        raise AssertionError(f"a second opener is refused with QueueLocked, not {error!r}") from error
    else:
        raise AssertionError("a second opener is not refused")
    _commit(log, [_added("a")])
    assert [record.seq for record in _read_all(log)] == [1], "the refused opener disturbed the first"
    log.abandon()
