"""The program: plant each bug, run its tests, say which test caught it, and how many were caught of how many.

Exit codes: 0: all were caught. 1: not all. 2: that could not be found out, since a mutant does not apply any more, or
tests fail without any bug, or cannot be run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from .catalogue import MUTANTS
from .mutant import Mutant, Stale, mutated
from .running import PLUGINS, Copies, Result

LIMIT_SECONDS: Final = 120.0  # for the tests of one mutant, which take a few: on a busy machine, too
_ROOT: Final = Path(__file__).resolve().parents[2]


def main(
    arguments: Sequence[str] | None = None,
    mutants: Sequence[Mutant] = MUTANTS,
    root: Path = _ROOT,
    limit_seconds: float = LIMIT_SECONDS,
    plugins: Sequence[str] = PLUGINS,
) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description="Plant bugs; see the tests catch them."
    )
    parser.add_argument("--list", action="store_true", help="only list the planted bugs")
    parser.add_argument("-k", metavar="NAME", default="", help="only those with NAME in their name")
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count() or 1, help="how many at once")
    options = parser.parse_args(arguments)
    chosen = [mutant for mutant in mutants if options.k in mutant.name]
    if not chosen:
        print(f"no planted bug has {options.k!r} in its name; --list shows them")
        return 2
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name}\n    {mutant.file}: {mutant.thought}")
        print(f"{len(chosen)} planted bugs")
        return 0
    if not _all_apply(chosen, root):
        return 2
    with tempfile.TemporaryDirectory(prefix="kharon-mutants-", ignore_cleanup_errors=True) as work:
        return _run(chosen, Copies(root, Path(work), limit_seconds, plugins), max(1, options.jobs))


def _all_apply(mutants: Sequence[Mutant], root: Path) -> bool:
    """Say which mutants do not fit the code, before any time is spent on the others."""
    stale = []
    for mutant in mutants:
        try:
            mutated(mutant, root)
        except Stale as error:
            stale.append(str(error))
    for why in stale:
        print(f"ERROR     {why}")
    return not stale


def _run(mutants: Sequence[Mutant], copies: Copies, jobs: int) -> int:
    begun, used = time.monotonic(), _processor_seconds()
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    print("the tests without any bug …", flush=True)
    clean = copies.unchanged(tests)
    if clean.verdict != "SURVIVED":
        print(f"{clean.output}\nERROR     these tests must be green before any bug is planted")
        return 2
    print(f"green     in {clean.seconds:.1f} s", flush=True)
    caught, wrong = 0, False
    with ThreadPoolExecutor(jobs) as pool:
        for mutant, result in zip(mutants, pool.map(copies.with_bug, mutants), strict=True):
            caught += result.verdict == "caught"
            wrong = wrong or result.verdict == "ERROR"
            print(_line(mutant, result), flush=True)
    took = f"{time.monotonic() - begun:.0f} s and {_processor_seconds() - used:.0f} s of processor time"
    print(f"{caught} of {len(mutants)} planted bugs were caught, in {took}")
    if wrong:
        return 2
    return 0 if caught == len(mutants) else 1


def _processor_seconds() -> float:
    """What this process and those that it has waited for have used, which a busy machine adds little to."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _line(mutant: Mutant, result: Result) -> str:
    where = result.test or ("it never ends" if result.verdict == "HANGS" else "")
    line = f"{result.verdict:<9} {result.seconds:5.1f} s  {mutant.name}  {where}".rstrip()
    if result.verdict == "caught":
        return line
    if result.verdict == "ERROR":
        return f"{line}\n{result.output}"
    return f"{line}\n          {mutant.file}: {mutant.thought}\n          {' '.join(mutant.tests)}"


if __name__ == "__main__":
    sys.exit(main())
