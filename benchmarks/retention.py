"""The longest stall of the event loop while old segments are compressed in the background, against an idle queue.

python benchmarks/retention.py [--seconds SECONDS] [--where DIRECTORY]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import trio
from msgspec import Raw

import kharon
from kharon.log.directory import DirectoryLog, segments
from kharon.model.events import TicketAdded

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def write_large(where: Path) -> None:
    """Write a log of a little more than three segments of 8 MiB."""
    log = DirectoryLog(where)
    list(log.open(NOW))
    for number in range(60_000):
        payload = Raw(b'"%b"' % os.urandom(100).hex().encode())
        log.append([TicketAdded(f"t{number}", "type", payload, "default", 512, NOW)], NOW, "ann")
        if number % 1000 == 0:
            log.write()
    log.close(NOW)


async def measure(where: Path, compress: int | None, seconds: float) -> tuple[float, int]:
    """Return the longest stall of an otherwise idle loop, in seconds, and the number of compressed segments."""
    settings = kharon.Settings(compress_beyond_bytes=compress, snapshot_bytes=None, max_poll_interval=0.05)
    longest = 0.0
    async with kharon.open(where, settings):
        last = time.perf_counter()
        end = last + seconds
        while last < end:
            await trio.lowlevel.checkpoint()
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    return longest, sum(path.suffix == ".zst" for path in segments(where))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--where", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.where) as folder:
        where = Path(folder, "queue")
        write_large(where)
        for what, limit in (("nothing", None), ("compressing", 1)):
            longest, count = trio.run(measure, where, limit, options.seconds)
            print(f"{what}: the longest stall was {longest * 1000:.2f} ms; {count} segments of 8 MiB compressed")


if __name__ == "__main__":
    main()
