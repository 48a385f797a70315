"""Processes that die at named places while segments are compressed, archived or trimmed: as `test_failpoints.py`."""

import os

import pytest
from failpoints import ARCHIVING, COMPRESSING, TRIMMING
from killing import nobody_is_left
from test_failpoints import look, tell

import kharon

pytestmark = pytest.mark.campaign
SCALE = int(os.environ.get("KHARON_KILL_SCALE", "1"))


@pytest.mark.parametrize("take", range(SCALE))
def test_killed_while_it_compresses(killer, take):
    tell(killer, COMPRESSING, f"compressing {take}", most=3, retention={"compress_beyond_bytes": 1})
    assert list((killer.where / "log").glob("*.zst")) != []
    killer.report()


@pytest.mark.parametrize("take", range(SCALE))
def test_killed_while_it_archives(killer, take):
    tell(killer, ARCHIVING, f"archiving {take}", retention={"archive_beyond_bytes": 1})
    assert list((killer.where / "archive").glob("*/*.jsonl")) != []
    killer.report()


@pytest.mark.parametrize("take", range(SCALE))
def test_killed_while_it_trims(killer, take):
    """Which it does only once there are two snapshots: those of the processes before this one, too."""
    options = {"retention": {"trim_beyond_bytes": 1}, "snapshot_bytes": 16 << 10, "tasks": 1, "pause": 0.02}
    for number, name in enumerate(TRIMMING):
        killer.die(name, prefix=f"p{number}", **options)
        nobody_is_left(killer.where)
        look(killer)
    assert kharon.verify(killer.where).first > 1
    killer.report()
