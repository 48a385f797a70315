"""A snapshot's lines besides tickets: those of the tables, which come back, and are refused if they are impossible."""

from __future__ import annotations

from datetime import timedelta

import pytest
from log_steps import NOW, added, snapshot_in
from test_snapshot import opened, relinked, same

import kharon
from kharon.errors import CorruptLog
from kharon.log.files import OS_FILES
from kharon.log.snapshot import _write as write
from kharon.log.snapshot import take
from kharon.model.events import TicketClaimed, TicketDone, TubeLimited, TubePaused, TubeResumed
from kharon.model.tubes import TubeState

A_PERIOD = timedelta(seconds=10)


def told(where):
    """A queue in which tubes are paused and limited, and one is claimed from; enough of it for a snapshot."""
    log, _, _ = opened(where)
    log.append([TubePaused("z"), TubeLimited("a", 3), TubePaused("gone"), TubeResumed("gone")], NOW, "ann")
    log.append([TubeLimited("default", 2, 2, 10.0), TubePaused("default")], NOW, "ann")
    for number in range(12):
        id = f"t{number}"
        log.append([added(id)], NOW, "app")
        log.append([TicketClaimed(id, 1, NOW, "w"), TicketDone(id)], NOW + number * A_PERIOD, "w")
        log.write()
        log.sync()
    log.close(NOW)
    return where


@pytest.fixture
def queue(tmp_path):
    return told(tmp_path / "queue")


@pytest.fixture
def path(queue):
    return take(queue)


def test_what_tubes_were_told_comes_back(queue, path):
    snapshot = snapshot_in(path)
    assert [value.name for value in snapshot.others] == ["a", "default", "z"], "by name, and none that is as any other"
    default = snapshot.others[1]
    assert default.paused_since == NOW
    assert (default.claimed, default.claims, default.period) == (2, 2, 10.0)
    assert len(default.times) == 2
    assert default.times[1] - default.times[0] == A_PERIOD
    log, projection, replayed = opened(queue)
    log.abandon()
    whole_log, whole, all_records = opened(queue, snapshots=False)
    whole_log.abandon()
    assert 0 < replayed < all_records
    assert same(projection, whole)
    assert projection.others() == whole.others() != []
    projection.check()
    assert take(queue) is None, "it stands there already"


def test_a_snapshot_says_nothing_of_tubes_that_nobody_told_anything(tmp_path):
    log, _, _ = opened(tmp_path)
    for number in range(12):
        log.append([added(f"t{number}")], NOW, "app")
        log.write()
    log.sync()
    log.close(NOW)
    path = take(tmp_path)
    assert snapshot_in(path).others == []
    assert path.read_bytes().splitlines()[-1].endswith(b',"tickets":%d}' % len(snapshot_in(path).tickets))


def test_a_snapshot_that_says_something_else_of_a_tube_than_the_log_is_found(queue, path):
    assert kharon.verify(queue).snapshots == 1
    snapshot = snapshot_in(path)
    del snapshot.others[0]
    write(OS_FILES, path, snapshot)
    (bad,) = kharon.verify(queue).bad_snapshots
    assert "its contents besides tickets are not those that the log gives" in bad


@pytest.mark.parametrize(
    ("number", "old", "new", "why"),
    [
        (-2, b'"name":"z"', b'"name":"default"', "tube 'default': it is there twice, or out of order"),
        (-2, b'"name":"z"', b'"name":"b"', "tube 'b': it is there twice, or out of order"),
        (-2, b'"tube":{', b'"tub":{', "neither a ticket in its place, nor anything else"),
        (-2, b'"tube":{"name":"z"', b'"ticket":{"id":"z"', "neither a ticket in its place"),
        (-2, b',"paused_since":"2026-01-01T00:00:00Z"', b"", "tube 'z': nothing is said about it"),
        (-2, b'"2026-01-01T00:00:00Z"', b'"2026-01-02T00:00:00Z"', "tube 'z': it was paused at 2026-01-02"),
        (-2, b',"paused_seq":1', b"", "tube 'z': paused_since and paused_seq go together"),
        (-2, b'"paused_seq":1', b'"paused_seq":0', "tube 'z': record 0 paused it"),
        (-2, b'"paused_seq":1', b'"paused_seq":400', "tube 'z': record 400 paused it, and the last record is"),
        (-4, b'"claimed":3', b'"claimed":0', "tube 'a': at most 0 claimed at once"),
        (-4, b'"claimed":3', b'"claims":3', "tube 'a': claims and period go together"),
        (-4, b'"claimed":3', b'"claimed":3,"period":3.0', "tube 'a': claims and period go together"),
        (-4, b'"claimed":3', b'"period":3.0,"claims":10001', "at most 10001 claims in a period"),
        (-4, b'"claimed":3', b'"period":0.0,"claims":1', "a period of 0.0 seconds"),
        (-4, b'"claimed":3', b'"period":1e999,"claims":1', "out of range"),
        (-4, b'"claimed":3', b'"claimed":3,"times":["2026-01-01T00:00:00Z"]', "the times of 1 claims, with a limit of"),
        (-3, b'"claims":2', b'"claims":1', "the times of 2 claims, with a limit of 1"),
        (-3, b'"times":["', b'"times":["2026-01-01T09:00:00Z","', "the times of 3 claims, with a limit of 2"),
        (
            -3,
            b'"claims":2,"period":10.0,"times":["',
            b'"claims":3,"period":10.0,"times":["2026-01-01T09:00:00Z","',
            "order",
        ),
        (-1, b'"others":3', b'"others":2', "it ends after"),
        (-1, b',"others":3', b"", "it ends after"),
    ],
)
def test_what_cannot_be_is_refused(path, number, old, new, why):
    relinked(path, old, new, number=number)
    with pytest.raises(CorruptLog, match=why):
        snapshot_in(path)


def test_times_behind_the_last_record_are_refused(path):
    snapshot = snapshot_in(path)
    late = TubeState("default", None, None, 1, 1.0, (snapshot.at + timedelta(seconds=1),))
    snapshot.others[:] = [late]
    with pytest.raises(CorruptLog, match="later than the last record"):
        write(OS_FILES, path, snapshot)
