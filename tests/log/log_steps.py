"""What the tests of the log share: records to append, lines sealed by other means than the log's own, sample logs."""

from __future__ import annotations

import hashlib
import json
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import Raw

from kharon.log.directory import DirectoryLog
from kharon.log.record import Chain, Record
from kharon.log.retention import Retention
from kharon.log.snapshot import Snapshot, read_snapshot
from kharon.model.events import LogClosed, TicketAdded, TicketClaimed, TicketDeleted, TicketDone
from kharon.model.projection import Projection

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ZEROS = "0" * 64
FIRST_NAME = "00000000000000000001.jsonl"


def moment(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def added(id: str, payload: bytes = b"null") -> TicketAdded:
    return TicketAdded(id, "type", Raw(payload), "default", 512, NOW)


def seal(body: bytes, previous: str = ZEROS) -> bytes:
    """The line around a body (closing brace included), as the document of the format has it."""
    hash = hashlib.sha256(previous.encode("ascii") + body).hexdigest()
    return f'{{"hash":"{hash}","crc":"{zlib.crc32(body):08x}",'.encode() + body + b"\n"


def hash_of(line: bytes) -> str:
    return line[9:73].decode()


def record_body(**fields: object) -> bytes:
    """The body of a record that deletes the ticket "a", unless told otherwise."""
    values = {"seq": 1, "durable": 0, "part": [1, 1], "at": "2026-01-01T00:00:00Z", "v": 1, "event": "TicketDeleted"}
    values |= {"by": "ann", "id": "a"} | fields
    return json.dumps(values, separators=(",", ":"))[1:].encode()


def header_body(**fields: object) -> bytes:
    values: dict[str, object] = {"format": "kharon-log", "version": 1, "log": "f" * 32, "first": 1}
    values |= {"previous": ZEROS, "at": "2026-01-01T00:00:00Z"} | fields
    return json.dumps(values, separators=(",", ":"))[1:].encode()


def chained(*bodies: bytes, previous: str = ZEROS) -> bytes:
    """Lines, each following from the one before."""
    lines = []
    for body in bodies:
        lines.append(seal(body, previous))
        previous = hash_of(lines[-1])
    return b"".join(lines)


def segment_of(where: Path) -> Path:
    """The only segment of a queue's directory."""
    (path,) = (where / "log").glob("*.jsonl")
    return path


def place(where: Path, data: bytes) -> Path:
    """Make a queue's directory that holds one segment with these bytes."""
    (where / "log").mkdir(parents=True)
    (where / "log" / FIRST_NAME).write_bytes(data)
    return where


def two_segments(where: Path) -> tuple[Path, Path]:
    """A log of two segments of two records each, the last of them LogClosed."""
    chain = Chain()
    first = chain.header("e" * 32, NOW) + b"".join(chain.commit([added("a"), added("b")], NOW, "ann", 0))
    last = chain.hash
    second = chain.header("e" * 32, NOW)
    first += seal(f'"sealed":2,"next":"{chain.hash}"}}'.encode(), last)
    second += b"".join(chain.commit([added("c")], NOW, "ann", 2) + chain.commit([LogClosed()], NOW, "clock", 3))
    place(where, first)
    one, two = where / "log" / FIRST_NAME, where / "log" / f"{3:020}.jsonl"
    two.write_bytes(second)
    return one, two


def put(log: DirectoryLog, *events: object, at: float = 0, by: str = "ann") -> None:
    """Append one commit, write and sync it."""
    log.append(events, moment(at), by)  # type: ignore[arg-type]
    log.write()
    log.sync()


def fill(log: DirectoryLog) -> None:
    """Append commits of one and of several records; the last two are written together, and vouched for by nobody."""
    put(log, added("a", b'{"to":"J\\u00f6rg"}'), at=1)
    put(log, added("b"), TicketClaimed("a", 1, moment(32), "w1"), TicketDeleted("b"), at=2, by="w1")
    put(log, TicketDone("a", result_json=Raw(b'{"hash":"no"}')), at=3, by="w1")
    log.append([added("c")], moment(4), "ann")
    log.append([added("d"), added("e")], moment(5), "ann")
    log.write()
    log.sync()


def sample(where: Path, *, closed: bool) -> bytes:
    """The bytes of a log's only segment, filled, and closed or abandoned."""
    log = DirectoryLog(where)
    list(log.open(NOW))
    fill(log)
    if closed:
        log.close(moment(6))
    log.abandon()
    return segment_of(where).read_bytes()


def opened(where: Path, at: float = 100) -> tuple[DirectoryLog, list[Record]]:
    """Open a log that may be damaged; give up its place if it is refused."""
    log = DirectoryLog(where)
    try:
        return log, list(log.open(moment(at)))
    except BaseException:
        log.abandon()
        raise


def load(log: DirectoryLog, now: datetime = NOW) -> Projection:
    """Open a log as a store does: from the newest snapshot that is usable."""
    projection = Projection()
    if (snapshot := log.load_snapshot()) is not None:
        projection.load(snapshot.tickets, snapshot.seq, snapshot.at, snapshot.others)
    return projection.fold(log.open(now))


def snapshot_in(path: Path) -> Snapshot:
    """What a snapshot's file holds."""
    with path.open("rb") as file:
        return read_snapshot(file, str(path))


def always(_upto: int) -> bool:
    """Anything may be trimmed."""
    return True


def carry_out(log: DirectoryLog, retention: Retention, steps: int = 999, *, at: float = 100) -> list[str]:
    """Do what is to be done with old segments, as the keeper does, or so many steps of it; return what they were."""
    done = []
    while len(done) < steps and (step := retention.plan(moment(at))) is not None:
        put(log, retention.prepare(step), at=at, by="clock")
        retention.switch(step)
        retention.finish(step)
        done.append(step.action)
    return done


def read_from(log: DirectoryLog, after: int = 0) -> list[Record]:
    """What a reader gives of what is written."""
    reader = log.reader(after)
    try:
        return reader.read(1000, log.written)
    finally:
        reader.close()


def records_in(where: Path, at: float = 100) -> list[Record]:
    """What opening gives; the log is abandoned then."""
    log, records = opened(where, at)
    log.abandon()
    return records


class Commit:
    """One commit in the bytes of a segment, found by reading its lines as plain JSON."""

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.first = self.last = 0


def commits_in(data: bytes) -> tuple[int, list[Commit], int]:
    """Return the length of the header, the commits, and the highest seq that any line vouches for."""
    lines = data.splitlines(keepends=True)
    byte = header = len(lines[0])
    commits, durable, commit = [], 0, Commit(byte)
    for line in lines[1:]:
        fields = json.loads(line)
        byte += len(line)
        durable = max(durable, fields["durable"])
        commit.first, commit.last, commit.end = commit.first or fields["seq"], fields["seq"], byte
        if fields["part"][0] == fields["part"][1]:
            commits.append(commit)
            commit = Commit(byte)
    return header, commits, durable
