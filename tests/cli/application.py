"""An application that writes its queue without a pause, for `test_live.py`, until its stdin ends.

    application.py QUEUE

Says "ready" once it runs. Its segments are small, so that they are sealed, compressed and snapshotted all the time.
"""

import os
import sys

import trio

import kharon

router = kharon.Router()


@router.handler("work")
async def work(kh, ticket):
    number = ticket.payload["number"]
    if number % 7 == 0:
        raise RuntimeError("a seventh is retried")
    if number % 5 == 0:
        await kh.done(ticket, result=number, expire_in=0.5)


async def add(kh):
    number = 0
    while True:
        number += 1
        await kh.add(kharon.Ticket(f"ticket-{number % 500}", "work", payload={"number": number}), delay=number % 3 / 10)
        await trio.sleep(0.02)  # some hundred records a second: who reads all of them must come to an end


async def main():
    settings = kharon.Settings(
        segment_bytes=16_384,
        snapshot_bytes=32_768,
        compress_beyond_bytes=65_536,
        max_attempts=2,
        backoff=kharon.FixedDelay(0.05),
        fsync=0.01,
    )
    async with kharon.open(sys.argv[1], settings) as kh, trio.open_nursery() as nursery:
        await nursery.start(kh.run, router)
        nursery.start_soon(add, kh)
        await kh.add(kharon.Ticket("kept", "nobody's", tube="bulk"))
        os.write(1, b"ready\n")
        stdin = trio.lowlevel.FdStream(0)
        while await stdin.receive_some():
            pass
        nursery.cancel_scope.cancel()


trio.run(main)
