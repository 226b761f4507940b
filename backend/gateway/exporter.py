"""Gauges of replicas and workers as Prometheus reads them, beside the gateway's own metrics. vLLM's names and units
under our prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from backend.services.serving.monitoring.gauges import LiveGauges, ReplicaGauges, host_ratios


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
