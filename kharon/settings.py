"""`Settings`: everything that can be set about a queue, checked when it is set."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, Literal, TypeAlias

import attrs

from kharon.errors import InvalidSettings, InvalidTicket
from kharon.model.checks import check_name
from kharon.model.delays import BackoffDelay, FixedDelay, as_seconds
from kharon.model.policy import OnReturn, Policy
from kharon.model.ticket import DEFAULT_TUBE

__all__ = ["Fsync", "OnReturn", "Settings"]

Fsync: TypeAlias = Literal["always", "never"] | float


def _count(_settings: Settings, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidSettings(f"Settings.{attribute.name}: {value!r} is not a whole number of at least 1")


def _flag(_settings: Settings, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidSettings(f"Settings.{attribute.name}: {value!r} is neither True nor False")


def _seconds(field: str, value: float | timedelta) -> float:
    try:
        seconds = as_seconds(f"Settings.{field}", value)
    except InvalidTicket as error:
        raise InvalidSettings(str(error)) from None
    if seconds <= 0:
        raise InvalidSettings(f"Settings.{field}: {value!r} is not more than 0 seconds")
    return seconds


def _process_time(value: float | timedelta) -> float:
    return _seconds("process_time", value)


def _max_poll_interval(value: float | timedelta) -> float:
    return _seconds("max_poll_interval", value)


def _min_poll_interval(value: float | timedelta) -> float:
    return _seconds("min_poll_interval", value)


def _compress_after(value: float | timedelta | None) -> float | None:
    return None if value is None else _seconds("compress_after", value)


def _archive_after(value: float | timedelta | None) -> float | None:
    return None if value is None else _seconds("archive_after", value)


def _trim_after(value: float | timedelta | None) -> float | None:
    return None if value is None else _seconds("trim_after", value)


def _count_or_none(settings: Settings, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        _count(settings, attribute, value)


def _path(value: Any) -> Any:
    return value.__fspath__() if hasattr(value, "__fspath__") else value


def _tubes(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InvalidSettings(f"Settings.tubes: {value!r} is one name; give a tuple of names: ({value!r},)")
    try:
        return tuple(dict.fromkeys(check_name("Settings.tubes", tube) for tube in value))
    except (InvalidTicket, TypeError) as error:
        raise InvalidSettings(f"Settings.tubes: a tuple of names, not {value!r}: {error}") from None


@attrs.frozen(slots=True, kw_only=True)
class Settings:
    """How a queue works. All durations are seconds (a number) or a `timedelta`.

    Attributes:
        workers: how many handlers may run at once.
        batch_size: how many idle workers one look at the queue may set to work; capped at `workers`.
        process_time: how long a claim's lease is: the handler is cancelled, and the ticket pending again, after it.
        heartbeat: whether the lease of what runs is extended before it ends, for as long as it runs: first by
            `process_time`, then each time by twice as much, one hour at most. `process_time` is then how long the event
            loop may be held up: a handler that does not let it run for longer lapses, unless settling is all that it
            does then. It sees that the loop runs, and that a thread has not ended; it does not see whether a handler
            gets anywhere. One that hangs in an `await` runs for ever: put a `trio.fail_after` in it.
        max_poll_interval: the longest sleep between two looks at the clock, so that a step of it is noticed in time.
        min_poll_interval: the shortest sleep between two looks at the clock; tickets due closer together share a look.
        expiration: whether kept tickets are removed when their `expire_at` has come.
        backoff: the wait before the next attempt after a handler raised or a lease lapsed.
        max_attempts: after so many attempts a ticket that raises or lapses fails for good; None: never.
        on_return: what a handler's return means for a ticket that it did not settle itself: "ack" removes it, "done"
            keeps it, "leave" leaves it claimed, so that only an explicit settle counts.
        tubes: the tubes to claim from at first, before any `subscribe` and `unsubscribe`; (): none.
        fsync: "always": a command returns when it is on disk; a number of seconds: when it is written, and it is on
            disk that much later at the latest; "never": when it is written to the operating system.
        actor: the `by` of the records of your own commands.
        segment_bytes: how large a file of the log may become before the next one is begun; at least 4096.
        snapshot_bytes: after how many bytes of log the state is saved, so that opening need not replay what came
            before; None: never.
        reserve_bytes: how much room on the disk to set aside, for settling what runs when there is no other: a plain
            settle takes about 300 bytes, one with a result that much more. 0: none; then settling stops with the rest.
        allow_network_filesystem: whether a queue may be on NFS, SMB and the like. Only for a mount whose locks and
            syncs hold for all machines that have it.
        compress_after, archive_after, trim_after: how old the last record of a finished file of the log may become
            before the file is compressed (which needs `kharon[zstd]`), moved to the archive, removed for good. None:
            any age. What the state stands on is never removed, even if the newest snapshot went bad: so the history is
            about twice `snapshot_bytes` at least.
        compress_beyond_bytes, archive_beyond_bytes, trim_beyond_bytes: the same by size: done to the oldest files that
            make the whole history, as it lies on the disk, larger than this. None: any size.
        archive_directory: where the archive is, a directory that exists: str or Path; None: `archive` in the queue's
            directory. Queues may share one: each has a directory of its own in it, named for its log's id.
        memory_records: how many of its newest records a ":memory:" queue keeps for `history` and `records`.

    Raises:
        InvalidSettings: naming the setting that cannot be so.
    """

    workers: int = attrs.field(default=4, validator=_count)
    batch_size: int = attrs.field(default=10, validator=_count)
    process_time: float = attrs.field(default=30.0, converter=_process_time)
    heartbeat: bool = attrs.field(default=False, validator=_flag)
    max_poll_interval: float = attrs.field(default=15.0, converter=_max_poll_interval)
    min_poll_interval: float = attrs.field(default=0.01, converter=_min_poll_interval)
    expiration: bool = attrs.field(default=True, validator=_flag)
    backoff: BackoffDelay | FixedDelay = attrs.field(factory=BackoffDelay)
    max_attempts: int | None = attrs.field(default=25)
    on_return: OnReturn = attrs.field(default="ack")
    tubes: tuple[str, ...] = attrs.field(default=(DEFAULT_TUBE,), converter=_tubes)
    fsync: Fsync = attrs.field(default="always")
    actor: str = attrs.field(default="app")
    segment_bytes: int = attrs.field(default=8 << 20, validator=_count)
    snapshot_bytes: int | None = attrs.field(default=32 << 20)
    reserve_bytes: int = attrs.field(default=4 << 20)
    allow_network_filesystem: bool = attrs.field(default=False, validator=_flag)
    compress_after: float | None = attrs.field(default=None, converter=_compress_after)
    compress_beyond_bytes: int | None = attrs.field(default=None, validator=_count_or_none)
    archive_after: float | None = attrs.field(default=None, converter=_archive_after)
    archive_beyond_bytes: int | None = attrs.field(default=None, validator=_count_or_none)
    trim_after: float | None = attrs.field(default=None, converter=_trim_after)
    trim_beyond_bytes: int | None = attrs.field(default=None)
    archive_directory: str | None = attrs.field(default=None, converter=_path)
    memory_records: int = attrs.field(default=100_000, validator=_count)

    @backoff.validator
    def _check_backoff(self, _attribute: object, value: object) -> None:
        if not isinstance(value, (BackoffDelay, FixedDelay)):
            raise InvalidSettings(f"Settings.backoff: {value!r} is neither a BackoffDelay nor a FixedDelay")

    @max_attempts.validator
    def _check_max_attempts(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not None:
            _count(self, attribute, value)

    @min_poll_interval.validator
    def _check_poll(self, _attribute: object, value: float) -> None:
        if value > self.max_poll_interval:
            raise InvalidSettings(
                f"Settings.min_poll_interval: {value} s is more than max_poll_interval ({self.max_poll_interval} s)"
            )

    @on_return.validator
    def _check_on_return(self, _attribute: object, value: object) -> None:
        if value not in ("ack", "done", "leave"):
            raise InvalidSettings(f'Settings.on_return: {value!r} is none of "ack", "done", "leave"')

    @snapshot_bytes.validator
    def _check_snapshot_bytes(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not None:
            _count(self, attribute, value)

    @segment_bytes.validator
    def _check_segment_bytes(self, _attribute: object, value: int) -> None:
        if value < 4096:
            raise InvalidSettings(f"Settings.segment_bytes: {value} bytes are less than 4096")

    @reserve_bytes.validator
    def _check_reserve_bytes(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if value != 0 or isinstance(value, bool):
            _count(self, attribute, value)

    @trim_after.validator
    @trim_beyond_bytes.validator
    def _check_trim(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not None and self.snapshot_bytes is None:
            raise InvalidSettings(
                f"Settings.{attribute.name}: nothing is trimmed that no snapshot holds, and snapshot_bytes is None: "
                f"give it a number"
            )
        if attribute.name == "trim_beyond_bytes":
            _count_or_none(self, attribute, value)

    @archive_directory.validator
    def _check_archive_directory(self, _attribute: object, value: object) -> None:
        if value is None:
            return
        if not isinstance(value, str) or not value.isprintable() or not value:
            raise InvalidSettings(
                f"Settings.archive_directory: {value!r} is no path of a directory: a str or a Path, of printable text"
            )

    @fsync.validator
    def _check_fsync(self, _attribute: object, value: object) -> None:
        if isinstance(value, str) and value in ("always", "never"):
            return
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
            return
        raise InvalidSettings(f'Settings.fsync: {value!r} is none of "always", "never", or seconds of more than 0')

    @actor.validator
    def _check_actor(self, _attribute: object, value: object) -> None:
        try:
            check_name("Settings.actor", value)
        except InvalidTicket as error:
            raise InvalidSettings(str(error)) from None

    def policy(self, type: str | None = None) -> Policy:  # noqa: ARG002 - all types go by the same rules today
        """Return the rules for tickets of a type; None: the type is not known. O(1)."""
        return Policy(self.process_time, self.max_attempts, self.backoff, self.on_return)

    @property
    def sync_interval(self) -> float | None:
        """Seconds between syncs, if `fsync` is a number; else None."""
        return None if isinstance(self.fsync, str) else float(self.fsync)
