"""The parent's side of the helper process that syncs for a slow disk: start, request, answer, end.

A sync in a thread must win the GIL back before its end is noticed. Beside a busy loop that takes up to a few hundred
milliseconds. A process has a GIL of its own, and its answer is one readable socket. The helper's program and the
protocol on the socket are in `kharon.log.syncer`. The helper runs in one system task, which no caller's cancellation
reaches.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

import trio

from kharon.log import syncer
from kharon.log.forks import close_in_children
from kharon.log.messages import say
from kharon.store.tasks import reap, start_python, wait_out

__all__ = ["AnswerLost", "Done", "Helper", "Pace", "Syncer"]

SLOW_SECONDS: Final = 0.002  # mean above which a sync stops the loop for longer than a helper's two wake-ups cost
FAST_SECONDS: Final = 0.0005  # well below: between the two, nothing changes
CALM_SYNCS: Final = (
    100  # syncs in a row below it before the disk counts as fast again: more than an idle minute of a slow disk
)
_WEIGHT: Final = 1 / 8  # of the newest sync in the average: three syncs of 20 ms make a disk slow
_OUTLIER_SECONDS: Final = 0.008  # longer syncs count as this, so that one sync of any length is not enough

Done: TypeAlias = Callable[[OSError | None, float], None]
"""Called when a sync has ended, with its error or None, and its seconds. Must not raise."""


class AnswerLost(OSError):
    """The helper ended before it answered: the sync succeeded, failed, or never began."""


class Syncer(Protocol):
    """Syncs descriptors outside of this process's GIL, one at a time.

    Attributes:
        ready: whether `request` may be called, as far as is known. False until it has started, and after it failed.
    """

    ready: bool

    def start(self) -> None:
        """Start it in the background. Called once."""

    def request(self, fd: int, done: Done, *, names: bool = False) -> bool:
        """Request a sync of `fd`; call it only after the last request is done.

        Args:
            fd: the descriptor of a file or a directory.
            done: called from another task when the sync has ended.
            names: whether `fd` is a directory.

        Returns:
            True if the request was sent; False if the helper has ended, so that `done` will not be called.
        """

    async def close(self) -> None:
        """End the helper. May be called twice. Not cancellable."""


class Helper:
    """A helper process.

    Args:
        arguments: the arguments of its program; tests and benchmarks use them to make its syncs slow.

    Attributes:
        pid: the id of the process; None: it has not been started yet.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.ready = False
        self.pid: int | None = None
        self._process = os.getpid()
        # -I and -S: neither environment variables, site-packages nor the working directory change the program it runs.
        self._arguments = ("-I", "-S", os.path.abspath(syncer.__file__), *arguments)  # noqa: PTH100
        self._socket: socket.socket | None = None
        self._answer = b""
        self._done: Done | None = None
        self._scope = trio.CancelScope()
        self._ended: trio.Event | None = None

    def start(self) -> None:
        """Start it in the background. The fork stops the loop for about 1 ms; `ready` follows about 20 ms later."""
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, self._ended)

    def request(self, fd: int, done: Done, *, names: bool = False) -> bool:
        """Request a sync of `fd`. O(1); never blocks, since one byte fits into an empty buffer."""
        assert self._socket is not None
        assert self._done is None, "one sync at a time"
        try:
            socket.send_fds(self._socket, [syncer.DIRECTORY if names else syncer.FILE], [fd])
        except OSError:  # nothing was sent; `_run` notices that the process has ended, and logs it
            self.ready = False
            return False
        self._done = done
        return True

    async def close(self) -> None:
        """Close the socket, which ends the process, and reap it."""
        self._scope.cancel()
        if self._ended is not None:
            await wait_out(self._ended.wait)

    async def _run(self, ended: trio.Event) -> None:
        process: trio.Process | None = None
        why = ""
        try:
            with self._scope:
                try:
                    process = await self._start()
                    await self._listen()
                    why = "ended by itself, or was killed"
                except (OSError, ValueError) as error:  # ValueError: the path of its program cannot be used
                    why = f"could not be used ({error})"
        finally:
            self._give_up(why)
            if process is not None and not self._forked:
                await reap(process)
            ended.set()

    @property
    def _forked(self) -> bool:
        """Whether this is a forked child with a copy of the socket: the answers and the helper belong to the parent."""
        return os.getpid() != self._process

    async def _start(self) -> trio.Process:
        self._socket, theirs = socket.socketpair()
        close_in_children(self._socket)
        self._socket.setblocking(False)
        with theirs:
            # The working directory is "/", so that it does not keep a file system from being unmounted.
            process = await start_python(self._arguments, stdin=theirs, cwd="/")
        self.pid = process.pid
        return process

    async def _listen(self) -> None:
        """Receive answers until the helper ends."""
        assert self._socket is not None
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            if self._forked:
                await trio.sleep_forever()
            try:
                more = self._socket.recv(syncer.ANSWER_BYTES - len(self._answer))
            except ConnectionError:  # it ended with a request unread
                return
            if not more:
                return
            self._answer += more
            if len(self._answer) == syncer.ANSWER_BYTES:
                answer, self._answer = self._answer, b""
                self._receive(answer)

    def _receive(self, answer: bytes) -> None:
        failure = int.from_bytes(answer[: syncer.ERRNO_BYTES], "big")
        seconds = int.from_bytes(answer[syncer.ERRNO_BYTES :], "big") / 1e6
        done, self._done = self._done, None
        if done is None:  # its greeting
            self.ready = True
        else:
            done(OSError(failure, os.strerror(failure)) if failure else None, seconds)

    def _give_up(self, why: str) -> None:
        """Close the socket, report a request without an answer as lost, and log `why` if it is not empty."""
        self.ready = False
        if self._socket is not None:
            self._socket.close()
        done, self._done = self._done, None
        if done is not None and not self._forked:
            done(AnswerLost("the helper process ended before it answered"), 0.0)
        if why:
            say(logging.WARNING, "the helper process for slow disks %s; syncs block the event loop again", why)


class Pace:
    """The moving average of sync seconds, with hysteresis.

    Attributes:
        slow: whether syncs should be done outside of the loop.
    """

    def __init__(self) -> None:
        self.slow = False
        self._average = 0.0
        self._calm = 0

    def add(self, seconds: float) -> None:
        """Add the seconds of one sync. O(1)."""
        self._average += (min(seconds, _OUTLIER_SECONDS) - self._average) * _WEIGHT
        if self._average > SLOW_SECONDS:
            self.slow = True
        self._calm = self._calm + 1 if self._average < FAST_SECONDS else 0
        if self._calm >= CALM_SYNCS:
            self.slow = False
