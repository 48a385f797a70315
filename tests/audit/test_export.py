"""Each kind of file, read back with the tool that it is for."""

from __future__ import annotations

import contextlib
import csv
import json
import sqlite3
import sys
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec import Raw
from queues import queue

import kharon
from kharon.audit.export import COLUMNS, SUFFIXES, ExportRefused, export
from kharon.audit.fields import record_fields
from kharon.log.record import Record
from kharon.model import events as e

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NASTY = "\x1b[31m \u202e ' \" ; DROP TABLE records; -- , \n \r\n \u2028 <script> =1+1 \x00 ä 🚀"


JSON = ("payload", "result", "changes", "more", "after", "blocked_by")


def few():
    events = [
        e.TicketAdded(NASTY, "type", Raw(b'{"a":[1,null]}'), "tube", -3, NOW, "group"),
        e.TicketClaimed("a", 2, NOW + timedelta(seconds=30.000001), "w"),
        e.TicketDone("a", True, Raw(b'"\\u00e4"'), NOW),
        e.TicketFailed("a", NASTY),
        e.TicketFailed("a", ""),
        e.TicketUpdated("a", e.Changes(nice=1, group=None)),
        e.TicketAdded("b", "t", Raw(b"1"), "q", 1, NOW, None, (NASTY, "a"), ("a",), "g", True, "cancel"),
        e.TicketUnblocked("b", NASTY, "g", True),
        e.TailCut("f", 1, 2, "k"),
    ]
    return [
        Record(seq, NOW + timedelta(microseconds=seq), "ann", event, "ab" * 32, (seq, 7), seq - 1)
        for seq, event in enumerate(events, 1)
    ]


def expected(records):
    """The rows that records are, in Python's own values."""
    rows = []
    for record in records:
        fields = msgspec.json.decode(msgspec.json.encode(record_fields(record)))
        part, parts = fields.pop("part")
        row = {column.name: None for column in COLUMNS}
        more = {}
        for name, value in fields.items():
            if name not in row:
                more[name] = value
            elif name in ("payload", "result", "changes"):
                row[name] = value
            elif name in ("at", "runat", "lease_until", "expire_at"):
                row[name] = datetime.fromisoformat(value)
            else:
                row[name] = value
        rows.append(row | {"part": part, "parts": parts, "more": more or None})
    return rows


def loaded(rows):
    """Rows with their JSON read, for comparing."""
    return [
        {name: json.loads(value) if value is not None and name in JSON else value for name, value in row.items()}
        for row in rows
    ]


def in_text(row):
    """A row as it is where there are no timestamps."""
    return {
        name: datetime.fromisoformat(value)
        if value is not None and name in ("at", "runat", "lease_until", "expire_at")
        else value
        for name, value in row.items()
    }


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            kinds = {column.name: column.kind for column in COLUMNS}
            # CSV has no null: an empty cell stands for None, except for an empty reason.
            given = {name: None if value == "" else value for name, value in row.items()}
            yield in_text(
                {
                    name: int(value)
                    if value is not None and kinds[name] == "integer"
                    else value == "true"
                    if value is not None and kinds[name] == "flag"
                    else value
                    for name, value in given.items()
                }
            )


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def read_sqlite(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        for row in database.execute("SELECT * FROM records ORDER BY seq"):
            found = in_text(dict(row))
            flags = ("keep", "blocked_by_group", "dropped")
            yield found | {name: None if found[name] is None else bool(found[name]) for name in flags}


def read_parquet(path):
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(path).to_pylist()


def read_duckdb(path):
    duckdb = pytest.importorskip("duckdb")
    with contextlib.closing(duckdb.connect(str(path), read_only=True)) as database:
        instants = {column.name for column in COLUMNS if column.kind == "instant"}
        replaced = ", ".join(
            f'epoch_us("{name}") AS "{name}"' for name in instants
        )  # a TIMESTAMPTZ needs pytz in Python
        table = database.execute(f"SELECT * REPLACE ({replaced}) FROM records ORDER BY seq")
        names = [column[0] for column in table.description]
        for row in table.fetchall():
            yield {name: _instant(value) if name in instants else value for name, value in zip(names, row, strict=True)}


def _instant(microseconds):
    return None if microseconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


@pytest.mark.parametrize(
    ("suffix", "read"),
    [(".csv", read_csv), (".sqlite", read_sqlite), (".parquet", read_parquet), (".duckdb", read_duckdb)],
)
def test_what_is_written_is_what_is_read(tmp_path, suffix, read):
    to = tmp_path / f"out{suffix}"
    assert export(few(), to) == 9
    rows = expected(few())
    if suffix == ".csv":
        rows[4]["error_reason"] = None
    assert loaded(read(to)) == rows
    assert [path.name for path in tmp_path.iterdir()] == [to.name]


def test_json_lines_are_records_with_all_their_fields(tmp_path):
    assert export(few(), tmp_path / "out.jsonl") == 9
    assert [in_text(row) for row in read_jsonl(tmp_path / "out.jsonl")] == [
        in_text(msgspec.json.decode(msgspec.json.encode(record_fields(r)))) for r in few()
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_queue_of_several_batches(tmp_path, monkeypatch, suffix):
    from kharon.audit import export as module  # noqa: PLC0415

    monkeypatch.setattr(module, "_BATCH", 50)
    queue(tmp_path / "queue")
    records = list(kharon.read(tmp_path / "queue"))
    assert len(records) > 150
    to = tmp_path / f"out{suffix}"
    assert export(iter(records), to) == len(records)
    read = {
        ".csv": read_csv,
        ".jsonl": read_jsonl,
        ".sqlite": read_sqlite,
        ".parquet": read_parquet,
        ".duckdb": read_duckdb,
    }
    found = list(read[suffix](to))
    assert [row["seq"] for row in found] == [record.seq for record in records]
    assert [row["hash"] for row in found] == [record.hash for record in records]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_records_are_a_table_without_rows(tmp_path, suffix):
    to = tmp_path / f"out{suffix.upper()}"
    assert export([], to) == 0
    assert to.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("there", [False, True])
def test_one_that_does_not_come_to_its_end_leaves_nothing_and_takes_nothing(tmp_path, suffix, there):
    to = tmp_path / f"out{suffix}"
    if there:
        to.write_text("mine")

    def broken():
        yield from few()
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        export(broken(), to, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ([to.name] if there else [])
    assert not there or to.read_text() == "mine"


def test_a_file_that_is_there_stays(tmp_path):
    to = tmp_path / "out.csv"
    to.write_text("mine")
    with pytest.raises(ExportRefused, match=r"out\.csv exists; --force replaces it"):
        export(few(), to)
    assert to.read_text() == "mine"
    assert export(few(), to, force=True) == 9
    assert to.read_text() != "mine"


def test_a_file_that_comes_in_the_meantime_stays(tmp_path):
    to = tmp_path / "out.csv"

    def slow():
        yield from few()
        to.write_text("another's")

    with pytest.raises(ExportRefused, match=r"out\.csv exists"):
        export(slow(), to)
    assert to.read_text() == "another's"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize(
    ("suffix", "missing"), [(".parquet", "pyarrow"), (".duckdb", "duckdb"), (".duckdb", "pyarrow")]
)
def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch, suffix, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExportRefused, match=rf"needs {missing}: pip install 'kharon\[export\]'"):
        export(few(), tmp_path / f"out{suffix}")
    assert not list(tmp_path.iterdir())


def test_columns_are_every_field_that_is_common():
    names = [column.name for column in COLUMNS]
    assert len(names) == len(set(names))
    tickets = {
        field.encode_name
        for cls in e.EVENTS.values()
        if issubclass(cls, e.TicketEvent)
        for field in msgspec.structs.fields(cls)
    }
    assert tickets <= set(names), "what is in no column is in `more`: the events of tickets should not be"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("out.xlsx", r"'\.xlsx' is none of \.csv, \.jsonl, \.sqlite, \.parquet, \.duckdb"),
        ("out", "'none' is none of"),
        ("nowhere/out.csv", "nowhere is not a directory; make it first"),
        ("there.csv", r"there\.csv is a directory; name a file"),
    ],
)
def test_where_nothing_can_be_exported_to(tmp_path, name, says):
    (tmp_path / "there.csv").mkdir()
    with pytest.raises(ExportRefused, match=says):
        export(few(), tmp_path / name, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_a_database_without_room_is_an_error_of_the_disk(tmp_path, monkeypatch):
    def full(_where):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", full)
    with pytest.raises(OSError, match="database or disk is full"):
        export(few(), tmp_path / "out.sqlite")
    assert not list(tmp_path.iterdir())
