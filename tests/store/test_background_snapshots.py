from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
import trio
from msgspec import Raw

import kharon
from kharon.log.directory import DirectoryLog
from kharon.log.snapshot import take
from kharon.model.events import TicketAdded
from kharon.store import tasks
from kharon.store.background import SnapshotTask
from kharon.testing import EPOCH

SMALL = kharon.Settings(segment_bytes=4096, snapshot_bytes=1, fsync="never")


def snapshots_in(where: Path) -> list[Path]:
    folder = where / "snapshots"
    return sorted(folder.glob("*.jsonl")) if folder.is_dir() else []


async def until(condition) -> None:
    """Wait for another process: in real time, and not for ever."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - it is another process that does it
            await trio.sleep(0.01)


async def test_a_snapshot_is_taken_beside_a_queue_that_is_used(tmp_path):
    where = tmp_path / "queue"
    async with kharon.open(where, SMALL) as kh:
        await kh.add_many([kharon.Ticket(f"t{number}", "x") for number in range(100)])
        await until(lambda: snapshots_in(where))
        first = snapshots_in(where)[-1]
        assert int(first.stem) <= 100
        await kh.add_many([kharon.Ticket(f"u{number}", "x") for number in range(100)])
        await until(lambda: snapshots_in(where)[-1] != first)
        expected = await kh.list(limit=None)
    damaged = min((where / "log").glob("*.jsonl"))
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    async with kharon.open(where) as kh:  # which did not read what the snapshot holds
        assert await kh.list(limit=None) == expected
        assert await kh.first_record() == 1
    with pytest.raises(kharon.CorruptLog):
        kharon.verify(where)


class Frozen:
    """An application that brings its own Python, whose `sys.executable` is the application."""

    frozen = True


@pytest.mark.parametrize("frozen", [True, False])
async def test_a_frozen_application_does_not_start_itself_again_for_a_snapshot(tmp_path, monkeypatch, caplog, frozen):
    application = tmp_path / "application"
    application.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    application.chmod(0o700)
    Frozen.executable = str(application) if frozen else ""
    monkeypatch.setattr(Frozen, "frozen", frozen)
    monkeypatch.setattr(tasks, "sys", Frozen)
    where = tmp_path / "queue"
    async with kharon.open(where, SMALL) as kh:
        await kh.add_many([kharon.Ticket(f"t{number}", "x") for number in range(100)])
        await until(lambda: caplog.records)
    assert not (tmp_path / "started").exists()
    assert "there is no Python to run it" in caplog.records[0].getMessage()
    assert len(kharon.replay(where).tickets) == 100


async def test_what_is_finished_while_one_is_taken_is_not_due_before_there_is_enough_of_it(tmp_path, monkeypatch):
    begun, go_on = [], trio.Event()

    async def run(command):
        begun.append(command)
        await go_on.wait()
        return 0, b"", b""

    monkeypatch.setattr("kharon.store.background._run", run)
    log = DirectoryLog(tmp_path / "queue")
    snapshots = SnapshotTask(log, 1000)
    snapshots.start()
    log.unsaved = 1000
    snapshots.look()
    await trio.testing.wait_all_tasks_blocked()
    log.unsaved += 999
    snapshots.look()
    go_on.set()
    await trio.testing.wait_all_tasks_blocked()
    assert len(begun) == 1
    log.unsaved += 1
    snapshots.look()
    await trio.testing.wait_all_tasks_blocked()
    assert len(begun) == 2
    await snapshots.stop()


async def test_what_may_be_trimmed_is_known_though_no_index_could_be_written(tmp_path, monkeypatch, caplog):
    async def run(command):
        return 2, b"17\n", b"no room"

    monkeypatch.setattr("kharon.store.background._run", run)
    monkeypatch.setattr("kharon.store.background.kept_since", lambda *_: 17)
    snapshots = SnapshotTask(DirectoryLog(tmp_path / "queue"), 1000, trims=True)
    snapshots.start()
    await trio.testing.wait_all_tasks_blocked()
    assert "no index of" in caplog.text
    assert snapshots.may_trim(17)
    assert not snapshots.may_trim(18)
    await snapshots.stop()


async def test_no_snapshot_is_taken_if_none_is_wanted(tmp_path):
    where = tmp_path / "queue"
    settings = kharon.Settings(segment_bytes=4096, snapshot_bytes=None, fsync="never")
    async with kharon.open(where, settings) as kh:
        await kh.add_many([kharon.Ticket(f"t{number}", "x") for number in range(100)])
        assert kh._store._background.snapshots is None
    assert len(list((where / "log").glob("*.jsonl"))) > 1


async def test_a_snapshot_that_cannot_be_taken_is_a_warning(tmp_path, monkeypatch, caplog):
    where = tmp_path / "queue"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    async with kharon.open(where, SMALL) as kh:
        await kh.add_many([kharon.Ticket(f"t{number}", "x") for number in range(100)])
        await until(lambda: "no snapshot of" in caplog.text)
        await kh.add(kharon.Ticket("more", "x"))
    assert snapshots_in(where) == []
    monkeypatch.undo()
    caplog.clear()
    (where / "snapshots").write_text("in the way")
    async with kharon.open(where, SMALL):
        await until(lambda: "no snapshot of" in caplog.text)
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert "Traceback" not in caplog.text


async def test_the_process_is_looked_after_by_system_tasks_alone(tmp_path, monkeypatch):
    """A Ctrl-C may be raised in any other task, and would end the whole run where that one belongs to a system task."""
    begun = tmp_path / "begun"
    program = f"import time; open({str(begun)!r}, 'w').close(); time.sleep(3600)"
    monkeypatch.setattr("kharon.store.background._PROGRAM", program)
    async with kharon.open(tmp_path / "queue", SMALL) as kh:
        await kh.add_many([kharon.Ticket(f"t{number}", "x") for number in range(100)])
        await until(begun.is_file)
        nurseries = trio.lowlevel.current_root_task().child_nurseries
        system = [task for nursery in nurseries for task in nursery.child_tasks if "SnapshotTask" in task.name]
        assert len(system) == 1
        assert system[0].child_nurseries == []


async def test_the_process_writes_the_index_too(tmp_path, caplog):
    where = tmp_path / "queue"
    async with kharon.open(where, SMALL) as kh:
        await kh.add_many([kharon.Ticket(f"t{number}", "x") for number in range(100)])
        await until(lambda: (where / "index").is_dir() and list((where / "index").glob("*.idx")))
        assert [record.event.id for record in await kh.history("t1")] == ["t1"]
    assert caplog.text == ""
    shutil.rmtree(where / "index")
    (where / "index").write_text("in the way")
    async with kharon.open(where, SMALL) as kh:
        await kh.add_many([kharon.Ticket(f"u{number}", "x") for number in range(100)])
        await until(lambda: "no index of" in caplog.text)
    assert "no snapshot of" not in caplog.text


async def test_closing_ends_the_process_that_takes_one(tmp_path, monkeypatch):
    """It is stopped in the middle: by a program that says that it has begun, and then does not end."""
    where, begun = tmp_path / "queue", tmp_path / "begun"
    program = f"import os, time; open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(3600)"
    monkeypatch.setattr("kharon.store.background._PROGRAM", program.replace("{", "{{").replace("}", "}}"))
    async with kharon.open(where, SMALL) as kh:
        await kh.add_many([kharon.Ticket(f"t{number}", "x") for number in range(100)])
        await until(lambda: begun.is_file() and begun.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


async def test_no_descriptor_to_spare_is_a_warning(tmp_path, monkeypatch, caplog):
    def fail():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("kharon.store.background.os.pipe", fail)
    async with kharon.open(tmp_path / "queue", SMALL) as kh:
        await kh.add_many([kharon.Ticket(f"t{number}", "x") for number in range(100)])
        await until(lambda: "Too many open files" in caplog.text)
        assert (await kh.get("t1")).id == "t1"


def test_a_system_task_that_crashes_does_not_keep_the_queue_from_closing(tmp_path):
    async def crash():
        raise ValueError("somebody else's")

    async def main():
        async with kharon.open(tmp_path / "queue", SMALL) as kh:
            await kh.add(kharon.Ticket("a", "t"))
            trio.lowlevel.spawn_system_task(crash)
            await trio.sleep_forever()

    with pytest.raises(trio.TrioInternalError):
        trio.run(main)
    assert kharon.verify(tmp_path / "queue").closed


def test_nothing_may_be_trimmed_by_snapshots_that_nobody_has_verified(tmp_path):
    log = DirectoryLog(tmp_path / "queue", 1)  # each record has a segment of its own
    list(log.open(EPOCH))
    for id in "abc":
        log.append([TicketAdded(id, "x", Raw(b"null"), "default", 512, EPOCH)], EPOCH, "ann")
        log.write()
        log.sync()
        take(log.directory)
    assert len(snapshots_in(log.directory)) == 2
    snapshots = SnapshotTask(log, 1 << 20, trims=True)
    assert not snapshots.may_trim(1)
    snapshots._trimmable = 1  # what a process has said
    assert snapshots.may_trim(1)
    assert not snapshots.may_trim(2)
    log.abandon()
