"""Following a live log: what is durable, where it begins, rotation, retention, and a log that was replaced."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import extras
import pytest
from log_steps import NOW, added, carry_out

import kharon
from kharon.audit import follow as module
from kharon.errors import CorruptLog, InvalidTicket, KharonError, LogReplaced, StorageFull
from kharon.log.directory import DirectoryLog, segments
from kharon.log.record import Record, link
from kharon.log.retention import Retention, RetentionRules, Threshold
from kharon.model.events import LogClosed

ALL = Threshold(bytes=0)
SEGMENT_BYTES = 2600


def put(log: DirectoryLog, *ids: str, sync: bool = True) -> None:
    log.append([added(id) for id in ids], NOW, "ann")
    log.write()
    if sync:
        log.sync()


def begin(where: Path, count: int = 0) -> DirectoryLog:
    log = DirectoryLog(where, SEGMENT_BYTES)
    list(log.open(NOW))
    for number in range(count):
        put(log, f"a{number}", f"b{number}")
    return log


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


# --- what is taken back -----------------------------------------------------------------------------------------------


def without_room(log: DirectoryLog, follower: kharon.Follower) -> list[Record]:
    """Write two commits, of which the disk has room for one and a half; return what the follower gives meanwhile."""
    given: list[Record] = []

    def write(file: object, data: bytes) -> None:
        room = data.index(b"\n") + 99
        os.write(file._fd, data[:room])
        given.extend(follower.poll())
        raise OSError(errno.ENOSPC, "no room")

    for name in "xx":
        log.append([added(name)], NOW, "ann")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(log._tail), "write", write)
        with pytest.raises(StorageFull):
            log.write()
    return given


def big(log: DirectoryLog) -> None:
    """Write a record that fills its segment."""
    log.append([added("big", b'"%b"' % (b"x" * 3000))], NOW, "ann")
    log.write()


THEN = {
    "one as long": lambda log: put(log, "y"),
    "a longer one": lambda log: put(log, "y" * 99),
    "many": lambda log: [put(log, f"y{number}") for number in range(30)],
    "a segment that ends where that one ended": big,
    "a segment that ends later": lambda log: (put(log, "y"), big(log)),
    "some in a segment that is compressed": lambda log: (
        put(log, "y"),
        big(log),
        carry_out(log, Retention(log, RetentionRules(compress=ALL))),
    ),
    "some in a segment that is gone from the place": lambda log: (
        big(log),
        carry_out(log, Retention(log, RetentionRules(ALL, ALL))),
    ),
}


@pytest.mark.parametrize("between", [0, 1])
@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("then", THEN.values(), ids=THEN)
def test_what_a_writer_without_room_takes_back_was_not_given(where, log, then, before, between):
    follower = kharon.follow(where)
    given = []
    for number in range(before):
        put(log, f"a{number}")
        given += follower.poll()
    given += without_room(log, follower)
    for _ in range(between):
        given += follower.poll()
    then(log)
    given += follower.poll() + follower.poll()
    put(log, "more")
    put(log, "last")
    given += follower.poll() + follower.poll()
    whole = list(kharon.read(where))
    assert given in (whole[:-1], whole), "the last one is vouched for if it filled its segment"


def test_it_is_trimmed_before_anything_but_what_was_taken_back_was_read(where, log):
    follower = kharon.follow(where)
    assert without_room(log, follower) == []
    big(log)
    put(log, "next")
    assert carry_out(log, Retention(log, RetentionRules(trim=ALL), may_trim=lambda seq: seq <= 1)) == ["trim"]
    with pytest.raises(KharonError, match="record 1 was trimmed before it was returned") as told:
        poll_thrice(follower)
    assert not isinstance(told.value, LogReplaced)


@pytest.mark.parametrize("then", [lambda _log: None, *THEN.values()], ids=["nothing", *THEN])
def test_what_is_not_durable_may_be_taken_back_after_it_was_given(where, log, then):
    follower = kharon.follow(where, durable=False)
    put(log, "a")
    assert seqs(follower) == [1]
    assert [record.seq for record in without_room(log, follower)] == [2]
    then(log)
    for _ in range(2):  # and it is said again
        with pytest.raises(LogReplaced, match=r"record 2 was returned|that of record 2 was"):
            poll_thrice(follower)
    assert follower.seq == 2


# --- where it begins, and how it goes on ------------------------------------------------------------------------------


def test_it_begins_at_the_segment_by_its_name(where, log, monkeypatch):
    for number in range(40):
        put(log, f"a{number}")
    opened = []
    real = module.open_segment
    monkeypatch.setattr(module, "open_segment", lambda read, path: opened.append(path) or real(read, path))
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
    assert given == list(kharon.read(where))
    log.abandon()


@pytest.mark.parametrize(
    "policy", [RetentionRules(compress=ALL), RetentionRules(archive=ALL), RetentionRules(ALL, ALL)]
)
@pytest.mark.parametrize("first", [0, 1, 5, 17])
def test_retention_is_followed(where, policy, first):
    log = begin(where, 30)
    follower = kharon.follow(where, durable=False)
    given = follower.poll(first) if first else []
    assert carry_out(log, Retention(log, policy))
    given += follower.poll(10_000)
    put(log, "later")
    given += follower.poll()
    assert given == list(kharon.read(where))
    log.abandon()


def test_trimming_is_followed_and_a_gap_is_told(where):
    log = begin(where, 40)
    ahead, behind, new = (kharon.follow(where, durable=False) for _ in range(3))
    upto = log._places[2].first - 1
    given = ahead.poll(upto)
    behind.poll(1)
    behind._leave()  # as if it had come to an end there
    assert carry_out(log, Retention(log, RetentionRules(trim=ALL), may_trim=lambda seq: seq <= upto)) == [
        "trim",
        "trim",
    ]
    given += ahead.poll(10_000)
    assert [record.seq for record in given] == list(range(1, log.seq + 1))
    assert seqs(new, 10_000) == list(range(upto + 1, log.seq + 1))
    with pytest.raises(KharonError, match=rf"begins at record {upto + 1}, so 6 was trimmed"):
        kharon.follow(where, after=5).poll()
    with pytest.raises(KharonError, match=r"was trimmed before it was returned") as told:
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
    with pytest.raises(KharonError, match="is not a queue"):
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
    with pytest.raises(LogReplaced, match=r"was returned with the hash|record 3 was returned|follows record"):
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


def test_a_rewound_log_that_begins_its_next_segment_earlier(where, tmp_path):
    log = begin(where, 1)
    log.abandon()
    shutil.copytree(where, tmp_path / "copy")
    log = begin(where)
    for name in "abcd":
        put(log, name)
    follower = kharon.follow(where, durable=False)
    assert seqs(follower) == [1, 2, 3, 4, 5, 6]
    log.abandon()
    log = begin(tmp_path / "copy")
    log.append([added("big", b'"%b"' % (b"x" * 3000))], NOW, "ann")
    log.write()
    put(log, "next")
    log.abandon()
    shutil.rmtree(where)
    shutil.copytree(tmp_path / "copy", where)
    with pytest.raises(LogReplaced, match=r"the log ends at record 4, and record 6 was returned"):
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
from kharon.log.retention import Threshold, RetentionRules, Retention
from kharon.model.events import TicketAdded

NOW = datetime(2026, 1, 1, tzinfo=UTC)
log = DirectoryLog(sys.argv[1], 2600)
list(log.open(NOW))
retention = Retention(log, RetentionRules(compress=Threshold(bytes=8000), archive=Threshold(bytes=12000)))
print("ready", flush=True)
for number in range(150):
    log.append([TicketAdded(f"t{number}", "type", Raw(b"[1]"), "default", 512, NOW)], NOW, "ann")
    log.write()
    log.sync()
    if (step := retention.plan(NOW + timedelta(1))) is not None:
        log.append([retention.prepare(step)], NOW, "clock")
        log.write()
        log.sync()
        retention.switch(step)
        retention.finish(step)
log.append([TicketAdded("last", "type", Raw(b"[1]"), "default", 512, NOW)], NOW, "ann")
log.close(NOW)
"""


@pytest.mark.parametrize("durable", [True, False])
def test_a_process_that_writes_rotates_compresses_and_archives(where, durable):
    extras.need("zstd")
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
    assert given == list(kharon.read(where))[:-1]
    assert len(segments(where)) > 10
    assert len(list((where / "archive").rglob("*.zst"))) > 5


def test_a_file_that_moves_between_the_look_and_the_opening(where, monkeypatch):
    log = begin(where, 30)
    follower = kharon.follow(where, durable=False)
    stale = segments(where)
    assert carry_out(log, Retention(log, RetentionRules(compress=ALL)))
    with monkeypatch.context() as patch:
        patch.setattr(module, "segments", lambda _directory: stale)
        assert follower.poll() == []
    assert follower.poll(10_000) == list(kharon.read(where))
    log.abandon()


@pytest.mark.parametrize("after", [0, 20])
@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("hidden", range(5))
def test_a_segment_that_moves_while_they_are_listed_is_not_missing(where, monkeypatch, hidden, turn, after):
    log = begin(where, 30)
    log.abandon()
    assert len(segments(where)) > 5
    looks = itertools.count(turn)

    def listed(directory: Path) -> list[Path]:
        paths = segments(directory)
        return [path for path in paths if path != paths[hidden]] if next(looks) % 2 else paths

    monkeypatch.setattr(module, "segments", listed)
    follower = kharon.follow(where, after, durable=False)
    given = []
    for _ in range(100):
        given += seqs(follower, 1)
    assert given == list(range(after + 1, 61))


def test_the_first_segment_has_another_s_name(where):
    log = begin(where, 30)
    log.abandon()
    one, two = segments(where)[:2]
    two.replace(one)
    with pytest.raises(CorruptLog, match="its name is not that of the segment that begins at"):
        kharon.follow(where).poll()


def test_nothing_is_missed_after_an_interrupt(where, monkeypatch):
    log = begin(where, 30)
    log.abandon()
    follower = kharon.follow(where, durable=False)
    given = []
    chance = random.Random(1)

    def interrupted(*args: object, real=module.open_segment) -> object:
        file = real(*args)
        if chance.random() < 0.2:
            file.close()
            raise KeyboardInterrupt
        return file

    def vouch(upto: int, real=follower._vouch) -> None:
        if chance.random() < 0.2:
            raise KeyboardInterrupt
        real(upto)

    monkeypatch.setattr(module, "open_segment", interrupted)
    monkeypatch.setattr(follower, "_vouch", vouch)
    for _ in range(200):
        with contextlib.suppress(KeyboardInterrupt):
            given += follower.poll(1)
    assert given == list(kharon.read(where))


def test_damage_is_told_again(where):
    log = begin(where, 30)
    log.close(NOW)
    path = segments(where)[0]
    path.write_bytes(path.read_bytes().replace(b'"ann"', b'"bob"'))
    follower = kharon.follow(where, durable=False)
    for _ in range(2):
        with pytest.raises(CorruptLog):
            follower.poll()


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
