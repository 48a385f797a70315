"""The fuzzer of one target: `fuzz_one.py [options of libFuzzer] [folders]`, which `python -m tests.fuzz` starts.

The environment says the rest, since libFuzzer starts its first argument anew when it merges: FUZZ_TARGET, the name of
the target; FUZZ_PROGRAM, an executable that starts this one; FUZZ_OUTCOMES, the file into which what came of the inputs
is written about once a second, because Python runs no more when libFuzzer ends.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kharon"]):
    import targets
from mutators import mutate

_MAX_HAVOC_BYTES = 1 << 16


def main() -> None:
    target, said = os.environ["FUZZ_TARGET"], Path(os.environ["FUZZ_OUTCOMES"])
    check = targets.TARGETS[target]
    logging.getLogger("kharon").disabled = True  # thousands of snapshots are passed over
    outcomes: collections.Counter[str] = collections.Counter()
    written = 0.0

    def one_input(data: bytes) -> None:
        nonlocal written
        outcomes[check(data)] += 1
        if time.monotonic() > written + 1:
            written = time.monotonic()
            said.write_text(json.dumps(outcomes))

    def havoc(data: bytes) -> bytes:
        return atheris.Mutate(data, min(len(data) + 64, _MAX_HAVOC_BYTES)) if data else b"{}"

    def custom_mutator(data: bytes, max_size: int, seed: int) -> bytes:
        return mutate(target, data, seed, havoc)[:max_size]

    atheris.Setup([os.environ["FUZZ_PROGRAM"], *sys.argv[1:]], one_input, custom_mutator=custom_mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
