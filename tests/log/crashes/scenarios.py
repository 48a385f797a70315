"""Lives of a log, to be crashed and failed everywhere: it is appended to, closed, killed, rotated, moved, trimmed."""

from __future__ import annotations

import contextlib

from log_steps import added, moment
from simulated_files import Plan

from kharon.errors import StorageFull
from kharon.log.retention import Retention, RetentionRules, Threshold
from kharon.log.snapshot import take, trimmable
from kharon.model.events import TicketDeleted

from .world import ONE_SEGMENT, TINY, WHERE, World

EVERYTHING = Threshold(bytes=0)


def first_open(world: World) -> None:
    world.open()
    world.abandon()


def singles(world: World) -> None:
    world.open()
    for number in range(4):
        world.put([added(f"t{number}", world.long if number % 2 else b"null")])
    world.abandon()


def groups(world: World) -> None:
    world.open()
    world.put([added("a")], [added("b"), added("c", world.long), TicketDeleted("b")], [added("d"), added("e")])
    world.put([added("f", world.long)], [added("g"), added("h")])
    world.abandon()


def rotation(world: World) -> None:
    world.open(TINY)
    for number in range(7):
        world.put([added(f"t{number}", world.long if number == 3 else b"null")])
    world.abandon()


def closing(world: World) -> None:
    world.open()
    world.put([added("a")])
    world.put([added("b", world.long)], sync=False)
    world.close()


def after_a_close(world: World) -> None:
    world.open(TINY)
    world.put([added("a")])
    world.close()
    for number in range(3):
        world.open(TINY)
        world.put([added(f"b{number}", world.long)])
        world.close()


def after_a_kill(world: World) -> None:
    world.open(TINY)
    world.put([added("a")])
    world.put([added("b", world.long)], sync=False)
    world.abandon()
    for number in range(2):
        world.open(TINY)
        world.put([added(f"c{number}")])
        world.abandon()


def after_a_torn_tail(world: World) -> None:
    world.open()
    world.put([added("a")])
    world.put([added("b", world.long), added("c", world.long)], sync=False)
    picks = iter((1, 7, 1, 0, 1, 0))  # the name of `begun` is there, the size is whole, some sectors are not
    world.lose_power(lambda count: min(next(picks, 1), count - 1))
    world.open()
    world.put([added("d")])
    world.abandon()


def after_a_torn_tail_in_a_later_segment(world: World) -> None:
    world.open(TINY)
    world.put([added("a")], [added("b")])
    world.put([added("c", world.long)], write=False, sync=False)
    world.log._segment_bytes = ONE_SEGMENT  # so that it is not synced by what comes next
    world.put(sync=False)
    world.lose_power(lambda count: count // 2)
    world.open(TINY)
    world.put([added("d")])
    world.close()


def no_room(world: World) -> None:
    world.open()
    world.put([added("a")])
    world.plan.room = 700  # the first of these finds room, and must not come back
    world.put([added("b")], [added("c", world.long)])
    world.plan.room = None
    world.put([added("d")])
    world.plan.room = 0
    world.put([added("e")])
    world.plan.room = None
    world.close()


def no_room_to_rotate(world: World, room: int) -> None:
    world.open(TINY)
    world.put([added("a")])
    world.log.append([added("b")], moment(1), "ann")
    world.plan.room = len(world.log._pending[0]) + room
    world.put()
    world.put([added("c")])
    world.plan.room = None
    for id in "def":
        world.put([added(id)])
    world.close()


def no_room_for_a_segment(world: World) -> None:
    no_room_to_rotate(world, 100)


def no_room_for_a_seal(world: World) -> None:
    no_room_to_rotate(world, 400)
    world.open(TINY)
    world.abandon()


def never_synced(world: World) -> None:
    world.open()
    for number in range(3):
        world.put([added(f"t{number}")], sync=False)
    world.abandon()


def synced_now_and_then(world: World) -> None:
    world.open(TINY)
    for number in range(7):
        world.put([added(f"t{number}")], sync=number % 3 == 2)
    world.close()


def add_many(world: World) -> None:
    world.open(TINY)
    world.put([added(f"t{number}") for number in range(8)])
    world.put([added("z")])
    world.abandon()


def nothing_but_a_header(world: World) -> None:
    world.open(TINY)
    world.put([added("a"), added("b"), added("c")])
    world.abandon()
    world.open(TINY)
    world.close()
    world.open(TINY)
    world.put([added("d")])
    world.abandon()


def keep(world: World, policy: RetentionRules, steps: int) -> None:
    """What the keeper does. Where something else than the log's own writing fails, the queue goes on."""
    log = world.log
    retention = Retention(log, policy, may_trim=lambda seq: seq <= trimmable(WHERE, world.files))
    for _ in range(steps):
        try:
            step = retention.plan(moment(3000))
            if step is None:
                return
            event = retention.prepare(step)
        except OSError:
            return
        log.append([event], moment(3000), "clock")
        try:
            log.write()
        except StorageFull:
            return
        log.sync()
        retention.switch(step)
        with contextlib.suppress(OSError):
            retention.finish(step)


def save(world: World) -> None:
    """What the process that takes snapshots does; that it fails is nothing to the queue."""
    with contextlib.suppress(OSError):
        take(WHERE, world.files)


def retaining(world: World, count: int) -> None:
    """A log with old segments, before anything goes wrong."""
    world.retains = True
    world.files.plan = Plan()
    world.open(TINY)
    for number in range(count):
        world.put([added(f"t{number}")])
    world.files.plan = world.plan


def compress(world: World) -> None:
    retaining(world, 3)
    keep(world, RetentionRules(compress=EVERYTHING), 1)
    world.put([added("more")])
    world.abandon()


def archive(world: World) -> None:
    retaining(world, 3)
    keep(world, RetentionRules(archive=EVERYTHING), 1)
    world.put([added("more")])
    world.close()


def snapshot(world: World) -> None:
    retaining(world, 3)
    save(world)
    world.put([added("more"), TicketDeleted("t1")])
    world.put([TicketDeleted("t2")])
    save(world)
    world.put([added("most")])
    world.abandon()


def trim(world: World) -> None:
    retaining(world, 3)
    save(world)
    world.put([added("more"), TicketDeleted("t1")])
    world.put([added("enough")])
    save(world)
    keep(world, RetentionRules(trim=EVERYTHING), 2)
    world.put([TicketDeleted("t2")])
    world.abandon()


def other_settings(world: World) -> None:
    """As an upgrade may bring them: nothing that one process was told may matter to what the next one finds."""
    world.open(TINY)
    world.put([added("a")], [added("b", world.long)])
    world.put([added("c")], sync=False)
    world.abandon()
    world.open(ONE_SEGMENT)
    world.put([added("d", world.long)], [added("e")])
    world.close()
    world.open(1)  # each write fills the tail, which is far larger already
    world.put([added("f")])
    world.put([added("g")])
    world.abandon()
    world.open(ONE_SEGMENT)
    world.close()


SCENARIOS = [
    first_open,
    singles,
    groups,
    rotation,
    closing,
    after_a_close,
    after_a_kill,
    after_a_torn_tail,
    after_a_torn_tail_in_a_later_segment,
    no_room,
    no_room_for_a_segment,
    no_room_for_a_seal,
    never_synced,
    synced_now_and_then,
    add_many,
    nothing_but_a_header,
    compress,
    archive,
    snapshot,
    trim,
    other_settings,
]
