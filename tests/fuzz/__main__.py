"""`python -m tests.fuzz`: fuzz the readers of lines, directories and snapshots for a time, and say what came of it.

    --seconds N    for all targets together (60)
    --target T     only this one, which may be given more than once
    --seed N       nearly the same inputs in each run with this number, as far as the time goes; 0: others each time (0)
    --keep         afterwards keep what was found interesting in corpus/, minimised

Exit 1 if there is a finding: an input at which Kharon did, or raised, what it must not, or took 10 s or 512 MiB. It is
kept in findings/, and `python -m tests.fuzz --again <file>` shows it. Without atheris (`pip install 'kharon[fuzz]'`)
nothing is fuzzed, and that is said.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
FINDINGS = HERE / "findings"
TARGETS = ("line", "directory", "snapshot")
SHARES = {"line": 1, "directory": 4, "snapshot": 1}
"""Of the time: an input of the directory reader takes ten times as long, and has ten times as much behind it."""
TIMEOUT_SECONDS = 10
MEMORY_MIB = 512
MAX_INPUT_BYTES = 64 << 10
WHY_NOT = (
    "skipped: atheris is not installed; it has wheels for CPython 3.11 and later on Linux on x86_64 only. "
    "There: pip install 'kharon[fuzz]'"
)


class Result(NamedTuple):
    """What came of fuzzing one target."""

    runs: int
    coverage: int
    features: int
    inputs: int
    outcomes: dict[str, int]
    findings: list[Path]


def start(target: str, work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer of a target to its end; what came of its inputs is in `work` then."""
    program = work / "fuzz"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "fuzz_one.py"}" "$@"\n')
    program.chmod(0o700)
    outcomes = work / "outcomes.json"
    outcomes.write_text("{}")
    paths = [str(ROOT), str(HERE), str(HERE.parent / "log"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"FUZZ_TARGET": target, "FUZZ_PROGRAM": str(program), "FUZZ_OUTCOMES": str(outcomes)}
    command = [str(program), *arguments]
    return subprocess.run(
        command, env=environment, cwd=work, capture_output=True, text=True, errors="replace", check=False
    )


def fuzz(target: str, seconds: int, seed: int, work: Path) -> Result:
    """Fuzz one target; the corpus is read, and what is new goes to `work`."""
    new = work / target
    new.mkdir()
    FINDINGS.mkdir(exist_ok=True)
    before = set(FINDINGS.iterdir())
    ran = start(
        target,
        work,
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-timeout={TIMEOUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-artifact_prefix={FINDINGS}/{target}-",
        "-print_final_stats=1",
        str(new),
        str(CORPUS / target),
    )
    findings = sorted(set(FINDINGS.iterdir()) - before)
    if ran.returncode and not findings:  # it did not come so far
        raise SystemExit(f"{target}: the fuzzer ended with {ran.returncode}\n{ran.stderr[-4000:]}")
    for finding in findings:
        print(f"\n{target}: {finding}\n{excerpt(ran.stdout + ran.stderr)}", flush=True)
    status = re.findall(r"^#\d+\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)", ran.stderr, re.MULTILINE)
    coverage, features, inputs = map(int, status[-1]) if status else (0, 0, 0)
    runs = re.search(r"stat::number_of_executed_units: *(\d+)", ran.stderr)
    outcomes = json.loads((work / "outcomes.json").read_text())
    return Result(int(runs[1]) if runs else 0, coverage, features, inputs, outcomes, findings)


def excerpt(said: str) -> str:
    """What Python said of a finding, without libFuzzer's dump of the input."""
    found = re.search(r"=== Uncaught Python exception: ===\n(.*?)(?:\n\n|\n==\d|$)", said, re.DOTALL)
    return found[1] if found else said[-2000:]


def keep(target: str, work: Path) -> None:
    """Replace the corpus by the fewest and shortest inputs that reach all that it and the new ones reach."""
    merged = work / f"{target}-merged"
    merged.mkdir()
    ran = start(target, work, "-set_cover_merge=1", str(merged), str(CORPUS / target), str(work / target))
    if ran.returncode or not any(merged.iterdir()):
        raise SystemExit(f"{target}: merging ended with {ran.returncode}\n{ran.stderr[-4000:]}")
    shutil.rmtree(CORPUS / target)
    shutil.copytree(merged, CORPUS / target)


def again(path: Path) -> int:
    """Try one input, by the target that its name begins with, and show what comes of it."""
    sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent / "log")]
    from targets import TARGETS as CHECKS  # noqa: PLC0415 - only found on the path that this sets

    target = next((name for name in TARGETS if path.name.startswith(name) or path.parent.name == name), None)
    if target is None:
        raise SystemExit(f"{path}: whose input it is cannot be seen from its name, nor its folder's: {TARGETS}")
    print(CHECKS[target](path.read_bytes()))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--again", type=Path)
    options = parser.parse_args()
    if options.again is not None:
        return again(options.again)
    if importlib.util.find_spec("atheris") is None:
        print(WHY_NOT)
        return 0
    targets = options.target or TARGETS
    shares = sum(SHARES[target] for target in targets)
    runs, findings = 0, list[Path]()
    with tempfile.TemporaryDirectory() as name:
        for target in targets:
            seconds = max(1, options.seconds * SHARES[target] // shares)
            result = fuzz(target, seconds, options.seed, Path(name))
            if options.keep and not result.findings:
                keep(target, Path(name))
            kept = sum(1 for _ in (CORPUS / target).iterdir())
            print(
                f"{target}: {result.runs} inputs in {seconds} s, {result.coverage} edges and {result.features} "
                f"features covered by {result.inputs}, corpus of {kept} files, {len(result.findings)} findings; "
                f"what came of them: {result.outcomes}",
                flush=True,
            )
            runs += result.runs
            findings += result.findings
    print(f"fuzzed: {runs} inputs, {len(findings)} findings{''.join(f' {path}' for path in findings)}")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
