"""Prometheus metrics: the gateway's own, and gauges of replicas and workers beside them. vLLM's names and units under
our prefix. Labels name endpoints, never keys, people or prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from backend.services.serving.monitoring.gauges import LiveGauges, ReplicaGauges, host_ratios

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
QUEUE_BUCKETS = (0.001, 0.005, *LATENCY_BUCKETS)
TOKEN_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 30)


class GatewayMetrics:
    """The metrics of one gateway process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        model = ["model"]
        self.running = Gauge("roundhouse_requests_running", "Open requests.", model, registry=registry)
        self.prompt_tokens = Counter("roundhouse_prompt_tokens", "Tokens of prompts.", model, registry=registry)
        self.generation_tokens = Counter("roundhouse_generation_tokens", "Tokens generated.", model, registry=registry)
        self.cached_tokens = Counter(
            "roundhouse_prefix_cache_hits", "Tokens of prompts found in the cache.", model, registry=registry
        )
        self.cost = Counter("roundhouse_cost_usd", "Price of the device time of requests.", model, registry=registry)
        self.success = Counter(
            "roundhouse_request_success", "Completed requests.", ["model", "finish_reason"], registry=registry
        )
        self.failed = Counter(
            "roundhouse_request_failed", "Requests answered with an error.", ["model", "code"], registry=registry
        )
        self.aborted = Counter("roundhouse_aborted", "Requests cut off, by whom.", ["model", "by"], registry=registry)
        self.retries = Counter(
            "roundhouse_upstream_retries", "Tries on another replica.", ["model", "reason"], registry=registry
        )
        self.resting = Gauge("roundhouse_breaker_open", "Replicas paused after repeated failures.", registry=registry)
        self.shadow_dropped = Gauge("roundhouse_shadow_dropped", "Copies that found the queue full.", registry=registry)
        self.ttft = Histogram(
            "roundhouse_time_to_first_token_seconds",
            "Time to first token.",
            model,
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.queue = Histogram(
            "roundhouse_request_queue_time_seconds",
            "Wait in a replica's queue.",
            model,
            buckets=QUEUE_BUCKETS,
            registry=registry,
        )
        self.inter_token = Histogram(
            "roundhouse_inter_token_latency_seconds",
            "Time between tokens.",
            model,
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self.e2e = Histogram(
            "roundhouse_e2e_request_latency_seconds",
            "Time of whole requests.",
            model,
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self.registry)


class _Counts(Collector):
    """Counters whose values were counted elsewhere; the library's own would say that they began now."""

    def __init__(self, *families: CounterMetricFamily) -> None:
        self._families = families

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the families as they are when the text is made."""
        return self._families


LABELS = ["model", "replica"]
REPLICA_GAUGES: tuple[tuple[str, str, Callable[[ReplicaGauges], float | None]], ...] = (
    ("num_requests_running", "Requests that a replica generates for.", lambda one: one.load.running),
    ("num_requests_waiting", "Requests in a replica's queue.", lambda one: one.load.waiting),
    ("generation_tokens_per_second", "Tokens a second over the last seconds.", lambda one: one.load.tokens_per_second),
    ("kv_cache_usage_ratio", "Used share of the KV cache, 0 to 1.", lambda one: one.load.cache_ratio),
    ("replica_ready", "Whether a replica answers: 1 or 0.", lambda one: one.is_ready),
    ("replica_cpu_cores", "Cores that a replica's process keeps busy.", lambda one: one.load.cpu_cores),
    ("replica_memory_bytes", "Memory of a replica's process.", lambda one: one.load.memory_bytes),
    ("replica_gpu_memory_bytes", "GPU memory of a replica's process.", lambda one: one.load.gpu_memory_bytes),
)
REPLICA_COUNTERS: tuple[tuple[str, str, Callable[[ReplicaGauges], float | None]], ...] = (
    ("spec_decode_num_draft_tokens", "Tokens that a replica's draft proposed.", lambda one: one.load.drafted_tokens),
    ("spec_decode_num_accepted_tokens", "Drafted tokens that were accepted.", lambda one: one.load.accepted_tokens),
)
HOST_RATIOS = {"cpu_ratio": "CPU", "memory_ratio": "memory", "gpu_ratio": "GPUs", "gpu_memory_ratio": "GPU memory"}


def render_live(live: LiveGauges) -> bytes:
    """Return the gauges as text. Labels name endpoints, replicas, machines, queues, never keys, people or prompts."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, labels: Sequence[str]) -> Gauge:
        return Gauge(f"roundhouse_{name}", text, labels, registry=registry)

    for name, text, value_of in REPLICA_GAUGES:
        family = gauge(name, text, LABELS)
        for replica in live.replicas:
            if (value := value_of(replica)) is not None:
                family.labels(replica.endpoint, replica.replica_id).set(value)
    counters = []
    for name, text, value_of in REPLICA_COUNTERS:
        counter = CounterMetricFamily(f"roundhouse_{name}", text, labels=LABELS)
        for replica in live.replicas:
            if (value := value_of(replica)) is not None:
                counter.add_metric((replica.endpoint, replica.replica_id), value)
        counters.append(counter)
    registry.register(_Counts(*counters))
    up = gauge("worker_up", "Whether a worker's heartbeat is fresh: 1 or 0.", ["worker"])
    hosts = {
        name: gauge(f"host_{name}", f"Used share of a machine's {label}, 0 to 1.", ["host"])
        for name, label in HOST_RATIOS.items()
    }
    for worker in live.workers:
        up.labels(worker.name).set(worker.is_alive)
        for name, ratio in host_ratios(worker.gauges).items() if worker.is_alive else ():
            hosts[name].labels(worker.host).set(ratio)
    jobs = gauge("jobs", "Open jobs.", ["queue", "status"])
    for queue, status, count in live.jobs:
        jobs.labels(queue, status).set(count)
    alerts = gauge("alerts", "Open alerts, and runs that ended in the last 10 minutes.", ["kind", "severity"])
    for kind, severity, count in live.alerts:
        alerts.labels(kind, severity).set(count)
    return generate_latest(registry)
