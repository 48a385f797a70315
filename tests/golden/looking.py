"""What is seen of a queue's directory, as JSON: the same whichever later version looks, if it keeps its promise.

Of a ticket the fields that have their default are left out; which fields are looked at is kept too, so that a later
version may give a ticket one more. What a record's event is made of stands in its line and is not told again: how it
was understood shows in the tickets. Of a refusal only its kind and its place are seen, as its words may become better.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import msgspec

import kharon
from kharon.log.directory import DirectoryLog
from kharon.model.projection import Projection
from kharon.model.ticket import Draft

LATER = datetime(2027, 1, 1, tzinfo=UTC)
"""When the kept directories are looked at: after all that was written in them."""

RENAMED = {"_payload": "payload_json", "_result": "result_json"}
"""What fields of a ticket are called today, which had another name when a directory was kept."""


def copy(source: Path, target: Path) -> None:
    """Copy a directory with the modes that a queue's has, which git does not keep."""
    target.mkdir(0o700)
    for path in sorted(source.rglob("*")):
        to = target / path.relative_to(source)
        if path.is_dir():
            to.mkdir(0o700)
        else:
            to.write_bytes(path.read_bytes())
            to.chmod(0o600)


def load(where: Path, log: DirectoryLog, now: datetime = LATER) -> Projection:
    """Open a log as the store does: from the newest snapshot that is usable."""
    projection = Projection()
    snapshot = log.load_snapshot()
    if snapshot is not None:
        projection.load(snapshot.tickets, snapshot.seq, snapshot.at, snapshot.others)
    return projection.fold(log.open(now))


FIELDS = tuple(field.name for field in attrs.fields(Draft))
"""Of a ticket, in this version."""


def look(where: Path, fields: Sequence[str] = FIELDS) -> dict[str, Any]:
    """Return all that is seen; of a ticket these fields. At last the log is opened for writing, and closed."""
    return {
        "fields": list(fields),
        "verify": _tried(where, lambda: _report(kharon.verify(where))),
        "read": _tried(where, lambda: [_record(record) for record in kharon.read(where)]),
        "replay": _tried(where, lambda: _projection(kharon.replay(where), fields)),
        "opened": _tried(where, lambda: _opened(where, fields)),
    }


def _tried(where: Path, look: Callable[[], Any]) -> Any:
    """Return what is seen, or the refusal: which, and where."""
    try:
        return look()
    except kharon.CorruptLog as corrupt:
        file = os.path.relpath(corrupt.file, where)
        return {"refused": "CorruptLog", "file": file, "line": corrupt.line, "byte": corrupt.byte}
    except kharon.UnknownFormat:
        return {"refused": "UnknownFormat"}


def _opened(where: Path, fields: Sequence[str]) -> Any:
    log = DirectoryLog(where)
    try:
        with _warnings() as warnings:
            projection = load(where, log)
        first = log.first
        log.close(LATER)
    finally:
        log.abandon()
    kept = {path.name: path.stat().st_size for path in sorted((where / "quarantine").glob("*"))}
    passed_over = sum("passed over" in warning for warning in warnings)
    return _projection(projection, fields) | {"first": first, "quarantine": kept, "snapshots passed over": passed_over}


@contextmanager
def _warnings() -> Iterator[list[str]]:
    found: list[str] = []
    logger = logging.getLogger("kharon")
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def _report(report: kharon.Report) -> Any:
    seen = attrs.asdict(report, filter=lambda field, _value: field.name != "path")
    seen = {name: _plain(value) for name, value in seen.items()}
    return seen | {"unknown": [list(unknown.values()) for unknown in seen["unknown"]]}


def _record(record: kharon.Record) -> Any:
    about = getattr(record.event, "id", None)
    name = type(record.event).__name__
    return [record.seq, _plain(record.at), record.by, name, record.version, list(record.part), about, record.hash]


def _projection(projection: Projection, fields: Sequence[str]) -> dict[str, Any]:
    tickets = [_ticket(ticket, fields) for ticket in projection.tickets.values()]
    seen = {"seq": projection.seq, "at": _plain(projection.at), "tickets": tickets}
    others = [f"{type(other).__name__} {msgspec.json.encode(other).decode()}" for other in projection.others()]
    return seen | {"others": others} if others else seen


def _ticket(ticket: Draft, fields: Sequence[str]) -> Any:
    defaults = {field.name: field.default for field in attrs.fields(Draft)}
    now = {name: RENAMED.get(name, name) for name in fields}
    values = {name: getattr(ticket, now[name]) for name in fields}
    return {
        name: _ticket(value, fields) if isinstance(value, Draft) else _plain(value)
        for name, value in values.items()
        if value != defaults[now[name]]
    }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):  # a payload, or a result: the very bytes
        return value.decode("ascii")
    if isinstance(value, msgspec.Struct):  # a gate
        return msgspec.json.decode(msgspec.json.encode(value))
    return list(value) if isinstance(value, tuple) else value
