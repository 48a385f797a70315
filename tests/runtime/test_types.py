"""The verbs as a type checker sees them: each with its own arguments and result, awaited or not."""

from __future__ import annotations

import re

import pytest

api = pytest.importorskip("mypy.api")

PROGRAM = """
from datetime import timedelta
from typing import assert_type
import kharon

async def use(kh: kharon.Kharon, tx: kharon.Atomic, ticket: kharon.Ticket) -> None:
    assert_type(await kh.add(ticket, delay=3, after=["a"], on_failure="cancel"), kharon.Ticket)
    assert_type(await kh.add_many([ticket], on_conflict="skip"), list[kharon.Ticket])
    assert_type(await kh.ack("a", keep=True), kharon.Ticket | None)
    assert_type(await kh.retry(ticket, nice=3), kharon.Ticket)
    await kh.limit("default", claimed=3)
    tx.add(ticket, after=["a"], on_failure="cancel")
    tx.extend(ticket, 30)
    kharon.Settings(process_time=timedelta(minutes=1), trim_after=3600, archive_after=None)
    await kh.add(ticket, dellay=3)  # Unexpected keyword argument "dellay"
    await kh.done(ticket, expire_in="soon")  # Argument "expire_in" has incompatible type "str"
    await kh.fail()  # Too few arguments
    kh.fail(ticket)  # must be used
    tx.add(ticket, on_conflict="repalce")  # Argument "on_conflict" has incompatible type
    tx.extend(ticket)  # Too few arguments
    await tx.delete("a")  # Incompatible types in "await"
    kharon.oepn("q")  # Module has no attribute "oepn"
    await kh.update("a", nice=3, payload={"to": 1}, tube="mail", group=None)
    await kh.update("a", ncie=3)  # Unexpected keyword argument "ncie"
    await kh.retry("a", nise=3)  # Unexpected keyword argument "nise"
    await kh.release("a", tueb="mail")  # Unexpected keyword argument "tueb"
    await kh.update("a", nice="3")  # Argument "nice" has incompatible type "str"
    tx.retry(ticket, tube=3)  # Argument "tube" has incompatible type "int"
    await kh.list("pending")
    await kh.list(kharon.Status.DONE)
    await kh.list(status="pendign")  # Argument "status" to "list" of "Kharon" has incompatible type
    group: kharon.Group = kh.group("g")
    assert_type(kharon.Histogram.bounds, tuple[float, ...])
"""


def test_the_verbs_keep_their_arguments_and_results(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    out, errors, _ = api.run(["--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), str(path)])
    assert errors == ""
    found = {int(number): why for number, why in re.findall(r"program\.py:(\d+): error: (.*)", out)}
    expected = {
        number: line.partition("  # ")[2] for number, line in enumerate(PROGRAM.split("\n"), 1) if "  # " in line
    }
    assert found.keys() == expected.keys(), out
    assert not {number: why for number, why in found.items() if expected[number] not in why}
