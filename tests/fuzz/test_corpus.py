"""Every input that fuzzing found worth keeping, through the same checks, without a fuzzer; and that those can fail."""

from __future__ import annotations

import collections
import importlib.util
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import targets
from mutators import mend, mend_directory, mutate
from seeds import SEEDS
from targets import TARGETS, Finding, files_of, written

import kharon.log.record
import kharon.log.snapshot
from kharon.log.record import BadLine, Chain
from kharon.model.checks import MAX_LINE_BYTES

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
GENESIS = b"0" * 64


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus(target, record_property):
    outcomes = collections.Counter(TARGETS[target](path.read_bytes()) for path in sorted((CORPUS / target).iterdir()))
    record_property(f"kept inputs of the {target} reader", sum(outcomes.values()))
    assert sum(outcomes.values()) >= 20
    assert len(outcomes) >= 3, f"they should not all end the same: {outcomes}"


def test_the_corpus_is_small():
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert len(files) <= 300
    assert sum(path.stat().st_size for path in files) < 1 << 20


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_are_accepted(target):
    """Fuzzing begins with what the real writer wrote."""
    for seed in SEEDS[target]():
        assert TARGETS[target](seed) in {"record", "header", "seal", "opened", "2 tickets", "3 tickets"}


@pytest.fixture
def compared(monkeypatch):
    """How often each of the checks that may pass over an input did, and did not."""
    counts: collections.Counter[tuple[str, bool]] = collections.Counter()

    def count(name):
        real = getattr(targets, name)

        def counting(*args, **more):
            counts[name, real(*args, **more)] += 1

        monkeypatch.setattr(targets, name, counting)

    count("_check_with_the_page")
    count("_repaired")
    return counts


@pytest.mark.parametrize("target", TARGETS)
def test_changed_inputs_get_behind_the_checksums(target, compared, record_property):
    """Some hundred changes, always the same: what fuzzing does, without its search for new ways."""
    seeds = list(SEEDS[target]())
    outcomes: collections.Counter[str] = collections.Counter()
    for number in range(300):
        data = mutate(target, seeds[number % len(seeds)], number, lambda data: data[:-1])
        outcomes[TARGETS[target](mutate(target, data, -number, lambda data: data + b"}"))] += 1
    record_property(f"changed inputs of the {target} reader", 300)
    behind = {
        "line": ("record", "neither record, header nor seal", "unknown"),
        "directory": ("opened", "opened, and not whole", "refused: CorruptLog"),
        "snapshot": ("refused", "2 tickets", "unknown"),
    }[target]
    assert min(outcomes[outcome] for outcome in behind) > 0, outcomes
    if target == "directory":
        assert compared["_check_with_the_page", True] > 10 * compared["_check_with_the_page", False], compared
        assert compared["_repaired", True] > 2 * compared["_repaired", False], compared


@pytest.mark.parametrize("target", TARGETS)
def test_mending_changes_nothing_that_is_whole(target):
    for seed in SEEDS[target]():
        if not seed.endswith(b"\n") or seed.startswith(b'"sealed":', 92):
            continue  # this one is torn on purpose; or alone, and follows a line that is not there
        assert (written(mend_directory(files_of(seed))) if target == "directory" else mend(seed)) == seed


@pytest.mark.parametrize("target", TARGETS)
def test_a_field_that_is_not_known_may_have_a_number_of_any_length(target):
    """JSON sets no limit, and a later version may add a field: neither Kharon nor the page on the format stumbles."""
    for seed in SEEDS[target]():
        longer = re.sub(rb'(?m)^(\{"hash":.*)\}$', rb'\1,"later":' + b"9" * 5000 + b"}", seed)
        assert longer != seed
        longer = written(mend_directory(files_of(longer))) if target == "directory" else mend(longer)
        assert TARGETS[target](longer) == TARGETS[target](seed)


# --- the checks can fail ----------------------------------------------------------------------------------------------


def test_a_reader_that_checks_no_crc_is_found(monkeypatch):
    def lenient(line, previous, most=MAX_LINE_BYTES, real=targets.check_line):
        try:
            return real(line, previous, most)
        except BadLine:
            return line[9:73].decode("ascii", "replace")

    monkeypatch.setattr(targets, "check_line", lenient)
    with pytest.raises(Finding, match="no line was taken for one"):
        TARGETS["line"](next(iter(SEEDS["line"]())).replace(b"kharon", b"Kharon"))


def test_a_reader_that_checks_no_values_is_found(monkeypatch):
    monkeypatch.setattr(kharon.log.record, "_check_values", lambda event: None)
    added = next(seed for seed in SEEDS["line"]() if b"TicketAdded" in seed)
    with pytest.raises(Exception, match="out of range"):
        TARGETS["line"](mend(added.replace(b"1.5", b"1e999")))


def test_a_snapshot_that_no_log_folds_to_is_found(monkeypatch):
    monkeypatch.setattr(kharon.log.snapshot, "_check_fields", lambda fields, seq: None)
    seed = next(iter(SEEDS["snapshot"]()))
    with pytest.raises(AssertionError, match="version 9"):
        TARGETS["snapshot"](mend(seed.replace(b'"version":1,"order"', b'"version":9,"order"')))


def test_opening_what_verifying_refuses_is_found(monkeypatch):
    """A log whose opening passes over damage that verifying sees, without a snapshot for a reason."""
    *_, seed = SEEDS["directory"]()
    files = files_of(seed)
    (first, *_) = sorted(path for path in files if path.startswith("log/"))
    files[first] = files[first].replace(b'"by":"ann"', b'"by":"bob"', 1)
    assert TARGETS["directory"](written(files)) == "refused: CorruptLog"
    monkeypatch.setattr(targets, "_verified", lambda files: (None, [], False))
    with pytest.raises(Finding):
        TARGETS["directory"](written(files))


def test_what_the_page_on_the_format_says_is_heard(monkeypatch):
    seed = next(seed for seed in SEEDS["directory"]() if seed.endswith(b"\n"))
    monkeypatch.setattr(targets, "PAGE", compile("raise SystemExit('damaged')", "page", "exec"))
    with pytest.raises(Finding, match="the page says: damaged"):
        TARGETS["directory"](seed)
    monkeypatch.setattr(targets, "PAGE", compile("print('is whole: 0 records, last hash 0')", "page", "exec"))
    with pytest.raises(Finding, match="the page says: is whole: 0 records"):
        TARGETS["directory"](seed)


# --- memory -----------------------------------------------------------------------------------------------------------


def large(name: str) -> bytes:
    """More than a line may have, in several manners, where a reader might gather it."""
    much = 6 * MAX_LINE_BYTES
    return {
        "no newline": b"x" * much,
        "brackets": mend(b"x" * 92 + b"[" * (MAX_LINE_BYTES - 100) + b"}\n"),
        "objects": mend(b"x" * 92 + b'"a":' + b"[{}," * (MAX_LINE_BYTES // 4 - 50) + b"{}]}\n"),
        "beginnings": b'{"hash":"' * (much // 9),
        "newlines": b"\n" * (1 << 16),
        "nulls": bytes(much),
    }[name]


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["no newline", "brackets", "objects", "beginnings", "newlines", "nulls"])
@pytest.mark.parametrize("target", TARGETS)
def test_memory_is_bounded_by_the_length_of_a_line(target, name, record_property):
    data = large(name)
    if target == "directory":
        chain = Chain()
        head = chain.header("e" * 32, targets.NOW)
        data = written({f"log/{1:020}.jsonl": head + data})
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        TARGETS[target](data)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    # The disk in memory holds the file, what is moved to quarantine, and the harness copies of both.
    allowed = (12 if target == "directory" else 0) * len(data) + 8 * MAX_LINE_BYTES
    record_property(f"peak of the {target} reader on {name}, KiB", peak >> 10)
    assert peak < allowed


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(
        command, cwd=HERE.parents[1], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False
    )


def test_without_atheris_it_says_why_nothing_is_fuzzed(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['atheris'] = None\n")
    ran = run("--seconds", "1", path=str(tmp_path))
    assert ran.returncode == 0
    assert ran.stdout.startswith("skipped: atheris is not installed; it has wheels for CPython 3.11")


def test_a_fuzzer_that_tries_nothing_is_no_success(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("fuzz_program", HERE / "__main__.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.setattr(program, "FINDINGS", tmp_path / "findings")
    monkeypatch.setattr(program, "start", lambda *_arguments: subprocess.CompletedProcess([], 0, "", "it ends"))
    with pytest.raises(SystemExit, match=r"line: the fuzzer does not say that it tried anything\nit ends"):
        program.fuzz("line", 1, 1, tmp_path)


def test_an_input_can_be_tried_again():
    path = min((CORPUS / "line").iterdir())
    ran = run("--again", str(path))
    assert (ran.returncode, ran.stdout.strip()) == (0, TARGETS["line"](path.read_bytes()))
