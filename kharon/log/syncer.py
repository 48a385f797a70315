"""Bringing a file onto the disk, and the helper program that does so for a process whose disk is slow.

As a module: `bring_to_disk`, the one primitive behind every sync of the log. As a program, `python -I -S syncer.py`:
it serves the socket that is its standard input, one sync at a time, until that socket closes, which it does however
its parent ends. It has an interpreter, and so a GIL, of its own: a busy parent cannot keep it from its work.

    request   one byte, f for a file or d for a directory, with its descriptor as SCM_RIGHTS
    answer    2 bytes: 0, or the errno of the failed sync; 6 bytes: the microseconds it took; both big-endian
    hello     an answer, before the first request: it is ready

The descriptor comes with every request and is closed again before the answer. That costs a few microseconds beside a
sync of milliseconds, and the helper has no idea of the log that a new segment could make stale. It imports nothing of
Kharon, so that it starts in tens of milliseconds and takes a few megabytes; `kharon.store.sync_helper`
starts it.
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
    """Bring a file's bytes, and what is needed to find them, onto the disk. After an error nothing is known of them.

    By fdatasync(2); fsync(2) for a directory, and where there is no fdatasync. On macOS, where these stop at the disk's
    own cache, by F_FULLFSYNC (fcntl(2)), which goes through that. A failure is raised, and not tried again by another
    call, unless it says that nothing has been tried.

    Args:
        fd: of the file.
        directory: whether it is a directory, whose bytes are names.

    Raises:
        OSError: it could not be done, or not to the end.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        try:
            fcntl.fcntl(fd, full_sync)
        except OSError as error:
            if error.errno not in UNSUPPORTED:  # some network and USB file systems know no such command
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
        slower_by: seconds by which each sync is made to take longer. For tests and benchmarks.
    """
    answer = bytes(ANSWER_BYTES)
    while True:
        try:
            sock.sendall(answer)
            request, fds, _, _ = socket.recv_fds(sock, 1, 1)
        except ConnectionError:  # nobody is left to be told anything
            return
        if not request or not fds:  # a descriptor that did not fit into this process was not synced: do not answer
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
    """Serve standard input. Signals that are meant for the parent are not heard: its end is what ends this."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=0) as sock:
        serve(sock, *map(float, arguments))


if __name__ == "__main__":  # pragma: no cover - only in a process of its own
    main(sys.argv[1:])
