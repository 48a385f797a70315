"""The commands that prove a log or copy it: `verify`, `anchor` and `export`."""

from __future__ import annotations

import codecs
import json
import sys
from pathlib import Path
from typing import Any

import attrs

from kharon.audit.anchor import Anchor, anchor
from kharon.audit.export import check_target, export
from kharon.audit.verify import Report, verify
from kharon.cli.failures import Usage
from kharon.cli.output import Output
from kharon.cli.queues import reading, with_records
from kharon.errors import CorruptLog, InvalidAnchor, UnknownFormat
from kharon.log.index import INDEX

__all__ = ["print_anchor", "print_verification", "write_export"]

_MOST = 1 << 20  # bytes of a file of anchors: some thousands
_WORD = "kharon-anchor"


def print_verification(out: Output, queue: Path, anchor_file: Path | None) -> None:
    """Verify a queue's log, and print what was verified.

    Raises:
        CorruptLog: it is damaged or altered, or does not contain the anchor.
    """
    kept = None if anchor_file is None else _read_anchor(anchor_file)
    with reading(out, queue, "verifying"):
        report = verify(queue, anchor=kept)
    _check_rest(report)
    if out.json:
        fields = attrs.asdict(report)
        out.object(
            {"whole": True, **fields, "path": str(queue), "anchor": None if kept is None else attrs.asdict(kept)}
        )
        return
    for why in report.unjudged_snapshots:
        out.say(f"not judged: {why}")
    for why in report.unused_indexes:
        out.say(f"not used by history, which makes it again: {why}")
    out.line(f"whole: log {report.log}")
    which = f"records {report.first} to {report.last}" if report.records else "no records"
    out.table(
        ("", ""),
        [
            ("records", f"{report.records:,} ({which}) in {report.segments} segment{'s' * (report.segments != 1)}"),
            *([("snapshots", f"{report.snapshots}, each agrees with the log")] if report.snapshots else []),
            *([("indexes", f"{report.indexes}, each agrees with the log")] if report.indexes else []),
            *([("unfinished", f"{report.unfinished:,} bytes of a last commit")] if report.unfinished else []),
            ("last hash", report.hash),
            ("anchor", _told_anchor(kept)),
        ],
    )


def _check_rest(report: Report) -> None:
    """Check the rest of a report on a log whose chain is whole.

    Raises:
        CorruptLog: a snapshot is damaged, or disagrees with the log; or an index hides records.
        UnknownFormat: there are events that only a later Kharon knows.
    """
    if report.bad_snapshots:
        path, _, why = report.bad_snapshots[0].partition(": ")
        raise CorruptLog(
            path, 0, 0, f"{why} (the log itself is whole; remove the snapshot, and another one will be made)"
        )
    if report.bad_indexes:
        path, _, why = report.bad_indexes[0].partition(": ")
        others = len(report.bad_indexes) - 1
        more = f"; {others:,} other{'s are' if others > 1 else ' is'} wrong, too" if others else ""
        remedy = f"the log itself is whole; remove {report.path / INDEX}, which is a cache and is made again"
        raise CorruptLog(path, 0, 0, f"{why}{more} (somebody wrote that; {remedy})")
    if report.unknown:
        first = report.unknown[0]
        needs = f"Kharon {first.needs}" if first.needs else "a later Kharon"
        others = sum(each.records for each in report.unknown) - 1
        which = f"record {first.first} and {others:,} more" if others else f"record {first.first}"
        raise UnknownFormat(
            f"the chain is whole, but {which} cannot be read: {first.event} in version {first.version} needs {needs}"
        )


def _told_anchor(kept: Anchor | None) -> str:
    if kept is None:
        return "none given: a log that was rewritten as a whole would look like this too"
    return f"record {kept.seq} is there as it was" if kept.seq else "it is the same log"


def _read_anchor(file: Path) -> Anchor:
    """Return the last anchor in a file, to which newer ones may have been appended."""
    text = sys.stdin.read(_MOST + 1) if str(file) == "-" else _text_of(file)
    if len(text) > _MOST:
        raise Usage(f"{file}: it is larger than {_MOST:,} bytes, so it is no file of anchors")
    plain, as_json = text.rfind(_WORD), text.rfind("{")
    try:
        if as_json > plain:
            fields: Any = json.loads(text[as_json:])
            return Anchor.parse(f"{_WORD} {fields['log']} {fields['seq']} {fields['hash']}")
        return Anchor.parse(text[max(plain, 0) :])
    except InvalidAnchor as error:
        raise Usage(f"{file}: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise Usage(
            f"{file}: it does not hold an anchor, which is what kharon anchor printed, with or without --json"
        ) from None


def _text_of(file: Path) -> str:
    with file.open("rb") as opened:
        data = opened.read(_MOST + 1)
    # PowerShell writes what a command printed in UTF-16.
    return data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8", "replace")


def print_anchor(out: Output, queue: Path) -> None:
    """Print an anchor: the newest record that is known to be on disk."""
    with reading(out, queue):
        found = anchor(queue)
    if out.json:
        out.object(attrs.asdict(found))
    else:
        out.line(str(found))


def write_export(out: Output, queue: Path, to: Path, *, force: bool) -> None:
    """Write all records to a file of another format."""
    check_target(to, force=force)
    count = with_records(out, queue, lambda found: export(found, to, force=force))
    if out.json:
        out.object({"to": str(to), "records": count})
    else:
        out.say(f"{to}: {count:,} records")
