"""Ctrl-C at random moments, while a queue is opened, used, rotated, saved and closed; once, or again by the impatient.

The process ends with a KeyboardInterrupt, alone where only Kharon's nurseries are, and with a log that was closed in
good order: everything acknowledged is there, what ran was released, and none of its processes is left.
`KHARON_KILL_SCALE` multiplies the lives of each queue.
"""

import os
import random
import time

import pytest
from killing import Killer, check_found, check_reopened, is_over, processes_about

import kharon
from kharon.model.events import TicketLapsed, TicketReleased

LIVES = 8 * int(os.environ.get("KHARON_KILL_SCALE", "1"))


@pytest.mark.parametrize("helper", [False, True])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("fsync", ["always", "0.05"])
def test_ctrl_c_closes_the_queue_in_good_order(tmp_path, fsync, alone, helper, record_property):
    moments = random.Random(f"{fsync} {alone} {helper}")
    options = {"fsync": fsync, "alone": alone, "helper": helper, "segment_bytes": 32 << 10, "snapshot_bytes": 64 << 10}
    where = tmp_path / "queue"
    snapshots = helpers = 0
    with Killer(where, record_property) as killer:
        for life in range(LIVES):
            killer.start(part="interrupted", prefix=str(life), **options)
            killer.lines((1, 2 + moments.randrange(20), 1 + moments.randrange(600), 500)[life % 4])
            time.sleep(moments.random() / 100)
            for _ in range(500):  # if chance had it that none was taken so far, the last life waits for one
                if life < LIVES - 1 or snapshots or processes_about(str(where)):
                    break
                killer.lines(20)
            snapshots += bool(processes_about(str(where)))
            killer.interrupt()
            for _ in range(moments.randrange(3)):
                time.sleep(moments.random() / 200)
                killer.interrupt()
            assert killer.end("wait") == 0
            assert killer.last[-1] == ("ended-by", "KeyboardInterrupt")
            assert processes_about(str(where)) == []
            left = [int(pid) for verb, pid in killer.last if verb == "helper"]
            assert all(is_over(pid) for pid in left)
            helpers += len(left)
            check_in_good_order(where, killer)
        record_property("interrupts", LIVES)
        record_property("interrupts while a snapshot was taken", snapshots)
        record_property("facts acknowledged", len(killer.facts))
    check_reopened(where, tmp_path / "copy", killer.facts)
    events = [record.event for record in kharon.read(where)]
    assert any(isinstance(event, TicketReleased) for event in events)
    assert len(killer.facts) > 100
    assert snapshots > 0
    assert (helpers > 0) == helper
    assert len(list((where / "log").iterdir())) > 1


def check_in_good_order(where, killer: Killer) -> None:
    if not list((where / "log").glob("*.jsonl")):
        assert len(killer.facts) == 0
        return
    report = kharon.verify(where)
    assert report.closed or report.records == 0
    assert report.unfinished == 0
    assert list(kharon.replay(where).claimed()) == []
    assert not any(isinstance(record.event, TicketLapsed) for record in kharon.read(where))
    check_found(where, killer.facts)
