"""`verify`, `anchor` and `export`: exit codes, where it says that something is wrong, files."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import scenario

import kharon as k
from kharon.log import index
from kharon.log.directory import segments
from kharon.log.files import OS_FILES
from kharon.log.record import Chain, link
from kharon.model.events import TicketDeleted


@pytest.fixture
def copy(queue_of_a_night, tmp_path, monkeypatch):
    """A copy of the scenario's queue, to be damaged; it is called `queue` in the present directory."""
    shutil.copytree(queue_of_a_night, tmp_path / "queue")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "queue"


def tail_of(queue):
    return max((queue / "log").glob("*.jsonl"))


def test_whole(run, copy):
    ran = run("verify", "queue")
    assert (ran.code, ran.err) == (0, "")


def damage(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    return data.index(old)


def test_damage_is_1_and_says_where(run, copy):
    path = tail_of(copy)
    byte = damage(path, b'"by":"worker-1"', b'"by":"worker-2"')
    line = path.read_bytes()[:byte].count(b"\n") + 1
    ran = run("verify", "queue")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"kharon: queue/log/{path.name}, line {line} (byte ")
    assert ran.err.count("\n") == 1
    ran = run("verify", "queue", "--json")
    fields = json.loads(ran.err)
    assert (ran.code, ran.out) == (1, "")
    assert (fields["error"], fields["file"], fields["line"]) == ("CorruptLog", f"queue/log/{path.name}", line)
    assert fields["byte"] == path.read_bytes().rindex(b"\n", 0, byte) + 1
    # Whatever else is asked of it, too, is refused in the same way.
    for command in (["ls", "queue"], ["stats", "queue"], ["tail", "queue"], ["export", "queue", "--to", "out.csv"]):
        assert run(*command).code == 1
    assert not (copy.parent / "out.csv").exists()


@pytest.mark.parametrize("where", ["archive", "log"])
def test_damage_in_the_archive_and_in_what_is_compressed(run, copy, where):
    path = next(iter(copy.glob("archive/*/*.jsonl"))) if where == "archive" else next(iter(copy.glob("log/*.zst")))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ran = run("verify", "queue")
    assert ran.code == 1
    assert path.name in ran.err


def test_what_cannot_be_asked_is_2(run, copy, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    later = tmp_path / "later"
    (later / "log").mkdir(parents=True)
    chain = Chain()
    header = chain.header(scenario.LOG_ID, scenario.EVENING)
    (line,) = chain.commit([TicketDeleted("a")], scenario.EVENING, "ann", 0)
    line, _ = link(header[9:73].decode(), line[92:-1].replace(b'"v":1', b'"v":9'))
    (later / "log" / f"{1:020}.jsonl").write_bytes(header + line)
    for queue in ("nowhere", "empty", "file", "later"):
        ran = run("verify", queue)
        assert (ran.code, ran.out) == (2, ""), queue
        assert ran.err.startswith("kharon: ")
        assert ran.err.count("\n") == 1
    (copy / "kept").write_text("no anchor")
    for anchor in ("nowhere", copy / "kept", copy):
        ran = run("verify", "queue", "--anchor", anchor)
        assert (ran.code, ran.out) == (2, ""), anchor
    assert "'no anchor' is not an anchor" in run("verify", "queue", "--anchor", copy / "kept").err


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_anchor_is_found_again_later(run, copy, tmp_path, form):
    kept = tmp_path / "kept"
    kept.write_text(run("anchor", "queue", *form).out)
    before = k.verify(copy).last
    log = k.log.directory.DirectoryLog(copy)
    list(log.open(scenario.NOW))
    log.append([TicketDeleted("newsletter")], scenario.NOW, "ann")
    log.close(scenario.NOW)
    ran = run("verify", "queue", "--anchor", kept)
    assert (ran.code, ran.err) == (0, "")
    assert f"record {before - 1} is there as it was" in ran.out
    assert run("verify", "queue", "--anchor", kept, "--json").objects[0]["anchor"]["seq"] == before - 1


def test_an_anchor_from_stdin(run, copy, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(run("anchor", "queue").out))
    assert run("verify", "queue", "--anchor", "-").code == 0


@pytest.mark.parametrize("text", ["{", "{}", '{"log":1}', '{"log":"x","seq":1,"hash":"y"}', ""])
def test_what_is_no_anchor(run, copy, tmp_path, text):
    (tmp_path / "kept").write_text(text)
    ran = run("verify", "queue", "--anchor", tmp_path / "kept")
    assert ran.code == 2
    assert "anchor" in ran.err


def test_a_log_that_was_rewritten_as_a_whole_is_whole_but_for_the_anchor(run, copy, tmp_path):
    """What nothing inside of the log can show: who has all of it wrote it anew, without one ticket."""
    kept = tmp_path / "kept"
    kept.write_text(run("anchor", "queue").out)
    records = list(k.read(copy))
    shutil.rmtree(copy)
    (copy / "log").mkdir(parents=True, mode=0o700)
    chain = Chain()
    lines = [chain.header(scenario.LOG_ID, scenario.EVENING)]
    for record in records:
        if getattr(record.event, "id", "") != "invoice-1042":
            lines += chain.commit([record.event], record.at, record.by, chain.seq)
    (copy / "log" / f"{1:020}.jsonl").write_bytes(b"".join(lines))
    assert run("verify", "queue").code == 0
    ran = run("verify", "queue", "--anchor", kept)
    assert (ran.code, ran.out) == (1, "")
    assert "the log ends at record" in ran.err
    assert json.loads(run("verify", "queue", "--anchor", kept, "--json").err)["error"] == "AnchorMissing"


def test_an_anchor_of_the_empty_log(run, tmp_path):
    night = scenario.Night(tmp_path / "queue")
    night.log.abandon()
    (tmp_path / "kept").write_text(run("anchor", tmp_path / "queue").out)
    ran = run("verify", tmp_path / "queue", "--anchor", tmp_path / "kept")
    assert ran.code == 0
    assert "it is the same log" in ran.out
    assert "(no records)" in ran.out


def test_an_unfinished_commit_is_said(run, copy):
    path = tail_of(copy)
    path.write_bytes(path.read_bytes()[:-1])
    ran = run("verify", "queue")
    assert ran.code == 0
    assert "\nunfinished  " in ran.out


GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_snapshot_that_is_not_the_logs_is_1(run):
    queue = GOLDEN / "snapshot-bad" / "queue"
    ran = run("verify", queue)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith(f"kharon: {queue}/snapshots/")
    assert "the log itself is whole" in ran.err
    assert json.loads(run("verify", queue, "--json").err)["error"] == "CorruptLog"


def test_a_snapshot_that_nobody_can_judge_is_said(run):
    queue = GOLDEN / "snapshot-later" / "queue"
    ran = run("verify", queue)
    assert ran.code == 0
    assert ran.out.startswith("whole: ")
    assert ran.err.startswith(f"not judged: {queue}/snapshots/")
    ran = run("verify", queue, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert len(ran.objects[0]["unjudged_snapshots"]) == 1


def test_events_that_only_a_later_version_knows_are_2(run):
    ran = run("verify", GOLDEN / "later-event" / "queue")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "the chain is whole, but record " in ran.err


@pytest.mark.parametrize("how", ["garbage", "of other segments", "a file"])
def test_an_index_that_history_does_not_use_is_said(run, copy, how):
    """It is a cache: what hides nothing is no damage, and is made again."""
    before = run("history", "queue", "invoice-1042").out
    assert before
    index = copy / "index"
    files = sorted(index.glob("*.idx"))
    assert len(files) > 3
    good = run("verify", "queue")
    assert f"\nindexes    {len(files)}, each agrees with the log\n" in good.out
    if how == "a file":
        shutil.rmtree(index)
        index.write_text("in the way")
    else:
        data = [path.read_bytes() for path in files]
        for path, other in zip(files, [*data[1:], data[0]], strict=True):
            path.write_bytes(b"garbage" if how == "garbage" else other)
    ran = run("verify", "queue")
    assert ran.code == 0
    assert "indexes" not in ran.out
    told = "not used by history, which makes it again: queue/index/"
    assert [line[: len(told)] for line in ran.err.splitlines()] == ([] if how == "a file" else [told] * len(files))
    json_ran = run("verify", "queue", "--json")
    assert (json_ran.code, json_ran.err) == (0, "")
    assert len(json_ran.objects[0]["unused_indexes"]) == (0 if how == "a file" else len(files))
    assert run("history", "queue", "invoice-1042").out == before
    if how != "a file":
        again = run("verify", "queue")
        assert (again.code, again.out, again.err) == (0, good.out, "")


def hide(queue, id):
    """Let the index of the last finished segment in which a ticket is leave it out, with sums that are right."""
    for segment in reversed(list(index.finished_segments(OS_FILES, segments(queue)))):
        places = index.build_index(OS_FILES, segment).offsets
        if places._of.pop(id, None):
            path = index.index_path(queue, segment.first)
            path.write_bytes(index.encode_index(segment, places.entries()))
            return path
    raise AssertionError(id)


def test_an_index_that_hides_records_is_1_and_says_so(run, copy):
    before = run("history", "queue", "invoice-1042").out
    path = hide(copy, "invoice-1042")
    ran = run("history", "queue", "invoice-1042")
    assert (ran.code, ran.out) == (1, ""), "this is what it is for: not even that there was such a ticket"
    ran = run("verify", "queue")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith(f"kharon: queue/index/{path.name}, line 0 (byte 0): it hides from history 13 of the ")
    assert "; the first of them is about 'invoice-1042', at byte " in ran.err
    assert ran.err.endswith(
        " (somebody wrote that; the log itself is whole; remove queue/index, which is a cache and is made again)\n"
    )
    fields = json.loads(run("verify", "queue", "--json").err)
    assert (fields["error"], fields["file"]) == ("CorruptLog", f"queue/index/{path.name}")
    shutil.rmtree(copy / "index")
    assert run("verify", "queue").code == 0
    assert run("history", "queue", "invoice-1042").out == before


def test_of_several_that_are_wrong_the_first_is_named(run, copy):
    """Those of compressed and of archived segments among them."""
    assert run("history", "queue", "nobody").code == 1
    paths = sorted((copy / "index").iterdir())
    for path, segment in zip(paths, list(index.finished_segments(OS_FILES, segments(copy))), strict=True):
        path.write_bytes(index.encode_index(segment, index.LineOffsets().entries()))
    ran = run("verify", "queue")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"kharon: queue/index/{paths[0].name}, line 0 (byte 0): it hides from history ")
    assert f"; {len(paths) - 1} others are wrong, too (somebody wrote that" in ran.err
    for path in paths[2:]:
        path.unlink()
    assert "; 1 other is wrong, too (" in run("verify", "queue").err


def test_what_hides_records_is_named_before_what_only_a_later_version_knows(run, tmp_path):
    later = tmp_path / "later"
    (later / "log").mkdir(parents=True)
    later.chmod(0o700)
    chain = Chain()
    header = chain.header(scenario.LOG_ID, scenario.EVENING)
    known, line = chain.commit([TicketDeleted("a"), TicketDeleted("b")], scenario.EVENING, "ann", 0)
    line, chain.hash = link(known[9:73].decode(), line[92:-1].replace(b'"v":1', b'"v":9'))
    (later / "log" / f"{1:020}.jsonl").write_bytes(header + known + line)
    (later / "log" / f"{3:020}.jsonl").write_bytes(chain.header(scenario.LOG_ID, scenario.EVENING))
    assert k.history(later, "nobody") == []
    assert run("verify", later).code == 2
    hide(later, "b")
    ran = run("verify", later)
    assert ran.code == 1
    assert "it hides from history 1 of the 2 records about tickets" in ran.err


# --- export -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".sqlite", ".parquet", ".duckdb"])
def test_export(run, copy, tmp_path, suffix):
    to = tmp_path / f"audit{suffix}"
    ran = run("export", "queue", "--to", to)
    count = k.verify(copy).records
    assert (ran.code, ran.out, ran.err) == (0, "", f"{to}: {count} records\n")
    assert to.stat().st_size > 10_000
    ran = run("export", "queue", "--to", to)
    assert (ran.code, ran.err) == (2, f"kharon: {to} exists; --force replaces it\n")
    ran = run("export", "queue", "--to", to, "--force", "--json")
    assert (ran.code, ran.objects) == (0, [{"to": str(to), "records": count}])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["queue", to.name]), "nothing is left beside it"


def test_what_is_exported_can_be_asked(run, copy, tmp_path):
    to = tmp_path / "audit.sqlite"
    assert run("export", "queue", "--to", to).code == 0
    database = sqlite3.connect(to)
    (count,) = database.execute(
        "SELECT count(*) FROM records WHERE event = 'TicketFailed' AND error_reason LIKE 'Conn%'"
    ).fetchone()
    database.close()
    assert count == len(run("tail", "queue", "--after", 0, "--event", "failed", "--json").objects) - 5


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("audit.xlsx", "'.xlsx' is none of .csv, .jsonl, .sqlite, .parquet, .duckdb"),
        ("audit", "'none' is none of"),
        ("nowhere/audit.csv", "nowhere is not a directory"),
        ("queue/log.csv/x.csv", "is not a directory"),
        ("directory.csv", "directory.csv is a directory"),
    ],
)
def test_where_nothing_can_be_exported_to(run, copy, tmp_path, to, says):
    (tmp_path / "directory.csv").mkdir()
    ran = run("export", "queue", "--to", to)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert ran.err.count("\n") == 1
