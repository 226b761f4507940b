"""What Prometheus reads, and that the rules and the dashboard in `deploy/` ask for names that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from backend.domain.jobs.gauges import GpuGauges, MachineGauges, ReplicaLoad
from backend.gateway.metrics import GatewayMetrics, render_live
from backend.services.jobs.workers import WorkerView
from backend.services.serving.monitoring.gauges import LiveGauges, ReplicaGauges
from backend.settings import PROJECT

NOW = datetime(2026, 11, 27, tzinfo=UTC)
GPU = GpuGauges(index="0", name="g", memory_used_bytes=1, memory_total_bytes=4, utilisation_percent=50.0)
MACHINE = MachineGauges(cpu_percent=25.0, memory_used_bytes=1, memory_total_bytes=2, gpus=(GPU,))
LIVE = LiveGauges(
    (
        ReplicaGauges(
            *("e", "tales", "r1", True),
            load=ReplicaLoad(
                running=3,
                waiting=1,
                tokens_per_second=40.0,
                cache_ratio=0.5,
                cpu_cores=0.9,
                memory_bytes=500_000_000,
                gpu_memory_bytes=1_000_000_000,
                drafted_tokens=200,
                accepted_tokens=150,
            ),
        ),
    ),
    (WorkerView("lab/train", "lab", 1, ("train",), 1, (), MACHINE, NOW, NOW, True, ()),),
    (("train", "queued", 2),),
    (("disk", "critical", 1),),
)


def test_gauges_of_replicas_workers_and_queues_are_rendered_in_ratios() -> None:
    text = render_live(LIVE).decode()
    assert 'roundhouse_num_requests_waiting{model="tales",replica="r1"} 1.0' in text
    assert 'roundhouse_kv_cache_usage_ratio{model="tales",replica="r1"} 0.5' in text
    assert 'roundhouse_host_gpu_memory_ratio{host="lab"} 0.25' in text
    assert 'roundhouse_replica_memory_bytes{model="tales",replica="r1"} 5e+08' in text
    assert 'roundhouse_spec_decode_num_draft_tokens_total{model="tales",replica="r1"} 200.0' in text
    assert 'roundhouse_spec_decode_num_accepted_tokens_total{model="tales",replica="r1"} 150.0' in text
    assert 'roundhouse_alerts{kind="disk",severity="critical"} 1.0' in text
    assert 'roundhouse_jobs{queue="train",status="queued"} 2.0' in text


def test_rules_and_dashboard_name_metrics_that_are_exported() -> None:
    text = GatewayMetrics().render().decode() + render_live(LIVE).decode()
    families = list(text_string_to_metric_families(text))
    exported = {family.name + end for family in families for end in ("", "_total", "_bucket", "_count", "_sum")}
    rules = yaml.safe_load((PROJECT / "deploy" / "prometheus-rules.yml").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    dashboard = json.loads((PROJECT / "deploy" / "grafana" / "roundhouse.json").read_text())
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 30
    named = {name for expression in expressions for name in re.findall(r"(?<!:)\broundhouse_\w+", expression)}
    assert {name for name in named if f":{name}:" not in " ".join(expressions)} - exported == set()
    assert all(rule["labels"]["severity"] in {"warning", "critical"} for rule in rules["groups"][1]["rules"])
    assert all(text.count("(") == text.count(")") for text in expressions)
    kinds = set(re.findall(r'kind="(\w+)"', " ".join(expressions)))
    assert kinds == {"budget", "disk", "run_ended", "run_diverged"}


def test_prometheus_takes_the_rules_and_the_config() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, of Debian's package prometheus, is not installed")
    for arguments in (
        ["check", "rules", "prometheus-rules.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ):
        checked = subprocess.run([promtool, *arguments], cwd=PROJECT / "deploy", capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
