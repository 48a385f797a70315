"""Following a live log: what is durable, where it begins, rotation, retention, and a log that was replaced."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import Raw

import kharon
from kharon import audit
from kharon.audit import tailing
from kharon.errors import CorruptLog, InvalidTicket, KharonError, LogReplaced
from kharon.log.directory import DirectoryLog, segments
from kharon.log.record import link
from kharon.log.retention import Limit, Policy, Retention
from kharon.model.events import LogClosed, TicketAdded

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALL = Limit(bytes=0)
SEGMENT_BYTES = 2600


def put(log: DirectoryLog, *ids: str, sync: bool = True) -> None:
    log.append([TicketAdded(id, "type", Raw(b"[1]"), "default", 512, NOW) for id in ids], NOW, "ann")
    log.write()
    if sync:
        log.sync()


def begin(where: Path, count: int = 0) -> DirectoryLog:
    log = DirectoryLog(where, SEGMENT_BYTES)
    list(log.open(NOW))
    for number in range(count):
        put(log, f"a{number}", f"b{number}")
    return log


def carry_out(log: DirectoryLog, policy: Policy, upto: int = 0) -> None:
    retention = Retention(log, policy, may_trim=lambda seq: seq <= upto)
    while (step := retention.plan(NOW + timedelta(1))) is not None:
        log.append([retention.prepare(step)], NOW, "clock")
        log.write()
        log.sync()
        retention.settle(step)
        retention.finish(step)


@pytest.fixture
def where(tmp_path):
    return tmp_path / "queue"


@pytest.fixture
def log(where):
    log = begin(where)
    yield log
    log.abandon()


def seqs(follower: kharon.Follower, limit: int = 1000) -> list[int]:
    return [record.seq for record in follower.poll(limit)]


def poll_thrice(follower: kharon.Follower) -> None:
    for _ in range(3):
        follower.poll(10_000)


# --- durable ----------------------------------------------------------------------------------------------------------


def test_a_record_is_given_once_a_later_line_vouches_for_it(where, log):
    with kharon.follow(where) as follower:
        put(log, "a", "b")
        assert seqs(follower) == [], "on disk, but the log does not say so yet"
        put(log, "c", sync=False)
        assert seqs(follower) == [1, 2]
        put(log, "d")
        assert seqs(follower) == [], "the sync came behind it"
        put(log, "e")
        assert (seqs(follower), follower.seq) == ([3, 4], 4)


def test_closing_vouches_for_all_but_itself(where, log):
    follower = kharon.follow(where)
    put(log, "a")
    log.close(NOW)
    assert seqs(follower) == [1]
    other = begin(where)
    put(other, "b")
    (closed,) = follower.poll()
    assert type(closed.event) is LogClosed
    other.abandon()


def test_a_new_segment_vouches_for_all_before_it(where, log):
    follower = kharon.follow(where)
    given = []
    while len(segments(where)) < 2:
        given += seqs(follower)
        put(log, "a", sync=False)
    assert given == [], "nothing was ever synced before the new segment"
    assert seqs(follower) == list(range(1, log.seq + 1))


def test_all_whole_commits_if_asked(where, log):
    follower = kharon.follow(where, durable=False)
    put(log, "a", "b", sync=False)
    assert seqs(follower) == [1, 2]
    path = segments(where)[-1]
    whole = path.read_bytes()
    put(log, "c", "d", sync=False)
    longer = path.read_bytes()
    for length in range(len(whole), len(longer), 11):
        path.write_bytes(longer[:length])
        assert seqs(follower) == [], "no part of a commit"
    path.write_bytes(longer)
    assert seqs(follower) == [3, 4]


def test_an_unfinished_commit_that_recovery_cuts(where, log):
    follower = kharon.follow(where, durable=False)
    put(log, "a")
    put(log, "b")
    log.abandon()
    path = segments(where)[-1]
    path.write_bytes(path.read_bytes() + b'{"hash":"torn')
    assert seqs(follower) == [1, 2]
    assert seqs(follower) == []
    other = begin(where)
    put(other, "c")
    assert [type(record.event).__name__ for record in follower.poll()] == ["TailCut", "TicketAdded"]
    other.abandon()


# --- where it begins, and how it goes on ------------------------------------------------------------------------------


def test_it_begins_at_the_segment_by_its_name(where, log, monkeypatch):
    for number in range(40):
        put(log, f"a{number}")
    opened = []
    real = tailing.open_segment
    monkeypatch.setattr(tailing, "open_segment", lambda read, path: opened.append(path) or real(read, path))
    after = log._places[2].first + 1
    given = seqs(kharon.follow(where, after, durable=False))
    assert given == list(range(after + 1, log.seq + 1))
    assert opened == segments(where)[2:], "the earlier ones are not read"


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_it_gives_what_read_gives(where, limit):
    log = begin(where, 30)
    follower = kharon.follow(where, durable=False)
    given = []
    while some := follower.poll(limit):
        assert len(some) <= limit
        given += some
    assert given == list(audit.read(where))
    log.abandon()


@pytest.mark.parametrize("policy", [Policy(compress=ALL), Policy(archive=ALL), Policy(ALL, ALL)])
@pytest.mark.parametrize("first", [0, 1, 5, 17])
def test_retention_is_followed(where, policy, first):
    log = begin(where, 30)
    follower = kharon.follow(where, durable=False)
    given = follower.poll(first) if first else []
    carry_out(log, policy)
    given += follower.poll(10_000)
    put(log, "later")
    given += follower.poll()
    assert given == list(audit.read(where))
    log.abandon()


def test_trimming_is_followed_and_a_gap_is_told(where):
    log = begin(where, 40)
    ahead, behind, new = (kharon.follow(where, durable=False) for _ in range(3))
    upto = log._places[2].first - 1
    given = ahead.poll(upto)
    behind.poll(1)
    behind._leave()  # as if it had come to an end there
    carry_out(log, Policy(trim=ALL), upto)
    given += ahead.poll(10_000)
    assert [record.seq for record in given] == list(range(1, log.seq + 1))
    assert seqs(new, 10_000) == list(range(upto + 1, log.seq + 1))
    with pytest.raises(KharonError, match=rf"begins at record {upto + 1}, so 6 was trimmed"):
        kharon.follow(where, after=5).poll()
    with pytest.raises(KharonError, match=r"was trimmed before it was read") as told:
        poll_thrice(behind)
    assert not isinstance(told.value, LogReplaced)
    log.abandon()


def test_waiting_and_stopping(where, log):
    follower = kharon.follow(where, poll_interval=timedelta(milliseconds=1), durable=False)
    given = []

    def follow() -> None:
        given.extend(record.seq for record in follower)

    thread = threading.Thread(target=follow)
    thread.start()
    for number in range(50):
        put(log, f"a{number}")
    while len(given) < 50:
        thread.join(0.001)
    follower.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert given == list(range(1, 51))
    assert follower.poll() == []
    follower.close()


@pytest.mark.parametrize("bad", [0, -1, "1", None, True])
def test_an_interval_that_cannot_be(where, bad):
    with pytest.raises(InvalidTicket, match="poll_interval"):
        kharon.follow(where, poll_interval=bad)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_there_is_no_queue(tmp_path):
    with pytest.raises(KharonError, match="is no queue"):
        kharon.follow(tmp_path / "nowhere").poll()


def followed(where: Path, count: int = 30) -> kharon.Follower:
    log = begin(where, count)
    follower = kharon.follow(where, durable=False)
    assert seqs(follower, 10_000) == list(range(1, log.seq + 1))
    log.abandon()
    return follower


@pytest.mark.parametrize("count", [0, 1, 2, 30, 60])
@pytest.mark.parametrize("before", [1, 30])
def test_another_log_in_its_place(where, before, count):
    follower = followed(where, before)
    shutil.rmtree(where)
    begin(where, count).abandon()
    with pytest.raises(LogReplaced):
        poll_thrice(follower)


def test_it_is_gone(where):
    follower = followed(where)
    shutil.rmtree(where)
    with pytest.raises(LogReplaced, match="is gone"):
        follower.poll()


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("grown", [True, False])
def test_a_log_that_was_rewound(where, in_place, grown):
    log = begin(where)
    put(log, "a")
    log.abandon()
    path = segments(where)[-1]
    early = path.read_bytes()
    log = begin(where)
    put(log, "b")
    put(log, "c")
    log.abandon()
    follower = kharon.follow(where, durable=False)
    assert seqs(follower) == [1, 2, 3]
    path.write_bytes(early) if in_place else (path.unlink(), path.write_bytes(early))
    if grown:
        log = begin(where)
        for name in ("other", "than", "before"):
            put(log, name)
        log.abandon()
    with pytest.raises(LogReplaced, match=r"was read with the hash|was rewound|follows record"):
        poll_thrice(follower)


def test_a_log_that_never_came_so_far(where, log):
    put(log, "a")
    follower = kharon.follow(where, after=9)
    with pytest.raises(LogReplaced, match="ends at record 1, and was to be followed after 9"):
        poll_thrice(follower)


def test_a_rewound_log_whose_segments_are_named_alike(where, tmp_path):
    log = begin(where, 3)
    log.abandon()
    shutil.copytree(where, tmp_path / "copy")
    follower = kharon.follow(where, durable=False)
    follower.poll()
    for place, name in ((where, "x"), (tmp_path / "copy", "y")):
        log = begin(place)
        while len(log._places) < 2:
            put(log, name)
        put(log, name)
        log.abandon()
    follower.poll(log._places[1].first - 1 - 6)  # to the end of the first segment
    follower._leave()
    shutil.rmtree(where)
    shutil.copytree(tmp_path / "copy", where)
    with pytest.raises(LogReplaced):
        poll_thrice(follower)


def test_damage_is_damage(where):
    log = begin(where, 30)
    log.close(NOW)
    path = segments(where)[1]
    path.write_bytes(path.read_bytes().replace(b'"ann"', b'"bob"'))
    with pytest.raises(CorruptLog):
        kharon.follow(where, durable=False).poll(10_000)


def test_the_last_line_of_a_finished_segment_is_damaged(where):
    log = begin(where, 30)
    log.close(NOW)
    path = segments(where)[1]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:-9])
    with pytest.raises(CorruptLog, match="not the last"):
        kharon.follow(where, durable=False).poll(10_000)


def test_a_seal_that_a_crash_tore(where):
    log = begin(where, 30)
    log.abandon()
    path = segments(where)[-2]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:-9])
    follower = kharon.follow(where, durable=False)
    given = seqs(follower, 10_000) + seqs(follower, 10_000)
    assert given == list(range(1, 61))


def test_a_sealed_segment_whose_successor_is_missing(where):
    log = begin(where, 30)
    log.abandon()
    segments(where)[-1].unlink()
    follower = kharon.follow(where, durable=False)
    with pytest.raises(CorruptLog, match="it is sealed, so a segment beginning at record"):
        poll_thrice(follower)


@pytest.mark.parametrize("segment", [0, 1])
def test_a_header_that_is_none(where, segment):
    log = begin(where, 30)
    log.abandon()
    path = segments(where)[segment]
    path.write_bytes(b"x" + path.read_bytes())
    with pytest.raises(CorruptLog, match="line 1 "):
        kharon.follow(where, durable=False).poll(10_000)


# --- a real process ---------------------------------------------------------------------------------------------------

WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from msgspec import Raw
from kharon.log.directory import DirectoryLog
from kharon.log.retention import Limit, Policy, Retention
from kharon.model.events import TicketAdded

NOW = datetime(2026, 1, 1, tzinfo=UTC)
log = DirectoryLog(sys.argv[1], 2600)
list(log.open(NOW))
retention = Retention(log, Policy(compress=Limit(bytes=8000), archive=Limit(bytes=12000)))
print("ready", flush=True)
for number in range(150):
    log.append([TicketAdded(f"t{number}", "type", Raw(b"[1]"), "default", 512, NOW)], NOW, "ann")
    log.write()
    log.sync()
    if (step := retention.plan(NOW + timedelta(1))) is not None:
        log.append([retention.prepare(step)], NOW, "clock")
        log.write()
        log.sync()
        retention.settle(step)
        retention.finish(step)
log.append([TicketAdded("last", "type", Raw(b"[1]"), "default", 512, NOW)], NOW, "ann")
log.close(NOW)
"""


@pytest.mark.parametrize("durable", [True, False])
def test_a_process_that_writes_rotates_compresses_and_archives(where, durable):
    with subprocess.Popen([sys.executable, "-c", WRITER, str(where)], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b"ready\n"
            given = []
            with kharon.follow(where, poll_interval=0.001, durable=durable) as follower:
                for record in follower:
                    given.append(record)
                    if getattr(record.event, "id", None) == "last":
                        break
            assert writer.wait(30) == 0
        finally:
            writer.send_signal(signal.SIGKILL)
    assert given == list(audit.read(where))[:-1]
    assert len(segments(where)) > 10
    assert len(list((where / "archive").rglob("*.zst"))) > 5


def test_a_file_that_moves_between_the_look_and_the_opening(where, monkeypatch):
    log = begin(where, 30)
    follower = kharon.follow(where, durable=False)
    stale = segments(where)
    carry_out(log, Policy(compress=ALL))
    with monkeypatch.context() as patch:
        patch.setattr(tailing, "segments", lambda _directory: stale)
        assert follower.poll() == []
    assert follower.poll(10_000) == list(audit.read(where))
    log.abandon()


def test_a_successor_that_says_it_is_of_another_log(where):
    log = begin(where, 30)
    log.abandon()
    two = segments(where)[1]
    header = json.loads(two.read_bytes().splitlines()[0])
    body = json.dumps({name: header[name] for name in list(header)[2:]} | {"log": "f" * 32}, separators=(",", ":"))
    line, _ = link(header["previous"], body[1:].encode())
    two.write_bytes(line)
    with pytest.raises(LogReplaced, match="its log id is ffff"):
        kharon.follow(where, durable=False).poll(10_000)
