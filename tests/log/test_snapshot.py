from __future__ import annotations

import errno
import logging
import os
import queue
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from log_steps import NOW, added, snapshot_in

import kharon
from kharon.errors import CorruptLog
from kharon.log.directory import DirectoryLog, segments
from kharon.log.files import OS_FILES, OsFiles
from kharon.log.record import Chain, link
from kharon.log.snapshot import KEPT, Snapshot, newest, take
from kharon.log.snapshot import _write as write
from kharon.log.snapshot_process import main
from kharon.model.events import TicketClaimed, TicketDeleted, TicketDone, TicketFailed
from kharon.model.projection import Projection
from kharon.model.ticket import Draft, Gate, Status, Ticket, draft_of, seal

SMALL = 2000  # bytes of a segment: about six records


def opened(where: Path, *, snapshots: bool = True) -> tuple[DirectoryLog, Projection, int]:
    """Open a queue's log; return it, the state, and how many records had to be replayed."""
    log = DirectoryLog(where, SMALL)
    projection = Projection()
    try:
        if snapshots and (snapshot := log.load_snapshot()) is not None:
            projection.load(snapshot.tickets, snapshot.seq, snapshot.at, snapshot.others)
        before = projection.seq
        projection.fold(log.open(NOW))
    except BaseException:
        log.abandon()
        raise
    return log, projection, projection.seq - before


def fill(where: Path, rounds: int, start: int = 0) -> None:
    """Add, claim, and settle or not."""
    log, _, _ = opened(where)
    for number in range(start, start + rounds):
        id = f"t{number}"
        log.append([added(id)], NOW, "app")
        log.append([TicketClaimed(id, 1, NOW, "worker-1")], NOW, "worker-1")
        if number % 3 == 0:
            log.append([TicketDone(id)], NOW, "worker-1")
        elif number % 3 == 1:
            log.append([TicketFailed(id, "no"), TicketDeleted(id), added(id)], NOW, "ann")
        log.write()
        log.sync()
    log.close(NOW)


def snapshots_in(where: Path) -> list[str]:
    return sorted(path.name for path in (where / "snapshots").iterdir())


def same(one: Projection, other: Projection) -> bool:
    return one == other and list(one.tickets) == list(other.tickets)


# --- what is in one ---------------------------------------------------------------------------------------------------


LATER = NOW + timedelta(seconds=1)


def every_field() -> tuple[Draft, Draft]:
    """Two tickets that have between them every field that a ticket can have: one claimed, one failed."""
    claimed = draft_of(
        Ticket("ü", "näme", payload={"a": ["\U0001f600", None, 1.5]}, tube="t", nice=-1, runat=NOW, group="g")
    )
    successor = draft_of(Ticket("ü", "other", payload=[1], runat=LATER))
    successor.ctime = successor.mtime = LATER
    successor.version = successor.order = 8
    claimed.attempts, claimed.version, claimed.claim, claimed.order = 3, 9, 7, 5
    claimed.ctime, claimed.mtime, claimed.lease_until, claimed.worker = NOW, LATER, LATER, "worker-1"
    successor.blocked_by, successor.gate = ("x", "y"), Gate(("x", "y", "z"), "h", "cancel", 8)
    claimed.joined, claimed.successor = 4, seal(successor)
    failed = draft_of(Ticket("f", "name", runat=NOW))
    failed.status, failed.error_reason, failed.result_json = Status.FAILED, "why", b'{"r":1}'
    failed.attempts, failed.version, failed.order = 1, 6, 4
    failed.ctime, failed.mtime, failed.expire_at = NOW, LATER, LATER
    return claimed, failed


def waited_for() -> list[Ticket]:
    """What the successor among those waits for: two tickets, one of them in the group."""
    drafts = [draft_of(Ticket("x", "name", runat=NOW, group="h")), draft_of(Ticket("y", "name", runat=NOW))]
    for order, draft in enumerate(drafts, 1):
        draft.ctime = draft.mtime = NOW
        draft.order = draft.version = order
    drafts[0].joined = 1
    return [seal(draft) for draft in drafts]


def test_every_field_of_a_ticket_comes_back(where):
    fill(where, 12)
    tickets = [seal(draft) for draft in every_field()]
    unset = [
        field.name
        for field in attrs.fields(Draft)
        if all(getattr(ticket, field.name) == field.default for ticket in (*tickets, tickets[0].successor))
    ]
    assert unset == [], "set these too, so that this test would miss them"
    path = take(where)
    snapshot = snapshot_in(path)
    snapshot.tickets.extend([*waited_for(), *tickets])
    write(OS_FILES, path, snapshot)
    again = snapshot_in(path)
    assert again == snapshot
    assert again.tickets[-2:] == tickets
    assert again.tickets[-2].payload == {"a": ["\U0001f600", None, 1.5]}
    assert path.read_bytes().isascii()


def test_a_ticket_that_fills_its_limits_comes_back(where):
    fill(where, 12)
    path = take(where)
    snapshot = snapshot_in(path)
    draft, _ = every_field()
    draft.payload_json = draft.result_json = b'"%b"' % (b"x" * (960 << 10))
    successor = draft_of(draft.successor)
    successor.payload_json = draft.payload_json
    draft.successor = seal(successor)
    whole = Snapshot(snapshot.log, snapshot.seq, snapshot.at, snapshot.hash, [*waited_for(), seal(draft)])
    write(OS_FILES, path, whole)
    assert snapshot_in(path) == whole


def relinked(path: Path, old: bytes, new: bytes, *, number: int = -2) -> None:
    """Change a snapshot in one line, and make a chain of it again, as one who knows the format can."""
    lines = path.read_bytes().splitlines()
    assert lines[number].count(old) == 1
    lines[number] = lines[number].replace(old, new)
    _, _, hash = lines[0].partition(b'"record":"')
    hash, made = hash[:64].decode(), []
    for line in lines:
        each, hash = link(hash, line[92:])
        made.append(each)
    path.write_bytes(b"".join(made))


@pytest.fixture
def of_two(where):
    """A snapshot of one ticket that is claimed and has a successor, of what that waits for, and of one that failed."""
    fill(where, 12)
    path = take(where)
    snapshot = snapshot_in(path)
    write(
        OS_FILES,
        path,
        Snapshot(snapshot.log, 9, snapshot.at, snapshot.hash, [*waited_for(), *map(seal, every_field())]),
    )
    return path


@pytest.mark.parametrize(
    ("number", "old", "new", "why"),
    [
        (-2, b'"version":6', b'"version":10', "added by record 4 and changed by 10, in a snapshot at 9"),
        (-2, b'"order":4', b'"order":7', "added by record 7 and changed by 6"),
        (-2, b'"order":4', b'"order":0', "added by record 0"),
        (-2, b'"attempts":1', b'"attempts":-1', "-1 attempts"),
        (-2, b'"status":"failed",', b"", "pending and expires"),
        (
            -2,
            b'"status":"failed"',
            b'"status":"failed","claim":5,"lease_until":"2026-01-01T00:00:00Z","worker":"w"',
            "it is failed and claimed",
        ),
        (-2, b'"status":"failed"', b'"status":"failed","worker":"w"', "only a part of its claim"),
        (
            -2,
            b'"status":"failed"',
            b'"status":"failed","lease_until":"2026-01-01T00:00:00Z"',
            "only a part of its claim",
        ),
        (-2, b'"result":{"r":1}', b'"result":1e999', "out of range"),
        (-2, b'"payload":null', b'"payload":-1e999', "out of range"),
        (-2, b'"payload":null', b'"payload":' + b"[" * 68 + b"]" * 68, "not a ticket: nested deeper than 67 levels"),
        (-2, b'"expire_at":"2026-01-01T00:00:01Z"', b'"expire_at":"2026-01-01T00:00:01"', "timezone"),
        (-2, b'"ctime":"2026-01-01T00:00:00Z"', b'"ctime":"2026-01-01T00:00:00"', "timezone"),
        (-2, b'"id":"f"', b'"id":"\\u00fc"', "it is the second ticket 'ü'"),
        (-3, b'"claim":7,', b"", "only a part of its claim"),
        (-3, b'"lease_until":"2026-01-01T00:00:01Z",', b"", "only a part of its claim"),
        (-3, b'"claim":7,"worker":"worker-1",', b'"worker":"worker-1",', "only a part of its claim"),
        (-3, b'"version":8', b'"version":99', "changed by 99"),
        (
            -3,
            b'"successor":{"id":"\\u00fc"',
            b'"successor":{"id":"x"',
            "only a claimed ticket has a successor, which has its id",
        ),
        (-3, b'"order":8', b'"order":8,"claim":8', "unclaimed"),
        (-3, b'"joined":4', b'"joined":10', "joined the group 'g' at record 10, in a snapshot at 9"),
        (-3, b'"joined":4', b'"joined":-1', "joined the group 'g' at record -1"),
        (-2, b'"order":4', b'"order":4,"joined":1', "joined the group None at record 1"),
        (-2, b'"order":4', b'"order":4,"group":"g","joined":1', "joined the group 'g' at record 1"),
        (-3, b'"since":8', b'"since":10', "blocked by the group 'h' since record 10, in a snapshot at 9"),
        (-3, b'"since":8', b'"since":-1', "blocked by the group 'h' since record -1"),
        (-3, b'"after_group":"h",', b"", "blocked by the group None since record 8"),
        (-3, b'["x","y"]', b'["x","w"]', r"blocked by \('x', 'w'\), and was added to run after \('x', 'y', 'z'\)"),
        (-2, b'"order":4', b'"order":4,"blocked_by":["x"]', r"blocked by \('x',\), and was added to run after \(\)"),
        (-2, b'"order":4', b'"order":4,"gate":{"after_group":"g","since":1}', "blocked, and claimed or ended"),
        (-2, b'"order":4', b'"order":4,"blocked_by":["x"],"gate":{"after":["x"]}', "blocked, and claimed or ended"),
        (-3, b'"joined":4', b'"joined":4,"blocked_by":["x"],"gate":{"after":["x"]}', "blocked, and claimed or ended"),
        (0, b'"at":"2026-01-01T00:00:00Z"', b'"at":"2026-01-01T00:00:00"', "timezone"),
    ],
)
def test_a_ticket_that_no_log_folds_to_is_refused(of_two, number, old, new, why):
    """Its chain may be right: what reads it must not find out later, in the middle of something else."""
    assert [ticket.id for ticket in snapshot_in(of_two).tickets] == ["x", "y", "ü", "f"]
    relinked(of_two, old, new, number=number)
    with pytest.raises(CorruptLog, match=why) as caught:
        snapshot_in(of_two)
    assert caught.value.line == {0: 1, -3: 4, -2: 5}[number]


@pytest.mark.parametrize(
    ("number", "old", "new", "why"),
    [
        (1, b'"id":"x"', b'"id":"z"', "ticket 'ü': it is blocked by 'x', which is not pending"),
        (2, b'"order":2', b'"order":2,"status":"done"', "ticket 'ü': it is blocked by 'y', which is not pending"),
        (1, b',"group":"h"', b"", "ticket 'ü': it is blocked by the group 'h', but by no member"),
        (1, b'"version":1,"order":1', b'"version":9,"order":9', "it is blocked by the group 'h', but by no member"),
    ],
)
def test_what_waits_for_ever_is_refused(of_two, number, old, new, why):
    relinked(of_two, old, new, number=number)
    with pytest.raises(CorruptLog, match=why) as caught:
        snapshot_in(of_two)
    assert caught.value.line == 6, "it is the whole that cannot be"


def test_a_ticket_and_its_successor_are_in_a_group_since_the_same_record(of_two):
    relinked(of_two, b'"order":8', b'"order":8,"group":"g"', number=-3)
    claimed = snapshot_in(of_two).tickets[-2]
    assert claimed.joined == claimed.successor.joined == 4
    relinked(of_two, b'"order":8', b'"order":8,"joined":4', number=-3)
    assert snapshot_in(of_two).tickets[-2] == claimed
    relinked(of_two, b'"order":8,"joined":4', b'"order":8,"joined":8', number=-3)
    with pytest.raises(CorruptLog, match=r"it and its successor joined the group 'g' at two records"):
        snapshot_in(of_two)


def test_what_a_ticket_was_told_to_wait_for_may_have_ended(of_two):
    relinked(of_two, b'"order":4', b'"order":4,"gate":{"after":["x"],"after_group":"g"}')
    ended = snapshot_in(of_two).tickets[-1]
    assert (ended.after, ended.after_group, ended.blocked) == (("x",), "g", False)


def test_a_member_that_joined_when_it_was_added_does_not_say_so(of_two):
    relinked(of_two, b',"joined":4', b"", number=-3)
    *_, claimed, failed = snapshot_in(of_two).tickets
    assert (claimed.joined, claimed.order) == (5, 5)
    assert (claimed.successor.joined, failed.joined) == (0, 0)


def test_a_successor_of_a_ticket_that_is_not_claimed_is_refused(of_two):
    relinked(of_two, b'"claim":7,', b"", number=-3)
    relinked(of_two, b'"worker":"worker-1",', b"", number=-3)
    relinked(of_two, b'"lease_until":"2026-01-01T00:00:01Z",', b"", number=-3)
    with pytest.raises(CorruptLog, match="only a claimed ticket has a successor"):
        snapshot_in(of_two)


def test_a_successor_of_a_successor_is_refused(of_two):
    _, _, own = of_two.read_bytes().splitlines()[-3].partition(b'"successor":')
    own, _, _ = own.partition(b',"joined":')
    relinked(of_two, own, own[:-1] + b',"successor":' + own + b"}", number=-3)
    with pytest.raises(CorruptLog, match="only a claimed ticket has a successor"):
        snapshot_in(of_two)


# --- taking one, and opening with it ----------------------------------------------------------------------------------


def test_opening_with_a_snapshot_is_opening_without_and_replays_less(where):
    fill(where, 40)
    log, expected, count = opened(where)
    log.close(NOW)
    path = take(where)
    assert path is not None
    log, projection, replayed = opened(where)
    assert same(projection, expected)
    assert replayed == projection.seq - int(path.stem) < count / 5
    projection.check()
    assert log.first == 1
    reader = log.reader()
    assert len(reader.read(10**6, log.written)) == log.seq, "the history is all there"
    reader.close()
    log.append([added("more")], NOW, "app")
    log.close(NOW)
    log, projection, _ = opened(where)
    assert "more" in projection.tickets
    log.close(NOW)


def test_it_stands_at_the_end_of_what_is_finished(where):
    assert_nothing = DirectoryLog(where, SMALL)
    list(assert_nothing.open(NOW))
    assert take(where) is None
    assert_nothing.append([added("a")], NOW, "app")
    assert_nothing.close(NOW)
    assert take(where) is None, "the tail is not finished"
    fill(where, 20)
    path = take(where)
    *_, last_finished, tail = segments(where)
    assert path.name == f"{int(tail.stem) - 1:020}.jsonl"
    assert last_finished.stem <= path.stem
    assert take(where) is None, "it stands there already"


def test_the_next_one_begins_with_the_last(where):
    fill(where, 20)
    take(where)
    fill(where, 20, start=100)
    old = segments(where)[0]
    bytes_ = bytearray(old.read_bytes())
    bytes_[-10] ^= 1
    old.write_bytes(bytes_)  # which nobody reads any more
    path = take(where)
    log, projection, _ = opened(where)
    assert int(path.stem) > int(snapshots_in(where)[0].split(".")[0])
    assert projection.seq == log.seq
    assert "t118" in projection.tickets
    log.close(NOW)


def test_two_are_kept(where):
    for start in range(0, 100, 20):
        fill(where, 20, start)
        take(where)
    assert len(snapshots_in(where)) == KEPT == 2
    log, expected, _ = opened(where, snapshots=False)
    log.close(NOW)
    (where / "snapshots" / snapshots_in(where)[1]).unlink()
    log, projection, _ = opened(where)
    assert same(projection, expected)
    log.close(NOW)


def test_those_of_records_that_a_repair_cut_off_make_room_for_the_next(where):
    for start in range(0, 40, 20):
        fill(where, 20, start)
        take(where)
    stale = snapshots_in(where)
    assert len(stale) == KEPT
    second = segments(where)[1]
    second.write_bytes(second.read_bytes()[:-300])
    last = kharon.repair(where, confirm=True).last
    assert last < int(stale[0].partition(".")[0])
    fill(where, 8, 100)
    path = take(where)
    assert snapshots_in(where) == [path.name]
    assert path.name < stale[0], "else this would test nothing"
    log, projection, replayed = opened(where)
    log.abandon()
    _, whole, _ = opened(where, snapshots=False)
    assert same(projection, whole)
    assert replayed < projection.seq - last


def test_its_bytes_do_not_count_until_they_are_read_back(where):
    fill(where, 20)

    class Forgetful(OsFiles):
        def read(self, path):
            if path.name.endswith(".tmp"):
                path.write_bytes(path.read_bytes()[:-200])
            return super().read(path)

    with pytest.raises(CorruptLog):
        take(where, Forgetful())
    assert [name for name in snapshots_in(where) if not name.endswith(".tmp")] == []
    assert take(where) is not None, "what is left over does not hinder the next one"
    assert len(snapshots_in(where)) == 1


def test_without_room_there_is_none_and_the_queue_is_as_it_was(where):
    fill(where, 20)

    class Full(OsFiles):
        def create(self, path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with pytest.raises(OSError, match="No space"):
        take(where, Full())
    log, _, _ = opened(where)
    log.close(NOW)


def test_a_damaged_segment_makes_no_snapshot(where):
    fill(where, 20)
    path = segments(where)[1]
    data = bytearray(path.read_bytes())
    data[-400] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptLog):
        take(where)
    header = bytearray(segments(where)[0].read_bytes())
    header[95] ^= 1
    segments(where)[0].write_bytes(header)
    with pytest.raises(CorruptLog):
        take(where)
    assert not (where / "snapshots").exists()


def test_as_a_program(where):
    fill(where, 20)
    command = [
        sys.executable,
        "-c",
        "import sys; from kharon.log.snapshot_process import main; sys.exit(main())",
        str(where),
    ]
    subprocess.run(command, check=True)
    assert len(snapshots_in(where)) == 1
    shutil.rmtree(where / "log")
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "log" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


# --- bad ones ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(where):
    """A queue with two snapshots; the newest one's path."""
    fill(where, 14)
    take(where)
    fill(where, 14, start=100)
    return take(where)


def test_a_damaged_one_is_passed_over_with_a_warning(where, saved, caplog):
    log, expected, _ = opened(where, snapshots=False)
    log.close(NOW)
    whole = saved.read_bytes()
    names = segments(where)
    for byte in range(0, len(whole), 7):
        saved.write_bytes(whole[:byte] + bytes([whole[byte] ^ (1 << byte % 8)]) + whole[byte + 1 :])
        caplog.clear()
        found = newest(OS_FILES, where, names)
        assert found.seq < int(saved.stem), f"byte {byte} was altered, and nobody noticed"
        assert "passed over" in caplog.text
    log, projection, _ = opened(where)
    assert same(projection, expected)
    log.close(NOW)


def test_one_that_is_cut_off_is_passed_over(where, saved):
    whole = saved.read_bytes()
    names = segments(where)
    for length in range(0, len(whole), 11):
        saved.write_bytes(whole[:length])
        assert newest(OS_FILES, where, names).seq < int(saved.stem)
    saved.write_bytes(whole + b"\n")
    assert newest(OS_FILES, where, names).seq < int(saved.stem)
    saved.write_bytes(whole)
    assert newest(OS_FILES, where, names).seq == int(saved.stem)


def test_one_of_another_log_is_passed_over(where, saved, tmp_path, caplog):
    other = tmp_path / "other"
    fill(other, 14)
    take(other)
    fill(other, 14, start=100)
    theirs = take(other)
    assert theirs.name == saved.name
    shutil.copy(theirs, saved)
    assert newest(OS_FILES, where, segments(where)).seq < int(saved.stem)
    assert "does not follow" in caplog.text


def test_one_whose_successor_is_of_another_log_is_passed_over(where, saved, caplog):
    snapshot = snapshot_in(saved)
    following = where / "log" / f"{snapshot.seq + 1:020}.jsonl"
    header = Chain(snapshot.seq, snapshot.hash, snapshot.at).header("f" * 32, NOW)
    following.write_bytes(header + following.read_bytes().split(b"\n", 1)[1])
    assert newest(OS_FILES, where, segments(where)).seq < snapshot.seq
    assert f"is of {'f' * 32}" in caplog.text


def test_what_is_read_back_must_be_what_was_written(where, saved):
    fill(where, 14, start=200)

    class Swapped(OsFiles):
        def read(self, path):
            return super().read(saved if path.name.endswith(".tmp") else path)

    with pytest.raises(CorruptLog, match="it does not read back as it was written"):
        take(where, Swapped())
    assert saved.name == snapshots_in(where)[1]


def test_one_by_another_name_or_with_nothing_behind_it_is_passed_over(where, saved, caplog):
    number = int(saved.stem)
    saved.rename(saved.with_name(f"{number + 1:020}.jsonl"))
    assert newest(OS_FILES, where, segments(where)).seq < number
    assert "which is not its name" in caplog.text
    saved.with_name(f"{number + 1:020}.jsonl").rename(saved)
    assert newest(OS_FILES, where, segments(where)[:1]) is None
    assert "no segment follows it" in caplog.text


def test_one_of_a_later_format_is_passed_over(where, saved, caplog):
    head = snapshot_in(saved)
    line = saved.read_bytes().splitlines()[0]
    for old, new in ((b'"version":1', b'"version":2'), (b"kharon-snapshot", b"kharon-snapshop")):
        altered, _ = link(head.hash, line[92:].replace(old, new))
        saved.write_bytes(altered)
        assert newest(OS_FILES, where, segments(where)).seq < head.seq
    assert "a later one is needed" in caplog.text
    assert "its format is" in caplog.text


def test_without_a_usable_one_and_without_the_beginning_it_refuses(where, saved):
    first, *_ = segments(where)
    kept = first.read_bytes()
    first.unlink()
    log, projection, _ = opened(where)
    assert log.first > 1
    assert "t112" in projection.tickets
    log.close(NOW)
    for path in (where / "snapshots").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptLog, match="no snapshot of the records before it is usable"):
        opened(where)
    first.write_bytes(kept)
    log, _, _ = opened(where)
    log.close(NOW)


def test_with_snapshots_and_without_a_log_it_refuses(where, saved):
    for path in segments(where):
        path.unlink()
    for snapshots in (True, False):
        with pytest.raises(CorruptLog, match="its segments are gone: there are snapshots of them"):
            opened(where, snapshots=snapshots)
    assert segments(where) == []


def test_one_with_nothing_but_a_header_behind_it_is_passed_over(where, caplog):
    """A crash may have kept the seal from the segment before, which must be read to be given it."""
    log = DirectoryLog(where, SMALL)
    list(log.open(NOW))
    while len(segments(where)) < 3:
        log.append([added(f"t{log.seq}")], NOW, "app")
        log.write()
    log.abandon()
    assert segments(where)[-1].read_bytes().count(b"\n") == 1
    path = take(where)
    before = segments(where)[-2]
    before.write_bytes(before.read_bytes()[:-5])  # the seal, torn
    log, projection, _ = opened(where)
    assert projection.seq == log.seq == int(path.stem)
    assert "has just been begun" in caplog.text
    log.append([added("more")], NOW, "app")
    log.close(NOW)
    assert kharon.verify(where).last == log.seq


def test_the_program_says_what_is_wrong_in_one_line(where, monkeypatch, capsys):
    fill(where, 20)
    nice = []
    monkeypatch.setattr(os, "nice", nice.append)
    monkeypatch.setattr(sys, "argv", ["snapshot", str(where)])
    assert main() == 0
    assert nice == [10]
    assert len(snapshots_in(where)) == 1
    shutil.rmtree(where)
    assert main() == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_program_ends_with_the_process_that_wants_it(where, monkeypatch):
    """When the other end of its lifeline closes; what is sent down there does not matter."""
    fill(where, 20)
    monkeypatch.setattr(os, "nice", lambda step: step)
    monkeypatch.setattr(sys, "argv", ["snapshot", str(where)])
    ended = queue.Queue()
    monkeypatch.setattr(os, "_exit", ended.put)
    theirs, ours = os.pipe()
    try:
        assert main(lifeline=theirs) == 0
        os.write(ours, b"x")
        assert ended.empty()
        os.close(ours)
        assert ended.get(timeout=30) == 1
    finally:
        os.close(theirs)


def test_what_was_being_written_when_its_process_died_is_removed_by_opening_and_by_the_next(where):
    fill(where, 20)
    (where / "snapshots").mkdir()
    left = where / "snapshots" / "00000000000000000003.jsonl.tmp"
    other = where / "snapshots" / "notes"
    for path in (left, other):
        path.write_bytes(b"half")
    log, _, _ = opened(where)
    assert not left.exists()
    log.close(NOW)
    left.write_bytes(b"half")
    assert take(where) is not None
    assert not left.exists()
    assert other.exists()


def test_it_counts_what_is_in_none(where):
    fill(where, 20)
    log, _, _ = opened(where)
    finished = sum(path.stat().st_size for path in segments(where)[:-1])
    assert log.unsaved == finished
    log.close(NOW)
    take(where)
    log, _, _ = opened(where)
    assert log.unsaved == 0
    while log.unsaved == 0:
        log.append([added("more")], NOW, "app")
        log.write()
    assert log.unsaved >= SMALL
    log.close(NOW)


def test_nothing_is_logged_of_a_good_one(where, saved, caplog):
    with caplog.at_level(logging.DEBUG):
        log, _, _ = opened(where)
    log.close(NOW)
    assert caplog.text == ""
