"""Bugs in atomic blocks, and in what waits for groups."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    ATOMIC,
    TEST_ATOMIC_WRONG_USE,
    TEST_GROUP_WAITS,
    WAITS,
)

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    Mutant(
        name="group-empty-in-the-midst-of-a-commit",
        thought="When the last member ends, the group is empty.",
        file=WAITS,
        function="GroupWaits.deliver",
        before="        if not self.by_name:\n            return\n        differences",
        after="        if len(commit) > 1:\n            for change in commit:\n                self.deliver([change])\n"
        "            return\n        differences",
        tests=(TEST_GROUP_WAITS,),
    ),
    Mutant(
        name="group-empty-between-two-events",
        thought="The end of one ticket is one event, and what is emptied then stays so.",
        file=WAITS,
        function="GroupWaits.deliver",
        before="        if not self.by_name:\n            return\n        differences",
        after="        if len(commit) == 2:\n            for change in commit:\n"
        "                self.deliver([change])\n"
        "            return\n        differences",
        tests=(TEST_GROUP_WAITS,),
    ),
    Mutant(
        name="block-carried-out-twice",
        thought="Entering is a checkpoint, and nothing else.",
        file=ATOMIC,
        function="Atomic.__aenter__",
        before="if self._begun:",
        after="if self._ended:",
        tests=(TEST_ATOMIC_WRONG_USE,),
    ),
    Mutant(
        name="block-never-begun",
        thought="Commands gather until the block ends.",
        file=ATOMIC,
        function="Atomic._check",
        before="if not self._begun:",
        after="if False:",
        tests=(TEST_ATOMIC_WRONG_USE,),
    ),
)
