from __future__ import annotations

import hashlib
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from processes import PROJECT

import kharon


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "one").write_bytes(b"1")
    (tree / "a" / "two words").write_bytes(b"22")
    (tree / "a" / "b" / "empty").write_bytes(b"")
    return tree


def expected(tree):
    """The sums of all regular files, by another way than the example's: path in bytes -> hex digits."""
    sums = {}
    for path in tree.rglob("*"):
        relative = path.relative_to(tree)
        if path.is_file() and relative.parts[0] not in (".checksums", "SHA256SUMS"):
            sums[os.fsencode(relative)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return sums


def manifest(tree, name="SHA256SUMS"):
    """What the manifest says, which must be sorted and well formed."""
    sums = {}
    for line in (tree / name).read_bytes().split(b"\n")[:-1]:
        escaped, sha256, path = re.fullmatch(rb"(\\?)([0-9a-f]{64})  ([^\n\r]+)", line).groups()
        if escaped:
            path = re.sub(rb"\\(.)", lambda found: {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}[found[1]], path)
        assert path not in sums
        sums[path] = sha256.decode()
    assert list(sums) == sorted(sums)
    return sums


def run(start, *args, code=0):
    process = start("checksums.py", *args)
    assert process.ended() == code, (process.lines, process.errors)
    if code in (0, 1):
        assert process.errors == ""
    return process


def hashed(process):
    (line,) = [line for line in process.lines if "files hashed" in line]
    return int(line.split()[0])


def check_with_sha256sum(tree):
    program = shutil.which("sha256sum")
    if (
        program is None
        or b"coreutils" not in subprocess.run([program, "--version"], capture_output=True, check=False).stdout
    ):
        return
    subprocess.run([program, "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tree, check=True)


def test_the_first_run_hashes_all_and_the_second_nothing(start, tree):
    first = run(start, tree)
    assert first.lines[0] == f"{tree}: 3 files: 3 to hash, 0 hashed before, 0 vanished"
    assert hashed(first) == 3
    assert manifest(tree) == expected(tree)
    check_with_sha256sum(tree)
    before, records = (tree / "SHA256SUMS").stat(), events(tree)

    second = run(start, tree)
    assert second.lines[0] == f"{tree}: 3 files: 0 to hash, 3 hashed before, 0 vanished"
    assert hashed(second) == 0
    assert (tree / "SHA256SUMS").stat().st_ino == before.st_ino
    assert events(tree) == records


def events(tree):
    return [type(record.event).__name__ for record in kharon.read(tree / ".checksums")]


def test_changed_new_and_vanished_files(start, tree):
    run(start, tree)
    (tree / "one").write_bytes(b"one")
    (tree / "three").write_bytes(b"3")
    (tree / "a" / "two words").unlink()
    process = run(start, tree)
    assert process.lines[0] == f"{tree}: 3 files: 2 to hash, 1 hashed before, 1 vanished"
    assert hashed(process) == 2
    assert set(manifest(tree)) == {b"one", b"three", b"a/b/empty"}
    assert manifest(tree) == expected(tree)


def test_a_change_that_keeps_the_size_is_told_by_the_mtime(start, tree):
    run(start, tree)
    (tree / "one").write_bytes(b"7")
    os.utime(tree / "one", ns=(0, 12345))
    assert hashed(run(start, tree)) == 1
    assert manifest(tree) == expected(tree)


def test_a_change_that_keeps_size_and_mtime_is_told_by_the_inode(start, tree):
    run(start, tree)
    status = (tree / "one").stat()
    (tree / "other").write_bytes(b"7")
    os.utime(tree / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tree / "other").replace(tree / "one")
    assert hashed(run(start, tree)) == 1
    assert manifest(tree) == expected(tree)


def test_the_manifest_comes_back_from_the_queue(start, tree):
    run(start, tree)
    (tree / "SHA256SUMS").write_bytes(b"nonsense\n")
    process = run(start, tree)
    assert hashed(process) == 0
    assert process.lines[-1].endswith("3 sums, replaced")
    assert manifest(tree) == expected(tree)


def test_what_cannot_be_read_is_retried_and_fails_and_has_another_chance_in_the_next_run(start, tree):
    (tree / "dangling").symlink_to("nowhere")
    process = run(start, tree, code=1)
    attempts = [line for line in process.lines if line.startswith("cannot read dangling")]
    assert attempts == [f"cannot read dangling: No such file or directory (attempt {n} of 3)" for n in (1, 2, 3)]
    (failed,) = [line for line in process.lines if line.startswith("failed: ")]
    assert failed.startswith("failed: dangling: FileNotFoundError: [Errno 2] No such file or directory")
    assert failed.endswith("(no attempts left after 3)")
    assert manifest(tree) == expected(tree)
    assert events(tree).count("TicketRetried") == 2

    (tree / "nowhere").write_bytes(b"here now")
    assert hashed(run(start, tree)) == 2
    assert manifest(tree) == expected(tree)
    assert b"dangling" in manifest(tree)


def test_what_is_in_a_folder_that_cannot_be_listed_has_not_vanished(start, tree):
    top = tree / "z"
    _make_too_deep(top)  # fails for root too, whom no mode keeps out
    try:
        process = run(start, tree, code=1)
        (failed,) = [line for line in process.lines if line.startswith("failed: ")]
        assert "File name too long" in failed
        assert set(manifest(tree)) == {b"one", b"a/two words", b"a/b/empty"}
    finally:
        shutil.rmtree(top)


def _make_too_deep(top):
    """Make folders in folders until their path is longer than the system takes."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(4096 // 200 + 1):
        os.mkdir("d" * 200, dir_fd=fd)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


@pytest.mark.skipif(os.geteuid() == 0, reason="no mode keeps root out")
def test_a_folder_that_becomes_unreadable_keeps_its_sums(start, tree):
    run(start, tree)
    before = manifest(tree)
    (tree / "a").chmod(0)
    try:
        process = run(start, tree, code=1)
        assert any("failed: a: PermissionError" in line for line in process.lines)
        assert manifest(tree) == before
    finally:
        (tree / "a").chmod(0o700)


def test_odd_names(start, tree):
    names = [
        b"back\\slash",
        b"new\nline",
        b"carriage\rreturn",
        b"tab\there",
        b"undecodable \xff",
        b" leading",
        b"*star",
        b"-dash",
        b"percent %41",
        "ünïcödé".encode(),
        b"l" * 201,
        ("é" * 101).encode(),
    ]
    paths = [tree / os.fsdecode(name) for name in names]
    for path, name in zip(paths, names, strict=True):
        path.write_bytes(name)
    deep = tree.joinpath(*["d" * 90] * 3)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    (tree / "link").symlink_to("one")
    (tree / "link to folder").symlink_to("a")
    os.mkfifo(tree / "fifo")

    process = run(start, tree)
    assert hashed(process) == 3 + len(names) + 2
    sums = manifest(tree)
    assert sums == expected(tree)
    assert set(names) < set(sums)
    assert b"link" in sums
    check_with_sha256sum(tree)
    assert hashed(run(start, tree)) == 0

    for path in paths:
        path.unlink()
    process = run(start, tree)
    assert f"{len(names)} vanished" in process.lines[0]
    assert manifest(tree) == expected(tree)


def test_a_file_with_an_odd_name_that_cannot_be_read_is_shown_on_one_line(start, tree):
    (tree / "new\nline \udcff").symlink_to("nowhere")
    process = run(start, tree, code=1)
    assert any(line.startswith(r"failed: 'new\nline \udcff'") for line in process.lines)


def test_version_control_environments_caches_and_its_own_files_are_skipped(start, tree):
    for folder, mark in ((".git", "config"), ("env", "pyvenv.cfg"), ("cache", "CACHEDIR.TAG"), ("__pycache__", "x")):
        (tree / folder).mkdir()
        (tree / folder / mark).write_bytes(b"")
    process = run(start, tree, "--queue", tree / "q", "--manifest", tree / "M")
    assert hashed(process) == 3
    assert hashed(run(start, tree, "--queue", tree / "q", "--manifest", tree / "M")) == 0
    assert set(manifest(tree, "M")) == {b"one", b"a/two words", b"a/b/empty"}


def test_a_file_where_a_folder_was_and_the_other_way_round(start, tree):
    run(start, tree)
    shutil.rmtree(tree / "a")
    (tree / "a").write_bytes(b"a file")
    (tree / "one").unlink()
    (tree / "one").mkdir()
    (tree / "one" / "inside").write_bytes(b"in")
    run(start, tree)
    assert manifest(tree) == expected(tree)


def test_the_tree_is_the_project_by_default(start, tmp_path):
    project = tmp_path / "project"
    (project / "examples").mkdir(parents=True)
    shutil.copy(PROJECT / "examples" / "checksums.py", project / "examples")
    (project / "README.md").write_bytes(b"readme")
    script = [sys.executable, project / "examples" / "checksums.py"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run(script, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert manifest(project) == expected(project)
    assert set(manifest(project)) == {b"README.md", b"examples/checksums.py"}


# --- stopped and killed -----------------------------------------------------------------------------------------------


@pytest.fixture
def large_tree(tree):
    """Enough that a run can be stopped in the midst of it, and more than one chunk in one of the files."""
    chance = random.Random(5)
    for number in range(400):
        (tree / f"file {number}").write_bytes(chance.randbytes(chance.choice((0, 10, 100_000))))
    (tree / "large").write_bytes(chance.randbytes(1 << 20) * 70)
    return tree


@pytest.mark.parametrize("fsync", ["always", "0.01", "never"])
def test_killed_again_and_again_it_ends_with_the_truth(start, large_tree, fsync):
    chance = random.Random()
    killed = 0
    for number in range(8):
        (large_tree / "one").write_bytes(b"%d" % number)
        (large_tree / f"file {number}").unlink()
        for path in large_tree.iterdir():
            if path.is_file() and path.name != "SHA256SUMS":
                os.utime(path, ns=(0, number))  # changed, as far as anybody can tell: each run has as much to do
        process = start("checksums.py", large_tree, "--fsync", fsync)
        process.line_with("to hash")
        time.sleep(chance.uniform(0, 0.4))  # any moment will do: early, late, or while the manifest is replaced
        killed += process.kill() == -signal.SIGKILL
        if (large_tree / "SHA256SUMS").exists():
            manifest(large_tree)  # is whole
    run(start, large_tree, "--fsync", fsync)
    assert manifest(large_tree) == expected(large_tree)
    check_with_sha256sum(large_tree)
    assert killed
    kharon.verify(large_tree / ".checksums")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_cleanly_and_a_rerun_goes_on(start, large_tree, number, code):
    (large_tree / "dangling").symlink_to("nowhere")  # keeps the run from ending before the signal comes
    process = start("checksums.py", large_tree)
    process.line_with("cannot read")
    process.send(number)
    assert process.ended() == code
    assert process.lines[-1] == "stopped; run it again, and it goes on where it was"
    assert process.errors == ""
    assert events(large_tree)[-1] == "LogClosed"
    assert not (large_tree / "SHA256SUMS").exists()

    (large_tree / "dangling").unlink()
    process = run(start, large_tree)
    assert " 1 vanished" in process.lines[0]
    assert manifest(large_tree) == expected(large_tree)


def test_two_at_once(start, tree):
    (tree / "dangling").symlink_to("nowhere")
    first = start("checksums.py", tree)
    first.line_with("cannot read")
    second = run(start, tree, code=2)
    assert second.lines == []
    assert second.errors.startswith(f"checksums.py: {tree}/.checksums is open already, in process {first.pid} ")
    assert second.errors.count("\n") == 1
    assert first.ended() == 1


def test_watching_it_notices_changes_until_it_is_stopped(start, tree):
    process = start("checksums.py", tree, "--watch")
    process.line_with("3 sums, replaced")
    (tree / "new").write_bytes(b"new")
    process.line_with("1 to hash")
    process.line_with("4 sums, replaced")
    (tree / "new").unlink()
    process.line_with("1 vanished")
    process.line_with("3 sums, replaced")
    assert manifest(tree) == expected(tree)
    process.send(signal.SIGINT)
    assert process.ended() == 130


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "nowhere is not a directory"),
        (["tree/one"], "tree/one is not a directory"),
        (["tree", "--workers", "0"], "Settings.workers: 0 is not"),
        (["tree", "--workers", "many"], "invalid int value: 'many'"),
        (["tree", "--fsync", "0"], "Settings.fsync: 0.0 is none of"),
        (["tree", "--fsync", "sometimes"], "Settings.fsync: 'sometimes' is none of"),
        (["tree", "--queue", "tree/a"], "tree/a is not a queue, and is not empty"),
        (["tree", "--queue", "tree/one"], "tree/one is a file; a queue is a directory"),
        (["tree", "--manifest", "tree/a"], "tree/a cannot be the path of a file"),
        (["tree", "--manifest", "nowhere/file"], "nowhere/file cannot be the path of a file"),
    ],
)
def test_wrong_arguments_are_answered_in_one_line_and_nothing_is_done(start, tree, args, message):
    process = run(start, *args, code=2)
    assert process.lines == []
    assert message in process.errors.splitlines()[-1]
    assert "Traceback" not in process.errors
    assert {path.name for path in tree.iterdir()} == {"a", "one"}


# --- on a terminal ----------------------------------------------------------------------------------------------------


def test_on_a_terminal_progress_stays_in_one_place(tree):
    (tree / "dangling").symlink_to("nowhere")
    master, slave = pty.openpty()
    script = [sys.executable, PROJECT / "examples" / "checksums.py", tree]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(script, env=environment, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
    try:
        os.close(slave)
        output = b""
        while chunk := _read(master):
            output += chunk
        assert process.wait(timeout=120) == 1
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=120)
        os.close(master)
    erase = rb"\r\x1b\[K"
    assert re.search(erase + rb"3 of 4 files, 0\.0 MB" + erase, output)
    assert re.search(erase + rb"3 files hashed \(0\.0 MB\), 1 failed, in [0-9.]+ s\r\n", output)


def _read(fd):
    try:
        return os.read(fd, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""
