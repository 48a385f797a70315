"""How hard to try: `KHARON_PROPERTY_SCALE=N` multiplies the number of examples of every property."""

import os

from hypothesis import settings

# From "default", not from what Hypothesis loads under CI: a CI that tries the same examples each night finds nothing.
settings.register_profile(
    "kharon",
    settings.get_profile("default"),
    max_examples=100 * int(os.environ.get("KHARON_PROPERTY_SCALE", "1")),
    deadline=None,
    derandomize=False,
    print_blob=True,
)
settings.load_profile("kharon")
