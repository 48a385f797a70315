from __future__ import annotations

import io
import os
import random
import re
import shutil
import stat
from pathlib import Path

import pytest
from msgspec import Raw
from queues import IDS, NOW, about, fill, forge, indexes_of, moment, queue, segments_of

import kharon
from kharon.audit.history import latest, search_tail
from kharon.errors import CorruptLog, InvalidTicket, KharonError
from kharon.log import index, snapshot_process
from kharon.log.directory import DirectoryLog
from kharon.log.files import OS_FILES, OsFiles
from kharon.log.live import IndexedReader
from kharon.log.record import Chain, link
from kharon.log.segment import is_about
from kharon.model.events import EVENTS, Changes, TicketAdded, TicketDeleted, TicketUpdated
from kharon.model.projection import Projection


@pytest.fixture
def where(tmp_path):
    return tmp_path / "queue"


def names(where: Path) -> list[str]:
    return [path.name for path in indexes_of(where)]


def read_all(log: DirectoryLog, id: str, after: int = 0, limit: int = 256) -> list:
    reader = log.reader(after, id)
    records = []
    try:
        while reader.seq < log.durable:
            before = reader.seq
            records += reader.read(limit, log.durable)
            assert reader.seq > before, "it goes on"
        assert reader.read(limit, log.durable) == []
    finally:
        reader.close()
    return records


# --- history ----------------------------------------------------------------------------------------------------------


def test_the_sample_has_every_event_of_a_ticket(where):
    queue(where)
    seen = {type(record.event).__name__ for record in kharon.read(where)}
    moves = {"SegmentCompressed", "SegmentArchived", "SegmentTrimmed"}
    assert seen == set(EVENTS) - moves - {"TailCut", "LogRepaired"}


def test_it_is_what_reading_all_gives(where):
    queue(where)
    assert len(segments_of(where)) > 15
    records = list(kharon.read(where))
    for _ in range(2):  # the first makes the index
        for id in [*IDS, "nobody", "t", "é\U0001f600"]:
            assert kharon.history(where, id) == [record for record in records if is_about(record, id)]
    assert sum(len(kharon.history(where, id)) for id in IDS) > 200
    assert names(where) == [f"{path.stem}.idx" for path in segments_of(where)[:-1]]


def test_it_is_found_while_the_queue_is_written(where):
    log = queue(where, 50, closed=False)
    for seed in range(2, 12):
        fill(log, 7, seed)
        for id in IDS:
            assert kharon.history(where, id) == about(where, id) == read_all(log, id)
    log.abandon()
    assert len(indexes_of(where)) == len(segments_of(where)) - 1


def test_a_ticket_is_what_its_own_records_make_it(where):
    """So it is found by the index; folding all records gives the same one, or says the same that there is none."""
    log = queue(where, 40, closed=False)
    removed = set()
    for seed in range(2, 12):
        fill(log, 7, seed)
        tickets = kharon.replay(where).tickets
        for id in [*IDS, "nobody"]:
            ticket, records = latest(where, id)
            assert ticket == tickets.get(id)
            assert records == about(where, id)
            removed |= {id} if records and ticket is None else set()
    log.abandon()
    assert removed


def test_a_ticket_whose_beginning_was_trimmed(where):
    """Its own records are not enough: what they were before, a snapshot holds."""
    shutil.copytree(Path(__file__).parents[1] / "golden" / "trimmed" / "queue", where)
    for path in (where, *where.rglob("*")):
        path.chmod(0o700)  # a checkout may have let a group write there
    log = DirectoryLog(where)
    log.load_snapshot()
    list(log.open(NOW))
    log.append([TicketDeleted("t1"), TicketUpdated("t3", Changes(nice=1))], NOW, "ann")
    log.close(NOW)
    tickets = kharon.replay(where).tickets
    assert (tickets["t3"].nice, tickets["t5"].nice) == (1, 512)
    for id in [*tickets, "t1", "nobody"]:
        assert latest(where, id) == (tickets.get(id), about(where, id))
    assert [len(about(where, id)) for id in ("t1", "t3", "t5")] == [1, 1, 0]


def test_a_ticket_whose_beginning_an_index_hides(where):
    """Where the rest cannot stand for itself, that is said; else only verify tells that something is missing."""
    queue(where)
    segments = list(index.finished_segments(OS_FILES, segments_of(where)))
    records = kharon.history(where, "t1")
    number, left = next(
        (number, left)
        for number, segment in enumerate(segments)
        if type((left := [record for record in records if record.seq > segment.last])[0].event) is not TicketAdded
    )
    for hidden in range(number + 1):
        forge(where, hidden, lambda pairs: [pair for pair in pairs if pair[0] != index._key("t1")])
    with pytest.raises(KharonError, match=rf"record {left[0].seq}: .* of ticket 't1', which does not exist there"):
        latest(where, "t1")
    assert kharon.verify(where).bad_indexes


def test_records_about_no_ticket_are_nobodys(where):
    queue(where, 20)  # which ends with LogClosed
    log = DirectoryLog(where, 4096)
    list(log.open(NOW))
    fill(log, 60, 7)
    log.close(NOW)
    assert {"LogClosed"} < {type(record.event).__name__ for record in kharon.read(where)}
    assert {id: kharon.history(where, id) for id in IDS} == {id: about(where, id) for id in IDS}


def test_no_lock_is_taken_and_only_the_index_is_written(where):
    log = queue(where, closed=False)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in where.rglob("*") if path.is_file()}
    kharon.history(where, "t1")
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in where.rglob("*") if path.is_file()}
    log.abandon()
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in after.keys() - before.keys()} == {"index"}
    assert stat.S_IMODE((where / "index").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in indexes_of(where)} == {0o600}
    queue_again = DirectoryLog(where, 4096)  # which an index does not disturb
    list(queue_again.open(NOW))
    queue_again.abandon()


def test_without_the_index_nothing_is_written(where):
    queue(where)
    assert kharon.history(where, "t1", index=False) == about(where, "t1")
    assert not (where / "index").exists()


def test_what_is_indexed_is_not_read_again(where):
    """A damaged record about another ticket is not even noticed; by reading all it is."""
    queue(where)
    expected = kharon.history(where, "t1")
    mine = {record.seq for record in expected}
    path = segments_of(where)[3]
    first = int(path.stem)
    number = next(number for number in range(1, 9) if not {first + number - 1, first + number} & mine)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number] = lines[number].replace(b'"by":"', b'"BY":"')
    path.write_bytes(b"".join(lines))
    assert kharon.history(where, "t1") == expected
    with pytest.raises(CorruptLog, match=rf"{path.name}, line {number + 1} "):
        kharon.history(where, "t1", index=False)
    indexes_of(where)[3].unlink()
    with pytest.raises(CorruptLog, match=rf"{path.name}, line {number + 1} "):
        kharon.history(where, "t1")


def test_a_damaged_record_is_not_shown(where):
    queue(where)
    path = segments_of(where)[0]
    data = path.read_bytes()
    id = next(record.event.id for record in kharon.read(where) if record.seq == 3)
    (first, *_) = [record for record in kharon.history(where, id) if record.seq >= 3]
    byte = data.index(first.hash.encode()) - 9
    end = data.index(b"\n", byte)
    in_front = data.rindex(b"\n", 0, byte - 1) + 1
    for damaged in (
        data[:byte] + data[byte:end].replace(f'"{id}"'.encode(), b'"t99"') + data[end:],
        data[: in_front + 9] + b"f" * 64 + data[in_front + 73 :],  # the hash of the line in front of it
        data[:byte] + b"f" * 9 + data[byte + 9 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(CorruptLog, match=path.name):
            kharon.history(where, id)


def test_a_line_moved_here_from_another_place_is_noticed(where):
    """Its crc is right: it is the hash from the line before it that is not."""
    queue(where)
    (first, *_) = kharon.history(where, "t1")
    path = segments_of(where)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines) if first.hash.encode() in line)
    other = next(line for line in lines[number + 1 :] if len(line) == len(lines[number]) or line != lines[number])
    same_size = [line for line in lines[1:-1] if len(line) == len(lines[number]) and line != lines[number]]
    lines[number] = same_size[0] if same_size else other
    path.write_bytes(b"".join(lines))
    with pytest.raises(CorruptLog, match=rf"{path.name}, line {number + 1} .*hash does not follow"):
        kharon.history(where, "t1")


@pytest.mark.parametrize("how", ["cut", "empty", "flip", "another's", "other version", "short head"])
def test_a_bad_index_is_not_used_and_made_again(where, how):
    queue(where)
    kharon.history(where, "t1")
    paths = indexes_of(where)
    good = [path.read_bytes() for path in paths]
    chance = random.Random(how)
    for number, path in enumerate(paths):
        data = bytearray(good[number])
        if how == "cut":
            del data[chance.randrange(1, len(data)) :]
        elif how == "empty":
            data.clear()
        elif how == "flip":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif how == "another's":
            data[:] = good[number - 1]
        elif how == "other version":
            data[8] += 1
        else:
            del data[20:]
        path.write_bytes(data)
    for id in IDS:
        assert kharon.history(where, id) == about(where, id)
    assert [path.read_bytes() for path in paths] == good


def test_every_bit_of_an_index_counts(where, record_property):
    """Whatever bit is wrong: the answer is right, or the index is not used. It never hides a record."""
    queue(where, 30)
    expected = {id: kharon.history(where, id) for id in IDS}
    path = indexes_of(where)[1]
    segment = list(index.finished_segments(OS_FILES, segments_of(where)))[1]
    whole = path.read_bytes()
    unused = 0
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        for id in IDS[:2]:
            found = index.find_indexed(OS_FILES, where, segment, id)
            unused += found is None
            mine = [record for record in expected[id] if segment.first <= record.seq <= segment.last]
            assert found in (None, mine), f"bit {bit}"
    record_property("flipped bits of an index", 8 * len(whole))
    assert unused == 2 * 8 * len(whole), "this one is a single block, so each look-up sees all of it"


def test_an_index_of_another_log_is_not_used(where, tmp_path):
    queue(where)
    queue(tmp_path / "other", 299)
    kharon.history(tmp_path / "other", "t1")
    (where / "index").mkdir(mode=0o700)
    for path in indexes_of(tmp_path / "other"):
        (where / "index" / path.name).write_bytes(path.read_bytes())
    for id in IDS:
        assert kharon.history(where, id) == about(where, id)


@pytest.mark.parametrize("how", ["twice", "backwards"])
def test_no_record_is_shown_twice_or_in_another_order(where, how):
    """An index with the right sums may hide records, and that is all it can do."""
    queue(where)
    good = kharon.history(where, "t1")
    whole = indexes_of(where)[0].read_bytes()
    mine = index._key("t1")
    said: list[int] = []

    def change(pairs):
        of_it = [pair for pair in pairs if pair[0] == mine]
        assert len(of_it) > 1
        said.extend(place for _, place in of_it)
        altered = [of_it[0], *of_it[:-1]] if how == "twice" else of_it[::-1]
        return sorted([pair for pair in pairs if pair[0] != mine] + altered, key=lambda pair: pair[0])

    forge(where, 0, change)
    assert len(said) > 1
    assert kharon.history(where, "t1") == good
    assert indexes_of(where)[0].read_bytes() == whole, "it was made again"


def test_no_record_that_another_ticket_has_is_shown(where):
    """Nor a header, nor what begins within a line: all of these are refused, and the segment is read."""
    queue(where)
    good = kharon.history(where, "t1")
    mine = index._key("t1")
    forge(where, 0, lambda pairs: [(mine, place) for _, place in pairs])
    assert kharon.history(where, "t1") == good
    assert [record for record in good if record.seq < 8]
    for byte in (0, 1, 500):
        forge(where, 0, lambda pairs, byte=byte: [(mine, byte)])
        assert kharon.history(where, "t1") == good


def test_an_index_with_more_entries_than_the_segment_has_records_is_not_read(where):
    """Else a small file that claims to be a long one would cost memory."""
    queue(where)
    good = kharon.history(where, "t1")
    whole = indexes_of(where)[0].read_bytes()
    forge(where, 0, lambda pairs: [(1, 7)] * 40)
    assert kharon.history(where, "t1") == good
    assert indexes_of(where)[0].read_bytes() == whole, "it was made again"


def test_ids_that_share_a_key_are_told_apart(where, monkeypatch):
    monkeypatch.setattr(index, "_key", lambda name: 7 if name in ("t1", "t2", "nobody") else 8)
    queue(where)
    for _ in range(2):
        for id in [*IDS, "nobody"]:
            assert kharon.history(where, id) == about(where, id)


def test_a_ticket_with_more_records_than_a_block_has_entries(where):
    """Blocks of 256 entries: one ticket fills some, and begins and ends inside of others."""
    log = DirectoryLog(where, 1 << 20)
    list(log.open(NOW))
    for number in range(1500):
        id = "hot" if 100 <= number < 1300 else f"c{number % 90}"
        log.append([TicketAdded(id, "x", Raw(b"null"), "default", 512, NOW)], NOW, "app")
    log.append([TicketDeleted("hot")] * 3000, NOW, "app")
    log.write()
    log.append([TicketDeleted("c1")], NOW, "app")
    log.write()
    log.abandon()
    assert len(segments_of(where)) == 2
    for _ in range(2):
        for id in ("hot", "c0", "c1", "c89", "nobody"):
            assert kharon.history(where, id, index=True) == about(where, id)
    assert len(about(where, "hot")) == 4200


def test_long_lines_in_front_of_a_record(where):
    """The line in front may be as long as a line can be: it is looked for further back."""
    log = DirectoryLog(where, 4096)
    list(log.open(NOW))
    for number in range(4):
        payload = b'"%s"' % (b"x" * (900_000 if number % 2 else 5000))
        log.append([TicketAdded("long", "x", Raw(payload), "default", 512, NOW), TicketDeleted("t1")], NOW, "app")
        log.write()
    log.abandon()
    for _ in range(2):
        assert [record.seq for record in kharon.history(where, "t1")] == [2, 4, 6, 8]
        assert [record.seq for record in kharon.history(where, "long")] == [1, 3, 5, 7]


def test_progress_is_told_in_bytes(where):
    queue(where)
    told: list[tuple[int, int]] = []
    kharon.history(where, "t1", progress=lambda done, total: told.append((done, total)))
    seals = sum(len(path.read_bytes().splitlines(keepends=True)[-1]) for path in segments_of(where)[:-1])
    size = sum(path.stat().st_size for path in segments_of(where)[:-1])
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {size}
    assert told[-1][0] == size - seals
    told.clear()
    indexes_of(where)[0].unlink()
    kharon.history(where, "t1", progress=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {segments_of(where)[0].stat().st_size}
    told.clear()
    kharon.history(where, "t1", progress=lambda done, total: told.append((done, total)))
    assert told == []


def test_progress_is_told_within_a_large_segment(where):
    log = DirectoryLog(where, 1 << 20)
    list(log.open(NOW))
    log.append([TicketDeleted("hot")] * 10_000, NOW, "app")
    log.write()
    log.abandon()
    told: list[int] = []
    kharon.history(where, "t1", progress=lambda done, _total: told.append(done))
    assert len(told) == 3


def test_an_index_that_cannot_be_written_is_no_error(where, monkeypatch):
    queue(where)
    (where / "index").write_text("in the way")
    assert kharon.history(where, "t1") == about(where, "t1")
    assert (where / "index").read_text() == "in the way"
    (where / "index").unlink()
    monkeypatch.setattr(OsFiles, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "no room")))
    monkeypatch.setattr(OsFiles, "unlink", lambda *_: (_ for _ in ()).throw(OSError(5, "and that fails too")))
    assert kharon.history(where, "t1") == about(where, "t1")
    monkeypatch.undo()
    assert all(name.endswith(".tmp") for name in names(where))
    assert kharon.history(where, "t1") == about(where, "t1")


def test_what_was_being_written_does_not_stay(where, monkeypatch):
    queue(where)
    monkeypatch.setattr(OsFiles, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "no room")))
    assert kharon.history(where, "t1") == about(where, "t1")
    assert names(where) == []


@pytest.mark.parametrize("how", ["another's queue", "read-only"])
def test_nothing_is_written_into_the_queue_of_somebody_else(where, monkeypatch, how):
    """Root looks at everybody's queue: an index that only root can read would stand in its owner's way."""
    queue(where)
    if how == "read-only":
        monkeypatch.setattr(OsFiles, "writable", lambda *_: False)
    else:
        monkeypatch.setattr(OsFiles, "user", lambda _: os.geteuid() + 1)
    assert kharon.history(where, "t1") == about(where, "t1")
    assert not (where / "index").exists()


def test_what_is_no_queue_and_no_id(where, tmp_path):
    with pytest.raises(KharonError, match="does not exist"):
        kharon.history(where, "t1")
    with pytest.raises(InvalidTicket, match="id: a str, not int"):
        kharon.history(where, 1)  # type: ignore[arg-type]


def test_a_lone_surrogate_is_in_no_id(where):
    """An argument of a command that is no UTF-8 becomes one; what it is looked up by is another ticket's."""
    other = r"\udcff"
    log = queue(where, 20, closed=False)
    for number in range(40):
        at = moment(10_000 + number)
        log.append([TicketAdded(other, "x", Raw(rb'"\\udcff"'), "default", 512, NOW)], at, "app")
        log.write()
        log.sync()
    assert len(segments_of(where)) > 3
    for _ in range(2):  # the first makes the index
        assert kharon.history(where, other) == about(where, other) == read_all(log, other)
        assert kharon.history(where, "\udcff") == kharon.history(where, "\udcff", index=False) == []
        assert read_all(log, "\udcff") == []
    log.abandon()


def test_segments_that_do_not_follow_from_each_other(where, tmp_path):
    queue(where)
    queue(tmp_path / "other")
    path = segments_of(where)[5]
    path.write_bytes(segments_of(tmp_path / "other")[5].read_bytes())
    with pytest.raises(CorruptLog, match=rf"{path.name}, line 1 .*does not follow .*it is of log"):
        kharon.history(where, "t1")
    path.write_bytes(b"x" + path.read_bytes())
    with pytest.raises(CorruptLog, match=rf"{path.name}, line 1 .*not a line"):
        kharon.history(where, "t1")


def test_a_segment_whose_successor_follows_another_end(where):
    """Its last record was replaced by one that has the right hash itself: only the next header can tell."""
    queue(where)
    path, after = segments_of(where)[4:6]
    lines = path.read_bytes().splitlines(keepends=True)
    chain = Chain(int(after.stem) - 2, lines[-3][9:73].decode())
    lines[-2] = chain.commit([TicketDeleted("t1")], NOW, "app", 0)[0]
    path.write_bytes(b"".join(lines))
    with pytest.raises(CorruptLog, match="the next segment says it follows"):
        kharon.history(where, "t1")


def resealed(path: Path, change) -> None:
    """Change the body of a segment's second line, and write its header's successors anew so that all hashes follow."""
    lines = path.read_bytes().splitlines(keepends=True)
    bodies = [line[92:-1] for line in lines]
    bodies[1] = change(bodies[1])
    hash, data = lines[0][9:73].decode(), [lines[0]]
    for body in bodies[1:]:
        line, hash = link(hash, body)
        data.append(line)
    path.write_bytes(b"".join(data))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.replace(b'"seq":1,', b'"seq":2,'), "it is record 2; 1 should come next"),
        (lambda body: body.replace(b'"seq":1,', b'"seq":x,'), "not a record"),
    ],
)
def test_lines_that_are_whole_and_are_no_records(where, change, words):
    queue(where)
    resealed(segments_of(where)[0], change)
    with pytest.raises(CorruptLog, match=words):
        kharon.history(where, "t1")


def test_a_whole_line_that_is_no_record_is_refused_by_who_asks_for_it(where):
    """Building does not decode what a record is; showing it does."""
    log = DirectoryLog(where, 4096)
    list(log.open(NOW))
    log.append([TicketDeleted("odd")] * 30, NOW, "app")
    log.write()
    log.abandon()
    one, two = segments_of(where)
    lines = one.read_bytes().splitlines(keepends=True)
    hash, data = lines[0][9:73].decode(), [lines[0]]
    for old in lines[1:-1]:
        line, hash = link(hash, old[92:-1].replace(b'"part":[1,30]', b'"part":[1]'))
        data.append(line)
    chain = Chain(30, hash)
    two.write_bytes(chain.header(next(index.finished_segments(OS_FILES, [one, two])).log, NOW))
    one.write_bytes(b"".join(data))
    assert kharon.history(where, "t1") == []
    for _ in range(2):
        with pytest.raises(CorruptLog, match=r"0001\.jsonl, line 0 \(byte \d+\): this line or a later one: not a"):
            kharon.history(where, "odd")


# --- the tail ---------------------------------------------------------------------------------------------------------


def test_every_end_of_a_tail_is_read_as_reading_all_does(where, record_property):
    """The tail cut at every byte, as a crash may leave it."""
    log = DirectoryLog(where)
    list(log.open(NOW))
    fill(log, 12)
    log.append([TicketDeleted("t1"), TicketDeleted("t2"), TicketDeleted("t1")], NOW, "app")
    log.write()
    log.abandon()
    (path,) = segments_of(where)
    data = path.read_bytes()
    last = data.rindex(b'"part":[1,3]') - 200
    lengths = {*range(last, len(data), 3), *(end.end() for end in re.finditer(rb"\n", data))}
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        for id in ("t1", "t2"):
            assert kharon.history(where, id) == about(where, id), length
    record_property("cut tails", len(lengths))


def test_a_tail_that_is_damaged(where):
    """As `read`: what a later line vouches for is damage, and the rest an unfinished commit, wherever the ticket is."""
    log = DirectoryLog(where)
    list(log.open(NOW))
    fill(log, 15)
    log.append([TicketDeleted("t1"), TicketDeleted("t2"), TicketDeleted("t1")], NOW, "app")
    log.write()
    log.abandon()
    (path,) = segments_of(where)
    data = path.read_bytes()
    corrupt = cut = 0
    for byte in range(data.index(b"\n") + 1, len(data), 17):
        path.write_bytes(data[:byte] + bytes([data[byte] ^ 4]) + data[byte + 1 :])
        for id in ("t1", "t2"):
            try:
                expected = about(where, id)
            except CorruptLog:
                corrupt += 1
                with pytest.raises(CorruptLog):
                    kharon.history(where, id)
            else:
                cut += 1
                assert kharon.history(where, id) == expected, byte
    assert corrupt > 50
    assert cut > 50


def test_a_tail_that_was_sealed_since_it_was_listed(where):
    queue(where)
    path = segments_of(where)[2]
    with path.open("rb") as file:
        found = search_tail(file, str(path), "t1")
    first, last = int(path.stem), int(segments_of(where)[3].stem) - 1
    assert found == [record for record in about(where, "t1") if first <= record.seq <= last]
    with pytest.raises(CorruptLog, match="somewhere, line 1 "):
        search_tail(io.BytesIO(b"no header\n"), "somewhere", "t1")


# --- what the snapshots' process does ---------------------------------------------------------------------------------


def test_missing_indexes_are_written_and_stale_ones_swept(where):
    queue(where)
    paths = segments_of(where)
    assert index.write_missing(where, paths) == len(paths) - 1
    expected = {path.name: path.read_bytes() for path in indexes_of(where)}
    assert index.write_missing(where, paths) == 0
    (where / "index" / f"{paths[2].stem}.idx").unlink()
    (where / "index" / f"{paths[3].stem}.idx").write_bytes(b"no index")
    for name in (f"{paths[4].stem}.idx.1234.tmp", f"{int(paths[4].stem) + 1:020}.idx", f"{0:020}.idx"):
        (where / "index" / name).write_bytes(b"left")
    later = f"{10**6:020}.idx"  # of a segment that was begun since the segments were listed
    (where / "index" / later).write_bytes(b"later")
    assert index.write_missing(where, paths) == 2
    assert {path.name: path.read_bytes() for path in indexes_of(where)} == {**expected, later: b"later"}
    (where / "index" / later).unlink()
    assert {id: kharon.history(where, id) for id in IDS} == {id: about(where, id) for id in IDS}


def test_the_snapshots_process_writes_them(where, monkeypatch, capsys):
    queue(where)
    monkeypatch.setattr("sys.argv", ["snapshot", str(where)])
    monkeypatch.setattr(os, "nice", lambda _: 0)
    assert snapshot_process.main() == 0
    assert len(indexes_of(where)) == len(segments_of(where)) - 1
    assert len(list((where / "snapshots").iterdir())) == 1
    for path in indexes_of(where):
        path.unlink()
    (where / "index").rmdir()
    (where / "index").write_text("in the way")
    assert snapshot_process.main() == 2
    assert "index" in capsys.readouterr().err


def test_the_folder_may_be_made_by_two_at_once(where, monkeypatch):
    queue(where)
    make = OsFiles.make_directory

    def make_first(self, path):
        make(self, path)
        make(self, path)

    monkeypatch.setattr(OsFiles, "make_directory", make_first)
    assert kharon.history(where, "t1") == about(where, "t1")
    assert len(indexes_of(where)) == len(segments_of(where)) - 1


# --- in the queue that is open ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", ["all", "none", "some"])
def test_a_live_reader_finds_the_same_with_and_without(where, indexed):
    log = queue(where, closed=False)
    if indexed != "none":
        index.write_missing(where, segments_of(where))
    if indexed == "some":
        for path in indexes_of(where)[::3] + indexes_of(where)[1::5]:
            path.unlink(missing_ok=True)
    for id in ["t0", "t1", "nobody"]:
        mine = about(where, id)
        assert read_all(log, id) == mine
        for after in (0, 1, 9, 57, 200, log.durable - 1, log.durable):
            assert read_all(log, id, after, limit=5) == [record for record in mine if record.seq > after]
    log.abandon()


def test_a_live_reader_shows_nothing_behind_what_may_be_shown(where):
    log = queue(where, closed=False)
    index.write_missing(where, segments_of(where))
    mine = about(where, "t1")
    for until in range(0, log.durable + 1, 5):
        reader = log.reader(0, "t1")
        found = []
        while reader.seq < until:
            found += reader.read(100, until)
        reader.close()
        assert reader.seq == until
        assert found == [record for record in mine if record.seq <= until]
    log.abandon()


def test_a_live_reader_goes_on_while_the_log_grows(where):
    log = queue(where, 5, closed=False)
    reader = log.reader(0, "t1")
    found = []
    for seed in range(2, 40):
        fill(log, 3, seed)
        if seed % 4 == 0:
            index.write_missing(where, segments_of(where))
        if seed % 3:
            while reader.seq < log.durable:
                found += reader.read(4, log.durable)
            assert found == about(where, "t1")
    reader.close()
    reader.close()
    log.abandon()
    assert len(segments_of(where)) > 10


class Counting(OsFiles):
    """Counts what is opened for reading, by folder."""

    def __init__(self) -> None:
        self.read_from: list[str] = []

    def read(self, path):
        self.read_from.append(path.parent.name)
        return super().read(path)


def test_a_slice_of_a_live_reader_is_short(where):
    """Counted, not timed: at most eight segments, and of a segment with no record only its header."""
    log = queue(where, closed=False)
    index.write_missing(where, segments_of(where))
    files = Counting()
    reader = IndexedReader(files, where, log._places, 0, "nobody")
    places = len(log._places)
    slices = 0
    while reader.seq < log._places[-1].first - 1:
        files.read_from.clear()
        assert reader.read(256, log._places[-1].first - 1) == []
        assert files.read_from.count("index") <= 8
        assert files.read_from.count("log") <= 16
        slices += 1
    assert slices == -(-(places - 1) // 8)
    reader.close()
    indexes_of(where)[3].unlink()
    reader = IndexedReader(files, where, log._places, 0, "nobody")
    files.read_from.clear()
    while reader.seq < log._places[-1].first - 1:
        assert reader.read(256, log._places[-1].first - 1) == []
    assert files.read_from.count("index") == places - 1, "behind the one that is missing, the others are used"
    reader.close()
    log.abandon()


async def test_history_of_an_open_queue(where):
    queue(where)
    kharon.history(where, "t1")
    async with kharon.open(where) as kh:
        await kh.add(kharon.Ticket("t1", "x"))
        assert await kh.history("t1") == kharon.history(where, "t1") == about(where, "t1")
        assert await kh.history("nobody") == []


def test_folding_a_history_gives_the_ticket(where):
    queue(where)
    now = kharon.replay(where)
    for id in IDS:
        assert Projection().fold(kharon.history(where, id)).get(id) == now.get(id)
