"""What is fuzzed, and what must hold of whatever comes in: the readers of lines, of snapshots, of directories.

Each target takes any bytes. It returns a word for what came of them, which is counted; or raises `Finding` if what
Kharon did is wrong, or whatever Kharon raised that it does not say it raises. It needs no fuzzer: `test_corpus.py`
gives it the inputs that are kept.

A directory is written as its files, one behind the other, each behind `@@<path>` and a newline.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import CodeType
from typing import Any, Final, Self

import msgspec
from msgspec import Raw
from simulated_files import SimulatedFiles

from kharon.errors import CorruptLog, InvalidTicket, KharonError, UnknownFormat
from kharon.log.directory import DirectoryLog, segments
from kharon.log.record import (
    GENESIS,
    BadLine,
    Chain,
    Record,
    check_line,
    parse_header,
    parse_record,
    parse_seal,
)
from kharon.log.repair import repair
from kharon.log.scan import LogScan
from kharon.log.snapshot import Snapshot, _lines, read_snapshot
from kharon.model.checks import MAX_DEPTH, MAX_LINE_BYTES, from_json
from kharon.model.events import Event, SegmentTrimmed, TailCut
from kharon.model.projection import Projection

__all__ = ["TARGETS", "Finding", "directory", "files_of", "line", "snapshot", "written"]

NOW: Final = datetime(2030, 1, 1, tzinfo=UTC)
WHERE: Final = Path("/q")
DOCUMENTED: Final = (CorruptLog, UnknownFormat, KharonError)
_LINE: Final = re.compile(rb'\{"hash":"(.{64})","crc":"([0-9a-f]{8})",(.*\})\n', re.DOTALL)
_FILE: Final = re.compile(rb"@@((?:log|snapshots|quarantine)/[0-9a-z][0-9a-z.-]{0,39}|LOCK|reserve|begun)\n")


class Finding(AssertionError):
    """What must hold does not."""


def must(holds: object, what: str) -> None:
    if not holds:
        raise Finding(what)


# --- a line -----------------------------------------------------------------------------------------------------------


def parts_of(line: bytes) -> tuple[bytes, bytes] | None:
    """The hash and the body of a line that its crc vouches for; by other means than Kharon's."""
    found = _LINE.fullmatch(line)
    if found is None or len(line) > MAX_LINE_BYTES or zlib.crc32(found[3]) != int(found[2], 16):
        return None
    if max(found[3]) > 127:
        return None
    return found[1], found[3]


def other_json(data: bytes) -> Any:
    """The value that another reader of JSON reads: Python's, without its limit of 4300 digits, which is not JSON's.

    A field that this version does not know may have a number of any length, and is passed over.
    """
    return json.loads(data, parse_int=lambda digits: int(digits[:4000]))


def follows(line: bytes, previous: bytes) -> bool:
    parts = parts_of(line)
    return parts is not None and hashlib.sha256(previous + parts[1]).hexdigest().encode() == parts[0]


def line(data: bytes) -> str:
    """The reader of lines: what is taken for a line is one, and what is read of it is what stands there."""
    raw = io.BytesIO(data).readline(MAX_LINE_BYTES + 1)
    try:
        hash = check_line(raw, None)
    except BadLine:
        must(parts_of(raw) is None, "a line that is whole was refused")
        return "no line"
    must(parts_of(raw) is not None, "what is no line was taken for one")
    try:
        check_line(raw, GENESIS)
    except BadLine:
        must(not follows(raw, GENESIS.encode()), "a hash that is right was refused")
    else:
        must(follows(raw, GENESIS.encode()), "a hash that is wrong was taken for right")
    outcomes = [_opened(open_, raw) for open_ in (_record, _header, _seal)]
    must(sum(outcome not in {"", "unknown"} for outcome in outcomes) <= 1, f"it is several things: {outcomes}")
    return next(filter(None, outcomes), "neither record, header nor seal") if hash else ""


def _opened(open_: Callable[[bytes], str], raw: bytes) -> str:
    try:
        return open_(raw)
    except BadLine:
        return ""
    except UnknownFormat:
        return "unknown"


def _record(raw: bytes) -> str:
    record = parse_record(raw, "h")
    must(parse_record(raw, "h") == record, "read twice, it is another record")
    body = raw[92:]
    must(body.isascii(), "a record that is not ASCII was taken")
    fields = other_json(b"{" + body)
    must(depth(fields) <= MAX_DEPTH + 2, "it is nested deeper than anything may be")
    same = (fields["seq"], fields["durable"], fields["part"], fields["event"], fields["by"])
    must(
        same == (record.seq, record.durable, list(record.part), type(record.event).__name__, record.by),
        "another reader of JSON reads something else",
    )
    chain = Chain(record.seq - 1)
    try:
        (again,) = chain.commit([record.event], record.at, record.by, record.durable)
    except InvalidTicket:
        must(len(raw) > MAX_LINE_BYTES // 8, "written again it has no room in a line")
        return "record"
    back = parse_record(again, "h")
    must((back.seq, back.at, back.by, back.durable) == (record.seq, record.at, record.by, record.durable), "place")
    must(_values(back.event) == _values(record.event), "written again and read back it is another event")
    return "record"


def depth(value: object) -> int:
    """How many lists and objects are inside one another."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


def _values(event: Event | msgspec.Struct) -> dict[str, object]:
    """The fields of an event, JSON as values. Each must be readable."""
    found: dict[str, object] = {"": type(event).__name__}
    for field in msgspec.structs.fields(event):
        value = getattr(event, field.name)
        if isinstance(value, Raw):
            value = from_json(value)
        elif isinstance(value, msgspec.Struct):
            value = _values(value)
        must(not isinstance(value, datetime) or value.utcoffset() is not None, f"{field.name} has no timezone")
        found[field.name] = value
    return found


def _header(raw: bytes) -> str:
    header = parse_header(raw, "h")
    must(parse_header(raw, "h") == header, "read twice, it is another header")
    must(header.at.utcoffset() is not None, "a header's time has no timezone")
    return "header"


def _seal(raw: bytes) -> str:
    seal = parse_seal(raw)
    must(parse_seal(raw) == seal, "read twice, it is another seal")
    return "seal"


# --- a snapshot -------------------------------------------------------------------------------------------------------


def snapshot(data: bytes) -> str:
    """The reader of snapshots: what is taken for one has a chain, and its tickets can be worked with."""
    try:
        found = read_snapshot(io.BytesIO(data), "snapshot")
    except CorruptLog as corrupt:
        must(0 <= corrupt.byte <= len(data), "the damage is said to be outside of the file")
        return "refused"
    except UnknownFormat:
        return "unknown"
    lines = data.splitlines(keepends=True) if b"\r" not in data else re.findall(rb"[^\n]*\n", data)
    previous = other_json(lines[0])["record"].encode()
    for each in lines:
        must(follows(each, previous), "a line does not follow from the one before it")
        previous = each[9:73]
    must(len(found.tickets) == len(lines) - 2, "lines were passed over")
    _check_state(found)
    again = read_snapshot(io.BytesIO(b"".join(_lines(found))), "again")
    must(again == found, "written again and read back it is another snapshot")
    return f"{min(len(found.tickets), 9)} tickets"


def _check_state(found: Snapshot) -> None:
    projection = Projection()
    projection.load(found.tickets, found.seq, found.at, found.others)
    must(len(projection.tickets) == len(found.tickets), "two tickets of one id")
    projection.check()
    projection.promote(NOW)
    projection.check()
    projection.promote(found.at)
    projection.check()
    for ticket in projection.tickets.values():
        repr(ticket), ticket.payload, ticket.result
        if ticket.successor is not None:
            repr(ticket.successor), ticket.successor.payload


# --- a directory ------------------------------------------------------------------------------------------------------


def files_of(data: bytes) -> dict[str, bytes]:
    """The files that bytes stand for, by their paths."""
    _, *parts = _FILE.split(data)
    return {path.decode(): content for path, content in zip(parts[::2], parts[1::2], strict=True)}


def written(contents: dict[str, bytes]) -> bytes:
    """The bytes that stand for files: the opposite of `files_of`."""
    return b"".join(b"@@%b\n%b" % (path.encode(), content) for path, content in contents.items())


def directory(data: bytes) -> str:
    """The reader of directories: refused with a reason and unchanged, or a chain; and opened again, the same."""
    contents = {f"q/{path}": content for path, content in files_of(data).items()}
    files = SimulatedFiles.holding(contents or {"q/LOCK": b""})
    before = files.contents()
    whole, verified, unfinished = _verified(files)
    if whole is None and not unfinished:
        _check_with_the_page(contents, verified)
    _repaired(files, damaged=isinstance(whole, CorruptLog))
    must(files.contents() - before <= {("/q/log", b"/")} and before <= files.contents(), "looking changed something")
    try:
        projection, records = _replayed(files)
    except DOCUMENTED as refused:
        must(type(refused) is KharonError or whole is not None, f"verified, and yet refused: {refused}")
        must(before <= files.contents() or type(refused) is KharonError, "it was refused, and changed")
        return f"refused: {type(refused).__name__}"
    _check_chain(files, records)
    _check_added(files, before, records, verified if whole is None else None)
    again, same = _replayed(files)
    must((again, same) == (projection, records), "opened again, it is another state")
    changed = files.contents()
    _replayed(files)
    must(files.contents() == changed, "opened a third time, it is changed again")
    whole, verified, _ = _verified(files)
    if whole is None:  # else what is in front of a snapshot is damaged, which opening does not look at
        must(len(verified) >= len(records), "fewer records than opening gave")
        must(verified[len(verified) - len(records) :] == records, "opening and verifying read something else")
    return "opened" if whole is None else "opened, and not whole"


def _verified(files: SimulatedFiles) -> tuple[KharonError | None, list[Record], bool]:
    """What verifying says: why the log is not whole, its records, and whether it ends with what is unfinished."""
    records: list[Record] = []
    nothing = KharonError("there is no log")
    try:
        if not segments(WHERE, files):
            return nothing, records, False
        reading = LogScan(lambda: segments(WHERE, files), files.read)
        records.extend(reading.records())
    except FileNotFoundError:
        return nothing, records, False
    except (CorruptLog, UnknownFormat) as error:
        return error, records, False
    unsealed = reading.before is not None and not reading.before.sealed
    return None, records, reading.broken is not None or unsealed


def _replayed(files: SimulatedFiles) -> tuple[Projection, list[Record]]:
    """Open a queue as the store does; the process dies then."""
    projection, records = Projection(), []
    log = DirectoryLog(WHERE, files=files, reserve_bytes=16)

    def seen() -> Iterator[Record]:
        for record in log.open(NOW):
            records.append(record)
            yield record

    try:
        found = log.load_snapshot()
        if found is not None:
            projection.load(found.tickets, found.seq, found.at, found.others)
        projection.promote(NOW)
        projection.fold(seen())
    finally:
        log.abandon()
    return projection, records


def _check_chain(files: SimulatedFiles, records: list[Record]) -> None:
    """The records stand in the files, one behind the other, each following from the line before it."""
    hashes = iter([record.hash.encode() for record in records])
    previous, awaited, found = None, next(hashes, None), 0
    for path in segments(WHERE, files):
        with files.read(path) as file:
            for raw in file:
                parts = parts_of(raw)
                if parts is not None and parts[0] == awaited:
                    must(
                        previous is not None and follows(raw, previous), "a record does not follow from the line before"
                    )
                    must(other_json(raw)["seq"] == records[found].seq == records[0].seq + found, "its seq is another")
                    awaited, found = next(hashes, None), found + 1
                if not raw.startswith(b'"sealed":', 92):
                    previous = parts[0] if parts is not None else None
    must(found == len(records), "records that are not in the files")


def _check_added(
    files: SimulatedFiles, before: frozenset[tuple[str, bytes]], records: list[Record], verified: list[Record] | None
) -> None:
    """Opening adds no record, or that it cut bytes which nothing vouched for."""
    new = {path for path, _ in files.contents()} - {path for path, _ in before}
    last = records[-1] if records else None
    cut = last is not None and isinstance(last.event, TailCut) and f"/q/{last.event.kept_as}" in new
    if verified is not None:
        known = records[:-1] if cut else records
        must(known == verified[len(verified) - len(known) :], "opening gives what verifying did not, or less")
        must(not known or not verified or known[-1] == verified[-1], "opening gives less than verifying did")
    if cut:
        with files.read(WHERE / last.event.kept_as) as file:
            must(not vouches(file.read(), last.seq), "what was cut had been on disk")


def vouches(data: bytes, first: int) -> bool:
    """Whether a line, not of the commit that begins at `first`, says that the record `first` was on disk."""
    for found in re.finditer(rb'\{"hash":"', data):
        raw = data[found.start() : data.find(b"\n", found.start()) + 1]
        parts = parts_of(raw)
        try:
            record = parse_record(raw, "h") if parts else None
        except (BadLine, UnknownFormat):
            continue
        if record is not None and record.durable >= first and record.seq - record.part[0] + 1 != first:
            return True
    return False


class _PathsInMemory:
    """What the verifier of the page on the format uses of `pathlib`, for files in memory."""

    def __init__(self, contents: dict[str, bytes], folder: str = "q") -> None:
        self._contents, self._folder = contents, folder

    def Path(self, folder: str) -> _PathsInMemory:  # noqa: N802 - as it is called there
        return _PathsInMemory(self._contents, folder)

    def __truediv__(self, name: str) -> _PathsInMemory:
        return _PathsInMemory(self._contents, f"{self._folder}/{name}")

    def glob(self, pattern: str) -> list[_PathInMemory]:
        paths = [PurePosixPath(path) for path in sorted(self._contents)]
        found = [path for path in paths if str(path.parent) == self._folder and path.match(pattern)]
        return [_PathInMemory(str(path), self._contents[str(path)]) for path in found]


class _PathInMemory(PurePosixPath):
    __slots__ = ("data",)

    def __new__(cls, path: str, data: bytes) -> Self:
        made = super().__new__(cls, path)
        made.data = data
        return made

    def read_bytes(self) -> bytes:
        return self.data


def _page() -> CodeType:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "format.md").read_text()
    source = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[-1]
    return compile(source.replace(", pathlib,", ","), "docs/reference/format.md", "exec")


PAGE: Final = _page()


def _check_with_the_page(contents: dict[str, bytes], verified: list[Record]) -> bool:
    """What Kharon takes for whole the fifty lines of docs/reference/format.md take for whole too, and for the same.

    Return whether they said anything, which is seen to by `test_corpus`.

    But for an unfinished end, of which they may say something else: they do not know what fields an event must have, so
    they take for a record, or for a witness, what Kharon does not.
    """
    said: list[str] = []
    arguments, sys.argv = sys.argv, ["verify.py", "q"]
    try:
        exec(PAGE, {"print": said.append, "pathlib": _PathsInMemory(contents)})
    except SystemExit as stopped:
        raise Finding(f"verified, and the page says: {stopped}") from None
    except (KeyError, TypeError, ValueError):
        return False  # fields of other types: that much care is not in fifty lines
    finally:
        sys.argv = arguments
    last = verified[-1] if verified else None
    must(f"whole: {last.seq if last else 0} records, " in said[0], f"{last}, and the page says: {said[0]}")
    must(last is None or said[0].endswith(f"last hash {last.hash}"), "the page has another hash")
    return True


def _repaired(files: SimulatedFiles, *, damaged: bool) -> bool:
    """What would be repaired is said without doing it; and once done on a copy, nothing is left to be repaired.

    Return whether it is not refused, which is seen to by `test_corpus`.
    """
    try:
        plan = repair(WHERE, files=files)
    except KharonError:
        return False
    must((plan.damage is not None) == damaged, "repair and verify disagree about damage")
    if damaged:
        copy = files.killed()
        done = repair(WHERE, confirm=True, files=copy)
        must((done.last, done.lost, done.records) == (plan.last, plan.lost, plan.records), "not what was said")
        whole, verified, _ = _verified(copy)
        must(whole is None, f"after the repair: {whole}")
        last = verified[-1] if verified else None  # an empty segment behind a log without records is all of the damage
        unconfirmed = last is not None and isinstance(last.event, SegmentTrimmed)  # of a beginning no record spoke of
        must(
            (last.seq if last else 0) == plan.last + (len(plan.cuts) or len(plan.seals)) + unconfirmed,
            "after the repair there are other records",
        )
    return True


TARGETS: Final[dict[str, Callable[[bytes], str]]] = {"line": line, "directory": directory, "snapshot": snapshot}
