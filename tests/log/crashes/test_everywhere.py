"""The log on a simulated disk: crashed before and after every operation, and every operation failed in turn.

For each scenario the machine stops in front of each operation that changes anything (and so behind the one before).
What a disk may hold then is enumerated, or sampled with a fixed seed where it is too much; on each of these disks the
log is opened, and must hold every record that it had said to be on disk, and nothing but the first of those that were
appended, in whole commits. Nothing that is done here alters bytes, so `CorruptLog` is never right. Opening again must
give the same and change nothing. What recovery did must itself survive: it is stopped at each of its operations too.

Two moments often may leave the same disk. It is opened once, and what that gave is held against what was promised at
each moment (`Looked`). A crash state is a moment and a disk that it may leave; disks are counted once in a scenario.

`KHARON_CRASH_SCALE` multiplies how many disks are looked at. Limits of the model: see `simulated_files`.
"""

from __future__ import annotations

import itertools

import pytest

from . import other_disks as o
from . import scenarios as s
from .everywhere import KINDS, SCALE, crash_everywhere, fail_everywhere
from .world import Pages, Wide

pytestmark = [pytest.mark.campaign, pytest.mark.usefixtures("quiet")]

LEAST = {  # how many crash states are looked at, at scale 1
    s.first_open: 400,
    s.singles: 850,
    s.groups: 950,
    s.rotation: 2200,
    s.closing: 700,
    s.after_a_close: 2400,
    s.after_a_kill: 2600,
    s.after_a_torn_tail: 1800,
    s.after_a_torn_tail_in_a_later_segment: 2500,
    s.no_room: 900,
    s.no_room_for_a_segment: 2000,
    s.no_room_for_a_seal: 2100,
    s.never_synced: 650,
    s.synced_now_and_then: 2300,
    s.add_many: 1100,
    s.nothing_but_a_header: 2000,
    s.compress: 950,
    s.archive: 1300,
    s.snapshot: 1600,
    s.trim: 1700,
    s.other_settings: 3600,
    o.settling_from_the_reserve: 2000,
    o.a_reserve_that_is_used_up: 3500,
    o.rotating_on_a_full_disk: 3000,
    o.opened_on_a_full_disk: 1700,
    o.refused_and_killed: 1500,
    o.synced_elsewhere: 1300,
    o.rotated_while_in_flight: 1700,
    o.lost_answers: 2600,
    o.synced_here_while_in_flight: 950,
    o.rotated_elsewhere: 3900,
    o.rotated_elsewhere_with_lost_answers: 4500,
}
LEAST_OF_LONG = {  # and with lines that are longer: wide, pages
    s.singles: (6600, 950),
    s.groups: (7300, 800),
    s.rotation: (4800, 2000),
    s.closing: (3400, 700),
    s.after_a_close: (11200, 2400),
    s.after_a_kill: (7100, 2500),
    s.after_a_torn_tail: (1900, 1800),
    s.after_a_torn_tail_in_a_later_segment: (2600, 2500),
}


def count_crashes(scenario, kind, least, record_property):
    looked = crash_everywhere(scenario, kind)
    record_property("crash states", looked.states)
    record_property("disks that a crash left", looked.disks)
    assert looked.states >= (least if SCALE >= 1 else 1)


@pytest.mark.parametrize("scenario", KINDS)
def test_a_crash_at_every_operation(scenario, record_property):
    count_crashes(scenario, KINDS[scenario], LEAST[scenario], record_property)


@pytest.mark.parametrize("scenario", LEAST_OF_LONG)
def test_a_crash_with_lines_of_many_sectors(scenario, record_property):
    count_crashes(scenario, Wide, LEAST_OF_LONG[scenario][0], record_property)


@pytest.mark.parametrize("scenario", LEAST_OF_LONG)
def test_a_crash_of_a_disk_that_writes_whole_pages(scenario, record_property):
    count_crashes(scenario, Pages, LEAST_OF_LONG[scenario][1], record_property)


def test_how_many_crash_states_are_looked_at():
    assert LEAST.keys() == KINDS.keys()
    assert sum([*LEAST.values(), *itertools.chain(*LEAST_OF_LONG.values())]) >= 100_000


@pytest.mark.parametrize("scenario", KINDS)
def test_every_operation_fails(scenario, record_property):
    count = fail_everywhere(scenario, KINDS[scenario])
    record_property("operations that failed", count)
    assert count > 100
