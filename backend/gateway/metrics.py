"""Prometheus metrics: vLLM's names and units under our prefix. Labels name endpoints, never keys, people or prompts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
