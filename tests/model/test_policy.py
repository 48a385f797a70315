"""Policies: the commands that end an attempt on its handler's behalf, and where the rules come from."""

from datetime import timedelta

import pytest
from msgspec import Raw

from kharon import BackoffDelay, FixedDelay, Settings
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.policy import LEASE_ENDED, Policy
from kharon.testing import EPOCH, given

ADDED = e.TicketAdded("t", "mail", Raw(b"null"), "default", 512, EPOCH)
CLAIMED = e.TicketClaimed("t", 1, EPOCH + timedelta(seconds=30), "w")
POLICY = Policy(process_time=7.0, max_attempts=2, backoff=FixedDelay(5), on_return="done")


def test_a_lapse_goes_by_the_policy():
    case = given(ADDED, CLAIMED)
    lapse = POLICY.lapse(case.ticket, LEASE_ENDED)
    assert lapse == c.Lapse("t", 2, error_reason="the lease ended", backoff=FixedDelay(5), max_attempts=2)
    case.when(lapse).then(e.TicketLapsed("t", EPOCH + timedelta(seconds=7), "the lease ended"))


def test_a_retry_goes_by_the_policy():
    case = given(ADDED, CLAIMED)
    retry = POLICY.retry(case.ticket, "no route")
    assert retry == c.Retry("t", 2, FixedDelay(5), "no route", None, 2)
    case.when(retry).then(e.TicketRetried("t", EPOCH + timedelta(seconds=7), "no route"))


@pytest.mark.parametrize(
    ("on_return", "settle"),
    [("ack", c.Done("t", 2)), ("done", c.Done("t", 2, True, expire_in=9.0)), ("leave", None)],
)
def test_a_return_goes_by_the_policy(on_return, settle):
    assert Policy(on_return=on_return, keep_done=9.0).returned(given(ADDED, CLAIMED).ticket) == settle


def test_settings_give_one_policy_for_every_type():
    settings = Settings(process_time=7, max_attempts=2, backoff=FixedDelay(5), on_return="done")
    assert settings.policy("mail") == settings.policy() == POLICY
    assert Settings().policy("mail") == Policy() == Policy(30.0, 25, BackoffDelay(), "ack", None, 14 * 86_400)
