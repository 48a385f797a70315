"""A simulation beside the recorded history, as rows of text: `comparison`. It runs nothing and prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kharon.audit.fields import PERCENTS
from kharon.audit.measure import RELATIVE_ERROR, Group
from kharon.audit.words import length

__all__ = ["comparison", "settings_text"]


def comparison(recorded: Group, simulated: Group) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each measure: its name, the recorded value, the simulated one, and the difference.

    A count that is 0 in both is left out.
    """
    for name, was in recorded.counts.items():
        is_ = simulated.counts[name]
        if was or is_:
            yield name, f"{was:,}", f"{is_:,}", f"{is_ - was:+,}" if is_ != was else ""
    for label, was_all, is_all in (
        ("wait", recorded.waited, simulated.waited),
        ("run", recorded.ran, simulated.ran),
    ):
        for percent in PERCENTS:
            yield f"{label} {percent} %", *_durations(was_all.percentile(percent), is_all.percentile(percent))
        yield f"{label} longest", *_durations(was_all.longest, is_all.longest)


def _durations(was: float | None, is_: float | None) -> tuple[str, str, str]:
    """Return two durations, and how much longer the second is; empty if that is within a percentile's error."""
    before, after = ("-" if seconds is None else length(seconds) for seconds in (was, is_))
    if was is None or is_ is None or before == after or abs(is_ - was) <= 2 * RELATIVE_ERROR * max(was, is_):
        return before, after, ""
    return before, after, ("+" if is_ > was else "-") + length(abs(is_ - was))


def settings_text(used: Mapping[str, object]) -> str:
    """Return settings by name, on one line."""
    return ", ".join(f"{name} {_value(value)}" for name, value in used.items())


def _value(value: object) -> str:
    return "without end" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
