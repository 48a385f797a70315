"""The scenarios are what they are called; and recovery on a disk that has little room."""

from __future__ import annotations

import errno

import pytest
from log_steps import added
from simulated_files import Plan, check_named

from kharon.log.directory import segments
from kharon.model.events import TicketDone

from .everywhere import KINDS, run
from .other_disks import (
    a_reserve_that_is_used_up,
    lost_answers,
    rotated_elsewhere,
    rotated_while_in_flight,
    rotating_on_a_full_disk,
    settling_from_the_reserve,
    synced_elsewhere,
)
from .world import TINY, WHERE, LittleReserved, Offering, Reserved, check, opened

pytestmark = pytest.mark.usefixtures("quiet")


def test_the_scenarios_do_what_they_say():
    """Else a scenario could quietly become one of the others."""
    world = run(a_reserve_that_is_used_up, Plan(), LittleReserved)
    settled = [record.event.id for record in world.appended if isinstance(record.event, TicketDone)]
    assert settled[-1] == "h"
    assert 1 < len(settled) < 8
    world = run(settling_from_the_reserve, Plan(), Reserved)
    assert [record.event.id for record in world.appended[3:-1]] == ["a", "b", "c", "e"]
    assert world.plan.done.count("allocate") == 2, "it was made whole again"
    world = run(rotating_on_a_full_disk, Plan(), Reserved)
    assert [record.event.id for record in world.appended[:-1]] == ["a", "b", "c", "a", "b", "d", "e"]
    assert len(segments(WHERE, world.files)) > 2
    world = run(rotated_elsewhere, Plan(), Offering)
    assert world.plan.done.count("sync_names") == 4
    assert world.plan.done.count("sync_twin") == 4 + 4 * 2 - 1, "except the first tail, which has none yet"
    assert len(world.appended) == 4 * 3 + 4 * 3 + 1
    for scenario, times in ((synced_elsewhere, 3), (rotated_while_in_flight, 1), (lost_answers, 2)):
        assert run(scenario, Plan(), Offering).plan.done.count("sync_twin") >= times


def test_a_rotation_that_is_forgotten_on_its_way_touches_nothing():
    """It may be a forked child that forgets it: the file that it would tidy away is the parent's."""
    world = Offering(Plan())
    world.open(TINY)
    world.log.rotates = False
    world.put([added("a")], [added("b")], [added("c")])
    rotation = world.log.rotation()
    next(rotation)
    before, count = world.files.state(), world.plan.count
    assert any(name.endswith(".tmp") for name in world.files.list(WHERE / "log"))
    rotation.close()
    assert world.files.state() == before
    assert world.plan.done[count:] == ["list"]


@pytest.mark.parametrize("scenario", KINDS)
def test_recovery_without_room(scenario):
    """Whatever room the next process finds, it opens or says that it cannot; with room nothing is missing."""
    world = run(scenario, Plan(), KINDS[scenario])
    for room in range(0, 3000, 150):
        disk = world.files.killed()
        disk.plan = Plan(room=room)
        try:
            log, records = opened(disk, world)
        except OSError as error:
            check_named(error, errno.ENOSPC)
        else:
            check(world, records, world.written)
            log.abandon()
        disk = disk.killed()
        check(world, opened(disk, world)[1], world.written)
