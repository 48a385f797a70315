"""Keep a manifest of SHA-256 sums of a directory tree up to date: `sha256sum -c SHA256SUMS`, run there, verifies it.

python examples/checksums.py [TREE] [--watch]      the default TREE is this project; --help shows the rest

Each file has a ticket, and the queue is the truth: the ticket of a hashed file is kept as done, with the sum as its
result. The manifest is made from those results alone, always as a whole. So stop it with Ctrl-C, or kill it, at any
time: run again, it goes on where it was.

A run adds a ticket for each new file. It adds the ticket again for a file that has changed (by size, mtime and inode,
as in git) or that failed in the last run. It cancels the tickets of files that have vanished, and hashes the rest. A
file that cannot be read is tried again later, and fails after `ATTEMPTS` attempts.

It exits with 0; with 1 if files failed, 2 if it could not work at all, 130 after Ctrl-C.
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

WORKERS = 16  # more than processors, since a small file mostly waits for a sync, and workers share syncs
ATTEMPTS = 3
LEASE = 30.0  # seconds
CHUNK = 32 << 20  # bytes to hash between two checkpoints
WATCH_INTERVAL = 2.0  # seconds
SKIPPED_FOLDERS = frozenset({".git", ".hg", ".svn", "__pycache__", ".hypothesis", "node_modules"})
MARKS_OF_SKIPPED = frozenset({"pyvenv.cfg", "CACHEDIR.TAG"})  # marks virtual environments and caches

# A file's fingerprint: size, mtime in nanoseconds, inode. A list, because tickets hold JSON; None: unknown.
Looks = list[int] | None


# --- files ------------------------------------------------------------------------------------------------------------


def scan(tree: Path, own: set[Path]) -> dict[str, Looks]:
    """Return the fingerprint of each file of the tree, by path. A folder that cannot be listed counts as a file.

    A link to a file counts, too; a link to a folder is not followed. FIFOs, sockets and devices are left out.
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
            with suppress(OSError):  # for example a dangling link: its ticket's attempts report the reason
                status = path.stat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                looks = looks_of(status)
            files[str(path.relative_to(tree))] = looks
    return files


def looks_of(status: os.stat_result) -> list[int]:
    """Return a file's fingerprint; while it stays the same, the content is assumed to be the same."""
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def open_file(path: Path) -> BinaryIO:
    """Open a regular file without blocking, since it may have been replaced by a FIFO without a writer."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return os.fdopen(fd, "rb")
    os.close(fd)
    raise OSError("it is not a regular file")


def hash_chunk(file: BinaryIO, sha256: hashlib._Hash) -> int:
    """Hash the next chunk, in blocks that fit into a processor's cache; return its number of bytes."""
    size = 0
    while size < CHUNK and (block := file.read(1 << 18)):
        sha256.update(block)
        size += len(block)
    return size


def replace_file(path: Path, temporary: Path, content: bytes) -> None:
    """Replace a file as a whole: after a crash or a power cut it is either the old file or the new one."""
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


# --- tickets ----------------------------------------------------------------------------------------------------------


def ticket_for(path: str, looks: Looks) -> kharon.Ticket:
    """Make the ticket of a file.

    Its id is the path, so that the queue's log reads well. A path that is not at most 200 bytes of printable text is
    not a valid id: then the id is its digest. The payload always has the path, percent-encoded as in a URL, because
    JSON is text and a path is bytes.
    """
    raw = os.fsencode(path)
    id = path if path.isprintable() and len(raw) <= 200 else f"sha256-of-path:{hashlib.sha256(raw).hexdigest()}"
    return kharon.Ticket(id, "checksum", payload={"path": quote_from_bytes(raw), "looks": looks})


def path_of(ticket: kharon.Ticket) -> str:
    """Return the path of a ticket's file."""
    return os.fsdecode(unquote_to_bytes(ticket.payload["path"]))


def shown(path: str) -> str:
    """Return a path in a form for one line of a terminal."""
    return path if path.isprintable() else repr(path)


def manifest_of(tickets: Iterable[kharon.Ticket]) -> bytes:
    """Return the manifest of done tickets, sorted by path, in sha256sum's format with its escaping of names."""
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
        """Print a line; on a terminal, over the line of progress."""
        print(f"\r\x1b[K{text}" if self.terminal else text, end=end, flush=True)

    async def update(self, *, first: bool) -> bool:
        """Bring the manifest up to date; return whether all files could be read. Later updates print changes only."""
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
                with suppress(kharon.TicketNotFound):  # cancelled: its file has vanished
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
        """Make the tickets agree with the files; return the pending ids, and the number of vanished files."""
        known = {path_of(ticket): ticket for ticket in await self.kh.list()}
        ids: list[str] = []
        wanted: list[kharon.Ticket] = []
        for path, looks in files.items():
            ticket = known.pop(path, None)
            if ticket is None:
                wanted.append(ticket_for(path, looks))
            elif ticket.status == "pending":
                ids.append(ticket.id)  # left by a run that was stopped; it hashes the present content
            elif (first and ticket.status == "failed") or (ticket.result or ticket.payload)["looks"] != looks:
                wanted.append(ticket_for(path, looks))
        for start in range(0, len(wanted), 1000):  # each batch is one commit, short enough not to delay other tasks
            ids += [ticket.id for ticket in await self.kh.add_many(wanted[start : start + 1000])]

        # The files in a folder that cannot be listed have not vanished. `scan` calls the tree itself ".".
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

        # An `async def`, although hashing blocks. A `def` would run in one thread from start to end, which nothing can
        # stop. With one thread for each chunk, Ctrl-C works and the lease is kept, whatever the size of the file.
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
        """Print the progress: on a terminal often and in one line, otherwise a new line now and then."""
        while True:
            await trio.sleep(0.1 if self.terminal else 1)
            stats = self.kh.stats()
            text = f"{stats.done + stats.failed} of {total} files, {self.hashed_bytes / 1e6:.1f} MB"
            self.say(text, end="" if self.terminal else "\n")


# --- the program ------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Keep a manifest of SHA-256 sums of a directory tree up to date.")
    project = Path(__file__).resolve().parent.parent
    parser.add_argument("tree", nargs="?", type=Path, default=project, help="the directory (default: this project)")
    parser.add_argument("--queue", type=Path, metavar="DIR", help="the queue's directory (default: TREE/.checksums)")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="(default: TREE/SHA256SUMS)")
    parser.add_argument("--workers", type=int, default=WORKERS, metavar="N", help="files at once (default: 16)")
    parser.add_argument(
        "--fsync", default="always", metavar="always|never|SECONDS", help="when records are synced to disk"
    )
    parser.add_argument("--watch", action="store_true", help="keep running, and check for changes every few seconds")
    options = parser.parse_args()
    if not options.tree.is_dir():
        parser.error(f"{options.tree} is not a directory")
    with suppress(ValueError):  # Settings refuses other words, and 0
        options.fsync = float(options.fsync)
    options.tree = options.tree.resolve()
    options.queue = (options.queue or options.tree / ".checksums").resolve()
    options.manifest = (options.manifest or options.tree / "SHA256SUMS").resolve()
    if options.manifest.is_dir() or not options.manifest.parent.is_dir():
        parser.error(f"{options.manifest} cannot be the path of a file")
    return options


async def run(options: argparse.Namespace) -> int:
    """Update the manifest once, or with --watch until a signal; return the exit code."""
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
    """Run the program; print the reason in one line if it cannot."""
    logging.getLogger("kharon").addHandler(logging.NullHandler())  # its warnings of failed attempts are shown here
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
