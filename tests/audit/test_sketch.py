"""Sketches put together: the same as one sketch of everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kharon.audit.measure import Sketch

durations = st.lists(st.floats(0, 1e6) | st.just(0.0), max_size=30)


def sketch_of(seconds):
    sketch = Sketch()
    for one in seconds:
        sketch.add(one)
    return sketch


@given(durations, durations)
def test_merged_sketches_are_one_of_everything(some, more):
    merged, whole, other = sketch_of(some), sketch_of(some + more), sketch_of(more)
    merged.merge(other)
    assert (merged.count, merged.longest) == (whole.count, whole.longest)
    assert abs(merged.total - whole.total) <= 1e-9 * whole.total
    assert [merged.percentile(share) for share in range(0, 101, 5)] == [
        whole.percentile(share) for share in range(0, 101, 5)
    ]
    merged.add(1.0)
    assert other.count == len(more)  # it lends nothing
