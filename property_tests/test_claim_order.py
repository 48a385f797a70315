"""The order of claims against a list sorted anew each time: lowest nice, then earliest runat, then first added."""

from dataclasses import dataclass, field
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from kharon.model import events as e
from kharon.model.commands import Add, Claim, Context
from kharon.model.decide import decide
from kharon.model.projection import Projection
from kharon.model.ticket import Ticket
from kharon.testing import EPOCH

TUBES = ["x", "y", "z"]

# Few values, so that equal ones are common; and the extremes, to catch overflows.
nices = st.sampled_from([-(2**31) + 1, -1, 0, 512, 512, 2**31 - 1])
offsets = st.integers(-5, 15) | st.sampled_from([-(10**8), 0.000001, 10**8])
tubes = st.sampled_from(TUBES)
adding = st.tuples(st.just("add"), nices, offsets, tubes)
claiming = st.tuples(st.just("claim"), st.lists(tubes, unique=True), st.integers(1, 4))
passing = st.tuples(st.just("pass"), st.integers(-10, 10))
moving = st.tuples(st.just("update"), st.integers(0, 20), nices, offsets, tubes)
releasing = st.tuples(st.just("release"), st.integers(0, 20))
steps = st.lists(adding | adding | claiming | passing | moving | releasing, min_size=5, max_size=60)


@dataclass
class Line:
    """The projection, and beside it a dict of (nice, runat, order, tube) by id."""

    projection: Projection = field(default_factory=Projection)
    waiting: dict[str, tuple] = field(default_factory=dict)
    claimed: dict[str, tuple] = field(default_factory=dict)
    now: float = 0

    def apply(self, *events) -> None:
        for event in events:
            self.projection.apply(event, self.projection.seq + 1, EPOCH)

    def at(self, offset: float):
        return EPOCH + timedelta(seconds=offset)

    def context(self) -> Context:
        return Context(self.at(self.now))

    def add(self, nice, offset, tube) -> None:
        id = f"t{self.projection.seq}"
        ticket = Ticket(id, "t", nice=nice, runat=self.at(self.now + offset), tube=tube)
        self.apply(*decide(None, Add(id, ticket), self.context()))
        self.waiting[id] = (nice, ticket.runat, self.projection.seq, tube)

    def update(self, number, nice, offset, tube) -> None:
        if not self.waiting:
            return
        id = list(self.waiting)[number % len(self.waiting)]
        runat = self.at(self.now + offset)
        self.apply(e.TicketUpdated(id, e.Changes(nice=nice, runat=runat, tube=tube, payload_json=Raw(b"1"))))
        self.waiting[id] = (nice, runat, self.waiting[id][2], tube)

    def release(self, number) -> None:
        if not self.claimed:
            return
        id = list(self.claimed)[number % len(self.claimed)]
        self.apply(e.TicketReleased(id))
        self.waiting[id] = self.claimed.pop(id)

    def due(self, tubes) -> list[str]:
        found = [(*key[:3], id) for id, key in self.waiting.items() if key[1] <= self.at(self.now) and key[3] in tubes]
        return [id for *_, id in sorted(found)]

    def claim(self, tubes, many) -> None:
        self.projection.promote(self.at(self.now))
        line = self.due(tubes)
        assert self.projection.ready_count(tubes) == len(line)
        for wanted in [*line, None][:many]:
            first = self.projection.first_ready(tubes)
            assert (first and first.id) == wanted
            if first:
                self.apply(*decide(first, Claim(first.id, "w"), self.context()))
                self.claimed[first.id] = self.waiting.pop(first.id)

    def run(self, step) -> None:
        verb, *arguments = step
        if verb == "pass":
            self.now += arguments[0]
        else:
            getattr(self, verb)(*arguments)


@given(steps)
@settings(max_examples=10 * settings().max_examples)
def test_claims_come_in_the_order_of_a_sorted_list(steps):
    line = Line()
    for step in steps:
        line.run(step)
    line.projection.check()
    line.claim(TUBES, len(line.waiting) + 1)
    line.now += 2 * 10**8  # everything is due in the end
    line.claim(TUBES, len(line.waiting) + 1)
    assert not line.waiting
    line.projection.check()
