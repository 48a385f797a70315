from __future__ import annotations

import json
import random
import resource
import signal
import time
from datetime import datetime, timedelta

import extras
import pytest
from processes import PATIENCE

import kharon

extras.need("http")
import httpx  # noqa: E402 - what it is in may be missing


class Server:
    """The running example, and a client for it."""

    def __init__(self, start, *args):
        self.process = start("http_api.py", "queue", "--port", "0", *args)
        address = self.process.line_with("serving queue on http://127.0.0.1:").rpartition(" ")[2]
        self.client = httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False)

    def call(self, method, path, code, **kwargs):
        answer = self.client.request(method, path, **kwargs)
        assert answer.status_code == code, answer.text
        return answer.json() if answer.content else None

    def until(self, path, what):
        """The answer of a GET, once `what(answer)` holds. Asks again and again, as a client of this API has to."""
        end = time.monotonic() + PATIENCE
        while not what(answer := self.call("GET", path, 200)):
            assert time.monotonic() < end, answer
        return answer

    def ended(self, id):
        """The ticket, once it is not pending any more."""
        return self.until(f"/ticket/{id}", lambda ticket: ticket["status"] != "pending")

    def stop(self, number, code):
        self.client.close()
        self.process.send(number)
        assert self.process.ended() == code, self.process.errors


@pytest.fixture
def serve(start):
    servers = []

    def serve(*args):
        servers.append(Server(start, *args))
        return servers[-1]

    yield serve
    for server in servers:
        server.client.close()


def test_the_life_of_a_ticket(serve):
    server = serve()
    words = ["over", "the", "riüer"]
    ticket = server.call("POST", "/ticket/example/task-1?nice=-5", 202, json={"words": words})
    assert (ticket["id"], ticket["type"], ticket["nice"], ticket["tube"]) == ("task-1", "example", -5, "default")

    ticket = server.ended("task-1")
    assert ticket["status"] == "done"
    assert ticket["payload"] == {"words": words}
    assert ticket["result"] == {"text": "over the riüer"}
    assert ticket["attempts"] == 1
    assert ticket["error_reason"] is None
    kept_for = datetime.fromisoformat(ticket["expire_at"]) - datetime.fromisoformat(ticket["mtime"])
    assert kept_for == timedelta(days=1)

    records = server.call("GET", "/ticket/task-1/history", 200)
    assert [record["event"] for record in records] == ["TicketAdded", "TicketClaimed", "TicketDone"]
    assert records[0]["by"] == "http"
    assert records[0]["fields"]["payload"] == {"words": words}
    assert records[2]["fields"]["result"] == {"text": "over the riüer"}

    stats = server.call("GET", "/stats", 200)
    assert (stats["added"], stats["claimed"], stats["done"], stats["failed"]) == (1, 1, 1, 0)
    assert stats["queue_wait"]["count"] == 1
    (by,) = stats["by"]
    assert (by["type"], by["tube"], by["done"]) == ("example", "default", 1)

    assert server.call("DELETE", "/ticket/task-1", 204) is None
    assert server.call("DELETE", "/ticket/task-1", 204) is None
    assert server.call("GET", "/ticket/task-1", 404)["error"] == "TicketNotFound"
    assert server.call("GET", "/ticket/task-1/history", 200)[-1]["event"] == "TicketDeleted"
    server.stop(signal.SIGTERM, 0)
    assert server.process.errors == ""


def test_a_payload_comes_back_as_it_was(serve):
    server = serve()
    for payload in (None, True, 0, -1.5, "text", "", [], {}, {"a": [1, {"b": None}]}, 2**53 + 1, "ü\n\U0001f600\x00"):
        server.call("POST", "/ticket/example/t?delay=3600", 202, content=json.dumps(payload))
        assert server.call("GET", "/ticket/t", 200)["payload"] == payload


def test_a_delay_is_honoured(serve):
    server = serve()
    ticket = server.call("POST", "/ticket/example/later?delay=0.25", 202, json={"words": []})
    assert datetime.fromisoformat(ticket["runat"]) - datetime.fromisoformat(ticket["ctime"]) == timedelta(seconds=0.25)
    assert server.ended("later")["status"] == "done"
    claimed = server.call("GET", "/ticket/later/history", 200)[1]
    assert claimed["event"] == "TicketClaimed"
    assert datetime.fromisoformat(claimed["at"]) >= datetime.fromisoformat(ticket["runat"])


def test_cancelling_keeps_the_ticket_and_it_cannot_be_cancelled_twice(serve):
    server = serve()
    server.call("POST", "/ticket/example/t?delay=3600", 202)
    assert server.call("POST", "/ticket/t/cancel", 200)["status"] == "cancelled"
    assert server.call("GET", "/ticket/t", 200)["status"] == "cancelled"
    assert server.call("POST", "/ticket/t/cancel", 409)["error"] == "InvalidTransition"
    assert server.call("POST", "/ticket/nobody/cancel", 404)["error"] == "TicketNotFound"


def test_adding_again(serve):
    server = serve()
    server.call("POST", "/ticket/example/t?delay=3600", 202, json=1)
    assert server.call("POST", "/ticket/example/t?on_conflict=raise", 409, json=2)["error"] == "TicketExists"
    assert server.call("POST", "/ticket/example/t?on_conflict=skip", 202, json=3)["payload"] == 1
    assert server.call("POST", "/ticket/example/t?delay=3600&tube=other", 202, json=4)["payload"] == 4
    assert server.call("GET", "/ticket/t", 200)["tube"] == "other"


def test_unknown_types_fail_and_what_raises_is_retried(serve):
    server = serve()
    server.call("POST", "/ticket/nonsense/t", 202)
    ticket = server.ended("t")
    assert (ticket["status"], ticket["error_reason"]) == ("failed", "unsupported type 'nonsense'")
    server.call("POST", "/ticket/example/u", 202, json={"no": "words"})
    server.until("/stats", lambda stats: stats["retried"] > 0)
    ticket = server.call("GET", "/ticket/u", 200)
    assert (ticket["status"], ticket["attempts"], ticket["error_reason"]) == ("pending", 1, "KeyError: 'words'")


WRONG_REQUESTS = [
    ("GET", "/", 404, "NotFound"),
    ("GET", "/ticket/", 404, "NotFound"),
    ("PUT", "/ticket/t", 405, "MethodNotAllowed"),
    ("POST", "/stats", 405, "MethodNotAllowed"),
    ("GET", "/ticket/nobody", 404, "TicketNotFound"),
    ("GET", "/ticket/nobody/history", 404, "TicketNotFound"),
    ("POST", "/ticket/example/t?nice=low", 400, "BadRequest"),
    ("POST", "/ticket/example/t?nice=1.5", 400, "BadRequest"),
    ("POST", "/ticket/example/t?delay=soon", 400, "BadRequest"),
    ("POST", "/ticket/example/t?priority=1", 400, "BadRequest"),
    ("POST", "/ticket/example/t?nice=99999999999", 422, "InvalidTicket"),
    ("POST", "/ticket/example/t?delay=-1", 422, "InvalidTicket"),
    ("POST", "/ticket/example/t?delay=nan", 422, "InvalidTicket"),
    ("POST", "/ticket/example/t?delay=1e300", 422, "InvalidTicket"),
    ("POST", "/ticket/example/t?on_conflict=fight", 422, "InvalidTicket"),
    ("POST", "/ticket/example/t?tube=", 422, "InvalidTicket"),
    ("POST", "/ticket/example/new%0Aline", 422, "InvalidTicket"),
    ("POST", f"/ticket/example/{'i' * 201}", 422, "InvalidTicket"),
    ("POST", f"/ticket/{'i' * 201}/t", 422, "InvalidTicket"),
]


def test_wrong_requests_are_answered_with_what_is_wrong(serve):
    server = serve()
    for method, path, code, error in WRONG_REQUESTS:
        answer = server.call(method, path, code)
        assert answer["error"] == error, (path, answer)
        assert answer["message"]
    assert server.call("GET", "/stats", 200)["added"] == 0


WRONG_BODIES = [
    (b"{", 400, "BadRequest"),
    (b"\xff", 400, "BadRequest"),
    (b"[" * 100_000, 400, "BadRequest"),
    (b"NaN", 422, "InvalidTicket"),
    (b"1e999", 422, "InvalidTicket"),
    (b'"\\ud800"', 422, "InvalidTicket"),
    (b"[" * 65 + b"]" * 65, 422, "InvalidTicket"),
    (b'"' + b"a" * ((960 << 10) - 1), 400, "BadRequest"),
    (b'"' + b"a" * ((960 << 10) - 1) + b'"', 413, "ContentTooLarge"),
    (b" " * (20 << 20), 413, "ContentTooLarge"),
    (b'"' + "é".encode() * (400 << 10) + b'"', 422, "InvalidTicket"),  # larger in the log's ASCII than as it came
]


def test_wrong_bodies(serve):
    server = serve()
    for body, code, error in WRONG_BODIES:
        answer = server.call("POST", "/ticket/example/t", code, content=body)
        assert answer["error"] == error, (body[:20], answer)
    assert server.call("GET", "/ticket/t", 404)["error"] == "TicketNotFound"
    server.stop(signal.SIGTERM, 0)
    assert server.process.errors == ""


def test_the_largest_payload(serve):
    server = serve()
    text = "a" * ((960 << 10) - 2)
    server.call("POST", "/ticket/example/t?delay=3600", 202, json=text)
    assert server.call("GET", "/ticket/t", 200)["payload"] == text


def test_what_was_answered_survives_sigkill(serve):
    server = serve()
    chance = random.Random()
    for number in range(chance.randrange(5, 50)):
        server.call("POST", f"/ticket/example/{number}?delay=3600", 202, json=number)
    server.call("POST", "/ticket/0/cancel", 200)
    server.call("DELETE", "/ticket/1", 204)
    server.call("POST", "/ticket/example/due", 202, json={"words": ["a"] * 1000})  # runs for ten seconds
    server.process.kill()

    again = serve()
    assert again.call("GET", "/ticket/0", 200)["status"] == "cancelled"
    again.call("GET", "/ticket/1", 404)
    for other in range(2, number + 1):
        assert again.call("GET", f"/ticket/{other}", 200)["payload"] == other
    assert again.call("GET", "/ticket/due", 200)["status"] == "pending"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_handlers_finish(serve, tmp_path, number):
    server = serve()
    server.call("POST", "/ticket/example/t", 202, json={"words": ["a"] * 100})  # a second's work
    server.until("/ticket/t", lambda ticket: ticket["lease_until"] is not None or ticket["status"] == "done")
    server.stop(number, 0)
    assert server.process.errors == ""
    events = [type(record.event).__name__ for record in kharon.read(tmp_path / "queue")]
    assert events == ["TicketAdded", "TicketClaimed", "TicketDone", "LogClosed"]


def test_a_second_server_is_refused(serve, start, tmp_path):
    serve()
    process = start("http_api.py", "queue", "--port", "0")
    assert process.ended() == 2
    assert process.errors.startswith(f"http_api.py: {tmp_path / 'queue'} is open already, in process ")


def test_a_port_in_use_is_told_in_one_line(serve, start):
    port = serve().client.base_url.port
    process = start("http_api.py", "other", "--port", port)
    assert process.ended() == 2
    first, *rest = process.errors.splitlines()
    assert first.startswith("http_api.py: [Errno ")
    assert "Traceback" not in rest  # Hypercorn leaves its socket open, of which the test's "-W error" tells


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limits of a running process are Linux's")
def test_a_failed_write_is_told_to_who_asked_and_ends_the_server(serve):
    server = serve()
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    for number in range(1000):
        answer = server.client.post(f"/ticket/example/{number}?delay=3600", json="x" * 1000)
        if answer.status_code != 202:
            break
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.json()["error"] == "CommitOutcomeUnknown"
    assert server.process.ended() == 1
    assert "the queue closed itself when a write failed" in server.process.errors

    again = serve()
    for other in range(number):
        assert again.call("GET", f"/ticket/{other}", 200)["payload"] == "x" * 1000
