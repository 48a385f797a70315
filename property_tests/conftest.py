"""The number of examples: `KHARON_PROPERTY_SCALE=N` multiplies it for every property."""

import os

from hypothesis import settings

# From "default", not the profile that Hypothesis loads under CI: the same examples each night would find nothing new.
settings.register_profile(
    "kharon",
    settings.get_profile("default"),
    max_examples=100 * int(os.environ.get("KHARON_PROPERTY_SCALE", "1")),
    deadline=None,
    derandomize=False,
    print_blob=True,
)
settings.load_profile("kharon")
