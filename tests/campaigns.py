"""The long proofs, one after the other, each on all processors.

    python -m tests.campaigns          from the root of the project

Crash states, failing disks, flipped bits and deaths at named places are tests that pytest leaves out unless it is asked
for them (`-m campaign`). Planted bugs (`tests.mutants`) and fuzzing (`tests.fuzz`) are programs of their own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run all campaigns, whatever comes of one of them; return 1 if one has failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description="Run the long proofs.")
    parser.add_argument("--seconds", metavar="N", default="60", help="how long to fuzz")
    parser.add_argument("--seed", metavar="N", default="1", help="of the fuzzing; 0: another one each time")
    options = parser.parse_args()
    campaigns = {
        "crash states, failing disks, flipped bits, deaths": ["pytest", "-q", "-n", "auto", "-m", "campaign"],
        "planted bugs": ["tests.mutants"],
        "fuzzing": ["tests.fuzz", "--seconds", options.seconds, "--seed", options.seed],
    }
    failed = []
    for name, command in campaigns.items():
        print(f"\n--- {name}: python -m {' '.join(command)}", flush=True)
        begun = time.monotonic()
        if subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode:
            failed.append(name)
        print(f"--- {name}: {'FAILED' if name in failed else 'passed'} in {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
