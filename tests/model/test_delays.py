"""Delays: the numbers that `base ** attempts`, a cap and a jitter must come to, and never an overflow."""

import math
from datetime import timedelta

import pytest

from kharon.errors import InvalidTicket
from kharon.model.delays import MAX_SECONDS, BackoffDelay, FixedDelay, as_seconds, delay_seconds

NOT_DURATIONS = ["5", None, True, [1], object()]
OUT_OF_RANGE = [-1, -0.001, MAX_SECONDS + 1, math.inf, -math.inf, math.nan, 10**400, timedelta(seconds=-1)]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0.0), (3, 3.0), (0.25, 0.25), (timedelta(minutes=2, milliseconds=5), 120.005), (MAX_SECONDS, MAX_SECONDS)],
)
def test_a_duration_is_seconds_or_a_timedelta(value, seconds):
    assert as_seconds("delay", value) == seconds
    assert type(as_seconds("delay", value)) is float


@pytest.mark.parametrize("bad", NOT_DURATIONS)
def test_what_is_no_duration_is_refused_by_its_type(bad):
    with pytest.raises(InvalidTicket, match=rf"^expire_in: .*not {type(bad).__name__}"):
        as_seconds("expire_in", bad)


@pytest.mark.parametrize("bad", OUT_OF_RANGE)
def test_a_duration_out_of_range_is_refused(bad):
    with pytest.raises(InvalidTicket, match=r"^expire_in: .*is not between 0 and"):
        as_seconds("expire_in", bad)


def test_a_fixed_delay_is_the_same_for_every_attempt():
    delay = FixedDelay(timedelta(seconds=7))
    assert [delay.seconds(attempts, jitter) for attempts, jitter in ((0, 0.0), (3, 0.5), (10**6, 0.9))] == [7.0] * 3


def test_a_backoff_grows_as_base_to_the_attempts_up_to_its_cap():
    assert [BackoffDelay(2, 20, jitter=0).seconds(attempts, 0.9) for attempts in range(7)] == [1, 2, 4, 8, 16, 20, 20]
    assert [BackoffDelay(1.5, 15).seconds(attempts, 0.0) for attempts in range(8)] == [
        1.0,
        1.5,
        2.25,
        3.375,
        5.0625,
        7.59375,
        11.390625,
        15.0,
    ]


def test_the_default_backoff_is_the_one_that_is_documented():
    assert BackoffDelay() == BackoffDelay(base=1.8, max_delay=timedelta(hours=6), jitter=0.2, initial=1)


def test_by_default_a_ticket_is_tried_within_seconds_and_for_about_two_days():
    days = [sum(BackoffDelay().seconds(n, jitter) for n in range(1, 25)) / 86_400 for jitter in (0.0, 0.5, 1.0)]
    assert [round(one, 1) for one in days] == [2.3, 2.1, 1.9]
    assert [round(BackoffDelay().seconds(n, 0.0), 1) for n in (1, 2, 3)] == [1.8, 3.2, 5.8]
    assert BackoffDelay().seconds(24, 0.0) == 6 * 3600


def test_a_first_delay_may_be_below_a_second():
    delay = BackoffDelay(2, 20, jitter=0, initial=timedelta(milliseconds=50))
    assert [delay.seconds(attempts, 0.5) for attempts in range(4)] == [0.05, 0.1, 0.2, 0.4]
    assert delay.seconds(30, 0.0) == 20


@pytest.mark.parametrize("initial", [7, 20, 10**6])
def test_a_first_delay_above_the_cap_is_the_cap(initial):
    assert [BackoffDelay(2, 7, initial=initial).seconds(attempts, 0.0) for attempts in (0, 9)] == [7, 7]


@pytest.mark.parametrize("initial", [1e-9, 5e-324, MAX_SECONDS])
def test_no_first_delay_overflows(initial):
    for attempts in (0, 1, 1023, 10**6):
        assert 0 <= BackoffDelay(10**6, MAX_SECONDS, initial=initial).seconds(attempts, 0.0) <= MAX_SECONDS


def test_a_backoff_that_lands_on_its_cap_stays_there():
    assert [BackoffDelay(2, 8).seconds(attempts, 0.0) for attempts in (2, 3, 4)] == [4, 8, 8]


@pytest.mark.parametrize(
    ("attempts", "jitter", "seconds"), [(0, 0.0, 1), (0, 0.5, 0.75), (2, 0.25, 3.5), (9, 0.0, 20), (9, 0.75, 12.5)]
)
def test_jitter_takes_a_share_of_the_delay(attempts, jitter, seconds):
    assert BackoffDelay(2, 20, jitter=0.5).seconds(attempts, jitter) == seconds


def test_no_wait_is_longer_than_max_delay():
    for delay in (BackoffDelay(3, 10, jitter=1), BackoffDelay(1.01, 0.5, jitter=0.25), BackoffDelay(10**6, 7, 1)):
        for attempts in (0, 1, 2, 5, 1000):
            assert 0 <= delay.seconds(attempts, math.nextafter(1, 0)) <= delay.max_delay


@pytest.mark.parametrize("max_delay", [0, 0.5, 0.999])
def test_a_cap_below_one_second_is_the_wait_from_the_first_attempt_on(max_delay):
    assert [BackoffDelay(2, max_delay).seconds(attempts, 0.0) for attempts in (0, 1, 9)] == [max_delay] * 3


def test_a_base_of_one_never_grows():
    assert [BackoffDelay(1, 15).seconds(attempts, 0.0) for attempts in (0, 1, 10**6)] == [1.0] * 3


@pytest.mark.parametrize("base", [1, 1.0000001, 1.5, 2, 10**400, 1e308])
@pytest.mark.parametrize("attempts", [0, 1, 1023, 1024, 10**6])
def test_a_backoff_never_overflows(base, attempts):
    seconds = BackoffDelay(base, MAX_SECONDS).seconds(attempts, 0.0)
    assert 1 <= seconds <= MAX_SECONDS
    assert timedelta(seconds=seconds)


def test_a_million_attempts_wait_as_long_as_the_cap():
    assert BackoffDelay(1.5, 15).seconds(10**6, 0.0) == 15


@pytest.mark.parametrize("bad", [0, 0.999, -2, math.inf, math.nan, "2", None, True])
def test_a_bad_base_is_refused(bad):
    with pytest.raises(InvalidTicket, match=r"^BackoffDelay.base: "):
        BackoffDelay(base=bad)


@pytest.mark.parametrize("bad", [*NOT_DURATIONS, *OUT_OF_RANGE])
def test_other_bad_arguments_are_refused_by_their_names(bad):
    with pytest.raises(InvalidTicket, match=r"^BackoffDelay.max_delay: "):
        BackoffDelay(max_delay=bad)
    with pytest.raises(InvalidTicket, match=r"^BackoffDelay.jitter: "):
        BackoffDelay(jitter=bad)
    with pytest.raises(InvalidTicket, match=r"^BackoffDelay.initial: "):
        BackoffDelay(initial=bad)
    with pytest.raises(InvalidTicket, match=r"^FixedDelay.delay: "):
        FixedDelay(bad)


@pytest.mark.parametrize(
    ("bad", "says"), [(1.5, "jitter: 1.5 is not a share"), (timedelta(0), "jitter: .* not a share")]
)
def test_jitter_is_a_share(bad, says):
    assert (BackoffDelay(jitter=1).jitter, BackoffDelay(jitter=0).jitter) == (1, 0)
    with pytest.raises(InvalidTicket, match=f"^BackoffDelay.{says}"):
        BackoffDelay(jitter=bad)


def test_a_first_delay_of_nothing_is_refused():
    with pytest.raises(InvalidTicket, match=r"^BackoffDelay.initial: 0 seconds never grow"):
        BackoffDelay(initial=0)


def test_delays_are_values():
    assert BackoffDelay(2, timedelta(seconds=9)) == BackoffDelay(2, 9)
    assert len({FixedDelay(2), FixedDelay(2.0), FixedDelay(3)}) == 2
    with pytest.raises(AttributeError):
        BackoffDelay().base = 3


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [(3, 3.0), (timedelta(minutes=1), 60.0), (FixedDelay(4), 4.0), (BackoffDelay(3, 20, 0.5), 6.75)],
)
def test_any_kind_of_delay_is_given_in_seconds(delay, seconds):
    assert delay_seconds(delay, 2, 0.5) == seconds


@pytest.mark.parametrize("bad", ["soon", None, -1])
def test_what_is_no_delay_is_refused(bad):
    with pytest.raises(InvalidTicket, match=r"^delay: "):
        delay_seconds(bad, 0, 0.0)
