"""What Prometheus reads: how the operator does, and how its objects do."""

import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector

from slm_operator.ports import ObjectKey

DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Buckets of work durations, seconds."""
RESOURCE = re.compile(r"/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/([a-z]+)(?:/[^/]+(?:/([a-z]+))?)?")
"""Resource and subresource in the path of a request."""


def resource_of(path: str) -> str:
    """``deployments`` or ``quantjobs/status``: the label of a request, of which there are only a few."""
    found = RESOURCE.fullmatch(path)
    return "/".join(part for part in found.groups() if part) if found else "other"


class Metrics:
    """All metrics of one process; a ``ports.Observer``."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._depth = Gauge("slm_operator_queue_depth", "Objects that wait for being looked at.", registry=registry)
        self._seconds = Histogram(
            "slm_operator_work_seconds",
            "Time of one look at one object.",
            ["kind"],
            buckets=DURATIONS,
            registry=registry,
        )
        self._looks = Counter(
            "slm_operator_reconciles", "Looks at objects: by result, and by the Ready reason they ended in.",
            ["kind", "result", "reason"], registry=registry,
        )  # fmt: skip
        self._requests = Counter(
            "slm_operator_api_requests", "Requests to the API server, watches left out; code 0 is no answer.",
            ["verb", "resource", "code"], registry=registry,
        )  # fmt: skip
        self._leading = Gauge("slm_operator_leading", "1 while this replica holds the Lease.", registry=registry)
        self._objects = Gauge(
            "slm_operator_objects", "Objects by their Ready condition.", ["kind", "ready", "reason"], registry=registry
        )
        self._judged: dict[ObjectKey, tuple[str, str]] = {}

    def waiting(self, count: int) -> None:
        """How many keys wait or are worked on."""
        self._depth.set(count)

    def looked(self, key: ObjectKey, seconds: float, result: str) -> None:
        """One look at an object ended: ``ok`` or an exception's name."""
        self._seconds.labels(key.kind).observe(seconds)
        self._looks.labels(key.kind, result, self._judged.get(key, ("", ""))[1]).inc()

    def judged(self, key: ObjectKey, ready: str, reason: str) -> None:
        """Status and reason of an object's Ready condition."""
        self.gone(key)
        self._judged[key] = (ready, reason)
        self._objects.labels(key.kind, ready, reason).inc()

    def gone(self, key: ObjectKey) -> None:
        """The object is not there (any more)."""
        if key in self._judged:
            self._objects.labels(key.kind, *self._judged.pop(key)).dec()

    def led(self, *, leads: bool) -> None:
        """Whether this replica holds the Lease; what it knew of objects counts only while it does."""
        self._leading.set(leads)
        self._depth.set(0)
        for key in list(self._judged):
            self.gone(key)

    def count_request(self, verb: str, path: str, status: int) -> None:
        """One request to the API server; status 0: no answer."""
        self._requests.labels(verb, resource_of(path), str(status)).inc()

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
