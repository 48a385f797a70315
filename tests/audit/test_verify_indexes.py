"""What `kharon.verify` says about the indexes of `history`: each is held against its segment, since it is believed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec import Raw
from queues import IDS, NOW, about, fill, forge, indexes_of, queue, segments_of

import kharon
from kharon.audit.verify_indexes import IndexCheck
from kharon.log import index
from kharon.log.directory import DirectoryLog
from kharon.log.files import OS_FILES
from kharon.log.record import Chain, link
from kharon.model.events import TicketAdded, TicketDeleted

GOLDEN = Path(__file__).parents[1] / "golden"
POLYNOMIAL = 0x1DB710641  # of CRC-32: who adds it to any bits leaves the sum as it was


@pytest.fixture
def where(tmp_path):
    """A queue of many segments, each but the last with its index."""
    queue(tmp_path / "queue", 60)
    kharon.history(tmp_path / "queue", "t1")
    assert len(indexes_of(tmp_path / "queue")) == len(segments_of(tmp_path / "queue")) - 1 > 5
    return tmp_path / "queue"


@pytest.fixture
def large(tmp_path):
    """A queue of one finished segment, whose index has three blocks."""
    log = DirectoryLog(tmp_path / "large", 1 << 18)
    list(log.open(NOW))
    while len(segments_of(tmp_path / "large")) == 1:
        for number in range(50):
            log.append([TicketAdded(f"c{number}", "x", Raw(b"null"), "default", 512, NOW)], NOW, "app")
        log.write()
    log.abandon()
    kharon.history(tmp_path / "large", "c1")
    assert indexes_of(tmp_path / "large")[0].stat().st_size > 2 * index.BLOCK_BYTES
    return tmp_path / "large"


def verdict(where: Path, caplog: pytest.LogCaptureFixture) -> tuple[int, list[str], list[str]]:
    """How many indexes are good, and what is said of the others, without their path; of bad ones as a warning, too."""
    caplog.clear()
    report = kharon.verify(where)
    warned = [record.getMessage() for record in caplog.records]
    assert warned == [f"bad index: {bad}" for bad in report.bad_indexes]
    short = [
        [why.removeprefix(f"{where}/index/") for why in said] for said in (report.bad_indexes, report.unused_indexes)
    ]
    return report.indexes, *short


def test_indexes_that_say_what_their_segments_say(where, caplog):
    count = len(indexes_of(where))
    assert verdict(where, caplog) == (count, [], [])
    indexes_of(where)[2].unlink()
    assert verdict(where, caplog) == (count - 1, [], [])
    assert len(indexes_of(where)) == count - 1, "verify writes nothing"
    shutil.rmtree(where / "index")
    assert verdict(where, caplog) == (0, [], [])
    (where / "index").write_text("in the way")
    assert verdict(where, caplog) == (0, [], [])


@pytest.mark.parametrize("number", [0, 3, -1])
def test_an_index_that_hides_a_ticket(where, caplog, number):
    """Its sums are right, so history believes it: only the segment shows what it is."""
    count = len(indexes_of(where))
    segment = list(index.finished_segments(OS_FILES, segments_of(where)))[number]
    there = [record for record in kharon.read(where) if segment.first <= record.seq <= segment.last]
    there = [record for record in there if hasattr(record.event, "id")]
    id = there[3].event.id
    mine = [record for record in there if record.event.id == id]
    path = forge(where, number, lambda pairs: [pair for pair in pairs if pair[0] != index._key(id)])
    assert [record for record in about(where, id) if record not in kharon.history(where, id)] == mine
    why = (
        f"{path.name}: it hides from history {len(mine)} of the {len(there)} records about tickets in "
        f"{segment.path.name}; the first of them is about '{id}', "
        f"at byte {segment.path.read_bytes().index(mine[0].hash.encode()) - 9}"
    )
    assert kharon.verify(where).bad_indexes == (f"{path.parent}/{why}",)
    assert verdict(where, caplog) == (count - 1, [why], [])
    path.unlink()
    assert verdict(where, caplog) == (count - 1, [], [])
    assert kharon.history(where, id) == about(where, id)
    assert verdict(where, caplog) == (count, [], [])


def test_an_index_that_hides_all(where, caplog):
    path = forge(where, 1, lambda _pairs: [])
    (bad,) = verdict(where, caplog)[1]
    assert bad.startswith(f"{path.name}: it hides from history ")


def test_an_index_that_leads_to_another_ticket_s_records(where, caplog):
    """There history finds that they are not the ticket's, and passes over them."""
    mine = index._key("t1")

    def change(pairs):
        other = max(place for key, place in pairs if key != mine)
        return sorted((key, other if key == mine else place) for key, place in pairs)

    path = forge(where, 0, change)
    (bad,) = verdict(where, caplog)[1]
    assert bad.startswith(f"{path.name}: it hides from history ")
    assert "the first of them is about 't1', at byte " in bad


def test_an_index_with_something_added(where, caplog):
    """In a segment where not every record is about a ticket, else there would be too many entries for one."""
    segments = list(index.finished_segments(OS_FILES, segments_of(where)))
    number = next(
        number
        for number, segment in enumerate(segments)
        if len(index.build_index(OS_FILES, segment).offsets.entries()) < 2 * (segment.last - segment.first + 1)
    )
    path = forge(where, number, lambda pairs: [*pairs, (2**64 - 1, 7)])
    why = f"{path.name}: it names 1 places in {segments[number].path.name} where no record about that ticket begins"
    assert verdict(where, caplog)[1] == [why]


def test_an_index_whose_entries_are_not_in_order(where, caplog):
    path = forge(where, 2, lambda pairs: pairs[::-1])
    assert any(kharon.history(where, id) != about(where, id) for id in IDS)
    forge(where, 2, lambda pairs: pairs[::-1])  # history may have made it again
    why = "its entries are in an order, or have a table before them, by which some of them are not found"
    assert verdict(where, caplog)[1] == [f"{path.name}: {why}"]


def test_an_index_whose_table_leads_past_its_entries(where, caplog):
    """All entries are there and right; what is looked up first says that none is."""
    path = indexes_of(where)[0]
    data, head = bytearray(path.read_bytes()), index._HEAD.size
    data[head : head + 8] = b"\xff" * 8
    data[head + 12 : head + 16] = index._crc_bytes(bytes(data[: head + 12]))
    path.write_bytes(data)
    assert any(kharon.history(where, id) != about(where, id) for id in IDS)
    why = "its entries are in an order, or have a table before them, by which some of them are not found"
    assert verdict(where, caplog)[1] == [f"{path.name}: {why}"]


@pytest.mark.parametrize("how", ["cut", "empty", "garbage", "another's", "another log's", "other version", "longer"])
def test_an_index_that_history_does_not_use_is_not_bad(where, tmp_path, caplog, how):
    paths = indexes_of(where)
    good = [path.read_bytes() for path in paths]
    queue(tmp_path / "other", 61)
    kharon.history(tmp_path / "other", "t1")
    for number, path in enumerate(paths):
        path.write_bytes(
            {
                "cut": good[number][:-1],
                "empty": b"",
                "garbage": b"garbage" * 100,
                "another's": good[number - 1],
                "another log's": indexes_of(tmp_path / "other")[number].read_bytes(),
                "other version": good[number][:8] + b"\xff" + good[number][9:],
                "longer": good[number] + b"\0" * 16,
            }[how]
        )
    unused = [f"{path.name}: it is unfinished, damaged, or of another segment or version" for path in paths]
    assert verdict(where, caplog) == (0, [], unused)
    assert kharon.history(where, "t1") == about(where, "t1")
    assert verdict(where, caplog) == (len(paths), [], [])


def test_an_index_that_cannot_be_read(where, caplog):
    path = indexes_of(where)[1]
    path.unlink()
    path.mkdir()
    assert verdict(where, caplog)[1:] == ([], [f"{path.name}: it cannot be read: Is a directory"])
    assert kharon.history(where, "t1") == about(where, "t1")


def test_a_block_that_is_damaged_is_not_used_and_the_others_are(large, caplog):
    (path,) = indexes_of(large)
    whole = path.read_bytes()
    blocks = -(-len(whole) // index.BLOCK_BYTES)
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert verdict(large, caplog) == (0, [], [f"{path.name}: it is damaged in 1 of {blocks} parts"])
    for offset in (0, index.BLOCK_BYTES):  # a block that is not the damaged one is forged, and its sum stays right
        forged = bytearray(damaged)
        at = len(whole) - len(whole) % index.BLOCK_BYTES - offset - index.BLOCK_BYTES + 8 + 3
        number = int.from_bytes(forged[at : at + 5], "little") ^ POLYNOMIAL
        forged[at : at + 5] = number.to_bytes(5, "little")
        path.write_bytes(forged)
        (good, (bad,), unused) = verdict(large, caplog)
        assert (good, unused) == (0, [])
        assert bad.startswith(f"{path.name}: it hides from history ")


def test_a_file_where_no_segment_is_finished_is_nobody_s(where, caplog):
    """Nobody asks it: the tail's is made when the tail has a successor, those of trimmed segments are swept away."""
    count = len(indexes_of(where))
    for name in (segments_of(where)[-1].stem, f"{7:020}", f"{10**15:020}"):
        (where / "index" / f"{name}.idx").write_bytes(indexes_of(where)[0].read_bytes())
    (where / "index" / "0.idx.abc.tmp").touch()
    assert verdict(where, caplog) == (count, [], [])


def test_they_are_compared_while_the_log_is_written(tmp_path, monkeypatch):
    """Between one segment and the next others are begun, and indexes are made; one is deleted before it is compared."""
    where = tmp_path / "queue"
    log = queue(where, 30, closed=False)
    kharon.history(where, "t1")
    before, seeds = len(segments_of(where)), iter(range(100, 10_000))

    def watch(self, reading, path, real=IndexCheck.watch):
        if len(segments_of(where)) < before + 10:
            fill(log, 5, next(seeds))
            kharon.history(where, "t1")
        if path == segments_of(where)[2]:
            indexes_of(where)[1].unlink()
        return real(self, reading, path)

    monkeypatch.setattr(IndexCheck, "watch", watch)
    report = kharon.verify(where)
    assert (report.bad_indexes, report.unused_indexes) == ((), ())
    assert report.segments > before + 1
    assert report.indexes == report.segments - 2
    log.abandon()


@pytest.mark.parametrize("name", ["trimmed", "compressed", "archived"])
def test_segments_that_were_moved(tmp_path, caplog, name):
    """What an index says is of the uncompressed bytes, wherever these are."""
    where = tmp_path / "queue"
    shutil.copytree(GOLDEN / name / "queue", where)
    where.chmod(0o700)
    kharon.history(where, "nobody")
    report = kharon.verify(where)
    count = report.segments - 1
    assert (report.indexes, report.bad_indexes, report.unused_indexes) == (count, (), ())
    assert count >= 1
    forged = []
    for number, path in enumerate(indexes_of(where)):
        right = path.read_bytes()
        if right != forge(where, number, lambda _pairs: []).read_bytes():  # there is a record about some ticket
            forged.append(f"{path.name}: it hides from history ")
            found, bad, unused = verdict(where, caplog)
            assert (found, unused) == (count - len(forged), [])
            assert [why[: len(start)] for why, start in zip(bad, forged, strict=True)] == forged
    assert forged


def test_events_that_only_a_later_version_knows_have_their_place(tmp_path):
    """One is about a ticket, one is not, and of one nobody can say: no index can be made of the last."""
    where = tmp_path / "queue"
    (where / "log").mkdir(parents=True, mode=0o700)
    where.chmod(0o700)
    bodies = [b'"id":"a"}', b'"tube":"a"}', b'"id":5}']
    for count in (2, 3):
        chain = Chain()
        lines = [chain.header("e" * 32, NOW), *chain.commit([TicketDeleted("a")], NOW, "ann", 0)]
        for body in bodies[:count]:
            (line,) = chain.copy().commit([TicketDeleted("a")], NOW, "ann", chain.seq)
            text = line[92:-1].replace(b'"v":1', b'"v":9').replace(b'"id":"a"}', body)
            line, chain.hash = link(chain.hash, text)
            chain.seq += 1
            lines.append(line)
        (where / "log" / f"{1:020}.jsonl").write_bytes(b"".join(lines))
        name = f"{chain.seq + 1:020}.jsonl"
        (where / "log" / name).write_bytes(chain.header("e" * 32, NOW))
        if count == 2:
            kharon.history(where, "nobody")
            (where / "log" / name).rename(tmp_path / "aside")
            (tmp_path / "aside").replace(where / "log" / name)
            report = kharon.verify(where)
            assert (report.indexes, report.bad_indexes, len(report.unknown)) == (1, (), 1)
            (where / "log" / name).unlink()
    report = kharon.verify(where)
    assert (report.indexes, report.bad_indexes, len(report.unused_indexes)) == (0, (), 1)
