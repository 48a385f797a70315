"""The command where its surroundings are unusual: closed streams, odd paths, the ends of time, odd file systems."""

from __future__ import annotations

import codecs
import errno
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import extras
import pytest
from queues import queue, trimmed_queue

import kharon as k
from kharon.audit import target
from kharon.cli import times
from kharon.log.directory import DirectoryLog
from kharon.model import events as e

ODD = os.fsdecode(b"q\xff")
ENDS = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]


@pytest.fixture
def small(tmp_path):
    """A small queue; its path is not UTF-8."""
    return trimmed_queue(tmp_path / ODD, 2)


# --- standard streams -------------------------------------------------------------------------------------------------


def shell(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    program = ["sh", "-c", f'exec "$@" {command}', "sh", sys.executable, "-m", "kharon", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("redirection", "command", "code", "err"),
    [
        (">&-", "ls", 2, "kharon: Bad file descriptor\n"),
        (">&-", "nothing", 2, None),
        ("2>&-", "ls", 0, ""),
        ("2>&-", "nothing", 2, ""),
        (">&- 2>&-", "ls", 2, ""),
        ("<&- >&- 2>&-", "nothing", 2, ""),
        ("2>/dev/full", "ls", 0, ""),
        ("2>/dev/full", "nothing", 2, ""),
        ("2>/dev/full", "why", 1, ""),
    ],
)
def test_closed_and_full_streams(tmp_path, redirection, command, code, err):
    where = trimmed_queue(tmp_path / "queue", 2)
    arguments = {"ls": ["ls", where], "nothing": ["ls", tmp_path / "nothing"], "why": ["why", where, "nobody"]}
    ran = shell(redirection, *arguments[command])
    assert ran.returncode == code
    assert "Traceback" not in ran.stderr
    assert err is None or ran.stderr == err


def test_a_closed_input_holds_no_anchor(tmp_path):
    ran = shell("<&-", "verify", trimmed_queue(tmp_path / "queue", 2), "--anchor", "-")
    assert ran.returncode == 2
    assert ran.stderr.startswith("kharon: -: '' is not an anchor")


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path):
    """What a library prints to stderr would land in it."""
    to = tmp_path / "out.jsonl"
    ran = shell(">&- 2>&-", "export", trimmed_queue(tmp_path / "queue", 2), "--to", to)
    assert ran.returncode == 0
    assert [json.loads(line)["seq"] for line in to.read_text().splitlines()][:1] == [3]


# --- paths and ids ----------------------------------------------------------------------------------------------------


def test_a_path_that_is_not_utf_8(run, small):
    for command in (["ls", small], ["verify", small], ["tail", small], ["stats", small], ["history", small, "b"]):
        for more in ([], ["--json"]):
            ran = run(*command, *more)
            assert ran.code == 0, (command, ran.err)
    assert run("verify", small, "--json").objects[0]["path"].endswith("/q\\udcff")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".sqlite", ".parquet", ".duckdb"])
def test_a_target_that_is_not_utf_8(run, small, suffix):
    if suffix in {".parquet", ".duckdb"}:
        extras.need("export")
    to = small.with_name(os.fsdecode(b"e\xff" + suffix.encode()))
    ran = run("export", small, "--to", to, "--json")
    assert (ran.code, ran.objects[0]["to"][-len(suffix) - 7 :]) == (0, f"e\\udcff{suffix}")
    assert to.stat().st_size > 0
    aside = small.with_name(ODD + "2")
    aside.mkdir()
    ran = run("export", small, "--to", aside / f"out{suffix}")
    assert ran.code == (2 if suffix == ".duckdb" else 0)
    assert "bug" not in ran.err


def test_a_page_of_such_a_queue(run, small):
    to = small.with_name(os.fsdecode(b"r\xff.html"))
    assert run("report", small, "b", "-o", to, "--json").objects[0]["to"].endswith("r\\udcff.html")
    assert to.read_text("ascii").startswith("<!")


def test_an_id_that_is_not_utf_8(run, small):
    for command in ("show", "history", "why"):
        for more in ([], ["--json"]):
            ran = run(command, small, ODD, *more)
            assert (ran.code, ran.out) == (1, "")
            assert "InternalError" not in ran.err
    assert run("tail", small, "--id", ODD).code == 0


# --- the ends of time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/New_York"])
def test_both_ends_of_time_are_shown(at_home, run, tmp_path, zone):
    at_home.setenv("TZ", zone)
    time.tzset()
    log = DirectoryLog(tmp_path / "queue")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    list(log.open(now))
    added = [e.TicketAdded(f"t{at.year}", "email", k.Ticket("x", "y").payload_json, "default", 1, at) for at in ENDS]
    log.append(added, now, "ann")
    log.close(now)
    where = tmp_path / "queue"
    for present in (*ENDS, now):
        at_home.setenv("KHARON_NOW", present.isoformat())
        for command in (
            ["ls", where],
            ["tubes", where],
            ["tail", where],
            ["stats", where, "--since", "0001-01-01T00:00Z"],
            ["as-of", where, "9999-12-31T23:59:59.999999Z"],
            ["diff", where, "0001-01-01T00:00Z", "9999-12-31T23:59:59Z"],
            *([each, where, f"t{at.year}"] for at in ENDS for each in ("show", "why", "history")),
            ["report", where, "t1", "-o", tmp_path / "page.html", "--force"],
        ):
            ran = run(*command)
            assert (ran.code, "bug" in ran.err) == (0, False), (command, ran.err)
    for at in ENDS:
        shown = times.local_time(at)
        assert times.parse_instant(shown, "", now) == at.replace(microsecond=at.microsecond // 1000 * 1000)


def test_a_time_that_utc_cannot_hold_is_out_of_range(run, small):
    for text in ("0001-01-01T00:00+14:00", "9999-12-31T23:59:59-12"):
        ran = run("as-of", small, text)
        assert (ran.code, ran.err) == (
            2,
            f"kharon: TIME|SEQ: {text!r} is out of range: in UTC its year is not one of 1 to 9999\n",
        )


# --- targets ----------------------------------------------------------------------------------------------------------


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_links(*_paths: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_file_system_without_hard_links(run, small, monkeypatch):
    monkeypatch.setattr(target.os, "link", no_links)
    folder = small.parent / "fat"
    folder.mkdir()
    for command in (["export", small, "--to", folder / "out.csv"], ["report", small, "-o", folder / "page.html"]):
        assert run(*command).code == 0
        size = command[-1].stat().st_size
        assert size > 0
        assert run(*command).code == 2
        assert command[-1].stat().st_size == size
    assert names_in(folder) == ["out.csv", "page.html"]


def test_on_it_too_a_file_that_was_made_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(target.os, "link", no_links)

    def write(path: Path) -> None:
        path.write_text("mine")
        (tmp_path / "to").write_text("another's")

    with pytest.raises(FileExistsError):
        target.write_target(tmp_path / "to", write, force=False)
    assert (tmp_path / "to").read_text() == "another's"
    assert names_in(tmp_path) == ["to"]


def test_on_it_a_name_that_cannot_be_given_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(target.os, "link", no_links)

    def fails(_self: Path, _to: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(target.Path, "replace", fails)
    with pytest.raises(OSError, match="Input/output"):
        target.write_target(tmp_path / "to", lambda path: path.write_text("x"), force=False)
    assert names_in(tmp_path) == []


def test_a_target_whose_name_is_as_long_as_allowed(run, small):
    to = small.with_name("x" * 251 + ".csv")
    assert run("export", small, "--to", to).code == 0


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".sqlite", ".parquet", ".duckdb"])
def test_a_target_without_room(run, tmp_path, suffix):
    """It is no bug, exits with 2, and leaves no half file."""
    if suffix in {".parquet", ".duckdb"}:
        extras.need("export")
    queue(tmp_path / "queue", 300)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
    limited += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "import sys; from kharon.cli import main; sys.exit(main(sys.argv[1:]))"
    to = tmp_path / "out" / f"out{suffix}"
    to.parent.mkdir()
    arguments = ["export", tmp_path / "queue", "--to", to]
    ran = subprocess.run(
        [sys.executable, "-c", limited, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, "bug" in ran.stderr) == (2, False), ran.stderr
    assert names_in(to.parent) == []


# --- anchors ----------------------------------------------------------------------------------------------------------


def test_anchors_as_people_keep_them(run, small, tmp_path):
    line = run("anchor", small).out.strip()
    older = f"kharon-anchor {'0' * 32} 1 {'0' * 64}"
    kept = tmp_path / "kept"
    wrapped = f"{line[:60]}\n{line[60:]}"
    for data in (
        codecs.BOM_UTF8 + line.encode(),
        line.encode("utf-16"),
        codecs.BOM_UTF16_BE + f"{line}\r\n".encode("utf-16-be"),
        wrapped.encode(),
        wrapped.replace("\n", "\r\n").encode(),
        line.replace(" ", "\n").encode(),
        f"{older}\n{line}\n".encode(),
        f"{older}\n".encode() * 500 + f"2026-01-01 {line}\n".encode(),
        f"{older}\n".encode() + run("anchor", small, "--json").out.encode(),
    ):
        kept.write_bytes(data)
        ran = run("verify", small, "--anchor", kept)
        assert ran.code == 0, (data, ran.err)
    kept.write_text(f"{line}\n{line[:-3]}\n")
    assert run("verify", small, "--anchor", kept).code == 2, "the last one is cut"
    kept.write_text(f"{line}\n{older}\n")
    assert run("verify", small, "--anchor", kept).code == 1, "the last one counts"
    kept.write_text(line + " " * (1 << 20))
    assert "larger than" in run("verify", small, "--anchor", kept).err
    kept.write_text("{" * 100_000)
    assert run("verify", small, "--anchor", kept).code == 2


# --- sorting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_exported_instants_sort_as_text_as_they_do_in_time(run, small, suffix):
    log = DirectoryLog(small)
    log.load_snapshot()
    second = datetime(2026, 2, 1, tzinfo=UTC)
    list(log.open(second))
    for micro in (0, 1, 250_000):
        log.append([e.TubePaused("default")], second.replace(microsecond=micro), "ann")
    log.close(second.replace(second=1))
    to = small.with_name("out" + suffix)
    assert run("export", small, "--to", to).code == 0
    text = to.read_text().splitlines()
    found = (
        [json.loads(line)["at"] for line in text] if suffix == ".jsonl" else [line.split(",")[1] for line in text[1:]]
    )
    assert "2026-02-01T00:00:00.000000Z" in found
    assert found == sorted(found)
