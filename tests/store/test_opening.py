"""The store of each kind of place: a directory, memory, or a log of the user's own; and what runs beside it."""

from __future__ import annotations

import os

import pytest
import trio

import kharon
from kharon import Settings, Ticket
from kharon.log.directory import DirectoryLog
from kharon.log.memory import MemoryLog
from kharon.model import commands as c
from kharon.store.opening import WallClock, open_store
from kharon.testing import FailingLog, TrioClock


def made(where, clock=None, **settings):
    """A store, and the changes that it has delivered."""
    told = []
    closed = []
    store = open_store(
        where,
        Settings(**settings),
        clock or TrioClock(),
        deliver=lambda commit: told.append([(change.seq, type(change.event).__name__) for change in commit]),
        closed=lambda: closed.append(True),
    )
    return store, told, closed


PLACES = {
    "directory": lambda path: path / "queue",
    "str": lambda path: str(path / "queue"),
    "memory": lambda _path: ":memory:",
    "directory log": lambda path: DirectoryLog(path / "queue"),
    "memory log": lambda _path: MemoryLog(1000),
    "log of one's own": lambda path: FailingLog(DirectoryLog(path / "queue")),
}


@pytest.mark.parametrize("place", PLACES)
async def test_every_place_has_a_store_that_delivers_each_commit(tmp_path, place):
    store, told, closed = made(PLACES[place](tmp_path))
    with pytest.raises(kharon.Closed, match="has not been opened"):
        await store.get("a")
    await store.open()
    added = await store.submit([c.Add(id, Ticket(id, "t")) for id in "ab"], "ann")
    assert [ticket.id for ticket in added] == ["a", "b"]
    await store.submit([c.Delete("a")], "ann")
    assert told == [[(1, "TicketAdded"), (2, "TicketAdded")], [(3, "TicketDeleted")]]
    assert not closed
    await store.close()
    assert closed
    with pytest.raises(kharon.Closed):
        await store.get("b")


async def test_what_others_did_before_is_not_delivered_and_what_opening_does_is(tmp_path):
    log = DirectoryLog(tmp_path / "queue")
    store, _, _ = made(log)
    await store.open()
    await store.submit([c.Add("a", Ticket("a", "t"))], "ann")
    assert await store.turn("w", ("default",), None, settle_by="w", claim=True)
    log.abandon()  # as if killed
    store, told, _ = made(tmp_path / "queue")
    await store.open()
    assert [[name for _, name in commit] for commit in told] == [["TicketLapsed"]]
    await store.close()


@pytest.mark.parametrize(
    ("where", "why"), [("", "neither a directory nor"), ("redis://h/1", "neither"), (3, "not int")]
)
def test_what_is_no_place_is_refused_at_once(where, why):
    with pytest.raises(kharon.InvalidSettings, match=f"where: .*{why}"):
        made(where)


async def test_a_directory_is_found_once(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    store, _, _ = made("queue")
    os.chdir(tmp_path / "there")
    await store.open()
    await store.close()
    assert list((tmp_path / "here").iterdir()) == [tmp_path / "here" / "queue"]
    assert list((tmp_path / "there").iterdir()) == []


def system_tasks():
    (main,) = [trio.lowlevel.current_root_task()]
    return {task.name.split(".")[-2] for nursery in main.child_nurseries for task in nursery.child_tasks}


async def test_what_runs_beside_a_store_begins_and_ends_with_it(tmp_path):
    beside = {"SnapshotTask", "RetentionTask"}
    store, _, _ = made(tmp_path / "queue", compress_after=3600)
    assert not beside & system_tasks()
    await store.open()
    assert beside <= system_tasks()
    await store.close()
    assert not beside & system_tasks()
    store, _, _ = made(":memory:", compress_after=3600)
    await store.open()
    assert not beside & system_tasks()
    await store.close()


async def test_nothing_runs_beside_a_store_that_could_not_be_opened(tmp_path):
    async with kharon.open(tmp_path / "queue"):
        store, _, _ = made(tmp_path / "queue", compress_after=3600)
        before = system_tasks()
        with pytest.raises(kharon.QueueLocked):
            await store.open()
        assert system_tasks() == before
        await store.close()


async def test_damage_is_refused_with_a_note_of_what_can_be_done(tmp_path):
    async with kharon.open(tmp_path / "queue") as kh:
        await kh.add(Ticket("a", "t"))
    (segment,) = (tmp_path / "queue" / "log").iterdir()
    segment.write_bytes(segment.read_bytes().replace(b'"a"', b'"b"'))
    store, _, _ = made(tmp_path / "queue")
    with pytest.raises(kharon.CorruptLog) as caught:
        await store.open()
    assert "kharon.repair(path)" in caught.value.__notes__[0]


def test_the_machines_clock_is_in_utc():
    assert WallClock().now().utcoffset().total_seconds() == 0
