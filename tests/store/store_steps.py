"""What the tests of the store share: how a call ended, and how slow a disk is."""

import kharon


async def outcome_of(call, *args, **kwargs):
    """What a call returned, or the error of Kharon's that it raised."""
    try:
        return await call(*args, **kwargs)
    except kharon.KharonError as error:
        return error


class Fast:
    """The pace of a disk that is fast whatever is measured."""

    slow = False

    def add(self, seconds: float) -> None:
        pass


class Slow(Fast):
    """The pace of a disk that is slow whatever is measured."""

    slow = True
