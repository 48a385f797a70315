"""An HTTP API for a queue: the same process serves it and runs the handlers.

python examples/http_api.py [DIRECTORY] [--port N]         needs Starlette and Hypercorn: pip install '.[http]'

    POST   /ticket/{type}/{id}?nice=&delay=&tube=&on_conflict=     adds a ticket; the body, if any, is JSON: its payload
    GET    /ticket/{id}             the ticket            GET  /ticket/{id}/history    every record about it
    POST   /ticket/{id}/cancel      cancels and keeps it  GET  /stats                  what this process has counted
    DELETE /ticket/{id}             removes it

    curl -X POST 'http://127.0.0.1:8000/ticket/example/task-1?delay=2' -d '{"words": ["over", "the", "river"]}'
    curl http://127.0.0.1:8000/ticket/task-1

A response is sent once its effects are on disk. An error is {"error": its type, "message": what to do}. An id here
cannot hold a slash, and "cancel" is not an id, since it would read as a verb.

Why Starlette: it runs on anyio and hence on Trio, is small, fully typed, and far more widely used than Quart-Trio;
Hypercorn is the ASGI server that has a Trio worker. It listens on 127.0.0.1 only, because it authenticates no client.
On SIGTERM or Ctrl-C it refuses new requests, lets the handlers finish for `DRAIN_TIMEOUT` seconds, then closes.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import attrs
import hypercorn
import hypercorn.trio
import msgspec
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import kharon

MAX_BODY_BYTES = 960 << 10  # the most that a payload may have
DRAIN_TIMEOUT = 10.0  # seconds
RETRY_AFTER = {"Retry-After": "5"}  # seconds: by then the supervisor of this process should have restarted it
PARAMETERS = frozenset({"nice", "delay", "tube", "on_conflict"})
STATUS_CODES: dict[type[kharon.KharonError], int] = {
    kharon.TicketNotFound: 404,
    kharon.TicketExists: 409,
    kharon.InvalidTransition: 409,
    kharon.LeaseLost: 409,
    kharon.InvalidTicket: 422,
    kharon.StorageFull: 503,
    kharon.CommitOutcomeUnknown: 503,
    kharon.Closed: 503,
}

# Not HTTPStatus.phrase, which changes between versions of Python, while clients compare these.
NAMES = {400: "BadRequest", 404: "NotFound", 405: "MethodNotAllowed", 413: "ContentTooLarge"}

# --- handlers of tickets ----------------------------------------------------------------------------------------------

router = kharon.Router()


@router.handler("example")
async def example(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
    """Do some work on {"words": [...]}, and keep the ticket for a day, so that clients can get its result."""
    words = ticket.payload["words"]
    await trio.sleep(0.01 * len(words))
    await kh.done(ticket, result={"text": " ".join(words)}, expire_in=86_400)


@router.not_found
async def unknown_type(kh: kharon.Kharon, ticket: kharon.Ticket) -> None:
    """Fail at once: a retry cannot help."""
    await kh.fail(ticket, error_reason=f"unsupported type {ticket.type!r}")


# --- handlers of requests ---------------------------------------------------------------------------------------------


def queue_of(request: Request) -> kharon.Kharon:
    """Return the queue, as a view whose records name the actor."""
    kh: kharon.Kharon = request.app.state.kh
    return kh.acting_as("http")


async def add(request: Request) -> Response:
    """Add a ticket. 202: it is durable, and runs when it is due."""
    query = request.query_params
    if unknown := sorted(set(query) - PARAMETERS):
        raise HTTPException(400, f"unknown parameter {unknown[0]!r}; there are {', '.join(sorted(PARAMETERS))}")
    options: dict[str, Any] = {}
    if "tube" in query:
        options["tube"] = query["tube"]
    if "nice" in query:
        options["nice"] = number(query["nice"], int, "nice")
    ticket = kharon.Ticket(
        request.path_params["id"], request.path_params["type"], payload=await json_body(request), **options
    )
    delay = number(query["delay"], float, "delay") if "delay" in query else None
    on_conflict: Any = query.get("on_conflict", "replace")
    ticket = await queue_of(request).add(ticket, delay=delay, on_conflict=on_conflict)
    return JSONResponse(as_json(ticket), 202)


def number(text: str, kind: Callable[[str], float], name: str) -> float:
    """Return a parameter as a number."""
    try:
        return kind(text)
    except ValueError:
        raise HTTPException(400, f"{name}: {text!r} is not a number") from None


async def json_body(request: Request) -> object:
    """Return the body as a JSON value, or None if it is empty; read no more than a payload may have."""
    body = b""
    async with aclosing(request.stream()) as chunks:  # Trio requires that a generator is closed if it is left early
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None


async def get(request: Request) -> Response:
    """Show a ticket."""
    return JSONResponse(as_json(await queue_of(request).get(request.path_params["id"])))


async def cancel(request: Request) -> Response:
    """Cancel a ticket, and keep it."""
    ticket = await queue_of(request).cancel(request.path_params["id"], keep=True)
    return JSONResponse(None if ticket is None else as_json(ticket))


async def delete(request: Request) -> Response:
    """Remove a ticket; it need not exist."""
    await queue_of(request).delete(request.path_params["id"])
    return Response(status_code=204)


async def history(request: Request) -> Response:
    """Show every record about a ticket, removed or not, oldest first."""
    id = request.path_params["id"]
    records = await queue_of(request).history(id)
    if not records:
        raise kharon.TicketNotFound(f"ticket {id!r}: there never was one")
    shown = [
        {
            "seq": record.seq,
            "at": record.at,
            "by": record.by,
            "event": type(record.event).__name__,
            "fields": record.event,
        }
        for record in records
    ]
    return Response(msgspec.json.encode(shown), media_type="application/json")  # it encodes the values in events


async def stats(request: Request) -> Response:
    """Show the counts of this process."""
    counted = queue_of(request).stats()
    shown = counts_as_json(counted) | {"workers_running": counted.workers_running}
    by = [{"type": type, "tube": tube} | counts_as_json(counts) for (type, tube), counts in counted.by.items()]
    return JSONResponse(shown | {"by": by})


def counts_as_json(counts: kharon.Counts) -> dict[str, Any]:
    """Return counts as JSON: for a histogram, its count and its sum in seconds."""
    shown: dict[str, Any] = {}
    for field in attrs.fields(kharon.Counts):
        value = getattr(counts, field.name)
        if isinstance(value, kharon.Histogram):
            value = {"count": value.count, "total": value.total}
        shown[field.name] = value
    return shown


def as_json(ticket: kharon.Ticket) -> dict[str, Any]:
    """Return a ticket as JSON."""
    instants = {name: getattr(ticket, name) for name in ("runat", "ctime", "mtime", "lease_until", "expire_at")}
    return {
        "id": ticket.id,
        "type": ticket.type,
        "status": ticket.status,
        "tube": ticket.tube,
        "nice": ticket.nice,
        "attempts": ticket.attempts,
        **{name: instant and instant.isoformat() for name, instant in instants.items()},
        "error_reason": ticket.error_reason,
        "payload": ticket.payload,
        "result": ticket.result,
        "version": ticket.version,
    }


async def refused(_request: Request, error: Exception) -> Response:
    """Answer with the error that Kharon raised."""
    code = next((code for kind, code in STATUS_CODES.items() if isinstance(error, kind)), 500)
    content = {"error": type(error).__name__, "message": str(error)}
    return JSONResponse(content, code, headers=RETRY_AFTER if code == 503 else None)


async def wrong_request(_request: Request, error: Exception) -> Response:
    """Answer a request that failed before it reached Kharon."""
    assert isinstance(error, HTTPException)
    content = {"error": NAMES.get(error.status_code, "HTTPError"), "message": error.detail}
    return JSONResponse(content, error.status_code, headers=error.headers)


def application(kh: kharon.Kharon) -> Starlette:
    """Return the application."""
    routes = [
        Route("/stats", stats),
        Route("/ticket/{id}/cancel", cancel, methods=["POST"]),  # before the next route, which would take it for an add
        Route("/ticket/{type}/{id}", add, methods=["POST"]),
        Route("/ticket/{id}/history", history),
        Route("/ticket/{id}", get),
        Route("/ticket/{id}", delete, methods=["DELETE"]),
    ]
    app = Starlette(routes=routes, exception_handlers={kharon.KharonError: refused, HTTPException: wrong_request})
    app.state.kh = kh
    return app


# --- the program ------------------------------------------------------------------------------------------------------


async def run(directory: str, port: int) -> int:
    """Serve and run handlers until a signal, or until the queue fails; return the exit code."""
    stop = trio.Event()
    code = 0

    async def heed_signals(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            await anext(signals)
            stop.set()
            await trio.sleep_forever()  # further signals are ignored

    async def work(kh: kharon.Kharon) -> None:
        nonlocal code
        try:
            await kh.run(router)
        except kharon.KharonError as error:  # not raised here, so that waiting clients are answered first
            print(f"http_api.py: {error}", file=sys.stderr)
            code = 1
        stop.set()

    config = hypercorn.Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.loglevel = "WARNING"
    async with kharon.open(directory) as kh, trio.open_nursery() as nursery:
        await nursery.start(heed_signals)
        nursery.start_soon(work, kh)
        async with trio.open_nursery() as serving:
            app: Any = application(kh)  # Any: Starlette and Hypercorn spell the same ASGI types in their own ways
            [address] = await serving.start(partial(hypercorn.trio.serve, app, config, shutdown_trigger=stop.wait))
            print(f"serving {directory} on {address}", flush=True)
        await kh.drain(timeout=DRAIN_TIMEOUT)
        nursery.cancel_scope.cancel()
    return code


def main() -> int:
    """Run the program; print the reason in one line if it cannot."""
    parser = argparse.ArgumentParser(description="An HTTP API for a queue of tickets, on 127.0.0.1.")
    parser.add_argument("directory", nargs="?", default="queue", help='the queue (default: "queue")')
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    options = parser.parse_args()
    code = 2
    try:
        code = trio.run(run, options.directory, options.port)
    except* (kharon.KharonError, OSError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"http_api.py: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
