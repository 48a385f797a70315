"""The page on the format is true: its verifier verifies, and its tables are those of the code."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import extras
import msgspec
import pytest
from log_steps import NOW, always, carry_out, moment, segment_of
from msgspec import NODEFAULT, Raw

import kharon
from kharon.errors import CorruptLog, KharonError
from kharon.log.directory import DirectoryLog
from kharon.log.directory import segments as kharon_segments
from kharon.log.files import OS_FILES
from kharon.log.record import Seal, _Envelope, _HeaderBody, link
from kharon.log.replace import replace_file
from kharon.log.retention import Retention, RetentionRules, Threshold
from kharon.log.snapshot import _stored
from kharon.log.zstd import compress_chunks, load_zstd
from kharon.model import commands as c
from kharon.model.checks import MAX_LINE_BYTES
from kharon.model.commit import Commit
from kharon.model.delays import FixedDelay
from kharon.model.events import (
    EVENTS,
    Changes,
    TailCut,
    TicketAdded,
    TicketDeleted,
    TicketDone,
    TicketEvent,
    TicketUnblocked,
)
from kharon.model.projection import Projection
from kharon.model.ticket import Ticket
from kharon.model.versions import VERSIONS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "format.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


VERIFIER = blocks("python")[-1]
SCRIPT = compile(VERIFIER, "verify.py", "exec")


extras.need("zstd")
ZstdError = load_zstd("this test").ZstdError
SEAL_BYTES = 92 + len('"sealed":4,"next":""}\n') + 64


@pytest.fixture
def where(tmp_path):
    """The directory of a log with commits of one and of several records; the last two are not vouched for."""
    log = DirectoryLog(tmp_path / "queue")
    list(log.open(NOW))
    for seconds, events in enumerate(
        [
            [TicketAdded("task-1", "größe", Raw(b'{"hash":"x"}'), "t", 1, NOW)],
            [TicketDeleted("b"), TicketDone("task-1", True, Raw(b"[1]")), TicketDeleted("c")],
            [TicketDeleted("d")],
        ]
    ):
        log.append(events, moment(seconds / 2), "ann")
        log.write()
        log.sync()
    log.append([TicketDeleted("e")], moment(9), "bob")
    log.append([TicketDeleted("f"), TicketDeleted("g")], moment(9), "bob")
    log.write()
    log.abandon()
    return tmp_path / "queue"


def verify(where: Path) -> str:
    """What the page's verifier says, without starting a process for it."""
    said = []
    names = {"print": said.append}
    before, sys.argv = sys.argv, ["verify.py", str(where)]
    try:
        exec(SCRIPT, names)
    except SystemExit as stopped:
        return str(stopped)
    finally:
        sys.argv = before
    (line,) = said
    return line


def test_the_verifier_is_as_short_as_the_page_says_and_needs_nothing():
    assert len(VERIFIER.splitlines()) <= 50
    assert max(map(len, VERIFIER.splitlines())) <= 120
    (imports,) = re.findall(r"^import (.*)$", VERIFIER, re.MULTILINE)
    assert set(imports.split(", ")) <= sys.stdlib_module_names
    assert "kharon." not in VERIFIER


def test_the_verifier_run_as_the_page_says(where, tmp_path):
    script = tmp_path / "verify.py"
    script.write_text(VERIFIER)
    command = [sys.executable, "-W", "error", str(script), str(where)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    report = kharon.verify(where)
    assert said.stdout == f"log {report.log} is whole: 8 records, 0 bytes unfinished, last hash {report.hash}\n"
    assert verify(where) + "\n" == said.stdout
    path = segment_of(where)
    path.write_bytes(path.read_bytes().replace(b'"id":"c"', b'"id":"x"'))
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (1, f"{path}, line 5: damaged\n")


def judgement(where: Path) -> str:
    """What Kharon says, in the verifier's words."""
    try:
        report = kharon.verify(where)
    except CorruptLog as corrupt:
        return f"{corrupt.file}, line {corrupt.line}: "
    return (
        f"log {report.log} is whole: {report.last} records, {report.unfinished} bytes unfinished, "
        f"last hash {report.hash}"
    )


@pytest.mark.parametrize("closed", [False, True])
def test_the_verifier_and_kharon_agree_about_every_altered_byte_and_every_length(where, closed):
    if closed:
        log = DirectoryLog(where)
        list(log.open(NOW))
        log.close(NOW)
    path = segment_of(where)
    data = path.read_bytes()
    refused = 0
    for byte in range(len(data)):
        altered = bytearray(data)
        altered[byte] ^= 1 << (byte % 8)
        for now in (altered, data[:byte], data[:byte] + data[byte + 1 :]):
            path.write_bytes(now)
            said, should = verify(where), judgement(where)
            assert said.startswith(should), f"byte {byte}"
            refused += not should.startswith("log ")
    assert len(data) < refused < 3 * len(data)


@pytest.mark.parametrize("closed", [False, True])
def test_they_agree_about_lines_swapped_doubled_and_dropped(where, closed):
    if closed:
        log = DirectoryLog(where)
        list(log.open(NOW))
        log.close(NOW)
    path = segment_of(where)
    lines = path.read_bytes().splitlines(keepends=True)
    for one in range(len(lines)):
        for other in range(one, len(lines)):
            for now in (
                [*lines[:one], *lines[other:]],
                [*lines[:other], *lines[one:]],
                [*lines[:one], lines[other], *lines[one + 1 : other], lines[one], *lines[other + 1 :]],
            ):
                path.write_bytes(b"".join(now))
                assert verify(where).startswith(judgement(where)), (one, other)


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\n", b"\r\n\r", b"x" * (MAX_LINE_BYTES + 9) + b"\n", b"[" * 99_999])
def test_they_agree_about_garbage(where, tail):
    with segment_of(where).open("ab") as file:
        file.write(tail)
    assert verify(where) == judgement(where)
    assert f" {len(tail)} bytes unfinished" in verify(where)


def reseal(line: bytes, previous: bytes, old: bytes, new: bytes) -> bytes:
    """A line with something else in its body, and the sum and the hash that are right for it."""
    assert line.count(old) == 1
    body = line[92:-1].replace(old, new)
    hash = hashlib.sha256(previous + body).hexdigest().encode()
    return b'{"hash":"%b","crc":"%08x",%b\n' % (hash, zlib.crc32(body), body)


@pytest.mark.parametrize(
    ("old", "new", "records"),
    [
        (b'"id":"a"', '"id":"ö"'.encode(), 0),  # a line is ASCII
        (b'"id":"a"', b'"id":"a","hash":"0"', 2),  # the hash is what stands at its place, whatever the body says
    ],
)
def test_they_agree_about_what_is_sealed_anew(tmp_path, old, new, records):
    where = tmp_path / "queue"
    log = DirectoryLog(where)
    list(log.open(NOW))
    log.append([TicketDeleted("a"), TicketDeleted("b")], NOW, "ann")
    log.write()
    log.abandon()
    header, first, second = segment_of(where).read_bytes().splitlines(keepends=True)
    first = reseal(first, header[9:73], old, new)
    second = reseal(second, first[9:73], b'"id":"b"', b'"id":"c"')
    segment_of(where).write_bytes(header + first + second)
    assert verify(where) == judgement(where)
    assert f"whole: {records} records" in verify(where)


@pytest.fixture(params=["records", "header", "unsealed", "half a seal"])
def segments(request, tmp_path):
    """The segments of a log of three; the last has records, or its header only, perhaps behind a seal that is torn."""
    where = tmp_path / "several"
    log = DirectoryLog(where, segment_bytes=500)
    list(log.open(NOW))
    for id in ("a", "b", "c", "d"):
        log.append([TicketDeleted(id)], NOW, "ann")
        log.write()
    if request.param == "records":
        log.append([TicketDeleted("e")], NOW, "ann")
        log.write()
    log.abandon()
    paths = sorted((where / "log").iterdir())
    data = paths[1].read_bytes()
    cut = {"unsealed": data.rindex(b"{"), "half a seal": data.rindex(b"{") + 100}.get(request.param, len(data))
    paths[1].write_bytes(data[:cut])
    assert len(paths) == 3
    return paths


@pytest.fixture
def how(request):
    return request.node.callspec.params["segments"]


def assert_agreed(paths: list[Path], *, whole: bool | None = None) -> bool:
    where = paths[0].parents[1]
    said, should = verify(where), judgement(where)
    assert said.startswith(should)
    assert whole in (None, should.startswith("log "))
    return should.startswith("log ")


@pytest.mark.campaign
def test_they_agree_about_every_altered_byte_of_several_segments(segments, how):
    assert_agreed(segments, whole=True)
    passed = 0
    for path in segments:
        data = path.read_bytes()
        for byte in range(len(data)):
            altered = bytearray(data)
            altered[byte] ^= 1 << (byte % 8)
            for now in (altered, data[:byte], data[:byte] + data[byte + 1 :]):
                path.write_bytes(now)
                passed += assert_agreed(segments)
        path.write_bytes(data)
    # In the tail; in a seal whose successor has no records.
    tail = data.index(b"\n") + 1
    assert (
        passed
        == {
            "records": 3 * (len(data) - tail),
            "header": 3 * SEAL_BYTES,
            "unsealed": 0,
            "half a seal": 3 * 100,
        }[how]
    )


def test_they_agree_about_lines_of_several_segments(segments):
    for path in segments:
        lines = path.read_bytes().splitlines(keepends=True)
        for one in range(len(lines)):
            for now in ([*lines[:one], *lines[one + 1 :]], [*lines[: one + 1], *lines[one:]], lines + lines[1:]):
                path.write_bytes(b"".join(now))
                assert_agreed(segments)
        path.write_bytes(b"".join(lines))


def test_they_agree_about_missing_segments(segments, how):
    for number, path in enumerate(segments):
        data = path.read_bytes()
        path.unlink()
        assert_agreed(segments, whole=number == 2 and how in ("unsealed", "half a seal"))
        path.write_bytes(data)
    if how in ("records", "header"):
        with segments[1].open("ab") as file:
            file.write(b"x")
        assert_agreed(segments, whole=False)
        segments[2].unlink()
        assert_agreed(segments, whole=False)


def test_they_agree_about_garbage_in_the_place_of_a_seal(segments):
    data = segments[1].read_bytes()
    end = sum(map(len, data.splitlines(keepends=True)[:3]))
    for length in (1, SEAL_BYTES - 1, SEAL_BYTES, SEAL_BYTES + 1, 4000):
        segments[1].write_bytes(data[:end] + b"x" * length)
        assert_agreed(segments)


def test_they_agree_about_several_segments_and_a_cut(where):
    path = segment_of(where)
    path.write_bytes(path.read_bytes()[:-3])
    log = DirectoryLog(where, segment_bytes=100)
    *_, last = log.open(NOW)
    assert isinstance(last.event, TailCut)
    log.append([TicketDeleted("z")], NOW, "ann")
    log.write()
    log.close(NOW)
    second = where / "log" / f"{last.seq + 2:020}.jsonl"
    header, lines = second.read_bytes().split(b"\n", 1)
    assert verify(where) == judgement(where)
    assert "whole: 9 records" in verify(where)
    second.write_bytes(header.replace(b"kharon-log", b"kharon-lag") + b"\n" + lines)
    assert verify(where).startswith(judgement(where))
    second.write_bytes(header + b"\n" + lines)
    path.write_bytes(path.read_bytes()[:-1])
    assert verify(where).startswith(judgement(where))
    assert "0001.jsonl, line 10" in verify(where)


# --- compressed, archived, trimmed ------------------------------------------------------------------------------------

EVERYTHING = Threshold(bytes=0)
KEPT = [RetentionRules(compress=EVERYTHING), RetentionRules(archive=EVERYTHING), RetentionRules(EVERYTHING, EVERYTHING)]


def keep(where: Path, policy: RetentionRules, steps: int, archive: Path | None = None) -> None:
    log = DirectoryLog(where, segment_bytes=1500)
    list(log.open(NOW))
    assert len(carry_out(log, Retention(log, policy, archive, always), steps)) == steps
    log.abandon()


@pytest.fixture
def long(tmp_path):
    """A log of several segments of three records or so."""
    log = DirectoryLog(tmp_path / "long", segment_bytes=1500)
    list(log.open(NOW))
    for number in range(20):
        log.append([TicketAdded(f"t{number}", "x", Raw(b"null"), "t", 1, NOW)], NOW, "ann")
        log.write()
    log.close(NOW)
    return tmp_path / "long"


@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("policy", KEPT)
def test_they_agree_about_what_was_compressed_or_archived(long, tmp_path, policy, elsewhere):
    (tmp_path / "archive").mkdir()
    keep(long, policy, 3, tmp_path / "archive" if elsewhere else None)
    assert verify(long) == judgement(long)
    for path in kharon_segments(long)[:4]:
        away = path.rename(path.with_name("away"))
        assert verify(long).startswith(judgement(long))
        assert not judgement(long).startswith("log ")
        away.rename(path)
        data = path.read_bytes()
        for byte in range(0, len(data), 17):
            path.write_bytes(data[:byte] + bytes([data[byte] ^ 1]) + data[byte + 1 :])
            try:
                said = verify(long)
            except ZstdError:
                said = "damaged"
            assert said.startswith("log ") == judgement(long).startswith("log ")
        path.write_bytes(data)
    assert verify(long) == judgement(long)


def test_they_agree_about_a_compressed_segment_without_its_seal(long):
    *_, two, last = kharon_segments(long)
    for path in (two, last):
        data = path.read_bytes()
        whole = data[: data.rindex(b"\n", 0, -1) + 1] if path == two else data
        path.rename(path.with_name("away"))
        replace_file(OS_FILES, path.with_name(path.name + ".zst"), compress_chunks(iter([whole])))
        assert not judgement(long).startswith("log ")
        assert not verify(long).startswith("log ")
        path.with_name(path.name + ".zst").unlink()
        path.with_name("away").rename(path)
    assert verify(long) == judgement(long)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_they_agree_about_what_was_trimmed(long, steps):
    keep(long, RetentionRules(trim=EVERYTHING), steps)
    assert verify(long) == judgement(long)
    assert judgement(long).startswith("log ")
    first, second, *_ = kharon_segments(long)
    data = first.read_bytes()
    first.unlink()
    assert verify(long).startswith(judgement(long))
    assert f"{second}, line 1: " in verify(long)
    first.write_bytes(data.replace(b'"previous":"', b'"previous":"x'))
    assert verify(long).startswith(judgement(long))


def test_they_agree_about_a_beginning_that_was_written_anew(long):
    """Its first header says that it follows something else, and all lines behind it follow from that."""
    keep(long, RetentionRules(trim=EVERYTHING), 1)
    first, *rest = kharon_segments(long)
    chain = "ab" * 32
    for path in (first, *rest):
        lines = []
        for line in path.read_bytes().splitlines():
            body = re.sub(rb'"previous":"[0-9a-f]{64}"', b'"previous":"%b"' % chain.encode(), line[92:])
            if b'"sealed":' not in body[:9]:
                made, chain = link(chain, body)
                lines.append(made)
        path.write_bytes(b"".join(lines))
        if path != rest[-1]:
            ahead = rest[(first, *rest).index(path)].read_bytes().splitlines()[0][92:]
            ahead = re.sub(rb'"previous":"[0-9a-f]{64}"', b'"previous":"%b"' % chain.encode(), ahead)
            seal = b'"sealed":%d,"next":"%b"}' % (
                int(rest[(first, *rest).index(path)].stem) - 1,
                link(chain, ahead)[1].encode(),
            )
            path.write_bytes(b"".join([*lines, link(chain, seal)[0]]))
    assert verify(long).startswith(judgement(long))
    assert f"{first}, line 1: " in verify(long)


def test_the_anchor(where):
    anchored = {"kharon": kharon}
    exec(blocks("python")[0], anchored)
    report = kharon.verify(where)
    assert anchored["is_anchored"](where, report.last, report.hash)
    path = segment_of(where)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b'"seq":7,') - 91])
    assert kharon.verify(where).last == 6, "the loss of whole commits is not seen"
    assert not anchored["is_anchored"](where, report.last, report.hash), "but with an anchor it is"


# --- the folder -------------------------------------------------------------------------------------------------------

FOLDER = blocks("python")[-2]
IDS, GROUPS = ("a", "b", "c", "d", "e", "f"), (None, "g", "h")
ABSENT = {"status": "pending", "attempts": 0, "joined": 0, "blocked_by": []}


def some_commands(chance: random.Random, projection: Projection) -> list[c.Command]:
    """One to three commands, of any kind, many of which will be refused."""

    def command() -> c.Command:
        id, other = chance.choice(IDS), chance.choice(IDS)
        ticket = projection.get(id)
        changes = Changes(
            **{
                field: value
                for field, value in (("nice", 7), ("payload_json", Raw(b"[0]")), ("tube", "u"), ("runat", NOW))
                if chance.random() < 0.3
            }
            | ({"group": chance.choice(GROUPS)} if chance.random() < 0.5 else {})
        )
        reason, expire_in = chance.choice((None, "why")), chance.choice((None, 5.0))
        new = Ticket(id, "t", payload=[None, "ö"], group=chance.choice(GROUPS), nice=chance.choice((0, 512)))
        adds = [
            c.Add(
                *(id, new, None, chance.choice(("replace", "refresh")), tuple(chance.sample(IDS, chance.randrange(3)))),
                *(chance.choice(GROUPS), chance.choice(("run", "cancel", "cancel"))),
            )
            for _ in range(4)
        ]
        often: list[c.Command] = [c.Claim(id, "w")] * 4
        if ticket is not None and ticket.claim:
            often = [
                c.Extend(id, seconds=90.0),
                c.Release(id, changes=chance.choice((None, changes))),
                *adds,
                *adds,
                *adds,
            ]
        return chance.choice(
            [
                *adds,
                *often,
                c.Extend(id, seconds=1.0),
                c.Done(id, keep=chance.random() < 0.5, result=chance.choice((None, b"[1]"))),
                c.Done(id, keep=True, expire_in=expire_in),
                c.Fail(id, error_reason=reason, expire_in=expire_in),
                c.Cancel(other, keep=chance.random() < 0.5, error_reason=reason),
                c.Retry(id, delay=3.0, error_reason=reason, changes=chance.choice((None, changes))),
                c.Lapse(id, error_reason="late", backoff=FixedDelay(1), max_attempts=chance.choice((None, 2))),
                c.Restart(id),
                c.Update(id, changes),
                c.Delete(other),
                c.Expire(id),
            ]
        )

    return [command() for _ in range(chance.randrange(1, 4))]


def as_in_a_snapshot(ticket: dict[str, Any]) -> dict[str, Any]:
    """A ticket of the folder's without what a snapshot leaves out."""
    said = {field: value for field, value in ticket.items() if field == "payload" or value is not None}
    said = {field: value for field, value in said.items() if field not in ABSENT or ABSENT[field] != value}
    if said.get("joined") == ticket["order"]:
        del said["joined"]
    if gate := said.get("gate"):
        said["gate"] = {field: value for field, value in gate.items() if value not in (None, [], 0, "run")}
    if said.get("successor"):
        said["successor"] = as_in_a_snapshot(said["successor"])
    return said


def life(where: Path, chance: random.Random) -> Counter[str]:
    """Fill a log by chance, and compare after each commit what the folder makes of it; count the events."""
    log, projection = DirectoryLog(where, segment_bytes=20_000), Projection()
    list(log.open(NOW))
    folder: dict[str, Any] = {}
    exec(FOLDER, folder)
    seen: Counter[str] = Counter()
    tickets: dict[str, Any] = {}
    for number in range(600):
        projection.promote(moment(number * 2))
        commit = Commit(projection, c.Context(moment(number * 2)))
        try:
            commit.run(some_commands(chance, projection))
        except KharonError:
            commit.undo()
            continue
        if commit.effects:
            log.append([effect.event for effect in commit.effects], commit.effects[0].at, "ann")
            log.write()
        commit.keep()
        for effect in commit.effects:
            dropped = isinstance(effect.event, TicketUnblocked) and effect.event.dropped
            seen[type(effect.event).__name__ + " dropped" * dropped] += 1
            line = {"event": type(effect.event).__name__, "seq": effect.seq, "at": effect.at, "more": effect.event}
            event = json.loads(msgspec.json.encode(line))
            tickets[effect.event.id] = folder["evolve"](tickets.get(effect.event.id), event | event["more"])
        left = {id: as_in_a_snapshot(ticket) for id, ticket in tickets.items() if ticket}
        ours = {id: json.loads(msgspec.json.encode(_stored(ticket))) for id, ticket in projection.tickets.items()}
        assert left == ours
    log.abandon()
    assert {id: as_in_a_snapshot(ticket) for id, ticket in folder["fold"](where).items()} == left
    return seen


@pytest.mark.parametrize("seed", range(2))
def test_the_folder_folds_as_kharon_does(tmp_path, seed):
    seen: Counter[str] = Counter()
    for number in range(10):
        seen += life(tmp_path / str(number), random.Random(10 * seed + number))
    every = {name for name, event in EVENTS.items() if issubclass(event, TicketEvent)}
    assert set(seen) == every | {"TicketUnblocked dropped"}


def test_the_folder_is_as_short_as_the_page_says_and_leaves_out_what_is_not_whole(where):
    assert len(FOLDER.splitlines()) <= 80
    assert max(map(len, FOLDER.splitlines())) <= 120
    folder: dict[str, Any] = {}
    exec(FOLDER, folder)
    path = segment_of(where)
    data = path.read_bytes()
    assert folder["fold"](where)["task-1"]["result"] == [1]
    path.write_bytes(data[: data.index(b'"part":[3,3]')])  # the commit that made it done is not finished
    assert folder["fold"](where)["task-1"]["result"] is None


def test_the_commands(where):
    commands, _packed = blocks("sh")
    said = [
        subprocess.run(["/bin/sh", "-c", command], cwd=where.parent, capture_output=True, text=True, check=True).stdout
        for command in commands.splitlines()
    ]
    assert [len(text.splitlines()) for text in said] == [2, 5]
    assert "TicketAdded" in said[0]
    assert "TicketDone" in said[0]


@pytest.mark.skipif(shutil.which("zstdcat") is None, reason="the command is zstd's")
def test_the_command_for_segments_that_were_compressed_or_archived(long):
    keep(long, KEPT[0], 2)
    keep(long, KEPT[1], 1)
    places = [(path.parent.name == "log", path.suffix) for path in kharon_segments(long)]
    assert places[:3] == [(False, ".zst"), (True, ".zst"), (True, ".jsonl")]
    long.rename(long.with_name("queue"))
    command = blocks("sh")[1].replace("task-1", "t0")
    done = subprocess.run(["/bin/sh", "-c", command], cwd=long.parent, capture_output=True, text=True, check=True)
    assert [line.count('"event":"TicketAdded"') for line in done.stdout.splitlines()] == [1]
    assert not done.stderr
    everything = command.split(" | ")[0]
    lines = subprocess.run(["/bin/sh", "-c", everything], cwd=long.parent, capture_output=True, check=True).stdout
    seqs = [int(seq) for seq in re.findall(rb'"crc":"[0-9a-f]{8}","seq":(\d+)', lines)]
    assert seqs == [record.seq for record in kharon.read(long.with_name("queue"))]


# --- the tables -------------------------------------------------------------------------------------------------------


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_the_events():
    said: dict[str, list[tuple[str, bool]]] = {}
    for event, field, _type, absent in rows("The events"):
        if event:
            said[event.strip("`")] = []
        if field:
            said[list(said)[-1]].append((field.strip("`"), bool(absent)))
    assert said == {
        name: [
            (field.encode_name, (field.default, field.default_factory) != (NODEFAULT, NODEFAULT))
            for field in msgspec.structs.fields(event)
        ]
        for name, event in EVENTS.items()
    }
    assert set(VERSIONS.newest.values()) == {1}


@pytest.mark.parametrize(
    ("heading", "struct"),
    [("A record", _Envelope), ("The header of a segment", _HeaderBody), ("The seal of a segment", Seal)],
)
def test_the_tables_of_records_headers_and_seals(heading, struct):
    assert [row[0].strip("`") for row in rows(heading)] == [
        field.encode_name for field in msgspec.structs.fields(struct)
    ]


def test_the_changes_are_named():
    sentence = PAGE.split("*changes* is an object with any of ")[1].split(", typed")[0]
    assert re.findall(r"`(\w+)`", sentence) == [field.encode_name for field in msgspec.structs.fields(Changes)]


def test_the_offsets_of_a_line(where):
    line = segment_of(where).read_bytes().splitlines(keepends=True)[1]
    texts = re.findall(r"^\| (\d+) to (\d+) \| `(.+)` \|$", PAGE, re.MULTILINE)
    assert [line[int(first) : int(last) + 1].decode() for first, last, _ in texts] == [text for *_, text in texts]
    assert len(texts) == 3
    assert line[92:].startswith(b'"seq":1,')
    assert f"{MAX_LINE_BYTES:,} bytes" in PAGE
