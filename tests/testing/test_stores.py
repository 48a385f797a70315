"""The conformance suite for stores: what passes it, and what it finds."""

import pytest
import trio

from kharon.errors import KharonError
from kharon.log.directory import DirectoryLog
from kharon.log.memory import MemoryLog
from kharon.model import commands as c
from kharon.model import decide, evolve, ready
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.groups import Groups
from kharon.model.policy import Policy
from kharon.model.projection import Projection
from kharon.model.ticket import draft_of, seal
from kharon.model.tubes import Tubes
from kharon.runtime.waits import Waits
from kharon.store.local import LocalStore
from kharon.store.reader import LocalReader
from kharon.testing import STORE_CHECKS, Place, TrioClock, check_store


class Custom:
    """A log of somebody's own: every method of an `EventLog`, and no other."""

    def __init__(self):
        self._log = MemoryLog()

    seq = property(lambda self: self._log.seq)
    written = property(lambda self: self._log.written)
    durable = property(lambda self: self._log.durable)
    first = property(lambda self: self._log.first)

    def open(self, now):
        return self._log.open(now)

    def append(self, events, at, by):
        return self._log.append(events, at, by)

    def write(self):
        self._log.write()

    def sync(self):
        self._log.sync()

    def reader(self, after=0, id=None):
        return self._log.reader(after, id)

    def close(self, now):
        self._log.close(now)

    def abandon(self):
        self._log.abandon()


def named(check):
    return check.__name__.removeprefix("check_")


@pytest.mark.parametrize("check", STORE_CHECKS, ids=named)
async def test_memory_passes(check, autojump_clock):
    await check(Place(lambda: ":memory:", clock=TrioClock()))


@pytest.mark.parametrize("check", STORE_CHECKS, ids=named)
async def test_a_log_of_ones_own_passes(check, autojump_clock):
    await check(Place(Custom, clock=TrioClock()))


@pytest.mark.parametrize("check", STORE_CHECKS, ids=named)
async def test_a_directory_passes(check, tmp_path):
    places = iter(range(99))
    made = []

    def make():
        made.append(tmp_path / f"queue-{next(places)}")
        return made[-1]

    with trio.fail_after(60):
        await check(Place(make, lambda: made[-1]))


async def test_the_whole_suite_in_one_call(autojump_clock):
    await check_store(lambda: ":memory:", clock=TrioClock())


# --- a suite that cannot fail proves nothing: each check is shown a queue that is wrong where it looks ----------------


def released_and_counted(ticket, event, seq, at):
    draft = draft_of(ticket)
    draft.attempts += 1
    return evolve._released(seal(draft), event, seq, at)


def last_come_first_served(self, tubes):
    due = [key for tube in tubes for key in self._ready.ready.get(tube, ())]
    return self.get(due[-1][-1]) if due else None


async def nothing(*_args, **_filters):
    await trio.lowlevel.checkpoint()
    return []


async def ignoring_the_tube(self, *, tube, real=LocalStore.list, **filters):
    return await real(self, tube=None, **filters)


async def why_another(self, id, tubes, real=LocalStore.why):
    return await real(self, "second", tubes)


async def all_but_the_last(self, real=LocalReader.read):
    return (await real(self))[:-1]


def without_the_last_ticket(self, now, real=DirectoryLog.open):
    yield from [record for record in real(self, now) if getattr(record.event, "id", "") != "b"]


async def not_cancelled():
    pass


WRONG = {
    "adding": (Commit, "undo", Commit.keep),
    "listing": (LocalStore, "list", ignoring_the_tube),
    "conflicts": (evolve, "_succeeded", lambda _ticket, _seq, _at, attempts=None: None),
    "reasons": (LocalStore, "why", why_another),
    "verbs": (decide._RULES, c.Release, {**decide._RULES[c.Release], decide.State.UNCLAIMED: decide._release}),
    "results": (evolve, "_change", lambda _draft, _changes: None),
    "order": (Projection, "first_ready", last_come_first_served),
    "outcomes": (evolve._EFFECTS, e.TicketReleased, released_and_counted),
    "policies": (Policy, "returned", lambda _self, ticket: c.Done(ticket.id, ticket.claim)),
    "leases": (decide, "_fence", lambda _ticket, _command: None),
    "fencing": (decide, "_fence", lambda _ticket, _command: None),
    "delays": (decide, "delay_seconds", lambda _delay, _attempts, _jitter: 0.0),
    "expiry": (Projection, "expired", lambda _self, _now, _limit: []),
    "finalizers": (evolve, "_unblock", lambda _draft, _event: None),
    "groups": (Groups, "pending_count", lambda _self, _group: 1),
    "waits": (Waits, "deliver", lambda _self, _changes: None),
    "tubes": (ready, "room", lambda *_args: (None, None)),
    "rates": (Tubes, "claim", lambda _self, _tube, _at: None),
    "schedules": (LocalStore, "schedules", nothing),
    "atomic": (Commit, "undo", Commit.keep),
    "history": (LocalReader, "read", all_but_the_last),
    "cancelling": (trio.lowlevel, "checkpoint_if_cancelled", not_cancelled),
    "closing": (LocalStore, "_check_open", lambda _self: None),
    "reopening": (DirectoryLog, "open", without_the_last_ticket),
}
"""For each check something that is wrong: where, what it is called there, and what it is instead."""


def test_each_check_is_shown_something_wrong():
    assert list(WRONG) == [named(check) for check in STORE_CHECKS]


@pytest.mark.parametrize("check", STORE_CHECKS, ids=named)
async def test_a_check_finds_what_is_wrong(check, tmp_path, monkeypatch, autojump_clock):
    subject, name, instead = WRONG[named(check)]
    if isinstance(subject, dict):
        monkeypatch.setitem(subject, name, instead)
    else:
        monkeypatch.setattr(subject, name, instead)
    place = (
        Place(lambda: tmp_path / "queue", lambda: tmp_path / "queue")
        if named(check) == "reopening"
        else Place(lambda: ":memory:", clock=TrioClock())
    )
    with pytest.raises((AssertionError, KharonError)):
        await check(place)
