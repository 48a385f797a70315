"""The fuzzer of one target: `fuzz_one.py <target> [options of libFuzzer] [folders]`. `python -m tests.fuzz` starts it."""

from __future__ import annotations

import atexit
import collections
import sys

import atheris

with atheris.instrument_imports(include=["kharon"]):
    import targets
from mutators import mutate

_MAX_HAVOC_BYTES = 1 << 16


def main() -> None:
    target = sys.argv.pop(1)
    check = targets.TARGETS[target]
    outcomes: collections.Counter[str] = collections.Counter()

    def one_input(data: bytes) -> None:
        outcomes[check(data)] += 1

    def havoc(data: bytes) -> bytes:
        return atheris.Mutate(data, min(len(data) + 64, _MAX_HAVOC_BYTES)) if data else b"{}"

    def custom_mutator(data: bytes, max_size: int, seed: int) -> bytes:
        return mutate(target, data, seed, havoc)[:max_size]

    atexit.register(lambda: print("outcomes:", dict(outcomes.most_common()), file=sys.stderr, flush=True))
    atheris.Setup(sys.argv, one_input, custom_mutator=custom_mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
