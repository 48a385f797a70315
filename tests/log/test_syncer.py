"""The helper program: what it answers, what it does not hear, and that it never outlives its parent."""

import ast
import fcntl
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kharon.log import directory, files, syncer
from kharon.log.directory import DirectoryLog
from kharon.model.events import Raw, TicketAdded
from kharon.testing import EPOCH

needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the end of a process that is not a child")


def answers(sock, count=1):
    """The next answers, as (errno, seconds)."""
    found = []
    for _ in range(count):
        data = sock.recv(syncer.ANSWER_BYTES, socket.MSG_WAITALL)
        assert len(data) == syncer.ANSWER_BYTES
        found.append((int.from_bytes(data[:2], "big"), int.from_bytes(data[2:], "big") / 1e6))
    return found


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        yield ours, theirs


@pytest.fixture
def helper(pair):
    """A socket to a helper that has said hello, and its process."""
    ours, theirs = pair
    command = [sys.executable, "-I", "-S", syncer.__file__]
    with subprocess.Popen(command, stdin=theirs, start_new_session=True) as process:
        theirs.close()
        try:
            assert answers(ours) == [(0, 0)]
            yield ours, process
        finally:
            ours.close()
            assert process.wait(30) == 0


# --- the program, in here ---------------------------------------------------------------------------------------------


def serve_all(pair, *fds, **options):
    """Send requests for these descriptors, serve them, and return the answers, without the hello."""
    ours, theirs = pair
    for fd in fds:
        socket.send_fds(ours, [syncer.DIRECTORY if stat.S_ISDIR(os.fstat(fd).st_mode) else syncer.FILE], [fd])
    ours.shutdown(socket.SHUT_WR)
    syncer.serve(theirs, **options)
    theirs.close()
    hello, *rest = answers(ours, 1 + len(fds))
    assert hello == (0, 0)
    assert ours.recv(1) == b""
    return rest


def test_it_syncs_what_it_is_given_and_closes_it(pair, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(syncer, "bring_to_disk", lambda fd, *, directory: synced.append((fd, os.fstat(fd).st_ino)))
    with (tmp_path / "a").open("wb") as a, (tmp_path / "b").open("wb") as b:
        inodes = [os.fstat(file.fileno()).st_ino for file in (a, b, a)]
        found = serve_all(pair, a.fileno(), b.fileno(), a.fileno())
        assert [errno for errno, _ in found] == [0, 0, 0]
        assert [inode for _, inode in synced] == inodes
        for fd, _ in synced:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)


@pytest.mark.parametrize(("error", "errno"), [(OSError(5, "Input/output error"), 5), (OSError(), 0xFFFF)])
def test_a_failure_is_answered_with_its_errno_and_never_with_success(pair, tmp_path, monkeypatch, error, errno):
    def fail(_fd, *, directory):
        raise error

    monkeypatch.setattr(syncer, "bring_to_disk", fail)
    with (tmp_path / "a").open("wb") as a:
        ((answered, _),) = serve_all(pair, a.fileno())
    assert answered == errno


def test_it_syncs_a_directory_as_one(pair, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(syncer, "bring_to_disk", lambda _fd, *, directory: asked.append(directory))
    directory = os.open(tmp_path, os.O_RDONLY)
    with (tmp_path / "a").open("wb") as a:
        serve_all(pair, directory, a.fileno())
    os.close(directory)
    assert asked == [True, False]


def test_it_tells_how_long_it_took_and_can_be_made_slow(pair, tmp_path):
    with (tmp_path / "a").open("wb") as a:
        ((errno, seconds),) = serve_all(pair, a.fileno(), slower_by=0.02)
    assert errno == 0
    assert seconds >= 0.02


def test_a_request_whose_descriptor_was_lost_is_not_answered(pair):
    ours, theirs = pair
    ours.sendall(b"s")
    syncer.serve(theirs)
    theirs.close()
    assert answers(ours) == [(0, 0)]
    assert ours.recv(1) == b""


def test_it_ends_when_nobody_is_left_to_be_answered(pair):
    ours, theirs = pair
    ours.close()
    syncer.serve(theirs)


def test_as_a_program_it_serves_its_standard_input(pair, tmp_path, monkeypatch):
    ours, theirs = pair
    signals = {}
    monkeypatch.setattr(signal, "signal", signals.__setitem__)
    socket_class = socket.socket
    monkeypatch.setattr(syncer.socket, "socket", lambda fileno: socket_class(fileno=[theirs.detach()][fileno]))
    with (tmp_path / "a").open("wb") as a:
        socket.send_fds(ours, [b"s"], [a.fileno()])
        ours.shutdown(socket.SHUT_WR)
        syncer.main(["0.01"])
    assert answers(ours, 2)[1][1] >= 0.01
    assert signals == dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)


def test_it_imports_nothing_heavy():
    imported = [node for node in ast.walk(ast.parse(Path(syncer.__file__).read_text())) if isinstance(node, ast.Import)]
    names = {alias.name for node in imported for alias in node.names}
    assert names == {"errno", "fcntl", "os", "signal", "socket", "sys", "time"}
    assert "ImportFrom" not in ast.dump(ast.parse(Path(syncer.__file__).read_text()))


def test_the_primitive_is_the_strongest_that_there_is(tmp_path, monkeypatch):
    called = []
    with (tmp_path / "a").open("wb") as a:
        monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
        monkeypatch.setattr(os, "fdatasync", lambda fd: called.append("fdatasync"), raising=False)
        syncer.bring_to_disk(a.fileno())
        monkeypatch.setattr(os, "fsync", lambda fd: called.append("fsync"))
        monkeypatch.delattr(os, "fdatasync")
        syncer.bring_to_disk(a.fileno())
        monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", lambda fd, what: called.append(what))
        syncer.bring_to_disk(a.fileno())
    assert called == ["fdatasync", "fsync", 51]


# --- the process ------------------------------------------------------------------------------------------------------


def test_a_process_answers_until_its_socket_closes(helper, tmp_path):
    ours, process = helper
    with (tmp_path / "a").open("wb") as a:
        a.write(b"x")
        for _ in range(3):
            socket.send_fds(ours, [b"s"], [a.fileno()])
            assert answers(ours)[0][0] == 0
    reading, writing = os.pipe()
    socket.send_fds(ours, [b"s"], [writing])
    os.close(reading)
    os.close(writing)
    assert answers(ours)[0][0] == 22
    assert process.poll() is None


def test_it_does_not_hear_what_is_meant_for_its_parent(helper, tmp_path):
    ours, process = helper
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    with (tmp_path / "a").open("wb") as a:
        socket.send_fds(ours, [b"s"], [a.fileno()])
        assert answers(ours)[0][0] == 0
    assert process.poll() is None


PARENT = """
import os, sys, trio, kharon
from kharon.store.sync_helper import Helper

class Slow:
    slow = True
    def add(self, seconds): pass

async def main():
    queue = kharon.open(sys.argv[1])
    store = queue._queue.store
    async with queue as kh:
        store._commits._pace = Slow()
        helper = store._commits._helper = Helper(sys.argv[2:])
        helper.start()
        while not helper.ready:
            await trio.sleep(0.005)
        await kh.add(kharon.Ticket("first", "t"))
        print(helper.pid, flush=True)
        await kh.add(kharon.Ticket("in flight", "t"))
        print("acknowledged", flush=True)
        await trio.sleep_forever()

try:
    trio.run(main)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def start_parent(where, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(directory.__file__).parents[2])}
    command = [sys.executable, "-c", PARENT, str(where), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def has_ended(pidfd):
    return bool(select.select([pidfd], [], [], 30)[0])


@needs_pidfd
def test_it_ends_with_a_parent_that_is_killed(tmp_path):
    with start_parent(tmp_path / "queue") as parent:
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        assert parent.stdout.readline() == "acknowledged\n"
        parent.kill()
    assert has_ended(pidfd)
    os.close(pidfd)


@needs_pidfd
def test_it_ends_with_a_parent_that_is_killed_while_it_syncs(tmp_path):
    """As soon as that sync has ended. What was in flight was not acknowledged, and the queue is not locked by it."""
    with start_parent(tmp_path / "queue", "0.5") as parent:
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        assert parent.stdout.read() == ""
    log = DirectoryLog(tmp_path / "queue")
    assert len(list(log.open(EPOCH))) in (1, 2)  # while the helper may still live
    log.abandon()
    assert has_ended(pidfd)
    os.close(pidfd)


@needs_pidfd
def test_ctrl_c_reaches_the_parent_only_and_both_end_well(tmp_path):
    with start_parent(tmp_path / "queue") as parent:
        pid = int(parent.stdout.readline())
        pidfd = os.pidfd_open(pid)
        assert parent.stdout.readline() == "acknowledged\n"
        assert os.getpgid(pid) != os.getpgid(parent.pid)
        os.killpg(os.getpgid(parent.pid), signal.SIGINT)  # as the terminal does
        assert parent.stdout.read() == "interrupted\n"
    assert parent.returncode == 0
    assert has_ended(pidfd)
    os.close(pidfd)


# --- what a log offers ------------------------------------------------------------------------------------------------


def opened(where, **options):
    log = DirectoryLog(where, **options)
    assert list(log.open(EPOCH)) == []
    return log


def write(log, count=1):
    for _ in range(count):
        log.append([TicketAdded("a", "t", Raw(b"null"), "default", 512, EPOCH)], EPOCH, "app")
        log.write()


def test_the_first_sync_of_a_tail_is_its_own_and_then_it_is_offered(tmp_path):
    log = opened(tmp_path)
    write(log)
    assert log.begin_sync() is None
    assert log.durable == 1
    assert log.begin_sync() is None  # there is nothing to sync
    write(log)
    fd = log.begin_sync()
    write(log)
    log.end_sync(2, None)
    assert (log.written, log.durable) == (3, 2)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    assert os.path.samestat(os.fstat(fd), log._tail_path.stat())
    assert log.begin_sync() == fd
    log.end_sync(3, None)
    log.close(EPOCH)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the descriptor shares the log's description")
def test_what_is_offered_is_another_description_than_the_logs(tmp_path):
    """So that each hears of a failed write-back: one that shared the log's would use the report up for both."""
    log = opened(tmp_path)
    write(log)
    log.begin_sync()
    write(log)
    fd = log.begin_sync()
    os.lseek(fd, 7, os.SEEK_SET)
    assert os.lseek(log._tail._fd, 0, os.SEEK_CUR) != 7
    log.abandon()


def test_a_new_segment_while_a_sync_is_under_way(tmp_path):
    log = opened(tmp_path, segment_bytes=4096)
    write(log)
    log.begin_sync()
    write(log)
    old = log.begin_sync()
    inode = os.fstat(old).st_ino
    begun = log.written
    while len(log._places) == 1:
        write(log)
    assert log.durable == log.written > begun
    log.end_sync(begun, None)
    assert log.durable == log.written  # not back to what the old sync was about
    assert log.begin_sync() is None
    write(log)
    new = log.begin_sync()
    assert os.fstat(new).st_ino == log._tail_path.stat().st_ino != inode
    log.end_sync(log.written, None)
    log.close(EPOCH)


def test_after_a_failed_sync_the_log_is_closed_for_good(tmp_path):
    log = opened(tmp_path)
    write(log)
    log.begin_sync()
    write(log)
    log.begin_sync()
    error = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output error") as raised:
        log.end_sync(2, error)
    assert raised.value is error
    assert log.durable == 1
    for call in (log.sync, log.begin_sync, lambda: write(log)):
        with pytest.raises(OSError, match="not open"):
            call()
    log.abandon()


def test_without_a_twin_it_syncs_by_itself(tmp_path, monkeypatch):
    def no_proc(*_args):
        raise FileNotFoundError(2, "no /proc")

    log = opened(tmp_path)
    monkeypatch.setattr(files, "_LINUX", True)
    write(log)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_proc)
        assert log.begin_sync() is None
        write(log)
        assert log.begin_sync() is None
        assert log.durable == log.written == 2
    log.abandon()


def test_on_other_systems_it_offers_a_copy_of_its_own_descriptor(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LINUX", False)
    log = opened(tmp_path)
    write(log)
    assert log.begin_sync() is None
    write(log)
    fd = log.begin_sync()
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    assert os.path.samestat(os.fstat(fd), log._tail_path.stat())
    log.end_sync(2, None)
    log.abandon()
