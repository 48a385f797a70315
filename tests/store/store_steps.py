"""What the tests of the store share: how a call ended, and a disk that is slow."""

import kharon


async def outcome_of(call, *args, **kwargs):
    """What a call returned, or the error of Kharon's that it raised."""
    try:
        return await call(*args, **kwargs)
    except kharon.KharonError as error:
        return error


class Slow:
    """The pace of a disk that is slow whatever is measured."""

    slow = True

    def add(self, seconds: float) -> None:
        pass
