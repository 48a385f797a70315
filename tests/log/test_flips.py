"""Every bit of a small queue's directory flipped, every file cut at every length, and its lines and files rearranged.

The directory has all that one can have: sealed segments, two snapshots, a tail, a lock, a reserve, bytes in quarantine.
What must come of each change is derived from the change and the bytes of the whole directory, read as plain JSON, and
compared with what opening does (on a disk in memory) and with what `kharon.verify` says (on a real one):

- refused: `CorruptLog` names the file, the line and the byte, and nothing was changed;
- cut: exactly the commits in front of the damage are there, the rest is in quarantine, and no line that is left had
  said that it was on disk;
- shorter: whole commits are gone from the end and nothing is left of them, which no log can notice by itself;
- passed over: a snapshot is not what it was; a warning says so, and the state is what it was;
- unread: opening does not look there, and the state is what it was. If it is in the log or in a snapshot, `verify`
  says what opening did not look at.

`KHARON_FLIP_BYTES` says how large the directory is to be.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
import logging
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from log_steps import added, moment, put
from msgspec import Raw
from simulated_files import SimulatedFiles

import kharon
from kharon.errors import CorruptLog
from kharon.log.directory import DirectoryLog
from kharon.log.record import Record
from kharon.log.snapshot import take
from kharon.model.events import LeaseExtended, TailCut, TicketClaimed, TicketDeleted, TicketDone
from kharon.model.projection import Projection

WHERE = Path("/q")
BYTES = int(os.environ.get("KHARON_FLIP_BYTES", "4096"))
PARTS = 8
"""Into how many tests the flips of one directory are divided, so that several processes can share them."""
KINDS = ("killed", "closed", "bare")
ALL_BITS = KINDS if "KHARON_FLIP_BYTES" in os.environ else ("killed",)
"""Of the others one bit of each byte is flipped, in turn: they differ from it in two segments only."""
RESERVE_BYTES = 64

Contents = dict[str, bytes]


# --- the directory ----------------------------------------------------------------------------------------------------


class Whole(NamedTuple):
    """A directory, and what it was before.

    Attributes:
        contents: its files, by their paths in it.
        older: what each file held before, as often as it was different.
        records: what its log gives.
    """

    contents: Contents
    older: dict[str, set[bytes]]
    records: list[Record]


def contents_of(files: SimulatedFiles) -> Contents:
    found = {
        path.removeprefix("/q/"): data for path, data in files.contents() if path.startswith("/q/") and data != b"/"
    }
    return found | {"LOCK": b"4711\n"}  # the simulated lock writes nothing, and is no part of a state


def disk(contents: Mapping[str, bytes]) -> SimulatedFiles:
    return SimulatedFiles.holding({f"q/{path}": data for path, data in contents.items()})


class Life:
    """A queue from its first opening on; after each step it remembers what every file held."""

    def __init__(self) -> None:
        self.files = SimulatedFiles.holding({})
        self.older: dict[str, set[bytes]] = collections.defaultdict(set)
        self.log = self.open()
        self.count = 0

    def open(self, segment_bytes: int = 8 << 20) -> DirectoryLog:
        log = DirectoryLog(WHERE, segment_bytes, self.files, reserve_bytes=RESERVE_BYTES)
        log.load_snapshot()
        list(log.open(moment(0)))
        return log

    def again(self, segment_bytes: int = 8 << 20) -> None:
        """The process dies, and another one opens the queue; with `segment_bytes` of 1 each write ends a segment."""
        self.remember()
        self.log.abandon()
        self.files = self.files.killed()
        self.log = self.open(segment_bytes)
        self.remember()

    def remember(self) -> None:
        for path, data in contents_of(self.files).items():
            self.older[path].add(data)

    def put(self, *events: object) -> None:
        self.count += 1
        put(self.log, *events, at=self.count)
        self.remember()

    def tear(self) -> None:
        """The last write was cut off in its middle."""
        contents = contents_of(self.files)
        tail = max(path for path in contents if path.startswith("log/"))
        self.log.abandon()
        self.files = disk(contents | {tail: contents[tail][:-20]})


def live(kind: str, size: int) -> Whole:
    """Make a directory of at least `size` bytes; `more` is how often its parts are repeated."""
    for more in itertools.count(1):
        life = Life()
        life.put(added("a", b'[{"hash":"no"},"J\\u00f6rg"]'))
        life.log.append([added("torn")], moment(2), "ann")
        life.log.write()
        life.tear()
        life.again(segment_bytes=1)
        for _ in range(more):
            life.put(TicketClaimed("a", 1, moment(9), "w"))
        take(WHERE, life.files)
        for _ in range(more):
            life.put(LeaseExtended("a", moment(19)))
        take(WHERE, life.files)
        life.put(TicketDone("a", True, Raw(b"{}")))
        if kind == "bare":
            life.remember()
            contents = contents_of(life.files)
            *_, ended, _tail = sorted(path for path in contents if path.startswith("log/"))
            contents[ended] = contents[ended][:-100]  # the crash came in the middle of the seal
        else:
            life.again()
            for number in range(2 * more - 1):
                life.put(added(f"c{number}"))
            life.log.append([added("d")], moment(99), "ann")  # these two: written together, and vouched for by nobody
            life.log.append([TicketDeleted("d"), TicketDeleted("a")], moment(99), "ann")
            life.log.write()
            life.log.sync()
            life.remember()
            if kind == "closed":
                life.log.close(moment(100))
            contents = contents_of(life.files)
        if sum(map(len, contents.values())) >= size:
            older = {path: data - {contents[path]} for path, data in life.older.items() if path in contents}
            return Whole(contents, older, records_of(contents))
    raise AssertionError


def records_of(contents: Contents) -> list[Record]:
    """What the whole log gives, without its snapshots."""
    log = DirectoryLog(WHERE, files=disk(contents))
    records = list(log.open(moment(200)))
    log.abandon()
    return records


@functools.cache
def whole(kind: str) -> Whole:
    return live(kind, BYTES)


# --- what should come of a change -------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A line of the whole log: where it stands, and the first seq of the commit that it belongs to."""

    start: int
    end: int
    fields: dict[str, object]
    commit: int


@functools.cache
def lines_of(kind: str, path: str) -> list[Line]:
    lines, byte, commit = [], 0, 0
    for line in whole(kind).contents[path].splitlines(keepends=True):
        fields = fields_of(line)
        if "part" in fields and fields["part"][0] == 1:
            commit = fields["seq"]
        lines.append(Line(byte, byte + len(line), fields, commit))
        byte += len(line)
    return lines


def fields_of(line: bytes) -> dict[str, object]:
    """The fields of a line; none if it is torn."""
    try:
        return json.loads(line)
    except ValueError:
        return {}


def segments_of(contents: Mapping[str, bytes]) -> list[str]:
    return sorted(path for path in contents if path.startswith("log/"))


def snapshots_of(contents: Mapping[str, bytes]) -> list[str]:
    return sorted((path for path in contents if path.startswith("snapshots/")), reverse=True)


def segment_behind(snapshot: str) -> str:
    return f"log/{int(Path(snapshot).stem) + 1:020}.jsonl"


def header_of(data: bytes | None) -> bytes | None:
    return None if data is None else data[: data.find(b"\n") + 1]


class Verdict(NamedTuple):
    """What should come of a directory.

    Attributes:
        outcome: the word that is counted.
        damage: the file, the line and the byte that a refusal names.
        seq: how far the records go that are kept.
        cut: where in the last segment the bytes begin that are moved to quarantine; None: none are.
    """

    outcome: str
    damage: tuple[str, int, int] = ("", 0, 0)
    seq: int = 0
    cut: int | None = None


SEAL_BYTES = 92 + len('"sealed":,"next":""}\n') + 64


def vouches(data: bytes, first: int) -> bool:
    """Whether a line that its own crc vouches for says that the record `first` had been on disk."""
    for found in re.finditer(rb'\{"hash":"(?=.{64}","crc":"[0-9a-f]{8}",)', data, re.DOTALL):
        line = data[found.start() : data.find(b"\n", found.start()) + 1]
        if line[82:90] == b"%08x" % zlib.crc32(line[92:-1]):
            fields = fields_of(line)
            if max(fields.get("durable", 0), fields.get("sealed", 0)) >= first:
                return True
    return False


def first_difference(now: bytes, was: bytes) -> int:
    low, high = 0, min(len(now), len(was))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if now[:middle] == was[:middle] else (low, middle - 1)
    return low


def judged(kind: str, contents: Mapping[str, bytes], begin: str = "") -> Verdict:
    """What should come of the segments from `begin` on: of all for `verify`, for opening of those behind a snapshot."""
    original = whole(kind).contents
    paths = [path for path in segments_of(original) if path >= begin]
    for path, following in itertools.zip_longest(paths, paths[1:]):
        if contents.get(path) != original[path]:
            verdict = judged_segment(kind, path, following, contents.get(path))
            if verdict is not None:
                return verdict
    return Verdict("whole", seq=whole(kind).records[-1].seq)


def judged_segment(kind: str, path: str, following: str | None, now: bytes | None) -> Verdict | None:
    """What should come of a log because of this segment, which is not what it was; None: nothing."""
    contents, last = whole(kind).contents, whole(kind).records[-1].seq
    lines, was = lines_of(kind, path), contents[path]
    torn = kind == "bare" and following == segments_of(contents)[-1]
    before = segments_of(contents).index(path) - 1
    if now is None and following is not None:
        return Verdict("refused", (following, 1, 0))
    if now is None:  # the segment in front of it is sealed; or if it is not, it is the last one now
        previous = segments_of(contents)[before]
        seal = lines_of(kind, previous)[-1].start
        return Verdict("cut", seq=last, cut=seal) if kind == "bare" else Verdict("refused", (previous, 0, 0))
    byte = first_difference(now, was)
    number = next((index for index, line in enumerate(lines) if byte < line.end), len(lines))
    if number == len(lines) and not was.endswith(b"\n"):
        number -= 1  # what stands behind an unfinished line belongs to it
    start = lines[number].start if number < len(lines) else len(was)
    damage = (path, number + 1, start)
    if following is not None:
        if torn and number == len(lines) - 1 and len(now) - start <= SEAL_BYTES + len(str(last)):
            return None  # the records are whole, and only the seal is wrong
        ends_early = len(now) == start and 0 < number < len(lines) - 1
        if ends_early and lines[number].fields["part"][0] == 1:
            damage = (following, 1, 0)  # whole commits are missing, which shows where the next ones begin
        return Verdict("refused", damage)
    if number == 0:
        return Verdict("refused", damage)
    if kind == "bare":  # the segment in front of it is not sealed, which only a bare header behind it excuses
        previous = segments_of(contents)[before]
        seal = len(lines_of(kind, previous)) - 1
        return Verdict("refused", (previous, seal + 1, lines_of(kind, previous)[seal].start))
    # The commit that should stand there; behind the last one, the next that would have been written.
    commit = lines[number].commit if number < len(lines) else last + 1
    if vouches(now[start:], commit):
        return Verdict("refused", damage)
    begins = next((line.start for line in lines if line.commit == commit), len(was))
    if len(now) == begins:
        return Verdict("shorter", seq=commit - 1)
    return Verdict("cut", seq=commit - 1, cut=begins)


def usable(kind: str, contents: Mapping[str, bytes], path: str) -> bool:
    """Whether a snapshot is what it was, and the segment behind it still says that it follows."""
    original, behind = whole(kind).contents, segment_behind(path)
    same = contents[path] == original.get(path)
    return same and header_of(contents.get(behind)) == header_of(original[behind])


# --- what comes of it -------------------------------------------------------------------------------------------------


class Warnings(logging.Filter):
    """What Kharon warned of. A filter, since a handler would leave pytest's own at work, thousands of times."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.said.append(record.getMessage())
        return False

    def about_snapshots(self) -> list[str]:
        """The files that opening passed over, under the queue's directory."""
        passed = "snapshot passed over: /q/"
        return [said.removeprefix(passed).split(", line")[0] for said in self.said if said.startswith(passed)]


@pytest.fixture
def warnings():
    said, logger = Warnings(), logging.getLogger("kharon")
    logger.addFilter(said)
    yield said
    logger.removeFilter(said)


@functools.cache
def state_at(kind: str, seq: int) -> Projection:
    return Projection().fold(record for record in whole(kind).records if record.seq <= seq)


class Trial:
    """Opens and verifies changed directories, compares what comes of it with what should, and counts."""

    def __init__(self, kind: str, tmp_path: Path, warnings: Warnings) -> None:
        self.kind = kind
        self.original = whole(kind).contents
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._where = tmp_path / "q"
        self._warnings = warnings
        self._held: dict[str, int] = {}
        for path, data in self.original.items():
            (self._where / path).parent.mkdir(parents=True, exist_ok=True)
            self._held[path] = os.open(self._where / path, os.O_RDWR | os.O_CREAT)
            os.pwrite(self._held[path], data, 0)

    def try_(self, changes: Mapping[str, bytes | None], what: str) -> None:
        """Try the directory with these files changed, or gone; `what` names the change if it goes wrong."""
        contents = {path: data for path, data in (self.original | changes).items() if data is not None}
        try:
            self.counts[self._opens(contents), self._verifies(changes, contents)] += 1
        except Exception as error:
            raise AssertionError(f"{self.kind}, {what}") from error

    def _opens(self, contents: Contents) -> str:
        files, passed, base = disk(contents), [], 0
        begin = segments_of(self.original)[0]
        for path in snapshots_of(contents):
            if usable(self.kind, contents, path):
                begin, base = segment_behind(path), int(Path(path).stem)
                break
            passed.append(path)
        verdict = judged(self.kind, contents, begin)
        self._warnings.said.clear()
        if verdict.outcome == "refused":
            before = files.contents()
            with pytest.raises(CorruptLog) as caught:
                self._replayed(files, base)
            path, line, byte = verdict.damage
            assert (caught.value.file, caught.value.line, caught.value.byte) == (str(WHERE / path), line, byte)
            assert files.contents() == before, "nothing was changed"
        else:
            projection, records = self._replayed(files, base)
            if verdict.cut is not None:
                assert self._replayed(files, base) == (projection, records), "the second time there is nothing to cut"
                self._check_cut(files, contents, verdict.cut, records.pop())
            assert records == [record for record in whole(self.kind).records if base < record.seq <= verdict.seq]
            assert projection.tickets == state_at(self.kind, verdict.seq).tickets
        often = 2 if verdict.cut is not None else 1  # it was opened twice then
        assert self._warnings.about_snapshots() == passed * often
        if verdict.outcome != "whole":
            return verdict.outcome
        return "passed over" if passed else "unread"

    def _replayed(self, files: SimulatedFiles, base: int) -> tuple[Projection, list[Record]]:
        """What the store does when a queue is opened, and what was read for it. The process dies then."""
        projection = Projection()
        log = DirectoryLog(WHERE, files=files, reserve_bytes=RESERVE_BYTES)
        try:
            snapshot = log.load_snapshot()
            assert (snapshot.seq if snapshot else 0) == base
            if snapshot is not None:
                projection.load(snapshot.tickets, snapshot.seq, snapshot.at, snapshot.others)
            records = list(log.open(moment(200)))
        finally:
            log.abandon()
        return projection.fold(records), records

    def _check_cut(self, files: SimulatedFiles, contents: Contents, byte: int, record: Record) -> None:
        path = segments_of(contents)[-1]
        event = record.event
        assert isinstance(event, TailCut)
        assert (event.file, event.byte, event.length) == (path, byte, len(contents[path]) - byte)
        after = contents_of(files)
        assert after[event.kept_as] == contents[path][byte:]
        assert after[path].startswith(contents[path][:byte])

    def _verifies(self, changes: Mapping[str, bytes | None], contents: Contents) -> str:
        """What `kharon.verify` says, on a real disk, on which this directory stands meanwhile."""
        for path, data in changes.items():
            self._place(path, data)
        verdict = judged(self.kind, contents)
        try:
            if verdict.outcome == "refused":
                with pytest.raises(CorruptLog) as caught:
                    kharon.verify(self._where)
                path, line, byte = verdict.damage
                assert (caught.value.file, caught.value.line, caught.value.byte) == (
                    str(self._where / path),
                    line,
                    byte,
                )
                return "refused"
            report = kharon.verify(self._where)
        finally:
            for path in changes:
                self._place(path, self.original[path])
        assert report.last == verdict.seq
        assert report.hash == whole(self.kind).records[verdict.seq - 1].hash
        if verdict.cut is not None:
            assert report.unfinished == len(contents[segments_of(contents)[-1]]) - verdict.cut
        altered = sorted(path for path in snapshots_of(contents) if contents[path] != self.original[path])
        assert [bad.split("/q/")[1].split(":")[0].split(",")[0] for bad in report.bad_snapshots] == altered
        assert report.snapshots == len(snapshots_of(contents)) - len(altered)
        return "bad snapshot" if altered else verdict.outcome

    def _place(self, path: str, data: bytes | None) -> None:
        """Make a file hold these bytes, or be gone, without opening it anew: that costs more than all else."""
        here, aside = self._where / path, self._where.parent / "aside"
        if data is None:
            here.rename(aside)
            return
        if aside.exists():
            aside.rename(here)
        held = self._held[path]
        os.pwrite(held, data, 0)
        if os.fstat(held).st_size != len(data):
            os.ftruncate(held, len(data))

    def close(self) -> None:
        for held in self._held.values():
            os.close(held)


@pytest.fixture(params=KINDS)
def trial(request, tmp_path, warnings):
    trial = Trial(request.param, tmp_path, warnings)
    yield trial
    trial.close()


def totals(counts: Mapping[tuple[str, str], int], record_property) -> int:
    """Say what came of it, and return how many there were."""
    for (opened, verified), count in sorted(counts.items()):
        record_property(f"opening: {opened}; verifying: {verified}", count)
    return sum(counts.values())


def vouched_bytes(kind: str) -> int:
    """How many bytes of the last segment belong to its header or to a commit that a later line vouches for."""
    path = segments_of(whole(kind).contents)[-1]
    lines = lines_of(kind, path)
    durable = max(line.fields.get("durable", 0) for line in lines)
    return max(line.end for line in lines if line.commit <= durable)


def regions(kind: str) -> dict[str, list[tuple[int, tuple[str, str]]]]:
    """By place alone, what comes of damage: of each file, up to which byte what comes of it."""
    contents = whole(kind).contents
    segments, snapshots = segments_of(contents), snapshots_of(contents)
    size = {path: len(data) for path, data in contents.items()}
    expected = {path: [(size[path], ("unread", "whole"))] for path in contents}
    expected[snapshots[0]] = [(size[snapshots[0]], ("passed over", "bad snapshot"))]
    expected[snapshots[1]] = [(size[snapshots[1]], ("unread", "bad snapshot"))]
    for path in segments:
        unread = path < segment_behind(snapshots[0])
        expected[path] = [(size[path], ("unread" if unread else "refused", "refused"))]
    tail, vouched = segments[-1], vouched_bytes(kind)
    expected[tail] = [(vouched, ("refused", "refused")), (size[tail], ("cut", "cut"))]
    if kind == "bare":
        ended = segments[-2]
        expected[ended] = [
            (lines_of(kind, ended)[-1].start, ("refused", "refused")),
            (size[ended], ("unread", "whole")),
        ]
    return expected


# --- the trials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_directory_has_all_that_one_can_have(kind):
    contents, older, records = whole(kind)
    assert sum(map(len, contents.values())) >= BYTES
    segments, snapshots = segments_of(contents), snapshots_of(contents)
    others = sorted(set(contents) - {*segments, *snapshots})
    assert len(segments) >= 4
    assert len(snapshots) == 2
    assert [path.split("/")[0] for path in others] == ["LOCK", "begun", "quarantine", "reserve"]
    assert segments[0] < segment_behind(snapshots[1]) < segment_behind(snapshots[0]) < segments[-1]
    assert all(lines_of(kind, path)[-1].fields.get("sealed") for path in segments[:-2])
    assert (lines_of(kind, segments[-2])[-1].fields == {}) == (kind == "bare")
    assert (len(lines_of(kind, segments[-1])) == 1) == (kind == "bare")
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert older[segments[0]], "it was torn, recovered, and sealed"
    if kind == "killed":
        assert len(contents[segments[-1]]) - vouched_bytes(kind) > 500, "the last two commits"


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(PARTS))
def test_every_bit_flipped(trial, part, record_property):
    expected: collections.Counter[tuple[str, str]] = collections.Counter()
    places = regions(trial.kind)
    flips = 0
    for path, data in trial.original.items():
        for byte in range(part, len(data), PARTS):
            bits = range(8) if trial.kind in ALL_BITS else (byte // PARTS % 8,)
            for bit in bits:
                flipped = bytearray(data)
                flipped[byte] ^= 1 << bit
                trial.try_({path: bytes(flipped)}, f"bit {bit} of byte {byte} of {path}")
                flips += 1
            expected[next(outcome for end, outcome in places[path] if byte < end)] += len(bits)
    assert trial.counts == expected
    assert totals(trial.counts, record_property) == flips


@pytest.mark.campaign
def test_every_length(trial, record_property):
    lengths = 0
    for path, data in trial.original.items():
        for length in range(len(data)):
            trial.try_({path: data[:length]}, f"{path} cut to {length} bytes")
        lengths += len(data)
    assert totals(trial.counts, record_property) == lengths
    tail = segments_of(trial.original)[-1]
    commits = len({line.commit for line in lines_of(trial.kind, tail)[1:]})
    header = lines_of(trial.kind, tail)[0].end
    assert trial.counts["shorter", "shorter"] == commits
    assert trial.counts["cut", "cut"] == len(trial.original[tail]) - header - commits


def test_every_file_removed(trial, record_property):
    for path in trial.original:
        trial.try_({path: None}, f"{path} removed")
    assert totals(trial.counts, record_property) == len(trial.original)


def test_every_two_files_exchanged(trial, record_property):
    pairs = list(itertools.combinations(trial.original, 2))
    for one, other in pairs:
        changes = {one: trial.original[other], other: trial.original[one]}
        trial.try_(changes, f"{one} and {other} exchanged")
    assert totals(trial.counts, record_property) == len(pairs)


def test_every_file_replaced_with_an_older_version_of_itself(trial, record_property):
    versions = [(path, data) for path, older in whole(trial.kind).older.items() for data in sorted(older)]
    for path, data in versions:
        trial.try_({path: data}, f"{path} as it was with {len(data)} bytes")
    assert totals(trial.counts, record_property) == len(versions) > 5


def lines_in(trial: Trial) -> Iterator[tuple[str, int]]:
    """Every line of the log and of the snapshots."""
    for path in (*segments_of(trial.original), *snapshots_of(trial.original)):
        for number in range(trial.original[path].count(b"\n")):
            yield path, number


def test_every_line_dropped_and_doubled(trial, record_property):
    places = list(lines_in(trial))
    for path, number in places:
        lines = trial.original[path].splitlines(keepends=True)
        trial.try_({path: b"".join(lines[:number] + lines[number + 1 :])}, f"line {number} of {path} dropped")
        trial.try_({path: b"".join(lines[: number + 1] + lines[number:])}, f"line {number} of {path} doubled")
    assert totals(trial.counts, record_property) == 2 * len(places)


def test_every_two_lines_swapped(trial, record_property):
    """Within a file, and across files."""
    pairs = list(itertools.combinations(lines_in(trial), 2))
    for (path, number), (other_path, other_number) in pairs:
        lines = {each: trial.original[each].splitlines(keepends=True) for each in (path, other_path)}
        one, other = lines[path][number], lines[other_path][other_number]
        lines[path][number], lines[other_path][other_number] = other, one
        changes = {each: b"".join(changed) for each, changed in lines.items()}
        trial.try_(changes, f"line {number} of {path} and line {other_number} of {other_path} swapped")
    assert totals(trial.counts, record_property) == len(pairs)
