"""Remembers what gateways counted of canaries' steps; another process that leads hears it from them anew."""

from functools import reduce

from slm_operator.core.answers import Answers
from slm_operator.ports import ObjectKey


class CanaryAnswers:
    """One per process. A gateway tells all that it counted in a step each time, so that its last word is enough."""

    def __init__(self) -> None:
        self._told: dict[ObjectKey, dict[str, Answers]] = {}
        # By service and gateway.

    def hear(self, gateway: str, key: ObjectKey, answers: Answers) -> bool:
        """A gateway's count; whether more requests of the canary failed than were known of."""
        told = self._told.setdefault(key, {})
        before = told.get(gateway)
        told[gateway] = answers
        known = before.canary.errors if before is not None and before.step == answers.step else 0
        return answers.canary.errors > known

    def of(self, key: ObjectKey, step: str) -> Answers:
        """What all gateways counted in this step."""
        told = self._told.get(key, {}).values()
        return reduce(Answers.__add__, (each for each in told if each.step == step), Answers(step))

    def lose(self, gateway: str) -> None:
        """A gateway has ended: the step takes longer without what it counted."""
        for told in self._told.values():
            told.pop(gateway, None)
        self._told = {key: told for key, told in self._told.items() if told}

    def forget(self, key: ObjectKey) -> None:
        """The service is gone, or nothing is tried any more."""
        self._told.pop(key, None)
