"""A log in memory that tells what was done to it in which order, and how far it is durable."""

from kharon.log.memory import MemoryLog
from kharon.model.events import TicketEvent
from kharon.testing import FailingLog


class WatchedLog(FailingLog):
    """Fails on demand; `journal` has each write and sync with the seq it reached.

    Attributes:
        before: called with "write" or "sync" before that is done.
        fsync: the mode of the queue, which says what durable means.
    """

    def __init__(self, fsync="always", **options):
        super().__init__(MemoryLog(), **options)
        self.fsync = fsync
        self.journal = []
        self.before = lambda _name: None
        self.abandoned = False

    def write(self):
        self.before("write")
        super().write()
        self.journal.append(("write", self.written))

    def sync(self):
        self.before("sync")
        super().sync()
        self.journal.append(("sync", self.durable))

    def abandon(self):
        self.abandoned = True
        super().abandon()

    @property
    def safe(self):
        """The seq up to which effects may show."""
        return self.durable if self.fsync == "always" else self.written

    def records(self):
        """Every record that was ever appended, written or not."""
        return self.reader().read(self.seq, self.seq)

    def names(self, id=None):
        """The names of the events about tickets, or about this one."""
        return [
            type(record.event).__name__
            for record in self.records()
            if isinstance(record.event, TicketEvent) and id in (None, record.event.id)
        ]
