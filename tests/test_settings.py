"""Settings: the documented defaults, and that a wrong value is refused at once, by its name."""

import math
from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from kharon.errors import InvalidSettings, KharonError
from kharon.model.delays import BackoffDelay, FixedDelay
from kharon.settings import Settings

DEFAULTS = {
    "workers": 4,
    "batch_size": 10,
    "process_time": 30.0,
    "heartbeat": False,
    "max_poll_interval": 15.0,
    "min_poll_interval": 0.01,
    "expiration": True,
    "backoff": BackoffDelay(1.8, 21_600, 0.2, 1),
    "max_attempts": 25,
    "on_return": "ack",
    "keep_done": None,
    "keep_failed": 14 * 86_400,
    "tubes": ("default",),
    "fsync": "always",
    "actor": "app",
}

COUNTS = [0, -1, 1.0, "4", True, None]
DURATIONS = [0, -1, math.nan, math.inf, 10**12, "5", None, True, timedelta(0)]
AGES = ("compress_after", "archive_after", "trim_after")
SIZES = ("compress_beyond_bytes", "archive_beyond_bytes", "trim_beyond_bytes")

BAD = [
    *(("workers", bad) for bad in COUNTS),
    *(("batch_size", bad) for bad in COUNTS),
    *(("memory_records", bad) for bad in COUNTS),
    *(("reserve_bytes", bad) for bad in COUNTS if bad != 0 or isinstance(bad, bool)),
    *(("allow_network_filesystem", bad) for bad in (None, 0, 1, "yes")),
    *(("allow_group_access", bad) for bad in (None, 0, 1, "yes")),
    *(("segment_bytes", bad) for bad in (*COUNTS, 4095)),
    *(("snapshot_bytes", bad) for bad in COUNTS if bad is not None),
    *(("max_attempts", bad) for bad in COUNTS if bad is not None),
    *(("process_time", bad) for bad in DURATIONS),
    *(("max_poll_interval", bad) for bad in DURATIONS),
    *(("min_poll_interval", bad) for bad in DURATIONS),
    *((name, bad) for name in (*AGES, "keep_done", "keep_failed") for bad in DURATIONS if bad is not None),
    *((name, bad) for name in SIZES for bad in COUNTS if bad is not None),
    *(("archive_directory", bad) for bad in ("", 5, b"archive", "a\0b", "a\nb")),
    *(("heartbeat", bad) for bad in (0, 1, None, "yes", 30.0)),
    *(("expiration", bad) for bad in (0, 1, None, "yes")),
    *(("backoff", bad) for bad in (5, None, timedelta(1), BackoffDelay)),
    *(("on_return", bad) for bad in ("ACK", "cancel", None, True)),
    *(("tubes", bad) for bad in ("default", b"default", None, 3, ("ok", ""), (1,), ("a\n",), ("x" * 201,))),
    *(("fsync", bad) for bad in ("Always", "", 0, -0.05, math.nan, math.inf, True, None, (1,))),
    *(("actor", bad) for bad in ("", None, "a\nb", "x" * 201, 5)),
]


def test_the_defaults_are_the_documented_ones():
    settings = Settings()
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(("name", "bad"), BAD)
def test_a_wrong_value_is_refused_by_its_name(name, bad):
    with pytest.raises(InvalidSettings, match=rf"^Settings\.{name}: "):
        Settings(**{name: bad})


def test_every_setting_has_wrong_values_in_this_test():
    assert {name for name, _ in BAD} == {field.name for field in attrs.fields(Settings)}


def test_an_error_of_settings_is_a_kharon_error_and_a_value_error():
    assert issubclass(InvalidSettings, KharonError)
    assert issubclass(InvalidSettings, ValueError)


def test_settings_go_by_name_only():
    with pytest.raises(TypeError):
        Settings(4)


def test_an_unknown_setting_is_refused():
    with pytest.raises(TypeError, match="worker"):
        Settings(worker=4)


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        Settings().workers = 5


def test_durations_may_be_timedeltas():
    settings = Settings(process_time=timedelta(minutes=2), max_poll_interval=timedelta(seconds=1), min_poll_interval=1)
    assert (settings.process_time, settings.max_poll_interval, settings.min_poll_interval) == (120.0, 1.0, 1.0)


def test_by_default_everything_is_kept_as_it_is():
    settings = Settings()
    assert [getattr(settings, name) for name in (*AGES, *SIZES, "archive_directory")] == [None] * 7
    settings = Settings(trim_after=timedelta(days=1), trim_beyond_bytes=5, archive_directory="old")
    assert (settings.trim_after, settings.trim_beyond_bytes, settings.archive_directory) == (86400.0, 5, "old")


@pytest.mark.parametrize("name", ["trim_after", "trim_beyond_bytes"])
def test_nothing_is_trimmed_without_snapshots(name):
    with pytest.raises(
        InvalidSettings, match=rf"^Settings\.{name}: records are trimmed only if a snapshot holds their state"
    ):
        Settings(**{name: 1}, snapshot_bytes=None)


def test_a_directory_may_be_a_path():
    assert Settings(archive_directory=Path("somewhere/old")).archive_directory == "somewhere/old"


def test_the_shortest_poll_is_not_longer_than_the_longest():
    with pytest.raises(InvalidSettings, match=r"^Settings.min_poll_interval: 2.0 s is more than max_poll_interval"):
        Settings(min_poll_interval=2, max_poll_interval=1.5)


def test_tubes_are_kept_once_each_in_their_order():
    assert Settings(tubes=["b", "a", "b"]).tubes == ("b", "a")
    assert Settings(tubes=()).tubes == ()


@pytest.mark.parametrize("good", ["ack", "done", "leave"])
def test_on_return_is_one_of_three(good):
    assert Settings(on_return=good).on_return == good


def test_attempts_may_have_no_end():
    assert Settings(max_attempts=None).max_attempts is None
    assert Settings(max_attempts=1).max_attempts == 1


def test_the_backoff_may_be_fixed():
    assert Settings(backoff=FixedDelay(3)).backoff == FixedDelay(3)


@pytest.mark.parametrize(("fsync", "interval"), [("always", None), ("never", None), (0.05, 0.05), (2, 2.0)])
def test_the_interval_between_syncs(fsync, interval):
    assert Settings(fsync=fsync).sync_interval == interval
