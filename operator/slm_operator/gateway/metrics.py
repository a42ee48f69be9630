"""What Prometheus reads of a gateway.

Times of answers have the names of OpenTelemetry's GenAI conventions, as Prometheus writes them
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/); what those do not have is named as vLLM names it
(https://docs.vllm.ai/en/latest/usage/metrics.html), with our own beginning, since engines' own metrics are summed too.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from slm_operator.gateway.record import Record

Loads = Callable[[], Mapping[str, tuple[int, int, int]]]
"""Service to requests in flight, waiting, and that ever came."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Buckets of whole requests, of the time to the first token and of waiting: an embedding takes milliseconds, waking a
service minutes."""
TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
"""Buckets of one token after another: the conventions', from a GPU to two cores of a CPU."""
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/api/chat": "chat",
    "/api/generate": "text_completion",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
}
"""gen_ai.operation.name of each path."""


class _Service:
    """The metrics of one service and operation, found once."""

    def __init__(self, metrics: "GatewayMetrics", model: str, operation: str) -> None:
        self.duration = metrics.duration.labels(model, operation)
        self.first = metrics.first_token.labels(model, operation)
        self.each = metrics.each_token.labels(model, operation)
        self.queued = metrics.queued.labels(model)
        self.prompt = metrics.prompt.labels(model)
        self.generation = metrics.generation.labels(model)


class GatewayMetrics(Collector):
    """All metrics of one gateway; ``observe`` is a ``record.Observer``.

    Models are named by their service, never by what clients write: a metric per spelling would fill any memory.
    """

    def __init__(self, loads: Loads, failures: Callable[[], int] = lambda: 0) -> None:
        self._loads = loads
        self._failures = failures
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)
        labels = ("gen_ai_request_model", "gen_ai_operation_name")
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds", "From a request's arrival to the last byte of its answer.",
            labels, buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds", "From a streamed request's arrival to its first token.",
            labels, buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.each_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Mean time of a stream's tokens after its first.",
            labels, buckets=TOKEN_SECONDS, registry=registry,
        )  # fmt: skip
        self.prompt = Counter(
            "slm_gateway_prompt_tokens", "Tokens of prompts.", ("gen_ai_request_model",), registry=registry
        )
        self.generation = Counter(
            "slm_gateway_generation_tokens", "Tokens of answers.", ("gen_ai_request_model",), registry=registry
        )
        self.queued = Histogram(
            "slm_gateway_request_queue_time_seconds", "From a request's arrival to its engine's having a slot for it.",
            ("gen_ai_request_model",), buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.requests = Counter(
            "slm_gateway_requests", "Requests by verdict: ok, cancelled, truncated, or why they were refused.",
            ("gen_ai_request_model", "route", "verdict", "code"), registry=registry,
        )  # fmt: skip
        self.retries = Counter(
            "slm_gateway_retries", "Engines asked again because another could not take the request.",
            ("gen_ai_request_model",), registry=registry,
        )  # fmt: skip
        self._service = lru_cache(maxsize=4096)(self._make_service)
        self._requests = lru_cache(maxsize=4096)(self.requests.labels)

    def _make_service(self, model: str, operation: str) -> _Service:
        return _Service(self, model, operation)

    def collect(self) -> list[Metric]:
        """What is read at the moment that it is asked for."""
        running = GaugeMetricFamily(
            "slm_gateway_num_requests_running", "Requests that engines work on.", labels=["gen_ai_request_model"]
        )
        waiting = GaugeMetricFamily(
            "slm_gateway_num_requests_waiting", "Requests that wait for a slot or for an engine.",
            labels=["gen_ai_request_model"],
        )  # fmt: skip
        for model, (in_flight, queued, _) in self._loads().items():
            running.add_metric([model], in_flight)
            waiting.add_metric([model], queued)
        failures = "Parts of the gateway, such as what follows services, that failed and began anew."
        return [running, waiting, CounterMetricFamily("slm_gateway_part_failures", failures, self._failures())]

    def observe(self, record: Record) -> None:
        """One request has ended."""
        service = record.service
        model = "" if service is None else service.key
        self._requests(model, record.route, record.verdict, str(record.status)).inc()
        if not record.admitted or service is None:
            return
        of = self._service(model, OPERATIONS.get(record.route, "other"))
        of.queued.observe(record.admitted - record.arrived)
        if record.attempts > 1:
            self.retries.labels(model).inc(record.attempts - 1)
        if not record.first_byte:
            return
        of.duration.observe(record.ended - record.arrived)
        of.prompt.inc(record.prompt_tokens)
        of.generation.inc(record.completion_tokens)
        if record.stream:
            of.first.observe(record.first_byte - record.arrived)
            if record.completion_tokens > 1:
                of.each.observe((record.ended - record.first_byte) / (record.completion_tokens - 1))

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
