"""The router: from type to handler, and what it refuses at once rather than when a ticket comes."""

import functools

import pytest

import kharon
from kharon import Router, Ticket
from kharon.runtime.router import PayloadMismatch


async def handle(_kh, _ticket):
    pass


def test_it_finds_what_was_registered():
    router = kharon.Router()
    assert router.is_empty
    assert router.handler("a")(handle) is handle  # the decorated function stays what it is
    assert not router.is_empty
    assert router.find("a").handler is handle
    assert router.types == ("a",)


def test_one_function_may_handle_many_types():
    router = kharon.Router()

    @router.handler("a")
    @router.handler("b")
    async def both(_kh, _ticket):
        pass

    assert router.find("a").handler is router.find("b").handler is both


def test_not_found_is_for_the_others():
    router = kharon.Router()
    with pytest.raises(kharon.HandlerNotFound, match=r"'a' \(registered: none\)"):
        router.find("a")
    router.handler("a")(handle)

    @router.not_found
    async def other(_kh, _ticket):
        pass

    assert router.find("a").handler is handle
    assert router.find("b").handler is other
    assert router.types == ("a",)


def test_only_not_found_is_a_router_too():
    router = kharon.Router()
    router.not_found(handle)
    assert not router.is_empty


def test_a_def_goes_to_a_thread():
    class Callable:
        def __call__(self, kh, ticket):
            pass

    class AsyncCallable:
        async def __call__(self, kh, ticket):
            pass

    async def with_more(_extra, _kh, _ticket):
        pass

    kinds = {
        "async": handle,
        "sync": lambda _kh, _ticket: None,
        "async partial": functools.partial(with_more, 1),
        "async partial of partial": functools.partial(functools.partial(with_more), 1),
        "object": Callable(),
        "async object": AsyncCallable(),
        "async method": AsyncCallable().__call__,
    }
    router = kharon.Router()
    for type, function in kinds.items():
        router.handler(type)(function)
    assert {type for type in kinds if router.find(type).in_thread} == {"sync", "object"}


def test_a_type_has_one_handler():
    router = kharon.Router()
    router.handler("a")(handle)
    with pytest.raises(kharon.InvalidSettings, match="'a' has a handler already: handle"):
        router.handler("a")(lambda _kh, _ticket: None)
    router.not_found(handle)
    with pytest.raises(kharon.InvalidSettings, match="not_found handler already: handle"):
        router.not_found(lambda _kh, _ticket: None)
    assert router.find("a").handler is handle


@pytest.mark.parametrize("type", ["", "a\n", 3, None, "x" * 201])
def test_a_bad_type_is_refused(type):
    with pytest.raises(kharon.InvalidTicket, match=r"^type: "):
        kharon.Router().handler(type)


@pytest.mark.parametrize(
    "function", [lambda: None, lambda _kh: None, lambda _a, _b, _c: None, lambda _kh, *, ticket: None, 3]
)
@pytest.mark.parametrize("register", [lambda router: router.handler("a"), lambda router: router.not_found])
def test_what_cannot_be_called_with_queue_and_ticket_is_refused(function, register):
    router = kharon.Router()
    with pytest.raises(kharon.InvalidSettings, match=r"must take \(kh, ticket\)"):
        register(router)(function)
    assert router.is_empty


def test_forgetting_the_type_is_refused():
    """`@router.handler` without a call registers nothing, and says so."""
    with pytest.raises(kharon.InvalidTicket, match=r"^type: .*not function"):
        kharon.Router().handler(handle)


def test_a_payload_class_that_cannot_be_decoded_is_refused():
    class Plain:
        def __init__(self, a, b):
            pass

    router = kharon.Router()
    with pytest.raises(kharon.InvalidSettings, match=r"payloads cannot be decoded as"):
        router.handler("a", payload=dict[complex, set[object]] | list[int] | tuple[str])(handle)
    with pytest.raises(kharon.InvalidSettings, match=r"payloads cannot be decoded as .*Plain"):
        router.handler("a", payload=Plain)(handle)
    assert router.is_empty


def test_a_prepared_ticket_is_the_same_but_for_its_payload():
    router = kharon.Router()
    router.handler("a", payload=list[int])(handle)
    route = router.find("a")
    ticket = Ticket("x", "a", payload=[1, 2], nice=3, tube="deep")
    given = route.prepare(ticket)
    assert given.payload == [1, 2]
    assert (given.id, given.type, given.nice, given.tube, given.claim) == ("x", "a", 3, "deep", None)
    assert isinstance(given, Ticket)
    with pytest.raises(PayloadMismatch, match=r"does not fit list.*int"):
        route.prepare(Ticket("y", "a", payload=["one"]))


def test_without_a_payload_class_the_ticket_is_given_as_it_is():
    router = kharon.Router()
    router.handler("a")(handle)
    ticket = Ticket("x", "a", payload={"any": "thing"})
    assert router.find("a").prepare(ticket) is ticket


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_handler_with_a_yield_is_refused(wrapped) -> None:
    def generator(kh, ticket):
        yield

    async def async_generator(kh, ticket):
        yield

    for function in (generator, async_generator):
        with pytest.raises(kharon.InvalidSettings, match="has a yield, so calling it would run nothing"):
            Router().handler("t")(functools.partial(function) if wrapped else function)
