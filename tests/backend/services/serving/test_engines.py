"""Engines of a deployment: what an engine lacks is refused at the deployment, with the option and the cure."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint, Deployment, Job, Replica
from backend.domain.checkpoints.export_formats import GGUF_FAMILIES
from backend.domain.jobs.gauges import MachineGauges, ReplicaReport
from backend.domain.jobs.results import CheckpointFacts
from backend.domain.serving.canary import CanaryRules
from backend.domain.serving.deployment import DeploymentOptions
from backend.domain.serving.engines import SERVERS, places_of
from backend.errors import InvalidInput, Unavailable
from backend.infra.engines import VARIABLES
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_next
from backend.services.jobs.workers import beat
from backend.services.serving.adapters import add_adapter
from backend.services.serving.canaries import start_canary
from backend.services.serving.deployments import deploy, swap_checkpoint
from tests.support.scenario import add_row


def add(ctx: Context, name: str, *, family: str = "llama", base: str | None = None) -> str:
    """Insert a checkpoint, or an adapter of one."""
    return add_row(
        ctx,
        Checkpoint(
            name=name,
            origin="added",
            folder=f"bases/{name}",
            family=family,
            is_adapter=base is not None,
            parent_id=base,
        ),
    )


def _newest(session: Session) -> str:
    return str(session.scalars(select(Deployment.id).order_by(Deployment.created_at.desc()).limit(1)).one())


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, sys.executable)


def deploy_llama(ctx: Context, checkpoint_id: str, **options: Any) -> None:
    deploy(ctx, checkpoint_id=checkpoint_id, name="tales", config={"engine": "llama.cpp", **options}, person=LOCAL)


def test_the_replicas_job_gets_the_engine(ctx: Context) -> None:
    deploy_llama(ctx, add(ctx, "tiny"))
    with ctx.db.read() as session:
        (job,) = session.query(Job)
        assert job.payload["engine"] == "llama.cpp"


def test_what_llama_cpp_lacks_is_refused_with_the_option_and_the_cure(ctx: Context) -> None:
    tiny, mamba = add(ctx, "tiny"), add(ctx, "mamba", family="mamba")
    for checkpoint, options, field, message in (
        (tiny, {"precision": "int8"}, "precision", "serves no precision int8 here"),
        (mamba, {}, "engine", "family mamba; it serves llama"),
    ):
        with pytest.raises(InvalidInput, match=message) as caught:
            deploy_llama(ctx, checkpoint, **options)
        assert caught.value.field == field
        assert "engine roundhouse" in str(caught.value.remedy)


def test_llama_cpp_serves_the_gguf_file_of_a_base_of_any_family(ctx: Context) -> None:
    phi = add(ctx, "phi", family="phi3")
    with ctx.db.write() as session:
        session.get_one(Checkpoint, phi).facts = CheckpointFacts(quantisation="Q4_K_M", bits_per_weight=4.9)
    deploy_llama(ctx, phi)
    with pytest.raises(InvalidInput, match="engine vllm can't serve a model of the family phi3"):
        deploy(ctx, checkpoint_id=phi, name="v", config={"engine": "vllm"}, person=LOCAL)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_what_an_engine_for_gpus_lacks_is_refused_with_the_option_and_the_cure(ctx: Context, engine: str) -> None:
    tiny = add(ctx, "tiny")
    adapter, bloom = add(ctx, "small", base=tiny), add(ctx, "bloom", family="bloom")
    for checkpoint, options, field, message in (
        (tiny, {"precision": "int8"}, "precision", "serves no precision int8 here, only float32, bfloat16"),
        (bloom, {}, "engine", "family bloom; it serves llama"),
        (adapter, {}, "engine", "serves whole models, and this is an adapter"),
    ):
        with pytest.raises(InvalidInput, match=message) as caught:
            deploy(ctx, checkpoint_id=checkpoint, name="v", config={"engine": engine, **options}, person=LOCAL)
        assert caught.value.field == field
        assert "engine roundhouse" in str(caught.value.remedy)
    deploy(ctx, checkpoint_id=tiny, name="v", config={"engine": engine, "precision": "bfloat16"}, person=LOCAL)


@pytest.mark.parametrize(
    ("engine", "config", "is_refused"),
    [
        ("sglang", {"model_type": "qwen3", "sliding_window": 64, "use_sliding_window": True}, True),
        ("sglang", {"model_type": "qwen3", "sliding_window": 64, "use_sliding_window": False}, False),
        ("vllm", {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]}, True),
        ("vllm", {"model_type": "mistral", "sliding_window": 64}, False),
        ("llama.cpp", {"model_type": "mistral", "sliding_window": 64}, True),
        ("llama.cpp", {"model_type": "mistral", "sliding_window": 256, "max_position_embeddings": 256}, False),
    ],
)
def test_an_engine_is_refused_a_sliding_window_that_it_does_not_heed(
    ctx: Context, engine: str, config: dict[str, object], is_refused: bool
) -> None:
    checkpoint = add(ctx, "tiny", family=str(config["model_type"]))
    folder = ctx.artifacts.root / "bases" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if not is_refused:
        deploy(ctx, checkpoint_id=checkpoint, name="v", config={"engine": engine}, person=LOCAL)
        return
    with pytest.raises(InvalidInput, match=f"{engine} does not heed the sliding window") as caught:
        deploy(ctx, checkpoint_id=checkpoint, name="v", config={"engine": engine}, person=LOCAL)
    assert (caught.value.field, caught.value.remedy) == ("engine", "Deploy it with engine roundhouse.")


def test_an_endpoint_with_adapters_keeps_its_engine_and_one_of_llama_cpp_gets_none(ctx: Context) -> None:
    base = add(ctx, "tiny")
    adapter = add(ctx, "small", base=base)
    deploy_llama(ctx, base)
    with pytest.raises(InvalidInput, match=r"llama.cpp has no adapters"):
        add_adapter(ctx, "tales", "style", checkpoint_id=adapter, person=LOCAL)
    deploy(ctx, checkpoint_id=base, name="tales", config={}, person=LOCAL)
    add_adapter(ctx, "tales", "style", checkpoint_id=adapter, person=LOCAL)
    with pytest.raises(InvalidInput, match=r"llama.cpp has no adapters"):
        deploy_llama(ctx, base)


def test_a_canary_may_be_the_same_checkpoint_by_another_engine(ctx: Context) -> None:
    tiny = add(ctx, "tiny")
    deploy(ctx, checkpoint_id=tiny, name="tales", config={"threads": 2}, person=LOCAL)
    start_canary(ctx, "tales", checkpoint_id=tiny, rules=CanaryRules(percent=50), engine="vllm", person=LOCAL)
    with ctx.db.read() as session:
        payloads = [job.payload for job in session.query(Job).order_by(Job.created_at)]
    assert [(payload.get("engine", "auto"), payload["threads"]) for payload in payloads] == [("auto", 2), ("vllm", 2)]
    with pytest.raises(InvalidInput, match="can't serve a model of the family mamba"):
        start_canary(
            ctx,
            "tales",
            checkpoint_id=add(ctx, "mamba", family="mamba"),
            rules=CanaryRules(),
            engine="llama.cpp",
            person=LOCAL,
        )


def test_another_checkpoint_must_fit_the_engine_too(ctx: Context) -> None:
    deploy_llama(ctx, add(ctx, "tiny"))
    mamba = add(ctx, "mamba", family="mamba")
    with pytest.raises(InvalidInput, match="family mamba"):
        swap_checkpoint(ctx, "tales", checkpoint_id=mamba, person=LOCAL)


def test_an_engine_that_is_not_installed_is_refused_with_the_command(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable)
    monkeypatch.setattr("backend.infra.engines.find_spec", lambda _: None)
    with pytest.raises(Unavailable) as caught:
        deploy_llama(ctx, add(ctx, "tiny"))
    assert "pip install 'roundhouse[llama-cpp]'" in str(caught.value.remedy)


def serving_worker(ctx: Context, *, engines: tuple[str, ...], name: str = "w") -> None:
    """Report a living worker of replicas with these engines."""
    gauges = MachineGauges(cpu_count=2, engines=engines)
    beat(ctx, name=name, host=name, pid=1, slots={"serve": 1}, devices=[], gauges=gauges)


def test_a_deployment_asks_the_living_workers_for_the_engine_and_not_the_pages_machine(
    any_ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable)
    monkeypatch.setattr("backend.infra.engines.find_spec", lambda _: None)
    tiny = add(any_ctx, "tiny")
    serving_worker(any_ctx, engines=("llama.cpp",))
    with pytest.raises(Unavailable, match="No worker that serves can start engine vllm") as caught:
        deploy(any_ctx, checkpoint_id=tiny, name="v", config={"engine": "vllm"}, person=LOCAL)
    assert "ROUNDHOUSE_VLLM" in str(caught.value.remedy)
    serving_worker(any_ctx, engines=("vllm",), name="other")
    deploy(any_ctx, checkpoint_id=tiny, name="v", config={"engine": "vllm"}, person=LOCAL)


def test_a_replica_is_claimed_by_a_worker_that_has_its_engine(any_ctx: Context) -> None:
    tiny = add(any_ctx, "tiny")
    deploy(any_ctx, checkpoint_id=tiny, name="theirs", config={"engine": "vllm"}, person=LOCAL)
    deploy(any_ctx, checkpoint_id=tiny, name="ours", config={}, person=LOCAL)
    plain = claim_next(any_ctx, "serve", owner="a", host="a", engines=())
    assert plain is not None
    assert plain.payload["name"] == "ours"
    assert claim_next(any_ctx, "serve", owner="a", host="a", engines=("llama.cpp",)) is None
    able = claim_next(any_ctx, "serve", owner="b", host="b", engines=("vllm",))
    assert able is not None
    assert able.payload["name"] == "theirs"


def test_an_automatic_engine_serves_adapters_by_roundhouses_own(ctx: Context) -> None:
    """One that has chosen vLLM is asked for none, as its replicas could not answer."""
    base = add(ctx, "tiny")
    adapter = add(ctx, "small", base=base)
    deploy(ctx, checkpoint_id=base, name="tales", config={}, person=LOCAL)
    add_adapter(ctx, "tales", "style", checkpoint_id=adapter, person=LOCAL)
    deploy(ctx, checkpoint_id=base, name="tales", config={"threads": 2}, person=LOCAL)
    with ctx.db.read() as session:
        engines = [job.payload["engine"] for job in session.query(Job) if job.payload.get("threads") == 2]
    assert engines == ["roundhouse"]
    deploy(ctx, checkpoint_id=base, name="others", config={}, person=LOCAL)
    with ctx.db.write() as session:
        replica = session.query(Replica).filter(Replica.deployment_id == _newest(session)).one()
        replica.status, replica.gauges = "ready", ReplicaReport(engine="vllm")
    with pytest.raises(InvalidInput, match="vllm has no adapters"):
        add_adapter(ctx, "others", "style", checkpoint_id=adapter, person=LOCAL)


def test_more_gpus_than_one_are_vllms(ctx: Context) -> None:
    tiny = add(ctx, "tiny")
    for engine in ("auto", "roundhouse", "llama.cpp"):
        with pytest.raises(InvalidInput, match=f"engine {engine} serves on one GPU, not on 2") as caught:
            deploy(ctx, checkpoint_id=tiny, name="v", config={"engine": engine, "gpus": 2}, person=LOCAL)
        assert caught.value.field == "gpus"
    deploy(ctx, checkpoint_id=tiny, name="v", config={"engine": "vllm", "gpus": 2}, person=LOCAL)
    assert claim_next(ctx, "serve", owner="a", host="a", devices=("0",)) is None
    claim = claim_next(ctx, "serve", owner="b", host="b", devices=("0", "1"))
    assert claim is not None
    assert claim.device == "0,1"


def test_llama_cpp_serves_the_families_that_export_to_gguf() -> None:
    assert SERVERS["llama.cpp"].families == GGUF_FAMILIES


def test_autoscaling_counts_the_places_of_the_engine() -> None:
    assert DeploymentOptions(engine="llama.cpp", max_running=16).scaling.places == places_of("llama.cpp", 16) == 8
