"""Export of a log's records as one table, to CSV, JSON Lines, SQLite, Parquet or DuckDB.

    export(records, Path("audit.parquet"))        # the suffix selects the format; one row for each record, in order

The table is called `records`. The fields of events are columns, named as in the log, and empty where an event lacks the
field. Payloads, results, changes and lists are columns of JSON text; fields of rare events are one JSON object in
`more`. Instants are timestamps where the format has them, otherwise text in ISO 8601 and UTC. Records are written in
batches and never all held. The file appears under its name when it is complete: a temporary file is renamed.

CSV, JSON Lines and SQLite need only Python. Parquet needs pyarrow, and DuckDB also duckdb: `kharon[export]`.
"""

from __future__ import annotations

import contextlib
import csv
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from kharon.audit.fields import record_fields
from kharon.errors import KharonError
from kharon.log.record import Record
from kharon.model.checks import ascii_json

__all__ = ["COLUMNS", "SUFFIXES", "Column", "ExportRefused", "check_target", "export"]


class ExportRefused(KharonError):
    """The file cannot be written as requested. The message says what to do."""


class Column(NamedTuple):
    """A column of the table: its name, and its kind: "integer", "text", "instant", "flag" or "json"."""

    name: str
    kind: str


COLUMNS: Final = (
    Column("seq", "integer"),
    Column("at", "instant"),
    Column("by", "text"),
    Column("event", "text"),
    Column("id", "text"),
    Column("type", "text"),
    Column("tube", "text"),
    Column("nice", "integer"),
    Column("runat", "instant"),
    Column("group", "text"),
    Column("after", "json"),
    Column("after_group", "text"),
    Column("on_failure", "text"),
    Column("blocked_by", "json"),
    Column("blocked_by_group", "flag"),
    Column("keeps_place", "flag"),
    Column("keeps_attempts", "flag"),
    Column("ended", "text"),
    Column("dropped", "flag"),
    Column("attempt", "integer"),
    Column("worker", "text"),
    Column("lease_until", "instant"),
    Column("keep", "flag"),
    Column("expire_at", "instant"),
    Column("error_reason", "text"),
    Column("payload", "json"),
    Column("result", "json"),
    Column("changes", "json"),
    Column("more", "json"),
    Column("part", "integer"),
    Column("parts", "integer"),
    Column("durable", "integer"),
    Column("hash", "text"),
)
"""The columns, in order. `part` is the record's number in its commit, `parts` the number of the commit's records."""

_NAMES: Final = frozenset(column.name for column in COLUMNS)
_BATCH: Final = 5000
_encode = msgspec.json.Encoder().encode


def _row(record: Record) -> dict[str, Any]:
    """Return a record as a row: Python's values, and JSON as text."""
    fields = record_fields(record)
    part, parts = fields.pop("part")
    row = {name: fields.pop(name, None) for name in _NAMES if name not in {"part", "parts", "more"}}
    row |= {"part": part, "parts": parts, "more": _text(fields) if fields else None}
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, Raw):
        return bytes(value).decode("ascii")
    return _text(value) if isinstance(value, (tuple, list)) else value


def _text(value: object) -> str:
    return ascii_json(_encode(value)).decode("ascii")


def _instant(value: datetime) -> str:
    return _text(value)[1:-1]


def export(records: Iterable[Record], to: Path, *, force: bool = False) -> int:
    """Write records to a file; return their number.

    Args:
        records: in order.
        to: the file; its suffix selects the format (`SUFFIXES`).
        force: whether to replace an existing file.

    Raises:
        ExportRefused: the suffix is unknown; the file exists; or the package for this format is missing.
        OSError: it cannot be written. An existing file is unchanged.

    Cost: O(records); the memory of 5,000 records.
    """
    writer = check_target(to, force=force)
    temporary = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}.tmp")
    counted = _Counted(records)
    try:
        writer(counted, temporary)
        if force:
            temporary.replace(to)
        else:
            os.link(temporary, to)  # unlike a rename, it never replaces a file that was created meanwhile
    except FileExistsError:
        raise _exists(to) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return counted.count


def check_target(to: Path, *, force: bool) -> Callable[[Iterable[Record], Path], None]:
    """Return the writer of a file's format, after all checks that need no record.

    Raises:
        ExportRefused: as for `export`.
    """
    entry = _FORMATS.get(to.suffix.lower())
    if entry is None:
        known = ", ".join(SUFFIXES)
        raise ExportRefused(f"{to}: the suffix selects the format, and {to.suffix or 'none'!r} is none of {known}")
    if not to.absolute().parent.is_dir():
        raise ExportRefused(f"{to}: {to.absolute().parent} is not a directory; make it first")
    if to.is_dir():
        raise ExportRefused(f"{to} is a directory; name a file")
    if to.exists() and not force:
        raise _exists(to)
    packages, writer = entry
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise ExportRefused(f"{to}: {to.suffix} needs {package}: pip install 'kharon[export]'") from None
    return writer


def _exists(to: Path) -> ExportRefused:
    return ExportRefused(f"{to} exists; --force replaces it")


class _Counted:
    """An iterable of records that counts them."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = records
        self.count = 0

    def __iter__(self) -> Iterator[Record]:
        for record in self._records:
            self.count += 1
            yield record


def _batches(records: Iterable[Record]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for record in records:
        batch.append(_row(record))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


# --- the formats ------------------------------------------------------------------------------------------------------


def _write_jsonl(records: Iterable[Record], to: Path) -> None:
    with to.open("xb") as file:
        file.writelines(ascii_json(_encode(record_fields(record))) + b"\n" for record in records)


def _plain(value: Any) -> Any:
    """Return a value for a format without timestamps."""
    return _instant(value) if isinstance(value, datetime) else value


def _write_csv(records: Iterable[Record], to: Path) -> None:
    with to.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(column.name for column in COLUMNS)
        for batch in _batches(records):
            writer.writerows([_in_csv(row[column.name]) for column in COLUMNS] for row in batch)


def _in_csv(value: Any) -> Any:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else _plain(value)


_SQLITE: Final = {"integer": "INTEGER", "flag": "INTEGER"}


def _write_sqlite(records: Iterable[Record], to: Path) -> None:
    to.touch(exist_ok=False)
    with contextlib.closing(sqlite3.connect(to)) as database:
        database.execute("PRAGMA journal_mode = OFF")  # an unfinished file is thrown away as a whole
        columns = ", ".join(f'"{column.name}" {_SQLITE.get(column.kind, "TEXT")}' for column in COLUMNS)
        database.execute(f"CREATE TABLE records ({columns}, PRIMARY KEY (seq))")
        insert = f"INSERT INTO records VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - question marks
        for batch in _batches(records):
            database.executemany(insert, ([_in_sqlite(row[column.name]) for column in COLUMNS] for row in batch))
        database.execute("CREATE INDEX records_by_id ON records (id)")
        database.commit()


def _in_sqlite(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else _plain(value)


def _arrow_schema() -> Any:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    kinds = {
        "integer": pa.int64(),
        "text": pa.string(),
        "json": pa.string(),
        "flag": pa.bool_(),
        "instant": pa.timestamp("us", tz="UTC"),
    }
    return pa.schema([(column.name, kinds[column.kind]) for column in COLUMNS])


def _write_parquet(records: Iterable[Record], to: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415 - an extra
    from pyarrow import parquet  # noqa: PLC0415

    schema = _arrow_schema()
    with parquet.ParquetWriter(to, schema) as writer:
        for batch in _batches(records):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


_DUCKDB: Final = {"integer": "BIGINT", "flag": "BOOLEAN", "instant": "TIMESTAMPTZ"}


def _write_duckdb(records: Iterable[Record], to: Path) -> None:
    import duckdb  # noqa: PLC0415 - an extra
    import pyarrow as pa  # noqa: PLC0415 - a batch takes µs a row, single inserts ms

    schema = _arrow_schema()
    with contextlib.closing(duckdb.connect(str(to))) as database:
        columns = ", ".join(f'"{column.name}" {_DUCKDB.get(column.kind, "VARCHAR")}' for column in COLUMNS)
        database.execute(f"CREATE TABLE records ({columns})")
        for batch in _batches(records):
            database.register("batch", pa.Table.from_pylist(batch, schema=schema))
            database.execute("INSERT INTO records SELECT * FROM batch")
            database.unregister("batch")


_FORMATS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[Iterable[Record], Path], None]]]] = {
    ".csv": ((), _write_csv),
    ".jsonl": ((), _write_jsonl),
    ".sqlite": ((), _write_sqlite),
    ".parquet": (("pyarrow",), _write_parquet),
    ".duckdb": (("duckdb", "pyarrow"), _write_duckdb),
}

SUFFIXES: Final = tuple(_FORMATS)
"""The suffixes of the formats."""
