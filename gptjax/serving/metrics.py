"""What the server counts, for Prometheus. Names are vLLM's, with our prefix, so that dashboards fit."""

import time
from collections.abc import Callable, Iterator

import jax
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from gptjax.decoding.engine import Ended, Event, Failed, Read, Said

CONTENT_TYPE = CONTENT_TYPE_LATEST
COMPILED = "/jax/core/compile/backend_compile_duration"  # what JAX tells of each program, from a cache or not
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """`running`, `waiting`: say how many requests are decoded, and wait. `slots`: how many can be decoded at once."""

    def __init__(self, *, running: Callable[[], int], waiting: Callable[[], int], slots: Callable[[], int]):
        self._registry = registry = CollectorRegistry()

        def gauge(name: str, what: str, value: Callable[[], int]) -> None:
            Gauge(f"gptjax_{name}", what, registry=registry).set_function(value)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"gptjax_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"gptjax_{name}", what, buckets=buckets, registry=registry)

        gauge("num_requests_running", "Requests that are decoded", running)
        gauge("num_requests_waiting", "Requests that wait for a slot", waiting)
        gauge("slots", "Requests that can be decoded at once", slots)
        self.rejected = counter("requests_rejected", "Requests that were refused", "reason")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts")
        self.cached_tokens = counter("prompt_tokens_cached", "Tokens of prompts that had been read for an earlier one")
        self.generation_tokens = counter("generation_tokens", "Tokens that were drawn")
        self.requests = counter("requests", "Requests that ended", "finish_reason")
        self.disconnects = counter("client_disconnects", "Requests whose reader left before the end")
        self.queue_time = histogram("request_queue_time_seconds", "From a request's arrival to its slot")
        self.first_token = histogram("time_to_first_token_seconds", "From a request's arrival to its first token")
        self.inter_token = histogram("inter_token_latency_seconds", "From a token to the next", TOKEN_SECONDS)
        self.latency = histogram("e2e_request_latency_seconds", "From a request's arrival to its end")
        self._compilations = _Compilations()
        registry.register(self._compilations)
        ProcessCollector(registry=registry)

    @property
    def compiled(self) -> int:
        """Programs, since these metrics began."""
        return self._compilations.count

    def page(self) -> bytes:
        """What /metrics answers, of type CONTENT_TYPE."""
        return generate_latest(self._registry)


class Timing:
    """What one request adds to the metrics, from its arrival on."""

    def __init__(self, metrics: Metrics, prompt_tokens: int):
        self._metrics, self._prompt_tokens = metrics, prompt_tokens
        self._arrived = time.perf_counter()
        self._last_token: float | None = None

    def seated(self) -> None:
        self._metrics.queue_time.observe(time.perf_counter() - self._arrived)

    def heard(self, event: Event) -> None:
        metrics, now = self._metrics, time.perf_counter()
        match event:
            case Read():
                metrics.prompt_tokens.inc(self._prompt_tokens)
                metrics.cached_tokens.inc(event.cached)
            case Said():
                metrics.generation_tokens.inc(len(event.tokens))
                if self._last_token is None:
                    metrics.first_token.observe(now - self._arrived)
                else:
                    metrics.inter_token.observe(now - self._last_token)
                self._last_token = now
            case Ended() | Failed():
                metrics.requests.labels(event.reason if isinstance(event, Ended) else "error").inc()
                metrics.latency.observe(now - self._arrived)


class _Compilations(Collector):
    """How many programs JAX has made since: it must not move once the server is ready."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.count += event == COMPILED

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily("gptjax_compilations", "Programs that were compiled", value=self.count)
