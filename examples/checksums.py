"""Keep a manifest of SHA-256 sums of a directory tree true: `sha256sum -c SHA256SUMS`, run in the tree, verifies it.

python examples/checksums.py [TREE] [--watch]      the tree is this project if you name none; --help shows the rest

Each file has a ticket, and the queue is the truth: the ticket of a hashed file is kept as done, with the sum as its
result, and the manifest is made of those results alone, always as a whole. So stop this with Ctrl-C, or kill it, when
you like: run again, it goes on where it was. A run adds a ticket for each new file, and adds it again for each that has
changed (size, mtime and inode tell, as in git) or that failed in the last run; cancels the tickets of files that have
vanished; hashes what is due; tries again later what it cannot read, and gives that up after `ATTEMPTS` attempts.

It ends with 0; with 1 if files failed, 2 if it could not work at all, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes

import trio

import kharon

WORKERS = 16  # more than there are processors, since a small file mostly waits for a sync, and workers share syncs
ATTEMPTS = 3
LEASE = 30.0  # seconds
CHUNK = 32 << 20  # bytes to hash before we look whether to stop, and at the lease
WATCH_INTERVAL = 2.0  # seconds
SKIPPED_FOLDERS = frozenset({".git", ".hg", ".svn", "__pycache__", ".hypothesis", "node_modules"})
MARKS_OF_SKIPPED = frozenset({"pyvenv.cfg", "CACHEDIR.TAG"})  # in virtual environments, in well-behaved caches

# What a file looks like: size, mtime in nanoseconds, inode. A list, because tickets hold JSON; None: we cannot tell.
Looks = list[int] | None


# --- files ------------------------------------------------------------------------------------------------------------


def scan(tree: Path, own: set[Path]) -> dict[str, Looks]:
    """Return how each file of the tree looks, by its path; a folder that cannot be listed counts as such a file.

    So does a link to a file, while one to a folder is not followed. FIFOs, sockets and devices have nothing to sum.
    """
    files: dict[str, Looks] = {}

    def cannot_list(error: OSError) -> None:
        files[str(Path(error.filename).relative_to(tree))] = None

    for name, folders, names in os.walk(tree, onerror=cannot_list):
        folder = Path(name)
        if folder != tree and not MARKS_OF_SKIPPED.isdisjoint(names):
            folders.clear()
            continue
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and folder / name not in own]
        for path in (folder / name for name in names if folder / name not in own):
            looks: Looks = None
            with suppress(OSError):  # a dangling link, say: the attempts of its ticket will tell the reason
                status = path.stat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                looks = looks_of(status)
            files[str(path.relative_to(tree))] = looks
    return files


def looks_of(status: os.stat_result) -> list[int]:
    """Return what a file looks like: while that stays the same, its content is taken to be the same."""
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def open_file(path: Path) -> BinaryIO:
    """Open a regular file; without waiting, since what was one may have become a FIFO that nobody writes to."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return os.fdopen(fd, "rb")
    os.close(fd)
    raise OSError("it is not a regular file")


def hash_chunk(file: BinaryIO, sha256: hashlib._Hash) -> int:
    """Hash the next chunk, in blocks that a processor's cache has room for; return how many bytes it had."""
    size = 0
    while size < CHUNK and (block := file.read(1 << 18)):
        sha256.update(block)
        size += len(block)
    return size


def replace_file(path: Path, temporary: Path, content: bytes) -> None:
    """Replace a file as a whole: whatever happens, a power cut too, it is the old one or the new one."""
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


# --- tickets ----------------------------------------------------------------------------------------------------------


def ticket_for(path: str, looks: Looks) -> kharon.Ticket:
    """Make the ticket of a file.

    Its id is the path, so that the queue's log reads well. But an id is at most 200 bytes of printable text, which a
    path need not be: then the id is a digest of it. The payload has the path in any case, percent-encoded as in a URL,
    because JSON is text and a path is bytes.
    """
    raw = os.fsencode(path)
    id = path if path.isprintable() and len(raw) <= 200 else f"sha256-of-path:{hashlib.sha256(raw).hexdigest()}"
    return kharon.Ticket(id, "checksum", payload={"path": quote_from_bytes(raw), "looks": looks})


def path_of(ticket: kharon.Ticket) -> str:
    """Return the path that a ticket is about."""
    return os.fsdecode(unquote_to_bytes(ticket.payload["path"]))


def shown(path: str) -> str:
    """Return a path as it can be shown on one line of a terminal."""
    return path if path.isprintable() else repr(path)


def manifest_of(tickets: Iterable[kharon.Ticket]) -> bytes:
    """Return the manifest of done tickets: sha256sum's format, with its way to escape names, sorted by path."""
    lines = []
    for raw, sha256 in sorted((os.fsencode(path_of(ticket)), ticket.result["sha256"]) for ticket in tickets):
        name = raw.replace(b"\\", rb"\\").replace(b"\n", rb"\n").replace(b"\r", rb"\r")
        lines.append(b"%b%b  %b\n" % (b"\\" if name != raw else b"", sha256.encode(), name))
    return b"".join(lines)


# --- keeping the manifest ---------------------------------------------------------------------------------------------


class Keeper:
    """Keeps the manifest of one tree."""

    def __init__(self, kh: kharon.Kharon, options: argparse.Namespace) -> None:
        self.kh = kh
        self.tree: Path = options.tree
        self.manifest: Path = options.manifest
        self.temporary = self.manifest.with_name(f"{self.manifest.name}.tmp")
        self.own: set[Path] = {options.queue, self.manifest, self.temporary}
        self.hashed_bytes = 0
        self.terminal = sys.stdout.isatty()

    def say(self, text: str, end: str = "\n") -> None:
        """Print a line; on a terminal, over the progress that stands there."""
        print(f"\r\x1b[K{text}" if self.terminal else text, end=end, flush=True)

    async def update(self, *, first: bool) -> bool:
        """Bring the manifest up to date; return whether all files could be read. Later updates tell of changes only."""
        began = trio.current_time()
        files = await trio.to_thread.run_sync(scan, self.tree, self.own, abandon_on_cancel=True)
        ids, vanished = await self.reconcile(files, first=first)
        if not (first or ids or vanished):
            return True
        counts = f"{len(files)} files: {len(ids)} to hash, {len(files) - len(ids)} hashed before, {vanished} vanished"
        self.say(f"{self.tree}: {counts}")
        self.hashed_bytes = 0
        self.kh.reset_stats()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.kh.run, self.router())
            nursery.start_soon(self.show_progress, len(ids))
            for id in ids:
                with suppress(kharon.TicketNotFound):  # cancelled: its file has vanished by now
                    await self.kh.wait(id)
            nursery.cancel_scope.cancel()

        failed = await self.kh.list(status="failed")
        for ticket in failed:
            self.say(f"failed: {shown(path_of(ticket))}: {ticket.error_reason}")
        content = manifest_of(await self.kh.list(status="done"))
        unchanged = self.manifest.is_file() and self.manifest.read_bytes() == content
        if not unchanged:
            replace_file(self.manifest, self.temporary, content)
        size, took = self.hashed_bytes / 1e6, trio.current_time() - began
        self.say(f"{self.kh.stats().done} files hashed ({size:.1f} MB), {len(failed)} failed, in {took:.1f} s")
        self.say(f"{self.manifest}: {content.count(10)} sums, {'unchanged' if unchanged else 'replaced'}")
        return not failed

    async def reconcile(self, files: dict[str, Looks], *, first: bool) -> tuple[list[str], int]:
        """Make the tickets agree with the files; return the ids of the pending ones, and how many files vanished."""
        known = {path_of(ticket): ticket for ticket in await self.kh.list()}
        ids: list[str] = []
        wanted: list[kharon.Ticket] = []
        for path, looks in files.items():
            ticket = known.pop(path, None)
            if ticket is None:
                wanted.append(ticket_for(path, looks))
            elif ticket.status == "pending":
                ids.append(ticket.id)  # left by a run that was stopped; it will hash what is there by then
            elif (first and ticket.status == "failed") or (ticket.result or ticket.payload)["looks"] != looks:
                wanted.append(ticket_for(path, looks))
        for start in range(0, len(wanted), 1000):  # each batch is one commit, and too short to hold up anything else
            ids += [ticket.id for ticket in await self.kh.add_many(wanted[start : start + 1000])]

        # What is in a folder that cannot be listed has not vanished. The tree itself is "." to `scan`.
        hidden = tuple("" if path == "." else f"{path}/" for path, looks in files.items() if looks is None)
        vanished = [ticket for path, ticket in known.items() if not path.startswith(hidden)]
        async with trio.open_nursery() as nursery:  # all at once, so that they share one sync of the disk
            for ticket in vanished:
                forget = self.kh.cancel if ticket.status == "pending" else self.kh.delete
                nursery.start_soon(forget, ticket.id)
        return ids, len(vanished)

    def router(self) -> kharon.Router:
        """Return the router with the handler that hashes a file."""
        router = kharon.Router()

        # An `async def`, although hashing blocks. A `def` would run in one thread from start to end, and nothing can
        # stop a thread; hashed in chunks, each in a thread, a file of any size lets Ctrl-C in and keeps its lease.
        @router.handler("checksum")
        async def checksum(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
            path = self.tree / path_of(ticket)
            sha256 = hashlib.sha256()
            try:
                with await trio.to_thread.run_sync(open_file, path) as file:
                    looks = looks_of(os.fstat(file.fileno()))
                    while size := await trio.to_thread.run_sync(hash_chunk, file, sha256):
                        self.hashed_bytes += size
                        assert ticket.lease_until is not None  # it is claimed, by us
                        if ticket.lease_until - datetime.now(UTC) < timedelta(seconds=LEASE / 2):
                            ticket = await kh.extend(ticket, LEASE)
                    if looks_of(os.fstat(file.fileno())) != looks:
                        raise OSError("it was written to while it was read")
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not path.is_symlink():
                    await kh.cancel(ticket)  # it has vanished; a dangling link has not
                    return
                why = f"cannot read {shown(path_of(ticket))}: {error.strerror or error}"
                self.say(f"{why} (attempt {ticket.attempts} of {ATTEMPTS})")
                raise  # retried after Settings.backoff, failed for good after Settings.max_attempts
            await kh.done(ticket, result={"sha256": sha256.hexdigest(), "looks": looks})

        return router

    async def show_progress(self, total: int) -> None:
        """Say how far we are: on a terminal often and in one place, else with a line now and then."""
        while True:
            await trio.sleep(0.1 if self.terminal else 1)
            stats = self.kh.stats()
            text = f"{stats.done + stats.failed} of {total} files, {self.hashed_bytes / 1e6:.1f} MB"
            self.say(text, end="" if self.terminal else "\n")


# --- the program ------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Keep a manifest of SHA-256 sums of a directory tree true.")
    project = Path(__file__).resolve().parent.parent
    parser.add_argument("tree", nargs="?", type=Path, default=project, help="the directory (default: this project)")
    parser.add_argument("--queue", type=Path, metavar="DIR", help="the queue's directory (default: TREE/.checksums)")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="(default: TREE/SHA256SUMS)")
    parser.add_argument("--workers", type=int, default=WORKERS, metavar="N", help="files at once (default: 16)")
    parser.add_argument("--fsync", default="always", metavar="always|never|SECONDS", help="when the queue is on disk")
    parser.add_argument("--watch", action="store_true", help="go on, looking for changes every few seconds")
    options = parser.parse_args()
    if not options.tree.is_dir():
        parser.error(f"{options.tree} is not a directory")
    with suppress(ValueError):  # what is neither a word nor a number is refused by Settings, as is 0
        options.fsync = float(options.fsync)
    options.tree = options.tree.resolve()
    options.queue = (options.queue or options.tree / ".checksums").resolve()
    options.manifest = (options.manifest or options.tree / "SHA256SUMS").resolve()
    if options.manifest.is_dir() or not options.manifest.parent.is_dir():
        parser.error(f"{options.manifest} is no place for a file")
    return options


async def run(options: argparse.Namespace) -> int:
    """Keep the manifest until it is true, or (to watch) until a signal; return the exit code."""
    code = 0

    async def heed_signals(task_status: trio.TaskStatus[None]) -> None:
        nonlocal code
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            code = 128 + await anext(signals)
            print("\nstopped; run it again, and it goes on where it was", flush=True)
            nursery.cancel_scope.cancel()

    settings = kharon.Settings(
        workers=options.workers,
        fsync=options.fsync,
        process_time=LEASE,
        max_attempts=ATTEMPTS,
        backoff=kharon.BackoffDelay(base=1.5, max_delay=10),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(heed_signals)
        async with kharon.open(options.queue, settings) as kh:
            keeper = Keeper(kh, options)
            code = 0 if await keeper.update(first=True) else 1
            while options.watch:
                await trio.sleep(WATCH_INTERVAL)
                await keeper.update(first=False)
        nursery.cancel_scope.cancel()
    return code


def main() -> int:
    """Run; if that is not possible, say why in one line."""
    logging.getLogger("kharon").addHandler(logging.NullHandler())  # it warns of failing attempts, which we show
    code = 2
    try:
        code = trio.run(run, arguments())
    except* (kharon.KharonError, OSError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"checksums.py: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
