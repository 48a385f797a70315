"""Periodic tickets: a probe each second, and a report each night, across restarts. Ends by itself.

python examples/periodic.py [DIRECTORY]      the default directory is "queue"

It needs `pip install '.[cron]'`. Kill it and run it again: the schedules are in the directory. The probes that were
missed in between become one probe, and no instant fires twice.
"""

from __future__ import annotations

import sys
from datetime import datetime

import trio

import kharon

PROBES = 3
router = kharon.Router()


@router.handler("probe")
async def probe(_kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
    """Do the work of one instant, which is `runat`. It may run twice, so doing it twice must do no harm."""
    print(f"{ticket.id}: probing {ticket.payload['host']}")


@router.handler("report")
async def report(_kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
    """Report on a day."""
    print(f"{ticket.id}: the report of the day")


async def main(directory: str) -> None:
    """Set the schedules, as at each start, and run until some probes have been made."""
    async with kharon.open(directory) as kh, trio.open_nursery() as nursery:
        probing = kharon.Ticket("probe", "probe", payload={"host": "example.org"})
        await kh.schedule("probe", every=1, ticket=probing)  # changes nothing if it exists already
        await kh.schedule("report", "0 6 * * mon-fri", ticket=kharon.Ticket("report", "report"), tz="Europe/Berlin")
        for schedule in await kh.schedules():
            assert schedule.next is not None
            print(f"{schedule.name}: next at {schedule.next:%Y-%m-%d %H:%M:%S} UTC, last at {_time(schedule.last)}")

        nursery.start_soon(kh.run, router)
        async with kh.records(after=await _newest(kh), follow=True) as records:
            done = 0
            async for record in records:
                done += isinstance(record.event, kharon.model.events.TicketDone)
                if done == PROBES:
                    break
        await kh.drain()


async def _newest(kh: kharon.Kharon) -> int:
    """Return the seq of the last record."""
    seq = 0
    async for record in kh.records():
        seq = record.seq
    return seq


def _time(instant: datetime | None) -> str:
    return "no time yet" if instant is None else f"{instant:%H:%M:%S}"


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "queue")
