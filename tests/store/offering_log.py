"""A log that offers a descriptor to be synced elsewhere, and a syncer whose syncs end when the test says so."""

from watched_log import WatchedLog

from kharon.store.sync_helper import AnswerLost

FD = 4711  # nothing opens it: the syncer is a fake


class OfferingLog(WatchedLog):
    """As `WatchedLog`; `journal` has "begin" and "end" too. Its syncs take `seconds` of a mock clock."""

    def __init__(self, fsync="always", clock=None, seconds=0.0, **options):
        super().__init__(fsync, **options)
        self.clock = clock
        self.seconds = seconds

    def sync(self):
        if self.clock is not None:
            self.clock.jump(self.seconds)
        super().sync()

    rotates = True

    def rotation(self):
        return None

    def begin_sync(self):
        if self.durable == self.written:
            return None
        self.journal.append(("begin", self.written))
        return FD

    def end_sync(self, seq, error):
        self.journal.append(("end", seq))
        if error is not None:
            raise error
        self._log.durable = max(self.durable, seq)


class FakeSyncer:
    """Does nothing until it is told; then it does what the test says.

    Attributes:
        starts: at once.
        alive: whether requests come through.
        fds: of all requests.
    """

    def __init__(self, *, starts=True):
        self.starts = starts
        self.alive = True
        self.ready = False
        self.started = self.closed = 0
        self.fds = []
        self.done = None
        self.on_request = lambda _fd: None

    def start(self):
        self.started += 1
        self.ready = self.starts

    def request(self, fd, done, *, names=False):
        assert self.done is None, "one at a time"
        if not self.alive:
            self.ready = False
            return False
        self.fds.append(fd)
        self.on_request(fd)
        self.done = done
        return True

    def answer(self, error=None, seconds=0.02):
        done, self.done = self.done, None
        done(error, seconds)

    def die(self):
        self.ready = self.alive = False
        self.answer(AnswerLost("it is gone"), 0.0)

    def stop(self):
        """Answer what is asked, and take no more requests."""
        self.alive = False
        if self.done is not None:
            self.answer()

    async def close(self):
        self.closed += 1
        assert self.done is None, "closed while it had work to do"
