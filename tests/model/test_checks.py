"""The limits at their edges: the last value that passes, and the first that does not."""

import enum
import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from kharon.errors import InvalidTicket
from kharon.model import checks

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Name(str):  # noqa: SLOT000 - as users write it
    def __str__(self):
        return "not what was checked"


class Float(float):
    """As numpy.float64 is."""


class Int(int):
    """As enum.IntEnum is."""


class Level(enum.IntEnum):
    HIGH = 3


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", ["a", "a b", "x" * 200, "é" * 100, "日本語", "\U0001f600" * 50, "order/17#2"])
def test_a_name_is_printable_text_of_up_to_200_bytes(good):
    assert checks.check_name("id", good) == good


@pytest.mark.parametrize("bad", ["x" * 201, "é" * 100 + "x", "\U0001f600" * 51])
def test_a_name_is_measured_in_bytes(bad):
    with pytest.raises(InvalidTicket, match=r"^id: .* longer than 200 bytes"):
        checks.check_name("id", bad)


@pytest.mark.parametrize("bad", ["\n", "a\tb", "\x7f", "\u2028", "\u200b", "\ud83d", "a\u00a0b"])
def test_a_name_with_something_unprintable_is_refused(bad):
    with pytest.raises(InvalidTicket, match=r"^tube: .*printable text"):
        checks.check_name("tube", bad)


def test_a_refusal_does_not_repeat_a_very_long_name():
    with pytest.raises(InvalidTicket) as refused:
        checks.check_name("id", "x" * 1_000_000)
    assert len(str(refused.value)) < 200


def test_an_empty_name_is_refused():
    with pytest.raises(InvalidTicket, match=r"^group: .*empty"):
        checks.check_name("group", "")


def test_a_name_is_kept_as_what_was_checked():
    kept = checks.check_name("id", Name("a"))
    assert (type(kept), kept) == (str, "a")


# --- nice -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [0, 1, -1, 2**31 - 1, -(2**31) + 1])
def test_nice_is_an_int_of_32_bits(good):
    assert checks.check_nice("nice", good) == good


@pytest.mark.parametrize("bad", [2**31, -(2**31), 10**30])
def test_nice_out_of_range_is_refused(bad):
    with pytest.raises(InvalidTicket, match=r"^nice: .* is not between"):
        checks.check_nice("nice", bad)


@pytest.mark.parametrize("bad", [1.0, "1", None, True, False])
def test_nice_of_another_type_is_refused(bad):
    with pytest.raises(InvalidTicket, match=rf"^nice: .*{type(bad).__name__}"):
        checks.check_nice("nice", bad)


def test_nice_is_kept_as_a_plain_int():
    assert type(checks.check_nice("nice", Level.HIGH)) is int


# --- instants ---------------------------------------------------------------------------------------------------------


def test_an_instant_is_turned_into_utc():
    checked = checks.check_instant("runat", datetime(2026, 3, 1, 5, 30, 1, 7, tzinfo=timezone(timedelta(hours=-7))))
    assert checked == datetime(2026, 3, 1, 12, 30, 1, 7, tzinfo=UTC)
    assert checked.tzinfo is UTC


def test_an_instant_of_a_subclass_becomes_a_plain_one():
    class Stamp(datetime):
        pass

    checked = checks.check_instant("runat", Stamp(2026, 3, 1, 12, 0, 1, 9, tzinfo=UTC))
    assert type(checked) is datetime
    assert checked == NOON + timedelta(seconds=1, microseconds=9)


def test_a_naive_instant_is_refused():
    with pytest.raises(InvalidTicket, match=r"^runat: .*no timezone"):
        checks.check_instant("runat", NOON.replace(tzinfo=None))


@pytest.mark.parametrize(
    "bad",
    [
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_an_instant_out_of_range_in_utc_is_refused(bad):
    with pytest.raises(InvalidTicket, match=r"^runat: .*out of range"):
        checks.check_instant("runat", bad)


def test_an_instant_of_another_type_is_refused():
    with pytest.raises(InvalidTicket, match=r"^until: .*not float"):
        checks.check_instant("until", 1.5)


def test_an_instant_after_another():
    assert checks.instant_after("delay", NOON, 90.5) == NOON + timedelta(seconds=90, microseconds=500_000)


@pytest.mark.parametrize("seconds", [1e300, 86_400 * 366 * 9000.0])
def test_an_instant_beyond_the_last_year_is_refused(seconds):
    with pytest.raises(InvalidTicket, match=r"^delay: .*out of range"):
        checks.instant_after("delay", NOON, seconds)


# --- reasons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [None, "", "no route\n\tto host", "é", "x" * 4000])
def test_a_reason_is_any_text(good):
    assert checks.check_reason("error_reason", good) == good


@pytest.mark.parametrize(
    ("bad", "why"), [(OSError("x"), "not OSError"), ("x" * 4001, "4001 characters"), ("\ud800", "lone surrogate")]
)
def test_a_bad_reason_is_refused(bad, why):
    with pytest.raises(InvalidTicket, match=rf"^error_reason: .*{why}"):
        checks.check_reason("error_reason", bad)


def test_a_reason_is_kept_as_what_was_checked():
    kept = checks.check_reason("error_reason", Name("a"))
    assert (type(kept), kept) == (str, "a")


@pytest.mark.parametrize("text", ["", "short", "x" * 4000])
def test_a_short_reason_stays(text):
    assert checks.shorten_reason(text) == text


@pytest.mark.parametrize("length", [4001, 4002, 100_000])
def test_a_long_reason_loses_its_middle(length):
    short = checks.shorten_reason("a" * (length - 3) + "end")
    assert checks.check_reason("error_reason", short) == short
    assert short.startswith("aaa")
    assert short.endswith("end")
    assert " … " in short
    assert len(short) > 3990


def test_a_shortened_reason_is_text():
    assert checks.shorten_reason("a\ud800b") == "a?b"


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**64,
        2**1024 - 1,
        -(2**1024) + 1,
        0.1,
        5e-324,
        1.7976931348623157e308,
        "",
        '\x00\x1f\x7f"\\/',
        "é\u2028\uffff\U0001f600",
        [],
        {},
        [[], {}, [None]],
        {"é\U0001f600": {"": [1, "a"]}},
    ],
)
def test_json_comes_back_as_it_went_in(value):
    data = checks.check_json("payload", value)
    assert data.isascii()
    assert checks.from_json(data) == value
    assert json.loads(data) == value


def test_minus_zero_stays_minus_zero():
    assert math.copysign(1, checks.from_json(checks.check_json("payload", -0.0))) == -1


def test_tuples_come_back_as_lists():
    assert checks.from_json(checks.check_json("payload", (1, (2,)))) == [1, [2]]


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Name("a"), "a"), (Float(1.5), 1.5), (Int(3), 3), (Level.HIGH, 3), ({Name("k"): Int(1)}, {"k": 1})],
)
def test_subclasses_of_json_types_are_written_as_what_they_hold(value, plain):
    assert checks.from_json(checks.check_json("payload", [value])) == [plain]


@pytest.mark.parametrize("bad", [Float("nan"), Float("-inf"), Int(2**1024), Name("\ud800")])
def test_subclasses_of_json_types_are_checked(bad):
    with pytest.raises(InvalidTicket, match=r"^payload\['a'\]: "):
        checks.check_json("payload", {"a": bad})


@pytest.mark.parametrize("bad", [b"x", {1, 2}, NOON, object(), 1j, range(3), ValueError])
def test_what_is_not_json_is_refused_by_its_type(bad):
    with pytest.raises(InvalidTicket, match=rf"^result\[1\]: {type(bad).__name__} is not JSON"):
        checks.check_json("result", [0, bad])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_json_are_refused(bad):
    with pytest.raises(InvalidTicket, match=rf"^payload: {bad!r} is not JSON"):
        checks.check_json("payload", bad)


@pytest.mark.parametrize("bad", [2**1024, -(2**1024)])
def test_an_int_of_more_than_1024_bits_is_refused(bad):
    with pytest.raises(InvalidTicket, match=r"^payload: an int of 1025 bits"):
        checks.check_json("payload", bad)


@pytest.mark.parametrize("bad", [1, None, ("a",), b"a"])
def test_a_key_is_a_str(bad):
    with pytest.raises(InvalidTicket, match=rf"^payload\['in'\]: the key .* is {type(bad).__name__}"):
        checks.check_json("payload", {"in": {bad: 1}})


@pytest.mark.parametrize("bad", ["\ud800", {"\udfff": 1}, ["ok", "a\ud83d"]])
def test_a_lone_surrogate_is_refused(bad):
    with pytest.raises(InvalidTicket, match=r"^payload.*lone surrogate"):
        checks.check_json("payload", bad)


def nested(levels, make, value=0):
    for _ in range(levels):
        value = make(value)
    return value


@pytest.mark.parametrize("make", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (inner,)])
def test_nesting_ends_at_64_levels(make):
    assert checks.check_json("payload", nested(64, make))
    with pytest.raises(InvalidTicket, match="nested deeper than 64"):
        checks.check_json("payload", nested(65, make))


def test_a_value_that_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(InvalidTicket, match="nested deeper"):
        checks.check_json("payload", value)


@pytest.mark.parametrize(
    ("fits", "does_not"),
    [
        ("x" * (checks.MAX_JSON_BYTES - 2), "x" * (checks.MAX_JSON_BYTES - 1)),
        # é is one character, two bytes of UTF-8, and six bytes of ASCII JSON: those count.
        ("é" * ((checks.MAX_JSON_BYTES - 2) // 6), "é" * ((checks.MAX_JSON_BYTES - 2) // 6 + 1)),
        ([0] * ((checks.MAX_JSON_BYTES - 1) // 2), [0] * ((checks.MAX_JSON_BYTES - 1) // 2 + 1)),
    ],
)
def test_json_ends_at_960_kib(fits, does_not):
    assert len(checks.check_json("payload", fits)) <= checks.MAX_JSON_BYTES == 960 * 1024
    with pytest.raises(InvalidTicket, match=r"^payload: .*more than 983040"):
        checks.check_json("payload", does_not)


@pytest.mark.parametrize("leaf", [[], {}, "a", 0])
def test_a_small_value_that_would_be_written_large_is_given_up_early(leaf):
    # 2**20 leaves in 21 objects. That it gave up while walking is seen by the path, which the check of the finished
    # bytes does not have; with 2**60 leaves that check would never be reached.
    with pytest.raises(InvalidTicket, match=r"^payload\[\d\].*more than 983040 bytes"):
        checks.check_json("payload", nested(20, lambda inner: [inner, inner], leaf))


def test_a_refusal_does_not_repeat_a_very_long_key():
    with pytest.raises(InvalidTicket) as refused:
        checks.check_json("payload", {"k" * 100_000: object()})
    assert len(str(refused.value)) < 300


def test_ascii_json_is_the_same_json():
    text = '{"é\\n":"a\U0001f600\u2028b","c":["\\"ü\\\\"]}'
    data = checks.ascii_json(text.encode())
    assert data.isascii()
    assert json.loads(data) == json.loads(text)


def test_ascii_json_of_ascii_is_not_copied():
    data = b'{"a":1}'
    assert checks.ascii_json(data) is data
