"""The operator's time of day is the API server's, whatever its own machine believes."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from slm_operator.adapters.server_clock import ServerClock

TRUE = datetime(2026, 5, 1, 12, 0, 0, 700_000, tzinfo=UTC)


class Machine:
    """A machine whose clock is wrong by ``wrong``, and an API server whose clock is right."""

    def __init__(self, wrong: timedelta) -> None:
        self.true = TRUE
        self.wrong = wrong
        self.clock = ServerClock(lambda: self.true + self.wrong)

    def ask(self, before: float = 0.0, after: float = 0.0) -> None:
        """One request: seconds until the server answers, and until the answer is here."""
        asked = self.clock.own()
        self.true += timedelta(seconds=before)
        date = format_datetime(self.true.replace(microsecond=0), usegmt=True)
        self.true += timedelta(seconds=after)
        self.clock.hear(date, asked)

    def error(self) -> float:
        """Seconds by which its idea of the server's time is wrong."""
        return abs((self.clock.now() - self.true).total_seconds())


def test_a_clock_that_is_wrong_is_put_right() -> None:
    for hours in (-5, -1, 1, 5):
        machine = Machine(timedelta(hours=hours))
        machine.ask(before=0.01, after=0.01)
        assert machine.error() <= 1.02


def test_a_clock_that_is_right_stays_however_slow_the_answers_are() -> None:
    machine = Machine(timedelta(0))
    for before, after in ((0.0, 0.0), (20.0, 0.0), (0.0, 20.0), (3.0, 7.0)):
        machine.ask(before, after)
        assert machine.error() == 0.0


def test_a_clock_that_is_set_meanwhile_is_followed() -> None:
    machine = Machine(timedelta(hours=1))
    machine.ask()
    machine.wrong = timedelta(minutes=-3)
    machine.ask()
    assert machine.error() <= 1.0


def test_an_answer_without_a_date_teaches_nothing() -> None:
    machine = Machine(timedelta(hours=1))
    for date in ("", "yesterday"):
        machine.clock.hear(date, machine.clock.own())
        assert machine.clock.now() == machine.clock.own()
