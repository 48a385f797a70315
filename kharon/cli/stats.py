"""Commands that count: `stats`, `simulate`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from kharon.audit.measure import COUNTS, RELATIVE_ERROR, By, Counter, Group, Measures, Series, Sketch, measure
from kharon.audit.words import length
from kharon.cli.output import Output, Styled
from kharon.cli.queues import beginning, records
from kharon.cli.times import moment
from kharon.log.record import Record

__all__ = ["told_simulation", "told_stats"]

_PERCENTS: Final = (50, 90, 99)
_BARS: Final = " ▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = " .:-=+*#%@"


def told_stats(out: Output, queue: Path, by: By | None, since: datetime | None) -> None:
    """Count a queue's records, or those since an instant."""
    start = beginning(out, queue)
    found = records(out, queue, lambda recorded: measure(recorded, by, since, start.tickets.values()), start.seq)
    if out.json:
        _objects(out, found)
        return
    if not found.records:
        out.say("no records" if since is None else f"no records since {moment(since)}")
        return
    if by is None:
        _totals(out, found)
    else:
        _groups(out, found, by)


def _span(found: Measures) -> str:
    assert found.first_at is not None
    assert found.last_at is not None
    return f"records {found.first} to {found.last}, {moment(found.first_at)} to {moment(found.last_at)}"


def _totals(out: Output, found: Measures) -> None:
    out.say(_span(found))
    total, hours = found.total, max(found.seconds / 3600, 1e-9)
    rows = [
        (name, f"{count:,}", f"{count / hours:,.1f}")
        for name in COUNTS
        if (count := getattr(total, name)) or name in ("added", "claimed", "done", "failed")
    ]
    out.table(("", "count", "an hour"), rows, right=(1, 2))
    if total.failure_rate is not None:
        out.line(f"{total.failure_rate:.1%} of the tickets that were done or failed have failed")
    out.line("")
    heads = ("", "count", "mean", *(f"{percent} %" for percent in _PERCENTS), "longest")
    out.table(heads, [_sketch_row("waited", total.waited), _sketch_row("ran", total.ran)], right=range(1, 7))
    out.line("")
    for name, series, style in (
        ("added", found.added, "cyan"),
        ("ended", found.ended, "green"),
        ("failed", found.failed, "red"),
    ):
        out.line(f"{name:7} ", Styled(_chart(out, series.counts), style), _scale(series))


def _sketch_row(name: str, sketch: Sketch) -> tuple[str, ...]:
    told = [
        sketch.mean,
        *(sketch.percentile(percent) for percent in _PERCENTS),
        sketch.longest if sketch.count else None,
    ]
    return name, f"{sketch.count:,}", *map(_told, told)


def _told(seconds: float | None) -> str:
    return "-" if seconds is None else length(seconds)


def _chart(out: Output, counts: Sequence[int]) -> str:
    marks = _BARS if out.charts else _PLAIN_BARS
    most = max(counts, default=0) or 1
    return "".join(marks[-(-count * (len(marks) - 1) // most)] for count in counts)


def _scale(series: Series) -> str:
    most = max(series.counts, default=0)
    return f"  at most {most:,} in {length(series.width)}" if most else "  none"


def _groups(out: Output, found: Measures, by: By) -> None:
    out.say(_span(found))
    keys = sorted(found.groups, key=lambda key: (isinstance(key, str), key))
    rows = [_group_row(key, found.groups[key]) for key in keys]
    if len(keys) > 1:
        rows.append(_group_row("all", found.total))
    most = max((group.done + group.failed for group in found.groups.values()), default=0) or 1
    bars = [_bar(out, found.groups[key], most) for key in keys]
    bars += [""] * (len(rows) - len(bars))
    heads = (by, "added", "done", "failed", "lapsed", "wait 50%", "90%", "run 50%", "90%", "ended")
    out.table(heads, [(*row, bar) for row, bar in zip(rows, bars, strict=True)], right=range(1, 9))


def _group_row(key: str | datetime, group: Group) -> tuple[str, ...]:
    name = key if isinstance(key, str) else _to_the_minute(key)
    rate = f" {group.failure_rate:.0%}" if group.failed and group.failure_rate is not None else ""
    return (
        name,
        f"{group.added:,}",
        f"{group.done:,}",
        f"{group.failed:,}{rate}",
        f"{group.lapsed:,}",
        *(_told(sketch.percentile(percent)) for sketch in (group.waited, group.ran) for percent in (50, 90)),
    )


def _to_the_minute(at: datetime) -> str:
    whole = moment(at, exact=False)
    return whole[:16] + whole[19:]


def _bar(out: Output, group: Group, most: int) -> str:
    return ("█" if out.charts else "#") * (-(-(group.done + group.failed) * 8 // most))


def _objects(out: Output, found: Measures) -> None:
    for key, group in [("total", found.total), *found.groups.items()]:
        head = {"by": "total" if group is found.total else found.by, "key": None if group is found.total else key}
        out.object({**head, **_group_fields(group)})
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


def _group_fields(group: Group) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(group, name) for name in COUNTS}
    fields["failure_rate"] = group.failure_rate
    for name, sketch in (("waited", group.waited), ("ran", group.ran)):
        fields[name] = {
            "count": sketch.count,
            "mean": sketch.mean,
            **{f"p{percent}": sketch.percentile(percent) for percent in _PERCENTS},
            "longest": sketch.longest if sketch.count else None,
        }
    return fields


# --- simulate ---------------------------------------------------------------------------------------------------------


def told_simulation(out: Output, queue: Path, changes: dict[str, Any], backoff: str | None) -> None:
    """Run what was recorded under other settings, and set what comes of it beside what happened.

    Args:
        out: where to tell it.
        queue: the queue's directory.
        changes: the settings that are other than they were.
        backoff: how the backoff among them was written; None: it is not among them.
    """
    from kharon.simulate.recording import Recorder  # noqa: PLC0415 - no other command needs the engine
    from kharon.simulate.simulation import settings_for, simulate  # noqa: PLC0415

    start = beginning(out, queue)
    recorder, counter = Recorder(), Counter(tickets=start.tickets.values())

    def take(recorded: Iterator[Record]) -> None:
        for record in recorded:
            recorder.add(record)
            counter.add(record)

    records(out, queue, take, start.seq)
    load, real = recorder.workload(), counter.measures
    if load.begin is None:
        out.say("no records, so there is nothing to simulate")
        return
    settings = settings_for(load, **changes)
    with _silent(), out.bar("simulating", len(load.acts)) as bar:
        simulated = simulate(load, settings, new_backoff="backoff" in changes, progress=bar.at)
    used = {
        "workers": settings.workers,
        "process_time": settings.process_time,
        "max_attempts": settings.max_attempts,
        "backoff": backoff or "as recorded",
    }
    if out.json:
        for name, found, more in (("recorded", real, {}), ("simulated", simulated, {"settings": used})):
            out.object({"what": name, **more, **_group_fields(found.total)})
        return
    out.say(_span(real))
    out.say("simulated with " + ", ".join(f"{name} {_setting(value)}" for name, value in used.items()))
    if load.unknown:
        out.say(f"{load.unknown} attempts lapsed; how long they would have run is not known, so they lapse again")
    out.table(("", "recorded", "simulated", "change"), list(_compared(real.total, simulated.total)), right=(1, 2, 3))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop what the engine warns of: it has happened in no queue."""
    logger = logging.getLogger("kharon")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _setting(value: object) -> str:
    return "without end" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _compared(real: Group, simulated: Group) -> Iterator[tuple[str, str, str, str]]:
    for name in COUNTS:
        was, is_ = getattr(real, name), getattr(simulated, name)
        if was or is_:
            yield name, f"{was:,}", f"{is_:,}", f"{is_ - was:+,}" if is_ != was else ""
    for label, sketch in (("wait", "waited"), ("run", "ran")):
        was_all, is_all = getattr(real, sketch), getattr(simulated, sketch)
        for percent in _PERCENTS:
            pair = was_all.percentile(percent), is_all.percentile(percent)
            yield f"{label} {percent} %", _told(pair[0]), _told(pair[1]), _difference(*pair)
        pair = (was_all.longest, is_all.longest)
        yield f"{label} longest", _told(pair[0]), _told(pair[1]), _difference(*pair)


def _difference(was: float | None, is_: float | None) -> str:
    """Say how much longer something takes; nothing if it is within the error of a percentile."""
    if was is None or is_ is None or abs(is_ - was) <= 2 * RELATIVE_ERROR * max(was, is_) or length(was) == length(is_):
        return ""
    return ("+" if is_ > was else "-") + length(abs(is_ - was))
