"""`Settings`: everything that can be set about a queue. Each setting is converted and checked where it is declared."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, TypeAlias

import attrs

from kharon.errors import InvalidSettings, InvalidTicket
from kharon.model.checks import check_name
from kharon.model.delays import BackoffDelay, FixedDelay, as_seconds
from kharon.model.policy import TWO_WEEKS, OnReturn, Policy
from kharon.model.ticket import DEFAULT_TUBE

__all__ = ["Fsync", "OnReturn", "Settings"]

Fsync: TypeAlias = Literal["always", "never"] | float
_Attribute: TypeAlias = "attrs.Attribute[Any]"
_Validator: TypeAlias = "Callable[[Settings, _Attribute, Any], None]"

# --- converters: they let through values that a validator refuses, since only a validator knows the setting's name ----


def _in_seconds(value: float | timedelta) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    return value


def _in_seconds_or_none(value: float | timedelta | None) -> float | None:
    return None if value is None else _in_seconds(value)


def _path(value: Any) -> Any:
    return value.__fspath__() if hasattr(value, "__fspath__") else value


def _tubes(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InvalidSettings(f"Settings.tubes: {value!r} is one name; give a tuple of names: ({value!r},)")
    try:
        return tuple(dict.fromkeys(check_name("Settings.tubes", tube) for tube in value))
    except (InvalidTicket, TypeError) as error:
        raise InvalidSettings(f"Settings.tubes: a tuple of names, not {value!r}: {error}") from None


# --- validators -------------------------------------------------------------------------------------------------------


def _optional(validator: _Validator) -> _Validator:
    def check(settings: Settings, attribute: _Attribute, value: object) -> None:
        if value is not None:
            validator(settings, attribute, value)

    return check


def _at_least(least: int) -> _Validator:
    def check(_settings: Settings, attribute: _Attribute, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InvalidSettings(f"Settings.{attribute.name}: {value!r} is not a whole number of at least {least}")

    return check


def _flag(_settings: Settings, attribute: _Attribute, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidSettings(f"Settings.{attribute.name}: {value!r} is neither True nor False")


def _positive(_settings: Settings, attribute: _Attribute, value: object) -> None:
    try:
        seconds = as_seconds(f"Settings.{attribute.name}", value)
    except InvalidTicket as error:
        raise InvalidSettings(str(error)) from None
    if seconds <= 0:
        raise InvalidSettings(f"Settings.{attribute.name}: {value!r} is not more than 0 seconds")


def _one_of(*names: str) -> _Validator:
    def check(_settings: Settings, attribute: _Attribute, value: object) -> None:
        if value not in names:
            known = ", ".join(f'"{name}"' for name in names)
            raise InvalidSettings(f"Settings.{attribute.name}: {value!r} is none of {known}")

    return check


def _name(_settings: Settings, attribute: _Attribute, value: object) -> None:
    try:
        check_name(f"Settings.{attribute.name}", value)
    except InvalidTicket as error:
        raise InvalidSettings(str(error)) from None


def _backoff(_settings: Settings, attribute: _Attribute, value: object) -> None:
    if not isinstance(value, (BackoffDelay, FixedDelay)):
        raise InvalidSettings(f"Settings.{attribute.name}: {value!r} is neither a BackoffDelay nor a FixedDelay")


def _fsync(_settings: Settings, attribute: _Attribute, value: object) -> None:
    if isinstance(value, str) and value in ("always", "never"):
        return
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return
    raise InvalidSettings(
        f'Settings.{attribute.name}: {value!r} is none of "always", "never", or seconds of more than 0'
    )


def _directory(_settings: Settings, attribute: _Attribute, value: object) -> None:
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise InvalidSettings(
            f"Settings.{attribute.name}: {value!r} is not the path of a directory: a str or a Path, of printable text"
        )


def _at_most_max_poll_interval(settings: Settings, attribute: _Attribute, value: float) -> None:
    if value > settings.max_poll_interval:
        raise InvalidSettings(
            f"Settings.{attribute.name}: {value} s is more than max_poll_interval ({settings.max_poll_interval} s)"
        )


def _with_snapshots(settings: Settings, attribute: _Attribute, value: object) -> None:
    if value is not None and settings.snapshot_bytes is None:
        raise InvalidSettings(
            f"Settings.{attribute.name}: records are trimmed only if a snapshot holds their state, and snapshot_bytes "
            f"is None: give it a number"
        )


@attrs.frozen(slots=True, kw_only=True)
class Settings:
    """How a queue works. All durations are seconds (a number) or a `timedelta`.

    Attributes:
        workers: how many handlers may run at once.
        batch_size: how many idle workers one look at the queue may set to work; capped at `workers`.
        process_time: how long a claim's lease is. At its end the handler is cancelled and the ticket is pending again.
        heartbeat: whether the lease of a running ticket is extended before it ends, for as long as its handler runs:
            first by `process_time`, then each time by twice as much, at most one hour. `process_time` is then how long
            the event loop may be held up: a handler that holds it up longer lapses, unless it only settles afterwards.
            The heartbeat sees that the loop runs, or that a thread has not ended; it does not see whether a handler
            makes progress. A handler that hangs in an `await` runs for ever: put a `trio.fail_after` in it.
        max_poll_interval: the longest sleep between two looks at the clock, so that a step of it is noticed in time.
        min_poll_interval: the shortest sleep between two looks at the clock; tickets due closer together share a look.
        expiration: whether kept tickets are removed when their `expire_at` has come.
        backoff: the delay before the next attempt after a handler raised or a lease lapsed.
        max_attempts: the number of attempts after which a ticket that raises or lapses fails for good; None: no limit.
        on_return: what a handler's return means for a ticket that it did not settle itself: "ack" removes it, "done"
            keeps it, "leave" leaves it claimed, so that only an explicit settle counts.
        keep_done: how long a ticket is kept that `on_return="done"` keeps; None: for good.
        keep_failed: how long a failed ticket is kept if `fail` does not say it; None: for good. By default two weeks.
        tubes: the tubes to claim from at first, before any `subscribe` and `unsubscribe`; (): none.
        fsync: "always": a command returns when it is on disk; a number of seconds: when it is written, and it is on
            disk at most that much later; "never": when it is written to the operating system.
        actor: the `by` of the records of your own commands.
        segment_bytes: how large a file of the log may become before the next one is begun; at least 4096.
        snapshot_bytes: after how many bytes of log the state is saved, so that opening need not replay the records
            before; None: never.
        reserve_bytes: how much room on the disk to set aside, for settling running tickets when there is no other: a
            plain settle takes about 300 bytes, one with a result that much more. 0: none; then settling stops, too.
        allow_network_filesystem: whether a queue may be on NFS, SMB and the like. Only for a mount whose locks and
            syncs hold for all machines that have it.
        allow_group_access: whether a queue's directory may be one that its group may write, with any owner, as on a
            Kubernetes volume with an `fsGroup`. All members of the group can then change the log.
        compress_after, archive_after, trim_after: how old the last record of a finished file of the log may become
            before the file is compressed (which needs `kharon[zstd]`), moved to the archive, or removed for good. None:
            any age. Files that the state is built from are never removed, even if the newest snapshot went bad, so the
            history is at least about twice `snapshot_bytes`.
        compress_beyond_bytes, archive_beyond_bytes, trim_beyond_bytes: the same by size: done to the oldest files that
            make the whole history, as it lies on the disk, larger than this. None: any size.
        archive_directory: the directory of the archive, which must exist: str or Path; None: `archive` in the queue's
            directory. Queues may share one: each has a directory of its own in it, named after its log's id.
        memory_records: how many of its newest records a ":memory:" queue keeps for `history` and `records`.

    Raises:
        InvalidSettings: a setting has a wrong value; the message names the setting.
    """

    workers: int = attrs.field(default=4, validator=_at_least(1))
    batch_size: int = attrs.field(default=10, validator=_at_least(1))
    process_time: float = attrs.field(default=30.0, converter=_in_seconds, validator=_positive)
    heartbeat: bool = attrs.field(default=False, validator=_flag)
    max_poll_interval: float = attrs.field(default=15.0, converter=_in_seconds, validator=_positive)
    min_poll_interval: float = attrs.field(
        default=0.01, converter=_in_seconds, validator=[_positive, _at_most_max_poll_interval]
    )
    expiration: bool = attrs.field(default=True, validator=_flag)
    backoff: BackoffDelay | FixedDelay = attrs.field(factory=BackoffDelay, validator=_backoff)
    max_attempts: int | None = attrs.field(default=25, validator=_optional(_at_least(1)))
    on_return: OnReturn = attrs.field(default="ack", validator=_one_of("ack", "done", "leave"))
    keep_done: float | None = attrs.field(default=None, converter=_in_seconds_or_none, validator=_optional(_positive))
    keep_failed: float | None = attrs.field(
        default=TWO_WEEKS, converter=_in_seconds_or_none, validator=_optional(_positive)
    )
    tubes: tuple[str, ...] = attrs.field(default=(DEFAULT_TUBE,), converter=_tubes)
    fsync: Fsync = attrs.field(default="always", validator=_fsync)
    actor: str = attrs.field(default="app", validator=_name)
    segment_bytes: int = attrs.field(default=8 << 20, validator=_at_least(4096))
    snapshot_bytes: int | None = attrs.field(default=32 << 20, validator=_optional(_at_least(1)))
    reserve_bytes: int = attrs.field(default=4 << 20, validator=_at_least(0))
    allow_network_filesystem: bool = attrs.field(default=False, validator=_flag)
    allow_group_access: bool = attrs.field(default=False, validator=_flag)
    compress_after: float | None = attrs.field(
        default=None, converter=_in_seconds_or_none, validator=_optional(_positive)
    )
    compress_beyond_bytes: int | None = attrs.field(default=None, validator=_optional(_at_least(1)))
    archive_after: float | None = attrs.field(
        default=None, converter=_in_seconds_or_none, validator=_optional(_positive)
    )
    archive_beyond_bytes: int | None = attrs.field(default=None, validator=_optional(_at_least(1)))
    trim_after: float | None = attrs.field(
        default=None, converter=_in_seconds_or_none, validator=[_optional(_positive), _with_snapshots]
    )
    trim_beyond_bytes: int | None = attrs.field(default=None, validator=[_optional(_at_least(1)), _with_snapshots])
    archive_directory: str | None = attrs.field(default=None, converter=_path, validator=_optional(_directory))
    memory_records: int = attrs.field(default=100_000, validator=_at_least(1))

    def policy(self, type: str | None = None) -> Policy:  # noqa: ARG002 - all types go by the same rules today
        """Return the rules for tickets of a type; None: the type is not known. O(1)."""
        return Policy(
            *(self.process_time, self.max_attempts, self.backoff, self.on_return, self.keep_done, self.keep_failed)
        )

    @property
    def sync_interval(self) -> float | None:
        """Seconds between syncs, if `fsync` is a number; else None."""
        return None if isinstance(self.fsync, str) else float(self.fsync)
