"""The process that `test_kill.py` kills: it uses a queue hard, and says on stdout what has been acknowledged.

    writer.py QUEUE FSYNC ROUND

Each line is one acknowledged fact, written with one unbuffered write after the call returned: "added ID", "done ID",
"failed ID", "acked ID". Whatever was printed must be found again; what was not printed may be.
"""

import logging
import os
import sys

import trio

import kharon


def say(verb: str, id: str) -> None:
    os.write(1, f"{verb} {id}\n".encode())


router = kharon.Router()


@router.handler("work")
async def work(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
    number = ticket.payload["number"]
    if number % 5 == 0:
        await kh.ack(ticket)
        say("acked", ticket.id)
    elif number % 7 == 0:
        await kh.fail(ticket, error_reason="a seventh")
        say("failed", ticket.id)
    elif number % 11 == 0:
        raise RuntimeError("an eleventh is retried")
    else:
        await kh.done(ticket, result=number)
        say("done", ticket.id)


async def add(kh: kharon.Kharon, prefix: str) -> None:
    number = 0
    while True:
        number += 1
        if number % 10 == 0:
            tickets = [kharon.Ticket(f"{prefix}-{number}-{part}", "work", payload={"number": 1}) for part in range(3)]
            for ticket in await kh.add_many(tickets):
                say("added", ticket.id)
        else:
            ticket = await kh.add(kharon.Ticket(f"{prefix}-{number}", "work", payload={"number": number}))
            say("added", ticket.id)


async def main() -> None:
    where, fsync, round_ = sys.argv[1:]
    say("opening", where)
    mode = fsync if fsync in ("always", "never") else float(fsync)
    settings = kharon.Settings(workers=8, fsync=mode, backoff=kharon.FixedDelay(0.01), max_attempts=3)
    async with kharon.open(where, settings) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        for task in range(8):
            nursery.start_soon(add, kh, f"{round_}-{task}")


logging.disable()  # the retries are meant
trio.run(main)
