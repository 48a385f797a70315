"""Bugs in what is read instead of the history, or kept of it: snapshots; compressed, archived and trimmed segments."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant

__all__ = ["MUTANTS"]

_SNAPSHOT: Final = "kharon/log/snapshot.py"
_TESTS: Final = ("tests/log/test_snapshot.py",)

MUTANTS: Final = (
    # --- snapshots ----------------------------------------------------------------------------------------------------
    Mutant(
        name="snapshot-beyond-what-is-durable",
        thought="A snapshot should be as new as can be, so the tail is folded into it too.",
        file=_SNAPSHOT,
        before="finished = [path for path in there[:-1] if first_of(path) > chain.seq]",
        after="finished = [path for path in there if first_of(path) > chain.seq]",
        tests=_TESTS,
    ),
    Mutant(
        name="snapshot-not-read-back",
        thought="What was written and synced is what was meant.",
        file=_SNAPSHOT,
        before="""\
    with files.read(temporary) as written:
        if read_snapshot(written, str(temporary)) != snapshot:
            raise CorruptLog(str(temporary), 0, 0, "what was read back is not what was written")
""",
        after="",
        tests=_TESTS,
    ),
    Mutant(
        name="snapshot-not-synced",
        thought="It was read back, so it is there.",
        file=_SNAPSHOT,
        before="            file.sync()\n",
        after="",
        tests=("tests/log/test_what_survives.py",),
    ),
    Mutant(
        name="snapshots-name-not-synced",
        thought="A snapshot can be taken again, so its name need not be on disk before an older one is dropped.",
        file=_SNAPSHOT,
        before="    files.rename(temporary, path)\n    files.sync_directory(path.parent)\n",
        after="    files.rename(temporary, path)\n",
        tests=("tests/log/test_what_survives.py",),
    ),
    Mutant(
        name="one-snapshot-kept",
        thought="The newest snapshot was verified, so the one before it is not needed.",
        file=_SNAPSHOT,
        before="KEPT: Final = 2\n",
        after="KEPT: Final = 1\n",
        tests=_TESTS,
    ),
    Mutant(
        name="snapshot-not-fitted-to-the-log",
        thought="A snapshot that verifies is right.",
        file=_SNAPSHOT,
        before="            _check_fits(files, snapshot, path, segments)\n",
        after="",
        tests=_TESTS,
    ),
    Mutant(
        name="bad-snapshot-stops-the-opening",
        thought="A snapshot that is damaged is damage, like any other.",
        file=_SNAPSHOT,
        before="        except (CorruptLog, UnknownFormat) as error:\n",
        after="        except UnknownFormat as error:\n",
        tests=_TESTS,
    ),
    Mutant(
        name="successor-lost-in-a-snapshot",
        thought="A successor comes back when the log is replayed.",
        file=_SNAPSHOT,
        before="successor=None if ticket.successor is None else _fields(ticket.successor),",
        after="successor=None,",
        tests=_TESTS,
    ),
    Mutant(
        name="empty-start-when-the-log-is-gone",
        thought="A directory without a segment is a new queue.",
        file="kharon/log/directory.py",
        before="            if there is not None:\n",
        after="            if there is not None and self._list():\n",
        tests=_TESTS,
    ),
    # --- retention ----------------------------------------------------------------------------------------------------
)
