"""What opening does with a log that was not closed, or not left alone."""

from __future__ import annotations

import collections
import contextlib
import io
import itertools
import os
import random
import shutil
from pathlib import Path

import pytest
from log_steps import (
    FIRST_NAME,
    NOW,
    added,
    chained,
    commits_in,
    moment,
    opened,
    place,
    put,
    record_body,
    records_in,
    sample,
    seal,
    segment_of,
)

from kharon.errors import CorruptLog, KharonError
from kharon.log.directory import DirectoryLog
from kharon.log.record import Chain, Record
from kharon.log.segment import BrokenSegment, is_proved_durable, read_segment
from kharon.model.checks import MAX_LINE_BYTES
from kharon.model.events import LogClosed, TailCut


@pytest.fixture
def quick_disk(monkeypatch):
    """Thousands of logs are opened here; what is synced when is another test's business."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, os.fstat)


@pytest.fixture(scope="module", params=[True, False], ids=["closed", "abandoned"])
def whole(request, tmp_path_factory):
    """The bytes of a log."""
    return sample(tmp_path_factory.mktemp("whole") / "queue", closed=request.param)


def quarantine(where: Path) -> dict[str, bytes]:
    return {f"quarantine/{path.name}": path.read_bytes() for path in (where / "quarantine").glob("*")}


def the_cut(records: list[Record]) -> TailCut:
    event = records[-1].event
    assert isinstance(event, TailCut)
    return event


def assert_cut(where: Path, data: bytes, byte: int, should: list[Record]) -> None:
    """Opening gives the records before `byte`, says what it cut, keeps the rest aside; once, and for good."""
    *records, last = records_in(where)
    assert records == should
    cut = the_cut([last])
    assert (cut.file, cut.byte, cut.length) == (f"log/{FIRST_NAME}", byte, len(data) - byte)
    assert quarantine(where) == {cut.kept_as: data[byte:]}
    assert (last.by, last.durable) == ("clock", len(records)), "all before it is on the disk once it is there"
    assert segment_of(where).read_bytes().startswith(data[:byte])
    assert records_in(where) == [*records, last], "the second time there is nothing to cut"
    assert quarantine(where) == {cut.kept_as: data[byte:]}


def reading(data: bytes, where: Path) -> list[Record]:
    """The records of a whole log, for comparison."""
    return records_in(place(where, data))


# --- the tail ---------------------------------------------------------------------------------------------------------


def test_cut_at_every_length(tmp_path, quick_disk):
    data = sample(tmp_path / "closed", closed=True)
    records = reading(data, tmp_path / "whole")
    header, commits, _ = commits_in(data)
    outcomes = collections.Counter()
    for length in range(len(data) + 1):
        where = place(tmp_path / "cut", data[:length])
        kept = [commit for commit in commits if commit.end <= length]
        end, last = (kept[-1].end, kept[-1].last) if kept else (header, 0)
        if length < header:
            with pytest.raises(CorruptLog, match=r"line 1 \(byte 0\).*unfinished"):
                records_in(where)
            assert segment_of(where).read_bytes() == data[:length]
            outcomes["refused"] += 1
        elif length == end:
            for _ in range(2):
                assert records_in(where) == records[:last]
            assert segment_of(where).read_bytes() == data[:length]
            assert quarantine(where) == {}
            outcomes["whole"] += 1
        else:
            assert_cut(where, data[:length], end, records[:last])
            outcomes["cut"] += 1
        shutil.rmtree(where)
    assert outcomes == {"refused": header, "whole": len(commits) + 1, "cut": len(data) - header - len(commits)}


def judged(data: bytes) -> int | None:
    """How many records reading a segment gives before an unfinished commit; None if it is refused as damaged."""
    chain = Chain()
    file = io.BytesIO(data)
    try:
        for _ in read_segment(file, "segment", chain, None):
            pass
    except BrokenSegment as broken:
        return None if is_proved_durable(file, broken) else chain.seq
    except CorruptLog:
        return None
    raise AssertionError("the damage was not noticed")


def vouched_bytes(data: bytes) -> int:
    """How many bytes of a segment, from its beginning, belong to the header or to a commit that a line vouches for."""
    _, commits, durable = commits_in(data)
    vouched = max(commit.end for commit in commits if commit.first <= durable)
    assert 200 < vouched < len(data)
    return vouched


def test_every_bit_flipped(whole):
    """What a later line vouches for is refused; of the rest exactly the commits before the damaged one are kept."""
    commits = commits_in(whole)[1]
    vouched = vouched_bytes(whole)
    outcomes = collections.Counter()
    for byte in range(len(whole)):
        kept = max((commit.last for commit in commits if commit.end <= byte), default=0)
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[byte] ^= 1 << bit
            outcome = judged(flipped)
            assert outcome == (None if byte < vouched else kept), f"bit {bit} of byte {byte}"
            outcomes["refused" if outcome is None else "cut"] += 1
    assert outcomes == {"refused": vouched * 8, "cut": (len(whole) - vouched) * 8}


def test_opening_with_a_bit_flipped(whole, tmp_path, quick_disk):
    """The same, by opening the directory: one bit of every byte, and all of a newline's."""
    records = reading(whole, tmp_path / "whole")
    commits = commits_in(whole)[1]
    vouched = vouched_bytes(whole)
    where = place(tmp_path / "flipped", whole)
    outcomes = collections.Counter()
    for byte, bit in itertools.product(range(len(whole)), range(8)):
        if bit != byte % 8 and whole[byte] != ord("\n"):
            continue
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << bit
        segment = where / "log" / FIRST_NAME
        segment.write_bytes(flipped)
        if byte < vouched:
            with pytest.raises(CorruptLog):
                records_in(where)
            assert segment.read_bytes() == flipped
            outcomes["refused"] += 1
        else:
            start = max(commit.start for commit in commits if commit.start <= byte)
            *found, last = records_in(where)
            assert found == records[: len(found)]
            assert the_cut([last]).byte == start
            assert (where / last.event.kept_as).read_bytes() == flipped[start:]
            shutil.rmtree(where / "quarantine")
            outcomes["cut"] += 1
    lines = whole.count(b"\n")
    safe_lines = whole.count(b"\n", 0, vouched)
    assert outcomes == {
        "refused": vouched + 7 * safe_lines,
        "cut": len(whole) - vouched + 7 * (lines - safe_lines),
    }


def lines_of(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def rearranged(lines: list[bytes]) -> dict[str, list[bytes]]:
    """Each line swapped with each later one, doubled, dropped; the header's too. Lines are counted from the end."""
    count = len(lines)
    every = {}
    for one in range(count):
        every[f"-{count - one} dropped"] = lines[:one] + lines[one + 1 :]
        every[f"-{count - one} doubled"] = [*lines[: one + 1], *lines[one:]]
        for other in range(one + 1, count):
            swapped = list(lines)
            swapped[one], swapped[other] = lines[other], lines[one]
            every[f"-{count - one} and -{count - other} swapped"] = swapped
    return every


def test_lines_swapped_doubled_and_dropped(whole, tmp_path, quick_disk):
    records = reading(whole, tmp_path / "whole")
    durable = commits_in(whole)[2]
    kept = {}
    for how, changed in rearranged(lines_of(whole)).items():
        where = place(tmp_path / "changed", b"".join(changed))
        with contextlib.suppress(CorruptLog):
            found = [record for record in records_in(where) if not isinstance(record.event, TailCut)]
            assert found == records[: len(found)], how
            kept[how] = len(found)
        shutil.rmtree(where)
    assert min(kept.values()) >= durable, "what was durable is refused, or there"
    if isinstance(records[-1].event, LogClosed):
        # Nothing stands behind the last line to vouch for it, and nothing vouches for a line that never was.
        assert kept == {"-1 dropped": 8, "-1 doubled": 9, "-2 doubled": 8}
    else:
        # The last three lines, 6 to 8, were never vouched for; 5 was.
        assert set(kept.values()) == {5, 6, 8}
        assert not {how for how in kept if not how.startswith(("-1", "-2", "-3", "-4 doubled"))}


GARBAGE = {
    "a byte": b"{",
    "a newline": b"\n",
    "nulls": b"\0" * 4096,
    "much": random.Random(1).randbytes(20_000),
    "a foreign line": b'{"level":"info"}\n',
    "a long line": b"x" * (MAX_LINE_BYTES + 1) + b"\n",
    "a very long line without an end": b"\0" * (3 * MAX_LINE_BYTES),
    "a line of another log": chained(record_body(seq=9, durable=3)),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_behind_the_tail(whole, where, tmp_path, name):
    records = reading(whole, tmp_path / "whole")
    data = whole + GARBAGE[name]
    assert_cut(place(where, data), data, len(whole), records)


def test_old_lines_behind_the_tail(whole, where, tmp_path):
    """Blocks of the same file, found again where new ones should be: they vouch for what is there already."""
    records = reading(whole, tmp_path / "whole")
    data = whole + b"".join(lines_of(whole)[1:])
    assert_cut(place(where, data), data, len(whole), records)


def test_a_header_alone_is_a_whole_log(where):
    assert records_in(where) == []
    log, records = opened(where)
    assert records == []
    put(log, added("a"))
    log.abandon()
    assert [record.seq for record in records_in(where)] == [1]


def test_the_log_goes_on_behind_a_cut(where):
    data = sample(where, closed=False)
    segment_of(where).write_bytes(data[:-5])
    log, records = opened(where)
    assert (log.seq, log.written, log.durable) == (records[-1].seq,) * 3
    assert records[-1].at == moment(100)
    put(log, added("z"), at=200)
    log.close(moment(300))
    back = records_in(where)
    assert back[: len(records)] == records
    assert [record.durable for record in back[len(records) :]] == [records[-1].seq, records[-1].seq + 1]
    assert back[-2].event.id == "z"


def test_the_time_of_a_cut_does_not_go_back(where):
    data = sample(where, closed=False)
    segment_of(where).write_bytes(data[:-5])
    records = records_in(where, at=-1000)
    assert records[-1].at == records[-2].at


# --- after a recovery, and after a close, what was there is vouched for -----------------------------------------------


def flips_are_refused(where: Path, until: int) -> None:
    """Any byte before `until`, damaged in any way that a test has patience for, is noticed."""
    path = segment_of(where)
    data = path.read_bytes()
    assert 0 < until < len(data)
    for byte in range(until):
        damaged = bytearray(data)
        damaged[byte] ^= 1 << (byte % 8)
        path.write_bytes(damaged)
        with pytest.raises(CorruptLog):
            records_in(where)


def test_after_a_cut_nothing_before_it_can_be_altered_unnoticed(where, quick_disk):
    data = sample(where, closed=False)
    segment_of(where).write_bytes(data[:-5])
    cut = the_cut(records_in(where))
    flips_are_refused(where, cut.byte)


def test_after_a_close_nothing_before_it_can_be_altered_unnoticed(where, quick_disk):
    data = sample(where, closed=True)
    flips_are_refused(where, data.rindex(b"\n", 0, -1) + 1)


def test_an_altered_line_that_is_sealed_again_is_noticed_by_what_follows(where):
    """The crc is no secret; the chain is what an editor of history cannot mend without writing all of it anew."""
    sample(where, closed=True)
    path = segment_of(where)
    lines = lines_of(path.read_bytes())
    lines[1] = seal(lines[1][92:-1].replace(b'"ann"', b'"bob"'), lines[0][9:73].decode())
    path.write_bytes(b"".join(lines))
    with pytest.raises(CorruptLog, match=r"line 3 .*does not follow"):
        records_in(where)


# --- how it is written ------------------------------------------------------------------------------------------------


def test_after_an_unclean_stop_the_tail_gets_a_new_inode(where):
    data = sample(where, closed=False)
    inodes = [segment_of(where).stat().st_ino]
    with segment_of(where).open("rb") as old:  # held, so that its number is not given away again
        records_in(where)
        inodes.append(segment_of(where).stat().st_ino)
        assert old.read() == data
    assert segment_of(where).read_bytes() == data
    assert inodes[0] != inodes[1]


def test_after_a_clean_stop_the_tail_is_left_as_it_is(where):
    data = sample(where, closed=True)
    before = segment_of(where).stat()
    log, _ = opened(where)
    put(log, added("z"))
    log.abandon()
    assert segment_of(where).stat().st_ino == before.st_ino
    assert segment_of(where).read_bytes().startswith(data)


def test_something_behind_a_clean_stop_makes_it_unclean(where):
    sample(where, closed=True)
    with segment_of(where).open("ab", buffering=0) as file:
        file.write(b"{")
        assert isinstance(records_in(where)[-1].event, TailCut)
        assert segment_of(where).stat().st_ino != os.fstat(file.fileno()).st_ino


def test_leftovers_of_a_recovery_do_not_hurt(where):
    data = sample(where, closed=False)
    path = segment_of(where)
    path.write_bytes(data[:-5])
    byte = commits_in(data)[1][-1].start
    temporaries = [path.with_name(path.name + ".tmp"), where / "quarantine" / f"{path.stem}-{byte}.tmp"]
    temporaries[1].parent.mkdir()
    for temporary in temporaries:
        temporary.write_bytes(b"half of it")
    cut = the_cut(records_in(where))
    assert quarantine(where) == {cut.kept_as: data[byte:-5]}
    assert [path.name for path in (where / "log").iterdir()] == [FIRST_NAME]


def test_nothing_in_quarantine_is_overwritten(where):
    data = sample(where, closed=False)
    path = segment_of(where)
    byte = commits_in(data)[1][-1].start
    kept = []
    for cut in (5, 6, 7):
        path.write_bytes(data[:-cut])
        kept.append(the_cut(records_in(where)).kept_as)
    name = f"quarantine/{path.stem}-{byte}"
    assert kept == [name, f"{name}.1", f"{name}.2"]
    assert quarantine(where) == {name: data[byte:-5], f"{name}.1": data[byte:-6], f"{name}.2": data[byte:-7]}


class Steps:
    """The calls by which files change, in order, by what they are done to; the one whose number is `fails` fails."""

    NAMES = ("open", "write", "fsync", "fdatasync", "rename", "mkdir", "unlink", "ftruncate", "pwrite")

    def __init__(self, patch: pytest.MonkeyPatch, fails: int = 0) -> None:
        self.fails = fails
        self.failed = ""
        self.done: list[tuple[str, int | str]] = []
        for name in self.NAMES:
            patch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real):
        def call(target, *args, **options):
            self.fails -= 1
            if self.fails == 0:
                self.failed = name
                raise OSError(5, "Input/output error")
            if isinstance(target, int):
                self.done.append((name, os.fstat(target).st_ino))
            else:
                self.done.append((name, Path(args[0] if name == "rename" else target).name))
            return real(target, *args, **options)

        return call


def test_a_crash_at_any_step_of_a_recovery(where, tmp_path, monkeypatch):
    data = sample(tmp_path / "whole", closed=False)[:-5]
    records = reading(data, tmp_path / "copy")[:-1]
    byte = commits_in(sample(tmp_path / "again", closed=False))[1][-1].start
    failures = set()
    for fails in range(1, 100):
        place(where, data)
        with monkeypatch.context() as patch:
            steps = Steps(patch, fails)
            try:
                records_in(where)
            except OSError as error:
                assert error.errno == 5, error  # noqa: PT017 - it may also work
        if not steps.failed:
            break
        failures.add(steps.failed)
        assert records_in(where)[:-1] == records
        assert records_in(where)[:-1] == records
        cut = the_cut(records_in(where))
        assert (cut.byte, cut.length) == (byte, len(data) - byte)
        assert set(quarantine(where).values()) == {data[byte:]}
        assert sum(isinstance(record.event, TailCut) for record in records_in(where)) == 1
        shutil.rmtree(where)
    assert failures == {"open", "write", "fsync", "fdatasync", "rename", "mkdir", "unlink", "ftruncate", "pwrite"}
    assert 15 < fails < 99, "it must have come to an end, and not at once"


def test_a_crash_at_any_step_of_the_first_opening(where, monkeypatch):
    for fails in range(1, 100):
        with monkeypatch.context() as patch:
            steps = Steps(patch, fails)
            try:
                records_in(where)
            except OSError as error:
                assert error.errno == 5, error  # noqa: PT017 - it may also work
        if not steps.failed:
            break
        log, records = opened(where)
        assert records == []
        put(log, added("a"))
        log.abandon()
        assert [record.seq for record in records_in(where)] == [1]
        shutil.rmtree(where)
    assert 8 < fails < 99


def steps_of_opening(where: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | str]]:
    with monkeypatch.context() as patch:
        steps = Steps(patch)
        records_in(where)
    return steps.done


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_what_a_first_opening_makes_is_synced_with_its_directories(where, monkeypatch):
    done = steps_of_opening(where, monkeypatch)
    path = segment_of(where)
    made = done.index(("mkdir", "queue"))
    assert ("fsync", inode(where.parent)) in done[made:]
    made = done.index(("mkdir", "log"))
    assert ("fsync", inode(where)) in done[made:]
    named = done.index(("rename", FIRST_NAME))
    assert ("fdatasync", inode(path)) in done[:named], "its bytes are on the disk before it has its name"
    assert ("fsync", inode(path.parent)) in done[named:], "and then its name is"


def test_what_a_recovery_makes_is_synced_in_order(where, monkeypatch):
    data = sample(where, closed=False)
    segment_of(where).write_bytes(data[:-5])
    done = steps_of_opening(where, monkeypatch)
    (kept,) = (where / "quarantine").iterdir()
    named = done.index(("rename", kept.name))
    assert ("fdatasync", inode(kept)) in done[:named]
    cut = done.index(("rename", FIRST_NAME))
    between = done[named:cut]
    assert ("fsync", inode(kept.parent)) in between, "the bytes are safe in quarantine before they are cut"
    assert ("fsync", inode(where)) in between, "and so is the name of the quarantine"
    assert ("fdatasync", inode(segment_of(where))) in done[:cut]
    assert ("fsync", inode(segment_of(where).parent)) in done[cut:]


def test_a_tail_that_shrinks_while_it_is_copied(where, monkeypatch):
    data = sample(where, closed=False)

    def shrinks(path: str, flags: int, *args, real=os.open) -> int:
        if str(path).endswith(".tmp"):
            os.truncate(segment_of(where), 100)
        return real(path, flags, *args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", shrinks)
        with pytest.raises(KharonError, match="another program writes to it"):
            records_in(where)
    assert segment_of(where).read_bytes() == data[:100]


def test_a_large_tail_is_copied_whole(where):
    log, _ = opened(where)
    for number in range(4):
        put(log, added(f"t{number}", b'"%b"' % (b"x" * 900_000)))
    log.abandon()
    data = segment_of(where).read_bytes()
    assert len(data) > 3 << 20
    assert [record.event.id for record in records_in(where)] == ["t0", "t1", "t2", "t3"]
    assert segment_of(where).read_bytes() == data


def test_opening_a_damaged_log_twice_says_the_same(where):
    data = bytearray(sample(where, closed=True))
    data[len(data) // 2] ^= 1
    segment_of(where).write_bytes(data)
    said = []
    for _ in range(2):
        with pytest.raises(CorruptLog, match="Nothing was changed: restore the file from a copy") as caught:
            records_in(where)
        said.append((caught.value.file, caught.value.line, caught.value.byte))
    start = data.rindex(b"\n", 0, len(data) // 2) + 1
    assert said == [(str(segment_of(where)), data.count(b"\n", 0, start) + 1, start)] * 2
    assert segment_of(where).read_bytes() == data


def test_the_sample_is_what_these_tests_take_it_for(where):
    log = DirectoryLog(where)
    assert list(log.open(NOW)) == []
    log.abandon()
    header, commits, durable = commits_in(sample(where.with_name("sample"), closed=False))
    assert header > 200
    assert [(commit.first, commit.last) for commit in commits] == [(1, 1), (2, 4), (5, 5), (6, 6), (7, 8)]
    assert durable == 5, "6 to 8 were written together, after 5 was safe"
