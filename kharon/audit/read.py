"""Reading the log of a directory while another process may write it: `read`, and the pass beneath every other reader.

`kharon.log.segment` knows how to read a line and a segment. This module chains the segments. It takes no lock and
writes nothing. Each segment is read up to the size that it had when it was opened, so that bytes written later are not
taken for damage. Reading stops at a commit that is unfinished by then.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kharon.audit.progress import report_bytes
from kharon.errors import KharonError
from kharon.log.directory import segments
from kharon.log.files import naming
from kharon.log.record import Chain, Record
from kharon.log.scan import LogScan
from kharon.log.segment import OnRecord
from kharon.log.zstd import open_segment

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in the standard library from Python 3.12 on

__all__ = ["FixedSizeFile", "LogPass", "check_queue", "open_fixed", "read"]


def read(path: str | os.PathLike[str], after: int = 0) -> Iterator[Record]:
    """Return an iterator over the records of a queue's directory, in order; each whole commit is verified first.

    It ends before an unfinished last commit. Records written meanwhile may be missing: read again, with the last seq
    as `after`.

    Args:
        path: the queue's directory; it may be open in any process.
        after: records up to this seq are verified too, but not returned.

    Raises:
        CorruptLog: during iteration: the log is damaged, other than by an unfinished last commit.
        UnknownFormat: during iteration: a later version of Kharon wrote this.
        KharonError: at once: there is no queue at `path`. During iteration: the next records have been trimmed; or they
            are compressed, and zstd is not installed.
        OSError: the log cannot be read.

    Cost: O(bytes of the log up to where you stop), whatever `after` is; the memory of one commit.
    """
    return (record for record in LogPass(path).reading.records() if record.seq > after)


class LogPass:
    """One pass over the segments of a directory, each up to the size that it had when it was opened.

    Args:
        path: the directory.
        chain, log, lenient, watch: as for `LogScan`.

    Attributes:
        reading: the pass, and how far it has come.
        sizes: the sizes of the opened segments, in bytes, by path.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        chain: Chain | None = None,
        log: str | None = None,
        *,
        lenient: bool = False,
        watch: Callable[[LogScan, Path], OnRecord | None] = lambda _reading, _path: None,
    ) -> None:
        directory = Path(path)
        check_queue(directory)
        self.sizes: dict[str, int] = {}
        self.reading = LogScan(
            lambda: segments(directory),
            lambda path: open_segment(self._open, path),
            chain,
            log,
            lenient=lenient,
            watch=watch,
        )

    def _open(self, path: Path) -> BinaryIO:
        file, self.sizes[str(path)] = open_fixed(path)
        return file


def open_fixed(path: Path) -> tuple[BinaryIO, int]:
    """Open a file that ends where it ends now, even if it grows; return it, and its size in bytes."""
    file = FixedSizeFile(path)
    return io.BufferedReader(file), file.stat.st_size


def check_queue(path: Path) -> None:
    """Check that a directory holds a queue.

    Raises:
        KharonError: it does not.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise KharonError(f"{path} {what}; a queue is a directory: name the one that was given to kharon.open")
    if not (path / "log").is_dir() or not segments(path):
        raise KharonError(
            f"{path} is not a queue: there is no segment in {path / 'log'}; name the directory that was given to "
            f"kharon.open, or open the queue once to begin its log"
        )


class FixedSizeFile(io.FileIO):
    """A file for reading that ends where it ended when it was opened, even if it grows.

    Attributes:
        path: of the file.
        stat: of the file, when it was opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path
        self.stat = os.fstat(self.fileno())

    def readinto(self, buffer: Buffer, /) -> int:
        with naming(self.path), memoryview(buffer) as view:
            count = super().readinto(view[: max(0, self.stat.st_size - self.tell())])
        report_bytes(count)
        return count
