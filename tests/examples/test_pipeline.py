from __future__ import annotations

import contextlib
import os
import random
import re
import signal
from collections import Counter
from pathlib import Path

import pytest
from processes import PROJECT

import kharon

PIECE = 1000  # bytes


@pytest.fixture
def texts(tmp_path):
    """Texts in folders: short and empty ones, one of many pieces, one with a single long line, one that is no UTF-8."""
    chance = random.Random(7)
    words = ["der", "Die", "das", "straße", "ΣΊΣΥΦΟΣ", "naïve", "x1", "2", "foo_bar", "don't", "end.", "—"]

    def text(count, ends="\n  "):
        return "".join(chance.choice(words) + chance.choice(ends) for _ in range(count))

    texts = tmp_path / "texts"
    (texts / "a" / "b").mkdir(parents=True)
    (texts / ".hidden").mkdir()
    (texts / ".hidden" / "no").write_text("never")
    (texts / ".no").write_text("never")
    (texts / "empty").write_bytes(b"")
    (texts / "long").write_text(text(9000), encoding="utf-8")
    (texts / "a" / "one line").write_text(text(2000, ends=" "), encoding="utf-8")
    (texts / "a" / "b" / "no utf-8 \udcff").write_bytes(b"caf\xe9 \xff\xfe\nb\0c\r\n" * 200)
    for number in range(120):
        (texts / "a" / f"{number}").write_text(text(chance.randrange(5)), encoding="utf-8")
    return texts


def expected(*paths):
    """What the output has to be, by another way than the example's: whole files, and no pieces."""
    words = Counter()
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts):
                words.update(re.findall(r"\w+", file.read_bytes().decode("utf-8", "replace").lower()))
    return "".join(f"{words[word]}\t{word}\n" for word in sorted(words, key=lambda word: (-words[word], word))).encode()


def output(tmp_path):
    return (tmp_path / "words.tsv").read_bytes()


def begin(start, texts, *args):
    return start("pipeline.py", texts, "--piece-bytes", PIECE, *args)


def run(start, texts, *args, code=0):
    process = begin(start, texts, *args)
    assert process.ended() == code, (process.lines, process.errors)
    if code in (0, 1):
        assert process.errors == ""
    return process


def done(tmp_path, kind="piece"):
    """How often the log says of each ticket of a kind that it was done."""
    return Counter(
        record.event.id
        for record in kharon.read(tmp_path / "words.tsv.queue")
        if type(record.event).__name__ == "TicketDone" and record.event.id.startswith(kind)
    )


def assert_done_once(tmp_path, pieces):
    assert set(done(tmp_path).values()) == {1}, "each piece's work is in the log once"
    assert len(done(tmp_path)) == pieces
    assert list(done(tmp_path, "split").values()) == list(done(tmp_path, "merge").values()) == [1]
    kharon.verify(tmp_path / "words.tsv.queue")
    assert list((tmp_path / "words.tsv.queue.work").iterdir()) == [], "nothing is left lying"
    assert not list(tmp_path.glob("*.tmp"))


def pieces_of(process):
    (line,) = [line for line in process.lines if line.endswith(" pieces")]
    return int(line.split()[0])


def counted(process):
    return [line for line in process.lines if line.startswith("piece-")]


# --- uninterrupted ----------------------------------------------------------------------------------------------------


def test_it_counts_the_words_and_the_second_run_finds_nothing_to_do(start, texts, tmp_path):
    first = run(start, texts)
    assert output(tmp_path) == expected(texts)
    pieces = pieces_of(first)
    assert pieces > 20
    assert len(counted(first)) == pieces
    words = sum(int(line.split()[0]) for line in output(tmp_path).splitlines())
    assert first.lines[-1] == f"{tmp_path}/words.tsv: {words} words, {output(tmp_path).count(10)} different"
    assert_done_once(tmp_path, pieces)
    before = (tmp_path / "words.tsv").stat()

    second = run(start, texts)
    assert second.lines[1:] == [f"{tmp_path}/words.tsv: unchanged"]
    assert (tmp_path / "words.tsv").stat() == before
    assert_done_once(tmp_path, pieces)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_the_size_of_the_pieces_does_not_matter(start, tmp_path, piece):
    text = tmp_path / "text"
    text.write_text("one two\nthree\n\nfour five six", encoding="utf-8")
    process = start("pipeline.py", text, "--piece-bytes", piece)
    assert process.ended() == 0, process.errors
    assert output(tmp_path) == expected(text) == b"1\tfive\n1\tfour\n1\tone\n1\tsix\n1\tthree\n1\ttwo\n"
    assert pieces_of(process) == -(-28 // piece)


def test_the_input_is_this_projects_pages_by_default(start, tmp_path):
    process = start("pipeline.py")
    assert process.ended() == 0, process.errors
    assert output(tmp_path) == expected(PROJECT / "docs")


def test_a_changed_input_is_counted_anew_and_a_lost_output_is_made_anew(start, texts, tmp_path):
    run(start, texts)
    (texts / "new").write_text("new words")
    process = run(start, texts)
    assert output(tmp_path) == expected(texts)
    assert len(counted(process)) == pieces_of(process)

    for spoil in (Path.unlink, lambda path: path.write_bytes(b"nonsense")):
        spoil(tmp_path / "words.tsv")
        process = run(start, texts)
        assert len(counted(process)) == pieces_of(process)
        assert output(tmp_path) == expected(texts)


# --- killed and resumed -----------------------------------------------------------------------------------------------


def ends_with_the_truth(start, texts, tmp_path):
    process = run(start, texts)
    assert output(tmp_path) == expected(texts)
    pieces = max(int(id.rsplit("-", 1)[1]) for id in done(tmp_path))
    assert_done_once(tmp_path, pieces)
    return process


@pytest.mark.parametrize("moment", ["files, ", " pieces", "-000001:", "-000009:", "-000017:", " different"])
def test_killed_when_it_says_something_it_goes_on(start, texts, tmp_path, moment):
    process = begin(start, texts, "--workers", 1)
    process.line_with(moment)
    process.kill()
    before = len(done(tmp_path)) if (tmp_path / "words.tsv.queue" / "log").exists() else 0
    second = ends_with_the_truth(start, texts, tmp_path)
    assert len(counted(second)) == len(done(tmp_path)) - before, "what was done is not done again"


def records(where):
    """How many lines the log has, unfinished ones included; 0 if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return sum(path.read_bytes().count(b"\n") for path in (where / "log").glob("*.jsonl"))
    return 0


def test_killed_again_and_again_it_ends_with_the_truth(start, texts, tmp_path):
    where = tmp_path / "words.tsv.queue"
    killed = 0
    for more in (1, 3, 4, 5, 9, 14, 22, 30):  # records, beyond those that there are: in the midst of every kind of step
        until = records(where) + more
        process = begin(start, texts)
        while records(where) < until and process.running:
            pass
        killed += process.kill() == -signal.SIGKILL
        if (tmp_path / "words.tsv").exists():
            assert output(tmp_path) == expected(texts), "the output is whole, or not there"
    assert killed > 3
    ends_with_the_truth(start, texts, tmp_path)


def test_killed_between_the_pieces_and_the_merge_it_merges(start, texts, tmp_path):
    """The output's place is taken at first, so the merge fails, and is tried again, until the run is killed."""
    process = begin(start, texts)
    process.line_with(" pieces")
    (tmp_path / "words.tsv").mkdir()
    while not (ends := list(kharon_events(tmp_path, "TicketRetried"))):
        assert process.running
    process.kill()
    assert all(id.startswith("merge-") for id in ends)
    (tmp_path / "words.tsv").rmdir()
    assert counted(ends_with_the_truth(start, texts, tmp_path)) == []


def kharon_events(tmp_path, name):
    for record in kharon.read(tmp_path / "words.tsv.queue"):
        if type(record.event).__name__ == name:
            yield record.event.id


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_cleanly_and_a_rerun_goes_on(start, texts, tmp_path, number, code):
    process = begin(start, texts, "--workers", 1)
    process.line_with("-000003:")
    process.send(number)
    assert process.ended() == code
    assert process.lines[-1] == "stopped; run it again, and it goes on where it was"
    assert process.errors == ""
    assert not (tmp_path / "words.tsv").exists()
    *_, last = kharon.read(tmp_path / "words.tsv.queue")
    assert type(last.event).__name__ == "LogClosed"
    before = len(done(tmp_path))
    assert len(counted(ends_with_the_truth(start, texts, tmp_path))) == len(done(tmp_path)) - before


def test_killed_and_changed_what_is_left_of_the_old_input_is_dropped(start, texts, tmp_path):
    process = begin(start, texts, "--workers", 1)
    process.line_with("-000003:")
    process.kill()
    (texts / "long").write_text("short now")
    process = run(start, texts)
    assert output(tmp_path) == expected(texts)
    assert len(counted(process)) == pieces_of(process)
    assert set(kharon.replay(tmp_path / "words.tsv.queue").tickets) == {
        id for kind in ("split", "merge") for id in list(done(tmp_path, kind))[-1:]
    }


def test_counts_that_were_lost_are_counted_again(start, texts, tmp_path):
    process = begin(start, texts, "--workers", 1)
    process.line_with("-000003:")
    process.kill()
    for path in (tmp_path / "words.tsv.queue.work").glob("*/*-000002.json"):
        path.unlink()
    process = run(start, texts)
    assert output(tmp_path) == expected(texts)
    assert any("-000002:" in line for line in counted(process))


# --- what cannot be -------------------------------------------------------------------------------------------------


def test_a_file_that_changes_in_the_midst_cancels_the_merge_and_is_counted_in_the_next_run(start, texts, tmp_path):
    process = begin(start, texts, "--workers", 1, "--piece-bytes", 200)
    process.line_with("-000001:")
    process.send(signal.SIGSTOP)
    os.utime(texts / "long", ns=(0, 1))  # most of its pieces are still to come
    process.send(signal.SIGCONT)
    assert process.ended() == 1
    assert process.errors == ""
    failed = [line for line in process.lines if line.startswith("failed: ")]
    why = f"{texts}/long has changed since this began; run it again"
    assert all(re.fullmatch(rf"failed: piece-\w+-\d+: {re.escape(why)}", line) for line in failed)
    assert len(failed) + len(counted(process)) == pieces_of(process), "all others are counted"
    assert failed
    assert not (tmp_path / "words.tsv").exists()
    assert [id.split("-")[0] for id in kharon_events(tmp_path, "TicketCancelled")] == ["merge"]
    run(start, texts)
    assert output(tmp_path) == expected(texts)


def unreadable():
    """A regular file that can be found and not read, by root either; None if this system has none."""
    for path in [*Path("/sys/bus").glob("*/drivers_probe"), *Path("/sys/class").glob("*/hot_remove")]:
        with contextlib.suppress(OSError):
            if path.stat().st_size:
                try:
                    path.read_bytes()
                except OSError:
                    return path
    return None


def test_an_unreadable_file_fails_its_piece_and_nothing_is_merged(start, texts, tmp_path):
    path = texts / "zzz"
    if os.geteuid():
        path.write_text("secret")
        path.chmod(0)
    elif (other := unreadable()) is not None:
        path.symlink_to(other)
    else:
        pytest.skip("no mode keeps root out, and this system has no file that does")
    process = run(start, texts, code=1)
    failed = [line for line in process.lines if line.startswith("failed: ")]
    assert failed
    assert all(re.fullmatch(r"failed: piece-[\w-]+: \[Errno \d+\] [\w/ -]+(: '.*zzz')?", line) for line in failed)
    assert len(counted(process)) == pieces_of(process) - len(failed)
    assert not (tmp_path / "words.tsv").exists()
    again = run(start, texts, code=1)
    assert counted(again) == [], "what was counted is not counted again"
    path.unlink()
    run(start, texts)
    assert output(tmp_path) == expected(texts)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["void"], "void: it contains nothing to count"),
        (["void/empty"], "void/empty: it contains nothing to count"),
        (["dangling"], "No such file or directory: "),
        (["texts", "--output", "texts"], "texts cannot be the path of a file"),
        (["texts", "--output", "nowhere/file"], "nowhere/file cannot be the path of a file"),
        (["texts", "--workers", "0"], "Settings.workers: 0 is not"),
        (["texts", "--piece-bytes", "0"], "--piece-bytes 0 is not 1 or more"),
        (["texts", "--queue", "texts"], "texts is not a queue, and is not empty"),
    ],
)
def test_wrong_arguments_are_answered_in_one_line_and_nothing_is_done(start, texts, tmp_path, args, message):
    (tmp_path / "void").mkdir()
    (tmp_path / "void" / "empty").write_bytes(b"")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "link").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    process = start("pipeline.py", *args)
    assert process.ended() == 2
    assert process.lines == []
    assert message in process.errors.splitlines()[-1]
    assert process.errors.splitlines()[-1].startswith("pipeline.py: ")
    assert "Traceback" not in process.errors
    assert sorted(path for path in tmp_path.rglob("*") if path.suffix != ".stderr") == before


def test_two_at_once(start, texts):
    first = begin(start, texts, "--workers", 1, "--piece-bytes", 200)
    first.line_with("-000001:")
    first.send(signal.SIGSTOP)
    second = run(start, texts, code=2)
    assert second.lines == []
    assert f"is open already, in process {first.pid} " in second.errors
    assert second.errors.count("\n") == 1
    first.send(signal.SIGCONT)
    assert first.ended() == 0
