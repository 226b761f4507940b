"""Engines of a deployment: what an engine lacks is refused at the deployment, with the option and the cure."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from backend.db.tables import Checkpoint, Job
from backend.domain.checkpoints.export_formats import GGUF_FAMILIES
from backend.domain.serving.engines import SERVERS, places_of
from backend.domain.serving.options import DeploymentOptions
from backend.errors import InvalidInput, Unavailable
from backend.infra.engines import VARIABLES
from backend.services.context import LOCAL, Context
from backend.services.serving.adapters.changes import add_adapter
from backend.services.serving.deployments import deploy, swap_checkpoint


def add(ctx: Context, name: str, *, family: str = "llama", base: str | None = None) -> str:
    """Insert a checkpoint, or an adapter of one."""
    with ctx.db.write() as session:
        row = Checkpoint(
            name=name,
            origin="added",
            folder=f"bases/{name}",
            family=family,
            is_adapter=base is not None,
            parent_id=base,
        )
        session.add(row)
        session.flush()
        return row.id


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


def test_what_vllm_lacks_is_refused_with_the_option_and_the_cure(ctx: Context) -> None:
    tiny = add(ctx, "tiny")
    adapter, bloom = add(ctx, "small", base=tiny), add(ctx, "bloom", family="bloom")
    for checkpoint, options, field, message in (
        (tiny, {"precision": "int8"}, "precision", "serves no precision int8 here, only float32, bfloat16"),
        (bloom, {}, "engine", "family bloom; it serves llama"),
        (adapter, {}, "engine", "serves whole models, and this is an adapter"),
    ):
        with pytest.raises(InvalidInput, match=message) as caught:
            deploy(ctx, checkpoint_id=checkpoint, name="v", config={"engine": "vllm", **options}, person=LOCAL)
        assert caught.value.field == field
        assert "engine roundhouse" in str(caught.value.remedy)
    deploy(ctx, checkpoint_id=tiny, name="v", config={"engine": "vllm", "precision": "bfloat16"}, person=LOCAL)


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


def test_llama_cpp_serves_the_families_that_export_to_gguf() -> None:
    assert SERVERS["llama.cpp"].families == GGUF_FAMILIES


def test_autoscaling_counts_the_places_of_the_engine() -> None:
    assert DeploymentOptions(engine="llama.cpp", max_running=16).scaling.places == places_of("llama.cpp", 16) == 8
