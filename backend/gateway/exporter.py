"""Gauges of replicas and workers as Prometheus reads them, beside the gateway's own metrics. vLLM's names and units
under our prefix.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from backend.services.serving.monitoring.gauges import LiveGauges, host_ratios


class _Counts(Collector):
    """Counters whose values were counted elsewhere; the library's own would say that they began now."""

    def __init__(self, *families: CounterMetricFamily) -> None:
        self._families = families

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the families as they are when the text is made."""
        return self._families


def render_live(live: LiveGauges) -> bytes:
    """Return the gauges as text. Labels name endpoints, replicas, machines, queues, never keys, people or prompts."""
    registry = CollectorRegistry()
    labels = ["model", "replica"]
    running = Gauge(
        "roundhouse_num_requests_running", "Requests that a replica generates for.", labels, registry=registry
    )
    waiting = Gauge("roundhouse_num_requests_waiting", "Requests in a replica's queue.", labels, registry=registry)
    rate = Gauge(
        "roundhouse_generation_tokens_per_second", "Tokens a second over the last seconds.", labels, registry=registry
    )
    cache = Gauge("roundhouse_kv_cache_usage_ratio", "Used share of the KV cache, 0 to 1.", labels, registry=registry)
    ready = Gauge("roundhouse_replica_ready", "Whether a replica answers: 1 or 0.", labels, registry=registry)
    cores = Gauge(
        "roundhouse_replica_cpu_cores", "Cores that a replica's process keeps busy.", labels, registry=registry
    )
    memory = Gauge("roundhouse_replica_memory_bytes", "Memory of a replica's process.", labels, registry=registry)
    gpu_memory = Gauge(
        "roundhouse_replica_gpu_memory_bytes", "GPU memory of a replica's process.", labels, registry=registry
    )
    drafted = CounterMetricFamily(
        "roundhouse_spec_decode_num_draft_tokens", "Tokens that a replica's draft proposed.", labels=labels
    )
    accepted = CounterMetricFamily(
        "roundhouse_spec_decode_num_accepted_tokens", "Drafted tokens that were accepted.", labels=labels
    )
    registry.register(_Counts(drafted, accepted))
    for replica in live.replicas:
        names = (replica.endpoint, replica.replica_id)
        running.labels(*names).set(replica.load.running)
        waiting.labels(*names).set(replica.load.waiting)
        rate.labels(*names).set(replica.load.tokens_per_second)
        ready.labels(*names).set(replica.is_ready)
        if replica.load.cache_ratio is not None:
            cache.labels(*names).set(replica.load.cache_ratio)
        for gauge, value in (
            (cores, replica.load.cpu_cores),
            (memory, replica.load.memory_bytes),
            (gpu_memory, replica.load.gpu_memory_bytes),
        ):
            if value is not None:
                gauge.labels(*names).set(value)
        for counter, value in ((drafted, replica.load.drafted_tokens), (accepted, replica.load.accepted_tokens)):
            if value is not None:
                counter.add_metric(names, value)
    up = Gauge("roundhouse_worker_up", "Whether a worker's heartbeat is fresh: 1 or 0.", ["worker"], registry=registry)
    hosts = {
        name: Gauge(
            f"roundhouse_host_{name}", f"Used share of a machine's {label}, 0 to 1.", ["host"], registry=registry
        )
        for name, label in (
            ("cpu_ratio", "CPU"),
            ("memory_ratio", "memory"),
            ("gpu_ratio", "GPUs"),
            ("gpu_memory_ratio", "GPU memory"),
        )
    }
    for worker in live.workers:
        up.labels(worker.name).set(worker.is_alive)
        for name, value in host_ratios(worker.gauges).items() if worker.is_alive else ():
            hosts[name].labels(worker.host).set(value)
    jobs = Gauge("roundhouse_jobs", "Open jobs.", ["queue", "status"], registry=registry)
    for queue, status, count in live.jobs:
        jobs.labels(queue, status).set(count)
    alerts = Gauge(
        "roundhouse_alerts",
        "Open alerts, and runs that ended in the last 10 minutes.",
        ["kind", "severity"],
        registry=registry,
    )
    for kind, severity, count in live.alerts:
        alerts.labels(kind, severity).set(count)
    return generate_latest(registry)
