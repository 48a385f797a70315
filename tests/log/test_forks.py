"""Forked children: they keep nothing of a queue that their parent has open."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from log_steps import NOW, added, opened, put

from kharon.errors import QueueLocked
from kharon.log import forks
from kharon.log.files import OS_FILES


@contextlib.contextmanager
def forked_child():
    """Fork a child that does nothing until the block has ended; give what it wrote before: the files it has open."""
    ours, theirs = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.close(theirs)
        names = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.exists()]
        os.write(tell, "\n".join(names).encode() + b"\0")
        os.read(ours, 1)
        os._exit(0)
    os.close(ours)
    os.close(tell)
    try:
        with os.fdopen(told, "rb") as file:
            text = b""
            while not text.endswith(b"\0"):
                text += file.read1(1 << 16)
        yield text[:-1].decode().split("\n")
    finally:
        os.close(theirs)
        os.waitpid(child, 0)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for descriptors")


def test_a_queue_opens_again_though_a_forked_child_of_its_opener_still_runs(where):
    log, _ = opened(where)
    put(log, added("a"))
    with forked_child() as names:
        assert [name for name in names if str(where) in name] == [], "it let go of the lock and the log"
        put(log, added("b"))
        with pytest.raises(QueueLocked, match=f"in process {os.getpid()}, which is this one"):
            opened(where)
        log.close(NOW)
        log, records = opened(where)
        assert [getattr(record.event, "id", "") for record in records] == ["a", "b", ""]
    log.close(NOW)


OPENER = """
import os, subprocess, sys
from datetime import datetime, UTC
from kharon.log.directory import DirectoryLog

log = DirectoryLog(sys.argv[1])
list(log.open(datetime.now(UTC)))
if sys.argv[2] == "fork":
    child = os.fork()
    if not child:
        sys.stdin.read()
        os._exit(0)
else:  # as an extension may fork, of which Python is not told
    fd = log._lock._fd
    child = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=[fd]).pid
print(os.getpid(), child, flush=True)
os.kill(os.getpid(), 9)
"""


@contextlib.contextmanager
def killed_opener(where, how):
    """Run a process that opens a queue, makes a child and is killed; give its number while the child runs."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", OPENER, str(where), how]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        opener, child = process.stdout.readline().split()
        process.wait()
        try:
            yield opener
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)


def test_a_queue_opens_again_after_kill_9_though_a_forked_child_still_runs(where):
    with killed_opener(where, "fork"):
        log, _ = opened(where)
        log.close(NOW)


def test_a_lock_that_a_child_of_a_dead_process_holds_is_told_as_that(where):
    with (
        killed_opener(where, "exec") as opener,
        pytest.raises(QueueLocked, match=rf"by process {opener}, which has ended, .*lsof {where}/LOCK"),
    ):
        opened(where)


def test_an_orderly_close_unlocks_even_if_something_has_a_copy_of_the_descriptor(where):
    log, _ = opened(where)
    copy = os.dup(log._lock._fd)
    log.close(NOW)
    log, _ = opened(where)
    log.close(NOW)
    os.close(copy)


@pytest.mark.parametrize("holder", ["", "somebody", "1", "99999999999999999999999"])
def test_a_holder_that_cannot_be_looked_for_is_named_as_before(where, holder):
    where.mkdir()
    (where / "log").mkdir()
    lock = OS_FILES.lock(where / "LOCK", holder.encode())
    with pytest.raises(QueueLocked, match=f"in process {holder or 'unknown'} "):
        opened(where)
    lock.release()


def test_a_child_closes_all_that_is_held_and_passes_over_what_cannot_be_closed(monkeypatch):
    class Held:
        closed = 0

        def __init__(self, error):
            self.error = error

        def close(self):
            self.closed += 1
            if self.error is not None:
                raise self.error

    monkeypatch.setattr(forks, "_held", weakref.WeakSet())
    held = [forks.close_in_children(Held(error)) for error in (None, OSError(9, "Bad file descriptor"), None)]
    forks._let_go()
    assert [each.closed for each in held] == [1, 1, 1]
