"""The API server's time of day, learned from its answers.

What planners compare was stamped on the cluster: when a Job ended, when an object was deleted. A machine whose own
clock is an hour ahead would take each step that just ended for one that was lost an hour ago, and run it again.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

RESOLUTION = timedelta(seconds=1)
"""Of the ``Date`` of an HTTP answer, which is cut off and not rounded."""


def read_system_clock() -> datetime:
    """The time of day as the machine tells it, UTC."""
    return datetime.now(UTC)


class ServerClock:
    """A ``ports.Clock``: this machine's, put right as far as the answers show it to be wrong."""

    def __init__(self, own: Callable[[], datetime] = read_system_clock) -> None:
        self.own = own
        """What this machine takes for the time of day."""
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """The current time, UTC."""
        return self.own() + self._ahead

    def hear(self, date: str, asked: datetime) -> None:
        """Learn from the ``Date`` of an answer that came just now, and from our own time of the request.

        The server wrote the date at some moment in between, so it bounds how far it may be ahead of us. What is known
        already is only changed when it is out of these bounds: a slow answer moves no clock.
        """
        try:
            told = parsedate_to_datetime(date).astimezone(UTC)
        except ValueError:
            return
        least, most = told - self.own(), told + RESOLUTION - asked
        self._ahead = min(max(self._ahead, least), most)
