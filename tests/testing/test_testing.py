"""kharon.testing itself: a helper that cannot fail proves nothing."""

from datetime import UTC, datetime, timedelta

import pytest
import trio
from msgspec import Raw

import kharon
from kharon import Ticket
from kharon.log.memory import MemoryLog
from kharon.model import commands as c
from kharon.model import events as e
from kharon.testing import EPOCH, FailingLog, TrioClock, given

ADD = c.Add("a", Ticket("a", "t"))


def added(**fields):
    given_fields = {"payload_json": Raw(b"null"), "tube": "default", "nice": 512, "runat": EPOCH, **fields}
    return e.TicketAdded("a", "t", **given_fields)


# --- TrioClock --------------------------------------------------------------------------------------------------------


async def test_a_trio_clock_goes_with_trios(mock_clock):
    clock = TrioClock()
    assert clock.now() == EPOCH
    mock_clock.jump(90.5)
    assert clock.now() == EPOCH + timedelta(seconds=90.5)
    assert clock.now().tzinfo is UTC


async def test_a_trio_clock_begins_when_it_is_first_asked(mock_clock):
    start = datetime(2030, 5, 1, tzinfo=UTC)
    clock = TrioClock(start)
    mock_clock.jump(1000)
    assert clock.now() == start


async def test_a_trio_clock_can_be_set(mock_clock):
    clock = TrioClock()
    assert clock.now() == EPOCH
    clock.step(60)
    assert clock.now() == EPOCH + timedelta(seconds=60)
    clock.step(-3600)
    mock_clock.jump(1)
    assert clock.now() == EPOCH + timedelta(seconds=60 - 3600 + 1)


# --- FailingLog -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["append", "write", "sync"])
def test_a_failing_log_fails_where_it_is_told_to(method):
    inner = MemoryLog()
    log = FailingLog(inner, fail=method, after=1)
    list(log.open(EPOCH))

    def commit():
        log.append([added()], EPOCH, "app")
        log.write()
        log.sync()

    commit()
    assert (log.seq, log.written, log.durable, log.first) == (1, 1, 1, 1)
    with pytest.raises(OSError, match="Input/output error") as raised:
        commit()
    assert raised.value is log.error
    assert log.calls[method] == 2
    reached = {"append": (1, 1, 1), "write": (2, 1, 1), "sync": (2, 2, 1)}[method]
    assert (log.seq, log.written, log.durable) == reached == (inner.seq, inner.written, inner.durable)
    with pytest.raises(OSError, match="Input/output error"):
        commit()  # and goes on failing


def test_a_failing_log_raises_what_it_is_given_and_can_be_switched():
    error = kharon.StorageFull("no room")
    log = FailingLog(MemoryLog(), error=error)
    list(log.open(EPOCH))
    log.append([added()], EPOCH, "app")
    log.write()
    log.fail = "write"
    with pytest.raises(kharon.StorageFull) as raised:
        log.write()
    assert raised.value is error
    log.fail = None
    log.write()
    assert log.calls == {"append": 1, "write": 3, "sync": 0}


async def test_a_failing_log_holds_a_queue():
    async with kharon.open(FailingLog(MemoryLog())) as kh:
        await kh.add(Ticket("a", "t"))
        assert [record.seq for record in await kh.history("a")] == [1]
        await trio.lowlevel.checkpoint()


# --- given, when, then ------------------------------------------------------------------------------------------------


def test_given_when_then():
    ticket = given().when(ADD).then(added())
    assert (ticket.id, ticket.version, ticket.ctime) == ("a", 1, EPOCH)
    claimed = e.TicketClaimed("a", 1, EPOCH + timedelta(seconds=31), "w")
    ticket = given(added()).when(c.Claim("a", "w")).then(claimed)
    assert (ticket.claim, ticket.attempts) == (2, 1)
    assert given(added(), claimed).when(c.Done("a", 2)).then(e.TicketDone("a")) is None


def test_given_a_ticket():
    ticket = given().when(ADD).then(added())
    given(ticket).when(c.Delete("a")).then(e.TicketDeleted("a"))


def test_given_nothing_happened():
    given().when(c.Delete("a")).then()


@pytest.mark.parametrize(
    "expected",
    [(), (added(nice=1),), (added(), added()), (e.TicketDeleted("a"),)],
    ids=["none", "other", "two", "type"],
)
def test_then_fails_when_other_events_come_of_it(expected):
    with pytest.raises(AssertionError, match="decided"):
        given().when(ADD).then(*expected)


def test_raises():
    given().when(c.Claim("a", "w")).raises(kharon.TicketNotFound, "'a'", "claim")


def test_raises_fails_when_nothing_is_raised():
    with pytest.raises(AssertionError, match="not refused"):
        given().when(ADD).raises(kharon.TicketExists)


def test_raises_fails_when_the_message_lacks_a_word():
    with pytest.raises(AssertionError, match="does not say"):
        given().when(c.Claim("a", "w")).raises(kharon.TicketNotFound, "unheard of")


def test_raises_lets_other_errors_through():
    with pytest.raises(kharon.TicketNotFound):
        given().when(c.Claim("a", "w")).raises(kharon.LeaseLost)


def test_then_without_when_is_an_error():
    with pytest.raises(TypeError, match="when"):
        given().then()


def test_the_context_is_what_it_is_told():
    now = EPOCH + timedelta(days=1)
    retried = given(added(), now=now, jitter=0.5).when(
        c.Retry("a", delay=kharon.BackoffDelay(base=1, max_delay=10, jitter=0.5))
    )
    retried.then(e.TicketRetried("a", now + timedelta(seconds=0.75)))
    given(added(), now=now, lease=7).when(c.Claim("a", "w")).then(
        e.TicketClaimed("a", 1, now + timedelta(seconds=7), "w")
    )
