"""A recorded workload: what is taken from a log, and what comes of it under other settings, by hand."""

from __future__ import annotations

import random
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
import trio
from msgspec import Raw

import kharon
from kharon.audit.measure import measure
from kharon.errors import InvalidSettings
from kharon.log.record import Record
from kharon.model import events as e
from kharon.simulate.recording import record_workload
from kharon.simulate.simulation import settings_for, simulate
from kharon.simulate.workload import Ending, Run, Runs

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def moment(seconds):
    return NOON + timedelta(seconds=seconds)


def records(*told):
    return [Record(seq, moment(at), by, event, "", (1, 1), 0) for seq, (at, by, event) in enumerate(told, 1)]


def added(at, id, type="t", tube="q", runat=None):
    return (at, "app", e.TicketAdded(id, type, Raw(b"null"), tube, 512, moment(at if runat is None else runat)))


def claimed(at, id, worker="w", attempt=1, lease=30):
    return (at, worker, e.TicketClaimed(id, attempt, moment(at + lease), worker))


END = (1000, "clock", e.LogClosed())


def runs(load, *ids):
    """The attempts of tickets, by the ids that they had."""
    found = {}
    for id in ids:
        number, place = load.tickets.number(id), 0
        found[id] = []
        while (following := load.runs.following(number, place)) != place:
            place = following
            found[id].append(load.runs.at(place))
    return found


def had_run(load, attempts):
    """Let the attempts of a workload's tickets be these."""
    load.runs = Runs()
    for id, those in attempts.items():
        for each in those:
            load.runs.add(load.tickets.number(id), each)


def ids(load, *those):
    """What acts call tickets, by the ids that they had."""
    return [load.tickets.written(id) for id in those]


def run(told, *, new_backoff=False, **changes):
    load = record_workload(told)
    return simulate(load, settings_for(load, **changes), new_backoff=new_backoff)


def counts(found):
    return {name: count for name, count in found.total.counts.items() if count}


# --- what is recorded -------------------------------------------------------------------------------------------------


def test_nothing():
    load = record_workload([])
    assert (load.begin, list(load.acts), len(load.tickets), load.process_time) == (None, [], 0, None)
    assert simulate(load, settings_for(load), new_backoff=False).records == 0
    assert settings_for(load).tubes == ("default",)


def test_the_endings_of_attempts():
    names = ["acked", "done", "failed", "cancelled", "retried", "lapsed", "crashed", "released", "left", "deleted"]
    load = record_workload(
        records(
            *(added(0, id) for id in names),
            *(claimed(1, id) for id in names),
            (3, "w", e.TicketDone("acked")),
            (3, "w", e.TicketDone("done", True, Raw(b"1"), moment(63))),
            (4, "w", e.TicketFailed("failed", "no", moment(64))),
            (5, "w", e.TicketCancelled("cancelled", True)),
            (6, "w", e.TicketRetried("retried", moment(16), "no")),
            (7, "w", e.LeaseExtended("retried", moment(99))),
            (7, "w", e.TicketReleased("released")),
            (8, "clock", e.TicketLapsed("crashed", moment(8), "the process that ran it ended")),
            (9, "w", e.TicketFailed("left", "ValueError (no attempts left after 7)")),
            (10, "ann", e.TicketDeleted("deleted")),
            (31, "clock", e.TicketLapsed("lapsed", moment(40), "the lease ended")),
            (31, "clock", e.TicketFailed("lapsed", "the lease ended (no attempts left after 9)")),
        )
    )
    assert runs(load, *names) == {
        "acked": [Run(2, Ending.ACKED)],
        "done": [Run(2, Ending.DONE, expire_in=60)],
        "failed": [Run(3, Ending.FAILED, expire_in=60)],
        "cancelled": [Run(4, Ending.CANCELLED, keep=True)],
        "retried": [Run(5, Ending.RETRIED, delay=10)],
        "lapsed": [Run(30, Ending.LAPSED)],
        "crashed": [],
        "released": [],
        "left": [Run(8, Ending.RETRIED)],
        "deleted": [Run(9, Ending.ACKED)],
    }
    assert (load.unknown, load.max_attempts, load.workers, load.process_time, load.tubes) == (1, 9, 1, 30, ["q"])
    assert [type(act.event).__name__ for act in load.acts] == ["TicketAdded"] * 10 + ["TicketDeleted"]
    assert load.typical["t"] == Run(9, Ending.ACKED)


def test_what_people_did_is_done_again_and_what_time_did_is_not():
    load = record_workload(
        records(
            *(added(0, id) for id in "abcdef"),
            (1, "ann", e.TicketDone("a", keep=True, expire_at=moment(11))),
            (1, "ann", e.TicketFailed("b", "no")),
            (1, "ann", e.TicketCancelled("c")),
            (1, "ann", e.TicketRetried("d", moment(5), None, e.Changes(nice=1))),
            (2, "ann", e.TicketUpdated("e", e.Changes(tube="r"))),
            (3, "ann", e.TicketRestarted("b", moment(3))),
            (11, "clock", e.TicketExpired("a")),
            (12, "ann", e.TicketFailed("f", "x (no attempts left after many)")),
        )
    )
    assert [type(act.event).__name__ for act in list(load.acts)[6:]] == [
        *("TicketDone", "TicketFailed", "TicketCancelled", "TicketRetried", "TicketUpdated", "TicketRestarted"),
    ]
    assert load.max_attempts is None


def test_extends_are_relative_to_the_attempt():
    load = record_workload(
        records(
            added(0, "a"),
            claimed(5, "a"),
            (15, "w", e.LeaseExtended("a", moment(75))),
            (40, "w", e.LeaseExtended("a", moment(100))),
            (90, "w", e.TicketDone("a")),
        )
    )
    assert runs(load, "a") == {"a": [Run(85, Ending.ACKED, extends=((10, 60), (35, 60)))]}


def test_a_log_whose_beginning_was_trimmed():
    load = record_workload(
        records((0, "w", e.TicketDone("gone")), added(1, "a"), (2, "ann", e.TicketRetried("gone", moment(3))))
    )
    assert [act.event.id for act in load.acts] == ids(load, "a")


def test_settings_as_recorded():
    load = record_workload(
        records(
            added(0, "a"),
            claimed(1, "a", "w1", lease=45),
            (2, "w1", e.TicketDone("a")),
            added(2, "b", tube="r"),
            claimed(3, "b", "w2", lease=45),
        )
    )
    settings = settings_for(load)
    assert (settings.workers, settings.process_time, settings.tubes, settings.max_attempts) == (2, 45, ("q", "r"), 25)
    assert settings_for(load, workers=7, max_attempts=None).workers == 7
    assert settings_for(load, max_attempts=None).max_attempts is None
    with pytest.raises(InvalidSettings, match=r"Settings\.workers"):
        settings_for(load, workers=0)


# --- what comes of it -------------------------------------------------------------------------------------------------


def twenty(*, workers=4, seconds=10.0):
    """Twenty tickets at once, ten seconds of work each, by four workers."""
    told = [added(0, f"{number}") for number in range(20)]
    for number in range(20):
        begin = number // workers * seconds
        told.append(claimed(begin, f"{number}", f"w{number % workers}"))
        told.append((begin + seconds, f"w{number % workers}", e.TicketDone(f"{number}")))
    return records(*sorted(told, key=lambda each: each[0]), END)


def test_the_same_settings_give_what_happened():
    real, found = measure(twenty()), run(twenty())
    assert counts(found) == counts(real) == {"added": 20, "claimed": 20, "done": 20}
    assert found.total.waited.total == pytest.approx(real.total.waited.total, abs=0.1)
    assert found.total.ran.total == pytest.approx(200, abs=0.1)


@pytest.mark.parametrize(("workers", "longest"), [(1, 190), (2, 90), (4, 40), (5, 30), (10, 10), (20, 0), (50, 0)])
def test_workers(workers, longest):
    found = run(twenty(), workers=workers)
    assert found.total.waited.longest == pytest.approx(longest, abs=0.1)
    assert counts(found)["done"] == 20


def test_a_shorter_lease_lapses_what_runs_longer():
    found = run(twenty(), process_time=5, max_attempts=2, new_backoff=True, backoff=kharon.FixedDelay(1))
    assert counts(found) == {"added": 20, "claimed": 40, "lapsed": 40, "failed": 20}
    assert found.total.ran.longest == pytest.approx(5, abs=0.1)


def test_what_still_runs_at_the_end_is_not_over():
    told = records(
        *(added(0, id) for id in "ab"),
        *(claimed(0, id, f"worker of {id}") for id in "ab"),
        *((10, f"worker of {id}", e.TicketDone(id)) for id in "ab"),
    )
    assert counts(run(told)) == {"added": 2, "claimed": 2, "done": 2}
    assert counts(run(told, workers=1)) == {"added": 2, "claimed": 2, "done": 1}, "the other was not released"


def test_what_is_over_is_not_held(record_property):
    """Of a simulated ticket that is gone, nothing is left but what was counted."""
    peaks = []
    for count in (300, 1500):
        told = [record for n in range(count) for record in (added(n, f"{n}"), claimed(n, f"{n}"))]
        told = [*told, *((n + 0.5, "w", e.TicketDone(f"{n}")) for n in range(count))]
        load = record_workload(records(*sorted(told, key=lambda each: each[0])))
        tracemalloc.start()
        simulate(load, settings_for(load), new_backoff=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    each = (peaks[1] - peaks[0]) / 1200
    record_property("bytes of memory more for a simulated ticket more", round(each))
    assert each < 200


def failing(*, delay=10, times=3):
    """A ticket that raises three times after a second each, and then is done."""
    told, at = [added(0, "a")], 0
    for attempt in range(1, times + 1):
        told += [claimed(at, "a", attempt=attempt), (at + 1, "w", e.TicketRetried("a", moment(at + 1 + delay), "no"))]
        at += 1 + delay
    return records(*told, claimed(at, "a", attempt=times + 1), (at + 2, "w", e.TicketDone("a")), END)


def test_delays_are_as_they_were_unless_there_is_another_backoff():
    ends = {}
    for name, changes in (("recorded", {}), ("other", {"backoff": kharon.FixedDelay(5), "new_backoff": True})):
        found = run(failing(delay=100), **changes)
        assert counts(found) == {"added": 1, "claimed": 4, "retried": 3, "done": 1}
        ends[name] = round(found.seconds)
        assert found.total.waited.longest < 0.1
    assert ends == {"recorded": 305, "other": 20}


def test_fewer_attempts_fail():
    for new_backoff in (False, True):
        found = run(failing(), max_attempts=2, backoff=kharon.FixedDelay(1), new_backoff=new_backoff)
        assert counts(found) == {"added": 1, "claimed": 2, "retried": 1, "failed": 1}


def test_more_attempts_than_were_recorded_end_as_the_last_did():
    told = records(
        added(0, "a"),
        claimed(0, "a"),
        (1, "w", e.TicketRetried("a", moment(2), "no")),
        claimed(2, "a", attempt=2),
        (3, "w", e.TicketFailed("a", "no (no attempts left after 2)")),
        END,
    )
    assert counts(run(told)) == {"added": 1, "claimed": 2, "retried": 1, "failed": 1}
    assert counts(run(told, max_attempts=5)) == {"added": 1, "claimed": 5, "retried": 4, "failed": 1}


def test_what_lapsed_lapses_whatever_the_lease():
    told = records(
        added(0, "a"), claimed(0, "a"), (30, "clock", e.TicketLapsed("a", moment(31), "the lease ended")), END
    )
    found = run(told, process_time=200, max_attempts=3)
    assert counts(found) == {"added": 1, "claimed": 3, "lapsed": 3, "failed": 1}
    assert found.total.ran.longest == pytest.approx(200, abs=0.1)


def test_what_never_ran_runs_like_its_type():
    told = records(
        added(0, "a"),
        claimed(0, "a"),
        (7, "w", e.TicketDone("a", keep=True)),
        added(10, "b"),
        added(10, "c", type="other"),
        END,
    )
    found = run(told)
    assert counts(found) == {"added": 3, "claimed": 3, "done": 3}
    assert sorted(round(value) for value in (found.total.ran.longest, found.total.ran.percentile(1))) == [0, 7]


def test_leases_are_extended_as_they_were():
    told = records(
        added(0, "a"), claimed(0, "a"), (20, "w", e.LeaseExtended("a", moment(80))), (60, "w", e.TicketDone("a")), END
    )
    assert counts(run(told)) == {"added": 1, "claimed": 1, "extended": 1, "done": 1}
    assert counts(run(told, process_time=10, max_attempts=1)) == {"added": 1, "claimed": 1, "lapsed": 1, "failed": 1}


def test_what_was_done_by_hand():
    told = records(
        *(added(0, id, runat=500) for id in "abcdefgh"),
        (1, "ann", e.TicketDone("a", keep=True, expire_at=moment(11))),
        (1, "ann", e.TicketDone("b")),
        (1, "ann", e.TicketFailed("c", "no")),
        (1, "ann", e.TicketCancelled("d")),
        (1, "ann", e.TicketCancelled("e", keep=True)),
        (1, "ann", e.TicketRetried("f", moment(5), None, e.Changes(nice=1))),
        (2, "ann", e.TicketUpdated("f", e.Changes(tube="r", payload_json=Raw(b"1")))),
        (2, "ann", e.TicketRetried("g", moment(600))),
        (3, "ann", e.TicketRestarted("c", moment(3))),
        (3, "ann", e.TicketDeleted("c")),
        (11, "clock", e.TicketExpired("a")),
        (50, "clock", e.LogClosed()),
    )
    assert counts(run(told)) == {
        "added": 8,
        "done": 2,
        "failed": 1,
        "cancelled": 2,
        "retried": 2,
        "updated": 1,
        "restarted": 1,
        "deleted": 1,
        "expired": 1,
    }


def gated(at, id, after=(), group=None, on_failure="run"):
    event = e.TicketAdded(
        id, "t", Raw(b"null"), "q", 512, moment(at), None, after, after, group, group is not None, on_failure
    )
    return (at, "app", event)


def following(seq, at, by, event):
    """A record that is the second of its commit."""
    return Record(seq, moment(at), by, event, "", (2, 2), 0)


def test_tickets_wait_for_others_as_they_were_told_to():
    """That they are unblocked follows from the simulated ends, and not from the recorded ones."""
    told = [
        *records(
            (0, "app", e.TicketAdded("m", "t", Raw(b"null"), "q", 512, moment(0), "g")),
            added(0, "n"),
            gated(0, "by-group", group="g"),
            gated(0, "by-id", after=("n",)),
            claimed(0, "m"),
            claimed(0, "n", "v"),
            (4, "w", e.TicketDone("m")),
            (4, "w", e.TicketUnblocked("by-group", "m", "g")),
            claimed(4, "by-group"),
            (6, "v", e.TicketDone("n")),
            (6, "v", e.TicketUnblocked("by-id", "n")),
            claimed(6, "by-id", "v"),
            (7, "w", e.TicketDone("by-group")),
            (8, "v", e.TicketDone("by-id")),
            END,
        )
    ]
    load = record_workload(told)
    assert [type(act.event).__name__ for act in load.acts] == ["TicketAdded"] * 4
    real, simulated = measure(told), run(told)
    assert counts(simulated) == counts(real) == {"added": 4, "claimed": 4, "done": 4, "unblocked": 2}
    assert simulated.total.waited.longest == 0
    one = run(told, workers=1)
    assert counts(one) == counts(real)
    # m 0 to 4; then the first added of n and by-group; by-id behind n
    assert one.total.waited.total == pytest.approx(4 + 6 + 3)
    had_run(load, runs(load, "by-group", "by-id") | {id: [Run(1.0, Ending.ACKED)] for id in "mn"})
    sooner = simulate(load, settings_for(load), new_backoff=False)
    assert counts(sooner) == counts(real)
    assert sooner.total.waited.longest == 0, "they run when what they wait for has ended here"


def test_what_is_cancelled_because_another_failed_is_no_persons_doing():
    told = [
        *records(added(0, "m"), gated(0, "t", after=("m",), on_failure="cancel"), claimed(0, "m")),
        Record(4, moment(3), "w", e.TicketFailed("m", "no"), "", (1, 2), 0),
        following(5, 3, "w", e.TicketCancelled("t", True, "ticket 'm', which it waited for, failed or was cancelled")),
        Record(6, moment(1000), "clock", e.LogClosed(), "", (1, 1), 0),
    ]
    load = record_workload(told)
    assert [act.event.id for act in load.acts] == ids(load, "m", "t")
    assert counts(run(told)) == {"added": 2, "claimed": 1, "failed": 1, "cancelled": 1}
    had_run(load, {"m": [Run(3.0, Ending.ACKED)]})
    load.typical.clear()  # the failure, of which t's would be the like
    better = simulate(load, settings_for(load), new_backoff=False)
    assert counts(better) == {"added": 2, "claimed": 2, "done": 2, "unblocked": 1}, (
        "had it not failed, it would have run"
    )
    by_hand = records(
        added(0, "m"), gated(0, "t", after=("m",), on_failure="cancel"), (1, "ann", e.TicketCancelled("t"))
    )
    assert len(record_workload(by_hand).acts) == 3


def test_tubes_are_paused_and_limited_as_they_were():
    told = records(
        (0, "ann", e.TubePaused("q")),
        (0, "ann", e.TubeLimited("q", 1, 5, 2.0)),
        added(0, "a"),
        added(0, "b"),
        (10, "ann", e.TubeResumed("q")),
        claimed(10, "a"),
        (14, "w", e.TicketDone("a")),
        claimed(14, "b", "v"),
        (15, "v", e.TicketDone("b")),
        END,
    )
    assert [type(act.event).__name__ for act in record_workload(told).acts][0::4] == ["TubePaused", "TubeResumed"]
    found = run(told)
    assert counts(found) == counts(measure(told))
    assert (found.total.waited.total, found.total.waited.longest) == (24, 14)
    assert run([record for record in told if not isinstance(record.event, e.TubeEvent)]).total.waited.total == 0


def test_what_a_schedule_added_is_added_when_it_was():
    fired = e.ScheduleFired("s", moment(5), moment(10))
    told = records(added(0, "a"), (5, "clock", fired), (5, "clock", added(5, "s@5")[2]), claimed(5, "s@5"), END)
    load = record_workload(told)
    assert [act.event.id for act in load.acts] == ids(load, "a", "s@5")


def test_what_cannot_be_done_to_the_simulated_ticket_is_left():
    """It was failed when ann restarted it; with more attempts it is done, and gone, by then."""
    told = records(
        added(0, "a"),
        claimed(0, "a"),
        (1, "w", e.TicketFailed("a", "no")),
        (2, "ann", e.TicketRestarted("a", moment(2))),
        claimed(2, "a"),
        (3, "w", e.TicketDone("a")),
        (4, "clock", e.LogClosed()),
    )
    load = record_workload(told)
    had_run(load, {"a": [Run(0.5, Ending.ACKED)]})
    assert counts(simulate(load, settings_for(load), new_backoff=False)) == {"added": 1, "claimed": 1, "done": 1}


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.CANCELLED, Ending.DONE])
def test_how_a_handler_ends(ending):
    load = record_workload(records(added(0, "a"), claimed(0, "a"), (1, "w", e.TicketDone("a")), END))
    for keep in (False, True):
        had_run(load, {"a": [Run(1, ending, keep=keep, expire_in=10)]})
        found = simulate(load, settings_for(load), new_backoff=False)
        kept = keep or ending is not Ending.CANCELLED
        assert counts(found) == {"added": 1, "claimed": 1, ending.value: 1, **({"expired": 1} if kept else {})}


def crowded():
    """Sixty tickets at one instant that all raise at first, for a few workers."""
    told = [added(0, f"{number}") for number in range(60)]
    for number in range(60):
        worker = f"w{number % 3}"
        told += [
            claimed(number, f"{number}", worker),
            (number + 1 + number % 7 / 7, worker, e.TicketRetried(f"{number}", moment(number + 9), "no")),
        ]
        told += [claimed(number + 100, f"{number}", worker, 2), (number + 101, worker, e.TicketDone(f"{number}"))]
    return records(*sorted(told, key=lambda each: each[0]), END)


def test_two_simulations_are_the_same():
    load = record_workload(crowded())
    backoff = kharon.BackoffDelay(2, 60, jitter=0.1)
    before = trio._core._run._r.getstate(), trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING

    def once(seed):
        random.seed(seed)
        trio._core._run._r.seed(seed)
        found = simulate(load, settings_for(load, backoff=backoff), new_backoff=True)
        return counts(found), found.total.waited.total, found.total.ran.total, found.records, found.ended.counts

    assert len({repr(once(seed)) for seed in range(4)}) == 1
    assert once(0)[0] == {"added": 60, "claimed": 120, "retried": 60, "done": 60}
    random.seed(5)
    expected = random.random()
    trio._core._run._r.setstate(before[0])
    assert trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING is before[1]
    random.seed(5)
    simulate(load, settings_for(load), new_backoff=False)
    assert random.random() == expected, "what was drawn in a simulation is not missing behind it"


def test_progress_is_told():
    told = []
    load = record_workload(twenty())
    simulate(load, settings_for(load), new_backoff=False, progress=told.append)
    assert told == list(range(1, 21))
