"""The ticket as its users see it: what it takes, what it refuses, and that it is a value."""

import copy
import enum
import pickle
from datetime import UTC, datetime, timedelta, timezone

import attrs
import pytest

from kharon.errors import InvalidTicket, KharonError
from kharon.model.ticket import Draft, Status, Ticket, draft_of, seal, with_payload

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Tube(str, enum.Enum):  # noqa: UP042 - the older way to say it, which str() turns into its name
    MAIL = "mail"


def test_a_ticket_has_its_defaults():
    ticket = Ticket("t-1", "email")
    assert (ticket.id, ticket.type, ticket.payload) == ("t-1", "email", None)
    assert (ticket.tube, ticket.nice, ticket.runat, ticket.group) == ("default", 512, None, None)
    assert (ticket.status, ticket.attempts, ticket.version, ticket.order) == (Status.PENDING, 0, 0, 0)
    assert (ticket.ctime, ticket.mtime, ticket.lease_until, ticket.expire_at) == (None, None, None, None)
    assert (ticket.error_reason, ticket.result, ticket.blocked_by) == (None, None, ())
    assert (ticket.claim, ticket.worker, ticket.successor) == (None, None, None)


def test_a_ticket_has_what_it_was_given():
    ticket = Ticket("t-1", "email", payload={"to": ["ann"]}, tube="mail", nice=-5, runat=NOON, group="g")
    assert ticket.payload == {"to": ["ann"]}
    assert (ticket.tube, ticket.nice, ticket.runat, ticket.group) == ("mail", -5, NOON, "g")


def test_only_id_and_type_go_by_position():
    with pytest.raises(TypeError):
        Ticket("t-1", "email", {"to": "ann"})


def test_runat_is_kept_in_utc():
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    runat = Ticket("t", "x", runat=there).runat
    assert runat == NOON
    assert runat.tzinfo is UTC


@pytest.mark.parametrize("field", ["id", "type", "tube", "group"])
@pytest.mark.parametrize("bad", ["", "a\n", "\x00", "\ud800", "é" * 101, "x" * 201, b"bytes", 7, ("a",)])
def test_a_bad_name_is_refused_by_its_field(field, bad):
    fields = {"id": "t", "type": "x", field: bad}
    with pytest.raises(InvalidTicket, match=rf"^{field}: "):
        Ticket(**fields)


@pytest.mark.parametrize("field", ["id", "type", "tube"])
def test_none_is_no_name(field):
    with pytest.raises(InvalidTicket, match=rf"^{field}: .*NoneType"):
        Ticket(**{"id": "t", "type": "x", field: None})


@pytest.mark.parametrize("bad", [None, 1.5, "5", True, 2**31, -(2**31)])
def test_a_bad_nice_is_refused(bad):
    with pytest.raises(InvalidTicket, match=r"^nice: "):
        Ticket("t", "x", nice=bad)


@pytest.mark.parametrize("bad", [datetime(2026, 1, 1), NOON.timestamp(), "2026-01-01", NOON.date()])  # noqa: DTZ001
def test_a_bad_runat_is_refused(bad):
    with pytest.raises(InvalidTicket, match=r"^runat: "):
        Ticket("t", "x", runat=bad)


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (float("nan"), "payload: nan"),
        ({"a": [1, float("inf")]}, r"payload\['a'\]\[1\]: inf"),
        ({"a": {"b": "\udc00"}}, r"payload\['a'\]\['b'\]: holds a lone surrogate"),
        ({1: 2}, "payload: the key 1 is int"),
        ([object()], r"payload\[0\]: object is not JSON"),
    ],
)
def test_a_bad_payload_is_refused_by_its_path(bad, where):
    with pytest.raises(InvalidTicket, match=rf"^{where}"):
        Ticket("t", "x", payload=bad)


def test_an_invalid_ticket_is_a_kharon_error_and_a_value_error():
    assert issubclass(InvalidTicket, KharonError)
    assert issubclass(InvalidTicket, ValueError)


def test_a_name_of_an_enum_is_its_value():
    ticket = Ticket(Tube.MAIL, Tube.MAIL, tube=Tube.MAIL, group=Tube.MAIL, payload=Tube.MAIL)
    for value in (ticket.id, ticket.type, ticket.tube, ticket.group, ticket.payload):
        assert (type(value), value) == (str, "mail")


# --- a value ----------------------------------------------------------------------------------------------------------


def test_a_caller_who_changes_the_payload_does_not_change_the_ticket():
    payload = {"to": ["ann"]}
    ticket = Ticket("t", "x", payload=payload)
    payload["to"].append("bob")
    payload["cc"] = "eve"
    assert ticket.payload == {"to": ["ann"]}


def test_a_reader_who_changes_the_payload_does_not_change_the_ticket():
    ticket = Ticket("t", "x", payload={"to": ["ann"]})
    ticket.payload["to"].append("bob")
    assert ticket.payload == {"to": ["ann"]}


def test_a_result_is_new_at_each_reading():
    draft = draft_of(Ticket("t", "x"))
    draft.result_json = b'{"sent":[1]}'
    ticket = seal(draft)
    ticket.result["sent"].append(2)
    assert ticket.result == {"sent": [1]}


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Draft)] + ["payload", "result", "nonsense"])
def test_no_field_of_a_ticket_can_be_set_or_deleted(name):
    for ticket in (Ticket("t", "x"), with_payload(Ticket("t", "x"), object())):
        with pytest.raises(AttributeError):
            setattr(ticket, name, 1)
        with pytest.raises(AttributeError):
            delattr(ticket, name)


def test_tickets_are_equal_by_every_field():
    ticket = Ticket("t", "x", payload=[1])
    assert ticket == Ticket("t", "x", payload=[1])
    for field in attrs.fields(Draft):
        draft = draft_of(ticket)
        setattr(draft, field.name, "other")
        assert seal(draft) != ticket, field.name


def test_a_ticket_cannot_be_hashed():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Ticket("t", "x"))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda ticket: pickle.loads(pickle.dumps(ticket))])
def test_a_copied_ticket_is_an_equal_one(again):
    ticket = Ticket("t", "x", payload={"a": 1}, runat=NOON)
    copied = again(ticket)
    assert copied == ticket
    assert copied.payload == {"a": 1}
    with pytest.raises(AttributeError):
        copied.nice = 1


def test_a_draft_of_a_ticket_has_all_of_its_fields():
    draft = Draft(*range(len(attrs.fields(Draft))))
    wanted = attrs.astuple(draft, recurse=False)
    ticket = seal(draft)
    assert type(ticket) is Ticket
    again = draft_of(ticket)
    assert type(again) is Draft
    assert attrs.astuple(again, recurse=False) == wanted


def test_a_draft_is_not_the_ticket_that_it_was_made_of():
    ticket = Ticket("t", "x")
    draft_of(ticket).nice = 1
    assert ticket.nice == 512


# --- shown ------------------------------------------------------------------------------------------------------------


def test_a_ticket_shows_neither_payload_nor_result():
    draft = draft_of(Ticket("t-1", "email", payload={"password": "hunter2"}, tube="mail", runat=NOON))
    draft.result_json = b'"s3cret"'
    draft.error_reason = "no route"
    draft.attempts = 3
    sealed = seal(draft)
    for ticket in (sealed, with_payload(sealed, "hunter2")):
        shown = f"{ticket!r} {ticket!s} {[ticket]}"
        for secret in ("hunter2", "password", "s3cret"):
            assert secret not in shown
        for told in ("'t-1'", "'email'", "pending", "tube=mail", "runat=2026-03-01", "attempts=3", "no route"):
            assert told in shown


def test_a_ticket_does_not_show_what_is_not_there():
    assert repr(Ticket("t", "x")) == "<Ticket 't' 'x' pending tube=default nice=512>"


def test_a_reason_of_several_lines_is_shown_in_one():
    failed = seal(
        Draft("t", "x", b"null", "default", 512, NOON, None, status=Status.FAILED, error_reason="a\n\x1b[31mb")
    )
    assert repr(failed).endswith(r" error_reason='a\n\x1b[31mb'>")


# --- with an object as its payload ------------------------------------------------------------------------------------


def test_a_ticket_with_a_typed_payload_differs_in_nothing_else():
    ticket = Ticket("t", "x", payload={"a": 1}, tube="mail", runat=NOON, group="g")
    thing = object()
    typed = with_payload(ticket, thing)
    assert typed.payload is thing
    assert isinstance(typed, Ticket)
    assert seal(draft_of(typed)) == ticket
    assert ticket.payload == {"a": 1}


def test_attrs_evolve_says_what_to_do():
    for ticket in (Ticket("a", "x"), with_payload(Ticket("a", "x", payload=3), object())):
        with pytest.raises(TypeError, match="attrs_evolve_cannot_copy_a_ticket__call_kh_update_or_make_a_new_one"):
            attrs.evolve(ticket, nice=3)
