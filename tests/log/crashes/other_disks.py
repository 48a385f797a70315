"""Lives of a log on disks that are full, with a reserve, or that another process syncs."""

from __future__ import annotations

from log_steps import added
from msgspec import Raw

from kharon.model.events import TicketDone

from .world import TINY, LittleReserved, Offering, Reserved, World

# --- a full disk ------------------------------------------------------------------------------------------------------


def settling_from_the_reserve(world: World) -> None:
    world.open()
    world.put([added("a")], [added("b"), added("c")])
    world.plan.room = 100
    world.put([added("d")])
    world.put([TicketDone("a")])
    world.put([TicketDone("b", result_json=Raw(world.long))], [TicketDone("c")])
    world.plan.room = None
    world.put([added("e")])
    world.close()


def a_reserve_that_is_used_up(world: World) -> None:
    world.open()
    world.put([added(id) for id in "abcdefgh"])
    world.plan.room = 0
    for id in "abcdefgh":
        world.put([TicketDone(id)])
    world.abandon()
    world.plan.room = None
    world.open()
    world.put([TicketDone("h")])
    world.close()


def rotating_on_a_full_disk(world: World) -> None:
    world.open(TINY)
    world.put([added("a"), added("b"), added("c")])
    world.plan.room = 250  # for the successor's header, and not for the seal
    world.put([TicketDone("a")])
    world.put([TicketDone("b")])
    world.plan.room = None
    world.put([added("d")])
    world.put([added("e")])
    world.close()


def opened_on_a_full_disk(world: World) -> None:
    world.open()
    world.put([added("a"), added("b")])
    world.plan.room = 0
    world.put([added("c")])
    world.put([TicketDone("a")])
    world.close()
    world.open()
    world.put([added("d")])
    world.put([TicketDone("b")])
    world.plan.room = None
    world.put([added("e")])
    world.abandon()


def refused_and_killed(world: World) -> None:
    world.open()
    world.put([added("a")])
    world.plan.room = 900  # the first of these finds room, and must not come back
    world.put([added("b")], [added("c", world.long)])
    world.abandon()
    world.plan.room = None
    world.open()
    world.put([added("d")])
    world.abandon()


# --- a sync by another process ----------------------------------------------------------------------------------------


def synced_elsewhere(world: Offering) -> None:
    world.open()
    for number in range(3):
        world.put([added(f"t{number}", world.long)], sync=False)
        world.offer(lambda number=number: world.put([added(f"m{number}")], sync=False))
    world.offer()
    world.close()


def rotated_while_in_flight(world: Offering) -> None:
    world.open(TINY)
    for number in range(4):
        world.put([added(f"t{number}")], sync=False)
        world.offer(lambda number=number: world.put([added(f"m{number}", world.long)], sync=False))
    world.abandon()


def lost_answers(world: Offering) -> None:
    world.open()
    for number in range(3):
        world.put([added(f"t{number}", world.long)], sync=False)
        world.offer(lambda number=number: world.put([added(f"m{number}")], sync=False), lost=True)
    world.abandon()
    world.open()
    world.put([added("z")])
    world.abandon()


def synced_here_while_in_flight(world: Offering) -> None:
    world.open()
    world.put([added("a")], sync=False)
    world.offer()
    world.put([added("b", world.long)], sync=False)
    world.offer(lambda: world.put([added("c")]))
    world.put([added("d")], sync=False)
    world.close()


def rotate_elsewhere(world: Offering, *, lost: bool) -> None:
    world.open(TINY)
    world.log.rotates = False
    for number in range(4):
        world.put([added(f"t{number}")], [added(f"u{number}", world.long)], sync=False)
        world.offer(lost=lost)
        ids = iter(f"r{number}{step}" for step in range(9))
        world.rotate(lambda ids=ids: world.put([added(next(ids))], write=False, sync=False), lost=lost)
        world.put([added(f"v{number}")], sync=False)
    world.close()


def rotated_elsewhere(world: Offering) -> None:
    rotate_elsewhere(world, lost=False)


def rotated_elsewhere_with_lost_answers(world: Offering) -> None:
    rotate_elsewhere(world, lost=True)


OTHER_DISKS = {
    settling_from_the_reserve: Reserved,
    a_reserve_that_is_used_up: LittleReserved,
    rotating_on_a_full_disk: Reserved,
    opened_on_a_full_disk: LittleReserved,
    refused_and_killed: Reserved,
    synced_elsewhere: Offering,
    rotated_while_in_flight: Offering,
    lost_answers: Offering,
    synced_here_while_in_flight: Offering,
    rotated_elsewhere: Offering,
    rotated_elsewhere_with_lost_answers: Offering,
}
