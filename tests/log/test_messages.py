"""Messages to the log of the program: a user's logging that raises is passed over, except where it ends the program."""

import logging

import pytest

from kharon.log.messages import say


class Raising(logging.Filter):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def filter(self, record):
        raise self.error


@pytest.fixture
def raising():
    """`raising(error)`: from now on the logger's filter raises it."""
    logger, added = logging.getLogger("kharon"), []

    def begin(error):
        added.append(Raising(error))
        logger.addFilter(added[-1])

    yield begin
    for each in added:
        logger.removeFilter(each)


@pytest.mark.parametrize("error", [ValueError("no"), GeneratorExit()])
def test_what_a_users_logging_raises_is_passed_over(raising, error):
    raising(error)
    say(logging.WARNING, "heard by %s", "nobody")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_the_program_is_not(raising, error):
    raising(error)
    with pytest.raises(type(error)):
        say(logging.WARNING, "heard by %s", "nobody")
