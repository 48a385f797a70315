"""Bugs in writing the log: syncs left out or done again, full disks, second writers, the files themselves."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    DIRECTORY,
    FILES,
    OWNERSHIP,
    REPLACE,
    SYNCER,
    TEST_DIRECTORY,
    TEST_FAILING_DISK,
    TEST_RECOVERY,
    TEST_ROTATION,
    TEST_ROTATION_ELSEWHERE,
    TEST_SYNCER,
)

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    # --- syncs --------------------------------------------------------------------------------------------------------
    Mutant(
        name="no-directory-sync-after-a-rename",
        thought="The bytes are on disk, and a rename is atomic, so the new file is there.",
        file=REPLACE,
        function="replace_file_steps",
        before="            yield from _synced(names, failed)\n",
        after="",
        tests=(TEST_ROTATION,),
    ),
    Mutant(
        name="no-file-sync-before-a-rename",
        thought="The directory is synced behind the rename, and that brings the file along.",
        file=REPLACE,
        function="replace_file_steps",
        before="            yield from _synced(FileSync(temporary, file), failed)\n",
        after="",
        tests=(TEST_ROTATION,),
    ),
    Mutant(
        name="no-sync-of-what-a-first-opening-makes",
        thought="Whoever makes a directory need not sync the one above it.",
        file=DIRECTORY,
        function="DirectoryLog._create",
        before="self._files.sync_directory(self._where.absolute().parent)",
        after="pass",
        tests=(f"{TEST_RECOVERY}::test_what_a_first_opening_makes_is_synced_with_its_directories",),
    ),
    Mutant(
        name="failed-sync-tried-again",
        thought="A sync that failed may work the second time, and then everything is on disk.",
        file=DIRECTORY,
        function="DirectoryLog._sync_or_close",
        before="""\
        try:
            with naming(path):
                sync()
        except OSError:
            self._close_tail()
            raise
""",
        after="""\
        try:
            with naming(path):
                sync()
        except OSError:
            try:
                sync()
            except OSError:
                self._close_tail()
                raise
""",
        tests=(TEST_DIRECTORY, TEST_SYNCER),
    ),
    Mutant(
        name="failed-sync-leaves-the-log-open",
        thought="The caller is told that the sync failed; the next one can go on.",
        file=DIRECTORY,
        function="DirectoryLog._sync_or_close",
        before="""\
        try:
            with naming(path):
                sync()
        except OSError:
            self._close_tail()
            raise
""",
        after="        with naming(path):\n            sync()\n",
        tests=(TEST_DIRECTORY,),
    ),
    Mutant(
        name="full-sync-made-up-for-by-a-weaker-one",
        thought="Where F_FULLFSYNC fails, fsync is better than nothing.",
        file=SYNCER,
        function="bring_to_disk",
        before="""\
            if error.errno not in UNSUPPORTED:  # some network and USB file systems lack this command
                raise
""",
        after="            del error\n",
        tests=(TEST_FAILING_DISK,),
    ),
    Mutant(
        name="durable-written-too-high",
        thought="What was written will be on disk by the time anybody reads this line.",
        file=DIRECTORY,
        function="DirectoryLog.append",
        before="self._chain.commit(events, at, by, self.durable)",
        after="self._chain.commit(events, at, by, self.written)",
        tests=(TEST_DIRECTORY, TEST_ROTATION),
    ),
    Mutant(
        name="twin-shares-the-logs-description",
        thought="A dup of the descriptor is the same file, and cheaper than opening it again.",
        file=FILES,
        function="_OsFile.twin",
        before='os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY) if _LINUX else os.dup(self._fd)',
        after="os.dup(self._fd)",
        tests=(TEST_SYNCER,),
    ),
    Mutant(
        name="first-sync-of-a-tail-left-to-the-helper",
        thought="The helper can do the first sync of a tail as well as all others.",
        file=DIRECTORY,
        function="DirectoryLog.begin_sync",
        before="if twin is None or tail is not self._offered:",
        after="if twin is None:",
        tests=(TEST_SYNCER,),
    ),
    # --- segments -----------------------------------------------------------------------------------------------------
    Mutant(
        name="tail-not-synced-before-its-successor",
        thought="The commit is synced by its caller right after this.",
        file=DIRECTORY,
        function="DirectoryLog._begin_segment",
        before="""\
        if self.durable != self.written:
            yield from self._synced(FileSync(self._tail_path, old))
            self.durable = self.written
""",
        after="",
        tests=(TEST_ROTATION,),
    ),
    Mutant(
        name="seal-not-synced",
        thought="A seal is no record, and nobody waits for it.",
        file=DIRECTORY,
        function="DirectoryLog._seal_tail",
        before="        yield from self._synced(FileSync(path, file))\n        file.close()\n",
        after="        yield from ()\n        file.close()\n",
        tests=(TEST_ROTATION,),
    ),
    Mutant(
        name="failed-sync-of-a-rotation-leaves-the-log-open",
        thought="A rotation that fails can be begun again when the next commit is written.",
        file=DIRECTORY,
        function="DirectoryLog._synced",
        before="""\
        try:
            with naming(step.path):
                yield step
        except OSError:
            self._close_tail()
            raise
""",
        after="        with naming(step.path):\n            yield step\n",
        tests=(TEST_FAILING_DISK,),
    ),
    Mutant(
        name="hash-from-before-a-rotation",
        thought="What was appended while a segment was begun has its hash already.",
        file=DIRECTORY,
        function="DirectoryLog._begin_segment",
        before="self._pending, hash = relink(ahead.hash, self._pending)",
        after="hash = self._chain.hash if self._pending else ahead.hash",
        tests=(TEST_ROTATION_ELSEWHERE,),
    ),
    # --- no room ------------------------------------------------------------------------------------------------------
    Mutant(
        name="bytes-without-room-left-in-the-file",
        thought="The write failed, so nothing was written.",
        file=DIRECTORY,
        function="DirectoryLog._write_with_room",
        before="                self._cut(path, file, size)\n",
        after="",
        tests=(TEST_DIRECTORY,),
    ),
    Mutant(
        name="taken-back-and-not-synced",
        thought="The file was cut, and the next sync will say so to the disk.",
        file=DIRECTORY,
        function="DirectoryLog._take_back",
        before="""\
        self._sync_or_close(self._tail_path, self._open_tail().sync)
        self.durable = self.written
""",
        after="",
        tests=(TEST_FAILING_DISK,),
    ),
    Mutant(
        name="no-room-refuses-settles-too",
        thought="A full disk is full, whatever is to be written.",
        file=DIRECTORY,
        function="DirectoryLog._write_pending",
        before="data, may_give=not self._grows)",
        after="data, may_give=False)",
        tests=(TEST_FAILING_DISK,),
    ),
    Mutant(
        name="adds-eat-the-reserve",
        thought="As long as the write itself finds room there is no need to look at the reserve.",
        file=DIRECTORY,
        function="DirectoryLog._write_pending",
        before="""\
            if self._grows and not self._reserve.fill():
                raise OSError(errno.ENOSPC, "the reserve for settling could not be made whole")
""",
        after="",
        tests=(TEST_FAILING_DISK,),
    ),
    Mutant(
        name="short-write-taken-for-all",
        thought="A call of os.write writes what it is given, or raises.",
        file=FILES,
        function="_OsFile.write",
        before="view = view[count:]",
        after="return",
        tests=(TEST_DIRECTORY,),
    ),
    # --- who writes ---------------------------------------------------------------------------------------------------
    Mutant(
        name="second-writer-not-noticed",
        thought="The lock keeps others out, so the file can only have the size that we left it with.",
        file=DIRECTORY,
        function="DirectoryLog._check_alone",
        before="if found is not None and found == (*self._mark, self._size):",
        after="if found is not None and found[:2] == self._mark:",
        tests=(TEST_FAILING_DISK,),
    ),
    Mutant(
        name="exchanged-tail-not-noticed",
        thought="A file with our name and our size is our file.",
        file=DIRECTORY,
        function="DirectoryLog._check_alone",
        before="if found is not None and found == (*self._mark, self._size):",
        after="if found is not None and found.size == self._size:",
        tests=(TEST_FAILING_DISK,),
    ),
    Mutant(
        name="fork-not-noticed",
        thought="A forked child has the files open and the lock held, so it may write.",
        file=DIRECTORY,
        function="DirectoryLog._check_alone",
        before="        if self._files.process() != self._process:\n            self.abandon()",
        after="        if self._files.process() != self._process and self._lock is None:\n            self.abandon()",
        tests=(TEST_FAILING_DISK,),
    ),
    Mutant(
        name="lock-shared",
        thought="A shared lock is a lock.",
        file=FILES,
        function="OsFiles.lock",
        before="fcntl.LOCK_EX | fcntl.LOCK_NB",
        after="fcntl.LOCK_SH | fcntl.LOCK_NB",
        tests=(TEST_DIRECTORY,),
    ),
    Mutant(
        name="lock-unlinked",
        thought="A lock file that is left behind is litter.",
        file=DIRECTORY,
        function="DirectoryLog.abandon",
        before="            self._lock.release()\n",
        after='            self._lock.release()\n            self._files.unlink(self._where / "LOCK")\n',
        tests=(TEST_DIRECTORY,),
    ),
    Mutant(
        name="readable-by-everybody",
        thought="The umask sees to the mode.",
        file=FILES,
        function="OsFiles.create",
        before="os.O_CREAT | os.O_EXCL, 0o600)",
        after="os.O_CREAT | os.O_EXCL, 0o666)",
        tests=(TEST_DIRECTORY,),
    ),
    Mutant(
        name="writable-by-the-group",
        thought="A group is trusted by whoever made it.",
        file=OWNERSHIP,
        before="(_OTHERS_WRITE if allow_group else _OTHERS_WRITE | _GROUP_WRITES)",
        after="_OTHERS_WRITE",
        tests=(TEST_FAILING_DISK,),
    ),
    # --- closing ------------------------------------------------------------------------------------------------------
    Mutant(
        name="closed-though-its-last-sync-failed",
        thought="The line that says closed is harmless, since closing raised.",
        file=DIRECTORY,
        function="DirectoryLog._say_closed",
        before="            self._open_tail().truncate(whole)  # it is not closed",
        after="            # it is not closed",
        tests=(TEST_DIRECTORY,),
    ),
)
