"""Inputs to begin with, made by the real writer: every event, every field, every kind of file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from every_event import EVENTS, LATER, NOW
from msgspec import Raw
from mutators import mend_directory
from simulated_files import SimulatedFiles
from targets import WHERE, written

from kharon.log.directory import DirectoryLog
from kharon.log.record import Chain, Seal, seal_line
from kharon.log.snapshot import take
from kharon.model import events as e

ID = b'"log":"%b"' % (b"e" * 32)


def lines() -> Iterator[bytes]:
    chain = Chain()
    yield chain.header("e" * 32, NOW)
    for event in EVENTS:
        chain = Chain()
        yield from chain.commit([event], NOW, "ann", 0)
    yield seal_line(chain.hash, Seal(1, chain.hash))


def life(steps: list[list[e.Event]], segment_bytes: int, *, snapshots: bool = True, close: bool = False) -> bytes:
    """A directory in which these commits were written, each by itself."""
    files = SimulatedFiles()
    log = DirectoryLog(WHERE, segment_bytes, files, reserve_bytes=16)
    list(log.open(NOW))
    for number, events in enumerate(steps):
        log.append(events, NOW + timedelta(seconds=number), "ann")
        log.write()
        log.sync()
        if snapshots:
            take(WHERE, files)
    if close:
        log.close(LATER)
    log.abandon()
    return directory_of(files)


def directory_of(files: SimulatedFiles) -> bytes:
    state = sorted((path.removeprefix("/q/"), data) for path, data in files.contents() if data != b"/")
    # The log's id is random, and seeds are not: so it is replaced, and the chain made anew.
    return written(mend_directory({path: re.sub(rb'"log":"\w{32}"', ID, data) for path, data in state}))


STEPS: list[list[e.Event]] = [
    [
        EVENTS[0],
        e.TicketAdded("b", "type", Raw(b"null"), "default", 1, LATER),
        e.TicketAdded("f", "end", Raw(b"null"), "t", 1, LATER, "h", ("a", "c"), ("a",), "g", True, "cancel"),
    ],
    [e.TicketClaimed("a", 1, LATER, "w")],
    [e.TicketAdded("a", "next", Raw(b"2"), "t", 2, LATER, "h", ("b",), ("b",))],
    [e.TicketFailed("b", "no", LATER), e.TicketUnblocked("a", "b")],
    [e.TicketDone("a", True, Raw(b"[1]")), e.TicketUnblocked("f", "a", "g"), e.TicketDeleted("b")],
    [e.TicketDone("a", True, Raw(b"[1]")), e.TicketUnblocked("f", "a")],
]
"""The life of three: `f` waits for `a` and its group, and what `a` is when it is added again waits for `b`."""


def directories() -> Iterator[bytes]:
    yield life([], 8 << 20)
    yield life(STEPS[:2], 8 << 20)
    yield life(STEPS, 8 << 20, close=True)
    for segment_bytes in (1, 900):
        for close in (False, True):
            yield life(STEPS, segment_bytes, close=close)
    yield life(STEPS, 1)[:-40]
    yield life(STEPS[:5], 700, snapshots=False)


def snapshots() -> Iterator[bytes]:
    for count in range(1, len(STEPS) + 1):
        data = life(STEPS[:count], 1)
        *_, last = re.split(rb"@@snapshots/[0-9]{20}\.jsonl\n", data)
        yield last


SEEDS = {"line": lines, "directory": directories, "snapshot": snapshots}


def plant(folder: Path) -> None:
    """Write the seeds of every target under `folder`."""
    for target, seeds in SEEDS.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / target / f"seed-{number:02}").write_bytes(seed)
