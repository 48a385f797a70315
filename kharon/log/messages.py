"""Messages to the log of the program: `say`, which never raises, whatever the user's logging does.

Every part of Kharon that tells the operator something uses it. It does not know the log of the queue.
"""

from __future__ import annotations

import logging

__all__ = ["say"]

_logger = logging.getLogger("kharon")


def say(level: int, message: str, *args: object, exc_info: BaseException | None = None) -> None:
    """Log a message. A user's handler or filter that raises is passed over, whatever the class of its exception.

    In a system task such an exception would end the whole run. In a commit group, the leader would get it instead of
    the outcome of the commit. In a worker it would end `run` for a message about one attempt. Only SystemExit and
    KeyboardInterrupt pass.
    """
    try:
        _logger.log(level, message, *args, exc_info=exc_info, stacklevel=2)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:  # noqa: BLE001, S110 - there is no other place to tell of it
        pass
