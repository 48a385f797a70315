from __future__ import annotations

import itertools

import pytest
from log_steps import NOW, added, seal

from kharon.errors import KharonError
from kharon.log.directory import DirectoryLog
from kharon.log.memory import MemoryLog
from kharon.testing import check_log


def test_it_is_a_log():
    check_log(MemoryLog)


def filled(keep: int, count: int) -> MemoryLog:
    log = MemoryLog(keep)
    assert list(log.open(NOW)) == []
    for number in range(1, count + 1):
        log.append([added(f"t{number}")], NOW, "ann")
    log.write()
    return log


def test_only_the_newest_are_kept():
    log = filled(keep=3, count=5)
    assert (log.first, log.seq, log.written) == (3, 5, 5)
    assert log.line(2) is None
    assert log.line(6) is None
    assert log.line(3).startswith(b'{"hash":"')
    assert [record.seq for record in log.reader().read(9, 5)] == [3, 4, 5]
    assert [record.seq for record in log.reader(after=4).read(9, 5)] == [5]
    log.append([added("x"), added("y"), added("z"), added("zz")], NOW, "ann")
    assert (log.first, log.seq) == (7, 9), "a commit longer than what is kept is numbered all the same"
    assert [record.part for record in log.reader().read(9, 9)] == [(2, 4), (3, 4), (4, 4)]


def test_exactly_as_many_as_are_to_be_kept():
    assert filled(keep=3, count=3).first == 1


def test_the_lines_are_those_of_a_directory():
    log = filled(keep=9, count=3)
    lines = [log.line(seq) for seq in (1, 2, 3)]
    for before, line in itertools.pairwise(lines):
        assert line == seal(line[92:-1], before[9:73].decode())


def test_a_reader_that_fell_behind_is_told_and_misses_nothing_silently():
    log = filled(keep=3, count=3)
    reader = log.reader()
    assert [record.seq for record in reader.read(1, 3)] == [1]
    log.append([added("t4"), added("t5")], NOW, "ann")
    log.write()
    with pytest.raises(KharonError, match=r"record 2 is not kept any more.*begins at record 3.*memory_records"):
        reader.read(9, 5)
    assert reader.seq == 1
    reader.close()
    reader.close()


def test_a_reader_begins_where_the_history_begins_when_it_first_reads():
    log = filled(keep=3, count=3)
    reader = log.reader()
    log.append([added("t4")], NOW, "ann")
    assert [record.seq for record in reader.read(9, 4)] == [2, 3, 4]


def test_abandoning_and_closing_are_nothing():
    log = filled(keep=3, count=3)
    log.close(NOW)
    log.abandon()
    assert log.seq == 3


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_slice_of_large_records_is_short(tmp_path, in_memory):
    log = MemoryLog() if in_memory else DirectoryLog(tmp_path / "queue")
    list(log.open(NOW))
    for number in range(20):
        log.append([added(f"a{number}", b'"%b"' % (b"x" * 100_000))], NOW, "app")
    log.write()
    reader = log.reader()
    first = reader.read(256, log.written)
    assert [record.seq for record in first] == [1, 2, 3]
    rest = [record.seq for _ in range(20) for record in reader.read(256, log.written)]
    assert rest == list(range(4, 21))
    reader.close()
    log.abandon()


def test_what_is_taken_back_never_was():
    log = filled(100, 3)
    log.append([added("more"), added("and more")], NOW, "app")
    log.take_back()
    assert (log.seq, log.written) == (3, 3)
    log.append([added("other")], NOW, "app")
    log.write()
    reader = log.reader()
    assert [record.event.id for record in reader.read(100, log.written)][3:] == ["other"]
    hashes = [record.hash for record in log.reader().read(100, log.written)]
    assert len(set(hashes)) == 4
