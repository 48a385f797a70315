"""The quick start: a durable queue in a directory, one ticket, one handler. Ends by itself.

python examples/quickstart.py [DIRECTORY]      the default directory is "queue"

Kill it and run it again: added tickets are in the directory, and the next run handles them.
"""

from __future__ import annotations

import sys

import trio

import kharon

router = kharon.Router()


@router.handler("email")
async def send_email(_kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
    """Print the address; a real handler would send. Returning settles the ticket; raising retries it with backoff."""
    print(f"sending {ticket.payload['subject']!r} to {ticket.payload['to']}")
    await trio.sleep(0.1)


async def main(directory: str) -> None:
    """Add a ticket, run the workers until it is done, and stop them."""
    async with kharon.open(directory) as kh, trio.open_nursery() as nursery:
        payload = {"to": "ann@example.org", "subject": "Your ferry leaves at noon"}
        await kh.add(kharon.Ticket("task-1", "email", payload=payload, nice=5))
        print("added task-1: it is on disk now")

        nursery.start_soon(kh.run, router)
        ticket = await kh.wait("task-1")  # until it is done, failed or cancelled
        print(f"{ticket.id} is {ticket.status}, attempts: {ticket.attempts}")

        for record in await kh.history("task-1"):
            print(f"  record {record.seq}: {type(record.event).__name__}")
        await kh.drain()  # stop claiming and finish running handlers; then `run` returns, and the nursery ends


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "queue")
