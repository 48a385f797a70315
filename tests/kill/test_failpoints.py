"""Processes that die at named places in the life of a log, one after the other on the same queue: a story each.

After each death everything that the process had been told is found again in the log as it lies there, and in a copy
that is opened; the next process goes on with what the death itself left, so that recovery recovers from recovery.
The names, and where they are, are in `failpoints.py`. `KHARON_KILL_SCALE` multiplies the stories.
"""

import os
import random
import shutil

import pytest
from failpoints import (
    CLOSING,
    FIRST_OPENING,
    GROUPS,
    HELPER,
    HELPER_ROTATION,
    NO_ROOM,
    RECOVERY,
    REPAIR,
    REPAIRED,
    ROTATION,
    SNAPSHOT,
)
from killing import Facts, Killer, check_found, check_reopened, check_snapshots, is_over, nobody_is_left, until

import kharon
from kharon.log.index import INDEX

pytestmark = pytest.mark.campaign
SCALE = int(os.environ.get("KHARON_KILL_SCALE", "1"))
MODES = ("always", "0.05", "never")
TAKES = [(number, MODES[number % 3]) for number in range(SCALE)]


def tell(killer: Killer, story: tuple[str, ...], seed: str, most: int = 1, **options: object) -> None:
    """Let a process die at each place of a story, at its first passing or one up to the `most`-th."""
    chance = random.Random(seed)
    for number, name in enumerate(story):
        if name == "anew":
            shutil.rmtree(killer.where)
        elif name == "close":
            killer.close(prefix=f"p{number}", **{**options, "until": 3})
        else:
            killer.die(name, prefix=f"p{number}", count=chance.randrange(most) + 1, **options)
        look(killer)


def look(killer: Killer) -> None:
    """Check what a death has left."""
    check_found(killer.where, killer.facts)
    check_reopened(killer.where, killer.where.with_name("copy"), killer.facts)


@pytest.mark.parametrize(("take", "fsync"), TAKES)
def test_killed_while_it_is_opened_for_the_first_time(killer, take, fsync):
    tell(killer, FIRST_OPENING, f"first {take}", fsync=fsync)
    assert len(killer.facts) == 0
    killer.report()


@pytest.mark.parametrize("fsync", MODES)
@pytest.mark.parametrize("take", range(SCALE))
def test_killed_while_it_writes_a_commit_group(killer, take, fsync):
    story = GROUPS if fsync == "always" else [name for name in GROUPS if "sync" not in name]
    tell(killer, story, f"groups {take}", most=40, fsync=fsync)
    assert len(killer.facts) > 20
    killer.report()


@pytest.mark.parametrize("fsync", MODES)
@pytest.mark.parametrize("take", range(SCALE))
def test_killed_while_it_begins_a_new_segment(killer, take, fsync):
    tell(killer, ROTATION, f"rotation {take}", most=20, fsync=fsync)
    assert len(killer.facts) > 100
    killer.report()


@pytest.mark.parametrize(("take", "fsync"), TAKES)
def test_killed_while_it_recovers_from_the_last_kill(killer, take, fsync):
    tell(killer, RECOVERY, f"recovery {take}", fsync=fsync)
    killer.report()


@pytest.mark.parametrize(("take", "fsync"), TAKES)
def test_killed_while_it_closes_and_opens_what_was_closed(killer, take, fsync):
    tell(killer, CLOSING, f"closing {take}", fsync=fsync, until=5)
    killer.report()


@pytest.mark.parametrize(("take", "fsync"), TAKES)
def test_killed_while_the_disk_is_full(killer, take, fsync):
    tell(killer, NO_ROOM, f"full {take}", most=8, fsync=fsync, full=True)
    assert len(killer.facts.refused) > 10
    killer.report()


# --- processes of its own ---------------------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path):
    """A FIFO, and a descriptor to read it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, fd
    os.close(fd)


def said_in(fd: int) -> list[str]:
    try:
        return os.read(fd, 1 << 16).decode().split()
    except BlockingIOError:  # the process that has it open has said nothing
        return []


def wait_for_word(killer: Killer, fd: int) -> list[str]:
    """Hear what the queue's process says until the other one has said something."""
    said: list[str] = []

    def has_spoken() -> bool:
        killer.hear(0.01)
        said.extend(said_in(fd))
        return bool(said)

    until(has_spoken, "no snapshot was taken")
    return said


@pytest.mark.parametrize("victim", ["child", "parent"])
@pytest.mark.parametrize("take", range(SCALE))
def test_killed_while_a_snapshot_is_taken(killer, pipe, take, victim):
    """The process that takes it, or the one that has the queue while the other one is at that place and stays there."""
    path, fd = pipe
    for number, name in enumerate(SNAPSHOT):
        options = {"snapshot_bytes": 16 << 10, "tasks": 1, "pause": 0.02, "snapshot": (name, victim, str(path))}
        killer.start(prefix=f"{victim}{number}", **options)
        if victim == "child":
            said = wait_for_word(killer, fd)
            killer.lines(10)  # the queue goes on without it
            status = killer.end("kill")
            killer.deaths["random"] += 1
        else:
            status = killer.end("wait")
            said = said_in(fd)
        assert said == [name]
        assert status == -9
        killer.deaths[f"{name} ({victim})"] += 1
        nobody_is_left(killer.where)
        look(killer)
        check_snapshots(killer.where)
    assert len(list((killer.where / "snapshots").glob("*.jsonl"))) >= 2
    killer.report()


@pytest.mark.parametrize("take", range(SCALE))
def test_killed_while_the_helper_syncs(killer, take):
    """The process that has the queue, and then the helper: the queue goes on without it."""
    chance = random.Random(f"helper {take}")
    options = {"helper": True, "segment_bytes": 64 << 10}  # the first sync of a segment is not the helper's
    for number, name in enumerate([*HELPER, *HELPER[1:]]):
        count = 1 if name == "helper.start.after" else chance.randrange(5) + 1
        killer.die(name, prefix=f"p{number}", count=count, **options)
        the_helper_ends(killer)
        look(killer)
    for number in range(3):
        killer.start(prefix=f"q{number}", failpoint="helper.sync.killed", count=chance.randrange(5) + 1, **options)
        while killer.line() != ("failpoint", "helper.sync.killed"):
            pass
        killer.deaths["helper.sync.killed"] += 1
        heard = len(killer.facts)
        while len(killer.facts) < heard + 50:
            killer.line()
        assert killer.end("kill") == -9
        killer.deaths["random"] += 1
        the_helper_ends(killer)
        look(killer)
    killer.report()


@pytest.mark.parametrize("take", range(SCALE))
def test_killed_while_the_helper_syncs_a_new_segment(killer, take):
    tell(killer, HELPER_ROTATION, f"helper rotation {take}", most=5, helper=True, segment_bytes=16 << 10)
    the_helper_ends(killer)
    killer.report()


def the_helper_ends(killer: Killer) -> None:
    (pid,) = [int(pid) for verb, pid in killer.last if verb == "helper"]
    until(lambda: is_over(pid), "the helper outlives the process that it syncs for")


@pytest.mark.parametrize("take", range(SCALE))
def test_killed_while_it_repairs(killer, take):
    """Whatever a repair was killed at, the next one does the same to the same log."""
    where = killer.where
    killer.close(prefix="p", until=20)
    segments = sorted((where / "log").glob("*.jsonl"))
    middle = segments[len(segments) // 2]
    data = bytearray(middle.read_bytes())
    data[len(data) // 2] ^= 1
    whole = where.with_name("whole")
    shutil.copytree(where, whole)
    middle.write_bytes(data)
    plan = kharon.repair(where)
    kept = kharon.replay(whole, until=plan.last)
    assert plan.records > 50
    for name in REPAIR + REPAIRED:
        killer.die(name, part="mend")
        left = kharon.repair(where)
        assert (left.damage is None) == (name in REPAIRED)
        assert left.last >= plan.last
        assert kharon.replay(where, until=plan.last).tickets == kept.tickets
    assert kharon.replay(where).tickets == kept.tickets
    assert [path for path in where.rglob("*.tmp") if path.parent.name != INDEX] == []
    check_reopened(where, where.with_name("copy"), Facts())
    killer.report()
