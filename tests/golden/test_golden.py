"""Everything old stays readable: what any version wrote is seen as that version saw it, and goes on being a queue.

Each directory is copied first; the kept one is never opened. `make.py` says how they came to be.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import extras
import make
import msgspec
import pytest
from looking import LATER, copy, load, look

import kharon
from kharon.log.directory import DirectoryLog
from kharon.model.events import EVENTS, Changes
from kharon.model.versions import VERSIONS

HERE = Path(__file__).parent
NAMES = sorted(path.parent.name for path in HERE.glob("*/expected.json"))
PAGE = HERE.parents[1] / "docs" / "reference" / "format.md"
VERIFIER = compile(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[-1], "verify.py", "exec")


def expected(name: str) -> dict[str, object]:
    return json.loads((HERE / name / "expected.json").read_text())


def refusal(name: str) -> str | None:
    """As what opening is refused, if it is."""
    return expected(name)["opened"].get("refused")


OPENED = [name for name in NAMES if refusal(name) is None]


@pytest.fixture
def where(request, tmp_path):
    copy(HERE / request.node.callspec.params["name"] / "queue", tmp_path / "queue")
    return tmp_path / "queue"


@pytest.mark.parametrize("name", NAMES)
def test_what_was_seen_is_seen(name, where, record_property):
    kept = expected(name)
    seen = look(where, kept["fields"])
    for what, should in kept.items():
        found = seen[what]
        if isinstance(should, dict) and not should.get("refused"):
            found = {key: found.get(key) for key in should}  # a later version may say more
        assert found == should, what
    record_property("golden directories", 1)
    record_property("golden records", len(kept["read"]) if isinstance(kept.get("read"), list) else 0)


SEEING = """
import json, sys
from pathlib import Path
from looking import copy, look

for name in sys.argv[2:]:
    copy(Path(sys.argv[1]) / name / "queue", Path(name))
    print(json.dumps([name, look(Path(name))]))
"""


def test_every_process_sees_the_same_to_the_bit(tmp_path):
    """Replay is pure: no order of a set, no time zone and no locale shows in it."""
    extras.need("zstd")
    seen = []
    for number, (zone, locale) in enumerate([("UTC", "C"), ("Asia/Kathmandu", "C.UTF-8"), ("America/St_Johns", "C")]):
        env = {"PYTHONHASHSEED": str(number), "TZ": zone, "LC_ALL": locale, "PATH": os.environ["PATH"]}
        env["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parents[1])])
        where = tmp_path / str(number)
        where.mkdir()
        command = [sys.executable, "-c", SEEING, str(HERE), *NAMES]
        done = subprocess.run(command, env=env, cwd=where, stdout=subprocess.PIPE, check=True, timeout=100)
        seen.append(done.stdout.splitlines())
    assert [json.loads(line)[0] for line in seen[0]] == NAMES
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("name", OPENED)
async def test_it_goes_on_being_a_queue(name, where):
    kept = expected(name)

    class Clock:
        def now(self):
            return LATER

    settings = kharon.Settings(snapshot_bytes=None, reserve_bytes=0)
    async with kharon.open(where, settings, clock=Clock()) as kh:
        before = {ticket.id for ticket in await kh.list(limit=None)}
        assert before == {ticket["id"] for ticket in kept["opened"]["tickets"]}
        for id in {record[6] for record in kept.get("read", ()) if record[6] is not None}:
            told = [[record.seq, type(record.event).__name__, record.hash] for record in await kh.history(id)]
            should = [[record[0], record[3], record[7]] for record in kept["read"] if record[6] == id]
            assert told[: len(should)] == should
            assert {name for _, name, _ in told[len(should) :]} <= {"TicketLapsed"}, "its claim ended with its process"
        await kh.add(kharon.Ticket("golden-new", "email", payload={"n": 1}))
        await kh.add(kharon.Ticket("golden-gone", "email"))
        await kh.ack("golden-gone")
    log = DirectoryLog(where)
    projection = load(where, log)
    log.close(LATER)
    assert set(projection.tickets) == before | {"golden-new"}
    projection.check()
    if "replay" in kept:
        assert kharon.replay(where) == projection
        report = kharon.verify(where)
        assert (report.last, report.closed, report.unfinished) == (projection.seq, True, 0)
        assert report.log == kept["verify"]["log"]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(OPENED)))
async def test_what_is_refused_is_refused_and_not_touched(name, where):
    error = getattr(kharon, refusal(name))
    with pytest.raises(error):
        async with kharon.open(where):
            pass
    for kept in (HERE / name / "queue").rglob("*"):
        copied = where / kept.relative_to(HERE / name / "queue")
        assert kept.is_dir() or kept.name == "LOCK" or copied.read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("name", [name for name in NAMES if "verify" in expected(name)])
def test_the_verifier_of_the_page_agrees(name, monkeypatch):
    """It only reads, so it may read the kept one."""
    if any((HERE / name).rglob("*.zst")):
        extras.need("zstd")
    said: list[str] = []
    monkeypatch.setattr(sys, "argv", ["verify.py", str(HERE / name / "queue")])
    kept = expected(name)["verify"]
    try:
        exec(VERIFIER, {"print": said.append})
    except SystemExit as stopped:
        line = str(stopped)
        assert line.startswith(f"{HERE / name / 'queue' / kept['file']}, line {kept['line']}: ")
    else:
        unfinished = f"{kept['unfinished']} bytes unfinished, last hash {kept['hash']}"
        assert said == [f"log {kept['log']} is whole: {kept['last']} records, {unfinished}"]


# --- they are kept ----------------------------------------------------------------------------------------------------


def sums(path: Path) -> dict[str, str]:
    lines = (line.split("  ", 1) for line in path.read_text().splitlines())
    return {name: digest for digest, name in lines}


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_nothing_was_altered_added_or_dropped():
    assert digests(HERE) == sums(HERE / "SHA256SUMS")
    assert len(NAMES) >= 24
    assert {path.parent.name for path in HERE.glob("*/queue")} == set(NAMES)


def test_what_is_there_is_never_made_anew(tmp_path, monkeypatch):
    for names, why in ((["several", "empty"], "several: it is there"), ([], "name what"), (["nonsense"], "name what")):
        with pytest.raises(SystemExit, match=why):
            make.main(names)
    monkeypatch.setattr(make, "HERE", tmp_path)
    monkeypatch.setattr(make, "SUMS", tmp_path / "SHA256SUMS")
    make.main(["torn"])
    make.main(["empty", "header"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SHA256SUMS", "empty", "header", "torn"]
    before = digests(tmp_path)
    assert before == sums(tmp_path / "SHA256SUMS")
    with pytest.raises(SystemExit, match="never made anew"):
        make.main(["several", "torn"])
    assert digests(tmp_path) == before
    assert not (tmp_path / "several").exists()


@pytest.mark.parametrize("name", ["cut", "snapshots", "repaired", "fsync-always"])
def test_two_of_the_same_are_the_same(name, tmp_path):
    for run in ("one", "two"):
        make.build(name, tmp_path / run)
    made = digests(tmp_path)
    one = {path.removeprefix("one/"): digest for path, digest in made.items() if path.startswith("one/")}
    assert one == {path.removeprefix("two/"): digest for path, digest in made.items() if path.startswith("two/")}
    assert one["expected.json"]


def test_every_version_of_every_event_is_in_one(record_property):
    seen: dict[tuple[str, int], list[set[str]]] = defaultdict(list)
    for path in HERE.glob("*/queue/log/*.jsonl"):  # what is compressed was written uncompressed, in others
        if path.parents[2].name.startswith("later-"):  # made by hand
            continue
        for line in path.read_bytes().splitlines():
            try:
                record = msgspec.json.decode(line)
            except msgspec.MsgspecError:  # the torn ones
                continue
            if "event" in record:
                changes = {f"changes.{field}" for field in record.get("changes", ())}
                seen[record["event"], record["v"]].append(set(record) | changes)
    assert set(VERSIONS) <= set(seen)
    for name, version in VERSIONS.newest.items():
        fields = [(field.encode_name, field) for field in msgspec.structs.fields(EVENTS[name])]
        if any(name == "changes" for name, _ in fields):
            fields += [(f"changes.{field.encode_name}", field) for field in msgspec.structs.fields(Changes)]
        for field, described in fields:
            having = [field in record for record in seen[name, version]]
            assert any(having), f"{name}.{field} is in no golden directory"
            required = (described.default, described.default_factory) == (msgspec.NODEFAULT, msgspec.NODEFAULT)
            assert all(having) == required, f"{name} without {field}"
    record_property("golden versions of events", len(seen))
