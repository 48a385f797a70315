"""The cost of a commit and the longest stall of the loop, with syncs in the loop, in the helper, or in a bare thread.

    python benchmarks/sync.py [--slow SECONDS] [--seconds SECONDS] [--where DIRECTORY]

Each line is one lone caller that adds tickets, on an idle loop or beside a task that runs stretches of 20 µs to 1 ms of
Python. Disks: this machine's, and the same slowed down by a sleep before each sync. "stall" is the longest time in a
commit for which another task had to wait for its turn, without its own stretches.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

import kharon
from kharon.log.directory import DirectoryLog
from kharon.log.files import File, OsFiles
from kharon.log.syncer import bring_to_disk
from kharon.model import commands as c
from kharon.store.local import LocalStore
from kharon.store.opening import WallClock
from kharon.store.sync_helper import Done, Helper, Syncer

STRETCHES = (20e-6, 100e-6, 300e-6, 1e-3)
SEGMENT_BYTES = 8 << 10  # a new segment every twenty commits, so that its cost shows in the 99th percentile


class Disk(OsFiles):
    """The machine's disk, with slower syncs."""

    def __init__(self, slower_by: float) -> None:
        self.slower_by = slower_by

    def create(self, path: Path) -> File:
        return self._slower(super().create(path))

    def append(self, path: Path) -> File:
        return self._slower(super().append(path))

    def _slower(self, file: File) -> File:
        sync = file.sync

        def slow_sync() -> None:
            time.sleep(self.slower_by)
            sync()

        file.sync = slow_sync  # type: ignore[method-assign]
        return file

    def sync_directory(self, path: Path, fd: int | None = None) -> None:
        time.sleep(self.slower_by)
        super().sync_directory(path, fd)


class BareThread:
    """The variant that Kharon avoids: the sync in a thread of this process."""

    def __init__(self, slower_by: float) -> None:
        self.slower_by = slower_by
        self.ready = False

    def start(self) -> None:
        self.ready = True

    def request(self, fd: int, done: Done, *, names: bool = False) -> bool:
        def sync() -> float:
            begun = time.perf_counter()
            if self.slower_by:
                time.sleep(self.slower_by)
            bring_to_disk(fd, directory=names)
            return time.perf_counter() - begun

        trio.lowlevel.start_thread_soon(sync, self.deliver(done, trio.lowlevel.current_trio_token()))
        return True

    @staticmethod
    def deliver(done: Done, token: trio.lowlevel.TrioToken) -> Callable[[object], None]:
        return lambda result: token.run_sync_soon(lambda: done(None, result.unwrap()))

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


class Fixed:
    """A pace that never changes."""

    def __init__(self, *, slow: bool) -> None:
        self.slow = slow

    def add(self, seconds: float) -> None:
        pass


class Loop:
    """Keeps the loop busy, or only measures its stalls, in a task that runs at every pass."""

    def __init__(self, *, busy: bool) -> None:
        self.busy = busy
        self.stall = 0.0

    async def run(self) -> None:
        stretches = random.Random(1)
        left = time.perf_counter()
        while True:
            now = time.perf_counter()
            self.stall = max(self.stall, now - left)
            if self.busy:
                until = now + stretches.choice(STRETCHES)
                while time.perf_counter() < until:
                    pass
            left = time.perf_counter()
            # Every half a millisecond for an idle loop: running at every pass would make it busy.
            await trio.sleep(0 if self.busy else 0.0005)


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


async def measure(where: str, way: str, slower_by: float, seconds: float, *, busy: bool) -> list[float]:
    """Return the median and the 99th percentile of a commit's seconds, then of its longest stall."""
    made: dict[str, Callable[[], Syncer]] = {
        "helper": lambda: Helper([str(slower_by)] if slower_by else []),
        "thread": lambda: BareThread(slower_by),
    }
    log, loop = DirectoryLog(where, SEGMENT_BYTES, Disk(slower_by)), Loop(busy=busy)
    store = LocalStore(
        log,
        kharon.Settings(),
        WallClock(),
        lambda _commit: None,
        lambda: None,
        in_thread=False,
        helper=made.get(way, Helper),
    )
    store._commits._pace = Fixed(slow=way != "loop")  # type: ignore[assignment]
    await store.open()
    count, times, stalls = 0, [], []

    async def add() -> None:
        nonlocal count
        count += 1
        await store.submit((c.Add(str(count), kharon.Ticket(str(count), "t")),), "app")

    while way != "loop" and ((helper := store._commits._helper) is None or not helper.ready):
        await add()
        await trio.sleep(0.002)
    for _ in range(3):
        await add()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run)
        await trio.sleep(0.01)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            loop.stall, begun = 0.0, time.perf_counter()
            await add()
            times.append(time.perf_counter() - begun)
            await trio.sleep(0.001)  # so that the other task measures the end of a stall
            stalls.append(loop.stall)
        nursery.cancel_scope.cancel()
    await store.close()
    return [percentile(values, part) for values in (times, stalls) for part in (0.5, 0.99)]


async def main(slow: float, seconds: float, base: Path) -> None:
    columns = ("p50", "p99", "stall p50", "stall p99")
    print(f"{'milliseconds':<24}{' idle':->40}{' busy':->40}{'p99 busy/idle':>15}")
    print(f"{'':<24}" + "".join(f"{column:>10}" for column in columns * 2))
    for disk, slower_by in (("this disk", 0.0), (f"{slow * 1000:g} ms slower", slow)):
        for way in ("loop", "helper", "thread"):
            idle = await measure(tempfile.mkdtemp(dir=base), way, slower_by, seconds, busy=False)
            busy = await measure(tempfile.mkdtemp(dir=base), way, slower_by, seconds, busy=True)
            figures = "".join(f"{1000 * value:>10.2f}" for value in idle + busy)
            print(f"{disk + ', ' + way:<24}{figures}{busy[1] / idle[1]:>15.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slow", type=float, default=0.02, help="seconds added to each sync of the slow disk")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each of the twelve measurements")
    parser.add_argument("--where", type=Path, default=None, help="a directory on the disk; default: a temporary one")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(dir=arguments.where, prefix="kharon-benchmark-"))
    try:
        trio.run(main, arguments.slow, arguments.seconds, directory)
    finally:
        shutil.rmtree(directory)
