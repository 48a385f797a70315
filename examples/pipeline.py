"""Count the words of a text file, or of all files of a directory: split, count the pieces in parallel, merge.

python examples/pipeline.py [INPUT] [--output words.tsv]    the default INPUT is this project's pages; see --help

A workflow of three steps, each a ticket. `split` cuts the input into pieces. Each piece is a ticket in one group, and
`count` writes its counts to a file of its own. `merge` is the group's finalizer (`after_group`): it is blocked until
all pieces have ended, and makes the output from their files.

No step can be lost, because each settles its ticket and adds the next ones in one commit (`kh.atomic()`): after a crash
either both are in the log, or neither is and the step runs again. A step may run twice, because it then does the same:
ids and files are named after the input, and files are replaced as a whole. So stop it with Ctrl-C or kill it at any
time: run again, it goes on where it was, and the output is the same. If the input has changed, everything is counted
anew, and the rest of the run before is removed.

It exits with 0; with 1 if pieces failed, 2 if it could not work at all, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

import trio

import kharon

WORKERS = 4
PIECE_BYTES = 1 << 20
PIECE_SLICES = 50  # files, or parts of one, in a piece: a payload has room for this many of the longest paths

# A part of a file: its path (percent-encoded, because JSON is text and a path is bytes), its beginning and end, and the
# file's fingerprint when it was cut (size, mtime in nanoseconds, inode).
Slice = tuple[str, int, int, list[int]]


# --- files ------------------------------------------------------------------------------------------------------------


def looks_of(status: os.stat_result) -> list[int]:
    """Return a file's fingerprint; while it stays the same, the content is assumed to be the same."""
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def scan(source: Path, own: set[Path]) -> dict[Path, list[int]]:
    """Return the fingerprint of each file of the input, by path. Hidden files and this program's own are left out.

    Raises:
        OSError: the input cannot be read.
    """

    def cannot_list(error: OSError) -> None:
        raise error

    paths = [source]
    if source.is_dir():
        paths = []
        for name, folders, names in os.walk(source, onerror=cannot_list):
            folders[:] = [folder for folder in folders if not folder.startswith(".") and Path(name, folder) not in own]
            paths += [path for path in (Path(name, file) for file in names) if path not in own]
    files = {}
    for path in sorted(paths):
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and (path == source or not path.name.startswith(".")):
            files[path] = looks_of(status)
    return files


def cut(files: dict[Path, list[int]], piece_bytes: int) -> Iterator[list[Slice]]:
    """Cut files into pieces of about this many bytes: a large file becomes several pieces, small files share one."""
    piece: list[Slice] = []
    room = piece_bytes
    for path, looks in files.items():
        start, size = 0, looks[0]
        while start < size:
            end = min(size, start + room)
            piece.append((quote_from_bytes(os.fsencode(path)), start, end, looks))
            room -= end - start
            start = end
            if not room or len(piece) == PIECE_SLICES:
                yield piece
                piece, room = [], piece_bytes
    if piece:
        yield piece


def count_words(piece: list[Slice]) -> Counter[str]:
    """Count the words in the lines that begin in a piece, so that no line is counted twice or torn.

    Raises:
        OSError: a file cannot be read, or has changed since it was cut.
    """
    words: Counter[str] = Counter()
    for name, start, end, looks in piece:
        path = Path(os.fsdecode(unquote_to_bytes(name)))
        with path.open("rb") as file:
            if looks_of(os.fstat(file.fileno())) != looks:
                raise OSError(f"{shown(path)} has changed since this began; run it again")
            if start:
                file.seek(start - 1)
                file.readline()  # the rest of a line that begins in the slice before
            while file.tell() < end and (line := file.readline()):
                words.update(re.findall(r"\w+", line.decode("utf-8", "replace").lower()))
    return words


def replace_file(path: Path, temporary: Path, content: bytes) -> None:
    """Replace a file as a whole, and sync it: after a crash it is either the old file or the new one."""
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def table_of(counts: Iterable[Path]) -> bytes:
    """Return the output: a line for each word with its count, the most frequent first."""
    words: Counter[str] = Counter()
    for path in counts:
        words.update(json.loads(path.read_bytes()))
    lines = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    return "".join(f"{count}\t{word}\n" for word, count in lines).encode()


def sha256_of(path: Path) -> str | None:
    """Return the digest of a file; None if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


# --- the workflow -----------------------------------------------------------------------------------------------------


class Pipeline:
    """The workflow of the present state of one input."""

    def __init__(self, kh: kharon.Kharon, options: argparse.Namespace, files: dict[Path, list[int]]) -> None:
        self.kh = kh
        self.output: Path = options.output
        self.files = files
        self.piece_bytes: int = options.piece_bytes
        # All names follow from the input, so a repeated step does the same.
        identity = repr((self.piece_bytes, [(str(path), looks) for path, looks in files.items()]))
        self.run_id = hashlib.sha256(identity.encode()).hexdigest()[:12]
        self.split_id, self.merge_id = f"split-{self.run_id}", f"merge-{self.run_id}"
        self.group = f"pieces-{self.run_id}"
        self.work: Path = options.work
        self.folder: Path = self.work / self.run_id

    def counts_of(self, id: str) -> Path:
        """Return the path of the counts of a piece."""
        return self.folder / f"{id}.json"

    def merge_ticket(self) -> kharon.Ticket:
        """Return the finalizer."""
        return kharon.Ticket(self.merge_id, "merge")

    async def begin(self) -> bool:
        """Add the tickets of the workflow in one commit; return False if it was done before."""
        known = {ticket.id: ticket for ticket in await self.kh.list()}
        split, merge = known.get(self.split_id), known.get(self.merge_id)
        if merge is not None and merge.status == "done" and merge.result["sha256"] == sha256_of(self.output):
            return False
        pieces = [ticket for ticket in known.values() if ticket.group == self.group]
        async with self.kh.atomic() as tx:
            for ticket in known.values():
                if self.run_id not in ticket.id:
                    tx.delete(ticket.id)  # of an input that has changed
            if split is None or (merge is not None and merge.status == "done"):  # the output was removed, or altered
                tx.delete(self.merge_id)
                tx.add(kharon.Ticket(self.split_id, "split"))
            elif split.status == "failed":
                tx.restart(self.split_id)
            elif split.status == "done":
                again = [
                    ticket.id
                    for ticket in pieces
                    if ticket.status == "failed" or (ticket.status == "done" and not self.counts_of(ticket.id).exists())
                ]
                for id in again:
                    tx.restart(id)
                if again or merge is None or merge.status != "pending":
                    tx.delete(self.merge_id)  # only members that are pending now block it
                    tx.add(self.merge_ticket(), after_group=self.group, on_failure="cancel")
        return True

    def router(self) -> kharon.Router:
        """Return the router with the three steps."""
        router = kharon.Router()

        @router.handler("split")
        async def split(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
            pieces = [
                kharon.Ticket(f"piece-{self.run_id}-{number:06}", "count", payload=piece, group=self.group)
                for number, piece in enumerate(cut(self.files, self.piece_bytes), 1)
            ]
            async with kh.atomic() as tx:
                tx.add_many(pieces, on_conflict="skip")
                tx.add(self.merge_ticket(), after_group=self.group, on_failure="cancel")
                tx.done(ticket, result={"pieces": len(pieces)})
            say(f"{len(pieces)} pieces")

        @router.handler("count")
        async def count(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
            try:
                words = await trio.to_thread.run_sync(count_words, ticket.payload)
            except OSError as error:
                await kh.fail(ticket, error_reason=str(error))  # the next run splits it again
                return
            path = self.counts_of(ticket.id)
            temporary = path.with_suffix(f".{ticket.claim}.tmp")  # a lapsed attempt may still be writing its own
            await trio.to_thread.run_sync(replace_file, path, temporary, json.dumps(words).encode())
            await kh.done(ticket, result={"words": words.total()})
            say(f"{ticket.id}: {words.total()} words")

        @router.handler("merge")
        async def merge(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
            pieces = await kh.list(group=self.group)
            content = await trio.to_thread.run_sync(table_of, [self.counts_of(piece.id) for piece in pieces])
            temporary = self.output.with_name(f"{self.output.name}.tmp")
            await trio.to_thread.run_sync(replace_file, self.output, temporary, content)
            total = sum(piece.result["words"] for piece in pieces)
            async with kh.atomic() as tx:
                for piece in pieces:
                    tx.delete(piece.id)  # merged and removed: both or neither
                tx.done(ticket, result={"sha256": hashlib.sha256(content).hexdigest(), "words": total})
            say(f"{shown(self.output)}: {total} words, {content.count(10)} different")

        return router

    async def finish(self) -> bool:
        """Run until no ticket is left; return whether all of them were done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.kh.run, self.router())
            last = await self.kh.wait(self.split_id)
            if last.status == "done":
                await self.kh.group(self.group).wait()  # the pieces; the split has added the finalizer
                last = await self.kh.wait(self.merge_id)
            nursery.cancel_scope.cancel()
        for ticket in await self.kh.list(status="failed"):
            say(f"failed: {ticket.id}: {ticket.error_reason}")
        return last.status == "done"

    def tidy(self) -> None:
        """Remove the counts of other inputs, and those that are merged."""
        for folder in self.work.iterdir() if self.work.is_dir() else ():
            if re.fullmatch("[0-9a-f]{12}", folder.name):  # only our own files
                shutil.rmtree(folder)


def shown(path: Path) -> str:
    """Return a path in a form for one line of a terminal."""
    return str(path) if str(path).isprintable() else repr(str(path))


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


# --- the program ------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Count the words of a text file, or of all files of a directory.")
    pages = Path(__file__).resolve().parent.parent / "docs"
    parser.add_argument("input", nargs="?", type=Path, default=pages, help="(default: the pages of this project)")
    parser.add_argument("--output", type=Path, metavar="FILE", default="words.tsv", help="(default: words.tsv)")
    parser.add_argument("--queue", type=Path, metavar="DIR", help="the queue's directory (default: FILE.queue)")
    parser.add_argument("--workers", type=int, default=WORKERS, metavar="N", help="pieces at once (default: 4)")
    parser.add_argument("--piece-bytes", type=int, default=PIECE_BYTES, metavar="N", help="(default: 1048576)")
    options = parser.parse_args()
    if not options.input.exists():
        parser.error(f"{options.input} does not exist")
    if options.piece_bytes < 1:
        parser.error(f"--piece-bytes {options.piece_bytes} is not 1 or more")
    options.input, options.output = options.input.resolve(), options.output.resolve()
    if options.output.is_dir() or not options.output.parent.is_dir():
        parser.error(f"{options.output} cannot be the path of a file")
    options.queue = (options.queue or options.output.with_name(f"{options.output.name}.queue")).resolve()
    options.work = options.queue.with_name(f"{options.queue.name}.work")
    return options


async def run(options: argparse.Namespace) -> int:
    """Do the work, or the rest of it, until a signal; return the exit code."""
    code = 0

    async def heed_signals(task_status: trio.TaskStatus[None]) -> None:
        nonlocal code
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            code = 128 + await anext(signals)
            say("stopped; run it again, and it goes on where it was")
            nursery.cancel_scope.cancel()

    own = {options.output, options.output.with_name(f"{options.output.name}.tmp"), options.queue, options.work}
    settings = kharon.Settings(workers=options.workers, heartbeat=True, backoff=kharon.FixedDelay(0.1))
    async with trio.open_nursery() as nursery:
        await nursery.start(heed_signals)
        files = await trio.to_thread.run_sync(scan, options.input, own, abandon_on_cancel=True)
        if not any(size for size, *_ in files.values()):
            raise OSError(f"{shown(options.input)}: it contains nothing to count")
        async with kharon.open(options.queue, settings) as kh:
            pipeline = Pipeline(kh, options, files)
            say(f"{shown(options.input)}: {len(files)} files, {sum(size for size, *_ in files.values()) / 1e6:.1f} MB")
            if not await pipeline.begin():
                say(f"{shown(options.output)}: unchanged")
            elif not await pipeline.finish():
                code = 1
            if not code:
                pipeline.tidy()
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
        print(f"pipeline.py: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
