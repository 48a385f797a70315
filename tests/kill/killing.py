"""The test's side of a death: processes are started and killed, what they said is heard, and looked for afterwards."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

import trio

import kharon
from kharon.log.directory import segments
from kharon.log.index import INDEX, write_missing
from kharon.log.snapshot import read_snapshot
from kharon.model.events import TicketDone

ZYGOTE = Path(__file__).with_name("zygote.py")
PATIENCE_SECONDS = 30.0
KILLED = -signal.SIGKILL
FACTS = ("added", "done", "failed", "acked", "refused")


class Facts:
    """What was acknowledged, by all processes that a queue had."""

    def __init__(self) -> None:
        self.verbs: dict[str, str] = {}
        self.refused: set[str] = set()

    def __len__(self) -> int:
        return len(self.verbs) + len(self.refused)

    def hear(self, verb: str, id: str) -> None:
        if verb == "refused":
            self.refused.add(id)
        elif verb != "added" or id not in self.verbs:  # a settle may be said before the adding is
            self.verbs[id] = verb


class Killer:
    """Starts processes of `writer.py` on one queue, one after the other, and sees to their ends.

    Args:
        where: the queue's directory.
        record: pytest's `record_property`, for `report`.

    Attributes:
        where: the queue's directory.
        facts: what they said.
        deaths: how many were killed, by failpoint, or by "random".
        last: the lines of the last one.
    """

    def __init__(self, where: Path, record: Callable[[str, object], None]) -> None:
        self.where = where
        self._record = record
        self.facts = Facts()
        self.deaths: Counter[str] = Counter()
        self.last: list[tuple[str, str]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.pid is not None:
            self.end("kill")
        self._process.communicate(timeout=PATIENCE_SECONDS)

    pid: int | None = None

    def _tell(self, line: str) -> None:
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def line(self) -> tuple[str, str]:
        """The next line; facts are taken down. Fails if none comes."""
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_SECONDS)
            if not ready:
                os.kill(self.pid, signal.SIGKILL)  # else it would be waited for; it has not been reaped
            assert ready, f"the process says nothing any more; last {self.last[-5:]}"
            more = os.read(self._process.stdout.fileno(), 1 << 16)
            assert more, "the zygote has ended"
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        verb, rest = line.decode().split(" ", 1)
        if verb in FACTS:
            self.facts.hear(verb, rest)
        self.last.append((verb, rest))
        return verb, rest

    def hear(self, seconds: float) -> None:
        """Hear what is said for a while, so that nobody has to wait until it is heard."""
        deadline = time.monotonic() + seconds
        while b"\n" in self._rest or select.select([self._process.stdout], [], [], 0)[0]:
            self.line()
            if time.monotonic() > deadline:
                return
        time.sleep(max(0, deadline - time.monotonic()))

    def lines(self, count: int) -> None:
        """Hear so many lines; fewer if it ends."""
        for _ in range(count):
            self.line()

    def start(self, **options: object) -> None:
        """Start a process with these arguments of `writer.play`."""
        assert self.pid is None
        self.last = []
        self._tell(json.dumps({"where": str(self.where), **options}))
        verb, pid = self.line()
        assert verb == "started"
        self.pid = int(pid)

    def end(self, how: str) -> int:
        """Let it end, by "kill" or by "wait"; return its status, once all that it said has been heard."""
        self._tell(how)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            verb, rest = self.line()
            if how == "wait" and time.monotonic() > deadline:
                how = "kill"
                os.kill(self.pid, signal.SIGKILL)  # it has not been reaped
            if verb == "ended":
                self.last.pop()
                self.pid = None
                return int(rest)

    def kill(self, lines: int, **options: object) -> None:
        """Start a process, and kill it when it has said so many lines."""
        self.start(**options)
        self.lines(lines)
        assert self.end("kill") == KILLED, "the process ended by itself"
        self.deaths["random"] += 1

    def interrupt(self) -> None:
        """Press Ctrl-C, in the process alone."""
        os.kill(self.pid, signal.SIGINT)  # it has not been reaped, so nobody else has its pid

    def die(self, failpoint: str, **options: object) -> None:
        """Start a process that dies at a failpoint, and see that it died there and nowhere else."""
        self.start(failpoint=failpoint, **options)
        status = self.end("wait")
        assert status == KILLED, f"it was to die at {failpoint}, and ended with {status}; last {self.last[-5:]}"
        assert ("failpoint", failpoint) in self.last, f"it was to die at {failpoint}; last {self.last[-5:]}"
        self.deaths[failpoint] += 1

    def close(self, **options: object) -> None:
        """Start a process that ends in good order."""
        self.start(**options)
        assert self.end("wait") == 0

    def report(self) -> None:
        """Say in the test's report how many died, where, and how much had been acknowledged. At the end of the test."""
        named = self.deaths.total() - self.deaths["random"]
        self._record("kills", self.deaths.total())
        self._record("kills at random moments", self.deaths["random"])
        self._record("kills at named places", named)
        for name in self.deaths.keys() - {"random"}:
            self._record("named places", name.split()[0])  # without who died there
        self._record("facts acknowledged", len(self.facts))


# --- processes that must not outlive their parent ---------------------------------------------------------------------


def processes_about(text: str) -> list[int]:
    """The pids of processes whose command line holds `text`. One that has ended has none, reaped or not."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def is_over(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def until(condition, what: str) -> None:
    """Wait for another process: in real time, and not for ever."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def nobody_is_left(where: Path) -> None:
    """Wait until no process that takes a snapshot of this queue is left; it ends soon after its parent."""
    until(lambda: not processes_about(str(where)), f"a process still works on {where}, whose parent was killed")


# --- the oracle -------------------------------------------------------------------------------------------------------


def check_found(where: Path, facts: Facts) -> None:
    """Check that the log verifies, as it lies there, and that everything that was said is in it."""
    if not (where / "log").is_dir() or not list((where / "log").glob("*.jsonl")):
        assert not facts.verbs
        return
    report = kharon.verify(where)
    records = list(kharon.read(where))
    assert report.records == len(records)
    projection = kharon.replay(where)
    trimmed = report.first > 1  # then only what is kept can be found, and each fifth ticket is not
    removed = {record.event.id for record in records if isinstance(record.event, TicketDone) and not record.event.keep}
    for id, verb in facts.verbs.items():
        ticket = projection.tickets.get(id)
        if trimmed and ticket is None and id.endswith("5"):
            assert verb in ("acked", "added")
        elif verb == "acked" or ticket is None:
            assert id in removed, f"{id} was {verb}, and is lost"
        elif verb != "added":
            assert ticket.status == verb, f"{id} was {verb}, and is {ticket.status}"
    for id in facts.refused:
        assert id not in projection.tickets, f"{id} was refused, and is there"


def check_reopened(where: Path, scratch: Path, facts: Facts) -> None:
    """Open a copy of what a death left, and check that it is whole, tidy, and what its log says; then close it.

    A copy, so that the next process finds what this death left, and not what an opening has mended.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    if not where.exists():
        return
    shutil.copytree(where, scratch)

    async def reopen() -> None:
        async with kharon.open(scratch, kharon.Settings(snapshot_bytes=None, reserve_bytes=0, fsync="never")) as kh:
            left = list(scratch.rglob("*.tmp"))  # noqa: ASYNC240 - nothing else runs
            assert [path for path in left if path.parent.name != INDEX] == []
            live = kh._queue.store.projection
            live.check()
            replayed = kharon.replay(scratch)
            assert replayed == live
            assert replayed.tickets == live.tickets
            await kh.add(kharon.Ticket("one more", "work"))

    trio.run(reopen)
    assert kharon.verify(scratch).closed
    # An opening takes no notice of the cache of indexes: who writes the next one removes what was left of another.
    write_missing(scratch, segments(scratch))
    assert list(scratch.rglob("*.tmp")) == []
    check_found(scratch, facts)
    check_snapshots(scratch)


def check_snapshots(where: Path) -> None:
    """Check that each snapshot under its own name is whole, and what the log up to it says."""
    for path in sorted((where / "snapshots").glob("*.jsonl")):
        with path.open("rb") as file:
            snapshot = read_snapshot(file, str(path))
        then = kharon.replay(where, until=snapshot.seq)
        assert (then.seq, then.at) == (snapshot.seq, snapshot.at)
        assert list(then.tickets.values()) == snapshot.tickets
