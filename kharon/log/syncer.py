"""Bringing a file onto the disk, and the helper program that does so for a process whose disk is slow.

As a module: `bring_to_disk`, which every sync of the log uses. As a program, `python -I -S syncer.py`: it serves the
socket on its standard input, one sync at a time, until the socket closes, however its parent ends. It has its own
interpreter and GIL, so a busy parent cannot delay it.

    request   one byte, f for a file or d for a directory, with its descriptor as SCM_RIGHTS
    answer    2 bytes: 0, or the errno of the failed sync; 6 bytes: the microseconds it took; both big-endian
    hello     an answer, before the first request: it is ready

Every request carries its descriptor, which is closed before the answer. That costs a few microseconds beside a sync of
milliseconds, and leaves the helper without state that a new segment could make stale. The program imports nothing of
Kharon, so that it starts in tens of milliseconds and uses a few megabytes. `kharon.store.sync_helper` starts it.
"""

import errno
import os
import signal
import socket
import sys
import time

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, where the log is imported, and refuses to be opened
    fcntl = None  # type: ignore[assignment]

__all__ = ["ANSWER_BYTES", "DIRECTORY", "ERRNO_BYTES", "FILE", "UNSUPPORTED", "bring_to_disk", "serve"]

ANSWER_BYTES = 8
ERRNO_BYTES = 2
FILE, DIRECTORY = b"f", b"d"
UNSUPPORTED = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY})


def bring_to_disk(fd: int, *, directory: bool = False) -> None:
    """Bring a file's bytes, and the metadata needed to find them, onto the disk.

    By fdatasync(2); by fsync(2) for a directory, and on systems without fdatasync. On macOS, where these stop at the
    disk's own cache, by F_FULLFSYNC (fcntl(2)), which does not. After a failure no other call is tried, unless the
    error says that the call is not supported.

    Args:
        fd: the file's descriptor.
        directory: whether it is a directory, whose bytes are names.

    Raises:
        OSError: the sync failed. The state of the bytes is then unknown.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        try:
            fcntl.fcntl(fd, full_sync)
        except OSError as error:
            if error.errno not in UNSUPPORTED:  # some network and USB file systems lack this command
                raise
        else:
            return
    if directory:
        os.fsync(fd)
    else:
        getattr(os, "fdatasync", os.fsync)(fd)


def serve(sock: socket.socket, slower_by: float = 0.0) -> None:
    """Answer requests until the other end closes.

    Args:
        sock: a connected Unix stream socket, in blocking mode.
        slower_by: seconds to add to each sync, for tests and benchmarks.
    """
    answer = bytes(ANSWER_BYTES)
    while True:
        try:
            sock.sendall(answer)
            request, fds, _, _ = socket.recv_fds(sock, 1, 1)
        except ConnectionError:  # the other end is gone
            return
        if not request or not fds:  # without its descriptor the file was not synced: do not answer
            return
        begun, failure = time.monotonic(), 0
        try:
            time.sleep(slower_by)
            bring_to_disk(fds[0], directory=request == DIRECTORY)
        except OSError as error:
            failure = error.errno or 0xFFFF  # never 0, which is success
        finally:
            os.close(fds[0])
        microseconds = int((time.monotonic() - begun) * 1e6)
        answer = failure.to_bytes(ERRNO_BYTES, "big") + microseconds.to_bytes(ANSWER_BYTES - ERRNO_BYTES, "big")


def main(arguments: list[str]) -> None:
    """Serve standard input. Signals meant for the parent are ignored: this process ends when its parent does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=0) as sock:
        serve(sock, *map(float, arguments))


if __name__ == "__main__":  # pragma: no cover - only in a process of its own
    main(sys.argv[1:])
