from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import pytest
from msgspec import Raw
from queues import NOW, fill, moment, queue, segments_of

import kharon
from kharon import Anchor, AnchorMissing
from kharon.audit.anchor import AnchorCheck
from kharon.audit.read import LogPass
from kharon.errors import CorruptLog, InvalidAnchor, KharonError
from kharon.log.directory import DirectoryLog
from kharon.log.record import Chain
from kharon.model.events import TicketAdded


@pytest.fixture
def where(tmp_path):
    return tmp_path / "queue"


def at(where: Path, seq: int) -> Anchor:
    """The anchor of a record, by reading all."""
    return next(
        Anchor(kharon.verify(where).log, seq, record.hash) for record in kharon.read(where) if record.seq == seq
    )


def rewritten(where: Path) -> None:
    """Write the whole log anew, with one record changed, so that every hash, crc and seal is right."""
    chain, log = Chain(), kharon.verify(where).log
    records = list(kharon.read(where))
    (where / "log").rename(where.with_name("old"))
    (where / "log").mkdir()
    path = where / "log" / f"{1:020}.jsonl"
    lines = [chain.header(log, NOW)]
    for record in records:
        lines += chain.commit([record.event], record.at, "eve" if record.seq == 5 else record.by, record.durable)
    path.write_bytes(b"".join(lines))


# --- its text ---------------------------------------------------------------------------------------------------------


def test_the_text_of_an_anchor_is_one_line_that_parses():
    anchor = Anchor("0123456789abcdef" * 2, 10**12, "f" * 64)
    assert str(anchor) == f"kharon-anchor 0123456789abcdef0123456789abcdef 1000000000000 {'f' * 64}"
    assert Anchor.parse(str(anchor)) == anchor
    assert Anchor.parse(f"  {anchor}\n") == anchor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kharon-anchor",
        f"anchor {'a' * 32} 1 {'f' * 64}",
        f"kharon-anchor {'a' * 31} 1 {'f' * 64}",
        f"kharon-anchor {'A' * 32} 1 {'f' * 64}",
        f"kharon-anchor {'a' * 32} -1 {'f' * 64}",
        f"kharon-anchor {'a' * 32} 01 {'f' * 64}",
        f"kharon-anchor {'a' * 32} \N{ARABIC-INDIC DIGIT ONE} {'f' * 64}",
        f"kharon-anchor {'a' * 32} {'1' * 5000} {'f' * 64}",
        f"kharon-anchor {'a' * 32} 1 {'f' * 63}",
        f"kharon-anchor {'a' * 32} 1 {'f' * 64} more",
        f"kharon-anchor {'a' * 32} 1 {'f' * 64}\nkharon-anchor {'a' * 32} 1 {'f' * 64}",
        "\x1b[31m" * 50,
    ],
)
def test_what_is_no_anchor_is_refused_clearly(text):
    with pytest.raises(InvalidAnchor, match="is not an anchor; one is a line like 'kharon-anchor <log id") as caught:
        Anchor.parse(text)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, KharonError)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


# --- taking one -------------------------------------------------------------------------------------------------------


def test_an_anchor_is_of_the_newest_record_that_a_line_vouches_for(where):
    log = DirectoryLog(where, 4096)
    list(log.open(NOW))
    id = log._log_id
    assert kharon.anchor(where) == Anchor(id, 0, "0" * 64)
    for number in range(60):
        log.append([TicketAdded(f"t{number}", "x", Raw(b"null"), "default", 512, NOW)] * 2, moment(number), "app")
        log.write()
        vouched = max([0, *(record.durable for record in kharon.read(where)), int(segments_of(where)[-1].stem) - 1])
        anchor = kharon.anchor(where)
        assert anchor == (at(where, vouched) if vouched else Anchor(id, 0, "0" * 64))
        kharon.verify(where, anchor)
        if number % 3 == 0:
            log.sync()
    assert len(segments_of(where)) > 5
    log.close(NOW)
    assert kharon.anchor(where).seq == kharon.verify(where).last - 1


def test_a_crash_takes_nothing_that_was_anchored(where):
    """What nobody vouches for may go with the power; the anchor is further back, and still there."""
    log = queue(where, 30, closed=False)
    anchors = []
    for number in range(30):
        log.append([TicketAdded(f"u{number}", "x", Raw(b"null"), "default", 512, NOW)], log._chain.at, "app")
        log.write()
        anchors.append(kharon.anchor(where))
        if number % 4 == 0:
            log.sync()
    log.abandon()
    tail = segments_of(where)[-1]
    data = tail.read_bytes()
    record = {record.seq: record for record in kharon.read(where)}[log.durable + 1]
    tail.write_bytes(data[: data.index(record.hash.encode()) - 9])  # all of what was not synced is lost
    for anchor in anchors:
        assert kharon.verify(where, anchor).last == log.durable
    newest = kharon.verify(where)
    assert any(anchor.seq == newest.last for anchor in anchors)


def test_only_the_last_segment_is_read(where):
    queue(where)
    first = segments_of(where)[0]
    first.write_bytes(first.read_bytes().replace(b'"app"', b'"APP"'))
    assert kharon.anchor(where).seq > 100
    with pytest.raises(CorruptLog):
        kharon.verify(where)
    last = segments_of(where)[-1]
    last.write_bytes(last.read_bytes().replace(b'"by":', b'"BY":', 1))
    with pytest.raises(CorruptLog, match=last.name):
        kharon.anchor(where)
    with pytest.raises(KharonError, match="does not exist"):
        kharon.anchor(where / "nothing")


# --- proving it -------------------------------------------------------------------------------------------------------


def test_every_record_is_an_anchor_for_ever(where):
    queue(where, 60)
    anchors = [at(where, record.seq) for record in kharon.read(where)]
    before = kharon.verify(where)
    log = DirectoryLog(where, 4096)
    list(log.open(NOW))
    fill(log, 30, 5)
    log.close(log._chain.at)
    for anchor in anchors:
        report = kharon.verify(where, anchor=anchor)
        assert report == kharon.verify(where)
        assert report.last > before.last


def test_a_log_that_was_written_anew_is_noticed(where):
    """The rewritten log is whole by every other rule."""
    log = DirectoryLog(where)
    list(log.open(NOW))
    fill(log, 20)
    log.close(log._chain.at)
    anchor, early = kharon.anchor(where), at(where, 4)
    rewritten(where)
    assert [record.by for record in kharon.read(where)][4] == "eve"
    kharon.verify(where)
    kharon.verify(where, early)  # nothing was changed up to there
    with pytest.raises(AnchorMissing, match=rf"record {anchor.seq} has the hash .* the log was rewritten") as caught:
        kharon.verify(where, anchor)
    (path,) = segments_of(where)
    assert (caught.value.file, caught.value.line) == (str(path), anchor.seq + 1)
    line = path.read_bytes().splitlines()[caught.value.line - 1]
    assert f'"seq":{anchor.seq},'.encode() in line, "it names the line"


def test_the_line_is_named_in_a_later_segment_too(where):
    queue(where)
    anchor = at(where, 77)
    with pytest.raises(AnchorMissing) as caught:
        kharon.verify(where, attrs.evolve(anchor, hash="f" * 64))
    line = Path(caught.value.file).read_bytes().splitlines()[caught.value.line - 1]
    assert b'"seq":77,' in line


def test_another_log_is_noticed(where, tmp_path):
    queue(where)
    queue(tmp_path / "other")
    with pytest.raises(AnchorMissing, match=r"0001\.jsonl.*this is the log .*; the anchor is of the log"):
        kharon.verify(tmp_path / "other", kharon.anchor(where))
    empty = tmp_path / "empty"
    DirectoryLog(empty).abandon()
    log = DirectoryLog(empty)
    list(log.open(NOW))
    nothing = kharon.anchor(empty)
    log.abandon()
    assert nothing.seq == 0
    kharon.verify(empty, nothing)
    with pytest.raises(AnchorMissing, match="this is the log"):
        kharon.verify(where, nothing)


def test_a_log_that_lost_its_end_is_noticed(where):
    queue(where)
    anchor = kharon.anchor(where)
    tail = segments_of(where)[-1]
    lines = tail.read_bytes().splitlines(keepends=True)
    tail.write_bytes(b"".join(lines[:2]))
    kharon.verify(where)
    with pytest.raises(AnchorMissing, match=rf"{tail.name}.* ends at record {tail.stem.lstrip('0')}; .*were cut off"):
        kharon.verify(where, anchor)


def test_an_anchor_that_was_trimmed_away_cannot_be_proved(where):
    queue(where)
    anchor = at(where, 3)
    reading, check = LogPass(where).reading, AnchorCheck(anchor)
    assert sum(1 for _ in reading.records())
    del reading.places[0]  # as in a log that begins later
    with pytest.raises(AnchorMissing, match=r"history begins at record \d+; the anchor is record 3, which was trimmed"):
        check.finish(reading)


def test_damage_comes_first(where, tmp_path):
    queue(where)
    anchor = kharon.anchor(where)
    shutil.copytree(where, tmp_path / "copy")
    path = segments_of(where)[2]
    path.write_bytes(path.read_bytes().replace(b'"by":"', b'"BY":"', 1))
    with pytest.raises(CorruptLog, match=path.name) as caught:
        kharon.verify(where, anchor)
    assert type(caught.value) is CorruptLog
