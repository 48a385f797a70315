"""The commands that print measures: `stats` and `simulate`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from kharon.audit.fields import PERCENTS, group_fields
from kharon.audit.measure import By, Counter, Group, Measures, Series, Sketch, measure
from kharon.audit.words import length
from kharon.cli.output import Output, Styled
from kharon.cli.queues import state_at_start_of, with_records
from kharon.cli.times import local_time
from kharon.log.record import Record

__all__ = ["print_simulation", "print_stats"]

_ALWAYS_SHOWN: Final = ("added", "claimed", "done", "failed")
_BARS: Final = " ▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = " .:-=+*#%@"


def print_stats(out: Output, queue: Path, by: By | None, since: datetime | None) -> None:
    """Print the measures of a queue's records, or of those since an instant."""
    start = state_at_start_of(out, queue)
    found = with_records(out, queue, lambda recorded: measure(recorded, by, since, start.tickets.values()), start.seq)
    if out.json:
        _print_objects(out, found)
        return
    if not found.records:
        out.say("no records" if since is None else f"no records since {local_time(since)}")
        return
    if by is None:
        _print_totals(out, found)
    else:
        _print_groups(out, found, by)


def _records_text(found: Measures) -> str:
    assert found.first_at is not None
    assert found.last_at is not None
    return f"records {found.first} to {found.last}, {local_time(found.first_at)} to {local_time(found.last_at)}"


def _print_totals(out: Output, found: Measures) -> None:
    out.say(_records_text(found))
    total, hours = found.total, max(found.seconds / 3600, 1e-9)
    rows = [
        (name, f"{count:,}", f"{count / hours:,.1f}")
        for name, count in total.counts.items()
        if count or name in _ALWAYS_SHOWN
    ]
    out.table(("", "count", "an hour"), rows, right=(1, 2))
    if total.failure_rate is not None:
        out.line(f"{total.failure_rate:.1%} of the tickets that were done or failed have failed")
    out.line("")
    heads = ("", "count", "mean", *(f"{percent} %" for percent in PERCENTS), "longest")
    out.table(heads, [_sketch_row("waited", total.waited), _sketch_row("ran", total.ran)], right=range(1, 7))
    out.line("")
    for name, series, style in (
        ("added", found.added, "cyan"),
        ("ended", found.ended, "green"),
        ("failed", found.failed, "red"),
    ):
        out.line(f"{name:7} ", Styled(_chart(out, series.counts), style), _scale(series))


def _sketch_row(name: str, sketch: Sketch) -> tuple[str, ...]:
    durations = [
        sketch.mean,
        *(sketch.percentile(percent) for percent in PERCENTS),
        sketch.longest if sketch.count else None,
    ]
    return name, f"{sketch.count:,}", *map(_duration, durations)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else length(seconds)


def _chart(out: Output, counts: Sequence[int]) -> str:
    marks = _BARS if out.charts else _PLAIN_BARS
    most = max(counts, default=0) or 1
    return "".join(marks[-(-count * (len(marks) - 1) // most)] for count in counts)


def _scale(series: Series) -> str:
    most = max(series.counts, default=0)
    return f"  at most {most:,} in {length(series.width)}" if most else "  none"


def _print_groups(out: Output, found: Measures, by: By) -> None:
    out.say(_records_text(found))
    keys = sorted(found.groups, key=lambda key: (isinstance(key, str), key))
    rows = [_group_row(key, found.groups[key]) for key in keys]
    if len(keys) > 1:
        rows.append(_group_row("all", found.total))
    most = max((group.ended for group in found.groups.values()), default=0) or 1
    bars = [_bar(out, found.groups[key], most) for key in keys]
    bars += [""] * (len(rows) - len(bars))
    heads = (by, "added", "done", "failed", "lapsed", "wait 50%", "90%", "run 50%", "90%", "ended")
    out.table(heads, [(*row, bar) for row, bar in zip(rows, bars, strict=True)], right=range(1, 9))


def _group_row(key: str | datetime, group: Group) -> tuple[str, ...]:
    name = key if isinstance(key, str) else _to_the_minute(key)
    rate = f" {group.failure_rate:.0%}" if group.failure_rate else ""
    return (
        name,
        f"{group.counts['added']:,}",
        f"{group.counts['done']:,}",
        f"{group.counts['failed']:,}{rate}",
        f"{group.counts['lapsed']:,}",
        *(_duration(sketch.percentile(percent)) for sketch in (group.waited, group.ran) for percent in (50, 90)),
    )


def _to_the_minute(at: datetime) -> str:
    whole = local_time(at, exact=False)
    return whole[:16] + whole[19:]


def _bar(out: Output, group: Group, most: int) -> str:
    return ("█" if out.charts else "#") * (-(-group.ended * 8 // most))


def _print_objects(out: Output, found: Measures) -> None:
    for key, group in [("total", found.total), *found.groups.items()]:
        head = {"by": "total" if group is found.total else found.by, "key": None if group is found.total else key}
        out.object({**head, **group_fields(group)})
    charts = {name: getattr(found, name).counts for name in ("added", "ended", "failed")}
    out.object(
        {
            "by": "time",
            "begin": found.added.begin,
            "slot_seconds": found.added.width,
            **charts,
            "records": found.records,
            "first": found.first,
            "last": found.last,
            "first_at": found.first_at,
            "last_at": found.last_at,
        }
    )


# --- simulate ---------------------------------------------------------------------------------------------------------


def print_simulation(out: Output, queue: Path, changes: dict[str, Any], backoff: str | None) -> None:
    """Run the recorded workload under other settings, and print the measures of both side by side.

    Args:
        out: where to print.
        queue: the queue's directory.
        changes: the settings that differ from the recorded ones.
        backoff: the text of the backoff among them; None: it is not among them.
    """
    from kharon.simulate.recording import Recorder  # noqa: PLC0415 - no other command needs the engine
    from kharon.simulate.simulation import settings_for, simulate  # noqa: PLC0415
    from kharon.simulate.tables import comparison, settings_text  # noqa: PLC0415

    start = state_at_start_of(out, queue)
    recorder, counter = Recorder(), Counter(tickets=start.tickets.values())

    def take(recorded: Iterator[Record]) -> None:
        for record in recorded:
            recorder.add(record)
            counter.add(record)

    with_records(out, queue, take, start.seq)
    load, real = recorder.workload(), counter.measures
    if load.begin is None:
        out.say("no records, so there is nothing to simulate")
        return
    settings = settings_for(load, **changes)
    with _no_warnings(), out.bar("simulating", len(load.acts)) as bar:
        simulated = simulate(load, settings, new_backoff="backoff" in changes, progress=bar.update)
    used = {
        "workers": settings.workers,
        "process_time": settings.process_time,
        "max_attempts": settings.max_attempts,
        "backoff": backoff or "as recorded",
    }
    if out.json:
        out.object({"what": "recorded", **group_fields(real.total)})
        out.object({"what": "simulated", "settings": used, **group_fields(simulated.total)})
        return
    out.say(_records_text(real))
    out.say(f"simulated with {settings_text(used)}")
    if load.unknown:
        out.say(f"{load.unknown} attempts lapsed; how long they would have run is not known, so they lapse again")
    out.table(("", "recorded", "simulated", "change"), comparison(real.total, simulated.total), right=(1, 2, 3))


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Drop the engine's warnings, which are about the simulated queue."""
    logger = logging.getLogger("kharon")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
