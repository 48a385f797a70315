"""The parent's side of the helper process that syncs for a slow disk: it is started, asked, missed and reaped here.

A sync in a thread has to win the GIL back before anybody hears of it, and beside a busy loop that takes up to some
hundred milliseconds; a process has a GIL of its own, and its answer is one readable socket. What it does, and what goes
over the socket, is in `kharon.log.syncer`. All of it runs in one system task, so that nobody's cancellation reaches it.
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
from kharon.store.tasks import reap, say, start_python, wait_out

__all__ = ["AnswerLost", "Done", "Helper", "Pace", "Syncer"]

SLOW_SECONDS: Final = 0.002  # on average above this the loop stands still for longer than a helper's two wake-ups cost
FAST_SECONDS: Final = 0.0005  # well below: a disk between the two keeps what it has, whichever that is
CALM_SYNCS: Final = 100  # so many in a row before it counts as fast again: an idle minute of a slow disk is not enough
_WEIGHT: Final = 1 / 8  # of the newest: the third of three slow syncs is enough, at 20 ms each
_OUTLIER_SECONDS: Final = 0.008  # longer ones count as this, so that a single one of any length is not enough

Done: TypeAlias = Callable[[OSError | None, float], None]
"""What is called when a sync has ended: with its error, and the seconds it took. Must not raise."""


class AnswerLost(OSError):
    """The helper ended before it said how the sync went: it succeeded, failed, or never began."""


class Syncer(Protocol):
    """Something that syncs descriptors outside of this process's GIL, one at a time.

    Attributes:
        ready: whether `request` may be called, as far as is known. False before it has started, and once it has failed.
    """

    ready: bool

    def start(self) -> None:
        """Begin to start it, in the background. Called once."""

    def request(self, fd: int, done: Done, *, names: bool = False) -> bool:
        """Have `fd` synced, and `done` called then, from another task. Not before the last request is done.

        Args:
            fd: of a file, or of a directory.
            done: is called when it is over.
            names: whether it is a directory.

        Returns:
            Whether it was asked: if not, it has ended, and `done` will not be called.
        """

    async def close(self) -> None:
        """End it. May be called twice. Not cancellable."""


class Helper:
    """A helper process.

    Args:
        arguments: of its program; tests and benchmarks make its syncs slow with them.

    Attributes:
        pid: of the process; None: it has not been started yet.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.ready = False
        self.pid: int | None = None
        self._process = os.getpid()
        # -I and -S: no environment variable, no site-packages and no working directory has a say in what it runs.
        self._arguments = ("-I", "-S", os.path.abspath(syncer.__file__), *arguments)  # noqa: PTH100
        self._socket: socket.socket | None = None
        self._answer = b""
        self._done: Done | None = None
        self._scope = trio.CancelScope()
        self._ended: trio.Event | None = None

    def start(self) -> None:
        """Begin to start it. Costs the loop a millisecond or so, while it forks; `ready` some 20 ms later."""
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, self._ended)

    def request(self, fd: int, done: Done, *, names: bool = False) -> bool:
        """Ask for a sync of `fd`. O(1), and never blocks: one byte in an empty buffer."""
        assert self._socket is not None
        assert self._done is None, "one sync at a time"
        try:
            socket.send_fds(self._socket, [syncer.DIRECTORY if names else syncer.FILE], [fd])
        except OSError:  # nothing was sent; `_run` finds the end of the process, and says so
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
                except (OSError, ValueError) as error:  # ValueError: its program is no path that can be started
                    why = f"could not be used ({error})"
        finally:
            self._give_up(why)
            if process is not None and not self._forked:
                await reap(process)
            ended.set()

    @property
    def _forked(self) -> bool:
        """Whether this is a forked child, with a copy of the socket: its answers, and the helper, are the parent's."""
        return os.getpid() != self._process

    async def _start(self) -> trio.Process:
        self._socket, theirs = socket.socketpair()
        close_in_children(self._socket)
        self._socket.setblocking(False)
        with theirs:
            process = await start_python(self._arguments, stdin=theirs, cwd="/")  # keeps no file system mounted
        self.pid = process.pid
        return process

    async def _listen(self) -> None:
        """Take in answers until there will be none any more."""
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
                self._take(answer)

    def _take(self, answer: bytes) -> None:
        failure = int.from_bytes(answer[: syncer.ERRNO_BYTES], "big")
        seconds = int.from_bytes(answer[syncer.ERRNO_BYTES :], "big") / 1e6
        done, self._done = self._done, None
        if done is None:  # its hello
            self.ready = True
        else:
            done(OSError(failure, os.strerror(failure)) if failure else None, seconds)

    def _give_up(self, why: str) -> None:
        """Close the socket; if nobody wanted that, say so, and tell whoever waits for an answer that none will come."""
        self.ready = False
        if self._socket is not None:
            self._socket.close()
        done, self._done = self._done, None
        if done is not None and not self._forked:
            done(AnswerLost("the helper process ended before it said how a sync went"), 0.0)
        if why:
            say(logging.WARNING, "the helper process for slow disks %s; syncs stop the event loop again", why)


class Pace:
    """The moving average of sync seconds, with hysteresis.

    Attributes:
        slow: whether syncs should not be done in the loop.
    """

    def __init__(self) -> None:
        self.slow = False
        self._average = 0.0
        self._calm = 0

    def add(self, seconds: float) -> None:
        """Take in one more sync. O(1)."""
        self._average += (min(seconds, _OUTLIER_SECONDS) - self._average) * _WEIGHT
        if self._average > SLOW_SECONDS:
            self.slow = True
        self._calm = self._calm + 1 if self._average < FAST_SECONDS else 0
        if self._calm >= CALM_SYNCS:
            self.slow = False
